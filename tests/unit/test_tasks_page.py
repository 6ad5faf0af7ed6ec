"""Every task of examples/tasks, which docs/tasks.md shows: it learns, and is the same on 1, 2 and 3 ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtrain.comm import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.task import trainer

ROOT = Path(__file__).parents[2]
TASKS = sorted(path.name for path in (ROOT / "examples" / "tasks").glob("*.py"))


def epochs(run: Path) -> list[dict[str, float]]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    other = ("event", "time", "seconds", "images_per_second", "communication_fraction")
    return [{k: v for k, v in e.items() if k not in other} for e in events if e["event"] == "epoch"]


def test_the_page_shows_all_tasks() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text()
    assert len(TASKS) == 6 and all(f"# examples/tasks/{name}" in page for name in TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_of_the_page(name: str, tmp_path: Path, on_threads: Callable[..., list[Any]]) -> None:
    def config(ranks: int) -> TrainConfig:
        return TrainConfig(
            task=str(ROOT / "examples" / "tasks" / name),
            epochs=3,
            tensorboard="off",
            run_dir=str(tmp_path / f"run-{ranks}"),
        )

    trainer.train(config(1), SingleCommunicator())
    alone = epochs(tmp_path / "run-1")
    assert len(alone) == 3
    if name == "gan.py":  # neither wins; the sum of the two is the loss
        assert all(e["loss"] == pytest.approx(e["critic_loss"] + e["generator_loss"]) for e in alone)
        assert alone[-1]["critic_loss"] < alone[0]["critic_loss"]
    else:
        assert alone[-1]["loss"] < alone[0]["loss"] and alone[-1]["test_loss"] < alone[0]["test_loss"]
    for ranks in (2, 3):
        on_threads(ranks, lambda comm, ranks=ranks: trainer.train(config(ranks), comm))
        for a, b in zip(alone, epochs(tmp_path / f"run-{ranks}"), strict=True):
            assert b == {k: pytest.approx(v, rel=1e-4) for k, v in a.items()}
