"""Ops that pick entries by integer tensors: gather, gather_nd, one_hot, and what their gradients need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType, as_dtype, float32, int64
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import normalize_axes
from dtrain.ops.array import expand_dims, reshape
from dtrain.ops.base import (
    Array,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    around,
    convert_to_tensor,
    in_order,
    register,
    to_array,
)
from dtrain.ops.late import Attributes, Later, known_value, late, static_int
from dtrain.ops.logic import where
from dtrain.ops.math import cast, equal
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded


def _index_check(env: Env, indices: Array, n: int, what: str) -> Callable[[], None]:
    """A call that raises for an index outside 0..n-1: one pass, since negative ones are huge unsigned."""
    unsigned = indices.view(f"u{indices.itemsize}")

    def check() -> None:
        if unsigned.size and unsigned.max() >= n:
            bad = indices[unsigned >= n].flat[0]
            raise InvalidArgumentError(f"{what} {bad} is not in 0..{n - 1}.")

    return check if env.on_host else lambda: None


@register
class Gather(Op):
    """Entries of the first input along an axis (rows, by default) picked by an integer tensor."""

    axis: int = 0
    tells = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        params, indices = specs
        if not indices.dtype.is_integer:
            raise GraphError("the indices are not integers")
        if params.shape == ():
            raise GraphError("a scalar has no rows to gather")
        if params.shape is None or indices.shape is None:
            return [Spec(None, params.dtype)]
        (axis,) = normalize_axes(self.axis, len(params.shape), "gather") or ()
        return [Spec((*params.shape[:axis], *indices.shape, *params.shape[axis + 1 :]), params.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        params, indices = ins
        check = _index_check(env, indices, params.shape[self.axis], "gather: the index")
        # "clip", since NumPy gathers into a copy of `out` under its default mode; indices were checked
        mode = {"mode": "clip"} if env.on_host else {}
        take = partial(env.xp.take, params, indices, self.axis, outs[0], **mode)

        def kernel() -> None:
            check()
            take()

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return code.gather(*ins, self.axis, outs[0])

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        params, indices = node.inputs
        return [apply(ScatterAddLike(self.axis), dy, indices, params), None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        params, indices = placements
        axis = self.axis % len(node.inputs[0].spec.shape or ())
        if isinstance(indices, Sharded):
            return [REPLICATED, indices], Sharded(axis + indices.axis)
        if isinstance(params, Sharded) and params.axis != axis:
            more = len(node.inputs[1].spec.shape or ()) - 1 if params.axis > axis else 0
            return placements, Sharded(params.axis + more)
        return (placements, PARTIAL) if params == PARTIAL else None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(), (5, 3), np.array([4, 0, 0, 2], np.int32)),
            Example(cls(), (4,), np.array([[1], [3]])),
            Example(cls(1), (2, 4, 3), np.array([[1, 3, 1], [0, 2, 2]])),
            Example(cls(-1), (2, 3), np.array(2)),
        ]


@register
class ScatterAddLike(Op):
    """Zeros like the third input, with each entry of dy added at its index: gather's gradient."""

    axis: int = 0
    shape_only = (2,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[2].shape, specs[0].dtype)]

    def kernel(self, xp: Any, dy: Array, indices: Array, like: Array, *, out: Array) -> None:
        out.fill(0)
        xp.add.at(out, (slice(None),) * (self.axis % out.ndim) + (indices,), dy)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (dy, indices, _), out = ins, outs[0]
        (outer, rows, inner), n = around(out.shape, self.axis), indices.size
        by_rows = rows <= n  # else out is mostly zero, and a row's first index finds the others
        owners = outer * (rows if by_rows else n) * inner
        words = dy, indices, indices.itemsize, outer, n, inner, rows, int(by_rows), out
        calls = code.kernel("scatter_add", out.dtype, owners, *words)
        return calls if by_rows else in_order(code.move(out, 0), calls)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(Gather(self.axis), dy, node.inputs[1]), None, None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        dy, indices, like = placements
        axis = self.axis % len(node.inputs[2].spec.shape or ())
        if isinstance(indices, Sharded):
            return [Sharded(axis + indices.axis), indices, like], PARTIAL
        if isinstance(dy, Sharded):
            count = len(node.inputs[1].spec.shape or ())
            if dy.axis < axis:
                return placements, dy
            if dy.axis >= axis + count:
                return placements, Sharded(dy.axis - count + 1)
            return [dy, Sharded(dy.axis - axis), like], PARTIAL
        return ([dy, indices, like], PARTIAL) if dy == PARTIAL else None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(), (4, 3), np.array([4, 0, 0, 2], np.int32), (5, 3)),
            Example(cls(1), (2, 2, 3, 4), np.array([[1, 3, 1], [0, 2, 2]]), (2, 5, 4)),
        ]


@register
class GatherNd(Op):
    """Entries of the first input at positions that lie along the second's last axis."""

    tells = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        params, indices = specs
        if not indices.dtype.is_integer:
            raise GraphError("the indices are not integers")
        if indices.shape == ():
            raise GraphError("the indices need a last axis to be positions along")
        if params.shape is None or indices.shape is None or indices.shape[-1] is None:
            return [Spec(None, params.dtype)]
        if not 1 <= indices.shape[-1] <= len(params.shape):
            raise GraphError(f"positions of {indices.shape[-1]} axes in a tensor of {len(params.shape)}")
        return [Spec((*indices.shape[:-1], *params.shape[indices.shape[-1] :]), params.dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        params, positions = inputs
        outer, rest = _cut(params, positions)
        return gather(reshape(params, (-1, *rest)), apply(FlatIndex(outer), cast(positions, int64)))

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        params, indices = node.inputs
        return [apply(ScatterNdAddLike(), dy, indices, params), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(), (3, 4), np.array([[2, 1], [0, 0], [2, 1]], np.int32)),
            Example(cls(), (3, 4), np.array([[[2], [0]], [[1], [2]], [[0], [0]]])),
        ]


@register
class ScatterNdAddLike(Op):
    """Zeros like the third input, with dy added at the positions: gather_nd's gradient."""

    shape_only = (2,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[2].shape, specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        dy, positions, like = inputs
        outer, rest = _cut(like, positions)
        index = apply(FlatIndex(outer), cast(positions, int64))
        return reshape(apply(ScatterAddLike(), dy, index, reshape(like, (-1, *rest))), (*outer, *rest))

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(GatherNd(), dy, node.inputs[1]), None, None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (3,), np.array([[2, 1], [0, 0], [2, 1]], np.int32), (3, 4))]


def _cut(params: Tensor, positions: Tensor) -> tuple[Any, Any]:
    """The sizes of the axes that positions go along, and of the others."""
    count = (positions.spec.shape or ())[-1]
    return (params.spec.shape or ())[:count], (params.spec.shape or ())[count:]


@register
class FlatIndex(Op):
    """The number, row by row in an array of this shape, of each position along the input's last axis."""

    shape: tuple[int, ...]
    tells = (0,)
    no_gradient = "its result is an index"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        return [Spec(None if shape is None else shape[:-1], int64)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, positions, out = env.xp, ins[0], outs[0]
        parts = [positions[..., axis] for axis in range(len(self.shape))]
        checks = [
            _index_check(env, part, n, f"gather_nd: axis {axis}: the index")
            for axis, (part, n) in enumerate(zip(parts, self.shape, strict=True))
        ]

        def kernel() -> None:
            out.fill(0)
            for check, part, n in zip(checks, parts, self.shape, strict=True):
                check()
                xp.multiply(out, n, out)
                xp.add(out, part, out)

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        words = ins[0], outs[0].size, len(self.shape), code.constant(np.array(self.shape)), outs[0]
        return code.kernel("flat_index", ins[0].dtype, outs[0].size, *words)

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        at = placements[0]
        if isinstance(at, Sharded) and at.axis < len(node.inputs[0].spec.shape or ()) - 1:
            return placements, at
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls((3, 4)), np.array([[2, 1], [0, 0], [2, 3]], np.int32)),
            Example(cls((3,)), np.array([[[2], [0]], [[1], [2]]], np.uint8)),
        ]


@register
class OneHot(Op):
    """`on` at each index along a new axis of `depth`, `off` elsewhere; an index out of range has no `on`."""

    depth: int | Later
    dtype: DType
    on: float = 1
    off: float = 0
    axis: int = -1
    no_gradient = "its input is an index"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if not specs[0].dtype.is_integer:
            raise GraphError("the indices are not integers")
        shape = specs[0].shape
        if shape is None:
            return [Spec(None, self.dtype)]
        (axis,) = normalize_axes(self.axis, len(shape) + 1, "one_hot") or ()
        depth = None if isinstance(self.depth, Later) else self.depth
        return [Spec((*shape[:axis], depth, *shape[axis:]), self.dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        labels, rank = inputs[0], len(node.outputs[0].spec.shape or ())
        assert isinstance(self.depth, int)
        if self.depth - 1 > np.iinfo(labels.dtype.numpy).max:
            labels = cast(labels, int64)
        classes = np.arange(self.depth, dtype=labels.dtype.numpy)
        is_class = equal(
            expand_dims(labels, self.axis), classes.reshape(-1, *[1] * (rank - 1 - self.axis % rank))
        )
        if (self.on, self.off) == (1, 0):
            return cast(is_class, self.dtype)
        on, off = (np.array(value, self.dtype.numpy) for value in (self.on, self.off))
        return where(is_class, on, off)

    @classmethod
    def examples(cls) -> list[Example]:
        labels = np.array([[3, 0, 7], [1, 1, 2]], np.int32)
        return [
            Example(cls(4, float32), labels[0]),
            Example(cls(4, float32, 0.5, -1.5, 0), labels),
            Example(cls(4, float32, 2, 0, 1), labels),
        ]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def gather(
    params: Any, indices: Any, validate_indices: bool | None = None, name: str | None = None, axis: Any = 0
) -> Tensor:
    """Slices of params at indices along an axis.

    Args:
        params: a tensor.
        indices: an integer tensor.
        validate_indices: accepted for TensorFlow 1; indices are always checked.
        axis: the axis of params.
        name: name of the operation.

    Returns:
        Tensor: of shape params.shape[:axis] + indices.shape + params.shape[axis + 1:].

    Raises:
        GraphError: indices are not integers, or there is no such axis.
        InvalidArgumentError: while running, for an index out of range.

    Example:
        >>> dt.Session().run(dt.gather([10.0, 20.0, 30.0], [2, 0]))
        array([30., 10.], dtype=float32)
    """
    return apply(Gather(static_int(axis, "gather")), params, indices, name=name)


def gather_nd(params: Any, indices: Any, name: str | None = None) -> Tensor:
    """Slices of params at positions.

    Args:
        params: a tensor.
        indices: an integer tensor [..., n]: each row of the last axis is a position in the first n axes of
            params.
        name: name of the operation.

    Returns:
        Tensor: of shape indices.shape[:-1] + params.shape[n:].

    Raises:
        GraphError: indices are not integers, or n exceeds the rank of params.
    """
    return apply(GatherNd(), params, indices, name=name)


def boolean_mask(tensor: Any, mask: Any, name: str = "boolean_mask", axis: int = 0) -> Tensor:
    """The entries along an axis where a mask is true.

    Args:
        tensor: a tensor or array.
        mask: bools of rank 1, as long as the axis; a constant, since the size of the result must be known.
        axis: the axis.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of tensor.

    Raises:
        GraphError: the mask is computed by the graph, not of rank 1, or not as long as the axis.
    """
    x = convert_to_tensor(tensor)
    known = known_value(convert_to_tensor(mask))
    if known is None or known.dtype != bool or known.ndim != 1:
        raise GraphError(
            "boolean_mask takes a constant mask of rank 1: a plan has fixed shapes, and how many entries a "
            "computed mask keeps is not known before. dt.where(mask, x, 0) keeps the shape."
        )
    dims = x.spec.shape
    if dims is not None and -len(dims) <= axis < len(dims) and dims[axis] not in (None, len(known)):
        raise GraphError(
            f"boolean_mask: axis {axis} of {x!r} has {dims[axis]} entries, the mask {len(known)}."
        )
    return gather(x, np.flatnonzero(known), name=name, axis=axis)


def one_hot(
    indices: Any,
    depth: Any,
    on_value: Any = None,
    off_value: Any = None,
    axis: Any = None,
    dtype: Any = None,
    name: str | None = None,
) -> Tensor:
    """Indices as rows of one on_value among off_values, along a new axis.

    Args:
        indices: an integer tensor; an index out of range makes a row of off_values.
        depth: size of the new axis.
        on_value: by default 1.
        off_value: by default 0.
        axis: place of the new axis; by default the last.
        dtype: by default that of on_value or off_value, else float32.
        name: name of the operation.

    Returns:
        Tensor: the shape of indices with depth at the axis.

    Raises:
        GraphError: indices are not integers, or there is no such axis.

    Example:
        >>> dt.Session().run(dt.one_hot([1, 0], 3))
        array([[0., 1., 0.],
               [1., 0., 0.]], dtype=float32)
    """
    given = [v for v in (on_value, off_value) if v is not None]
    if dtype is None:
        dtype = convert_to_tensor(given[0]).dtype if given else float32
    kind = as_dtype(dtype)
    values = [_number(v, kind) for v in (1 if on_value is None else on_value, off_value or 0)]
    attributes = Attributes()
    depth = attributes.scalar(depth, "one_hot: depth")
    place = -1 if axis is None else static_int(axis, "one_hot: axis")
    return late(OneHot(depth, kind, *values, place), [indices], attributes.values, name)


def _number(value: Any, dtype: DType) -> Any:
    if isinstance(value, TensorLike):
        value = known_value(convert_to_tensor(value, dtype))
        if value is None:
            raise GraphError("one_hot: on_value and off_value are numbers or constants")
    return to_array(value, dtype).item()
