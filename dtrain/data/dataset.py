"""A data set as the trainer has it: arrays of examples and their targets, and which are for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np

#: The kinds of targets: a class each, numbers, or several labels that each apply or not.
CLASSES, NUMBERS, LABELS = "classes", "numbers", "labels"
#: The parts of a set.
PARTS = ("train", "validation", "test")
#: Makes the choice of the examples that are held back; the same in all runs, so that they compare.
SPLIT_SEED = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Dataset:
    """Examples and their targets; training, validation and test examples, in this order.

    name: "mnist", "synthetic", or what messages call another set. source: where it was read, or "generated".
    digest: sha256 (hex) that says which examples these are, wherever the same set was read from.
    x: an array [n, ...] of examples, by rows, C-contiguous; it may be mapped from a file and larger than
        memory. uint8 are pixels [n, h, w] or [n, h, w, channels], 0 .. 255. A task's may be arrays by name.
    y: kind classes: whole numbers [n] below len(classes); numbers: float32 [n] or [n, k]; labels: uint8
        [n, k], 0 or 1. None may be written to, so that a graph holds these very arrays and no copy.
    train, validation, test: numbers of examples, empty where the set has none such. `part` says which rows
        of which arrays these are.
    kind, classes: what the targets are, and the classes' or labels' names; () where they are numbers.
    warning: what to tell the user where this is not the set hoped for, otherwise None.
    weights: of each example, float32 [n], where they are not all 1.
    mean, deviation: of x, of each feature or channel, in the shape of the last axis; x that is not uint8 is
        used as (x - mean) / deviation where they are given, and as it is otherwise.
    split: which rows are held back to validate on, where that was asked for.
    elsewhere: other sets that are the whole of this one's validation or test, by the part.
    """

    name: str
    source: str
    digest: str
    x: Any
    y: Any
    train: range
    validation: range = range(0)
    test: range = range(0)
    kind: str = CLASSES
    classes: tuple[str, ...] = ()
    warning: str | None = None
    weights: np.ndarray | None = None
    mean: np.ndarray | None = None
    deviation: np.ndarray | None = None
    split: Split | None = None
    elsewhere: Mapping[str, Dataset] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for array in self.arrays():
            array.flags.writeable = False

    def arrays(self) -> Iterator[np.ndarray]:
        """All arrays of examples, targets and weights."""
        for arrays in (self.x, self.y, self.weights):
            if arrays is not None:
                yield from arrays.values() if isinstance(arrays, Mapping) else [arrays]

    def part(self, name: str) -> Part:
        """The training, validation or test examples: train, validation or test."""
        return Part(self.elsewhere.get(name, self), getattr(self, name))

    @property
    def index(self) -> Any:
        """The dtype of numbers of rows: int32 where that is enough, here and elsewhere."""
        sets = (self, *self.elsewhere.values())
        return np.int32 if all(len(next(s.arrays())) < 1 << 31 for s in sets) else np.int64

    def holding_back(self, count: int) -> Dataset:
        """The same where so many of the training examples are for validation."""
        whole = len(self.train)
        return replace(
            self,
            train=range(whole - count),
            validation=range(whole - count, whole),
            split=Split(whole, count),
            digest=sha256(f"{self.digest} validation {count} of {whole}".encode()).hexdigest(),
        )

    def with_part(self, name: str, other: Dataset) -> Dataset:
        """The same with another set, the whole of it, as its validation or test examples."""
        examples = range(len(next(other.arrays())))
        digest = sha256(f"{self.digest} {name} {other.digest}".encode()).hexdigest()
        return replace(self, digest=digest, elsewhere={**self.elsewhere, name: other}, **{name: examples})


@dataclass(frozen=True)
class Part:
    """Some of the examples of a set, in whose arrays they are. Of no examples it is false."""

    data: Dataset
    examples: range

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, some: slice) -> np.ndarray:
        """The rows of the arrays that hold some of the part's examples, in their order."""
        chosen = self.examples[some]
        return self.at(np.arange(chosen.start, chosen.stop, dtype=self.index))

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """The rows that hold examples of these numbers, each one of `examples`."""
        split = self.data.split
        return numbers if split is None else split.rows(numbers).astype(self.index)

    @property
    def index(self) -> Any:
        """The dtype of numbers of rows."""
        return self.data.index


@dataclass(frozen=True)
class Split:
    """Of the first `count` rows `held` are held back: one of each of `held` stretches of neighbours.

    So they are spread evenly over a set that is sorted, such as by class, rows keep their order, and which
    row an example is follows from its number, without a table. Which of its stretch is a hash's choice.
    """

    count: int
    held: int

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """The rows of examples by their numbers: those left first, then those held back, then all behind."""
        numbers = numbers.astype(np.int64)
        left = self.count - self.held
        rows = np.where(numbers < left, self._left(np.minimum(numbers, left - 1)), numbers)
        held = (numbers >= left) & (numbers < self.count)
        stretch, _, offset = self._stretch(np.clip(numbers - left, 0, self.held - 1))
        return np.where(held, stretch + offset, rows)

    def _left(self, number: np.ndarray) -> np.ndarray:
        short, longer = divmod(self.count, self.held)  # the first `longer` stretches have one row more
        behind = number - longer * short
        each = max(short - 1, 1)
        stretch = np.where(behind < 0, number // short, longer + behind // each)
        place = np.where(behind < 0, number % short, behind % each)
        start, _, offset = self._stretch(stretch)
        return start + place + (place >= offset)

    def _stretch(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First row and length of stretches, and which of its rows each holds back."""
        short, longer = divmod(self.count, self.held)
        length = short + (number < longer)
        return (
            number * short + np.minimum(number, longer),
            length,
            (mixed(number) >> 1).astype(np.int64) % length,
        )


def mixed(numbers: np.ndarray, key: int = SPLIT_SEED) -> np.ndarray:
    """A hash of whole numbers, uint64: the finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    z = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
