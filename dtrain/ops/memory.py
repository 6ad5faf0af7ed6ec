"""Seeing arrays that lie one after the other in memory as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Bytes to which every tensor is aligned: a cache line, and the widest vector register.
ALIGNMENT = 64
#: Bytes by which memory that is walked side by side (parameters, slots, gradients) is shifted, a multiple for
#: each: a processor holds a read back after a write whose address differs by a multiple of 4096.
STAGGER = 1024


def aligned(nbytes: int) -> int:
    """nbytes rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def address(array: Any) -> int:
    """Where an array's data starts, on its device."""
    pointer = getattr(array.data, "ptr", None)
    return array.ctypes.data if pointer is None else pointer


def _block(array: Any) -> Any:
    """The flat byte array that an array is a view of, or None."""
    while array.base is not None and hasattr(array.base, "dtype"):
        array = array.base
    return array if array.ndim == 1 and array.dtype == "uint8" else None


def coalesce(groups: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Flat arrays over the longest stretches in which all groups lie contiguously and in the same order.

    groups: several lists of equally many C-contiguous arrays; the i-th arrays of all have the same size. The
    result has one entry a stretch, with one flat array a group. A stretch includes the padding between its
    arrays, which may hold anything: this is for work entry by entry, not for a look at all entries at once.
    """
    stretches: list[list[Sequence[Any]]] = []
    for column in zip(*groups, strict=True):
        if column[0].size == 0:
            continue  # nothing to do, and NumPy does not say where it lies
        if stretches and _follows(stretches[-1][-1], column):
            stretches[-1].append(column)
        else:
            stretches.append([column])
    return [[_flat(arrays) for arrays in zip(*stretch, strict=True)] for stretch in stretches]


def _follows(before: Sequence[Any], after: Sequence[Any]) -> bool:
    for a, b in zip(before, after, strict=True):
        block = _block(a)
        if block is None or block is not _block(b) or a.dtype != b.dtype:
            return False
        if address(b) != address(a) + aligned(a.nbytes):
            return False
    return True


def _flat(arrays: Sequence[Any]) -> Any:
    first, last = arrays[0], arrays[-1]
    if len(arrays) == 1:
        return first.reshape(-1)
    block = _block(first)
    start = address(first) - address(block)
    end = address(last) + last.nbytes - address(block)
    return block[start:end].view(first.dtype)
