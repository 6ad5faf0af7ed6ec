"""--validation, --early-stop and --best: what chooses, and what is only looked at in the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dtrain.cli import main
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.data import order
from dtrain.data.dataset import Part
from dtrain.errors import CheckpointError, UsageError
from dtrain.report import page
from dtrain.report.runs import read
from dtrain.task import network, trainer
from dtrain.train import checkpoint

alone = SingleCommunicator()


@pytest.fixture
def config(noise: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model="logistic",
        dataset=str(noise),
        validation="20",
        epochs=3,
        batch_size=10,
        run_dir=str(tmp_path / "run"),
    )


def events(run: str, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    timed = ("time", "seconds", "images_per_second", "communication_fraction")
    return [{k: v for k, v in e.items() if k not in timed} for e in lines if e["event"] == kind]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which parts of the data were looked at, one entry a test."""
    seen: list[str] = []
    real = network.evaluate

    def evaluate(session: Any, net: Any, part: Part, *more: Any) -> dict[str, float]:
        names = ("validation", "test")
        seen.append(next(n for n in names if part == net.data.part(n)))
        return real(session, net, part, *more)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    return seen


def test_the_test_set_is_used_once_and_the_report_says_which_is_which(
    config: TrainConfig, looked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.train(config, alone)
    assert looked == ["validation"] * 3 + ["test"]
    out = capsys.readouterr().out
    assert "83 training, 20 validation and 61 test examples" in out
    assert "uint8 [28, 28], from 0 to 1; 10 classes; sparse categorical crossentropy, accuracy" in out
    assert out.count("  validation accuracy ") == 3 and out.count("test accuracy") == 1
    (done,) = events(config.run_dir, "done")
    found = events(config.run_dir, "epoch")
    assert all("validation_loss" in e and "test_loss" not in e for e in found)
    assert done["validation_loss"] == found[-1]["validation_loss"] and "test_accuracy" in done
    run = read(Path(config.run_dir))
    assert run.mistakes is not None and run.mistakes.part == "test"
    assert sum(map(sum, run.mistakes.confusion)) == 61
    text = page.page([run])
    assert "validation accuracy" in text and '<span class="line"></span>validation</span>' in text


def test_without_validation_nothing_is_held_back(config: TrainConfig, looked: list[str]) -> None:
    trainer.train(replace(config, validation=""), alone)
    assert looked == ["test"] * 3
    assert events(config.run_dir, "header")[0]["iterations_per_epoch"] == 11
    assert all("test_loss" in e and "validation_loss" not in e for e in events(config.run_dir, "epoch"))
    assert checkpoint.load(Path(config.run_dir)).manifest["progress"]["best_step"] == 0


def test_the_best_is_that_of_validation_or_refused(
    config: TrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.train(replace(config, validation="", run_dir=config.run_dir + "-plain"), alone)
    assert main(["eval", config.run_dir + "-plain", "--best"]) == 2
    assert "is not chosen by the test set: train with --validation 0.1" in capsys.readouterr().err
    scores = iter([(1.0, 0.5), (2.0, 0.9), (3.0, 0.1), (9.0, 0.99)])  # the last of the test
    real = trainer.evaluate
    monkeypatch.setattr(
        trainer, "evaluate", lambda *args: dict(zip(("loss", "accuracy"), next(scores), strict=True))
    )
    monkeypatch.setattr(trainer.Mistakes, "save", lambda *args: None)
    trainer.train(replace(config, keep=1), alone)
    assert checkpoint.steps(Path(config.run_dir)) == [18, 27], "the best by validation, and the newest"
    monkeypatch.setattr(trainer, "evaluate", real)
    capsys.readouterr()
    assert main(["eval", config.run_dir, "--best", "--log-format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["epoch"], said["test_examples"]) == (2, 61)


def test_another_set_is_tested_on(
    config: TrainConfig, noise: Path, small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.train(replace(config, validation=str(small_set)), alone)
    header = events(config.run_dir, "header")[0]
    assert (header["examples"], header["validation_examples"]) == (103, 1104)
    capsys.readouterr()
    assert main(["eval", config.run_dir, "--dataset", str(small_set)]) == 0
    assert "on 101 examples of blocks" in capsys.readouterr().out


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("blocks", [False, True])
def test_an_early_stop_comes_where_it_comes_after_a_resume(
    config: TrainConfig,
    ranks: int,
    blocks: bool,
    on_threads: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On noise the loss of a validation soon rises; kill -9 behind any step changes no bit of the end."""
    if blocks:
        for name, value in (("WHOLE_ROWS", 50), ("BLOCK_ROWS", 8), ("LEAST_BLOCKS", 3), ("MOST_BLOCKS", 3)):
            monkeypatch.setattr(order, name, value)
    config = replace(config, epochs=40, lr=0.05, early_stop=2, checkpoint_every=4, keep=999)
    run = Path(config.run_dir)
    on_threads(ranks, lambda comm: trainer.train(config, comm))
    found, (done,) = events(config.run_dir, "epoch"), events(config.run_dir, "done")
    losses = [e["validation_loss"] for e in found]
    assert 3 <= len(losses) < 40 and done["early"] == 2
    assert min(losses) == losses[-3] and read(run).done["test_accuracy"] == done["test_accuracy"]
    end = checkpoint.load(run)
    steps = checkpoint.steps(run)
    for step in (steps[0], steps[len(steps) // 2], steps[-2], steps[-1]):
        other = run.with_name(f"from-{step}")
        shutil.copytree(run, other)
        for later in (s for s in steps if s > step):
            for path in checkpoint._paths(other, later):
                path.unlink()
        again = replace(config, run_dir=str(other), resume=str(other))
        on_threads(ranks, lambda comm, again=again: trainer.train(again, comm))
        assert checkpoint.load(other).manifest["sha256"] == end.manifest["sha256"]
        assert events(str(other), "epoch") == found
        assert events(str(other), "done")[0] == {**done, "run_dir": str(other)}


def test_a_run_goes_on_with_the_split_that_it_began_with(config: TrainConfig) -> None:
    trainer.train(replace(config, epochs=1), alone)
    again = replace(config, resume=config.run_dir)
    with pytest.raises(CheckpointError, match="on other data, or with other --validation"):
        trainer.train(replace(again, validation="30"), alone)
    trainer.train(replace(again, early_stop=9), alone)
    assert len(events(config.run_dir, "epoch")) == 3


def test_an_early_stop_needs_a_validation() -> None:
    with pytest.raises(UsageError, match=r"--early-stop 3: say by --validation, such as --validation 0\.1"):
        TrainConfig(early_stop=3)
    with pytest.raises(UsageError, match="--early-stop -1: give an integer >= 0"):
        TrainConfig(early_stop=-1, validation="0.1")


def test_the_split_does_not_depend_on_ranks(config: TrainConfig, on_threads: Callable[..., Any]) -> None:
    rows = on_threads(3, lambda comm: trainer.prepared(config, comm)[1].part("validation")[:].tolist())
    assert rows[0] == rows[1] == rows[2] and len(set(rows[0])) == 20
