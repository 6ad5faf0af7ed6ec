"""Checkpoints come back bit for bit; damage, or a crash while one is written, costs the newest at most."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dtrain.errors import CheckpointError
from dtrain.files import open_regular, read_regular, write_atomically
from dtrain.train import checkpoint

VALUES = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "a/bias": np.zeros(3, np.float16),
    "flags": np.array([True, False, True]),
    "step": np.array(7, np.int64),
    "empty": np.empty((0, 3)),
    "transposed": np.arange(12, dtype=np.uint8).reshape(3, 4).T,
}
OLDER, ABOUT = {**VALUES, "step": np.array(6, np.int64)}, {"progress": [1, 0.1, float("inf")], "é": None}
ROOT = Path(__file__).parents[2]


def files(run: Path) -> list[str]:
    return sorted(os.listdir(run / checkpoint.FOLDER))


def assert_equal(found: Any, values: Any) -> None:
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, strict=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 6 and 7."""
    checkpoint.save(tmp_path, 6, OLDER, ABOUT)
    checkpoint.save(tmp_path, 7, VALUES, ABOUT)
    return tmp_path


# -- what is written -------------------------------------------------------------------------------------
def test_the_newest_comes_back(run: Path) -> None:
    found = checkpoint.load(run)
    assert found.step == 7 and found.damaged == []
    assert_equal(found.values, VALUES)
    assert {name: found.manifest[name] for name in ABOUT} == ABOUT
    assert_equal(checkpoint.load(run, step=6).values, OLDER)
    assert files(run) == [f"step-0000000{n}.{kind}" for n in (6, 7) for kind in ("json", "safetensors")]


def test_the_values_are_a_safetensors_file(run: Path) -> None:
    assert_equal(load_file(run / checkpoint.FOLDER / "step-00000007.safetensors"), VALUES)


def test_the_same_values_have_the_same_digest(run: Path) -> None:
    digest = checkpoint.load(run).manifest["sha256"]
    checkpoint.save(run, 8, dict(reversed(VALUES.items())), {})
    assert checkpoint.load(run).manifest["sha256"] == digest
    assert checkpoint.load(run, step=6).manifest["sha256"] != digest


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 8):
        checkpoint.save(tmp_path, step, {"v": np.array(step)}, {})
        checkpoint.prune(tmp_path, step, keep=2, best=3 if step > 2 else 0)
        assert checkpoint.steps(tmp_path) == sorted(
            {*range(max(1, step - 1), step + 1), *({3} if step > 2 else ())}
        )
    (tmp_path / checkpoint.FOLDER / "notes.txt").write_text("mine")
    (tmp_path / checkpoint.FOLDER / ".step-00000009.safetensors.tmp").write_text("half")
    (tmp_path / checkpoint.FOLDER / "step-00000005.safetensors").write_text("without a manifest")
    checkpoint.prune(tmp_path, 6, keep=1, best=3)  # the run went on from 5: there is no 7
    assert files(tmp_path) == [
        "notes.txt",
        *(f"step-0000000{n}.{k}" for n in (3, 6) for k in ("json", "safetensors")),
    ]


def test_only_what_fits_is_read(run: Path) -> None:
    seen = {}

    def choose(manifest: dict[str, Any], specs: Any) -> list[str]:
        seen.update(specs)
        return ["a/kernel"]

    assert list(checkpoint.load(run, choose).values) == ["a/kernel"]
    assert seen["a/kernel"] == "float32(2, 3)" and seen["step"] == "int64()" and seen["flags"] == "bool(3,)"


def test_without_a_checkpoint_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint: give the run directory"):
        checkpoint.load(tmp_path)


# -- damage ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda data, manifest: manifest.unlink(), "was not written to its end"),
        (lambda data, manifest: data.unlink(), "step-00000007.safetensors is missing"),
        (lambda data, manifest: manifest.write_text("[1, 2]"), "does not have its digest"),
        (lambda data, manifest: manifest.write_text("{"), "cannot be read"),
        (lambda data, manifest: manifest.write_text("[" * 100_000), "cannot be read"),
        (lambda data, manifest: manifest.write_bytes(b"\0" * 9_000_000), "holds more than 8,388,608 bytes"),
        (lambda data, manifest: data.write_bytes(b"\xff" * 100), "its header would have"),
        (lambda data, manifest: data.write_bytes(b""), "cannot be read"),
        (lambda data, manifest: save_file({"a": np.ones(2)}, data), "a value has no digest"),
        (lambda data, manifest: _link(data), "cannot be read"),
        (lambda data, manifest: _link(manifest), "cannot be read"),
        (lambda data, manifest: _pipe(manifest), "cannot be read: it is no regular file"),
        (
            lambda data, manifest: manifest.write_bytes(_other(manifest).read_bytes()),
            "is the manifest of step 6",
        ),
        (
            lambda data, manifest: data.write_bytes(_other(data).read_bytes()),
            "are not those of step-00000007.json",
        ),
    ],
)
def test_a_damaged_newest_is_passed_over_and_told(
    run: Path, break_it: Callable[..., Any], words: str
) -> None:
    folder = run / checkpoint.FOLDER
    break_it(folder / "step-00000007.safetensors", folder / "step-00000007.json")
    found = checkpoint.load(run)
    assert found.step == 6
    assert_equal(found.values, OLDER)
    (told,) = found.damaged
    assert words in told


def _other(path: Path) -> Path:
    return path.with_name(path.name.replace("7", "6"))


def _link(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_where_none_can_be_used_each_is_told(run: Path) -> None:
    for path in (run / checkpoint.FOLDER).glob("*.json"):
        path.write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint that can be used: .*00007\.json is.*00006\.json is"
    ):
        checkpoint.load(run)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_500_mutations_are_refused_or_without_effect(
    run: Path, suffix: str, mutations: Callable[..., Any]
) -> None:
    path = run / checkpoint.FOLDER / f"step-00000007.{suffix}"
    before = {name: (run / checkpoint.FOLDER / name).read_bytes() for name in files(run)}
    refused = 0
    tracemalloc.start()
    for kind, data in mutations(path.read_bytes(), 500):
        path.write_bytes(data)
        found = checkpoint.load(run)
        if found.step == 7:
            assert found.damaged == []
            assert_equal(found.values, VALUES)
            assert {name: found.manifest[name] for name in ABOUT} == ABOUT
        else:
            refused += 1
            assert len(found.damaged) == 1 and str(path) in found.damaged[0], kind
            assert_equal(found.values, OLDER)
        assert path.read_bytes() == data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.write_bytes(before[path.name])
    assert {name: (run / checkpoint.FOLDER / name).read_bytes() for name in files(run)} == before
    assert refused > 400
    assert peak < 1 << 20, "no size that a file says is believed"


def test_what_is_larger_than_the_model_is_not_read(run: Path) -> None:
    """A forger may make all digests right: 8 GB of zeros that lie nowhere."""
    data = run / checkpoint.FOLDER / "step-00000007.safetensors"
    header: dict[str, Any] = {"__metadata__": {"a/kernel": "0" * 64}}
    header["a/kernel"] = {"dtype": "F32", "shape": [2_000_000_000], "data_offsets": [0, 8_000_000_000]}
    text = json.dumps(header).encode()
    data.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(data, 8 + len(text) + 8_000_000_000)
    digest = checkpoint.digest_of_all(header["__metadata__"])
    manifest = {**ABOUT, "format": checkpoint.FORMAT, "step": 7, "sha256": digest}
    manifest["manifest_sha256"] = checkpoint.digest_of_all(manifest)
    (run / checkpoint.FOLDER / "step-00000007.json").write_text(json.dumps(manifest))

    def choose(manifest: dict[str, Any], specs: Any) -> list[str]:
        raise CheckpointError(f"it is {specs['a/kernel']}")

    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"float32\(2000000000,\)"):
        checkpoint.load(run, choose)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_link_in_place_of_the_folder_is_neither_read_nor_written(run: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (run / checkpoint.FOLDER).rename(elsewhere / "moved")
    (run / checkpoint.FOLDER).symlink_to(elsewhere / "moved")
    with pytest.raises(CheckpointError, match="is a link, which is not followed"):
        checkpoint.load(run)
    with pytest.raises(CheckpointError, match="is a link"):
        checkpoint.save(run, 8, VALUES, {})
    assert len(list((elsewhere / "moved").iterdir())) == 4


# -- writing that ends half way --------------------------------------------------------------------------
def test_a_crash_at_any_call_leaves_a_checkpoint() -> None:
    """os._exit at each open, write, flush, fsync, rename, unlink and mkdir of a second checkpoint."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "faults" / "crash_points.py"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost" in done.stdout


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_write_that_fails_leaves_the_old(run: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(run)
    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match=r"step 8 cannot be saved.*No space left.*--resume"):
        checkpoint.save(run, 8, VALUES, ABOUT)
    monkeypatch.undo()
    assert [name for name in files(run) if "8" not in name] == before
    assert checkpoint.load(run).step == 7


def test_a_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        for step in range(1, 20):
            try:
                checkpoint.save(tmp_path, step, {"v": np.full(20_000, step, np.float32)}, {})
            except CheckpointError as error:
                assert "No space left on device" in str(error)
                break
        assert step == 4, "three of 80 kB fit"
        assert checkpoint.load(tmp_path).values["v"][0] == 3
        checkpoint.prune(tmp_path, 3, keep=2)
        checkpoint.save(tmp_path, step, {"v": np.full(20_000, step, np.float32)}, {})
        assert checkpoint.load(tmp_path).values["v"][0] == 4
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# -- files -----------------------------------------------------------------------------------------------
def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "mine").symlink_to("theirs")
    (tmp_path / ".mine.tmp").symlink_to("theirs")
    write_atomically(tmp_path / "mine", b"ab", b"c")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "mine").is_symlink() and (tmp_path / "mine").read_text() == "abc"
    assert sorted(os.listdir(tmp_path)) == ["mine", "theirs"]


def test_what_is_read_is_regular_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("abc")
    assert read_regular(tmp_path / "f", 3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_regular(tmp_path / "f", 2)
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(OSError):
            open_regular(tmp_path / name)
