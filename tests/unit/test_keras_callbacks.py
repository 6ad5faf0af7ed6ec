"""Keras's callbacks: what they do, and that all ranks do the same."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import CheckpointError, EnvironmentProblem, UsageError
from dtrain.keras import optimizers
from dtrain.keras.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential, load_model

X = np.arange(12.0).reshape(6, 2) / 6
Y = X.sum(1)


class Reports(Callback):
    """Puts given numbers in the place of the epochs' validation loss, as if the model had reached them."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["val_loss"] = self.values[epoch]


def fit(callbacks: list[Any], epochs: int = 6, comm: Any = None, **options: Any) -> Sequential:
    """A model of 2-1 trained with callbacks; on one rank unless a comm is given."""
    dt.reset_default_graph()
    dt.set_random_seed(1)
    model = Sequential([Dense(1, input_shape=(2,))], comm=comm)
    model.compile(optimizers.SGD(0.1), "mse", metrics=["mae"])
    given = {"verbose": 0, "validation_data": (X, Y), "batch_size": 4}
    model.fit(X, Y, epochs=epochs, callbacks=callbacks, **{**given, **options})
    return model


# -- decisions -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "values", "epochs"),
    [
        ({"patience": 1}, [5, 4, 4, 3, 2, 1], 3),
        ({"patience": 2}, [5, 4, 4, 3, 3, 3], 6),
        ({"patience": 2}, [5, 4, 4, 4, 1, 1], 4),
        ({"patience": 1, "min_delta": 1.5}, [5, 4, 3, 2, 1, 0], 2),
        ({"patience": 1, "mode": "max"}, [5, 6, 7, 6, 9, 9], 4),
        ({"patience": 1, "baseline": 3.0}, [5, 5, 3, 2, 1, 0], 2),
        ({"patience": 1, "baseline": 3.0}, [5, 4, 3, 2, 4, 0], 5),
        ({"start_from_epoch": 3}, [1, 2, 3, 3, 4, 0], 5),
        ({}, [5, 4, 5, 1, 1, 1], 3),
    ],
)
def test_early_stopping(options: dict[str, Any], values: list[float], epochs: int) -> None:
    stopping = EarlyStopping(**options)
    model = fit([Reports(values), stopping])
    assert model.history is not None and len(model.history.epoch) == epochs
    assert stopping.stopped_epoch == epochs - 1


def test_early_stopping_gives_the_best_weights_back(capsys: pytest.CaptureFixture[str]) -> None:
    weights: list[Any] = []
    watch = LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(watch.model.get_weights()))
    stopping = EarlyStopping(patience=2, restore_best_weights=True, verbose=1)
    model = fit([Reports([5, 3, 4, 4, 1, 1]), watch, stopping])
    for found, right in zip(model.get_weights(), weights[1], strict=True):
        np.testing.assert_array_equal(found, right)
    assert not np.array_equal(weights[1][0], weights[3][0])
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 00004: early stopping",
        "Restoring model weights from the end of the best epoch: 2.",
    ]


def test_a_metric_of_ones_own_has_no_better_direction() -> None:
    """Going by its name, as Keras 2 did, takes a score that should rise for one that should fall."""

    def score(y: Any, p: Any) -> Any:
        return -dt.abs(y - p)

    for mode, stopped in (("max", 2), ("min", 1), ("auto", None)):
        model = Sequential([Dense(1, input_shape=(2,))], comm=None)
        model.compile("sgd", "mse", metrics=[score])

        class Scores(Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                logs["score"] = [-3.0, -2.0, -2.5, -1.0][epoch]

        stopping = EarlyStopping("score", patience=1, mode=mode)
        if stopped is None:
            with pytest.raises(UsageError, match="whether 'score' should rise or fall is not known"):
                model.fit(X, Y, epochs=4, verbose=0, callbacks=[Scores(), stopping])
        else:
            model.fit(X, Y, epochs=4, verbose=0, callbacks=[Scores(), stopping])
            assert stopping.stopped_epoch == stopped


def test_the_learning_rate_falls_on_a_plateau(capsys: pytest.CaptureFixture[str]) -> None:
    reduce = ReduceLROnPlateau(factor=0.5, patience=2, cooldown=1, min_lr=0.03, verbose=1)
    model = fit([Reports([5, 5, 5, 5, 5, 5, 5, 5, 5]), reduce], epochs=9)
    # epochs 2 and 3 in vain, then one that does not count: 0.1 in epochs 1 to 3, then 0.05, then 0.03
    assert model.history is not None
    assert model.history.history["lr"] == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.03, 0.03, 0.03, 0.03])
    assert capsys.readouterr().out.count("ReduceLROnPlateau reducing") == 2
    with pytest.raises(UsageError, match=r"factor=2\.0"):
        ReduceLROnPlateau(factor=2.0)


def test_a_schedule_sets_the_learning_rate_that_the_steps_take() -> None:
    """A rate of 0 changes nothing; the next epoch's does."""
    weights: list[Any] = []
    watch = LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(watch.model.get_weights()[0]))
    model = fit([LearningRateScheduler(lambda epoch: [0.1, 0.0, 0.05][epoch]), watch], epochs=3)
    assert model.history is not None and model.history.history["lr"] == [0.1, 0.0, 0.05]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[2])
    model = fit([LearningRateScheduler(lambda epoch, rate: rate / 2)], epochs=3)
    assert model.optimizer.lr == pytest.approx(0.1 / 8)
    with pytest.raises(UsageError, match="gives None for epoch 0"):
        fit([LearningRateScheduler(lambda epoch: None)])  # type: ignore[arg-type, return-value]


def test_nan_ends_training(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    x = X.copy()
    x[4] = np.nan
    dt.set_random_seed(1)
    model = Sequential([Dense(1, input_shape=(2,))], comm=None)
    model.compile("sgd", "mse")
    batches = LambdaCallback(on_batch_end=lambda batch, logs: seen.append(batch))
    with pytest.warns(RuntimeWarning, match="step 3 makes a NaN.* LentRows 'training/x'"):
        model.fit(x, Y, 2, epochs=5, shuffle=False, verbose=0, callbacks=[TerminateOnNaN(), batches])
    assert seen == [0, 1, 2] and model.history is not None and len(model.history.epoch) == 1
    assert capsys.readouterr().out == "Batch 2: Invalid loss, terminating training\n"


def test_lambdas_and_the_order_of_events() -> None:
    events: list[Any] = []

    class Own(Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            events.append(("own", batch, sorted(logs)))

    named = {
        name: (lambda *arguments, name=name: events.append((name, *arguments[:-1])))
        for name in (
            "on_epoch_begin",
            "on_epoch_end",
            "on_batch_begin",
            "on_batch_end",
            "on_train_begin",
            "on_train_end",
        )
    }
    fit([LambdaCallback(**named), Own()], epochs=1)
    batch = [("on_batch_begin", 0), ("on_batch_end", 0), ("own", 0, ["batch", "loss", "mae"])]
    assert events == [
        ("on_train_begin",),
        ("on_epoch_begin", 0),
        *batch,
        *[(name, 1, *rest) for name, _, *rest in batch],
        ("on_epoch_end", 0),
        ("on_train_end",),
    ]


# -- several ranks ---------------------------------------------------------------------------------------
def test_ranks_follow_rank_0_even_where_a_callback_decides_by_rank(
    on_threads: Callable[..., list[Any]],
) -> None:
    """Rank 1 alone wants to stop after a batch, rank 0 after two epochs; the rates that they set differ."""

    class ByRank(Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = 0.1 + 0.1 * self.model.comm.rank

        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.model.comm.rank == 1:
                self.model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = self.model.comm.rank == 0 and epoch == 1

    def body(comm: Any) -> Any:
        model = fit([ByRank()], comm=comm)
        return model.history.epoch, model.optimizer.learning_rate, model.get_weights()  # type: ignore[union-attr]

    for epochs, rate, weights in (found := on_threads(3, body)):
        assert epochs == [0, 1] and rate == 0.1
        np.testing.assert_array_equal(weights[0], found[0][2][0])


def test_ranks_stop_save_and_lower_the_rate_as_one_does(
    tmp_path: Path, on_threads: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    def body(comm: Any) -> Any:
        folder = tmp_path / (f"of{comm.size}" if comm else "alone")
        callbacks = [
            ModelCheckpoint(folder / "{epoch}", save_best_only=True, monitor="val_loss", verbose=1),
            ReduceLROnPlateau(patience=1, factor=0.5),
            EarlyStopping(patience=2, verbose=1),
            CSVLogger(folder / "log.csv"),
        ]
        model = fit([Reports([5, 4, 4.5, 3, 4, 4, 1]), *callbacks], epochs=7, comm=comm)
        return model.history.history  # type: ignore[union-attr]

    alone = body(None)
    said = capsys.readouterr().out
    for history in on_threads(3, body):
        assert history == {k: pytest.approx(v, rel=1e-5) for k, v in alone.items()}
    assert capsys.readouterr().out.replace("of3", "alone") == said
    files = [sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("alone", "of3")]
    assert files == [["1", "2", "4", "log.csv"]] * 2
    logs = [(tmp_path / f / "log.csv").read_text().splitlines() for f in ("alone", "of3")]
    assert (
        logs[0][0] == logs[1][0] == "epoch,learning_rate,loss,mae,val_loss,val_mae"
        and len(logs[0]) == len(logs[1]) == 7
    )


# -- files -----------------------------------------------------------------------------------------------
def test_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = ModelCheckpoint(tmp_path / "w.{epoch:02d}-{val_mae:.2f}", period=2, save_weights_only=True)
    best = ModelCheckpoint(tmp_path / "best.safetensors", save_best_only=True, verbose=1)
    model = fit([every, Reports([3, 2, 4, 1]), best], epochs=4)
    assert model.history is not None
    maes = model.history.history["val_mae"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors",
        f"w.02-{maes[1]:.2f}",
        f"w.04-{maes[3]:.2f}",
    ]
    assert load_model(tmp_path / "best.safetensors", comm=None).evaluate(X, Y, verbose=0)[1] == pytest.approx(
        maes[3]
    )
    assert "val_loss did not improve from 2.00000" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="weights without a model"):
        load_model(tmp_path / f"w.02-{maes[1]:.2f}", comm=None)


def test_keras_older_name_of_accuracy_is_understood(tmp_path: Path) -> None:
    model = Sequential([Dense(1, "sigmoid", input_shape=(2,))], comm=None)
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    callbacks = [
        ModelCheckpoint(tmp_path / "{val_acc:.1f}", monitor="val_acc", save_best_only=True),
        EarlyStopping("acc", patience=1),
    ]
    model.fit(X, Y > 1, epochs=5, verbose=0, validation_data=(X, Y > 1), callbacks=callbacks)
    assert len(list(tmp_path.iterdir())) >= 1 and callbacks[1].maximize


def test_csv(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    model = fit([CSVLogger(log)], epochs=3)
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert model.history is not None
    for name, values in model.history.history.items():
        assert [float(row[name]) for row in rows] == values
    fit([CSVLogger(log, separator=";")], epochs=1)
    assert log.read_text().startswith("epoch;loss;mae;val_loss;val_mae\n0;")
    fit([CSVLogger(log, separator=";", append=True)], epochs=2)
    lines = log.read_text().splitlines()
    assert [line.split(";")[0] for line in lines] == ["epoch", "0", "0", "1"]


@pytest.mark.parametrize("size", [1, 2])
def test_tensorboard(size: int, tmp_path: Path, on_threads: Callable[..., list[Any]]) -> None:
    pytest.importorskip("tensorboard", reason="summaries are written with TensorBoard's library")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = {"log_dir": tmp_path, "histogram_freq": 2, "update_freq": "batch"}
    found = on_threads(size, lambda comm: fit([TensorBoard(**board)], epochs=3, comm=comm).history.history)
    assert len(list(tmp_path.iterdir())) == 1
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    assert {"loss", "mae", "val_loss", "val_mae", "batch_loss"} == set(events.Tags()["scalars"])
    written = [event.value for event in events.Scalars("val_loss")]
    assert written == pytest.approx(found[0]["val_loss"], rel=1e-6)
    assert [event.step for event in events.Scalars("batch_loss")] == list(range(6))
    assert [event.step for event in events.Histograms("dense/kernel")] == [0, 2]
    assert "dense" in {node.name.partition("/")[0] for node in events.Graph().node}


# -- errors ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("callback", "options", "words"),
    [
        (EarlyStopping(), {"validation_data": None}, ["no 'val_loss' to monitor", "validation_split"]),
        (EarlyStopping("val_los"), {}, ["no 'val_los'", "val_loss, val_mae"]),
        (ModelCheckpoint("{val_acc}"), {}, ["'{val_acc}' cannot be filled in", "val_loss"]),
        (LearningRateScheduler(lambda epoch: -1.0), {}, ["gives -1.0 for epoch 0"]),
    ],
)
def test_mistakes_are_told_before_the_first_step(
    callback: Callback, options: dict[str, Any], words: list[str], on_threads: Callable[..., list[Any]]
) -> None:
    def body(comm: Any) -> str:
        with pytest.raises(UsageError) as caught:
            fit([copy.copy(callback)], comm=comm, **options)
        return str(caught.value)

    (message,) = set(on_threads(2, body))
    for word in words:
        assert word in message


def test_files_that_cannot_be_written_end_rank_0_and_so_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        fit([CSVLogger(tmp_path / "file" / "log.csv")])


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="mode='up'"):
        EarlyStopping(mode="up")
    with pytest.raises(UsageError, match="update_freq=7"):
        TensorBoard(update_freq=7)  # type: ignore[arg-type]
