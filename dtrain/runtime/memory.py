"""Where tensors lie: buffers with lifetimes, packed into one arena."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dtrain.ops.memory import aligned


@dataclass
class Buffer:
    """Memory that one or more tensors use in turn: bytes, first and last step of the plan that need it."""

    nbytes: int
    first: int
    last: int
    offset: int = -1


def pack(buffers: Iterable[Buffer]) -> int:
    """Give each buffer an offset so that none overlaps another alive at the same time; the arena's bytes.

    Largest first, each at the lowest place that is free over its whole life.
    """
    ordered = sorted(buffers, key=lambda b: (-b.nbytes, b.first))
    first, last, begin, end = np.empty((4, len(ordered)), np.int64)  # of what is placed, by offset
    for n, buffer in enumerate(ordered):
        nbytes = aligned(buffer.nbytes)
        alive = np.flatnonzero((first[:n] <= buffer.last) & (last[:n] >= buffer.first))
        ends = np.maximum.accumulate(end[alive])
        free = np.concatenate(([0], ends))  # lowest places after all that begins further down
        fits = free[:-1] + nbytes <= begin[alive]
        buffer.offset = int(free[fits.argmax() if fits.any() else -1])
        at = int(np.searchsorted(begin[:n], buffer.offset, "right"))
        row = buffer.first, buffer.last, buffer.offset, buffer.offset + nbytes
        for column, value in zip((first, last, begin, end), row, strict=True):
            column[at + 1 : n + 1] = column[at:n].copy()
            column[at] = value
    return int(end[: len(ordered)].max(initial=0))
