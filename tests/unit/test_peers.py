"""benchmarks/peers: its arithmetic, and the contenders that need nothing but NumPy."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("peers", PEERS / "__main__.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = module  # where dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["peers"]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that a network can learn: the row of a bright block says the class."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part, count in (("train", 1003), ("test", 101)):
        labels = random.integers(0, 10, count, np.int32)
        images = random.integers(0, 60, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 6, 4:24] += 150
        np.save(folder / f"{part}_images.npy", images.reshape(count, -1))
        np.save(folder / f"{part}_labels.npy", labels)
    return folder


def contend(variant: str, data: Path, *more: str) -> list[dict[str, Any]]:
    options = [f"--data={data}", "--batch=20", "--epochs=3", "--threads=1", *more]
    command = [sys.executable, str(PEERS / "with_numpy.py"), variant, *options]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, done.stdout.splitlines()))


def test_numpy_by_hand_learns(blocks: Path) -> None:
    first, *epochs, test = contend("step", blocks, "--check")
    assert first["event"] == "first step" and [e["event"] for e in epochs] == ["epoch"] * 3
    assert epochs[-1]["loss"] < 0.2 and all(e["seconds"] > 0 for e in epochs)
    assert test["event"] == "test" and test["accuracy"] > 0.97


def test_the_products_alone_are_timed_alike(blocks: Path) -> None:
    assert [e["event"] for e in contend("matmul", blocks)] == ["first step", *["epoch"] * 3]


def test_bars(peers: ModuleType) -> None:
    def measured(*seconds: float, memory: float = 100) -> Any:
        return peers.Measured(seconds=list(seconds), memory=[memory])

    of = {
        "dtrain-1": measured(0.9, 1.0, 5.0),
        "dtrain-2": measured(0.5, memory=230),
        "torch-eager-1": measured(3.0),
        "matmuls-1": measured(0.5),
        "jax-scan-2": measured(0.6),
    }
    rows = {row[0]: row[1:] for row in peers.bars(100, of)}
    assert rows["1 rank: times as fast as PyTorch eager, 1 thread"] == ["3.00", ">= 3", "met"]
    assert rows["1 rank: epoch over that of its matrix products"] == ["2.00", "<= 1.4", "MISSED"]
    assert rows["2 ranks: times as fast as 1 rank"] == ["2.00", ">= 1.6", "met"]
    assert rows["2 ranks: peak memory a rank"] == ["230 MB", "<= 220 MB", "MISSED"]
    assert not any("DDP" in what for what in rows)  # it did not take part
    best = {row[0]: row[1:] for row in peers.bars(1000, of)}["2 ranks: times as fast as the best peer"]
    assert best == ["1.20", ">= 1", "met"]  # the products alone are no peer


def test_the_clock_from_outside(peers: ModuleType) -> None:
    """Two lines of an epoch of 1.2 s, 500 of its 600 steps apart, seen 1.1 s apart where 1.0 is claimed."""
    lines = [
        {"event": "iteration", "epoch": 1, "iteration": i, "seen": s} for i, s in ((100, 5.0), (600, 6.1))
    ]
    events = [*lines, {"event": "epoch", "epoch": 1, "seconds": 1.2}]
    assert peers._by_this_clock(events) == pytest.approx(1.1)


def test_every_contender_has_its_script(peers: ModuleType) -> None:
    for c in peers.CONTENDERS.values():
        if c.framework != "dtrain":
            assert f'"{c.variant}"' in (PEERS / f"with_{c.framework}.py").read_text()


def test_results_of_one_day_stay(peers: ModuleType, tmp_path: Path) -> None:
    tables = [[["a", "b"], ["1", "2"]]]
    paths = [peers.write_results(tmp_path, {"command": "x"}, tables, {"measured": i}) for i in (1, 2)]
    assert paths[0] != paths[1] and "| 1 | 2 |" in paths[0].read_text()
    assert json.loads(paths[1].with_suffix(".json").read_text())["measured"] == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["--python", "troch=x"], "--python troch=x"), (["--only", "torhc"], "--only torhc: there is no such")],
)
def test_mistakes(
    peers: ModuleType, argv: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", *argv])
    with pytest.raises(SystemExit):
        peers.parse()
    assert words in capsys.readouterr().err
