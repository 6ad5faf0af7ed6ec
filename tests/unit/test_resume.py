"""A run that was stopped goes on as if it had not been: bit for bit, or with every example used once."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.cli import main
from dtrain.comm import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig, resolve
from dtrain.errors import CheckpointError, SavedAndStopped, UsageError
from dtrain.files import write_atomically
from dtrain.task import models, trainer
from dtrain.train import checkpoint, preempt, saving

EPOCHS, EXAMPLES, BATCH = 2, 33, 10  # 4 steps an epoch, the last of 3 examples: fewer than 4 ranks


def dense(x: dt.Tensor, units: int, name: str, activation: Any = None) -> dt.Tensor:
    return dt.keras.layers.Dense(units, activation, name=name)(x)


def dropping(x: dt.Tensor, training: dt.Tensor, *of: Any) -> dt.Tensor:
    """A model whose steps draw random numbers."""
    x = dense(x, 7, "hidden", dt.nn.relu)
    return dense(dt.nn.dropout(x, rate=0.5 * training, name="dropout"), 10, "logits")


@pytest.fixture(scope="module")
def tiny(write_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data") / "tiny", EXAMPLES, 11)


@pytest.fixture
def config(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setitem(models.MODELS, "mlp", dropping)
    return TrainConfig(
        dataset=str(tiny), epochs=EPOCHS, batch_size=BATCH, lr=0.01, run_dir=str(tmp_path / "run")
    )


def go_on(config: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(config, resume=config.run_dir, **changes)


def epochs(run: Path) -> list[dict[str, Any]]:
    """Each epoch in the run's metrics, without what time says."""
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    timed = ("time", "seconds", "images_per_second", "communication_fraction")
    return [{k: v for k, v in e.items() if k not in timed} for e in events if e["event"] == "epoch"]


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """stop_at(step, rank): that rank is sent SIGTERM before that step, counted from where it starts."""

    def arrange(step: int, rank: int) -> None:
        counts: Counter[int] = Counter()
        real = preempt.StopRequest.vote

        def vote(self: preempt.StopRequest) -> Any:
            counts[self._comm.rank] += 1
            if counts[self._comm.rank] == step and self._comm.rank == rank:
                self.name = "SIGTERM"
            return real(self)

        monkeypatch.setattr(preempt.StopRequest, "vote", vote)

    return arrange


# -- bit-identical ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_from_any_step_the_end_is_bit_identical(ranks: int, config: TrainConfig, on_threads: Any) -> None:
    run = Path(config.run_dir)
    on_threads(ranks, lambda comm: trainer.train(replace(config, checkpoint_every=1, keep=99), comm))
    end, reported = checkpoint.load(run), epochs(run)
    assert checkpoint.steps(run) == [1, 2, 3, 4, 5, 6, 7, 8] and len(reported) == EPOCHS
    for step in range(1, 8):
        other = run.with_name(f"from-{step}")
        shutil.copytree(run, other)
        for later in range(step + 1, 9):
            for path in checkpoint._paths(other, later):
                path.unlink()
        on_threads(
            ranks, lambda comm, other=other: trainer.train(go_on(replace(config, run_dir=str(other))), comm)
        )
        found = checkpoint.load(other)
        assert found.step == 8 and found.manifest["sha256"] == end.manifest["sha256"]
        assert found.manifest["random"] == end.manifest["random"]
        assert epochs(other) == reported
    assert 8 in end.manifest["random"]["draws"].values(), "the masks of 8 steps"


def test_the_partial_epoch_is_that_of_one_that_was_not_stopped(
    config: TrainConfig, stop_at: Callable[..., None]
) -> None:
    """A stop at the last step of an epoch leaves only its test to be done."""
    trainer.train(replace(config, run_dir=config.run_dir + "-whole"), SingleCommunicator())
    stop_at(4, 0)
    with pytest.raises(
        SavedAndStopped, match=r"by SIGTERM in epoch 1 after iteration 4, and saved.*--resume"
    ):
        trainer.train(config, SingleCommunicator())
    progress = checkpoint.load(Path(config.run_dir)).manifest["progress"]
    assert (progress["epoch"], progress["iteration"], progress["examples"]) == (1, 4, EXAMPLES)
    trainer.train(go_on(config), SingleCommunicator())
    assert epochs(Path(config.run_dir)) == epochs(Path(config.run_dir + "-whole"))


# -- other numbers of ranks ------------------------------------------------------------------------------
def test_each_example_once_an_epoch_over_4_then_2_then_3_ranks(
    config: TrainConfig, on_threads: Any, stop_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.train(replace(config, run_dir=config.run_dir + "-whole"), SingleCommunicator())
    used: list[tuple[int, int]] = []  # what steps that were done used: (epoch, example)
    here = threading.local()
    order, windows, vote = trainer.order_of, trainer.windows, preempt.StopRequest.vote

    def order_of(seed: int, epoch: int, part: Any) -> Any:
        here.epoch = epoch
        return order(seed, epoch, part)

    def ledger(*args: Any) -> Iterator[Any]:
        for window in windows(*args):
            try:
                yield window
            finally:  # its steps were done, whether the loop goes on or ends
                used.extend((here.epoch, int(example)) for example in window.rows.reshape(-1))

    monkeypatch.setattr(trainer, "order_of", order_of)
    monkeypatch.setattr(trainer, "windows", ledger)
    monkeypatch.setattr(trainer, "evaluate", lambda *args: {"loss": 0.5, "accuracy": 0.5})
    monkeypatch.setattr(trainer.Mistakes, "save", lambda *args: None)

    def stopped(comm: Communicator, config: TrainConfig) -> str:
        with pytest.raises(SavedAndStopped) as caught:
            trainer.train(config, comm)
        return str(caught.value)

    stop_at(3, 2)
    assert len(set(on_threads(4, lambda comm: stopped(comm, config)))) == 1
    monkeypatch.setattr(preempt.StopRequest, "vote", vote)
    stop_at(3, 0)
    on_threads(2, lambda comm: stopped(comm, go_on(config)))
    monkeypatch.setattr(preempt.StopRequest, "vote", vote)
    assert checkpoint.load(Path(config.run_dir)).step == 6
    on_threads(3, lambda comm: trainer.train(go_on(config), comm))

    assert Counter(used) == {(e, x): 1 for e in range(1, EPOCHS + 1) for x in range(EXAMPLES)}
    whole, found = (checkpoint.load(Path(config.run_dir + suffix)) for suffix in ("-whole", ""))
    for name, value in whole.values.items():
        np.testing.assert_allclose(found.values[name], value, atol=1e-5, rtol=0)
    for left, right in zip(
        epochs(Path(config.run_dir)), epochs(Path(config.run_dir + "-whole")), strict=True
    ):
        assert left["epoch"] == right["epoch"] and left["accuracy"] == right["accuracy"]
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)


# -- which checkpoint ------------------------------------------------------------------------------------
def test_a_damaged_newest_is_told_and_the_one_before_used(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(config.run_dir)
    trainer.train(config, SingleCommunicator())
    end = checkpoint.load(run)
    data = run / checkpoint.FOLDER / "step-00000008.safetensors"
    data.write_bytes(data.read_bytes()[:-1])
    capsys.readouterr()
    trainer.train(go_on(config), SingleCommunicator())
    out, err = capsys.readouterr()
    assert "from     step 4, in epoch 2" in out
    assert err.count("WARNING") == 1 and "step-00000008.safetensors" in err
    assert checkpoint.load(run).manifest["sha256"] == end.manifest["sha256"] and len(epochs(run)) == EPOCHS


def test_auto_starts_goes_on_and_is_done(config: TrainConfig, stop_at: Callable[..., None]) -> None:
    auto, run = replace(config, resume="auto"), Path(config.run_dir)
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        '{"event": "header"}\n'
    )  # of a run that ended before its first checkpoint
    stop_at(5, 0)
    with pytest.raises(SavedAndStopped):
        trainer.train(auto, SingleCommunicator())
    trainer.train(auto, SingleCommunicator())
    before = epochs(run)
    assert [e["epoch"] for e in before] == [1, 2]
    facts = trainer.train(auto, SingleCommunicator())
    assert epochs(run) == before and facts["test_accuracy"] == before[-1]["test_accuracy"]
    assert (run / "metrics.jsonl").read_text().count('"done"') == 1
    assert resolve({}, {}, str(run / "config.toml")).resume == ""


def test_a_run_can_be_made_longer(config: TrainConfig) -> None:
    trainer.train(replace(config, run_dir=config.run_dir + "-whole", epochs=3), SingleCommunicator())
    trainer.train(config, SingleCommunicator())
    trainer.train(go_on(config, epochs=3), SingleCommunicator())
    ends = [checkpoint.load(Path(config.run_dir + s)).manifest["sha256"] for s in ("", "-whole")]
    assert ends[0] == ends[1] and epochs(Path(config.run_dir)) == epochs(Path(config.run_dir + "-whole"))


def test_half_a_line_of_metrics_is_dropped(config: TrainConfig) -> None:
    trainer.train(config, SingleCommunicator())
    metrics = Path(config.run_dir) / "metrics.jsonl"
    with open(metrics, "a") as file:
        file.write('{"event": "epoch", "epo')
    trainer.train(go_on(config), SingleCommunicator())
    assert [e["epoch"] for e in epochs(Path(config.run_dir))] == [1, 2]


# -- what is refused -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "logistic"}, "was trained with --model mlp, not logistic"),
        ({"batch_size": 9}, "was trained with --batch-size 10, not 9"),
        ({"lr": 0.5}, "was trained with --lr 0.01, not 0.5"),
        ({"seed": 5}, "was trained with --seed 0, not 5"),
        ({"optimizer": "sgd"}, "was trained with --optimizer adam, not sgd"),
    ],
)
def test_another_run_is_refused(changes: dict[str, Any], words: str, config: TrainConfig) -> None:
    trainer.train(replace(config, epochs=1), SingleCommunicator())
    files = [Path(config.run_dir) / name for name in ("metrics.jsonl", "config.toml")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(CheckpointError, match=words):
        trainer.train(go_on(config, **changes), SingleCommunicator())
    assert [file.read_bytes() for file in files] == before


def test_another_model_of_that_name_or_other_data_is_refused(
    config: TrainConfig, write_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trainer.train(replace(config, epochs=1), SingleCommunicator())
    other = write_set(tmp_path / "other", EXAMPLES + 1, 11)
    with pytest.raises(CheckpointError, match="was trained on other data"):
        trainer.train(go_on(config, dataset=str(other)), SingleCommunicator())
    wider = lambda x, training, *of: dense(dense(x, 8, "hidden", dt.nn.relu), 10, "logits")  # noqa: E731
    monkeypatch.setitem(models.MODELS, "mlp", wider)
    wanted = r"hidden/kernel should be float32\(784, 8\) and is float32\(784, 7\)"
    with pytest.raises(CheckpointError, match=wanted):
        trainer.train(go_on(config), SingleCommunicator())
    smooth = lambda x, training, *of: dense(dense(x, 7, "hidden", dt.tanh), 10, "logits")  # noqa: E731
    monkeypatch.setitem(models.MODELS, "mlp", smooth)
    with pytest.raises(CheckpointError, match="was trained with another step"):
        trainer.train(go_on(config), SingleCommunicator())


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("progress", {"step": 1}),
        ("progress", "far"),
        ("random", {"seed": 0, "draws": {"a": -1}}),
        ("random", {"seed": "0", "draws": {}}),
        ("config", []),
        ("data", 3),
    ],
)
def test_a_manifest_that_was_made_up_is_refused(section: str, value: Any, config: TrainConfig) -> None:
    run = Path(config.run_dir)
    trainer.train(replace(config, epochs=1), SingleCommunicator())
    path = run / checkpoint.FOLDER / "step-00000004.json"
    manifest = json.loads(path.read_text())
    del manifest["manifest_sha256"]
    manifest[section] = value
    manifest["manifest_sha256"] = checkpoint.digest_of_all(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        trainer.train(go_on(config), SingleCommunicator())


def test_options_of_resuming(config: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "made"
    run.mkdir()
    write_atomically(run / "config.toml", replace(config, run_dir="elsewhere", epochs=7).to_toml().encode())
    found = resolve({"resume": str(run)}, {"DTRAIN_LOG_EVERY": "3"})
    assert asdict(found) == {
        **asdict(config),
        "epochs": 7,
        "run_dir": str(run),
        "resume": str(run),
        "log_every": 3,
    }
    assert resolve({"resume": str(run), "epochs": "9"}, {}).epochs == 9
    with pytest.raises(UsageError, match="--resume auto: say by --run-dir"):
        resolve({"resume": "auto"}, {})
    with pytest.raises(UsageError, match="leave --run-dir out"):
        resolve({"resume": str(run), "run_dir": "other"}, {})
    with pytest.raises(CheckpointError, match="is not a run directory"):
        resolve({"resume": str(tmp_path)}, {})
    (run / "config.toml").unlink()
    (run / "config.toml").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="cannot be read"):
        resolve({"resume": str(run)}, {})


# -- starting from another's parameters ------------------------------------------------------------------
def test_init_from_takes_what_fits_and_says_what_did_not(
    config: TrainConfig, on_threads: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.train(replace(config, epochs=1), SingleCommunicator())
    there = checkpoint.load(Path(config.run_dir)).values
    deeper = lambda x, training, *of: dense(dense(x, 7, "hidden", dt.nn.relu), 11, "logits")  # noqa: E731
    monkeypatch.setitem(models.MODELS, "mlp", deeper)
    new = replace(config, epochs=1, lr=1e-30, run_dir=config.run_dir + "-new", init_from=config.run_dir)
    capsys.readouterr()
    on_threads(2, lambda comm: trainer.train(new, comm))
    assert (
        f"  from     2 of 4 parameters from {config.run_dir}, step 4; not logits/kernel (float32(7, 10) "
        "there, float32(7, 11) here), logits/bias (float32(10,) there, float32(11,) here)"
    ) in capsys.readouterr().out
    here = checkpoint.load(Path(new.run_dir)).values
    for name in ("hidden/kernel", "hidden/bias"):
        np.testing.assert_allclose(here[name], there[name], rtol=0, atol=1e-20)  # one step of 1e-30
    monkeypatch.setitem(models.MODELS, "mlp", lambda x, training, *of: dense(x, 10, "other"))
    with pytest.raises(
        CheckpointError, match=r"nothing in .*run fits this model: other/kernel \(nothing there"
    ):
        trainer.train(replace(new, run_dir=config.run_dir + "-none"), SingleCommunicator())


# -- writing beside the steps ----------------------------------------------------------------------------
def test_steps_go_on_while_a_checkpoint_is_written(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved is the state at that step, however late it is written; the next save waits."""
    written, release, begun = [], threading.Event(), threading.Event()
    real = checkpoint.save

    def slow(run_dir: Path, step: int, values: Any, about: Any) -> None:
        begun.set()
        assert release.wait(10)
        written.append((step, about["progress"]["step"], {n: v.copy() for n, v in values.items()}))
        real(run_dir, step, values, about)

    monkeypatch.setattr(saving.checkpoint, "save", slow)
    v = dt.Variable([1.0], name="v")
    double = v.assign(v * 2)
    session = dt.Session(comm=None)
    session.run(v.initializer)
    at = trainer.Progress()
    Path(config.run_dir).mkdir()
    about = lambda at: {"progress": asdict(at)}  # noqa: E731
    with saving.Checkpoints(session, [v], Path(config.run_dir), 2, 3, about) as checkpoints:
        for _ in range(3):
            session.run(double)
            at.add(0.0, [0], 1)
            if checkpoints.due(at):
                checkpoints.save(at)
        assert begun.wait(10) and written == []
        threading.Timer(0.05, release.set).start()
        checkpoints.save(at)
        assert written[0][0] == 2, "save() has waited"
    assert [(step, said, values["v"].tolist()) for step, said, values in written] == [
        (2, 2, [4.0]),
        (3, 3, [8.0]),
    ]


@pytest.mark.parametrize("ranks", [1, 3])
def test_an_error_of_the_writer_is_everyones(
    ranks: int, config: TrainConfig, on_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(saving.checkpoint, "save", broken)

    def body(comm: Communicator) -> None:
        with pytest.raises(CheckpointError, match="the disk is full"):
            trainer.train(config, comm)

    on_threads(ranks, body)
    assert len(epochs(Path(config.run_dir))) == 2, "it is told when the next is saved"


# -- the command -----------------------------------------------------------------------------------------
def test_eval_reads_the_newest_and_the_best(
    config: TrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0.9, 0.1, 0.2])  # of two validations, and of the test at the end
    real = trainer.evaluate
    monkeypatch.setattr(trainer, "evaluate", lambda *args: {"loss": 1.0, "accuracy": next(accuracies)})
    monkeypatch.setattr(trainer.Mistakes, "save", lambda *args: None)
    trainer.train(replace(config, keep=1, validation="1"), SingleCommunicator())
    assert checkpoint.steps(Path(config.run_dir)) == [4, 8]
    monkeypatch.setattr(trainer, "evaluate", real)
    monkeypatch.setattr(trainer.Mistakes, "save", lambda *args: None)
    capsys.readouterr()
    for flags, step in (([], 8), (["--best"], 4)):
        assert main(["eval", config.run_dir, "--log-format", "json", *flags]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["step"], said["epoch"]) == (step, step // 4)
