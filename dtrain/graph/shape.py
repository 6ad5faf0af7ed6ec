"""Static shapes: what is known of a tensor's shape when the line is written."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any, TypeGuard

from dtrain.errors import GraphError
from dtrain.graph.dimension import Dimension, UnknownDimension

#: Dimensions as plain data: None for an unknown dimension; None as a whole for an unknown rank.
Dims = tuple[int | None, ...] | None


class TensorShape:
    """The shape of a tensor in the graph; a size that is known at the run is None and prints as '?'.

    As in TensorFlow 1 an entry is a Dimension: an int, or what equals None. as_list() returns ints and Nones.

    Args:
        dims: sizes, ints or None; None for a shape of unknown rank.
    """

    __slots__ = ("dims",)

    def __init__(self, dims: Any) -> None:
        self.dims: Dims = as_dims(dims)

    @property
    def ndims(self) -> int | None:
        return None if self.dims is None else len(self.dims)

    rank = ndims

    def as_list(self) -> list[int | None]:
        """The sizes as ints and Nones; raises GraphError for an unknown rank."""
        if self.dims is None:
            raise GraphError("as_list() is not defined on an unknown shape: give the placeholder a shape.")
        return list(self.dims)

    def is_fully_defined(self) -> bool:
        return is_static(self.dims)

    def num_elements(self) -> int | None:
        return size_of(self.dims) if is_static(self.dims) else None

    def is_compatible_with(self, other: Any) -> bool:
        """Whether the two may turn out to be the same shape."""
        return compatible(self.dims, as_dims(other))

    def merge_with(self, other: Any) -> TensorShape:
        """What both say together; raises GraphError where they contradict each other."""
        dims = as_dims(other)
        if not compatible(self.dims, dims):
            raise GraphError(f"the shapes {shape_text(self.dims)} and {shape_text(dims)} are not the same.")
        return TensorShape(merge(self.dims, dims))

    def concatenate(self, other: Any) -> TensorShape:
        """This shape's sizes followed by another's."""
        dims = as_dims(other)
        return TensorShape(None if self.dims is None or dims is None else self.dims + dims)

    def with_rank(self, rank: int) -> TensorShape:
        """This shape, which may have this rank; raises GraphError where it has another."""
        return self.merge_with([None] * rank)

    def __iter__(self) -> Iterator[Dimension]:
        return (Dimension(d) for d in self.as_list())

    def __len__(self) -> int:
        return len(self.as_list())

    def __getitem__(self, key: Any) -> Any:
        part = self.as_list()[key]
        return TensorShape(part) if isinstance(key, slice) else Dimension(part)

    def __eq__(self, other: object) -> bool:
        try:
            return self.dims == as_dims(other)
        except (GraphError, TypeError):
            return False

    def __hash__(self) -> int:
        return hash(self.dims)

    def __str__(self) -> str:
        return shape_text(self.dims)

    def __repr__(self) -> str:
        return f"TensorShape({None if self.dims is None else list(self.dims)})"


def as_dims(shape: Any) -> Dims:
    """Dims from a TensorShape, a sequence of ints and Nones, one int, or None (unknown rank)."""
    if shape is None:
        return None
    if isinstance(shape, TensorShape):
        return shape.dims
    try:
        entries = [shape] if isinstance(shape, Integral) else list(shape)
        dims = tuple(None if d is None or isinstance(d, UnknownDimension) else int(d) for d in entries)
    except (TypeError, ValueError):
        raise GraphError(f"{shape!r} is not a shape: give a list of sizes, None for one fed later.") from None
    if any(d is not None and d < 0 for d in dims):
        raise GraphError(f"{shape!r} is not a shape: sizes are 0 or more, None for one fed later.")
    return dims


def is_static(dims: Dims) -> TypeGuard[tuple[int, ...]]:
    return dims is not None and None not in dims


def as_static(dims: Dims) -> tuple[int, ...]:
    """A fully known shape."""
    assert is_static(dims)
    return dims


def size_of(dims: Dims) -> int:
    """Number of elements of a fully known shape."""
    assert dims is not None
    total = 1
    for d in dims:
        assert d is not None
        total *= d
    return total


def shape_text(dims: Dims) -> str:
    """As TensorFlow 1 prints it: '(?, 784)', '(3,)', '<unknown>'."""
    if dims is None:
        return "<unknown>"
    inner = ", ".join("?" if d is None else str(d) for d in dims)
    return f"({inner},)" if len(dims) == 1 else f"({inner})"


def compatible(a: Dims, b: Dims) -> bool:
    """Whether two shapes may turn out to be the same."""
    if a is None or b is None:
        return True
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):  # noqa: SIM110  # of each feed of each step: all() takes longer
        if x != y and x is not None and y is not None:
            return False
    return True


def merge(a: Dims, b: Dims) -> Dims:
    """What two compatible shapes say together."""
    if a is None or b is None:
        return b if a is None else a
    return tuple(y if x is None else x for x, y in zip(a, b, strict=True))


def broadcast(a: Dims, b: Dims) -> Dims:
    """The shape that NumPy's broadcasting gives; raises GraphError where it gives none."""
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    result: list[int | None] = []
    for x, y in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if x == 1:
            result.append(y)
        elif y == 1 or x == y:
            result.append(x)
        elif x is None or y is None:
            result.append(x if y is None else y)
        else:
            raise GraphError(f"shapes {shape_text(a)} and {shape_text(b)} do not broadcast: {x} against {y}")
    return tuple(result)


def normalize_axes(axis: Any, rank: int | None, what: str) -> tuple[int, ...] | None:
    """Axes as sorted non-negative ints; None for all of them. Raises GraphError for one out of range."""
    if axis is None:
        return None if rank is None else tuple(range(rank))
    axes = [int(a) for a in ([axis] if isinstance(axis, Integral) else axis)]
    if rank is None:
        if any(a < 0 for a in axes):
            raise GraphError(f"{what}: a negative axis needs an input of known rank")
        return tuple(sorted(set(axes)))
    for a in axes:
        if not -rank <= a < rank:
            raise GraphError(f"{what}: axis {a} is not one of an input of rank {rank}")
    return tuple(sorted({a % rank for a in axes}))
