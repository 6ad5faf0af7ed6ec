"""Slices: x[...] with integers, slices, ... and new axes, and slice(x, begin, size). All are views."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import Dims
from dtrain.ops.array import Move
from dtrain.ops.base import (
    Array,
    Env,
    Example,
    Op,
    Placed,
    apply,
    convert_to_tensor,
    register,
)
from dtrain.ops.index import Gather
from dtrain.ops.late import Attributes, Later, known_value, late
from dtrain.ops.placement import Placement, Sharded


class Span(NamedTuple):
    """start:stop:step along one axis, as Python reads it."""

    start: int | Later | None
    stop: int | Later | None
    step: int | Later | None

    def count(self, n: int | None) -> int | None:  # type: ignore[override]  # not a tuple's
        """How many of n entries it picks; None where that is not known."""
        if self.is_whole or (self.start, self.stop, self.step) == (None, None, -1):
            return n
        if n is None or any(isinstance(part, Later) for part in self):
            return None
        return len(range(*self.index().indices(n)))

    @property
    def is_whole(self) -> bool:
        return self.start in (None, 0) and self.stop is None and self.step in (None, 1)

    def index(self) -> slice:  # type: ignore[override]  # not a tuple's
        return slice(self.start, self.stop, self.step)


class Run(NamedTuple):
    """`size` entries from `begin` on (-1: all the rest), which must be there."""

    begin: int | Later
    size: int | Later

    def count(self, n: int | None) -> int | None:  # type: ignore[override]  # not a tuple's
        """How many of n entries it picks; None where that is not known. Raises GraphError for too many."""
        begin = None if isinstance(self.begin, Later) else self.begin
        size = None if isinstance(self.size, Later) else self.size
        if n is not None and begin is not None:
            end = begin + (0 if size in (None, -1) else size)
            if begin < 0 or (size is not None and size < -1) or end > n:
                raise GraphError(f"{size} entries from entry {begin} on are not within the {n} of its axis")
        if size != -1:
            return size
        return None if n is None or begin is None else n - begin

    @property
    def is_whole(self) -> bool:
        return self == (0, -1)

    def index(self) -> slice:  # type: ignore[override]  # not a tuple's
        assert isinstance(self.begin, int) and isinstance(self.size, int)
        return slice(self.begin, None if self.size == -1 else self.begin + self.size)


#: What an axis is indexed with: one entry (the axis goes), several, None for a new axis, ... for the others.
Entry = int | Span | Run | None | EllipsisType
WHOLE = Span(None, None, None)


def written_out(entries: Sequence[Entry], rank: int) -> list[int | Span | Run | None]:
    """The entries with ... written out: one for each axis, and the new axes."""
    taken = sum(e is not None and e is not Ellipsis for e in entries)
    if taken > rank:
        raise GraphError(f"{taken} indices for {rank} axes")
    every = list(entries) if Ellipsis in entries else [*entries, Ellipsis]
    at = every.index(Ellipsis)
    return [*every[:at], *[WHOLE] * (rank - taken), *every[at + 1 :]]  # type: ignore[list-item]  # with no other ...


def _sliced(entries: Sequence[Entry], shape: Dims) -> Dims:
    if shape is None:
        return None
    dims: list[int | None] = []
    axis = 0
    for entry in written_out(entries, len(shape)):
        if entry is None:
            dims.append(1)
            continue
        n = shape[axis]
        if isinstance(entry, int):
            if n is not None and not -n <= entry < n:
                raise GraphError(
                    f"slice index {entry} of dimension {axis} is out of bounds: it has {n} entries"
                )
        else:
            if isinstance(entry, Span) and entry.step == 0:
                raise GraphError("a slice's step cannot be 0")
            dims.append(entry.count(n))
        axis += 1
    return tuple(dims)


def _index(entries: Sequence[Entry], rank: int) -> tuple[Any, ...]:
    """The entries as NumPy takes them; ... at the end keeps a single entry an array."""
    parts = (e.index() if isinstance(e, Span | Run) else e for e in written_out(entries, rank))
    return (*parts, Ellipsis)


def _kept_axes(entries: Sequence[Entry], rank: int) -> dict[int, int]:
    """Axes of the input that are taken whole, each with its place in the result."""
    kept: dict[int, int] = {}
    axis = place = 0
    for entry in written_out(entries, rank):
        if isinstance(entry, Span | Run) and entry.is_whole:
            kept[axis] = place
        axis += entry is not None
        place += not isinstance(entry, int)
    return kept


@register
class StridedSlice(Op):
    """What x[...] picks with integers, slices, ... and new axes: a view."""

    entries: tuple[Entry, ...]
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(_sliced(self.entries, specs[0].shape), specs[0].dtype)]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x[_index(self.entries, x.ndim)]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [late(StridedSliceGrad(self.entries), [dy, node.inputs[0]], node.inputs[1:])]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        whole = all(isinstance(e, Span | Run) and e.is_whole for e in self.entries)
        return inputs[0] if whole else None

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if not isinstance(placement, Sharded):
            return placements, placement
        kept = _kept_axes(self.entries, len(node.inputs[0].spec.shape or ()))
        return (placements, Sharded(kept[placement.axis])) if placement.axis in kept else None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls((Span(1, None, 2), 0)), (4, 3)),
            Example(cls((None, WHOLE, Span(None, None, -1))), (4, 3)),
            Example(cls((Ellipsis, -1, None)), (2, 3, 4)),
            Example(cls((Run(1, 2), Run(0, -1), Run(1, -1))), (3, 2, 4)),
        ]


@register
class StridedSliceGrad(Move):
    """Zeros like the second input with dy in the slice: a slice's gradient."""

    entries: tuple[Entry, ...]
    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def moves(self, ins: Sequence[Array], outs: Sequence[Array]) -> Sequence[tuple[Array, Array | float]]:
        return [(outs[0], 0), (outs[0][_index(self.entries, outs[0].ndim)], ins[0])]

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [late(StridedSlice(self.entries), [dy], node.inputs[2:]), None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        dy = placements[0]
        if not isinstance(dy, Sharded):
            return placements, dy
        kept = _kept_axes(self.entries, len(node.inputs[1].spec.shape or ()))
        axes = [axis for axis, place in kept.items() if place == dy.axis]
        return (placements, Sharded(axes[0])) if axes else None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls((Span(1, None, 2), 0)), (2,), (4, 3)),
            Example(cls((Ellipsis, -1, None)), (2, 3, 1), (2, 3, 4)),
        ]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def slice_(input_: Any, begin: Any, size: Any, name: str | None = None) -> Tensor:
    """A part of a tensor: `size` entries along each axis, starting at `begin`.

    Args:
        input_: a tensor or array.
        begin: the first index on each axis: ints, or a tensor that follows from shapes.
        size: how many on each axis; -1 for all that are left.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: the part is not inside the tensor.

    Example:
        >>> dt.slice(dt.zeros([4, 6]), [1, 2], [2, -1]).shape.as_list()
        [2, 4]
    """
    attributes = Attributes()
    starts, sizes = attributes.vector(begin, "slice: begin"), attributes.vector(size, "slice: size")
    if isinstance(starts, Later) or isinstance(sizes, Later) or len(starts) != len(sizes):
        raise GraphError(f"slice: begin {begin!r} and size {size!r} are not of the same, known length")
    runs = tuple(Run(b, s) for b, s in zip(starts, sizes, strict=True))
    x = convert_to_tensor(input_)
    if x.spec.shape is not None and len(x.spec.shape) != len(runs):
        raise GraphError(f"slice: {len(runs)} sizes for the {len(x.spec.shape)} axes of {x!r}")
    return late(StridedSlice(runs), [x], attributes.values, name or "Slice")


slice_.__name__ = slice_.__qualname__ = "slice"


def _getitem(self: TensorLike, key: Any) -> Tensor:
    """x[...]: integers, slices, ..., None or dt.newaxis; bounds may be tensors that follow from shapes.

    An index that is an integer scalar tensor may also be fed: it gathers.
    """
    x = convert_to_tensor(self)
    keys = key if isinstance(key, tuple) else (key,)
    if sum(k is Ellipsis for k in keys) > 1:
        raise GraphError(f"{x.name}[...]: only one ... can stand for the other axes")
    attributes = Attributes()
    entries: list[Entry] = []
    picked: list[tuple[int, Tensor]] = []  # axes to gather along, counted from the end after a ...
    for i, part in enumerate(keys):
        if isinstance(part, slice):
            bounds = (part.start, part.stop, part.step)
            read = [None if b is None else attributes.scalar(b, f"{x.name}[...]") for b in bounds]
            entries.append(Span(*read))
        elif part is None or part is Ellipsis:
            entries.append(part)
        elif isinstance(part, Integral) and not isinstance(part, bool):
            entries.append(int(part))
        else:
            index = _scalar_index(x, part)
            known = known_value(index)
            if known is not None and known.dtype != object:
                entries.append(int(known))
                continue
            before, behind = keys[:i], keys[i + 1 :]
            if any(k is Ellipsis for k in before):
                picked.append((-1 - sum(not _drops(k) for k in behind), index))
            else:
                picked.append((sum(not _drops(k) for k in before), index))
            entries.append(WHOLE)
    result = late(StridedSlice(tuple(entries)), [x], attributes.values, "strided_slice")
    # each gather takes an axis away: those counted from the front go last first, the others first last
    front = sorted((p for p in picked if p[0] >= 0), key=lambda p: -p[0])
    for axis, index in [*front, *sorted((p for p in picked if p[0] < 0), key=lambda p: p[0])]:
        result = apply(Gather(axis), result, index)
    return result


def _drops(key: Any) -> bool:
    """Whether a part of x[...] takes its axis away when the slice is made, before any gather."""
    if isinstance(key, TensorLike):
        known = known_value(convert_to_tensor(key))
        return known is not None and known.dtype != object
    return isinstance(key, Integral)


def _scalar_index(x: Tensor, key: Any) -> Tensor:
    if isinstance(key, TensorLike):
        index = convert_to_tensor(key)
        if index.dtype.is_integer and index.spec.shape == ():
            return index
    elif isinstance(key, np.ndarray) and key.ndim == 0 and key.dtype.kind in "iu":
        return convert_to_tensor(key)
    raise GraphError(
        f"{x.name}[{key!r}]: an index is an integer, a slice, ..., None or an integer scalar tensor; "
        "dt.gather takes several indices, dt.boolean_mask a mask."
    )


TensorLike.__getitem__ = _getitem  # type: ignore[method-assign]  # filled in here
