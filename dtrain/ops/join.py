"""Ops that put tensors together and take them apart: concat, stack, split, unstack, tile, pad."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import Dims, compatible, merge, normalize_axes, shape_text
from dtrain.ops.array import Move, Squeeze, ZerosLike, expand_dims, identity, reshape
from dtrain.ops.base import (
    Array,
    Env,
    Example,
    Op,
    Placed,
    apply,
    constant,
    convert_to_tensor,
    register,
)
from dtrain.ops.late import Attributes, Later, dims_of, known_value, late, static_int, static_ints
from dtrain.ops.placement import PARTIAL, Placement, Sharded
from dtrain.ops.slicing import WHOLE, Run, Span, StridedSlice


def _place_beside(axis: int, placements: Sequence[Placement]) -> Placed:
    """The place rule of ops that work along one axis and treat the others' entries the same, and linearly."""
    if all(p == PARTIAL for p in placements):
        return placements, PARTIAL
    axes = {p.axis for p in placements if isinstance(p, Sharded)}
    if PARTIAL in placements or len(axes) != 1 or axis in axes:
        return None
    return [Sharded(a) for a in axes] * len(placements), Sharded(*axes)


# -- concat and split --------------------------------------------------------------------------------------
@register
class Concat(Move):
    """The inputs one after the other along an axis."""

    axis: int
    count: int

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        dims: Dims = None
        for spec in specs:
            if spec.dtype != specs[0].dtype:
                raise GraphError(
                    f"dtypes {specs[0].dtype.name} and {spec.dtype.name} differ; use cast on one of them"
                )
            if spec.shape is not None:
                (axis,) = normalize_axes(self.axis, len(spec.shape), "concat") or ()
                others = (*spec.shape[:axis], None, *spec.shape[axis + 1 :])
                if not compatible(dims, others):
                    raise GraphError(
                        f"shapes {shape_text(specs[0].shape)} and {shape_text(spec.shape)} differ "
                        f"elsewhere than in axis {axis}"
                    )
                dims = merge(dims, others)
        if dims is None:
            return [Spec(None, specs[0].dtype)]
        axis = self.axis % len(dims)
        sizes = [None if s.shape is None else s.shape[axis] for s in specs]
        total = None if None in sizes else sum(s for s in sizes if s is not None)
        return [Spec((*dims[:axis], total, *dims[axis + 1 :]), specs[0].dtype)]

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        return list(zip(_parts(outs[0], self.axis, ins), ins, strict=True))

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ConcatPart(self.axis, i, self.count), dy, *node.inputs) for i in range(self.count)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return inputs[0] if self.count == 1 else None

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return _place_beside(self.axis % len(node.outputs[0].spec.shape or ()), placements)

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(0, 2), (2, 3), (4, 3)),
            Example(cls(-1, 3), (2, 3), (2, 1), (2, 2)),
            Example(cls(1, 2), (2, 0, 3), (2, 1, 3)),
        ]


@register
class ConcatPart(Op):
    """The part of the first input that the index-th of the others has in their concatenation."""

    axis: int
    index: int
    count: int

    @property
    def shape_only(self) -> tuple[int, ...]:  # type: ignore[override]  # by its attributes
        return tuple(range(1, 1 + self.count))

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1 + self.index].shape, specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        shapes = [t.spec.shape or () for t in inputs[1:]]
        axis = self.axis % len(shapes[0])
        begin = sum(s[axis] or 0 for s in shapes[: self.index])
        run = Run(begin, shapes[self.index][axis] or 0)
        return apply(StridedSlice((WHOLE,) * axis + (run,)), inputs[0])

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        xs = node.inputs[1:]
        parts = [dy if i == self.index else apply(ZerosLike(), x) for i, x in enumerate(xs)]
        return [apply(Concat(self.axis, len(xs)), *parts), *[None] * len(xs)]

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(0, 1, 2), (6, 3), (2, 3), (4, 3)),
            Example(cls(-1, 0, 2), (2, 3), (2, 1), (2, 2)),
        ]


@register
class Split(Move):
    """The input cut along an axis: into `count` equal parts (sizes None), or of these sizes, one maybe -1."""

    axis: int
    count: int
    sizes: tuple[int | Later, ...] | None = None

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape, dtype = specs[0]
        if shape is None:
            return [Spec(None, dtype)] * self.count
        (axis,) = normalize_axes(self.axis, len(shape), "split") or ()
        sizes = self._sizes(shape[axis])
        return [Spec((*shape[:axis], size, *shape[axis + 1 :]), dtype) for size in sizes]

    def _sizes(self, n: int | None) -> list[int | None]:
        if self.sizes is None:
            if n is not None and n % self.count:
                raise GraphError(f"{n} entries do not split into {self.count} equal parts")
            return [None if n is None else n // self.count] * self.count
        sizes = dims_of(self.sizes) or ()
        if n is None or None in sizes:
            return [None if s == -1 else s for s in sizes]
        known = sum(s for s in sizes if s not in (-1, None))
        rest = n - known if -1 in sizes else 0
        if rest < 0 or known + rest != n or sizes.count(-1) > 1:
            raise GraphError(f"sizes {list(sizes)} do not make up the {n} entries of the axis")
        return [rest if s == -1 else s for s in sizes]

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        return list(zip(outs, _parts(ins[0], self.axis, outs), strict=True))

    def grad(self, node: Operation, *dys: Tensor | None) -> Sequence[Tensor | None]:
        parts = [apply(ZerosLike(), y) if dy is None else dy for y, dy in zip(node.outputs, dys, strict=True)]
        return [apply(Concat(self.axis, self.count), *parts)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return _place_beside(self.axis % len(node.inputs[0].spec.shape or ()), placements)

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(0, 2), (4, 3)),
            Example(cls(-1, 3, (1, -1, 2)), (2, 5)),
            Example(cls(1, 2, (0, 2)), (3, 2)),
        ]


def _parts(whole: Array, axis: int, like: Sequence[Array]) -> list[Array]:
    """Those that arrays, one after the other along an axis, have of the whole."""
    ends = np.cumsum([0, *(x.shape[axis] for x in like)]).tolist()
    lead = (slice(None),) * (axis % whole.ndim)
    return [whole[lead + (slice(a, b),)] for a, b in pairwise(ends)]  # noqa: RUF005


# -- tile and pad ------------------------------------------------------------------------------------------
@register
class Tile(Move):
    """The input repeated so many times along each axis."""

    multiples: tuple[int | Later, ...]

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape, times = specs[0].shape, dims_of(self.multiples) or ()
        if any(m is not None and m < 0 for m in times):
            raise GraphError(f"multiples {list(times)} are not all 0 or more")
        if shape is None:
            return [Spec((None,) * len(times), specs[0].dtype)]
        if len(shape) != len(times):
            raise GraphError(f"{len(times)} multiples for the {len(shape)} axes of {shape_text(shape)}")
        dims = tuple(None if d is None or m is None else d * m for d, m in zip(shape, times, strict=True))
        return [Spec(dims, specs[0].dtype)]

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        # both with an axis more before each, along which the input is repeated
        x, out = ins[0], outs[0]
        pairs = [n for m, d in zip(self.multiples, x.shape, strict=True) for n in (m, d)]
        # not by reshape, which might copy the values as they are now
        return [(out.reshape(pairs), x[(None, slice(None)) * x.ndim + (...,)])]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [late(TileGrad(self.multiples), [dy, node.inputs[0]], node.inputs[1:])]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if isinstance(placement, Sharded) and self.multiples[placement.axis] != 1:
            return None
        return placements, placement

    @classmethod
    def examples(cls) -> list[Example]:
        inputs = {(2, 1, 3): (2, 3, 1), (1, 2): (3, 2), (0,): (3,), (): ()}
        return [Example(cls(multiples), shape) for multiples, shape in inputs.items()]


@register
class TileGrad(Op):
    """dy summed over the repetitions of the second input that tile made."""

    multiples: tuple[int | Later, ...]
    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        from dtrain.ops.reduce import Sum

        sizes: list[int] = []
        axes: list[int] = []
        for times, d in zip(self.multiples, inputs[1].spec.shape or (), strict=True):
            if times != 1:  # an axis of its own only where it is needed, so that rows stay where they are
                axes.append(len(sizes))
                sizes.append(times)  # type: ignore[arg-type]  # known in a plan
            sizes.append(d or 0)
        return apply(Sum(tuple(axes), False), reshape(inputs[0], sizes)) if axes else inputs[0]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [late(Tile(self.multiples), [dy], node.inputs[2:]), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((2, 1, 3)), (4, 3, 3), (2, 3, 1)), Example(cls((1, 1)), (2, 3), (2, 3))]


class _Padding(Op):
    paddings: tuple[tuple[int | Later, int | Later], ...]
    sign = 1

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape, pairs = specs[0].shape, [dims_of(pair) or () for pair in self.paddings]
        if any(p is not None and p < 0 for pair in pairs for p in pair):
            raise GraphError(f"paddings {[list(pair) for pair in pairs]} are not all 0 or more")
        if shape is None:
            return [Spec((None,) * len(pairs), specs[0].dtype)]
        if len(shape) != len(pairs):
            raise GraphError(f"{len(pairs)} paddings for the {len(shape)} axes of {shape_text(shape)}")
        dims = []
        for d, (low, high) in zip(shape, pairs, strict=True):
            dims.append(None if None in (d, low, high) else d + self.sign * (low + high))  # type: ignore[operator]  # none is None or Later
        return [Spec(tuple(dims), specs[0].dtype)]

    def inner(self, wide: Array) -> Array:
        """The part of a padded array that is not padding."""
        inner = [slice(a, n - b) for n, (a, b) in zip(wide.shape, self.paddings, strict=True)]
        return wide[tuple([*inner, ...])]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if isinstance(placement, Sharded) and self.paddings[placement.axis] != (0, 0):
            return None
        return placements, placement


@register
class Pad(_Padding, Move):
    """The input with so many entries of one value before and after along each axis."""

    paddings: tuple[tuple[int | Later, int | Later], ...]
    value: float = 0

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        return [(outs[0], self.value), (self.inner(outs[0]), ins[0])]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [late(Unpad(self.paddings), [dy], node.inputs[1:])]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return None if self.value and PARTIAL in placements else super().place(placements, node)

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(((1, 2), (0, 0))), (2, 3)),
            Example(cls(((0, 0), (2, 0)), -1.5), (2, 3)),
            Example(cls(()), ()),
        ]


@register
class Unpad(_Padding):
    """The input without so many entries before and after along each axis: a padding's gradient."""

    paddings: tuple[tuple[int | Later, int | Later], ...]
    sign = -1
    is_view = True

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return self.inner(x)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [late(Pad(self.paddings), [dy], node.inputs[1:])]

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(((1, 2), (0, 0))), (5, 3)),
            Example(cls(((0, 0), (2, 1))), (2, 4)),
            Example(cls(()), ()),
        ]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def _tensors(values: Any, what: str) -> list[Tensor]:
    """Several values as tensors of one dtype: that of the first that is a tensor already."""
    if isinstance(values, TensorLike):
        values = [values]
    if not isinstance(values, Sequence | np.ndarray) or not len(values):
        raise GraphError(f"{what}: {values!r} is not a list of one tensor or more")
    dtype = next((v.dtype for v in values if isinstance(v, TensorLike)), None)
    return [convert_to_tensor(v, None if isinstance(v, TensorLike) else dtype) for v in values]


def concat(values: Any, axis: Any, name: str | None = None) -> Tensor:
    """Tensors joined along an axis.

    Args:
        values: tensors or arrays of one dtype, of the same sizes on the other axes.
        axis: the axis, an int. The order before TensorFlow 1.0, concat(axis, values), works as well.
        name: name of the operation.

    Returns:
        Tensor: the sizes along the axis are added.

    Raises:
        GraphError: dtypes or other sizes differ, or there is no such axis.

    Example:
        >>> dt.concat([dt.zeros([2, 3]), dt.ones([2, 1])], 1).shape.as_list()
        [2, 4]
    """
    if isinstance(values, int | np.integer) and isinstance(axis, Sequence):
        values, axis = axis, values
    if not isinstance(values, Sequence | np.ndarray | TensorLike):
        raise GraphError(f"concat({values!r}, ...): give concat(values, axis), values a list of tensors.")
    tensors = _tensors(values, "concat")
    if tensors[0].spec.shape == ():
        raise GraphError("concat of scalars: stack them")
    return apply(Concat(static_int(axis, "concat"), len(tensors)), *tensors, name=name or "concat")


def stack(values: Any, axis: int = 0, name: str | None = None) -> Tensor:
    """Tensors joined along a new axis.

    Args:
        values: tensors or arrays of one shape and dtype; arrays and numbers alone make a constant.
        axis: the place of the new axis.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: shapes or dtypes differ.

    Example:
        >>> dt.stack([dt.zeros([3]), dt.ones([3])]).shape.as_list()
        [2, 3]
    """
    if isinstance(values, TensorLike):
        raise GraphError(f"stack: {values!r} is one tensor; give a list of tensors")
    tensors = _tensors(values, "stack")
    for other in tensors[1:]:
        if not compatible(tensors[0].spec.shape, other.spec.shape):
            raise GraphError(f"stack: the shapes of {tensors[0]!r} and {other!r} differ")
    known = [known_value(t) for t in tensors]
    if all(k is not None and k.dtype == known[0].dtype != object for k in known):  # type: ignore[union-attr]  # none is None
        return constant(np.stack(known, axis), name=name or "stack")  # type: ignore[arg-type]  # none is None
    return concat([expand_dims(t, axis) for t in tensors], axis, name or "stack")


def split(
    value: Any, num_or_size_splits: Any, axis: Any = 0, num: int | None = None, name: str | None = None
) -> list[Tensor]:
    """A tensor cut into parts along an axis.

    Args:
        value: a tensor or array. The order before TensorFlow 1.0, split(axis, number, value), works as well.
        num_or_size_splits: the number of equal parts, or a list of sizes, of which one may be -1.
        axis: the axis.
        num: the number of parts, where num_or_size_splits does not show it.
        name: name of the operation.

    Returns:
        list: the parts, tensors.

    Raises:
        GraphError: the sizes do not add up to that of the axis.

    Example:
        >>> [t.shape.as_list() for t in dt.split(dt.zeros([4, 6]), 3, axis=1)]
        [[4, 2], [4, 2], [4, 2]]
    """
    if isinstance(value, int | np.integer) and isinstance(axis, TensorLike):
        value, axis = axis, value
    x, at = convert_to_tensor(value), static_int(axis, "split")
    if isinstance(num_or_size_splits, TensorLike):
        alone = num_or_size_splits.shape == ()
    else:  # a list may hold tensors, which NumPy does not take
        alone = not isinstance(num_or_size_splits, list | tuple) and np.ndim(num_or_size_splits) == 0
    if alone:
        count = static_int(num_or_size_splits, "split")
        if count < 1:
            raise GraphError(f"split: {count} parts")
        return list(x.graph.add(Split(at, count), (x,), name or "split").outputs)
    attributes = Attributes()
    sizes = attributes.vector(num_or_size_splits, "split")
    if isinstance(sizes, Later) or not sizes or num not in (None, len(sizes)):
        raise GraphError(f"split: {num_or_size_splits!r} is not a list of {num or 'known'} sizes")
    first = late(Split(at, len(sizes), sizes), [x], attributes.values, name or "split")
    return list(first.op.outputs)


def unstack(value: Any, num: int | None = None, axis: int = 0, name: str | None = None) -> list[Tensor]:
    """The slices of a tensor along an axis, a list of tensors without it.

    Args:
        value: a tensor or array.
        num: the size of the axis, where it is not known.
        axis: the axis.
        name: name of the operation.

    Raises:
        GraphError: the size is unknown or differs from num.
    """
    x = convert_to_tensor(value)
    if x.spec.shape is not None:
        (at,) = normalize_axes(axis, len(x.spec.shape), "unstack") or ()
        known = x.spec.shape[at]
        if num is not None and known not in (None, num):
            raise GraphError(f"unstack: num is {num} where {x!r} has {known} entries")
        num = known if num is None else num
    if num is None:
        raise GraphError(f"unstack: the size of axis {axis} of {x!r} is not known; give num")
    if num == 0:
        return []
    parts = x.graph.add(Split(axis, num, (1,) * num), (x,), name or "unstack").outputs
    return [apply(Squeeze((axis,)), part, name=name or "unstack") for part in parts]


def tile(input: Any, multiples: Any, name: str | None = None) -> Tensor:
    """A tensor repeated along each axis.

    Args:
        input: a tensor or array.
        multiples: ints, one for each axis.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: there are not as many multiples as axes.
    """
    attributes = Attributes()
    times = attributes.vector(multiples, "tile")
    if isinstance(times, Later):
        raise GraphError(f"tile: the number of {multiples!r} is not known")
    return late(Tile(times), [input], attributes.values, name)


def pad(
    tensor: Any, paddings: Any, mode: str = "CONSTANT", name: str | None = None, constant_values: Any = 0
) -> Tensor:
    """A tensor with entries added around it.

    Args:
        tensor: a tensor or array.
        paddings: ints [rank, 2]: how many entries before and after along each axis.
        mode: CONSTANT; REFLECT, the entries within in opposite order without the one at the edge; SYMMETRIC,
            with it. If it is not CONSTANT, paddings are numbers.
        constant_values: the value added in mode CONSTANT.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: paddings is not of shape [rank, 2], or mode is another.
    """
    if mode.upper() in ("REFLECT", "SYMMETRIC"):
        return _mirrored(convert_to_tensor(tensor), paddings, mode.upper() == "REFLECT", name)
    if mode.upper() != "CONSTANT":
        raise GraphError(f"pad: mode {mode!r} is none of CONSTANT, REFLECT and SYMMETRIC.")
    if isinstance(paddings, TensorLike):
        known = known_value(convert_to_tensor(paddings))
        if known is None:
            raise GraphError(
                f"pad: {paddings!r} is not known yet; give a list, in which entries may be tensors"
            )
        paddings = known.tolist()
    attributes = Attributes()
    pairs = [attributes.vector(pair, "pad") for pair in paddings]
    if any(isinstance(pair, Later) or len(pair) != 2 for pair in pairs):
        raise GraphError(f"pad: {paddings!r} is not a list of [before, after]")
    if isinstance(constant_values, TensorLike):
        constant_values = known_value(convert_to_tensor(constant_values))
        if constant_values is None:
            raise GraphError("pad: constant_values is a number or a constant")
    return late(Pad(tuple(pairs), np.asarray(constant_values).item()), [tensor], attributes.values, name)


def _mirrored(x: Tensor, paddings: Any, without_edge: bool, name: str | None) -> Tensor:
    """A tensor with its entries beyond its edges, as in mirrors."""
    if isinstance(paddings, TensorLike):
        paddings = known_value(convert_to_tensor(paddings))
        if paddings is None:
            raise GraphError("pad: of this mode the paddings are numbers.")
    pairs = np.asarray(paddings).astype(int).tolist()
    if len(pairs) != len(x.shape):
        raise GraphError(f"pad: {paddings!r} is not a list of [before, after] for each axis of {x!r}")
    off = int(without_edge)
    for axis, (before, behind) in enumerate(pairs):
        size = x.spec.shape[axis] if x.spec.shape else None
        if size is not None and max(before, behind) > size - off:
            raise GraphError(f"pad: {before} and {behind} entries beyond an axis of {size}: there are fewer")

        def piece(entries: Span, axis: int = axis) -> StridedSlice:
            return StridedSlice(tuple(entries if i == axis else WHOLE for i in range(len(pairs))))

        # the first entries from the one numbered before - 1 + off down, and the last ones in the same way
        parts = [x]
        if before:
            parts.insert(0, reverse(apply(piece(Span(off, before + off, 1)), x), [axis]))
        if behind:
            parts.append(reverse(apply(piece(Span(-behind - off, -1 if off else None, 1)), x), [axis]))
        x = concat(parts, axis) if len(parts) > 1 else x
    return identity(x, name)


def reverse(tensor: Any, axis: Any, name: str | None = None) -> Tensor:
    """A tensor with its entries in opposite order along axes.

    Args:
        tensor: a tensor or array.
        axis: an int or several.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: there is no such axis.
    """
    x = convert_to_tensor(tensor)
    axes = normalize_axes(static_ints(axis, "reverse"), len(x.shape), "reverse") or ()
    back = Span(None, None, -1)
    entries = tuple(back if i in axes else WHOLE for i in range(len(x.shape)))
    return apply(StridedSlice(entries), x, name=name or "Reverse") if axes else identity(x, name)
