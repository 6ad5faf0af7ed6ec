"""The order in which an epoch uses its examples: a function of (seed, epoch) alone, with no state to lose.

A set of up to WHOLE_ROWS examples and WHOLE_BYTES has a permutation of them all. That of a larger one needs
no memory that grows with it, and reads what lies together together: blocks of neighbours are permuted by a
Feistel network, which gives any of them by its number; so many of these in a row make a window, within which
all examples are permuted. So the window in work, and the next, are all of a set that has to be in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from dtrain.data.dataset import Part
from dtrain.data.hashing import mixed

#: A set above either has its order by blocks.
WHOLE_ROWS, WHOLE_BYTES = 1 << 24, 1 << 30
#: Bytes and rows of a block, at most, and of a window.
BLOCK_BYTES, BLOCK_ROWS, WINDOW_BYTES = 1 << 19, 1 << 12, 1 << 27
#: Blocks of a window: as many as its bytes allow, within these.
LEAST_BLOCKS, MOST_BLOCKS = 8, 256
#: Rounds of the Feistel network.
ROUNDS = 6


def epoch_order(seed: int, epoch: int, examples: range) -> np.ndarray:
    """The examples in the order that an epoch uses them, int32; the same for every number of ranks."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return (generator.permutation(len(examples)) + examples.start).astype(np.int32)


def order_of(seed: int, epoch: int, part: Part) -> Any:
    """The rows of a part in the order of an epoch: an array, or of a large set what gives a slice as one."""
    if not by_blocks(part):
        return part.at(epoch_order(seed, epoch, part.examples))
    return Blocks(part, (seed, epoch))


def as_they_lie(part: Part) -> Any:
    """The rows of a part in their own order, as order_of gives them in an epoch's."""
    return Blocks(part, None) if by_blocks(part) else part


def by_blocks(part: Part) -> bool:
    """Whether a part is so large that its order is one of blocks."""
    return len(part) > WHOLE_ROWS or len(part) * part.data.row_bytes > WHOLE_BYTES


class Blocks:
    """A large part's rows in an order by blocks; a slice of it is an array.

    shuffled: the seed and epoch; None for the examples as they lie.
    """

    def __init__(self, part: Part, shuffled: tuple[int, int] | None) -> None:
        self.part, self._shuffled = part, shuffled
        row = max(1, part.data.row_bytes)
        self.block = min(max(1, BLOCK_BYTES // row), BLOCK_ROWS)
        self.blocks = -(-len(part) // self.block)
        #: Blocks of a window.
        self.window = min(max(LEAST_BLOCKS, WINDOW_BYTES // (self.block * row)), MOST_BLOCKS)
        self._permutation = None if shuffled is None else Permutation(self.blocks, *shuffled)
        last = np.array([self.blocks - 1])  # which may be short: the windows after its own begin earlier
        place = last if self._permutation is None else self._permutation.inverse(last)
        self._short = int(place[0]) // self.window
        self._missing = self.blocks * self.block - len(part)
        self._rows_of = lru_cache(2)(self._window_rows)

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, some: slice) -> np.ndarray:
        start, stop, step = some.indices(len(self))
        assert step == 1
        pieces, window = [], self.window_of(start)
        while start < stop:
            begin, end = self.begin(window), self.begin(window + 1)
            pieces.append(self._rows_of(window)[start - begin : min(stop, end) - begin])
            start, window = end, window + 1
        return np.concatenate(pieces) if pieces else np.empty(0, self.part.index)

    def window_of(self, position: int) -> int:
        """The window in which a position lies."""
        whole = self.window * self.block
        window = position // whole
        return window + (window >= self._short and position >= self.begin(window + 1))

    def begin(self, window: int) -> int:
        """The position of a window's first example."""
        begin = window * self.window * self.block - self._missing * (window > self._short)
        return min(begin, len(self))

    def spans(self, window: int) -> Iterator[tuple[int, int]]:
        """The blocks of a window, each by its first example in the part and the one after its last."""
        for block in self._blocks(window).tolist():
            yield block * self.block, min((block + 1) * self.block, len(self))

    def _blocks(self, window: int) -> np.ndarray:
        places = np.arange(window * self.window, min((window + 1) * self.window, self.blocks))
        return places if self._permutation is None else self._permutation(places)

    def _window_rows(self, window: int) -> np.ndarray:
        numbers = [np.arange(low, high) for low, high in self.spans(window)]
        chosen = np.concatenate(numbers) + self.part.examples.start
        if self._shuffled is not None:
            key = np.array(self._shuffled, np.uint64)
            philox = np.random.Philox(key=key, counter=np.array([0, 0, 0, window + 1], np.uint64))
            chosen = chosen[np.random.Generator(philox).permutation(len(chosen))]
        return self.part.at(chosen.astype(self.part.index))


class Stretch:
    """Some of an order's positions, from `start` to before `stop`; a slice of it is an array."""

    def __init__(self, order: Any, start: int, stop: int) -> None:
        self.order, self.start, self._stop = order, start, min(stop, len(order))

    def __len__(self) -> int:
        return max(0, self._stop - self.start)

    def __getitem__(self, some: slice) -> np.ndarray:
        start, stop, _ = some.indices(len(self))
        return self.order[self.start + start : self.start + stop]


class Permutation:
    """A permutation of 0 .. count - 1 that gives any place alone: a Feistel network over the next power of
    4 (Luby and Rackoff 1988), walked until it ends below count (Black and Rogaway 2002)."""

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self._count = count
        half = max(1, -(-(count - 1).bit_length() // 2))
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)
        self._keys = mixed(mixed(np.arange(ROUNDS), seed) ^ np.uint64(epoch), 1).tolist()

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """What is at these places, int64."""
        return self._walk(places, self._forward)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """The places of these values, int64."""
        return self._walk(values, self._backward)

    def _walk(self, numbers: np.ndarray, step: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        x = step(numbers.astype(np.uint64))
        while (out := x >= self._count).any():
            x = np.where(out, step(x), x)
        return x.astype(np.int64)

    def _forward(self, x: np.ndarray) -> np.ndarray:
        left, right = x >> self._half, x & self._mask
        for key in self._keys:
            left, right = right, left ^ (mixed(right, key) & self._mask)
        return (left << self._half) | right

    def _backward(self, x: np.ndarray) -> np.ndarray:
        left, right = x >> self._half, x & self._mask
        for key in self._keys[::-1]:
            left, right = right ^ (mixed(left, key) & self._mask), left
        return (left << self._half) | right
