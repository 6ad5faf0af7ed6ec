"""The store that every set becomes, `dtrain data import` and `show`, and the same set on every rank."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import FORMATS, NEEDS, TEST, TRAIN, Made

from dtrain.cli import main
from dtrain.comm import launcher
from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.data import load, pool, store
from dtrain.data.draw import drawn
from dtrain.data.importing import import_set
from dtrain.data.readers import find, source
from dtrain.data.readers.source import Label
from dtrain.data.store import MANIFEST, Manifest, Store
from dtrain.errors import DataError, DtrainError, UsageError

alone = SingleCommunicator()
OnThreads = Callable[..., list[Any]]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "pools"
    folder.mkdir()
    monkeypatch.setattr(pool, "root", lambda: folder)
    return folder


@pytest.fixture(params=FORMATS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return FORMATS[request.param](tmp_path)


@pytest.fixture
def series(tmp_path: Path) -> Made:
    return FORMATS["npz"](tmp_path)


# -- the format ----------------------------------------------------------------------------------------------
def test_an_import_is_what_the_source_is(made: Made, tmp_path: Path) -> None:
    direct = load(made.dataset, alone, made.label)
    found = import_set(made.dataset, tmp_path / "store", made.label)
    assert sorted(os.listdir(tmp_path / "store")) == [MANIFEST, "x.bin", "y.bin"]
    again = load(str(tmp_path / "store"), alone)
    assert found.damage() == "" and not found.x.flags.writeable
    for other in (direct, again):
        np.testing.assert_array_equal(other.x, made.x.astype(other.x.dtype))
        np.testing.assert_array_equal(other.y, made.y.astype(other.y.dtype))
        assert (other.kind, other.digest) == (made.kind, found.manifest.digest)
        assert len(other.train) == TRAIN and len(other.test) == made.parts.get("test", 0)
    assert direct.name == again.name and direct.classes == again.classes == tuple(made.classes)
    for a, b in ((direct.mean, again.mean), (direct.deviation, again.deviation)):
        assert (a is None and b is None) or np.array_equal(a, b)


def test_rows_lie_flat(series: Made, tmp_path: Path) -> None:
    """As the docstring of store.py says, so that any program can read them."""
    import_set(series.dataset, tmp_path / "store")
    x = np.fromfile(tmp_path / "store" / "x.bin", "<f4").reshape(-1, 128, 9)
    np.testing.assert_array_equal(x, series.x.astype(np.float32))
    said = json.loads((tmp_path / "store" / MANIFEST).read_text())
    assert said["columns"] == {"x": ["float32", [128, 9]], "y": ["uint8", []]}
    assert said["parts"] == {"train": TRAIN, "test": TEST} and said["kind"] == "classes"
    data = (tmp_path / "store" / "x.bin").read_bytes()
    assert said["sums"]["x"] == [zlib.crc32(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20)]


@pytest.mark.parametrize("piece", [7, 100, 1 << 20])
def test_checksums_do_not_depend_on_how_it_was_read(
    piece: int, series: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PIECE", 5_000)
    whole = import_set(series.dataset, tmp_path / "a")
    monkeypatch.setattr(source, "PIECE", piece * 1000)
    parts = import_set(series.dataset, tmp_path / "b")
    assert whole.manifest.sums == parts.manifest.sums and len(whole.manifest.sums["x"]) == 75
    assert whole.manifest.digest == parts.manifest.digest
    np.testing.assert_allclose(whole.manifest.moments["x"].mean, parts.manifest.moments["x"].mean, rtol=1e-9)
    assert parts.damage() == parts.damage(2, 3) == ""


@pytest.mark.parametrize("column", ["x", "y"])
def test_a_flipped_bit_is_named_by_file_and_examples(column: str, series: Made, tmp_path: Path) -> None:
    import_set(series.dataset, tmp_path / "store")
    file = tmp_path / "store" / f"{column}.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(DataError, match=f"{column}.bin: is damaged in examples 0 to 80, counted from 0"):
        load(str(tmp_path / "store"), alone)
    assert main(["data", "show", str(tmp_path / "store"), "--check"]) == 4


def test_a_large_store_is_checked_when_that_is_asked_for(
    series: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_set(series.dataset, tmp_path / "store")
    monkeypatch.setattr(pool, "CHECKED", 1000)
    file = tmp_path / "store" / "x.bin"
    data = bytearray(file.read_bytes())
    data[9] ^= 4
    file.write_bytes(data)
    assert load(str(tmp_path / "store"), alone).name == "series"
    assert "examples 0 to 80" in Store.open(tmp_path / "store").damage()
    file.write_bytes(data[:-1])  # the size is compared at every start
    with pytest.raises(DataError, match=r"x.bin: is 373,247 bytes long, expected 373,248"):
        load(str(tmp_path / "store"), alone)


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "more rows": lambda said: said["parts"].update(train=1 << 40),
    "fewer rows": lambda said: said["parts"].update(train=7),
    "negative": lambda said: said["parts"].update(train=-1),
    "another part": lambda said: said["parts"].update(more=3),
    "no examples": lambda said: said.update(parts={"test": 81}),
    "another dtype": lambda said: said["columns"].update(x=["object", [128, 9]]),
    "a wider dtype": lambda said: said["columns"].update(x=["float64", [128, 9]]),
    "another shape": lambda said: said["columns"].update(x=["float32", [128, 10**12]]),
    "nothing of a row": lambda said: said["columns"].update(x=["float32", [0]]),
    "a path": lambda said: said["columns"].update({"../x": ["uint8", []]}),
    "another kind": lambda said: said.update(kind="numbers"),
    "no classes": lambda said: said.update(classes=[]),
    "classes that are no names": lambda said: said.update(classes=[1, 2, 3, 4, 5, 6]),
    "a mean that is none": lambda said: said["moments"]["x"].__setitem__(0, [float("nan")] * 9),
    "too few means": lambda said: said["moments"]["x"].__setitem__(0, [0.5]),
    "no checksums": lambda said: said["sums"].update(x=[]),
    "no such field": lambda said: said.pop("digest"),
    "one more field": lambda said: said.update(evil=1),
    "another format": lambda said: said.update(format=2),
    "not a dict": lambda said: said.update(columns=[1, 2]),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_is_refused(name: str, series: Made, tmp_path: Path) -> None:
    """Whoever forges one may forge its checksum."""
    import_set(series.dataset, tmp_path / "store")
    at = tmp_path / "store" / MANIFEST
    said = json.loads(at.read_text())
    said.pop("crc")
    FORGED[name](said)
    body = json.dumps(said)
    at.write_text(f'{body[:-1]}, "crc": {zlib.crc32(body.encode())}}}\n')
    with pytest.raises(DataError, match=r"manifest.json: is damaged|bin: is .* bytes long"):
        load(str(tmp_path / "store"), alone)


def test_a_manifest_has_a_checksum(series: Made, tmp_path: Path) -> None:
    import_set(series.dataset, tmp_path / "store")
    at = tmp_path / "store" / MANIFEST
    text = at.read_text()
    assert Manifest.of(text.encode()).text() == text
    for bad in (text.replace('"train": 60', '"train": 59'), text[:-9], "", "{}", "\xff", '{"crc": 1}'):
        at.write_text(bad)
        with pytest.raises(DataError, match=r"manifest.json: is damaged"):
            load(str(tmp_path / "store"), alone)


# -- writing -------------------------------------------------------------------------------------------------
def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"pools"}


@pytest.mark.parametrize("where", ["first", "last"])
def test_nothing_is_left_of_an_import_that_fails(
    where: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["1,2"] * 2_000
    rows[0 if where == "first" else -1] = "nan,2"
    (tmp_path / "t.csv").write_text("\n".join(["a,y", *rows]))
    monkeypatch.setattr(source, "PIECE", 1000)
    said = ["data", "import", str(tmp_path / "t.csv"), "--label", "y", "--to", str(tmp_path / "store")]
    assert main(said) == 4
    with pytest.raises(DataError, match=f"line {2 if where == 'first' else 2_001}, column 'a'"):
        load(str(tmp_path / "t.csv"), alone, "y")
    assert left(tmp_path) == {"t.csv"} and not list(cache.iterdir())


def test_a_full_disk_is_a_sentence(series: Made, tmp_path: Path, cache: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(DataError, match=r"store: cannot be written \(.*\): nothing was left there"):
            import_set(series.dataset, tmp_path / "store")
        found = load(series.dataset, alone)  # in memory then
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(tmp_path) == {"series.npz"} and not list(cache.iterdir())
    np.testing.assert_array_equal(found.x, series.x.astype(np.float32))


def test_a_set_too_large_for_memory_needs_room_on_the_disk(
    series: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, examples: object, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    monkeypatch.setattr(pool, "MOST_IN_MEMORY", 1000)
    with pytest.raises(DataError, match=r"pools: cannot be written \(the disk is full\)"):
        load(series.dataset, alone)


def test_where_an_import_may_go(series: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    for to in (tmp_path / "full", tmp_path / "full" / "a"):
        with pytest.raises(UsageError, match="is there already"):
            import_set(series.dataset, to)
    with pytest.raises(UsageError, match="there is no folder"):
        import_set(series.dataset, tmp_path / "no" / "such")
    (tmp_path / "empty").mkdir()
    assert import_set(series.dataset, tmp_path / "empty").manifest.name == "series"
    with pytest.raises(UsageError, match="is a store"):
        import_set(str(tmp_path / "empty"), tmp_path / "again")
    assert main(["data", "import", series.dataset]) == 2
    assert "--to" in capsys.readouterr().err


@pytest.mark.parametrize("validation", ["0.1", "7"])
def test_an_import_sets_the_same_examples_aside_as_training(
    validation: str, series: Made, tmp_path: Path
) -> None:
    import_set(series.dataset, tmp_path / "store", validation=validation)
    stored = load(str(tmp_path / "store"), alone)
    direct = load(series.dataset, alone, validation=validation)
    held = {"0.1": 6, "7": 7}[validation]
    assert (len(stored.train), len(stored.validation), len(stored.test)) == (TRAIN - held, held, TEST)
    for part in ("train", "validation", "test"):
        for of in ("x", "y"):
            a, b = (getattr(d, of)[d.part(part)[:]] for d in (stored, direct))
            np.testing.assert_array_equal(a, b)
    for bad in ("0", "60", "-3", "x", "nan", "1e999"):
        with pytest.raises(UsageError, match=f"--validation {bad}"):
            import_set(series.dataset, tmp_path / "no", validation=bad)


# -- ranks ---------------------------------------------------------------------------------------------------
def test_every_rank_has_the_same(made: Made, on_threads: OnThreads) -> None:
    digests = {load(made.dataset, alone, made.label).digest}
    for size in (2, 3):
        for found in on_threads(size, lambda comm: load(made.dataset, comm, made.label)):
            digests.add(found.digest)
            np.testing.assert_array_equal(found.x, made.x.astype(found.x.dtype))
    assert len(digests) == 1


def test_what_is_wrong_every_rank_says(tmp_path: Path, on_threads: OnThreads) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\nnan,3\n")
    for label, kind in (("y", DataError), ("z", UsageError), ("", UsageError)):
        said = on_threads(3, lambda comm, label=label: _refusal(comm, str(tmp_path / "t.csv"), label))
        assert len({str(error) for error in said}) == 1 and all(type(error) is kind for error in said)


def _refusal(comm: Communicator, dataset: str, label: str = "") -> DtrainError:
    with pytest.raises(DtrainError) as caught:
        load(dataset, comm, label)
    return caught.value


def test_folders_of_classes_that_differ_between_nodes(tmp_path: Path, on_threads: OnThreads) -> None:
    image = pytest.importorskip("PIL.Image")
    for node, names in enumerate((("cat", "dog"), ("cat", "cow"))):
        for name in names:
            (tmp_path / f"n{node}" / name).mkdir(parents=True)
            image.new("L", (4, 4), 7).save(tmp_path / f"n{node}" / name / "1.png")
    for error in on_threads(2, lambda comm: _refusal(comm, str(tmp_path / f"n{comm.rank}")), 2):
        assert type(error) is DataError and "rank 1 on n1 reads other data there than rank 0" in str(error)


def test_a_store_of_one_node_that_is_damaged(series: Made, tmp_path: Path, on_threads: OnThreads) -> None:
    for node in range(2):
        import_set(series.dataset, tmp_path / f"n{node}")
    os.truncate(tmp_path / "n1" / "y.bin", 80)
    for error in on_threads(2, lambda comm: _refusal(comm, str(tmp_path / f"n{comm.rank}")), 2):
        assert "rank 1 on n1" in str(error) and "y.bin: is 80 bytes long, expected 81" in str(error)


# -- what is shown -------------------------------------------------------------------------------------------
SHOWN = {
    "idx": ("idxFalse: 60 to train on, 21 to test on", "uint8 [28, 28]", "3 classes", "0: 0"),
    "npz": ("series: ", "float32 [128, 9]", "6 classes", "and 5 more"),
    "npy": ("60 to train on, none to test on", "float32 [5]", "numbers, float32"),
    "csv": ("houses: ", "float32 [4]", "numbers, float32, -7.58867 to 9.12266"),
    "tags.csv": ("tags: ", "3 labels, of which several may hold", "green", "0: blue"),
    "parquet": ("iris: ", "3 classes", "versicolor", "20"),
    "images": ("pets: ", "uint8 [8, 12, 3]", "bird", "cat"),
    "cifar": ("cifar: ", "uint8 [32, 32, 3]", "airplane"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_in_a_set_is_shown(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    made = FORMATS[name](tmp_path)
    said = ["data", "show", made.dataset, "--check", *(["--label", made.label] if made.label else [])]
    assert main(said) == 0
    out = capsys.readouterr().out
    for word in (*SHOWN[name], f"from   {made.dataset}", "bytes are as they were written"):
        assert word in out, out
    assert max(len(line) for line in out.splitlines() if "from" not in line) <= 110 and "\x1b" not in out


def test_what_is_drawn() -> None:
    x = np.zeros((5, 4), np.uint8)
    x[:2], x[4] = 255, 100
    assert drawn(x) == ["@@@@", "    ", "...."]
    assert drawn(x, colour=True)[0] == "\x1b[38;2;255;255;255;48;2;255;255;255m▀" * 4 + "\x1b[0m"
    assert drawn(x[:, :, None].repeat(3, 2)) == drawn(x) and drawn(x.T) != drawn(x)
    assert drawn(np.zeros((200, 100), np.uint8)) == [" " * 15] * 15
    ramp = np.arange(9, dtype=np.float32)
    assert drawn(ramp) == ["▁▂▃▄▅▅▆▇█  0 to 8"] and drawn(ramp, blocks=False)[0].isascii()
    assert drawn(ramp[:3]) == ["0 1 2"] and drawn(np.ones(20, np.float32)) == ["▁" * 20 + "  1 to 1"]


def test_labels_are_said_again(tmp_path: Path) -> None:
    assert Label.of("a, b:numbers") == Label(("a", "b"), "numbers")
    assert Label.of("time:stamp") == Label(("time:stamp",), "") and Label.of(":labels") == Label((), "labels")


def iterated(found: Any) -> Iterator[np.ndarray]:
    yield from (x for x, _ in found.rows())


def test_memory_does_not_grow_with_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 MB of numbers, imported and held back from in less than 3, in pieces of 64 kB."""
    import tracemalloc

    monkeypatch.setattr(source, "PIECE", 1 << 16)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (20_000, 100))
    np.save(tmp_path / "y.npy", np.zeros(20_000, np.uint8))
    x.flush()
    del x
    tracemalloc.start()
    found = find(f"{tmp_path}/x.npy,{tmp_path}/y.npy")
    found.look(Label())
    assert sum(len(piece) for piece in iterated(found)) == 20_000
    import_set(f"{tmp_path}/x.npy,{tmp_path}/y.npy", tmp_path / "store", validation="0.1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


# -- damage --------------------------------------------------------------------------------------------------
def campaign() -> Any:
    """tests/faults/formats.py."""
    path = Path(__file__).parents[1] / "faults" / "formats.py"
    spec = importlib.util.spec_from_file_location("formats", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", [*FORMATS, "store"])
def test_a_sample_of_the_campaign(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    assert campaign().run(name, 30) == 0, capsys.readouterr().out


def test_one_rank_imports_and_shows(
    series: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "rank", lambda: 1)
    assert main(["data", "import", series.dataset, "--to", str(tmp_path / "store")]) == 0
    assert main(["data", "show", series.dataset]) == 0
    assert capsys.readouterr().out == "" and left(tmp_path) == {"series.npz"}


def test_an_import_that_is_interrupted_leaves_nothing(
    series: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_set(series.dataset, tmp_path / "store")
    assert left(tmp_path) == {"series.npz"}


KILLED = """
import os, signal, sys
from pathlib import Path
from dtrain.data.importing import import_set
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
import_set(sys.argv[1], Path(sys.argv[2]))
"""


def test_what_a_killed_import_left_is_removed_by_the_next(
    series: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        arguments = [sys.executable, "-c", KILLED, series.dataset, str(tmp_path / "store")]
        assert subprocess.run(arguments).returncode == -signal.SIGKILL
        (part,) = left(tmp_path) - {"series.npz"}
    own = tmp_path / ".store.part"  # of somebody else
    own.mkdir()
    begins, others = (tmp_path / f".{name}.{'0' * 16}.part" for name in ("store", "other"))
    for folder in (begins, others):
        folder.mkdir()
        (folder / "x.bin").write_bytes(b"")
    import_set(series.dataset, tmp_path / "store")
    assert left(tmp_path) == {"series.npz", "store", own.name, begins.name, others.name}
    said = capsys.readouterr().err
    assert said == f"dtrain: removed {tmp_path / part}, which an import left that was killed\n"
    monkeypatch.setattr(store, "BEGINS", 0)
    with open(begins / "x.bin", "r+b") as file:  # its writer lives
        assert store._locked(file)
        store._remove_left(tmp_path / "store")
        assert begins.exists()
    store._remove_left(tmp_path / "store")
    assert not begins.exists() and others.exists() and own.exists()
