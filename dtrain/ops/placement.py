"""Where a tensor lives among the ranks: the type system that makes N ranks compute what one does.

A graph is written for the whole batch: its shapes and values are global. The pass `place` then gives every
tensor one of three placements, and the conversions between them are the only communication there is.

    REPLICATED   every rank holds the whole value
    Sharded(a)   rank r holds the slice shard_bounds(n, r, size) of axis a, which has n >= size entries in all
    PARTIAL      every rank holds a term; the value is their sum

So means over uneven shards are exact, a sum stays a sum, and no rule has to know how many ranks there are.
Only what is fed may be sharded along an axis of fewer entries than ranks; `place` makes it whole first.
"""

from __future__ import annotations

from typing import NamedTuple

from dtrain.graph.shape import Dims

REPLICATED = "replicated"
PARTIAL = "partial"


class Sharded(NamedTuple):
    """Split along one axis of the global shape."""

    axis: int


Placement = str | Sharded


def shard_bounds(n: int, rank: int, size: int) -> tuple[int, int]:
    """Bounds of rank's share of n entries: contiguous, in rank order, lengths differ by 1 at most."""
    return n * rank // size, n * (rank + 1) // size


def local_shape(shape: Dims, placement: Placement, rank: int, size: int) -> tuple[int, ...]:
    """The shape of what this rank holds of a tensor with this global shape."""
    assert shape is not None and None not in shape
    dims = [d for d in shape if d is not None]
    if isinstance(placement, Sharded):
        low, high = shard_bounds(dims[placement.axis], rank, size)
        dims[placement.axis] = high - low
    return tuple(dims)
