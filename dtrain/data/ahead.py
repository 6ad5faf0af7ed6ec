"""Rows of mapped files brought into memory ahead of the steps that use them, and let go of after them.

The order of an epoch is known before it begins. So while a window of it is in work (order.py) a thread asks
the system for the pages of the next: reading runs beside the steps, and no step waits for a disk that
keeps up. The pages stay the system's own, one copy a node; a rank returns what it has done with, so that
its memory is that of two windows, however large the set.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.data.order import WHOLE_BYTES, Blocks, Stretch

#: Rows nearer to one another than so many bytes are asked for together, with what is between them.
GAP = 1 << 16
#: Rows that stand for a large array where it is compared.
SAMPLE = 1024


class Ahead:
    """Sees to the pages of one pass over a large part's rows. Entered, it leaves when its thread has ended.

    comm: its ranks of a node share the asking. Of another order than one by blocks nothing is asked for.
    """

    def __init__(self, order: Any, comm: Communicator | None = None) -> None:
        self._start = order.start if isinstance(order, Stretch) else 0
        order = order.order if isinstance(order, Stretch) else order
        arrays = order.part.data.arrays() if isinstance(order, Blocks) else ()
        self._maps = [array for array in arrays if mapped(array)]
        self._order, self._comm = order, comm or SingleCommunicator()
        self._window = -1
        self._wanted: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def at(self, position: int) -> None:
        """The rows from this position of the order on are used next."""
        if not self._maps or position + self._start >= len(self._order):
            return
        window = self._order.window_of(position + self._start)
        if window != self._window:
            before, self._window = self._window, window
            for number in (window, window + 1) if before < 0 else (window + 1,):
                self._wanted.put((number, mmap.MADV_WILLNEED))
            if before >= 0:
                self._wanted.put((before, mmap.MADV_DONTNEED))

    def __enter__(self) -> Ahead:
        if self._maps and hasattr(mmap, "MADV_WILLNEED"):
            for array in self._maps:
                not_around(array)
            self._thread = threading.Thread(target=self._advise, name="reads ahead", daemon=True)
            self._thread.start()
        else:
            self._maps = []
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._thread is not None:
            if self._window >= 0:
                for number in (self._window, self._window + 1):
                    self._wanted.put((number, mmap.MADV_DONTNEED))
            self._wanted.put(None)
            self._thread.join()

    def _advise(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            window, advice = wanted
            spans = list(self._spans(window))
            if advice == mmap.MADV_WILLNEED:
                spans = spans[self._comm.local_rank :: self._comm.local_size]
            for low, high in spans:
                for array in self._maps:
                    advise(array, advice, low, high)

    def _spans(self, window: int) -> Iterator[tuple[int, int]]:
        """The rows of a window, as first and one past the last of each stretch that is read together."""
        part = self._order.part
        for low, high in self._order.spans(window):
            rows = part[low:high]
            row = part.data.row_bytes
            cuts = np.flatnonzero(np.diff(rows) * row > GAP) + 1
            for piece in np.split(rows, cuts):
                yield int(piece[0]), int(piece[-1]) + 1


def mapped(array: np.ndarray) -> bool:
    """Whether an array lies in a mapped file whose pages can be read again: not in a private copy of them."""
    base: Any = array
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    return base is not None and base.mode in ("r", "r+")


def not_around(array: np.ndarray) -> None:
    """Let the system read of a mapped file what is asked for, without the pages around it.

    Rows in an order of their own would otherwise bring megabytes each, and those that were asked for would
    have to go again.
    """
    if mapped(array) and hasattr(mmap, "MADV_RANDOM"):
        advise(array, mmap.MADV_RANDOM, 0, len(array))


def sampled(array: np.ndarray) -> np.ndarray:
    """What is compared of an array: all of it, or of more than WHOLE_BYTES some rows, which take no time."""
    if array.nbytes <= WHOLE_BYTES:
        return array
    not_around(array)
    return array[np.linspace(0, len(array) - 1, SAMPLE).astype(np.int64)]


def advise(array: np.ndarray, advice: int, low: int, high: int) -> None:
    """The system's madvise for the pages of rows low to high - 1; other threads run meanwhile."""
    size = array.strides[0]
    start, stop = array.ctypes.data + low * size, array.ctypes.data + high * size
    start -= start % mmap.PAGESIZE
    _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ctypes.c_int(advice))


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
