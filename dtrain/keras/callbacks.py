"""Callbacks: what happens between the batches and epochs of fit.

Every rank runs the callbacks that it is given, with rank 0's numbers in its logs; and after them all ranks
take over rank 0's stop_training and learning rate. So a decision is one for all, whatever it was made of, and
a callback that only writes may be rank 0's alone.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dtrain.errors import UsageError
from dtrain.keras.progress import Bar
from dtrain.names import module_getattr
from dtrain.train.observer import Observer

if TYPE_CHECKING:
    from dtrain.keras.model import Model

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
]

__getattr__ = module_getattr("tf.keras.callbacks")


class Logs(dict[str, Any]):
    """Numbers by name; Keras 2's 'acc' and 'lr' find what is called 'accuracy' and 'learning_rate' by now."""

    def __missing__(self, key: str) -> Any:
        other = key.replace("accuracy", "acc") if "accuracy" in key else key.replace("acc", "accuracy")
        other = "learning_rate" if key == "lr" else other
        if other in self:
            return self[other]
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default


class Callback:
    """Base of the callbacks: every method may be left out. model and params are there from the start of fit.

    logs: the epoch's numbers so far: loss, the metrics, and after an epoch those of validation with val_
    before their names. Those of a batch also have its number, batch, and, when it begins, its size, as in
    Keras 2.
    params: epochs, samples, batch_size, verbose, metrics (names that logs will have), and whether the fit is
    resumed.
    """

    model: Model
    params: dict[str, Any]
    #: Arrays that fit tests on: [*x, *y, *weights of the examples]; None where it has none.
    validation_data: Any = None

    def set_model(self, model: Model) -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def on_train_begin(self, logs: Any = None) -> None: ...

    def on_train_end(self, logs: Any = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...

    def on_test_begin(self, logs: Any = None) -> None:
        """Before the validation of an epoch."""

    def on_test_end(self, logs: Any = None) -> None:
        """After it, with its numbers, without val_ before their names."""

    def on_batch_begin(self, batch: int, logs: Any = None) -> None: ...

    def on_batch_end(self, batch: int, logs: Any = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.on_batch_end(batch, logs)

    #: Names of its attributes that a resumed fit restores: plain data, as JSON has it.
    state: ClassVar[tuple[str, ...]] = ()

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint of fit(run_dir=...) keeps of it."""
        return {name: getattr(self, name) for name in self.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what get_state gave, after on_train_begin."""
        for name in self.state:
            setattr(self, name, state.get(name, getattr(self, name)))

    # -- for subclasses --------------------------------------------------------------------------------
    def says(self, text: str) -> None:
        """Print a line, once for all ranks."""
        self.model.rank_zero.says(text)

    def knows(self, monitor: str) -> None:
        """Raise UsageError unless logs will have this number."""
        names = Logs.fromkeys(self.params["metrics"], 0.0)
        if names.get(monitor) is None:
            hint = " Give fit validation_data or validation_split." if monitor.startswith("val_") else ""
            raise UsageError(
                f"{type(self).__name__}: there is no {monitor!r} to monitor: there are "
                f"{', '.join(names)}.{hint}"
            )


class Callbacks:
    """The callbacks of one fit, called in turn, and what all ranks then take over from rank 0."""

    def __init__(self, model: Model, callbacks: Sequence[Callback], params: dict[str, Any]) -> None:
        self._model, self._list = model, list(callbacks)
        with model.comm.together():
            for callback in self._list:
                if not isinstance(callback, Callback):
                    raise UsageError(
                        f"fit: {callback!r} is no callback: give objects of dt.keras.callbacks, or of a "
                        "class of your own that has Callback for its base."
                    )
        self.params = params
        for callback in self._list:
            callback.set_model(model)
            callback.set_params(params)
        # a rank may have callbacks that others have not, such as rank 0 one that saves
        listens = any(_overrides(c, name) for c in self._list for name in _BATCH)
        self.listen_to_batches = bool(model.comm.allreduce(np.array([listens], np.int8), "max")[0])

    def __call__(self, event: str, *arguments: Any) -> None:
        """Call on_<event> of every callback, with the same logs, as rank 0 has them."""
        *first, logs = arguments
        names = list(logs)
        logs = Logs(zip(names, self._model.rank_zero.decides([logs[n] for n in names]), strict=True))
        for callback in self._list:
            with self._model.comm.call(f"{type(callback).__name__}.on_{event}"):
                getattr(callback, f"on_{event}")(*first, logs)
        model, rate = self._model, self._model.optimizer.learning_rate
        stop, found = model.rank_zero.decides([model.stop_training, float(rate)])
        model.stop_training = bool(stop)
        rate.assign(found)


_BATCH = ("batch_begin", "batch_end", "train_batch_begin", "train_batch_end")


def _overrides(callback: Callback, event: str) -> bool:
    name = f"on_{event}"
    return getattr(type(callback), name) is not getattr(Callback, name) or name in vars(callback)


class Following(Observer):
    """A fit's callbacks, and what it prints, as they follow a run."""

    def __init__(self, model: Model, callbacks: Callbacks) -> None:
        self._model, self._callbacks = model, callbacks
        self._about: Any = callbacks.params

    @property
    def stops(self) -> bool:  # type: ignore[override]  # as the model says
        return self._model.stop_training

    def epoch_begin(self, epoch: int) -> None:
        about = self._about
        if about["verbose"]:
            self._model.rank_zero.says(f"Epoch {epoch}/{about['epochs']}")
        self._callbacks("epoch_begin", epoch - 1, {})
        self._progress = Bar(self._model.rank_zero, about["verbose"], about["samples"])

    def batch_begin(self, number: int, examples: int) -> None:
        if self._callbacks.listen_to_batches:
            self._callbacks("train_batch_begin", number, {"batch": number, "size": examples})

    def batch_end(self, at: Any) -> None:
        if self._progress.due(at.examples):
            self._progress.moves(self.results(at.loss_sum, at.sums, at.examples))
        if self._callbacks.listen_to_batches:
            number, results = at.iteration - 1, self.results(at.loss_sum, at.sums, at.examples)
            self._callbacks("train_batch_end", number, {"batch": number, **results})

    def epoch(self, **facts: Any) -> None:
        names = self._model.metrics_names
        logs = {name: facts[name] for name in names}
        logs |= {f"val_{n}": facts[f"validation_{n}"] for n in names if f"validation_{n}" in facts}
        self._progress.ends(logs)
        self._callbacks("epoch_end", facts["epoch"] - 1, logs)


# -- the callbacks ---------------------------------------------------------------------------------------
class History(Callback):
    """What fit returns.

    Attributes:
        history: {name: one number for each epoch}.
        epoch: the numbers of the epochs.
    """

    state = ("epoch", "history")

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: Logs = Logs()

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self.history = Logs(self.history)

    def on_train_begin(self, logs: Any = None) -> None:
        self.epoch, self.history = [], Logs()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class LambdaCallback(Callback):
    """Functions as a callback: LambdaCallback(on_epoch_end=lambda epoch, logs: ...).

    Args:
        on_epoch_begin, on_epoch_end: functions of (epoch, logs).
        on_batch_begin, on_batch_end, on_train_batch_begin, on_train_batch_end: functions of (batch, logs).
        on_train_begin, on_train_end: functions of (logs).
    """

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_batch_begin: Callable[..., Any] | None = None,
        on_batch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
    ) -> None:
        given = {name: f for name, f in locals().items() if name.startswith("on_") and f is not None}
        for name, function in given.items():
            setattr(self, name, function)


class TerminateOnNaN(Callback):
    """Stops at a batch whose loss is not finite."""

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        if not np.isfinite(logs["loss"]):
            self.says(f"Batch {batch}: Invalid loss, terminating training")
            self.model.stop_training = True


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of each epoch.

    Args:
        schedule: a function of (epoch) or (epoch, rate) that returns the rate.
        verbose: 1 prints the rate.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        old = float(self.model.optimizer.learning_rate)
        rate = self.schedule(epoch, old) if _takes_two(self.schedule) else self.schedule(epoch)
        if not isinstance(rate, int | float | np.number) or not rate >= 0:
            raise UsageError(
                f"LearningRateScheduler: the schedule gives {rate!r} for epoch {epoch}: give a number."
            )
        self.model.optimizer.learning_rate = float(rate)
        if self.verbose:
            self.says(f"Epoch {epoch + 1:05d}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _takes_two(function: Callable[..., Any]) -> bool:
    import inspect

    try:
        inspect.signature(function).bind(0, 0.0)
    except TypeError:
        return False
    return True


class _Monitor(Callback):
    """Base of those that wait for a number to improve; mode: min, max, or auto, which asks the metric."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise UsageError(f"{type(self).__name__}: mode={mode!r}: give 'auto', 'min' or 'max'.")
        self.monitor, self.mode = monitor, mode
        self.min_delta = abs(min_delta)
        self.best: float | None = None  # of the epochs so far

    def on_train_begin(self, logs: Any = None) -> None:
        self.knows(self.monitor)
        known = Logs((metric.name, metric.direction) for metric, _, _ in self.model.compiled.metrics)
        known["loss"] = "down"
        direction = {"min": "down", "max": "up"}.get(self.mode) or known.get(
            self.monitor.removeprefix("val_")
        )
        if not direction:
            raise UsageError(
                f"{type(self).__name__}: whether {self.monitor!r} should rise or fall is not known: give "
                "mode='max' or mode='min'."
            )
        self.maximize = direction == "up"

    def improves(self, value: float, reference: float | None) -> bool:
        """Whether a value is better than another by more than min_delta; any is better than none."""
        if reference is None:
            return True
        return value - self.min_delta > reference if self.maximize else value + self.min_delta < reference


class EarlyStopping(_Monitor):
    """Stops after a number of epochs in a row without improvement.

    Args:
        monitor: the number that is watched, by its name in logs.
        min_delta: the least change that is an improvement.
        patience: epochs without improvement after which it stops.
        verbose: 1 prints when it stops.
        mode: 'min', 'max', or 'auto', which follows from the name.
        baseline: improvements must also be better than this.
        restore_best_weights: whether the model gets the weights of its best epoch when fit ends, whatever
            ends it; in a resumed fit the best epoch since.
        start_from_epoch: the first epoch that is watched, counted from 0.
    """

    state = ("best", "wait", "stopped_epoch", "best_epoch")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin()
        self.best = None
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch < self.start_from_epoch:
            return
        value = logs[self.monitor]
        self.wait += 1
        if self.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self.stopped_epoch and self.verbose:
            self.says(f"Epoch {self.stopped_epoch + 1:05d}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                self.says(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)


class ReduceLROnPlateau(_Monitor):
    """Multiplies the learning rate by a factor after a number of epochs in a row without improvement.

    Args:
        monitor: the number that is watched, by its name in logs.
        factor: a number < 1.
        patience: epochs without improvement.
        verbose: 1 prints when it reduces the rate.
        mode: 'min', 'max', or 'auto', which follows from the name.
        min_delta: the least change that is an improvement.
        cooldown: epochs after a reduction that are not counted.
        min_lr: lower bound of the rate.
    """

    state = ("best", "wait", "cooling")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            raise UsageError(f"ReduceLROnPlateau: factor={factor}: give a number above 0 and below 1.")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin()
        self.best = None
        self.wait = self.cooling = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        value, optimizer = logs[self.monitor], self.model.optimizer
        logs["learning_rate"] = float(optimizer.learning_rate)
        if self.cooling > 0:
            self.cooling -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best, self.wait = value, 0
        elif self.cooling == 0:
            self.wait += 1
            if self.wait >= self.patience and optimizer.learning_rate > self.min_lr:
                optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
                self.cooling, self.wait = self.cooldown, 0
                if self.verbose:
                    self.says(
                        f"Epoch {epoch + 1:05d}: ReduceLROnPlateau reducing learning rate to "
                        f"{optimizer.learning_rate}."
                    )


class ModelCheckpoint(_Monitor):
    """Saves the model after epochs.

    Args:
        filepath: may hold {epoch}, counted from 1, and names of logs: "weights.{epoch:02d}-{val_loss:.2f}".
        monitor: the number that is watched, by its name in logs.
        verbose: 1 prints when it saves.
        save_best_only: only where the number improves, over all fits that use this object.
        save_weights_only: save_weights instead of save.
        mode: 'min', 'max', or 'auto', which follows from the name.
        period: epochs between two files.
    """

    state = ("best", "_since")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        period: int = 1,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.period = save_best_only, save_weights_only, period
        self._since = 0

    def on_train_begin(self, logs: Any = None) -> None:
        if self.save_best_only:
            super().on_train_begin()
        names = Logs.fromkeys(self.params["metrics"], 0.0)
        try:
            self.filepath.format_map(_With(names, epoch=1))
        except (KeyError, ValueError, IndexError) as error:
            raise UsageError(
                f"ModelCheckpoint: {self.filepath!r} cannot be filled in ({error}): there are epoch, "
                f"{', '.join(names)}."
            ) from None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._since += 1
        if self._since < self.period:
            return
        self._since = 0
        path = self.filepath.format_map(_With(logs, epoch=epoch + 1))
        if self.save_best_only:
            value, best = logs[self.monitor], "None" if self.best is None else f"{self.best:.5f}"
            if not self.improves(value, self.best):
                if self.verbose:
                    self.says(f"Epoch {epoch + 1:05d}: {self.monitor} did not improve from {best}")
                return
            self.best = value
            if self.verbose:
                self.says(
                    f"Epoch {epoch + 1:05d}: {self.monitor} improved from {best} to {value:.5f}, saving "
                    f"model to {path}"
                )
        elif self.verbose:
            self.says(f"Epoch {epoch + 1:05d}: saving model to {path}")
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)


class _With(Logs):
    """Logs with some more."""

    def __init__(self, logs: Mapping[str, Any], **more: Any) -> None:
        super().__init__({**logs, **more})


class CSVLogger(Callback):
    """Writes the numbers of each epoch as a line of a file.

    Args:
        filename: the file.
        separator: between the columns.
        append: whether lines are added to those in the file.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self._names: list[str] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._names = []
        if not (self.append or self.params["resumed"]):
            self.model.rank_zero.writes(self.filename, b"")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self._names:
            self._names = sorted(logs)
            goes_on = self.append or self.params["resumed"]
            if not (goes_on and self.model.rank_zero.finds(self.filename)):
                self._line(["epoch", *self._names])
        self._line([epoch, *(logs.get(name, "NA") for name in self._names)])

    def _line(self, cells: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, delimiter=self.separator, lineterminator="\n").writerow(cells)
        self.model.rank_zero.appends(self.filename, text.getvalue())


class TensorBoard(Callback):
    """Writes the numbers of each epoch for TensorBoard, and the graph.

    Args:
        log_dir: the folder.
        histogram_freq: epochs between two histograms of each weight; 0 writes none.
        batch_size: accepted for Keras 2; without effect.
        write_graph: whether the model's graph is shown.
        write_grads: whether there are histograms of the loss's gradients on validation_data, too.
        update_freq: 'epoch', or 'batch' for the loss of each batch too.
        write_images: whether weights of one or two axes are shown as images, with the histograms.
        embeddings_freq: epochs between two sets of vectors for TensorBoard's projector, of which the last
            stays; 0 writes none.
        embeddings_layer_names: layers whose outputs, or weights, are shown; by default all Embedding layers.
        embeddings_metadata: a file of labels, or a dict of one for each layer.
        embeddings_data: examples whose outputs are shown; without it the layers' weights are.

    Raises:
        EnvironmentProblem: in fit, if TensorBoard is not installed or the folder cannot be written.
    """

    state = ("_steps",)

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "./logs",
        histogram_freq: int = 0,
        batch_size: int | None = None,
        write_graph: bool = True,
        update_freq: str = "epoch",
        write_grads: bool = False,
        write_images: bool = False,
        embeddings_freq: int = 0,
        embeddings_layer_names: Sequence[str] | None = None,
        embeddings_metadata: Any = None,
        embeddings_data: Any = None,
    ) -> None:
        self.write_grads = bool(write_grads)
        self.embeddings_freq, self._shown = int(embeddings_freq), embeddings_layer_names
        self._labels, self._examples = embeddings_metadata, embeddings_data
        if update_freq not in ("epoch", "batch"):
            raise UsageError(f"TensorBoard: update_freq={update_freq!r}: give 'epoch' or 'batch'.")
        self.log_dir, self.histogram_freq = os.fspath(log_dir), int(histogram_freq)
        self.write_graph, self.write_images, self.update_freq = write_graph, write_images, update_freq
        self._steps = 0
        self._slopes: Any = None
        if update_freq == "batch":
            self.on_batch_end = self._batch  # type: ignore[method-assign]  # in place of the method

    def on_train_begin(self, logs: Any = None) -> None:
        from dtrain.summary import FileWriter

        self._writer = FileWriter(self.log_dir, comm=self.model.comm)
        self._slopes = None
        if self.write_grads and self.histogram_freq:
            if self.validation_data is None:
                raise UsageError(
                    "TensorBoard: write_grads=True takes gradients on the arrays that fit tests on: give fit "
                    "validation_data or validation_split."
                )
            self._slopes = self._gradients()
        if self.write_graph:
            self._writer.add_graph(self.model.graph)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._write(logs, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            from dtrain.ops import summary_proto

            for (name, _), value in zip(self.model.named_weights(), self.model.get_weights(), strict=True):
                self._writer.add_summary(summary_proto.histogram(name, value), epoch)
                if self.write_images and value.ndim < 3:
                    image = np.atleast_2d(value)[None, :, :, None]
                    self._writer.add_summary(summary_proto.images(name, image, 1), epoch)
            if self._slopes is not None:
                names, function = self._slopes
                for name, value in zip(names, function(self.validation_data), strict=True):
                    self._writer.add_summary(summary_proto.histogram(f"{name}_grad", value), epoch)
        if self.embeddings_freq and epoch % self.embeddings_freq == 0:
            self._embed()
        self._writer.flush()

    def _gradients(self) -> tuple[list[str], Any]:
        """Names of trained weights, and a function from validation_data to the loss's gradients by them."""
        from dtrain.keras.backend import function

        model = self.model
        targets, weights, total = model.loss_tensors
        trained = model.trainable_weights
        names = [name for name, w in model.named_weights() if w in trained]
        slopes = model.optimizer.get_gradients(total, [w for _, w in model.named_weights() if w in trained])
        made = [i for i, slope in enumerate(slopes) if slope is not None]
        call = function([*model.inputs, *targets, *weights], [slopes[i] for i in made])
        return [names[i] for i in made], call

    def _embed(self) -> None:
        """Write the vectors as the projector reads them: a text file for each layer, and its settings."""
        from dtrain.keras.models import Model

        every = [layer for layer in self.model.layers if type(layer).__name__ == "Embedding"]
        shown = every if self._shown is None else [self.model.get_layer(name) for name in self._shown]
        said = []
        for layer in shown:
            if self._examples is None:
                vectors = layer.get_weights()[0]
            else:
                outputs = Model(self.model.inputs, layer.output).predict(self._examples, verbose=0)
                vectors = np.reshape(outputs, (len(outputs), -1))
            file = f"{layer.name}.tsv"
            text = "".join("\t".join(f"{x:.7g}" for x in row) + "\n" for row in vectors)
            self.model.rank_zero.writes(Path(self.log_dir, file), text.encode())
            labels = self._labels.get(layer.name) if isinstance(self._labels, Mapping) else self._labels
            more = f' metadata_path: "{labels}"' if labels else ""
            said.append(f'embeddings {{ tensor_name: "{layer.name}" tensor_path: "{file}"{more} }}\n')
        self.model.rank_zero.writes(Path(self.log_dir, "projector_config.pbtxt"), "".join(said).encode())

    def _batch(self, batch: int, logs: Any = None) -> None:
        self._write({"batch_loss": logs["loss"]}, self._steps)
        self._steps += 1

    def _write(self, logs: Mapping[str, float], step: int) -> None:
        from dtrain.ops import summary_proto

        for name, value in logs.items():
            self._writer.add_summary(summary_proto.scalar(name, value), step)

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.close()
