"""The graph of a task: from example numbers to what a step fetches, in training and in a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.comm.base import Communicator
from dtrain.config import Augmentation
from dtrain.data.dataset import CLASSES, LABELS, NUMBERS, Dataset, Part
from dtrain.data.order import as_they_lie
from dtrain.errors import GraphError, UsageError
from dtrain.keras import losses, optimizers
from dtrain.keras.losses import per_example
from dtrain.keras.metrics import BinaryAccuracy, Mean, Metric
from dtrain.keras.training import named_metrics, wide
from dtrain.ops.base import apply
from dtrain.ops.lend import LentRows, Table
from dtrain.runtime.feeds import Shard, Window
from dtrain.task import own_model
from dtrain.task.augment import Augment
from dtrain.task.models import MODELS
from dtrain.train.batches import batches
from dtrain.train.mistakes import Mistakes
from dtrain.train.optimizers import Optimizer
from dtrain.train.task import Task

#: Examples of one evaluation step over all ranks: large enough for full speed, small enough for any memory.
EVAL_BATCH = 1_000
#: What the placeholder `training` is fed.
TRAINING, TESTING = np.float32(1), np.float32(0)


@dataclass
class Network:
    """A task's graph over its data: feed `indices` into it and `training`, 1 or 0; fetch the rest.

    stop, stopping: one number a rank, whether it was asked to stop, and their sum.
    loss: the mean over the batch, with what regularizers add. minimized: that, or where the task has several
        losses the mean of each by its name, for an optimizer that is a function.
    sums: what the metrics follow from, over the batch.
    tested: the same of a test, in float64: the sum of the losses, the metrics' sums, the regularizers' terms.
    parameters: all of the model's variables, statistics that are not trained included.
    data: what it is trained on. tables: where the graph reads the arrays of data, in their order.
    losses: of each example. predicted: its class; None where the command line's data has no classes.
    loss_name: of the loss, for people. augment: what changes the images, whose draws are of one epoch.
    """

    indices: dt.Tensor
    training: dt.Tensor
    stop: dt.Tensor
    stopping: dt.Tensor
    loss: dt.Tensor
    minimized: Any
    sums: list[dt.Tensor]
    tested: list[dt.Tensor]
    metrics: list[tuple[Metric, int]]
    parameters: list[dt.Variable]
    data: Dataset
    tables: list[Table]
    losses: dt.Tensor
    predicted: dt.Tensor | None
    loss_name: str
    penalties: int = field(default=0)
    augment: Augment | None = None
    _lent: dict[int, list[Any]] = field(default_factory=dict)

    def lend(self, session: dt.Session, data: Dataset | None = None) -> None:
        """Let the session's runs read examples, which are no part of the graph; by default of `data`."""
        data = data or self.data
        if id(data) not in self._lent:
            self._lent[id(data)] = [session.backend.from_host(rows) for rows in data.arrays()]
        for table, rows in zip(self.tables, self._lent[id(data)], strict=True):
            table.rows = rows

    @contextmanager
    def lending(self, session: dt.Session, data: Dataset) -> Iterator[None]:
        """The same of another set within a block, however that ends."""
        self.lend(session, data)
        try:
            yield
        finally:
            self.lend(session)

    def results(self, loss: float, sums: Sequence[Any], examples: int) -> dict[str, float]:
        """The mean loss and each metric by its name, of sums over so many examples."""
        found, at = {"loss": loss / examples}, 0
        for metric, count in self.metrics:
            found[metric.name] = metric.result(sums[at : at + count], examples)
            at += count
        return found


def build(
    model: Any,
    data: Dataset,
    task: Task = Task(),  # noqa: B008 -- frozen
    augment: Sequence[Augmentation] = (),
) -> Network:
    """The graph of a task, its model by default that of --model. augment: what becomes of images in training.

    Raises:
        UsageError: the model, its output, the loss and the data do not fit one another.
    """
    indices, training, stop, stopping = _fed(data)
    named = {"images": data.x, "labels": data.y}
    if data.weights is not None:
        named["weights"] = data.weights
    tables: list[Table] = []
    ours = _is_ours(model, data)

    def read(name: str, rows: np.ndarray) -> dt.Tensor:
        tables.append(Table(name, rows.shape[1:], dt.as_dtype(rows.dtype)))
        read = apply(LentRows(tables[-1]), indices, name=name)
        return dt.cast(read, "float32") if rows.dtype == np.float64 else read

    x: Any
    y: Any
    with dt.name_scope("input"):
        x, y, *weights = (
            {key: read(f"{name}_{i}", rows) for i, (key, rows) in enumerate(arrays.items())}
            if isinstance(arrays, dict)
            else read(name, arrays)
            for name, arrays in named.items()
        )
        changed = Augment(augment, data) if augment else None
        if changed:
            x = changed(x, indices, training)
        if task.data is None or ours:
            x = _features(x, data)
        if task.loss is None and not isinstance(y, Mapping):
            if task.data is None or data.kind != CLASSES:  # whose loss does it
                y = dt.cast(y, "int32" if data.kind == CLASSES else "float32")
            if data.kind == NUMBERS and (task.data is None or ours):
                y = dt.reshape(y, [-1, data.outputs])
    plain = task.data is None and task.loss is None
    output = _output(model, x, training, data, task)
    penalties = dt.losses.get_regularization_losses()

    def measured(output: Any) -> tuple[dict[str, dt.Tensor], list[Any], str]:
        """The loss of each example by its name, the metrics with what they compare, and the losses' names."""
        with dt.name_scope("loss"):
            if standardised(data, task):  # metrics are of the numbers as they are
                mean, deviation = _moments(data.y_mean, data.y_deviation, data.y.shape[1:])
                compared, loss_name = _losses(task, data, (y - mean) * (1 / deviation), output)
                compared = {"": (compared[""][0], y, _as_targets(output, data))}
            else:
                compared, loss_name = _losses(task, data, y, output)
            each = {
                name: e * dt.cast(weights[0], e.dtype) if weights else e
                for name, (e, _, _) in compared.items()
            }
        return each, _metrics(task, data, compared, y, output, each), loss_name

    each, measures, loss_name = trained = measured(output.trained)
    with dt.name_scope("loss"):
        means = {name: dt.reduce_mean(e) for name, e in each.items()}
        total = dt.add_n([*means.values(), *penalties, *output.added])
    counts: list[tuple[Metric, int]] = []
    sums: list[dt.Tensor] = []
    each, in_tests, _ = trained if output.tested is output.trained else measured(output.tested)
    with dt.name_scope("loss"):
        whole = dt.add_n([*each.values()]) if len(each) > 1 else next(iter(each.values()))
    tested = [dt.reduce_sum(dt.cast(whole, "float64"))]
    with dt.name_scope("metrics"):
        for (metric, *compared), (_, *in_test) in zip(measures, in_tests, strict=True):
            own = metric.sums(*compared, None, "float32")
            counts.append((metric, len(own)))
            sums += own
            tested += metric.sums(*in_test, None, "float64")
        predicted = dt.cast(dt.argmax(output.tested, 1), "int32") if plain and data.kind == CLASSES else None
    penalties = [*penalties, *output.tested_added]
    return Network(
        indices,
        training,
        stop,
        stopping,
        total,
        means if isinstance(task.loss, Mapping) else total,
        sums,
        [*tested, *penalties],
        counts,
        dt.global_variables(),
        data,
        tables,
        whole,
        predicted,
        loss_name,
        len(penalties),
        changed,
    )


def _fed(data: Dataset) -> tuple[dt.Tensor, dt.Tensor, dt.Tensor, dt.Tensor]:
    """What a step is fed; the last: the sum of stop over the ranks, in the message of the gradients."""
    indices = dt.placeholder(dt.as_dtype(data.index), [None], name="indices")
    training = dt.placeholder("float32", [], name="training")
    stop = dt.placeholder("float32", [None], name="stop")
    return indices, training, stop, dt.reduce_sum(stop)


def _is_ours(model: Any, data: Dataset) -> bool:
    """Whether it is one of the command line's models; raises UsageError where that does not take the data."""
    ours = isinstance(model, str) and model in MODELS
    if ours and (isinstance(data.x, Mapping) or isinstance(data.y, Mapping)):
        raise UsageError(f"--model {model} takes one array of examples and one of targets: see dt.Task.")
    return ours


def _output(model: Any, x: Any, training: dt.Tensor, data: Dataset, task: Task) -> own_model.Output:
    """What a model gives for examples."""
    if _is_ours(model, data):
        y = MODELS[model](x, training, data.x.shape[1:], data.outputs)
        return own_model.Output(y, y)
    if task.data is None and task.loss is None:
        return own_model.logits(model, x, training, data)
    return own_model.output(model, x, training)


@dataclass
class Inference:
    """A task's model over rows that are fed, for what only asks it.

    inputs: placeholders of the rows, "x" or several by name. fixed: what else is fed, the same at each run.
    output: one tensor, or several by name. parameters: the model's variables, named as in training.
    preprocessing: what is done to the rows before the model, in words.
    """

    inputs: dict[str, dt.Tensor]
    fixed: dict[dt.Tensor, Any]
    output: Any
    parameters: list[dt.Variable]
    preprocessing: str


def inference(model: Any, data: Dataset, task: Task) -> Inference:
    """The model of a task, built as `build` does, without a loss. Raises UsageError as that does."""
    _, training, _, _ = _fed(data)  # whose names a variable of the model does not take then, either
    arrays = data.x if isinstance(data.x, Mapping) else {"x": data.x}
    with dt.name_scope("input"):
        inputs = {
            name: dt.placeholder(dt.as_dtype(rows.dtype), [None, *rows.shape[1:]], name=name)
            for name, rows in arrays.items()
        }
        x: Any = inputs if isinstance(data.x, Mapping) else inputs["x"]
        preprocessing = "none"
        if task.data is None or _is_ours(model, data):
            x, preprocessing = _features(x, data), _done_to(data)
    output = _output(model, x, training, data, task).tested
    if standardised(data, task):
        output = _as_targets(output, data)
    return Inference(inputs, {training: TESTING}, output, dt.global_variables(), preprocessing)


def _features(x: dt.Tensor, data: Dataset) -> dt.Tensor:
    """Examples [n, numbers], float32: pixels from 0 to 1, others by the set's mean and deviation, if any."""
    shape = data.x.shape[1:]
    if len(shape) != 1 or x.dtype != "float32":
        x = dt.cast(dt.reshape(x, [-1, prod(shape)]), "float32")
    if data.x.dtype == np.uint8:
        return x * (1 / 255)
    if data.mean is None or data.deviation is None:
        return x
    mean, deviation = _moments(data.mean, data.deviation, shape)
    return (x - mean) * (1 / deviation)


def _done_to(data: Dataset) -> str:
    """What _features does, in words."""
    if data.x.dtype == np.uint8:
        return "pixels / 255"
    return "none" if data.mean is None else "(x - mean) / deviation, both of the training examples"


def standardised(data: Dataset, task: Task) -> bool:
    """Whether the model learns targets less their mean, by their deviation: those of a loss of dtrain's."""
    return task.data is None and task.loss is None and data.standardised


def _as_targets(output: dt.Tensor, data: Dataset) -> dt.Tensor:
    """What a model gives of standardised targets, in the targets' own units."""
    mean, deviation = _moments(data.y_mean, data.y_deviation, data.y.shape[1:])
    return output * deviation + mean


def _moments(mean: Any, deviation: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each number of a row of this shape, float32; of what never differs 1."""
    mean, deviation = (
        np.broadcast_to(a, shape or (1,)).reshape(-1).astype(np.float32) for a in (mean, deviation)
    )
    return mean, np.where(deviation > 0, deviation, np.float32(1))


def of_kind(kind: str) -> tuple[losses.Loss, list[Any]]:
    """The loss and the metrics that follow from what targets are; models end in numbers, without softmax."""
    if kind == CLASSES:
        return losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"]
    if kind == LABELS:
        return losses.BinaryCrossentropy(from_logits=True), [BinaryAccuracy(threshold=0.0)]
    return losses.MeanSquaredError(), ["mae"]


def _losses(
    task: Task, data: Dataset, y: Any, output: Any
) -> tuple[dict[str, tuple[dt.Tensor, Any, Any]], str]:
    """Each loss by its name: of each example, and the labels and the output that it compares; and a name."""
    if isinstance(task.loss, Mapping):
        found = {}
        for name, given in task.loss.items():
            if not isinstance(output, Mapping) or name not in output:
                has = f"outputs {', '.join(output)}" if isinstance(output, Mapping) else "one output"
                raise UsageError(
                    f"there is a loss for {name!r}, and the model has {has}: let it give a dict."
                )
            if isinstance(y, Mapping) and name not in y:
                raise UsageError(f"there is a loss for {name!r}, and data has labels for {', '.join(y)}.")
            labels = y[name] if isinstance(y, Mapping) else y
            found[name] = _compared(losses.get(given), labels, output[name])
        return found, ", ".join(found)
    if isinstance(output, Mapping) or isinstance(y, Mapping):
        if not callable(task.loss) or isinstance(task.loss, losses.Loss):
            raise UsageError(
                "there are several outputs or labels: let loss be a dict with a loss for each output by its "
                "name, or a function (y_true, y_pred) of all of them."
            )
        each = dt.convert_to_tensor(task.loss(y, output))
        name = getattr(task.loss, "__name__", "loss")
        return {"": (_by_example(each, name), y, output)}, name
    loss = losses.get(task.loss) or of_kind(data.kind)[0]
    return {"": _compared(loss, y, output)}, loss.name


def _compared(loss: Any, y: Any, output: Any) -> tuple[dt.Tensor, dt.Tensor, dt.Tensor]:
    try:
        y, output = loss._compared(y, output)
        return _by_example(loss.each(y, output), loss.name), y, output
    except GraphError as error:
        raise UsageError(
            f"loss {loss.name} does not fit labels {y.dtype.name}{y.shape} and the model's output "
            f"{output.dtype.name}{output.shape}: {error}"
        ) from None


def _by_example(each: dt.Tensor, name: str) -> dt.Tensor:
    if each.shape.ndims == 0:
        raise UsageError(f"loss {name} gives one number a batch: let it give one for each example.")
    return per_example(each)


def _metrics(
    task: Task, data: Dataset, compared: Mapping[str, Any], y: Any, output: Any, each: Mapping[str, Any]
) -> Any:
    """Each metric with the labels and the output that it takes; of several losses each is a metric, too."""
    asked = task.metrics
    if asked is None:
        asked = of_kind(data.kind)[1] if task.loss is None else []
        asked = [*asked, *["mse"] * standardised(data, task)]  # the loss is of other units
    if "" in compared:
        if isinstance(asked, Mapping):
            raise UsageError("metrics by the names of outputs go with losses by their names: see Task.")
        return [(metric, *compared[""][1:]) for metric, _ in named_metrics(asked)]
    found = [
        (Mean(lambda y, p, e=e: e, f"{name}_loss"), y, output)  # type: ignore[misc]  # a lambda's default
        for name, e in each.items()
    ]
    if not isinstance(asked, Mapping):
        return found + [(metric, y, output) for metric, _ in named_metrics(asked)]
    for name, given in asked.items():
        if name not in compared:
            raise UsageError(f"there are metrics for {name!r}, and losses for {', '.join(compared)}.")
        for metric, _ in named_metrics(given):
            metric.name = f"{name}_{metric.name}"
            found.append((metric, *compared[name][1:]))
    return found


class Trained:
    """How a network's parameters are updated: by an optimizer of dt.train, of dt.keras, or a function's op.

    keras, rate: what says the rate of each step, and where it is fed; None where it is a part of the graph.
    name, lr: of the optimizer, for the report.
    """

    def __init__(self, given: Any, network: Network) -> None:
        self.keras: optimizers.Optimizer | None = None
        self.rate: dt.Tensor | None = None
        if isinstance(given, Optimizer):
            self.name, rate = given.get_name(), given.learning_rate
            self.lr = rate if isinstance(rate, int | float) else float("nan")
            self.step = given.minimize(network.loss)
            return
        if inspect.isfunction(given):
            self.name, self.lr = given.__name__, float("nan")
            self.step = given(network.minimized)
            if not isinstance(self.step, dt.Operation | dt.Tensor):
                raise UsageError(
                    f"the task's optimizer {self.name} gives {self.step!r}: let it return the op of a step, "
                    "such as what minimize() returns."
                )
            return
        self.keras = optimizers.get(given)
        self.name, self.lr = self.keras.name, float(self.keras.learning_rate)
        self.rate = dt.placeholder("float64", [], name="learning_rate")
        variables = dt.get_collection(dt.GraphKeys.TRAINABLE_VARIABLES)
        self.step = self.keras.minimize(self.keras.make(self.rate), network.loss, variables)


class Steps:
    """The network as an engine trains it.

    take: takes the steps of a window, as CompiledStep.several; a profiler may take its place.
    """

    def __init__(
        self, session: dt.Session, network: Network, trained: Trained, updates: Sequence[Any]
    ) -> None:
        self.network, self._trained, self.results = network, trained, network.results
        rate = [] if trained.rate is None else [trained.rate]
        feeds = [network.indices, network.training, network.stop, *rate]
        fetches = [network.loss, network.stopping, *network.sums, dt.group(trained.step, *updates)]
        self.take: Callable[..., list[Any]] = session.make_callable(fetches, feeds).several

    def step(self, window: Window, vote: Shard | None) -> list[tuple[float, Sequence[Any], bool]]:
        keras = self._trained.keras
        rate = [] if keras is None else [keras.rate]
        taken = self.take(window, TRAINING, vote, *rate, until=self.network.stopping)
        if keras is not None:
            keras.iterations.assign_add(len(taken))
        return [(float(loss), [*map(wide, sums)], bool(stop)) for loss, stop, *sums, _ in taken]


def evaluate(
    session: dt.Session,
    network: Network,
    examples: Part,
    comm: Communicator,
    mistakes: Mistakes | None = None,
) -> dict[str, float]:
    """Mean loss and metrics over examples, each counted once; the same on every rank.

    mistakes: gets the outcome of each example.
    """
    each = [network.losses, network.predicted] if mistakes else []
    count = len(network.tested)
    run = session.make_callable([*network.tested, *each], [network.indices, network.training])
    loss_sum, added = 0.0, [0.0] * (count - 1 - network.penalties)
    with network.lending(session, examples.data):
        for shard in batches(as_they_lie(examples), EVAL_BATCH, comm):
            found = run(shard, TESTING)
            if mistakes:
                mistakes.add(*found[count:])
            loss, *sums = found[:count]
            penalty = sum(float(sums.pop()) for _ in range(network.penalties))
            loss_sum += float(loss) + penalty * shard.total
            added = [a + wide(b) for a, b in zip(added, sums, strict=True)]
    return network.results(loss_sum, added, len(examples))
