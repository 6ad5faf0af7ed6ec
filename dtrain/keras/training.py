"""fit, evaluate and predict: the graph from example numbers to what a step fetches, and the loops around it.

The arrays are lent to the graph (ops/lend.py) and a step is fed example numbers, so a rank reads just its own
rows of each global batch. Losses and metrics come out of the graph as sums over the global batch and are
added up here in float64: every example counts once, on any number of ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.dtypes import as_dtype
from dtrain.graph.graph import Operation, Tensor, get_default_graph
from dtrain.keras import losses, metrics, optimizers
from dtrain.keras.data import Examples
from dtrain.keras.losses import per_example
from dtrain.keras.metrics import Metric
from dtrain.ops.array import zeros_like
from dtrain.ops.base import apply, placeholder
from dtrain.ops.lend import LentRows, Table
from dtrain.ops.math import add_n, cast
from dtrain.ops.reduce import reduce_mean, reduce_sum
from dtrain.ops.state import Variable, group
from dtrain.runtime.feeds import Shard, Window
from dtrain.train.batches import Pace, batches

if TYPE_CHECKING:
    from dtrain.keras.models import Sequential

#: Examples of a step that only tests, where no batch_size is given: fast, and small enough for any memory.
TEST_BATCH = 1000


class Compiled:
    """What compile() settles: the optimizer, the loss and the metrics of a model's graph.

    Raises:
        UsageError: one of them is not known.
    """

    def __init__(
        self, model: Sequential, optimizer: Any, loss: Any, metrics: Any, weighted_metrics: Any
    ) -> None:
        self.optimizer = optimizers.get(optimizer)
        self.loss = losses.get(loss)
        if self.loss is None:
            raise UsageError(
                "compile: loss is missing: give a name such as 'sparse_categorical_crossentropy'."
            )
        #: Each with whether examples are weighted in it, under the name that Keras gives it.
        self.metrics = named_metrics(metrics, weighted_metrics)
        self.config = {
            "optimizer": self.optimizer,
            "loss": getattr(self.loss, "function", self.loss),
            "metrics": _as_list(metrics),
            "weighted_metrics": _as_list(weighted_metrics),
        }
        with model.graph.as_default():
            self.rate = placeholder("float64", [], name="learning_rate")
            self._graph_optimizer = self.optimizer.make(self.rate)

    def minimize(self, loss: Tensor, variables: Sequence[Variable]) -> Operation:
        """A training step against the gradient of the loss."""
        return self.optimizer.minimize(self._graph_optimizer, loss, variables)

    @property
    def variables(self) -> list[Variable]:
        """The optimizer's state so far."""
        return self._graph_optimizer.variables()


def _as_list(given: Any) -> list[Any]:
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def named_metrics(plain: Any, weighted: Any = None) -> list[tuple[Metric, bool]]:
    """Metrics with names that differ: a second 'x' is 'x_1', or 'weighted_x' if it is weighted."""
    found: list[tuple[Metric, bool]] = []
    counts: dict[str, int] = {}
    both = [*((m, False) for m in _as_list(plain)), *((m, True) for m in _as_list(weighted))]
    for given, weighs in both:
        metric = copy.copy(metrics.get(given))
        if weighs and metric.name in counts:
            metric.name = f"weighted_{metric.name}"
        number = counts[metric.name] = counts.get(metric.name, -1) + 1
        metric.name += f"_{number}" * (number > 0)
        found.append((metric, weighs))
    return found


class Network:
    """The graph for examples of one kind, in one mode, and the call that runs a step of it.

    mode: 'training' takes a step, and fetches the batch's mean loss with what regularizers add, and the
    metrics' sums; 'testing' fetches sums alone, in float64: of the losses, of the metrics, and the
    regularizers' terms; 'predicting' fetches the output.
    votes: whether a step of training sums, over the ranks, whether they were asked to stop.
    """

    def __init__(
        self, model: Sequential, mode: str, rows: Sequence[tuple[str, tuple[int, ...], str]], votes: bool
    ) -> None:
        self.metrics: list[metrics.Metric] = []
        self.counts: list[int] = []
        with model.graph.as_default(), get_default_graph().name_scope(mode):
            indices = placeholder("int32", [None], name="indices")
            self.tables = {name: Table(name, shape, as_dtype(dtype)) for name, shape, dtype in rows}
            given = {name: apply(LentRows(table), indices, name=name) for name, table in self.tables.items()}
            x = given["x"] if given["x"].dtype == "float32" else cast(given["x"], "float32")
            output = model.call(x, training=mode == "training")
            feeds, fetches = [indices], [output]
            if mode == "training":
                each, sums = self._measure(model, given, output, "float32")
                loss = add_n([reduce_mean(each), *model.losses], name="loss")
                weights = model.trainable_weights
                steps = [model.compiled.minimize(loss, weights)] if weights else []
                fetches = [loss, *sums, group(*steps, *model.updates)]
                feeds.append(model.compiled.rate)
                if votes:
                    feeds.append(placeholder("float32", [None], name="stop"))
                    stopping = reduce_sum(feeds[-1])  # in the message of the gradients
                    fetches.append(stopping)
            elif mode == "testing":
                each, sums = self._measure(model, given, output, "float64")
                fetches = [reduce_sum(cast(each, "float64")), *sums, *model.losses]
        model.initialize()
        session = self._session = model.session
        self.votes, until = votes, stopping if votes else None
        step = session.make_callable(fetches, feeds)
        self._call: Callable[..., Any] = partial(step.several, until=until) if mode == "training" else step
        self.pace = Pace(model.comm)

    def _measure(
        self, model: Sequential, given: Mapping[str, Tensor], output: Tensor, dtype: str
    ) -> tuple[Tensor, list[Tensor]]:
        """The weighted loss of each example, and the metrics' sums."""
        y, weights, compiled = given["y"], given.get("sample_weight"), model.compiled
        each = compiled.loss.each(y, output)
        if each.shape.ndims == 0:  # a user's own mean over the batch
            if weights is not None:
                raise UsageError(
                    f"loss {compiled.loss.name} gives one number for a batch, which cannot be weighted: let "
                    "it give one for each example, or leave out sample_weight and class_weight."
                )
            each = each + zeros_like(per_example(output))
        each = per_example(each)
        sums: list[Tensor] = []
        for metric, weighted in compiled.metrics:
            own = metric.sums(y, output, weights if weighted else None, dtype)
            self.metrics.append(metric)
            self.counts.append(len(own))
            sums += own
        return each if weights is None else each * weights, sums

    def on(self, examples: Examples) -> Callable[..., list[Any]]:
        """The call of a step, in training of a window of them, that reads these examples."""
        loans = [(table, table.loan(examples.lent[name])) for name, table in self.tables.items()]

        def call(*values: Any) -> list[Any]:
            with self._session.lock:  # other calls, of a callback or another thread, read other examples
                before = [table.lend(loan) for table, loan in loans]
                try:
                    return self._call(*values)
                finally:
                    for (table, _), loan in zip(loans, before, strict=True):
                        table.lend(loan)

        return call

    def results(self, loss: float, sums: Sequence[Any], examples: int) -> dict[str, float]:
        """The mean loss, and each metric by its name, of sums over so many examples."""
        found, at = {"loss": loss / examples}, 0
        for metric, count in zip(self.metrics, self.counts, strict=True):
            found[metric.name] = metric.result(sums[at : at + count], examples)
            at += count
        return found


class Steps:
    """A model as an engine trains it, on the examples that lie there: takes(), before each step or once."""

    def __init__(self, model: Sequential, votes: bool = False) -> None:
        self._model, self._votes = model, votes

    def takes(self, examples: Examples) -> Network:
        """Let the next steps be of these."""
        network = self._model.network("training", examples, self._votes)
        self._call, self.results = network.on(examples), network.results
        return network

    def step(self, window: Window, vote: Shard | None) -> list[tuple[float, Sequence[Any], bool]]:
        """A step for each batch: its mean loss, its metrics' sums, and whether a rank was asked to stop."""
        optimizer = self._model.optimizer
        with self._model.session.lock:  # the rate follows from the steps so far, of all threads
            taken = self._call(window, optimizer.rate, *([vote] if self._votes else []))
            optimizer.iterations.assign_add(len(taken))
        stops = [bool(values.pop()) if self._votes else False for values in taken]
        return [
            (float(loss), [wide(s) for s in sums], stop)
            for (loss, *sums, _), stop in zip(taken, stops, strict=True)
        ]


def wide(value: Any) -> Any:
    """A sum in float64, in which sums are added up."""
    return float(value) if value.ndim == 0 else value.astype(np.float64)


# -- the loops -------------------------------------------------------------------------------------------
#: Examples of one kind, the network for them, and which they are, in order.
Part = tuple[Network, Examples, np.ndarray]


def test(
    model: Sequential, parts: Iterable[Part], batch_size: int, progress: Callable[[int], None]
) -> dict[str, float]:
    """The loss and metrics over examples, each counted once; {} where there are none."""
    loss_sum, added, done, penalties = 0.0, list[Any](), 0, len(model.losses)
    for network, examples, order in parts:
        step, results = network.on(examples), network.results
        for shard in batches(order, batch_size, model.comm):
            loss, *sums = step(shard)
            penalty = sum(float(sums.pop()) for _ in range(penalties))
            loss_sum += float(loss) + penalty * shard.total
            added = [a + wide(b) for a, b in zip(added, sums, strict=True)] if added else [*map(wide, sums)]
            done += shard.total
            progress(done)
    return results(loss_sum, added, done) if done else {}


def predict(
    model: Sequential, parts: Iterable[Part], batch_size: int, progress: Callable[[int], None]
) -> np.ndarray:
    """The outputs for examples in their order, whole on every rank."""
    outputs, done = [], 0
    for network, examples, order in parts:
        step = network.on(examples)
        for shard in batches(order, batch_size, model.comm):
            outputs += step(shard)
            done += shard.total
            progress(done)
    return np.concatenate(outputs)
