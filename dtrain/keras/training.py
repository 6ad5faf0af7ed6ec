"""fit, evaluate and predict: the graph from example numbers to what a step fetches, and the loops around it.

The arrays are external to the graph (ops/lend.py), and a step is fed example numbers: a rank reads its own
rows of each global batch. Losses and metrics come out of the graph as sums over the global batch and are
added up here in float64: every example counts once, on any number of ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.dtypes import as_dtype
from dtrain.graph.graph import Operation, Tensor
from dtrain.keras import losses, metrics, optimizers
from dtrain.keras.calls import Replay, mask_of
from dtrain.keras.data import Examples, keys
from dtrain.keras.losses import Loss, per_example
from dtrain.keras.metrics import Mean, Metric
from dtrain.ops.array import expand_dims, zeros_like
from dtrain.ops.base import apply, convert_to_tensor, placeholder
from dtrain.ops.lend import LentRows, Table
from dtrain.ops.math import add_n, cast
from dtrain.ops.reduce import reduce_mean, reduce_sum
from dtrain.ops.state import Variable, group
from dtrain.runtime.feeds import Shard, Window
from dtrain.train.batches import Order, Pace, batches

if TYPE_CHECKING:
    from dtrain.keras.model import Model

#: Examples of a step that only tests, where no batch_size is given: fast, and small enough for any memory.
TEST_BATCH = 1000


class Compiled:
    """What compile() settles: the optimizer, the losses and the metrics of a model's graph.

    losses: of each output, None where it has none. factors: of the losses. metrics: each with whether
    examples are weighted in it and the number of its output, under the name that Keras gives it. flags:
    which layers are trained.

    Raises:
        UsageError: one of them is not known.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Any,
        loss: Any,
        metrics: Any = None,
        weighted_metrics: Any = None,
        loss_weights: Any = None,
    ) -> None:
        self.optimizer = optimizers.get(optimizer)
        self.given = loss, metrics, weighted_metrics, loss_weights
        self.flags = model.flags()
        #: A model that is built when it is fitted has as many outputs as losses.
        by_name = isinstance(loss, Mapping) and "class_name" not in loss
        many = len(loss) if isinstance(loss, list | tuple) else 1
        names = model.output_names if model.built else list(loss) if by_name else ["output"] * many
        what = "compile: loss"
        self.losses: list[Loss | None] = [losses.get(g) for g in _by_output(loss, names, what)]
        if all(g is None for g in self.losses) and not model.may_lack_loss:
            raise UsageError(
                "compile: loss is missing: give a name such as 'sparse_categorical_crossentropy'."
            )
        factors = _by_output(loss_weights, names, "compile: loss_weights")
        self.factors = [1.0 if f is None else float(f) for f in factors]
        self.metrics = self._measures(names, metrics, weighted_metrics)
        self.names = ["loss", *(metric.name for metric, _, _ in self.metrics)]
        self.config: dict[str, Any] = {
            "optimizer": self.optimizer,
            "loss": _plain(loss),
            "metrics": metrics if isinstance(metrics, Mapping) else _as_list(metrics),
            "weighted_metrics": _as_list(weighted_metrics),
        }
        if loss_weights is not None:
            self.config["loss_weights"] = loss_weights
        with model.graph.as_default():
            self.rate = placeholder("float64", [], name="learning_rate")
            self._graph_optimizer = self.optimizer.make(self.rate)

    @property
    def loss_name(self) -> str:
        """What the losses are called."""
        return ", ".join(loss.name for loss in self.losses if loss is not None)

    def _measures(self, names: Sequence[str], plain: Any, weighted: Any) -> list[tuple[Metric, bool, int]]:
        if len(names) == 1:
            flat = [_one(given, names[0]) for given in (plain, weighted)]
            return [(metric, weighs, 0) for metric, weighs in named_metrics(*flat)]
        found: list[tuple[Metric, bool, int]] = [
            (OutputLoss(f"{name}_loss"), True, i)
            for i, name in enumerate(names)
            if self.losses[i] is not None
        ]
        both = [_metrics_by_output(given, names) for given in (plain, weighted)]
        for i, name in enumerate(names):
            for metric, weighs in named_metrics(both[0][i], both[1][i]):
                metric.name = f"{name}_{metric.name}"
                found.append((metric, weighs, i))
        return found

    @contextmanager
    def as_compiled(self) -> Iterator[None]:
        """Layers inside are trained as they were when the model was compiled."""
        now = [(layer, layer._trainable) for layer, _ in self.flags]
        for layer, flag in self.flags:
            layer._trainable = flag
        try:
            yield
        finally:
            for layer, flag in now:
                layer._trainable = flag

    def minimize(self, loss: Tensor, variables: Sequence[Variable]) -> Operation:
        """A training step against the gradient of the loss."""
        return self.optimizer.minimize(self._graph_optimizer, loss, variables)

    @property
    def variables(self) -> list[Variable]:
        """The optimizer's state so far."""
        return self._graph_optimizer.variables()


class OutputLoss(Metric):
    """The loss of one of several outputs."""

    def sums(self, y: Tensor, p: Tensor, weights: Tensor | None, dtype: str) -> list[Tensor]:
        return [reduce_sum(cast(p, dtype))]

    def result(self, sums: Sequence[Any], examples: int) -> float:
        return float(sums[0]) / examples


def _plain(loss: Any) -> Any:
    """What stands for a loss in a file."""
    if isinstance(loss, Mapping) and "class_name" not in loss:
        return {k: _plain(v) for k, v in loss.items()}
    if isinstance(loss, list | tuple):
        return [_plain(v) for v in loss]
    found = losses.get(loss)
    return getattr(found, "function", found)


def _by_output(given: Any, names: Sequence[str], what: str) -> list[Any]:
    """One for each output, of what is meant for all, a list, or a dict by their names."""
    if isinstance(given, Mapping) and "class_name" not in given:
        wrong = [name for name in given if name not in names]
        if wrong:
            raise UsageError(f"{what} names {wrong[0]!r}, and the model has {', '.join(names)}.")
        return [given.get(name) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise UsageError(
                f"{what} has {len(given)} entries, and the model has outputs {', '.join(names)}."
            )
        return list(given)
    return [given] * len(names)


def _one(given: Any, name: str) -> Any:
    """The metrics of the only output."""
    if isinstance(given, Mapping):
        return _by_output(given, [name], "compile: metrics")[0]
    return given[0] if isinstance(given, list | tuple) and given and isinstance(given[0], list) else given


def _metrics_by_output(given: Any, names: Sequence[str]) -> list[Any]:
    nested = isinstance(given, list | tuple) and any(isinstance(g, list | tuple) for g in given)
    if isinstance(given, Mapping) or nested:
        return _by_output(given, names, "compile: metrics")
    return [given] * len(names)


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
    rows, index: what Examples says of them. votes: whether a step of training sums, over the ranks, whether
    they were asked to stop.
    """

    penalties = 0  # how many numbers of a test are added to the loss as they are

    def __init__(
        self,
        model: Model,
        mode: str,
        rows: Sequence[tuple[str, tuple[int, ...], str]],
        index: str,
        votes: bool,
    ) -> None:
        self.metrics: list[metrics.Metric] = []
        self.counts: list[int] = []
        compiled = model.compiled if mode != "predicting" else None
        with ExitStack() as stack:
            stack.enter_context(model.graph.as_default())
            stack.enter_context(model.graph.name_scope(mode))
            if compiled is not None:
                stack.enter_context(compiled.as_compiled())
            indices = placeholder(index, [None], name="indices")
            self.tables = {name: Table(name, shape, as_dtype(dtype)) for name, shape, dtype in rows}
            given = {name: apply(LentRows(table), indices, name=name) for name, table in self.tables.items()}
            xs = [
                given[key] if given[key].dtype == dtype else cast(given[key], dtype)
                for key, (_, _, dtype) in zip(keys("x", len(model.inputs)), model.input_specs(), strict=True)
            ]
            outputs, replay = model.replayed(xs, mode == "training")
            fetches: list[Any]
            feeds, fetches = [indices], outputs
            if mode == "training":
                each, sums = self._measure(model, given, outputs, replay, "float32")
                penalties = [*model.losses, *self._added(model, replay)]
                loss = add_n([reduce_mean(each), *penalties], name="loss")
                weights = model.trainable_weights
                steps = [model.compiled.minimize(loss, weights)] if weights else []
                fetches = [loss, *sums, group(*steps, *replay.updates)]
                feeds.append(model.compiled.rate)
                if votes:
                    feeds.append(placeholder("float32", [None], name="stop"))
                    stopping = reduce_sum(feeds[-1])  # in the message of the gradients
                    fetches.append(stopping)
            elif mode == "testing":
                each, sums = self._measure(model, given, outputs, replay, "float64")
                penalties = [*model.losses, *self._added(model, replay)]
                self.penalties = len(penalties)
                fetches = [reduce_sum(cast(each, "float64")), *sums, *penalties]
        changes = mode != "training" and replay.updates  # of layers that keep states
        if changes:
            fetches = [*fetches, group(*replay.updates)]
        model.initialize()
        session = self._session = model.session
        self.votes, until = votes, stopping if votes else None
        step = session.make_callable(fetches, feeds)
        self._call: Callable[..., Any] = partial(step.several, until=until) if mode == "training" else step
        if changes:
            self._call = lambda *values: step(*values)[:-1]
        self.pace = Pace(model.comm)

    def _added(self, model: Model, replay: Replay) -> list[Tensor]:
        """What layers, and add_loss, add to the loss."""
        added = [*replay.of(replay.losses), *replay.of([convert_to_tensor(t) for t in model.added_losses])]
        return [t if t.shape.ndims == 0 else reduce_mean(t) for t in added]

    def _measure(
        self, model: Model, given: Mapping[str, Tensor], outputs: Sequence[Tensor], replay: Replay, dtype: str
    ) -> tuple[Tensor, list[Tensor]]:
        """The weighted loss of each example, and the metrics' sums."""
        compiled, total = model.compiled, None
        labels = keys("y", sum(loss is not None for loss in compiled.losses))
        compared: list[Any] = []
        replay.also([*outputs, *given.values()])
        for loss, factor, output in zip(compiled.losses, compiled.factors, outputs, strict=True):
            if loss is None:
                compared.append(None)
                continue
            key = labels.pop(0)
            y, weights = given[key], given.get(key.replace("y", "sample_weight"))
            with replay.block():  # a user's own loss may differentiate by a tensor of the model
                each = loss.each(y, output)
            (each,) = replay.of([each])
            if each.shape.ndims == 0:  # a user's own mean over the batch
                if weights is not None:
                    raise UsageError(
                        f"loss {loss.name} gives one number for a batch, which cannot be weighted: let "
                        "it give one for each example, or leave out sample_weight and class_weight."
                    )
                each = each + zeros_like(per_example(output))
            mask = mask_of(output)
            if mask is not None and each.shape.ndims == 2:
                counts = cast(mask, each.dtype)
                each = each * counts / reduce_mean(counts)
            each = each if weights is None else per_example(each, weights.shape.ndims) * weights
            each = per_example(each)
            compared.append((y, output, weights, each, mask))
            each = each if factor == 1 else each * factor
            total = each if total is None else total + each
        sums: list[Tensor] = []
        for metric, weighted, number in compiled.metrics:
            if compared[number] is None:
                raise UsageError(f"compile: the metric {metric.name} needs labels: give its output a loss.")
            y, output, weights, each, mask = compared[number]
            of_loss = isinstance(metric, OutputLoss)
            weighing = weights if weighted and not of_loss else None
            if mask is not None and len(output.spec.shape) == 3 and not of_loss:
                counts = cast(mask, "float32")  # steps count, as in Keras 2
                if weighing is not None:
                    weighing = weighing if weighing.shape.ndims == 2 else expand_dims(weighing, 1)
                weighing = counts if weighing is None else counts * weighing
            if weighing is not None and weighing.shape.ndims == 2 and not isinstance(metric, Mean):
                raise UsageError(
                    f"metric {metric.name}: steps that weigh differently, by a mask or sample_weight, are "
                    "not for it: leave it out."
                )
            found = replay.of(metric.sums(y, each if of_loss else output, weighing, dtype))
            self.metrics.append(metric)
            self.counts.append(len(found))
            sums += found
        for name, value in model.added_metrics:
            (made,) = replay.of([convert_to_tensor(value)])
            mean = Mean(lambda y, p, m=made: m, name)  # type: ignore[misc]  # a lambda's default
            found = mean.sums(made, outputs[0], None, dtype)
            self.metrics.append(Mean(lambda y, p: p, name))
            self.counts.append(len(found))
            sums += found
        if total is None:
            total = zeros_like(per_example(cast(outputs[0], "float32")))
        return total, sums

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


class LossTensors(NamedTuple):
    """A compiled model's loss on its own tensors, as programs for Keras 2 take it to differentiate it.

    targets, sample_weights: placeholders of each output that has a loss: labels as in Keras, class numbers
    [n, 1]; weights [n], or [n, steps] where compile said 'temporal'. total: the mean, and what is added.
    """

    targets: list[Tensor]
    sample_weights: list[Tensor]
    total: Tensor


def loss_tensors(model: Model, of_steps: bool) -> LossTensors:
    """What LossTensors says, in the graph of the model."""
    compiled = model.compiled
    targets, weights, terms = [], [], []
    with model.graph.as_default(), model.graph.name_scope("loss"):
        for loss, factor, output in zip(compiled.losses, compiled.factors, model.outputs, strict=True):
            if loss is None:
                continue
            sizes: Any = (output.spec.shape or ())[1:]
            classes = isinstance(loss, losses.SparseCategoricalCrossentropy)
            targets.append(placeholder("float32", [None, *sizes[:-1], 1 if classes else sizes[-1]]))
            weights.append(placeholder("float32", [None, sizes[0]] if of_steps else [None]))
            each = convert_to_tensor(loss.each(*loss._compared(targets[-1], output)))
            each = per_example(each, weights[-1].shape.ndims) * weights[-1]
            terms.append(reduce_mean(each) * factor)
        added = [convert_to_tensor(t) for t in model.added_losses]
        penalties = [*model.losses, *(t if t.shape.ndims == 0 else reduce_mean(t) for t in added)]
        return LossTensors(targets, weights, add_n([*terms, *penalties]))


class Steps:
    """A model as an engine trains it, on the examples that lie there: takes(), before each step or once."""

    def __init__(self, model: Model, votes: bool = False) -> None:
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
Part = tuple[Network, Examples, Order]


def test(
    model: Model, parts: Iterable[Part], batch_size: int, progress: Callable[[int], None]
) -> dict[str, float]:
    """The loss and metrics over examples, each counted once; {} where there are none."""
    loss_sum, added, done = 0.0, list[Any](), 0
    for network, examples, order in parts:
        step, results = network.on(examples), network.results
        for shard in batches(order, batch_size, model.comm):
            loss, *sums = step(shard)
            penalty = sum(float(sums.pop()) for _ in range(network.penalties))
            loss_sum += float(loss) + penalty * shard.total
            added = [a + wide(b) for a, b in zip(added, sums, strict=True)] if added else [*map(wide, sums)]
            done += shard.total
            progress(done)
    return results(loss_sum, added, done) if done else {}


def predict(model: Model, parts: Iterable[Part], batch_size: int, progress: Callable[[int], None]) -> Any:
    """The outputs for examples in their order, whole on every rank; of several a list."""
    outputs: list[Any] = []
    done = 0
    for network, examples, order in parts:
        step = network.on(examples)
        for shard in batches(order, batch_size, model.comm):
            outputs.append(step(shard))
            done += shard.total
            progress(done)
    whole = [np.concatenate(rows) for rows in zip(*outputs, strict=True)]
    return whole[0] if len(whole) == 1 else whole
