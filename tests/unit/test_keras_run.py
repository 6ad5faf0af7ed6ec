"""fit(run_dir=...): saved, stopped and resumed as a run of `dtrain train` is, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.config import read_run
from dtrain.errors import CheckpointError, SavedAndStopped, UsageError
from dtrain.keras import callbacks
from dtrain.keras.layers import Dense, Dropout
from dtrain.report.runs import read
from dtrain.train import checkpoint, preempt

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((107, 6)).astype(np.float32)
Y = (X[:, :2].sum(1) > 0).astype(np.int64)
BATCH, EPOCHS, HELD = 10, 3, 0.25  # 80 examples to train on, so 8 steps an epoch


def model_of(comm: Communicator) -> dt.keras.Sequential:
    layers = [Dense(5, "relu", input_shape=(6,)), Dropout(0.3), Dense(2, "softmax")]
    return dt.keras.Sequential(layers, name="net", comm=comm)


def model(comm: Communicator, optimizer: Any = "adam") -> dt.keras.Sequential:
    graph_seed(3)
    made = model_of(comm)
    made.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


def graph_seed(seed: int) -> None:
    dt.reset_default_graph()
    dt.set_random_seed(seed)


def fit(made: dt.keras.Sequential, run: Path | None, x: Any = X, **changes: Any) -> tuple[Any, list[Any]]:
    """History and weights."""
    plateau = callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=10)  # the rate falls each epoch
    arguments = {"batch_size": BATCH, "epochs": EPOCHS, "validation_split": HELD, "verbose": 0} | changes
    history = made.fit(x, Y, run_dir=run, callbacks=[plateau], **arguments)
    return history.history, [w.tolist() for w in made.get_weights()]


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """stop_at(call, rank): that rank is sent SIGTERM before that call takes steps."""

    def arrange(call: int, rank: int) -> None:
        counts: Counter[int] = Counter()
        real = preempt.StopRequest.vote

        def vote(self: preempt.StopRequest) -> Any:
            counts[self._comm.rank] += 1
            if counts[self._comm.rank] == call and self._comm.rank == rank:
                self.name = "SIGTERM"
            return real(self)

        monkeypatch.setattr(preempt.StopRequest, "vote", vote)

    return arrange


@pytest.mark.parametrize(("ranks", "step"), [(1, 1), (1, 8), (1, 10), (3, 9)])
def test_a_stopped_fit_ends_as_one_that_was_not(
    ranks: int, step: int, tmp_path: Path, on_threads: Any, stop_at: Callable[[int, int], None]
) -> None:
    whole = on_threads(ranks, lambda comm: fit(model(comm), None))
    stop_at(step, ranks - 1)

    def stopped(comm: Communicator) -> None:
        with pytest.raises(SavedAndStopped, match=r"by SIGTERM in epoch .*resume=True"):
            fit(model(comm), tmp_path / "run")

    on_threads(ranks, stopped)
    assert checkpoint.steps(tmp_path / "run")[-1] < 3 * 8
    for found in on_threads(ranks, lambda comm: fit(model(comm), tmp_path / "run", resume=True)):
        assert found == whole[0]
    run = read(tmp_path / "run")
    assert [e["epoch"] for e in run.epochs] == [1, 2, 3]
    assert run.last("validation_loss") == whole[0][0]["val_loss"][-1]
    assert (run.header["ranks"], run.header["optimizer"], run.header["examples"]) == (ranks, "Adam", 80)


def test_fewer_ranks_go_on_with_the_same_examples(
    tmp_path: Path, on_threads: Any, stop_at: Callable[[int, int], None]
) -> None:
    history, weights = fit(model(SingleCommunicator()), None)
    stop_at(7, 0)

    def stopped(comm: Communicator) -> None:
        with pytest.raises(SavedAndStopped):
            fit(model(comm), tmp_path / "run")

    on_threads(3, stopped)
    for found, values in on_threads(2, lambda comm: fit(model(comm), tmp_path / "run", resume="auto")):
        for name, numbers in history.items():
            np.testing.assert_allclose(found[name], numbers, rtol=1e-5, err_msg=name)
        for a, b in zip(values, weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_checkpoints_are_saved_within_an_epoch_and_old_ones_go(tmp_path: Path) -> None:
    fit(model(SingleCommunicator()), tmp_path, checkpoint_every=3, keep=2, epochs=2)
    best = json.loads((tmp_path / checkpoint.FOLDER / "step-00000016.json").read_text())["progress"]
    assert checkpoint.steps(tmp_path) == sorted({15, 16, best["best_step"]})


def test_what_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    comm = SingleCommunicator()
    fit(model(comm), tmp_path, epochs=1)
    with pytest.raises(UsageError, match=r"holds a run already.*resume=True"):
        fit(model(comm), tmp_path)
    with pytest.raises(CheckpointError, match="batch_size=10, not 5"):
        fit(model(comm), tmp_path, resume=True, batch_size=5)
    with pytest.raises(CheckpointError, match="trained on other data"):
        fit(model(comm), tmp_path, resume=True, x=X + 1)
    with pytest.raises(CheckpointError, match="optimizer='Adam', not SGD"):
        fit(model(comm, "sgd"), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        fit(model(comm), tmp_path / "new", resume=True)
    with pytest.raises(UsageError, match="resume='yes': give True, False"):
        fit(model(comm), tmp_path, resume="yes")
    with pytest.raises(CheckpointError, match=r"is a run of .*: start that program again"):
        read_run(str(tmp_path))
    assert fit(model(comm), tmp_path, resume=True)[0]["loss"][0] > 0, "it is as it was"


def test_a_fit_that_a_callback_stopped_stays_stopped(tmp_path: Path) -> None:
    early = callbacks.EarlyStopping("loss", min_delta=10, patience=1)
    made = model(SingleCommunicator())
    first = made.fit(X, Y, epochs=9, verbose=0, run_dir=tmp_path, callbacks=[early])
    again = model(SingleCommunicator())
    early = callbacks.EarlyStopping("loss", min_delta=10, patience=1)
    second = again.fit(X, Y, epochs=9, verbose=0, run_dir=tmp_path, resume=True, callbacks=[early])
    assert len(first.epoch) == 2 and second.history == first.history
    for a, b in zip(made.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_profile_of_some_steps_changes_nothing(
    tmp_path: Path, on_threads: Callable[..., list[Any]]
) -> None:
    plain = fit(model(SingleCommunicator()), tmp_path / "plain")
    assert fit(model(SingleCommunicator()), tmp_path / "profiled", profile="3:7") == plain
    on_threads(2, lambda comm: fit(model(comm), tmp_path / "two", profile="9:11"))
    for folder, first, steps in (("profiled", 3, 4), ("two", 9, 2)):
        events = map(json.loads, (tmp_path / folder / "metrics.jsonl").read_text().splitlines())
        (found,) = [e for e in events if e["event"] == "profile"]
        assert (found["first"], found["steps"]) == (first, steps)
        assert sum(sum(v) for v in found["parts_ms"].values()) > 0
        trace = json.loads((tmp_path / folder / "trace.json").read_text())["traceEvents"]
        assert {e["name"] for e in trace} >= {f"step {first + i}" for i in range(steps)}
    for wrong, words in (
        ("7:3", "FIRST has to be less"),
        ("3", "give FIRST:LAST"),
        ("24:25", "has 24 steps"),
    ):
        with pytest.raises(UsageError, match=words):
            fit(model(SingleCommunicator()), tmp_path / "wrong", profile=wrong)
    with pytest.raises(UsageError, match="needs run_dir="):
        fit(model(SingleCommunicator()), None, profile="3:7")


def test_a_model_takes_the_weights_of_a_run(tmp_path: Path, on_threads: Callable[..., list[Any]]) -> None:
    _, weights = fit(model(SingleCommunicator()), tmp_path / "run")

    def taken(comm: Communicator) -> Any:
        with dt.Graph().as_default():
            made = model_of(comm)
            made.load_weights(tmp_path / "run")
            return [w.tolist() for w in made.get_weights()]

    assert on_threads(3, taken) == [weights] * 3
    with dt.Graph().as_default(), pytest.raises(CheckpointError, match="another model's weights"):
        dt.keras.Sequential([Dense(6, input_shape=(6,))]).load_weights(tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        model(SingleCommunicator()).load_weights(tmp_path)


PROGRAM = """
import os, signal
import numpy as np
import dtrain as dt

class Stop(dt.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            os.kill(os.getpid(), signal.SIGTERM)

model = dt.keras.Sequential([dt.keras.layers.Dense(1, input_shape=(2,))])
model.compile("sgd", "mse")
model.fit(np.zeros((99, 2)), np.zeros((99, 1)), 9, epochs=2, verbose=0, callbacks=[Stop()], run_dir="run")
"""


def test_a_program_of_one_process_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "mine.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == SavedAndStopped.exit_code, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "WARNING" not in line]
    assert (
        said.startswith("dtrain: stopped: by SIGTERM in epoch 1 after iteration ")
        and "Resume it with" in said
    )
