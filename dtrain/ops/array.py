"""Ops that move or repeat values without computing any: identity, reshape, transpose, fill, broadcast_to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from numbers import Number
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, as_dtype, float32
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import broadcast, compatible, is_static, normalize_axes, shape_text, size_of
from dtrain.ops.base import (
    Array,
    Const,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    Value,
    apply,
    convert_to_tensor,
    in_order,
    in_turn,
    register,
    to_array,
)
from dtrain.ops.late import Attributes, Later, as_known_dims, dims_of, late, shape, static_int, static_ints
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded


class Move(Op):
    """Ops that compute nothing: in turn, views of the outputs become a number or views of the inputs."""

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        """Each part of an output with what goes there, which broadcasts to it."""
        return [(outs[0], ins[0])]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        copyto = env.xp.copyto
        return in_turn(
            [
                partial(to.fill, x) if isinstance(x, Number) else partial(copyto, to, x)
                for to, x in self.moves(ins, outs)
            ]
        )

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return in_order(*(code.move(to, x) for to, x in self.moves(ins, outs)))


@register
class Identity(Move):
    """A copy: what a fetch or a control dependency can hold on to."""

    inplace = (0,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return None if node.control_inputs else inputs[0]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return placements, placements[0]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 3))]


@register
class StopGradient(Identity):
    no_gradient = "stopping the gradient is what it is for"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [None]


@register
class Reshape(Op):
    """The same values in row-major order under another shape; one size may be -1."""

    shape: tuple[int | Later, ...] | Later
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x = specs[0]
        if isinstance(self.shape, Later):
            return [Spec(None, x.dtype)]
        known = [d for d in self.shape if not isinstance(d, Later) and d != -1]
        if self.shape.count(-1) > 1 or any(d < 0 for d in known):
            raise GraphError(f"{list(self.shape)} is not a shape to reshape to: at most one size may be -1")
        count = size_of(tuple(known))
        missing = len(self.shape) - len(known)
        if not is_static(x.shape) or missing > 1:
            return [Spec(tuple(None if d == -1 else d for d in dims_of(self.shape) or ()), x.dtype)]
        total = size_of(x.shape)
        if (not missing and total != count) or (missing and (count == 0 or total % count)):
            raise GraphError(f"{total} values do not fill the shape {shape_text(dims_of(self.shape))}")
        return [Spec(tuple(d if d in known else total // count for d in self.shape), x.dtype)]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReshapeLike(), dy, node.inputs[0])]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        shape = self.infer(inputs[0].spec)[0].shape
        if shape == inputs[0].spec.shape:
            return inputs[0]
        return None if shape == self.shape else apply(Reshape(shape), inputs[0])

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        before, after = node.inputs[0].spec.shape, node.outputs[0].spec.shape
        rows_stay = bool(before) and bool(after) and before[0] == after[0]  # type: ignore[index]  # they have axes
        if placements[0] == PARTIAL or (placements[0] == Sharded(0) and rows_stay):
            return placements, placements[0]
        return None

    def place_evenly(self, placements: Sequence[Placement], node: Operation, ranks: int) -> Placed:
        """Equal shares of the rows are equal shares of all entries, as of [batch, time, n] as [rows, n]."""
        sizes = [t.spec.shape and t.spec.shape[0] for t in (node.inputs[0], node.outputs[0])]
        even = all(n and n % ranks == 0 for n in sizes)
        return (placements, placements[0]) if even and placements[0] == Sharded(0) else None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((4, -1)), (2, 6)), Example(cls((6,)), (2, 3))]


@register
class ReshapeLike(Op):
    """x in the shape of the second input: a reshape's gradient."""

    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return reshape(inputs[0], inputs[1].spec.shape)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReshapeLike(), dy, node.inputs[0]), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 6), (3, 4))]


@register
class ExpandDims(Op):
    """A size-1 axis more."""

    axis: int
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if shape is None:
            return [specs[0]]
        rank = len(shape) + 1
        if not -rank <= self.axis < rank:
            raise GraphError(f"axis {self.axis} is not one of a result of rank {rank}")
        at = self.axis % rank
        return [Spec((*shape[:at], 1, *shape[at:]), specs[0].dtype)]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReshapeLike(), dy, node.inputs[0])]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        shape = node.outputs[0].spec.shape
        assert shape is not None
        if isinstance(placement, Sharded):
            at = self.axis % len(shape)
            return placements, Sharded(placement.axis + (at <= placement.axis))
        return placements, placement

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(0), (2, 3)), Example(cls(-1), (2, 3))]


@register
class Squeeze(Op):
    """Without some axes of size 1: those given, or (None) all that there are."""

    axes: tuple[int, ...] | None
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if shape is None or (self.axes is None and None in shape):
            return [Spec(None, specs[0].dtype)]
        gone = self._gone(shape)
        for axis in gone:
            if shape[axis] not in (1, None):
                raise GraphError(f"axis {axis} has size {shape[axis]}: only size 1 can be squeezed away")
        return [Spec(tuple(d for i, d in enumerate(shape) if i not in gone), specs[0].dtype)]

    def _gone(self, shape: tuple[int | None, ...]) -> tuple[int, ...]:
        if self.axes is None:
            return tuple(i for i, d in enumerate(shape) if d == 1)
        return normalize_axes(self.axes, len(shape), "squeeze") or ()

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReshapeLike(), dy, node.inputs[0])]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if isinstance(placement, Sharded):
            gone = self._gone(node.inputs[0].spec.shape or ())
            if placement.axis in gone:
                return None
            return placements, Sharded(placement.axis - sum(a < placement.axis for a in gone))
        return placements, placement

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(None), (2, 1, 3, 1)),
            Example(cls((-3,)), (2, 1, 3, 1)),
            Example(cls((0,)), (1, 2)),
        ]


@register
class Transpose(Op):
    """Axes in another order."""

    perm: tuple[int, ...]
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if shape is None:
            return [Spec((None,) * len(self.perm), specs[0].dtype)]
        if sorted(self.perm) != list(range(len(shape))):
            raise GraphError(f"perm {list(self.perm)} is no order of the axes of {shape_text(shape)}")
        return [Spec(tuple(shape[p] for p in self.perm), specs[0].dtype)]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x.transpose(self.perm)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(Transpose(tuple(int(i) for i in np.argsort(self.perm))), dy)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if isinstance(placement, Sharded):
            return placements, Sharded(self.perm.index(placement.axis))
        return placements, placement

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((1, 0)), (2, 3)), Example(cls((2, 0, 1)), (2, 3, 4))]


@register
class Fill(Move):
    """One number everywhere; kept as an op so that large zeros take no memory in the graph."""

    shape: tuple[int | Later, ...] | Later
    dtype: DType
    value: float

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(dims_of(self.shape), self.dtype)]

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        return [(outs[0], self.value)]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((2, 3), float32, 1.5))]


@register
class BroadcastTo(Move):
    """The input repeated to a shape, as broadcasting would."""

    shape: tuple[int | Later, ...] | Later

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x, dims = specs[0], dims_of(self.shape)
        wide = broadcast(x.shape, dims)
        if wide is not None and dims is not None and not compatible(wide, dims):
            raise GraphError(f"shape {shape_text(x.shape)} does not broadcast to {shape_text(dims)}")
        return [Spec(dims if wide is None else wide, x.dtype)]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(SumLike(), dy, node.inputs[0])]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return inputs[0] if inputs[0].spec == node.outputs[0].spec else None

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if not isinstance(placement, Sharded):
            return placements, placement
        x, out = node.inputs[0].spec.shape or (), node.outputs[0].spec.shape or ()
        axis = placement.axis + len(out) - len(x)
        return (placements, Sharded(axis)) if x[placement.axis] == out[axis] else None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((2, 3)), (3,)), Example(cls((4, 2, 3)), (2, 1)), Example(cls((2,)), ())]


@register
class BroadcastLike(Move):
    """dy over the axes that a reduction of the second input summed away, None for all: a sum's gradient."""

    axes: tuple[int, ...] | None
    keepdims: bool
    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        dy, out = ins[0], outs[0]
        if not self.keepdims and self.axes is not None:
            axes = [None if axis in self.axes else slice(None) for axis in range(out.ndim)]
            dy = dy[tuple([*axes, ...])]
        return [(out, dy)]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        from dtrain.ops.reduce import Sum

        return [apply(Sum(self.axes, self.keepdims), dy), None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        like = placements[1]
        if not isinstance(like, Sharded):
            return None
        if self.axes is None or like.axis in self.axes:
            return [REPLICATED, like], like
        own = like.axis if self.keepdims else like.axis - sum(a < like.axis for a in self.axes)
        return [Sharded(own), like], like

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls((0,), False), (3,), (2, 3)),
            Example(cls((0, 1), True), (1, 1), (2, 3)),
            Example(cls(None, False), (), (2, 3)),
            Example(cls((), False), (), ()),
        ]


@register
class SumLike(Op):
    """dy summed over the axes along which the second input was broadcast: broadcasting's gradient."""

    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        from dtrain.ops.reduce import Sum

        dy, like = inputs
        wide, narrow = dy.spec.shape, like.spec.shape
        assert wide is not None and narrow is not None
        padded = (1,) * (len(wide) - len(narrow)) + narrow
        axes = tuple(i for i, (w, n) in enumerate(zip(wide, padded, strict=True)) if w != n)
        lost = tuple(range(len(wide) - len(narrow)))
        if axes == lost:  # nothing is kept as a size-1 axis, so no reshape is needed
            return apply(Sum(axes, False), dy) if axes else dy
        return reshape(apply(Sum(axes, True), dy) if axes else dy, narrow)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        from dtrain.ops.math import add

        return [add(dy, apply(ZerosLike(), node.inputs[0])), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 3), (3,)), Example(cls(), (4, 2, 3), (2, 1)), Example(cls(), (2, 3), ())]


@register
class ZerosLike(Op):
    """Zeros in the shape of the input."""

    shape_only = (0,)
    no_gradient = "it is constant"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        spec = inputs[0].spec
        return apply(Fill(spec.shape, spec.dtype, 0.0))

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 3))]


@register
class CountLike(Op):
    """How many entries of the input lie along some axes (None: all), over all ranks: a mean's divisor."""

    axes: tuple[int, ...] | None
    shape_only = (0,)
    no_gradient = "it is a count"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        spec = inputs[0].spec
        assert spec.shape is not None
        axes = range(len(spec.shape)) if self.axes is None else self.axes
        count = size_of(tuple(spec.shape[a] for a in axes))
        return apply(Const(Value(np.array(count, spec.dtype.numpy))))

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((0,)), (2, 3)), Example(cls(None), (2, 3))]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def identity(input: Any, name: str | None = None) -> Tensor:
    """The same values, as an operation of its own.

    Args:
        input: a tensor or array.
        name: name of the operation.

    Returns:
        Tensor: of the shape and dtype of input.
    """
    return apply(Identity(), input, name=name)


def stop_gradient(input: Any, name: str | None = None) -> Tensor:
    """The same values, constant to gradients.

    Args:
        input: a tensor or array.
        name: name of the operation.

    Returns:
        Tensor: of the shape and dtype of input.
    """
    return apply(StopGradient(), input, name=name)


def reshape(tensor: Any, shape: Any, name: str | None = None) -> Tensor:
    """A tensor in another shape, its entries in the same (row-major) order.

    Args:
        tensor: a tensor or array.
        shape: ints, of which one may be -1 for what is left, or tensors that follow from shapes.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: the numbers of entries differ.

    Example:
        >>> dt.reshape(dt.zeros([2, 6]), [3, -1]).shape.as_list()
        [3, 4]
    """
    attributes = Attributes()
    if not isinstance(shape, TensorLike):
        shape = list(shape) if hasattr(shape, "__iter__") else [shape]
        if any(getattr(s, "value", s) is None for s in shape if not isinstance(s, TensorLike)):
            raise GraphError(f"reshape to {shape}: write -1 for the size that follows from the others.")
    dims = attributes.vector(shape, "reshape")
    return late(Reshape(dims), [tensor], attributes.values, name)


def expand_dims(input: Any, axis: Any = None, name: str | None = None, dim: Any = None) -> Tensor:
    """A tensor with a new axis of size 1.

    Args:
        input: a tensor or array.
        axis: the place of the new axis; negative counts from the end.
        dim: the older name of axis.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: the axis is missing or out of range.
    """
    if (axis is None) == (dim is None):
        raise GraphError("expand_dims needs axis, or by its older name dim, and not both.")
    return apply(ExpandDims(static_int(dim if axis is None else axis, "expand_dims")), input, name=name)


def squeeze(input: Any, axis: Any = None, name: str | None = None, squeeze_dims: Any = None) -> Tensor:
    """A tensor without axes of size 1.

    Args:
        input: a tensor or array.
        axis: the axes to remove; by default all of size 1.
        squeeze_dims: the older name of axis.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: an axis has another size than 1.
    """
    if axis is not None and squeeze_dims is not None:
        raise GraphError("squeeze_dims is the older name of axis: give one of them.")
    axis = squeeze_dims if axis is None else axis
    given = () if axis is None else static_ints(axis, "squeeze")
    return apply(Squeeze(given or None), input, name=name)  # [] means all, as in TensorFlow 1


def transpose(a: Any, perm: Any = None, name: str | None = None) -> Tensor:
    """A tensor with its axes in another order.

    Args:
        a: a tensor or array.
        perm: for each axis of the result the axis of a; by default the reverse order.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: perm is not a permutation of the axes.

    Example:
        >>> dt.transpose(dt.zeros([2, 3, 4]), [2, 0, 1]).shape.as_list()
        [4, 2, 3]
    """
    a = convert_to_tensor(a)
    order = range(len(a.shape))[::-1] if perm is None else static_ints(perm, "transpose")
    return apply(Transpose(tuple(order)), a, name=name)


def matrix_transpose(a: Any, name: str | None = None) -> Tensor:
    """A tensor with its last two axes exchanged.

    Args:
        a: a tensor [..., m, n].
        name: name of the operation.

    Returns:
        Tensor: [..., n, m].

    Raises:
        GraphError: the rank is unknown or less than 2.
    """
    a = convert_to_tensor(a)
    count = len(a.shape)
    if count < 2:
        raise GraphError(f"matrix_transpose: {a!r} is no matrix")
    return transpose(a, [*range(count - 2), count - 1, count - 2], name)


def broadcast_to(input: Any, shape: Any, name: str | None = None) -> Tensor:
    """A tensor broadcast to a shape.

    Args:
        input: a tensor or array.
        shape: ints, or a tensor that follows from shapes.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of input.

    Raises:
        GraphError: input does not broadcast to the shape.
    """
    dims, values = as_known_dims(shape, "broadcast_to")
    return late(BroadcastTo(dims), [input], values, name)


def fill(dims: Any, value: Any, name: str | None = None) -> Tensor:
    """A tensor of one value.

    Args:
        dims: the shape: ints, or a tensor that follows from shapes.
        value: a number or a scalar tensor; a Python float is float32, an int int32.
        name: name of the operation.

    Returns:
        Tensor: of this shape.
    """
    if isinstance(value, TensorLike):
        if value.shape not in ((), None):
            raise GraphError(f"fill: {value!r} is not a scalar")
        return broadcast_to(value, dims, name or "Fill")
    array = to_array(value, None)
    if array.ndim:
        raise GraphError(f"fill: {value!r} is not a scalar")
    return _filled(dims, array.item(), as_dtype(array.dtype), name)


def _filled(shape: Any, value: Any, dtype: Any, name: str | None) -> Tensor:
    dims, values = as_known_dims(shape, name or "Fill")
    return late(Fill(dims, as_dtype(dtype), value), (), values, name)


def zeros(shape: Any, dtype: Any = float32, name: str | None = None) -> Tensor:
    """A tensor of zeros; of False for bool.

    Args:
        shape: ints, or a tensor that follows from shapes.
        dtype: of the result.
        name: name of the operation.

    Returns:
        Tensor: of this shape and dtype.

    Raises:
        GraphError: there is no such dtype.
    """
    return _filled(shape, 0, dtype, name or "zeros")


def ones(shape: Any, dtype: Any = float32, name: str | None = None) -> Tensor:
    """A tensor of ones; of True for bool.

    Args:
        shape: ints, or a tensor that follows from shapes.
        dtype: of the result.
        name: name of the operation.

    Returns:
        Tensor: of this shape and dtype.

    Raises:
        GraphError: there is no such dtype.
    """
    return _filled(shape, 1, dtype, name or "ones")


def zeros_like(tensor: Any, dtype: Any = None, name: str | None = None, optimize: bool = True) -> Tensor:
    """Zeros in the shape of a tensor.

    Args:
        tensor: a tensor or array.
        dtype: by default the tensor's.
        optimize: accepted for TensorFlow 1; without effect.
        name: name of the operation.

    Returns:
        Tensor: of the shape of tensor.

    Raises:
        GraphError: there is no such dtype.
    """
    x = convert_to_tensor(tensor)
    return _filled(shape(x), 0, x.dtype if dtype is None else dtype, name or "zeros_like")


def ones_like(tensor: Any, dtype: Any = None, name: str | None = None, optimize: bool = True) -> Tensor:
    """Ones in the shape of a tensor.

    Args:
        tensor: a tensor or array.
        dtype: by default the tensor's.
        optimize: accepted for TensorFlow 1; without effect.
        name: name of the operation.

    Returns:
        Tensor: of the shape of tensor.

    Raises:
        GraphError: there is no such dtype.
    """
    x = convert_to_tensor(tensor)
    return _filled(shape(x), 1, x.dtype if dtype is None else dtype, name or "ones_like")
