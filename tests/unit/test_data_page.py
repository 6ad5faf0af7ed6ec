"""Every command of docs/data.md, as it stands there; those that train are the same on 1, 2 and 3 ranks."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import FORMATS, write_idx

from dtrain import cli
from dtrain.config import resolve
from dtrain.data import pool
from dtrain.task import trainer

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
COMMANDS = [
    line.removeprefix("dtrain ")
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
    for line in block.splitlines()
]
SHORT = {"epochs": "2", "batch_size": "20"}
NEEDS = {"parquet": "pyarrow", "pets": "PIL"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page speaks of, small."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("npz", "npy", "tags.csv"):
        FORMATS[name](folder)
    rng = np.random.default_rng(0)
    rooms, age = rng.normal(size=(2, 70))
    lines = [f"{a:.6f},{3 * a - b:.6f},{b:.6f}" for a, b in zip(rooms, age, strict=True)]
    (folder / "houses.csv").write_text("\n".join(["rooms,price,age", *lines]))
    wine = [f"{a:.6f};{b:.6f};{5 + round(a)}" for a, b in zip(rooms, age, strict=True)]
    (folder / "wine.csv").write_text("\n".join(["acid;sugar;quality", *wine]))
    labels = rng.integers(0, 10, 60).astype(np.uint8)
    labels[0] = 9
    images = rng.integers(0, 60, (60, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6] += 150
    write_idx(folder / "fashion", images, labels, train=40)
    for name in ("parquet", "images"):
        try:
            FORMATS[name](folder)
        except ImportError:
            pass
    return folder


@pytest.fixture
def page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pool, "root", lambda: tmp_path / "pools")
    (tmp_path / "pools").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_page_is_read() -> None:
    assert len(COMMANDS) == 12 and sum(command.startswith("train") for command in COMMANDS) == 9


def epochs(run: Path) -> list[dict[str, float]]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    other = ("event", "time", "seconds", "images_per_second", "communication_fraction")
    return [{k: v for k, v in e.items() if k not in other} for e in events if e["event"] == "epoch"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page(
    command: str, page: Path, tmp_path: Path, on_threads: Callable[..., list[Any]]
) -> None:
    for word, module in NEEDS.items():
        if word in command:
            pytest.importorskip(module)
    action, *words = shlex.split(command)
    if action == "data":
        if "import" in words:
            shutil.rmtree(page / "series", ignore_errors=True)
        elif words[1] == "series":
            cli.main(shlex.split(next(c for c in COMMANDS if " import " in c)))
        assert cli.main([action, *words]) == 0
        return
    if words[1] == "series" and not (page / "series").exists():
        assert cli.main(shlex.split(next(c for c in COMMANDS if " import " in c))) == 0
    flags = {a.removeprefix("--").replace("-", "_"): b for a, b in zip(words[::2], words[1::2], strict=True)}
    run = tmp_path / "run-1"
    short = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]
    assert cli.main([action, *words, *short, "--no-tensorboard", "--run-dir", str(run)]) == 0
    alone = epochs(run)
    assert len(alone) == 2 and alone[1]["loss"] < alone[0]["loss"]
    for ranks in (2, 3):
        to = tmp_path / f"run-{ranks}"
        config = resolve(flags | SHORT | {"run_dir": str(to), "tensorboard": "off"}, {})
        on_threads(ranks, lambda comm, config=config: trainer.train(config, comm))
        for a, b in zip(alone, epochs(to), strict=True):
            assert b == {k: pytest.approx(v, rel=1e-4, abs=1e-6) for k, v in a.items()}
