"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any as Any_
from typing import ClassVar

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import as_dtype, int64
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import normalize_axes
from dtrain.ops.array import BroadcastLike, CountLike
from dtrain.ops.base import (
    REDUCTION,
    Array,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    around,
    convert_to_tensor,
    register,
)
from dtrain.ops.late import static_int, static_ints
from dtrain.ops.math import abs as absolute
from dtrain.ops.math import add, cast, equal, exp, floordiv, log, maximum, not_equal, sign
from dtrain.ops.placement import PARTIAL, Placement, Sharded


class _Reduction(Op):
    """axes None means all, also where the rank is not known yet."""

    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc: ClassVar[str] = ""
    #: How two entries become one: a name in native/loops.py's JOINS.
    joins: ClassVar[str] = ""
    of_bools: ClassVar[bool] = False
    category = REDUCTION

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if specs[0].dtype.is_bool != self.of_bools:
            raise GraphError(f"it is not defined on {specs[0].dtype.name}; cast it")
        if shape is None:
            return [Spec(() if self.axes is None and not self.keepdims else None, specs[0].dtype)]
        axes = normalize_axes(self.axes, len(shape), "reduction")
        assert axes is not None
        if self.keepdims:
            dims = tuple(1 if i in axes else d for i, d in enumerate(shape))
        else:
            dims = tuple(d for i, d in enumerate(shape) if i not in axes)
        return [Spec(dims, specs[0].dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        reduce = getattr(env.xp, self.ufunc)
        return partial(reduce, ins[0], axis=self.axes, out=outs[0], keepdims=self.keepdims)

    def native(self, code: Any_, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any_:
        values = [*specs, *self.infer(*specs)]
        return code.loop([(self, (0,))], [1], values, ins, outs) if self.joins else None

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if isinstance(placement, Sharded):
            axes = self.axes if self.axes is not None else range(len(node.inputs[0].spec.shape or ()))
            if placement.axis in axes:
                return self.place_reduced(placement)
            lost = 0 if self.keepdims else sum(a < placement.axis for a in axes)
            return placements, Sharded(placement.axis - lost)
        return None

    def place_reduced(self, placement: Sharded) -> Placed:
        """Where the sharded axis itself is reduced."""
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(None, False), (2, 3)),
            Example(cls((0,), False), (2, 3)),
            Example(cls((1,), True), (2, 3, 4)),
            Example(cls((0, 2), False), (2, 3, 4)),
        ]


@register
class Sum(_Reduction):
    axes: tuple[int, ...] | None
    keepdims: bool
    joins = "plus"

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        # the method of the ufunc, since numpy.sum spends more in Python than in adding
        if env.on_host:
            return partial(env.xp.add.reduce, ins[0], self.axes, None, outs[0], self.keepdims)
        return partial(env.xp.sum, ins[0], axis=self.axes, out=outs[0], keepdims=self.keepdims)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [_spread(self, node, dy)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return (placements, PARTIAL) if placements[0] == PARTIAL else super().place(placements, node)

    def place_reduced(self, placement: Sharded) -> Placed:
        return [placement], PARTIAL


@register
class Mean(_Reduction):
    """A sum over a count; the count is that of the whole batch, however it is sharded.

    Of integers it is an integer too, rounded towards 0, and of none 0, as in TensorFlow.
    """

    axes: tuple[int, ...] | None
    keepdims: bool
    bind = Op.bind

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if specs[0].dtype.is_bool:
            raise GraphError("the mean of bool is not defined; cast it to float32")
        return super().infer(*specs)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [_spread(self, node, dy / _count(self, node.inputs[0]))]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        x = inputs[0]
        if x.dtype.is_floating:
            return apply(Sum(self.axes, self.keepdims), x) / _count(self, x)
        wide = cast(x, int64)  # a sum of int8 soon is none
        total = apply(Sum(self.axes, self.keepdims), wide)
        return cast(sign(total) * floordiv(absolute(total), maximum(_count(self, wide), 1)), x.dtype)


class _Extremum(_Reduction):
    """Where several entries are the extreme one, the gradient is shared equally among them.

    Of nothing it is the number that no other lies beyond.
    """

    #: The least number of the dtype (0), or the greatest (1).
    of_nothing: ClassVar[int]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        if ins[0].size:
            return super().bind(env, ins, outs)
        return partial(outs[0].fill, _bounds(outs[0].dtype)[self.of_nothing])

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x = node.inputs[0]
        reached = cast(equal(x, _spread(self, node, node.outputs[0])), dy.dtype)
        ties = apply(Sum(self.axes, self.keepdims), reached)
        return [reached * _spread(self, node, dy / ties)]


@register
class Max(_Extremum):
    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc, joins, of_nothing = "max", "most", 0


@register
class Min(_Extremum):
    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc, joins, of_nothing = "min", "least", 1


@register
class Prod(_Reduction):
    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc, joins = "prod", "times"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        # the product of the others: without zeros y / x; of a single zero the rest's product; else 0
        from dtrain.ops.logic import where

        x = node.inputs[0]
        is_zero = equal(x, 0)
        others = where(is_zero, 1, x)
        zeros = _spread(self, node, apply(Sum(self.axes, self.keepdims), cast(is_zero, dy.dtype)))
        rest = _spread(self, node, apply(Prod(self.axes, self.keepdims), others)) / others
        alone = equal(zeros, cast(is_zero, dy.dtype))  # no zero but this entry itself
        return [where(alone, rest * _spread(self, node, dy), 0)]


class _Truth(_Reduction):
    of_bools = True
    no_gradient = "its result is boolean"

    @classmethod
    def examples(cls) -> list[Example]:
        x = np.array([[[True, False], [True, True]], [[False, False], [True, True]]])
        return [Example(cls(None, True), x), Example(cls((0,), False), x), Example(cls((1, 2), False), x)]


@register
class All(_Truth):
    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc, joins = "all", "both"


@register
class Any(_Truth):
    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc, joins = "any", "either"


def _bounds(dtype: np.dtype) -> tuple[Any_, Any_]:
    """The least and the greatest number of a dtype."""
    if dtype.kind == "f":
        return -np.inf, np.inf
    return np.iinfo(dtype).min, np.iinfo(dtype).max


@register
class ArgMax(Op):
    """Index of the largest entry along one axis, the first where several are; a NaN is larger than none."""

    axis: int
    no_gradient = "its result is an index"
    method: ClassVar[str] = "argmax"
    category = REDUCTION
    #: What a NaN counts as: the least number (0), or the greatest (1).
    never: ClassVar[int] = 0

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if shape is None:
            return [Spec(None, int64)]
        (axis,) = normalize_axes(self.axis, len(shape), self.method) or ()
        if shape[axis] == 0:
            raise GraphError(f"of no entries, which axis {axis} has, none is the extreme one")
        return [Spec(shape[:axis] + shape[axis + 1 :], int64)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, out = env.xp, ins[0], outs[0]
        if x.dtype.kind != "f":
            return partial(getattr(x, self.method), self.axis, out)
        numbers, nans = env.scratch(x.shape, x.dtype), env.scratch(x.shape, np.dtype(bool))
        find, last = getattr(numbers, self.method), _bounds(x.dtype)[self.never]

        def kernel() -> None:
            xp.isnan(x, nans)
            xp.copyto(numbers, x)
            xp.copyto(numbers, last, where=nans)
            find(self.axis, out)

        return kernel

    def native(self, code: Any_, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any_:
        words = ins[0], *around(ins[0].shape, self.axis), self.never, outs[0]
        return code.kernel("arg_extreme", ins[0].dtype, outs[0].size, *words)

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        rank = len(node.inputs[0].spec.shape or ())
        if isinstance(placement, Sharded) and placement.axis != self.axis % rank:
            return placements, Sharded(placement.axis - (self.axis % rank < placement.axis))
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(0), (2, 3)), Example(cls(-1), (2, 3)), Example(cls(1), (2, 3, 4))]


@register
class ArgMin(ArgMax):
    """Index of the smallest entry along one axis, the first where several are; a NaN is smaller than none."""

    axis: int
    method, never = "argmin", 1


@register
class Cumsum(Op):
    """Sums of the entries up to each along an axis, without it if exclusive, from the end if reverse."""

    axis: int
    exclusive: bool
    reverse: bool
    category = REDUCTION

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape, dtype = specs[0]
        if dtype.is_bool:
            raise GraphError("it is not defined on bool; cast it")
        if shape is not None:
            normalize_axes(self.axis, len(shape), "cumsum")
        return [specs[0]]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        x, out = (a.swapaxes(0, self.axis) for a in (ins[0], outs[0]))
        if self.reverse:
            x, out = x[::-1], out[::-1]
        if not self.exclusive:
            return partial(env.xp.cumsum, x, 0, out.dtype, out)
        first, rest, before = out[:1], out[1:], x[:-1]

        def kernel() -> None:
            first.fill(0)
            env.xp.cumsum(before, 0, rest.dtype, rest)

        return kernel

    def native(self, code: Any_, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any_:
        outer, n, inner = around(ins[0].shape, self.axis)
        words = ins[0], outer, n, inner, int(self.exclusive), int(self.reverse), outs[0]
        return code.kernel("cumsum", ins[0].dtype, outer * inner, *words)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(Cumsum(self.axis, self.exclusive, not self.reverse), dy)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        along = self.axis % len(node.inputs[0].spec.shape or ())
        return None if placement == Sharded(along) else (placements, placement)

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(0, False, False), (3, 2)),
            Example(cls(-1, True, False), (3, 4)),
            Example(cls(1, False, True), (2, 3, 4)),
            Example(cls(1, True, True), (2, 3, 4)),
        ]


def _axes(op: _Reduction, x: Tensor) -> tuple[int, ...] | None:
    """The reduced axes, not negative; None for all of an input of unknown rank."""
    return normalize_axes(op.axes, x.shape.ndims, "reduction")


def _spread(op: _Reduction, node: Operation, value: Tensor) -> Tensor:
    """A reduction's result, or its gradient, over the shape of what was reduced."""
    x = node.inputs[0]
    return apply(BroadcastLike(_axes(op, x), op.keepdims), value, x)


def _count(op: _Reduction, x: Tensor) -> Tensor:
    return apply(CountLike(_axes(op, x)), x)


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
_REDUCTION = """Args:
    input_tensor: a tensor or array; numeric, for reduce_all and reduce_any bool.
    axis: an int or several; None for all axes.
    keepdims: whether the axes stay, with size 1.
    name: name of the operation.
    reduction_indices: the older name of axis.
    keep_dims: the older name of keepdims.

Returns:
    Tensor: of the dtype of input_tensor.

Raises:
    GraphError: there is no such axis, the dtype does not fit, or an argument is given by both its names.

Example:
    >>> dt.{0}(dt.zeros([2, 3], "{1}"), 1, keepdims=True).shape.as_list()
    [2, 1]
"""


def _reduction(kind: type[_Reduction], doc: str, dtype: str = "float32") -> Callable[..., Tensor]:
    def function(
        input_tensor: object,
        axis: object = None,
        keepdims: bool | None = None,
        name: str | None = None,
        reduction_indices: object = None,
        keep_dims: bool | None = None,
    ) -> Tensor:
        x = convert_to_tensor(input_tensor)
        axis = _one_of("axis", axis, "reduction_indices", reduction_indices)
        keepdims = bool(_one_of("keepdims", keepdims, "keep_dims", keep_dims))
        return apply(kind(_read_axes(axis, x, name or kind.__name__), keepdims), x, name=name)

    function.__name__ = function.__qualname__ = f"reduce_{kind.__name__.lower()}"
    function.__doc__ = f"{doc}.\n\n{_REDUCTION.format(function.__name__, dtype)}"
    return function


def _read_axes(axis: object, x: Tensor, what: str) -> tuple[int, ...] | None:
    return None if axis is None else normalize_axes(static_ints(axis, what), x.shape.ndims, what)


def _one_of(name: str, value: object, old_name: str, old_value: object) -> object:
    if value is not None and old_value is not None:
        raise GraphError(f"{old_name} is the older name of {name}: give one of them.")
    return value if old_value is None else old_value


reduce_sum = _reduction(Sum, "The sum over axes")
reduce_mean = _reduction(Mean, "The arithmetic mean over axes")
reduce_max = _reduction(Max, "The largest entry over axes; of none -inf, or the least integer of the dtype")
reduce_min = _reduction(Min, "The smallest entry over axes; of none inf, or the largest integer of the dtype")
reduce_prod = _reduction(Prod, "The product over axes")
reduce_all = _reduction(All, "Whether all entries over axes are true", "bool")
reduce_any = _reduction(Any, "Whether any entry over axes is true", "bool")


def reduce_logsumexp(
    input_tensor: object,
    axis: object = None,
    keepdims: bool | None = None,
    name: str | None = None,
    reduction_indices: object = None,
    keep_dims: bool | None = None,
) -> Tensor:
    """log(sum(exp(x))) over axes, computed stably.

    Args:
        input_tensor: a floating tensor.
        axis: an int or several; None for all axes.
        keepdims: whether the axes stay, with size 1.
        reduction_indices: the older name of axis.
        name: name of the operation.
        keep_dims: the older name of keepdims.

    Returns:
        Tensor: of the dtype of input_tensor.

    Raises:
        GraphError: there is no such axis, or the dtype is not floating.
    """
    from dtrain.ops.array import reshape, stop_gradient
    from dtrain.ops.late import shape
    from dtrain.ops.logic import is_finite, where

    x = convert_to_tensor(input_tensor)
    axes = _read_axes(_one_of("axis", axis, "reduction_indices", reduction_indices), x, "reduce_logsumexp")
    kept = bool(_one_of("keepdims", keepdims, "keep_dims", keep_dims))
    largest = apply(Max(axes, True), x)
    largest = stop_gradient(where(is_finite(largest), largest, 0))
    total = log(apply(Sum(axes, kept), exp(x - largest)))
    return add(total, largest if kept else reshape(largest, shape(total)), name=name or "reduce_logsumexp")


def count_nonzero(
    input_tensor: object,
    axis: object = None,
    keepdims: bool | None = None,
    dtype: object = int64,
    name: str | None = None,
    reduction_indices: object = None,
    keep_dims: bool | None = None,
) -> Tensor:
    """The number of entries that are not 0.

    Args:
        input_tensor: a numeric or bool tensor.
        axis: an int or several; None for all axes.
        keepdims: whether the axes stay, with size 1.
        dtype: of the result.
        reduction_indices: the older name of axis.
        name: name of the operation.
        keep_dims: the older name of keepdims.

    Returns:
        Tensor: of dtype.

    Raises:
        GraphError: there is no such axis.
    """
    x = convert_to_tensor(input_tensor)
    there = x if x.dtype.is_bool else not_equal(x, 0)
    return reduce_sum(cast(there, dtype), axis, keepdims, name, reduction_indices, keep_dims)


def argmax(
    input: object,
    axis: object = None,
    name: str | None = None,
    dimension: object = None,
    output_type: object = int64,
) -> Tensor:
    """Index of the first largest entry along an axis.

    As in TensorFlow no NaN is the largest: of a row of NaNs the index is 0.

    Args:
        input: a numeric tensor.
        axis: the axis; by default 0.
        dimension: the older name of axis.
        output_type: dtype of the result, int64 or int32.
        name: name of the operation.

    Returns:
        Tensor: the shape of input without the axis.

    Raises:
        GraphError: there is no such axis.

    Example:
        >>> dt.Session().run(dt.argmax([[1.0, 3.0, 2.0]], 1))
        array([1])
    """
    return _arg(ArgMax, input, _one_of("axis", axis, "dimension", dimension), output_type, name)


def argmin(
    input: object,
    axis: object = None,
    name: str | None = None,
    dimension: object = None,
    output_type: object = int64,
) -> Tensor:
    """Index of the first smallest entry along an axis.

    As in TensorFlow no NaN is the smallest: of a row of NaNs the index is 0.

    Args:
        input: a numeric tensor.
        axis: the axis; by default 0.
        dimension: the older name of axis.
        output_type: dtype of the result, int64 or int32.
        name: name of the operation.

    Returns:
        Tensor: the shape of input without the axis.

    Raises:
        GraphError: there is no such axis.
    """
    return _arg(ArgMin, input, _one_of("axis", axis, "dimension", dimension), output_type, name)


def _arg(kind: type[ArgMax], x: object, axis: object, output_type: object, name: str | None) -> Tensor:
    index = kind(0 if axis is None else static_int(axis, kind.method))
    if as_dtype(output_type) == int64:
        return apply(index, x, name=name or kind.__name__)
    return cast(apply(index, x), output_type, name or kind.__name__)


def arg_max(input: object, dimension: object, output_type: object = int64, name: str | None = None) -> Tensor:
    """argmax by its older name.

    Args:
        input: a numeric tensor.
        dimension: the axis.
        output_type: int64 or int32.
        name: name of the operation.

    Returns:
        Tensor: of output_type, the shape of input without the axis.

    Raises:
        GraphError: there is no such axis.
    """
    return argmax(input, dimension, name, output_type=output_type)


def arg_min(input: object, dimension: object, output_type: object = int64, name: str | None = None) -> Tensor:
    """argmin by its older name.

    Args:
        input: a numeric tensor.
        dimension: the axis.
        output_type: int64 or int32.
        name: name of the operation.

    Returns:
        Tensor: of output_type, the shape of input without the axis.

    Raises:
        GraphError: there is no such axis.
    """
    return argmin(input, dimension, name, output_type=output_type)


def cumsum(
    x: object, axis: object = 0, exclusive: bool = False, reverse: bool = False, name: str | None = None
) -> Tensor:
    """Cumulative sums along an axis.

    Args:
        x: a numeric tensor.
        axis: the axis.
        exclusive: whether each sum leaves out the entry itself.
        reverse: whether the sums start from the end.
        name: name of the operation.

    Returns:
        Tensor: of the shape and dtype of x.

    Raises:
        GraphError: there is no such axis.

    Example:
        >>> dt.Session().run(dt.cumsum([1.0, 2.0, 3.0]))
        array([1., 3., 6.], dtype=float32)
    """
    return apply(Cumsum(static_int(axis, "cumsum"), bool(exclusive), bool(reverse)), x, name=name)
