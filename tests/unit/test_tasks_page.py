"""Every task of docs/tasks.md, as it stands there: it learns, and is the same on 1, 2 and 3 ranks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtrain.comm import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.task import trainer

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
FILES = {text.split(":")[0][2:]: text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)}


def epochs(run: Path) -> list[dict[str, float]]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    other = ("event", "time", "seconds", "images_per_second", "communication_fraction")
    return [{k: v for k, v in e.items() if k not in other} for e in events if e["event"] == "epoch"]


def test_the_page_is_read() -> None:
    assert [*FILES] == ["price.py", "churn.py", "kinds.py", "tags.py", "visits.py", "gan.py"]


@pytest.mark.parametrize("name", FILES)
def test_a_task_of_the_page(name: str, tmp_path: Path, on_threads: Callable[..., list[Any]]) -> None:
    (tmp_path / name).write_text(FILES[name])

    def config(ranks: int) -> TrainConfig:
        return TrainConfig(
            task=str(tmp_path / name), epochs=3, tensorboard="off", run_dir=str(tmp_path / f"run-{ranks}")
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
