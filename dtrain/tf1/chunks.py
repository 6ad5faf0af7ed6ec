"""Elements in chunks: arrays with an axis more, along which the elements follow one another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dtrain.tf1.rows import stacked

#: Some elements, one after another: an array [n, ...] for each part of an element.
Chunk = list[np.ndarray]

#: Arrays, and which of their entries are elements, one after another, as slices or arrays of numbers.
Picked = tuple[Chunk, Iterator[Any]]

#: A chunk has at most so many elements, and bytes: what is computed of it stays in the cache.
MOST_ELEMENTS, MOST_BYTES = 1024, 1 << 18


class Pieces:
    """Chunks in pieces of at most so many elements."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._left: Chunk = [np.empty(0)]

    def next(self, most: int) -> Chunk | None:
        """Up to `most` elements; None at the end."""
        while not len(self._left[0]):
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._left = chunk
        piece = [column[:most] for column in self._left]
        self._left = [column[most:] for column in self._left]
        return piece


def most_of(chunk: Chunk) -> int:
    """How many elements a chunk of such has."""
    bytes_each = sum(column.nbytes // max(len(column), 1) for column in chunk)
    return max(1, min(MOST_ELEMENTS, MOST_BYTES // max(bytes_each, 1)))


def cut(whole: Chunk) -> Iterator[Chunk]:
    """All elements, in chunks."""
    most = most_of(whole)
    return ([column[i : i + most] for column in whole] for i in range(0, len(whole[0]), most))


def gathered(picked: Picked) -> Iterator[Chunk]:
    """The elements themselves, in chunks."""
    columns, numbers = picked
    return ([column[which] for column in columns] for which in numbers)


def listed(which: Any) -> Sequence[int]:
    """Numbers one by one."""
    return range(which.start, which.stop) if isinstance(which, slice) else which.tolist()


def count_of(which: Any) -> int:
    """How many numbers a slice or an array has."""
    return which.stop - which.start if isinstance(which, slice) else len(which)


def in_lots(numbers: Iterator[Any], size: int) -> Iterator[Any]:
    """The same entries in lots of one size; the last may have fewer."""
    lot: list[Any] = []
    count = 0
    for which in numbers:
        first = 0
        while first < count_of(which):
            part = part_of(which, first, size - count)
            lot.append(part)
            count += count_of(part)
            first += count_of(part)
            if count == size:
                yield lot[0] if len(lot) == 1 else np.concatenate([listed(w) for w in lot]).astype(np.intp)
                lot, count = [], 0
    if lot:
        yield lot[0] if len(lot) == 1 else np.concatenate([listed(w) for w in lot]).astype(np.intp)


def part_of(which: Any, first: int, most: int) -> Any:
    """Up to `most` of them, from the first-th on."""
    if isinstance(which, slice):
        return slice(which.start + first, min(which.start + first + most, which.stop))
    return which[first : first + most]


def drawn(places: Iterator[Any], size: int, random: np.random.Generator) -> Iterator[Any]:
    """Places in another order: each is drawn of the next `size` ones."""
    buffer = list(itertools.islice(places, size))
    while some := list(itertools.islice(places, MOST_ELEMENTS)):
        for place, slot in zip(some, random.integers(0, size, len(some)).tolist(), strict=True):
            yield buffer[slot]
            buffer[slot] = place
    for slot in random.permutation(len(buffer)).tolist():
        yield buffer[slot]


def collected(places: Sequence[tuple[Chunk, int]]) -> Iterator[Chunk]:
    """Elements from where they are: one chunk, or one each where their shapes differ."""
    columns = [[chunk[c][i] for chunk, i in places] for c in range(len(places[0][0]))]
    try:
        yield [stacked(column) for column in columns]
    except ValueError:
        for row in zip(*columns, strict=True):
            yield [stacked([value]) for value in row]
