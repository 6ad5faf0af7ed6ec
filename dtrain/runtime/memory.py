"""Where tensors lie: buffers with lifetimes, packed into one arena."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.nbytes, b.first)):
        alive = [p for p in placed if p.first <= buffer.last and buffer.first <= p.last]
        offset = 0
        for other in sorted(alive, key=lambda p: p.offset):
            if offset + aligned(buffer.nbytes) <= other.offset:
                break
            offset = max(offset, other.offset + aligned(other.nbytes))
        buffer.offset = offset
        placed.append(buffer)
    return max((b.offset + aligned(b.nbytes) for b in placed), default=0)
