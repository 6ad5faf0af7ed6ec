"""The graph of a task: from example numbers to what a step fetches, in training and in a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.comm.base import Communicator
from dtrain.errors import UsageError
from dtrain.keras import losses, optimizers
from dtrain.keras.losses import per_example
from dtrain.keras.metrics import Metric
from dtrain.keras.training import named_metrics, wide
from dtrain.ops.base import apply
from dtrain.ops.lend import LentRows, Table
from dtrain.runtime.feeds import Shard, Window
from dtrain.task import own_model
from dtrain.train.batches import batches
from dtrain.train.data import Dataset
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
    loss: the mean over the batch, with what regularizers add. sums: what the metrics follow from, over it.
    tested: the same of a test, in float64: the sum of the losses, the metrics' sums, the regularizers' terms.
    parameters: all of the model's variables, statistics that are not trained included.
    examples: arrays, each with the table that the graph reads it from.
    losses: of each example. predicted: its class; None where the examples are no images with classes.
    """

    indices: dt.Tensor
    training: dt.Tensor
    stop: dt.Tensor
    stopping: dt.Tensor
    loss: dt.Tensor
    sums: list[dt.Tensor]
    tested: list[dt.Tensor]
    metrics: list[tuple[Metric, int]]
    parameters: list[dt.Variable]
    examples: list[tuple[Table, np.ndarray]]
    losses: dt.Tensor
    predicted: dt.Tensor | None
    penalties: int = field(default=0)

    def lend(self, session: dt.Session) -> None:
        """Let the session's runs read the examples, which are no part of the graph."""
        for table, rows in self.examples:
            table.rows = session.backend.from_host(rows)

    def results(self, loss: float, sums: Sequence[Any], examples: int) -> dict[str, float]:
        """The mean loss and each metric by its name, of sums over so many examples."""
        found, at = {"loss": loss / examples}, 0
        for metric, count in self.metrics:
            found[metric.name] = metric.result(sums[at : at + count], examples)
            at += count
        return found


def build(model: Any, data: Dataset, task: Task = Task()) -> Network:  # noqa: B008 -- frozen
    """The graph of a task, its model by default that of --model.

    Raises:
        UsageError: the model, its output, the loss and the data do not fit one another.
    """
    indices = dt.placeholder("int32", [None], name="indices")
    training = dt.placeholder("float32", [], name="training")
    stop = dt.placeholder("float32", [None], name="stop")
    stopping = dt.reduce_sum(stop)  # of all ranks, in the message of the gradients
    arrays = {"images": data.images, "labels": data.labels}
    if data.weights is not None:
        arrays["weights"] = data.weights
    with dt.name_scope("input"):
        examples = []
        for name, rows in arrays.items():
            rows = np.ascontiguousarray(rows)
            examples.append((Table(name, rows.shape[1:], dt.as_dtype(rows.dtype)), rows))
        x, y, *weights = (apply(LentRows(table), indices, name=table.name) for table, _ in examples)
        if task.data is None:
            x = dt.cast(dt.reshape(x, [-1, data.images[0].size]), "float32") * (1 / 255)
            y = dt.cast(y, "int32")
        elif not x.dtype.is_floating:
            x = dt.cast(x, "float32")
    loss = losses.get(task.loss) or losses.SparseCategoricalCrossentropy(from_logits=True)
    if task.loss is None and task.data is None:
        output = own_model.logits(model, x, training, data.classes)
    else:
        output = own_model.output(model, x, training)
    with dt.name_scope("loss"):
        y, output = loss._compared(y, output)
        each = loss.each(y, output)
        if each.shape.ndims == 0:
            raise UsageError(f"loss {loss.name} gives one number a batch: let it give one for each example.")
        each = per_example(each)
        each = each * dt.cast(weights[0], each.dtype) if weights else each
        penalties = dt.losses.get_regularization_losses()
        total = dt.add_n([dt.reduce_mean(each), *penalties])
    default = ["accuracy"] if task.loss is None else []
    found = [m for m, _ in named_metrics(default if task.metrics is None else task.metrics)]
    counts: list[tuple[Metric, int]] = []
    sums: list[dt.Tensor] = []
    tested = [dt.reduce_sum(dt.cast(each, "float64"))]
    with dt.name_scope("metrics"):
        for metric in found:
            own = metric.sums(y, output, None, "float32")
            counts.append((metric, len(own)))
            sums += own
            tested += metric.sums(y, output, None, "float64")
        images = task.data is None and task.loss is None
        predicted = dt.cast(dt.argmax(output, 1), "int32") if images else None
    return Network(
        indices,
        training,
        stop,
        stopping,
        total,
        sums,
        [*tested, *penalties],
        counts,
        dt.global_variables(),
        examples,
        each,
        predicted,
        len(penalties),
    )


class Trained:
    """How a network's parameters are updated: by an optimizer of dt.train, or of dt.keras.

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
        self.keras = optimizers.get(given)
        self.name, self.lr = self.keras.name, float(self.keras.learning_rate)
        self.rate = dt.placeholder("float64", [], name="learning_rate")
        variables = dt.get_collection(dt.GraphKeys.TRAINABLE_VARIABLES)
        self.step = self.keras.minimize(self.keras.make(self.rate), network.loss, variables)


class Steps:
    """The network as an engine trains it.

    take: takes the steps of a window, as CompiledStep.several; a profiler may stand in its place.
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
    examples: range,
    comm: Communicator,
    mistakes: Mistakes | None = None,
) -> dict[str, float]:
    """Mean loss and metrics over examples, each counted once; the same on every rank.

    mistakes: gets the outcome of each example.
    """
    each = [network.losses, network.predicted] if mistakes else []
    count = len(network.tested)
    run = session.make_callable([*network.tested, *each], [network.indices, network.training])
    order = np.arange(examples.start, examples.stop, dtype=np.int32)
    loss_sum, added = 0.0, [0.0] * (count - 1 - network.penalties)
    for shard in batches(order, EVAL_BATCH, comm):
        found = run(shard, TESTING)
        if mistakes:
            mistakes.add(*found[count:])
        loss, *sums = found[:count]
        penalty = sum(float(sums.pop()) for _ in range(network.penalties))
        loss_sum += float(loss) + penalty * shard.total
        added = [a + wide(b) for a, b in zip(added, sums, strict=True)]
    return network.results(loss_sum, added, len(order))
