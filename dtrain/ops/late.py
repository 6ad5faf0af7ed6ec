"""Attributes that are tensors: sizes, bounds and counts that follow from the shapes of what is fed.

A plan is compiled for known feed shapes, so `shape(x)` and what is computed from it are constants by then. An
op that takes such a value as an attribute enters the graph as Late(op, ...), the op holding a Later in the
value's place; `prune` puts the value in. So no kernel ever meets a size that is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType, as_dtype, int32
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike, built
from dtrain.graph.graph_def import DECIDERS
from dtrain.graph.shape import Dims, as_dims, is_static, size_of
from dtrain.ops.base import Const, Example, Op, Placeholder, Value, apply, convert_to_tensor, register
from dtrain.ops.evaluate import HostEnv, evaluate

#: Values of more entries than this are nobody's shape, and are not computed while a graph is built.
MAX_ENTRIES = 1 << 14


class Later(NamedTuple):
    """An attribute's value that is not known yet: entry `at` of a value input, or (None) all of it."""

    input: int
    at: int | None = None


@register
class Shape(Op):
    """The sizes of the input, over all ranks; a constant in every plan."""

    dtype: DType
    shape_only = (0,)
    no_gradient = "its result is a count"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        return [Spec((None if shape is None else len(shape),), self.dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return apply(Const(Value(np.array(inputs[0].spec.shape, self.dtype.numpy))))

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(int32), (2, 3, 4)), Example(cls(int32), ())]


@register
class Late(Op):
    """An op with Later in its attributes. Inputs: `own` of the op, then those that the values come from."""

    kind: Op
    own: int

    @property
    def stateful(self) -> bool:  # type: ignore[override]  # of its own op
        return self.kind.stateful

    @property
    def no_gradient(self) -> str:  # type: ignore[override]  # of its own op
        return self.kind.no_gradient

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return self.kind.infer(*specs[: self.own])

    def grad(self, node: Operation, *dys: Tensor | None) -> Sequence[Tensor | None]:
        own = self.kind.grad(node, *dys) if self.own else ()
        return [*own, *[None] * (len(node.inputs) - self.own)]

    def resolve(self, inputs: Sequence[Tensor]) -> tuple[Op, tuple[Tensor, ...]]:
        """The op with the values in place, and its inputs.

        Raises:
            InvalidArgumentError: a value depends on more than the shapes of what is fed.
        """
        values = []
        for tensor in inputs[self.own :]:
            value = known_value(tensor)
            if value is None or value.dtype == object:
                cause = _unknown(tensor)
                how = {"Feed": "fed", "VariableOp": "a variable"}.get(cause.type, f"a {cause.type}")
                raise InvalidArgumentError(
                    f"{type(self.kind).__name__} takes a size or bound from {tensor.name}, which depends on "
                    f"the value of {cause.name} ({how}){built(cause)}. A plan is compiled "
                    "for the shapes of what is fed, before there are values: take it from dt.shape(...)."
                )
            values.append(value)
        return filled(self.kind, values), tuple(inputs[: self.own])


def late(kind: Op, inputs: Sequence[Any], values: Sequence[Tensor] = (), name: str | None = None) -> Tensor:
    """Add an op whose Later attributes refer to `values`; the plain op where there are none."""
    if values:
        return apply(Late(kind, len(inputs)), *inputs, *values, name=name or type(kind).__name__)
    return apply(kind, *inputs, name=name)


def filled(kind: Op, values: Sequence[np.ndarray]) -> Op:
    def fill(attribute: Any) -> Any:
        if isinstance(attribute, Later):
            value = values[attribute.input]
            value = value if attribute.at is None else value[attribute.at]
            return tuple(value.tolist()) if value.ndim else value.item()
        if isinstance(attribute, tuple):
            parts = [fill(part) for part in attribute]
            return type(attribute)(*parts) if hasattr(attribute, "_fields") else tuple(parts)
        return attribute

    return type(kind)(**{name: fill(value) for name, value in vars(kind).items()})


def dims_of(shape: Any) -> Dims:
    """A shape attribute as Dims, what comes Later being unknown."""
    if isinstance(shape, Later):
        return None
    return tuple(None if isinstance(d, Later) else d for d in shape)


# -- what is known of a value -----------------------------------------------------------------------------
def known_value(tensor: Tensor, memo: dict[Tensor, Any] | None = None) -> np.ndarray | None:
    """The value of a tensor that follows from constants and shapes, else None.

    Where some entries are known only, as in shape(x) of a batch of unknown size: an array of objects, with
    None for the others.
    """
    memo = {} if memo is None else memo
    ahead = [tensor]  # a net's steps one after another may be more than Python's stack holds
    while ahead:
        at = ahead[-1]
        if at not in memo:
            inputs = at.op.inputs if _follows(at) else ()
            unknown = any(t in memo and memo[t] is None for t in inputs)
            open_ = None if unknown else next((t for t in inputs if t not in memo), None)
            if open_ is not None:
                ahead.append(open_)
                continue
            memo[at] = None if unknown else _known(at, [memo[t] for t in inputs])
        ahead.pop()
    return memo[tensor]


def _follows(tensor: Tensor) -> bool:
    """Whether its value follows from its inputs' values, as far as anyone asks."""
    kind, shape = tensor.op.kind, tensor.spec.shape
    if isinstance(kind, Const | Shape | Late) or kind.stateful or kind.shape_only:
        return False
    return is_static(shape) and size_of(shape) <= MAX_ENTRIES


def _known(tensor: Tensor, known: list[np.ndarray]) -> np.ndarray | None:
    """The value of a tensor, given those of its inputs where it follows from them."""
    from dtrain.ops.array import Identity
    from dtrain.ops.join import Concat, Split
    from dtrain.ops.math import Cast

    kind, inputs, shape = tensor.op.kind, tensor.op.inputs, tensor.spec.shape
    if isinstance(kind, Const):
        return kind.value.array
    if isinstance(kind, Shape):
        dims = inputs[0].spec.shape
        if dims is None:
            return None
        return np.array(dims, kind.dtype.numpy if is_static(dims) else object)
    if not _follows(tensor):
        return None
    if all(v.dtype != object for v in known):
        return evaluate(kind, known)[tensor.index]
    if kind.is_view:
        return kind.view(HostEnv(), known[0], shape)  # type: ignore[arg-type]  # static, if its input is known
    if isinstance(kind, Identity | Cast):
        return known[0]
    if isinstance(kind, Concat):
        return np.concatenate([v.astype(object) for v in known], kind.axis)
    if isinstance(kind, Split):
        begin = sum(y.spec.shape[kind.axis] for y in tensor.op.outputs[: tensor.index])  # type: ignore[index, misc]  # static, if its input is known
        return known[0].take(range(begin, begin + shape[kind.axis]), kind.axis)  # type: ignore[index, operator]  # static, if its input is known
    return None


def _unknown(tensor: Tensor) -> Operation:
    """The operation, on the way to a tensor, whose value is not known before a plan runs."""
    if tensor.op.kind.stateful or tensor.op.kind.shape_only:
        return tensor.op
    for x in tensor.op.inputs:
        value = known_value(x)
        if value is None or value.dtype == object:
            return _unknown(x)
    return tensor.op


def decide(tensor: Tensor, *, integers: bool = True) -> None:
    """Let plans be for the values of the scalar placeholders, of integers too, that a tensor is made of."""
    from dtrain.ops.placeholders import PlaceholderWithDefault

    stack, seen = [tensor], set[Tensor]()
    while stack:
        at = stack.pop()
        kind, dtype = at.op.kind, at.dtype
        fed = isinstance(kind, Placeholder | PlaceholderWithDefault) and at.spec.shape in ((), None)
        if fed and (dtype.is_bool or (integers and dtype.is_integer)):
            at.graph.kept.setdefault(DECIDERS, set()).add(at)
        if at not in seen and not kind.shape_only:
            seen.add(at)
            stack += at.op.inputs


class Attributes:
    """Reads the attributes of one op to be: numbers stay, tensors become Later and are kept in `values`."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def scalar(self, value: Any, what: str) -> int | Later:
        """An int, or Later. Raises GraphError for what is neither an integer nor a scalar integer tensor."""
        value = getattr(value, "value", value) if not isinstance(value, TensorLike) else value
        if not isinstance(value, TensorLike):
            return _integer(value, what)
        tensor = _integers(value, what)
        if tensor.spec.shape not in ((), None):
            raise GraphError(f"{what}: {tensor!r} is not a scalar")
        known = known_value(tensor)
        if known is not None and known.size == 1 and known.item() is not None:
            return int(known.item())
        return Later(self._add(tensor))

    def vector(self, value: Any, what: str) -> tuple[int | Later, ...] | Later:
        """A tuple of ints and Later for a list or an integer vector; Later for one of unknown length."""
        if isinstance(value, TensorLike):
            tensor = _integers(value, what)
            shape = tensor.spec.shape
            if shape == ():
                return (self.scalar(tensor, what),)
            if shape is not None and len(shape) != 1:
                raise GraphError(f"{what}: {tensor!r} is not a vector")
            known = known_value(tensor)
            if known is not None and None not in known:
                return tuple(int(k) for k in known)
            at = self._add(tensor)
            if shape is None or shape[0] is None:
                return Later(at)
            known = np.full(shape[0], None) if known is None else known
            return tuple(Later(at, i) if k is None else int(k) for i, k in enumerate(known))
        try:
            entries = list(value) if hasattr(value, "__iter__") else [value]
        except TypeError:
            raise GraphError(f"{what}: {value!r} is not a list of integers") from None
        return tuple(self.scalar(entry, what) for entry in entries)

    def _add(self, tensor: Tensor) -> int:
        if tensor not in self.values:
            decide(tensor)
            self.values.append(tensor)
        return self.values.index(tensor)


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        try:  # an array of one integer
            return np.asarray(value).reshape(()).__index__()
        except (TypeError, ValueError):
            raise GraphError(f"{what}: {value!r} is not an integer") from None
    return value.__index__()


def _integers(value: TensorLike, what: str) -> Tensor:
    tensor = convert_to_tensor(value)
    if not tensor.dtype.is_integer:
        raise GraphError(f"{what}: {tensor!r} is not of integers")
    return tensor


def static_ints(value: Any, what: str) -> tuple[int, ...]:
    """Integers that must be known when the line is written: axes, an order of axes."""
    entries = Attributes().vector(value, what)
    if isinstance(entries, Later) or any(isinstance(e, Later) for e in entries):
        raise GraphError(f"{what}: {value!r} is not known yet; give numbers or a constant")
    return entries  # type: ignore[return-value]  # none is Later


def static_int(value: Any, what: str) -> int:
    """One integer that must be known when the line is written."""
    entry = Attributes().scalar(value, what)
    if isinstance(entry, Later):
        raise GraphError(f"{what}: {value!r} is not known yet; give a number or a constant")
    return entry


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def shape(input: Any, name: str | None = None, out_type: Any = int32) -> Tensor:
    """The sizes of a tensor, an integer vector; a constant where they are known.

    Args:
        input: a tensor or array.
        out_type: int32 or int64.
        name: name of the operation.
    """
    x, dtype = convert_to_tensor(input), as_dtype(out_type)
    if is_static(x.spec.shape):
        return apply(Const(Value(np.array(x.spec.shape, dtype.numpy))), name=name or "Shape")
    return apply(Shape(dtype), x, name=name)


def size(input: Any, name: str | None = None, out_type: Any = int32) -> Tensor:
    """The number of entries of a tensor, an integer scalar.

    Args:
        input: a tensor or array.
        out_type: int32 or int64.
        name: name of the operation.
    """
    from dtrain.ops.reduce import reduce_prod

    return reduce_prod(shape(input, out_type=out_type), name=name or "Size")


def rank(input: Any, name: str | None = None) -> Tensor:
    """The number of axes of a tensor, an int32 scalar.

    Args:
        input: a tensor or array.
        name: name of the operation.
    """
    from dtrain.ops.array import reshape

    return reshape(shape(shape(input)), [], name=name or "Rank")


def as_known_dims(shape: Any, what: str) -> tuple[tuple[int | Later, ...] | Later, list[Tensor]]:
    """A shape argument (a list, a TensorShape, a tensor, a list with tensors in it) and its value inputs.

    Raises:
        GraphError: it has a negative or an unknown size.
    """
    attributes = Attributes()
    if not isinstance(shape, TensorLike):
        dims = list(shape) if hasattr(shape, "__iter__") else [shape]
        if any(getattr(d, "value", d) is None for d in dims if not isinstance(d, TensorLike)):
            raise GraphError(f"{what}: the shape {as_dims(shape)} has unknown sizes; dt.shape(x) knows them")
        shape = dims
    read = attributes.vector(shape, what)
    if not isinstance(read, Later) and any(isinstance(d, int) and d < 0 for d in read):
        raise GraphError(f"{what}: {shape!r} is not a shape: sizes are 0 or more")
    return read, attributes.values
