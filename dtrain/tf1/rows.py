"""A function of the graph on many elements at once: what `Dataset.map` runs its function with.

The function is built once, into a graph of its own, for one element. `Rows` computes it for many: an op that
has a rule here works on all of them in one call, any other on one after another. So pixels of a thousand
images are scaled by one NumPy call, and an op whose result's shape depends on values runs all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.graph import Graph, Operation, Tensor
from dtrain.ops import array, index, join, reduce, slicing
from dtrain.ops.base import Const, Op, Placeholder
from dtrain.ops.elementwise import Elementwise
from dtrain.ops.evaluate import HostEnv, evaluate
from dtrain.ops.late import Late, Shape, filled
from dtrain.ops.nn import LogSoftmax, Softmax
from dtrain.ops.python import computed
from dtrain.ops.random import RandomIntegers, RandomNormal, RandomUniform
from dtrain.ops.state import VariableOp
from dtrain.passes.prune import needed_by

#: Makes the generator of an op's next run, given its name and seed.
Streams = Callable[[str, int], Callable[[], np.random.Generator]]


class FunctionGraph(Graph):
    """The graph of a function that is called within another graph, whose tensors it may use.

    captured: placeholders here that stand for tensors of other graphs.
    """

    captures = True

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed
        self.captured: dict[Tensor, Tensor] = {}

    def add(
        self,
        kind: Op,
        inputs: tuple[Tensor, ...] = (),
        name: str | None = None,
        control_inputs: tuple[Operation, ...] = (),
    ) -> Operation:
        return super().add(kind, tuple(map(self.own, inputs)), name, control_inputs)

    def own(self, tensor: Tensor) -> Tensor:
        """The tensor, or what stands for one of another graph here."""
        if tensor.graph is self:
            return tensor
        if tensor not in self.captured:
            if isinstance(tensor.op.kind, Const):
                kind: Op = tensor.op.kind
            else:
                kind = Placeholder(tensor.spec.shape, tensor.dtype)
            self.captured[tensor] = super().add(kind, (), "captured").outputs[0]
        return self.captured[tensor]


class Ragged(Exception):
    """The elements' results are not all of one shape."""


class _Env(HostEnv):
    """NumPy, with random numbers of the op that is run."""

    def __init__(self, streams: Streams | None) -> None:
        self._streams, self.name = streams, ""

    def random_stream(self, seed: int) -> Callable[[], np.random.Generator]:
        assert self._streams is not None
        return self._streams(self.name, seed)


class Rows:
    """The outputs of a function's graph for many elements.

    Args:
        inputs: placeholders that stand for one element; outputs: tensors that follow from them.
    """

    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._nodes = sorted(needed_by(outputs, (), self._inputs), key=lambda node: node.id)
        for node in self._nodes:
            if isinstance(node.kind, VariableOp):
                raise GraphError(
                    f"{node.name} is a variable, which a data set's function cannot have: make it outside, "
                    "or compute with it on what get_next gives."
                )

    def __call__(
        self,
        columns: Sequence[np.ndarray],
        captured: Mapping[Tensor, np.ndarray],
        streams: Streams | None = None,
    ) -> list[np.ndarray]:
        """The outputs of n elements, [n, ...] each.

        columns: [n, ...] for each input; captured: values of the other placeholders.

        Raises:
            Ragged: the elements' outputs have several shapes.
        """
        n, env = len(columns[0]), _Env(streams)
        values: dict[Tensor, np.ndarray] = dict(captured)
        values |= zip(self._inputs, columns, strict=True)
        many = set(self._inputs)  # those that have a value for each element
        for node in self._nodes:
            if node.outputs and node.outputs[0] in values:
                continue
            env.name = node.name
            kind, inputs = _resolved(node, values, many)
            given = [values[t] for t in inputs]
            varies = [t in many for t in inputs]
            if not node.outputs:
                continue
            if not any(varies) and not kind.draws:
                results = computed(kind, given, env)
            else:
                rule = _rule(kind)
                found = rule(kind, n, given, varies, inputs) if rule is not None else None
                if isinstance(found, np.ndarray):
                    values[node.outputs[0]] = found
                    continue
                if isinstance(found, list):
                    results = found
                elif found is not None:
                    results = evaluate(found[0], found[1], env)
                else:
                    results = _one_by_one(kind, n, given, varies, env)
                many.update(node.outputs)
            values.update(zip(node.outputs, results, strict=True))
        return [values[t] if t in many else np.repeat(values[t][None], n, 0) for t in self._outputs]


def _resolved(
    node: Operation, values: Mapping[Tensor, np.ndarray], many: set[Tensor]
) -> tuple[Op, tuple[Tensor, ...]]:
    """The node's op, with the values in it that its attributes come from, and its own inputs."""
    kind = node.kind
    if not isinstance(kind, Late) or any(t in many for t in node.inputs[kind.own :]):
        return kind, node.inputs
    return filled(kind.kind, [values[t] for t in node.inputs[kind.own :]]), node.inputs[: kind.own]


def _one_by_one(
    kind: Op, n: int, given: Sequence[np.ndarray], varies: Sequence[bool], env: _Env
) -> list[np.ndarray]:
    rows = []
    for i in range(n):
        inputs = [value[i] if v else value for value, v in zip(given, varies, strict=True)]
        arrays = [np.asarray(x, dtype=g.dtype) for x, g in zip(inputs, given, strict=True)]
        if isinstance(kind, Late):
            rows.append(evaluate(filled(kind.kind, arrays[kind.own :]), arrays[: kind.own], env))
        else:
            rows.append(computed(kind, arrays, env))
    columns = list(zip(*rows, strict=True))
    if any(value.shape != column[0].shape for column in columns for value in column):
        raise Ragged
    return [stacked(column) for column in columns]


def stacked(values: Sequence[Any]) -> np.ndarray:
    """np.stack, which takes the strings of an array of objects apart."""
    text = isinstance(values[0], bytes)  # of which NumPy's own strings lose zeros at the end
    if not text and np.asarray(values[0]).dtype != object:
        return np.stack(values)
    column = np.empty((len(values), *(() if text else values[0].shape)), object)
    for i, value in enumerate(values):
        column[i] = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return column


# -- rules: what an op on one element is on n of them ---------------------------------------------------
#: The op and its inputs, or a list of its outputs, or the value that all elements have; None: one by one.
Found = tuple[Op, list[np.ndarray]] | list[np.ndarray] | np.ndarray | None
Rule = Callable[[Any, int, Sequence[np.ndarray], Sequence[bool], Sequence[Tensor]], Found]


def _rule(kind: Op) -> Rule | None:
    if isinstance(kind, Elementwise):
        return _elementwise
    if isinstance(
        kind, reduce.Sum | reduce.Mean | reduce.Max | reduce.Min | reduce.Prod | reduce.All | reduce.Any
    ):
        return _reduction
    return _RULES.get(type(kind))


def _elementwise(kind: Op, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    rank = max(x.ndim - v for x, v in zip(given, varies, strict=True))

    def aligned(x: np.ndarray, v: bool) -> np.ndarray:
        return x.reshape(n, *[1] * (rank + 1 - x.ndim), *x.shape[1:]) if v else x

    return kind, [aligned(x, v) for x, v in zip(given, varies, strict=True)]


def _reduction(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    rank = given[0].ndim - 1
    axes = range(rank) if kind.axes is None else [a % rank for a in kind.axes]
    return type(kind)(tuple(a + 1 for a in axes), kind.keepdims), list(given)


def _last_axis(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return kind, list(given)


def _reshape(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return array.Reshape((n, *kind.shape)), list(given)


def _shape(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return np.array(given[0].shape[1:], kind.dtype.numpy)


def _expand(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return array.ExpandDims(kind.axis % given[0].ndim + 1), list(given)


def _squeeze(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    dims = given[0].shape[1:]
    gone = [i for i, d in enumerate(dims) if d == 1] if kind.axes is None else kind.axes
    return array.Squeeze(tuple(a % len(dims) + 1 for a in gone)), list(given)


def _transpose(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return array.Transpose((0, *(p + 1 for p in kind.perm))), list(given)


def _concat(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    parts = [x if v else np.broadcast_to(x, (n, *x.shape)) for x, v in zip(given, varies, strict=True)]
    return join.Concat(kind.axis % (parts[0].ndim - 1) + 1, kind.count), parts


def _split(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return join.Split(kind.axis % (given[0].ndim - 1) + 1, kind.count, kind.sizes), list(given)


def _tile(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return join.Tile((1, *kind.multiples)), list(given)


def _pad(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return join.Pad(((0, 0), *kind.paddings)), list(given)


def _slice(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return slicing.StridedSlice((slicing.WHOLE, *kind.entries)), list(given)


def _one_hot(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    is_class = np.moveaxis(given[0][..., None] == np.arange(kind.depth), -1, kind.axis % given[0].ndim + 1)
    if (kind.on, kind.off) == (1, 0):
        return [is_class.astype(kind.dtype.numpy)]
    return [np.where(is_class, kind.on, kind.off).astype(kind.dtype.numpy)]


def _argmax(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    return type(kind)(kind.axis % (given[0].ndim - 1) + 1), list(given)


def _gather(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    if list(varies) == [False, True] and kind.axis == 0:  # of one table, the entries of all elements
        return kind, list(given)
    if list(varies) == [True, False]:
        return index.Gather(kind.axis % (given[0].ndim - 1) + 1), list(given)
    return None


def _drawn(kind: Any, n: int, given: Any, varies: Any, inputs: Any) -> Found:
    if any(varies):
        return None
    return type(kind)(**{**vars(kind), "shape": (n, *kind.shape)}), list(given)


_RULES: dict[type[Op], Rule] = {
    array.Identity: _last_axis,
    array.StopGradient: _last_axis,
    array.ZerosLike: _last_axis,
    Softmax: _last_axis,
    LogSoftmax: _last_axis,
    array.Reshape: _reshape,
    Shape: _shape,
    array.ExpandDims: _expand,
    array.Squeeze: _squeeze,
    array.Transpose: _transpose,
    join.Concat: _concat,
    join.Split: _split,
    join.Tile: _tile,
    join.Pad: _pad,
    slicing.StridedSlice: _slice,
    index.OneHot: _one_hot,
    index.Gather: _gather,
    reduce.ArgMax: _argmax,
    reduce.ArgMin: _argmax,
    RandomNormal: _drawn,
    RandomUniform: _drawn,
    RandomIntegers: _drawn,
}
