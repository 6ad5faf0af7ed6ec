"""Batches that a program handles whole while the session splits them among the ranks."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


class Batch(np.ndarray):
    """An array that is the same on every rank, of which each rank may work on its share of axis 0.

    It is an ordinary array to the program: its length, mean and entries are those of the whole batch on any
    number of ranks. Fed to a session of several ranks it becomes a Shard. What is computed from it is a Batch
    again, unless one entry is picked out: the mark is about speed, a value is right with it and without.
    """

    def __getitem__(self, key: Any) -> Any:
        first = key[0] if isinstance(key, tuple) and key else key
        value = super().__getitem__(key)
        if isinstance(first, int | np.integer) and isinstance(value, Batch):
            return value.view(np.ndarray)
        return value

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        # a sum or mean of everything is a number, as it is of any array
        return array[()] if return_scalar else array.view(Batch)

    def __repr__(self) -> str:
        return repr(self.view(np.ndarray))


def checksum(value: Any) -> int:
    """A number that differs where values differ, but for one pair in four thousand million."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":  # strings
        return zlib.crc32(repr(array.tolist()).encode())
    about = f"{array.dtype.str}{array.shape}".encode()
    return zlib.crc32(
        np.ascontiguousarray(array).view(np.uint8).data if array.size else b"", zlib.crc32(about)
    )
