"""A data set as the trainer has it: arrays of examples and their targets, and which are for what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np

from dtrain.data.hashing import mixed
from dtrain.errors import DataError

#: The kinds of targets: a class each, numbers, or several labels that each apply or not.
CLASSES, NUMBERS, LABELS = "classes", "numbers", "labels"
#: The parts of a set.
PARTS = ("train", "validation", "test")
#: Rows looked at together.
CHUNK = 1 << 20
#: Means and deviations of a set, as it has and says them.
MOMENTS = ("mean", "deviation", "y_mean", "y_deviation")
#: What Dataset.about() says at least: states before had no moments of y.
ABOUT = {"name", "x", "y", "kind", "classes", "mean", "deviation"}
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
    warning: what to say where this is not the set hoped for, otherwise None.
    weights: of each example, float32 [n], where they are not all 1.
    mean, deviation: of x, of each feature or channel, in the shape of the last axis; x that is not uint8 is
        used as (x - mean) / deviation where they are given, and as it is otherwise.
    y_mean, y_deviation: of y that is numbers, where they are given; see standardised().
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
    y_mean: np.ndarray | None = None
    y_deviation: np.ndarray | None = None
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

    @property
    def row_bytes(self) -> int:
        """Bytes of an example and its target."""
        return sum(array[:1].nbytes for array in self.arrays())

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for an example."""
        return len(self.classes) if self.kind != NUMBERS else math.prod(self.y.shape[1:])

    @property
    def pictures(self) -> bool:
        """Whether x can be shown: pixels [n, h, w], grey, where 255 is ink, or [n, h, w, 3], colours."""
        if isinstance(self.x, Mapping) or self.x.dtype != np.uint8:
            return False
        return self.x.ndim == 3 or (self.x.ndim == 4 and self.x.shape[3] == 3)

    def about(self) -> dict[str, Any]:
        """What a model that is trained on it has to know of other sets, as plain data; see like()."""
        x, y = _specs(self.x), _specs(self.y)
        plain = {"name": self.name, "x": x, "y": y, "kind": self.kind, "classes": list(self.classes)}
        moments = {name: getattr(self, name) for name in MOMENTS}
        return plain | {name: None if a is None else np.asarray(a).tolist() for name, a in moments.items()}

    def like(self, about: Mapping[str, Any], said: str) -> Dataset:
        """The same for a model that was trained on another set: in that one's classes, mean and deviation.

        said: what names this one, for messages.

        Raises:
            DataError: its examples or targets are of another shape or kind, or it has classes of its own.
        """
        here, classes = self.about(), about["classes"]
        for what, key in (("examples", "x"), ("targets", "kind")):
            if here[key] != about[key]:
                raise DataError(f"{said} has {what} {here[key]}, and {about['name']} has {about[key]}.")
        if self.kind == NUMBERS and here["y"] != about["y"]:
            raise DataError(f"{said} has targets {here['y']}, and {about['name']} has {about['y']}.")
        y = self.y
        if here["classes"] != classes:
            if more := [name for name in self.classes if name not in classes]:
                raise DataError(
                    f"{said} has {self.kind} that {about['name']} does not have: {_listed(more)}. There are "
                    f"{_listed(classes)}."
                )
            if self.kind != CLASSES:
                raise DataError(f"{said} has labels {_listed(self.classes)}, not {_listed(classes)}.")
            y = np.array([classes.index(name) for name in self.classes], np.int32)[y]
        elsewhere = {name: other.like(about, said) for name, other in self.elsewhere.items()}
        return replace(self, y=y, classes=tuple(classes), elsewhere=elsewhere, **moments_of(about))

    @property
    def standardised(self) -> bool:
        """Whether a model that dtrain gives a loss learns its targets less their mean, by their deviation."""
        return self.kind == NUMBERS and self.y_mean is not None and self.y_deviation is not None

    def described(self, plain: bool = True, standardised: bool = False) -> str:
        """Its examples and targets in a few words, for a header.

        plain: whether a model gets just numbers. standardised: whether its targets are, for the loss.
        """
        about = self.about()
        x = about["x"] if isinstance(about["x"], str) else _listed(f"{n} {s}" for n, s in about["x"].items())
        if plain and not isinstance(self.x, Mapping):
            scaled = "as they are" if self.mean is None else "standardised by their mean and deviation"
            x += f", {'from 0 to 1' if self.x.dtype == np.uint8 else scaled}"
        if isinstance(self.y, Mapping):
            return f"{x}; targets {_listed(f'{n} {s}' for n, s in about['y'].items())}"
        if self.kind == NUMBERS:
            some = self.y[:CHUNK]
            which = f"{self.outputs} number{'s' * (self.outputs > 1)} from {some.min():g} to {some.max():g}"
            return f"{x}; {which}{', standardised for the loss' * standardised}"
        counted = list(self.classes) == [str(i) for i in range(len(self.classes))]
        names = "" if counted or len(self.classes) > 20 else f" ({_listed(self.classes)})"
        return f"{x}; {len(self.classes)} {self.kind}{names}"

    def refuse_bad_targets(self, rank: int = 0, ranks: int = 1) -> None:
        """Look at this rank's share of the targets.

        Raises:
            DataError: one is no finite number, or none of the classes; its row is named.
        """
        if isinstance(self.y, Mapping):
            return
        most = {CLASSES: len(self.classes) - 1, LABELS: 1}.get(self.kind)
        wanted = "a finite number" if most is None else f"a whole number from 0 to {most}"
        for low in range(rank * CHUNK, len(self.y), ranks * CHUNK):
            some = self.y[low : low + CHUNK]
            good = np.isfinite(some) if most is None else (some >= 0) & (some <= most)
            if not good.all():
                row = int(np.argmin(good.reshape(len(some), -1).all(1)))
                raise DataError(
                    f"{self.source}: the target of example {low + row}, counted from 0, is {some[row]}, "
                    f"expected {wanted}."
                )

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
        examples: Any = range(len(next(other.arrays())))  # of the field that is called so
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
        """The rows of examples by their numbers: those left first, then those held back, then all others."""
        numbers = numbers.astype(np.int64)
        left = self.count - self.held
        rows = np.where(numbers < left, self._left(np.minimum(numbers, left - 1)), numbers)
        held = (numbers >= left) & (numbers < self.count)
        stretch, offset = self._stretch(np.clip(numbers - left, 0, self.held - 1))
        return np.where(held, stretch + offset, rows)

    def _left(self, number: np.ndarray) -> np.ndarray:
        short, longer = divmod(self.count, self.held)  # the first `longer` stretches have one row more
        behind = number - longer * short
        each = max(short - 1, 1)
        stretch = np.where(behind < 0, number // short, longer + behind // each)
        place = np.where(behind < 0, number % short, behind % each)
        start, offset = self._stretch(stretch)
        return start + place + (place >= offset)

    def _stretch(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first row of stretches, and which of its rows, from 0, each holds back."""
        short, longer = divmod(self.count, self.held)
        length = short + (number < longer)
        offset = (mixed(number, SPLIT_SEED) % length.astype(np.uint64)).astype(np.int64)
        return number * short + np.minimum(number, longer), offset


def moments_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """What about() says of mean and deviation, as arrays or None."""
    return {n: None if about.get(n) is None else np.array(about[n], np.float32) for n in MOMENTS}


def _spec(array: np.ndarray) -> str:
    """'uint8 [28, 28]': an array's entries and the shape of a row."""
    return f"{array.dtype.name} {list(array.shape[1:])}"


def _specs(arrays: Any) -> Any:
    return {n: _spec(a) for n, a in arrays.items()} if isinstance(arrays, Mapping) else _spec(arrays)


def _listed(names: Iterable[str]) -> str:
    """Names in a row, the first of very many."""
    found = list(names)
    return ", ".join(found[:20]) + ", ..." * (len(found) > 20)
