"""What a reader gives: how many examples of what, before they are read, and then the examples in pieces.

A reader looks at a source twice. The first time it finds out what is there: counts, shapes, and what the
targets are, for which those alone are read. The second time it gives the examples in pieces of a MiB, so
that a source may be larger than memory. Nothing that a file says of itself is trusted.
"""

from __future__ import annotations

import math
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtrain.data.dataset import CLASSES, LABELS, NUMBERS, PARTS
from dtrain.errors import DataError, UsageError

#: What folders and files call them.
SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
#: Files of tables in columns.
COLUMNS = (".parquet", ".arrow", ".feather")
KINDS = (CLASSES, NUMBERS, LABELS)

PIECE = 1 << 20  # bytes of a piece
MOST_ROW = 256 << 20  # bytes of one example
MOST_CLASSES = 65_536
#: Whole numbers up to here are taken for classes where nothing is said.
MOST_WHOLE = 1_000
#: A source that unpacks to more than this, and to more than 200 times its size, is not read: a zip bomb.
BOMB_BYTES, BOMB_RATIO = 1 << 30, 200


class Column(NamedTuple):
    """One value of each example: its dtype (little-endian) and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {[*self.shape]}" if self.shape else self.dtype


class Label(NamedTuple):
    """--label: the columns of the target, and what it is where that is said."""

    columns: tuple[str, ...] = ()
    kind: str = ""

    @classmethod
    def of(cls, text: str) -> Label:
        """COLUMN[,COLUMN ...][:KIND]; raises UsageError."""
        columns, colon, kind = text.rpartition(":")
        if not colon or kind not in KINDS:
            columns, kind = text, ""
        names = [name.strip() for name in columns.split(",")] if columns else []
        if "" in names or len({*names}) < len(names):
            raise UsageError(
                f"--label {text!r}: give a column's name, or several with commas between, and after a colon "
                "what they are where dtrain cannot see it, such as --label quality:numbers (or :classes, "
                ":labels)."
            )
        return cls(tuple(names), kind)


class Targets:
    """What the targets are, seen from all of them; what comes out of encode() is stored.

    kind: "classes" of a number each (uint8, int32 where there are more than 256), "numbers" (float32 [...])
    or "labels", several of which hold for an example (uint8 [k] of 0 and 1). classes: their names.
    """

    def __init__(self, kind: str, classes: Sequence[str] = (), shape: tuple[int, ...] = ()) -> None:
        self.kind, self.classes = kind, tuple(classes)
        dtype = {"numbers": "float32", "labels": "uint8"}.get(
            kind, "uint8" if len(classes) <= 256 else "int32"
        )
        self.y = Column(dtype, shape)
        self.number: dict[str, int] | None = None  # of a class that is a word
        self.one_hot = False

    def encode(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Targets as they are stored, and which of them cannot be (bool [n]), None where all can."""
        if self.number is not None:
            found = np.fromiter((self.number.get(word, -1) for word in raw), np.int64, len(raw))
            bad = found < 0
            return found.astype(self.y.dtype), bad if bad.any() else None
        if raw.dtype.kind == "O":
            raw = numbers_of(raw)
        if self.one_hot:
            return raw.argmax(1).astype(self.y.dtype), None
        raw = raw.reshape(len(raw), *self.y.shape)
        bad = np.zeros(len(raw), bool)
        if self.kind == "classes":
            bad = (raw < 0) | (raw >= len(self.classes))
        with np.errstate(over="ignore", invalid="ignore"):
            stored = raw.astype(self.y.dtype)
        if self.kind == "numbers":
            bad = ~np.isfinite(stored).reshape(len(stored), -1).all(1)
        return stored, bad if bad.any() else None


def numbers_of(words: np.ndarray) -> np.ndarray:
    """Texts as float64, each by itself where they are no numbers: NaN."""
    flat = words.reshape(-1)
    return np.fromiter((number(word) for word in flat), np.float64, len(flat)).reshape(words.shape)


def number(word: str) -> float:
    """A number as everybody writes it in a file: a point, no thousands; NaN where it is none."""
    try:
        return math.nan if "_" in word else float(word)
    except ValueError:
        return math.nan


class Source(ABC):
    """A set of examples that a reader has found.

    name: for people. files: what it is read from. parts: how many examples each part has, in the order of
    PARTS. x: what an example is. targets: what goes with it. unused: what the source holds besides. table:
    whether it has columns, of which --label names some.
    """

    table = False

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name or path.resolve().name
        self.files: list[Path] = []
        self.parts: dict[str, int] = {}
        self.x = Column("float32", ())
        self.targets = Targets("numbers")
        self.unused: list[str] = []

    @abstractmethod
    def pieces(self, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The examples of a part, in order: x [m, ...] of any dtype, and their targets as they were found."""

    @abstractmethod
    def only_targets(self, part: str) -> Iterator[np.ndarray]:
        """The targets of a part: numbers [m, ...], or words [m] (dtype object)."""

    @abstractmethod
    def place(self, part: str, row: int, cell: int = 0) -> str:
        """Where an example of a part lies, for messages; cell: which of its values."""

    def place_of_target(self, part: str, row: int) -> str:
        """Where its target lies."""
        return self.place(part, row)

    def target_names(self) -> Sequence[str]:
        """Names of the classes, or of the columns of the target, where the source has them."""
        return ()

    @abstractmethod
    def look(self, label: Label) -> None:
        """Find out counts and shapes; the constructor has only found the files. Ends with settle()."""

    # -- the same for all ----------------------------------------------------------------------------------
    def settle(self, label: Label) -> None:
        """Check the counts and sizes found, and see what the targets are."""
        if label.columns and not self.table:
            raise UsageError(
                f"--label {','.join(label.columns)}: {self.path} is no table with columns; leave it out. "
                "(What the targets are can be said for any set: --label :numbers, :classes or :labels.)"
            )
        self.parts = {part: self.parts[part] for part in PARTS if self.parts.get(part)}
        if not self.parts.get("train"):
            raise DataError(f"{self.path}: holds no training examples.")
        if 0 in self.x.shape or self.x.nbytes > MOST_ROW:
            raise DataError(
                f"{self.path}: an example is {self.x}, {self.x.nbytes:,} bytes: dtrain takes 1 to "
                f"{MOST_ROW:,}."
            )
        self._refuse_bomb(self.x.nbytes)
        self.targets = _Look(self, label.kind).targets()
        self._refuse_bomb(self.x.nbytes + self.targets.y.nbytes)

    def _refuse_bomb(self, row: int) -> None:
        packed = max(1, sum(file.stat().st_size for file in self.files))
        unpacked = sum(self.parts.values()) * row
        if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
            raise DataError(
                f"{self.path}: {packed:,} bytes would unpack to {unpacked:,}: that is more than {BOMB_RATIO} "
                "times as much, as in a zip bomb. If it is meant so, save it without compression."
            )

    @property
    def columns(self) -> dict[str, Column]:
        return {"x": self.x, "y": self.targets.y}

    def about(self) -> dict[str, Any]:
        """What a store says of itself, once all rows were read."""
        targets = self.targets
        said = {"name": self.name, "kind": targets.kind, "classes": targets.classes}
        return said | {"source": str(self.path), "unused": self.unused}

    def made_of(self) -> str:
        """The names, sizes, times and numbers of the files that are read, in a line."""
        try:
            found = [(str(path.resolve()), path.stat()) for path in self.files]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror}).") from None
        return repr([(path, s.st_size, s.st_mtime_ns, s.st_ino) for path, s in found])

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All examples as they are stored, checked: x and y in pieces, part by part."""
        for part, count in self.parts.items():
            done = 0
            for x, raw in self.pieces(part):
                yield self._checked(part, done, x, raw)
                done += len(x)
            if done != count:
                raise DataError(
                    f"{self.path}: {done:,} examples were read where it announced {count:,}: did it change?"
                )

    def _checked(self, part: str, done: int, x: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.ascontiguousarray(x.reshape(len(x), *self.x.shape), self.x.dtype)
        if self.x.dtype == "float32" and not np.isfinite(stored).all():
            flat = stored.reshape(len(stored), -1)
            row, cell = map(int, np.argwhere(~np.isfinite(flat))[0])
            self.refuse_value(part, done + row, cell, x.reshape(len(x), -1)[row, cell])
        y, bad = self.targets.encode(raw)
        if bad is not None:
            row = int(np.argmax(bad))
            raise DataError(f"{self.place_of_target(part, done + row)}: {self._why(part, raw[row])}")
        return stored, y

    def refuse_value(self, part: str, row: int, cell: int, value: Any) -> None:
        raise DataError(
            f"{self.place(part, row, cell)}: is {value}; every value has to be a finite number of float32."
        )

    def _why(self, part: str, value: Any) -> str:
        if self.targets.kind != "classes":
            return f"the target is {value}; it has to be a finite number."
        known = self.targets.classes
        names = f"{', '.join(known[:5])} ... {known[-1]}" if len(known) > 6 else ", ".join(known)
        words = self.targets.number is not None
        return (
            f"the label {value!r} is none of the {len(known)} classes of the training examples ({names})."
            if words
            else f"the label {value} is none of the training examples' classes, 0 to {len(known) - 1}."
        )


class _Look:
    """One pass over the targets of all parts; what the training examples have says what they are."""

    def __init__(self, source: Source, kind: str) -> None:
        self.source, self.kind = source, kind
        self.words: set[str] | None = set()  # None where there are too many to be classes
        self.numeric, self.binary, self.single = True, True, True
        self.least, self.most = math.inf, -math.inf
        self.floating = False
        self.shape: tuple[int, ...] | None = None
        self.odd: tuple[str, int, Any] | None = None  # the first that is no finite number
        for part in source.parts:
            done = 0
            for raw in source.only_targets(part):
                self._add(part, done, raw)
                done += len(raw)
            if part == "train" and not done:
                raise DataError(f"{source.path}: holds no training examples.")

    def _add(self, part: str, done: int, raw: np.ndarray) -> None:
        if raw.ndim == 2 and raw.shape[1] == 1:
            raw = raw[:, 0]
        if self.shape is not None and raw.shape[1:] != self.shape:
            raise DataError(f"{self.source.path}: targets are {[*self.shape]} and {[*raw.shape[1:]]}.")
        self.shape = raw.shape[1:]
        numbers = raw
        if raw.dtype.kind == "O":
            if raw.ndim == 1:
                self._add_words(part, done, raw)
            numbers = numbers_of(raw)
            self.floating = self.floating or not all(map(_is_whole, raw.reshape(-1)))
        elif raw.dtype.kind == "f":
            self.floating = True
        elif raw.dtype.kind not in "biu":
            raise DataError(f"{self.source.path}: targets are of dtype {raw.dtype}: give numbers or words.")
        good = np.isfinite(numbers.astype(np.float64))
        if not good.all():
            row = int(np.argwhere(~good)[0][0])
            self.odd = self.odd or (part, done + row, raw[row])
            words = raw.dtype.kind == "O" and any(
                w.strip().lower().lstrip("+-") not in ("nan", "inf", "infinity", "") for w in raw[~good]
            )
            self.numeric = self.numeric and not words
            return
        if part == "train":
            self.least, self.most = min(self.least, numbers.min()), max(self.most, numbers.max())
        if self.binary:
            self.binary = bool(((numbers == 0) | (numbers == 1)).all())
        if self.binary and raw.ndim == 2:
            self.single = self.single and bool((numbers.sum(1) == 1).all())

    def _add_words(self, part: str, done: int, raw: np.ndarray) -> None:
        if (empty := raw == "").any():
            where = self.source.place_of_target(part, done + int(np.argmax(empty)))
            raise DataError(f"{where}: the label is empty.")
        if part != "train" or self.words is None:
            return
        self.words.update(raw)
        if len(self.words) > MOST_CLASSES:
            self.words = None

    def targets(self) -> Targets:
        shape = self.shape or ()
        words = not self.numeric or (self.kind == "classes" and self.floating and self.words)
        if words and shape:
            assert self.odd is not None
            part, row, value = self.odd
            where = self.source.place_of_target(part, row)
            raise DataError(f"{where}: the target is {value}; of several columns each has to be a number.")
        if words:
            return self._of_words()
        if self.odd is not None:
            part, row, value = self.odd
            raise DataError(
                f"{self.source.place_of_target(part, row)}: the target is {value}; it has to be a finite "
                "number."
            )
        if len(shape) > 1:
            return self._numbers(shape)
        one_hot = bool(shape) and self.binary and self.single
        kind = self.kind or self._guess(shape, one_hot)
        if kind == "numbers":
            return self._numbers(shape)
        if kind == "labels":
            if not (shape and self.binary):
                self._refuse("labels", "they have to be several columns of 0 and 1")
            return Targets("labels", self._names(shape[0]), shape)
        if shape and not one_hot:
            self._refuse("classes", "of several columns one has to be 1 in each row, and all others 0")
        if shape:
            targets = Targets("classes", self._names(shape[0]))
            targets.one_hot = True
            return targets
        if self.floating or self.least < 0 or self.most >= MOST_CLASSES:
            self._refuse("classes", f"they have to be words, or whole numbers from 0 to {MOST_CLASSES - 1}")
        count, names = int(self.most) + 1, self.source.target_names()
        return Targets("classes", names if len(names) >= count else self._names(count))

    def _guess(self, shape: tuple[int, ...], one_hot: bool) -> str:
        if shape:
            return "classes" if one_hot else "labels" if self.binary and not self.floating else "numbers"
        few = not self.floating and self.least >= 0 and self.most < MOST_WHOLE
        return "classes" if few else "numbers"

    def _of_words(self) -> Targets:
        if self.kind in ("numbers", "labels"):
            assert self.odd is not None
            part, row, value = self.odd
            raise DataError(f"{self.source.place_of_target(part, row)}: {value!r} is no number.")
        if self.words is None:
            raise DataError(
                f"{self.source.path}: the target has more than {MOST_CLASSES:,} different words: they are no "
                "classes."
            )
        targets = Targets("classes", sorted(self.words))
        targets.number = {word: index for index, word in enumerate(targets.classes)}
        return targets

    def _numbers(self, shape: tuple[int, ...]) -> Targets:
        if self.kind not in ("", "numbers"):
            self._refuse(self.kind, f"they are numbers {[*shape]}")
        return Targets("numbers", self._names(shape[0]) if shape else (), shape)

    def _names(self, count: int) -> Sequence[str]:
        names = self.source.target_names()
        return names if len(names) == count else [*map(str, range(count))]

    def _refuse(self, kind: str, why: str) -> None:
        raise DataError(f"{self.source.path}: targets cannot be {kind}: {why}.")


def _is_whole(word: str) -> bool:
    return word.strip().lstrip("+-").isdecimal()


# -- files -------------------------------------------------------------------------------------------------
def regular(path: Path) -> os.stat_result:
    """A file's status; raises DataError where it is no file that can be read to its end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise DataError(f"{path}: is not a regular file.")
        if not os.access(path, os.R_OK):
            raise DataError(f"{path}: cannot be read (Permission denied).")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    return status


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; raises DataError."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read as a folder ({error.strerror}). Point --dataset or DTRAIN_DATA to "
            "one that exists and that you may read, or type: dtrain data fetch."
        ) from None


def parts_in(folder: Path, pattern: str) -> dict[str, str]:
    """Part -> name in a folder, of those that are a part's name in a pattern such as '{}.csv'.

    Raises:
        DataError: a part is there twice.
    """
    found: dict[str, str] = {}
    for name in names_in(folder):
        for part, words in SPELLINGS.items():
            if any(re.fullmatch(re.escape(pattern).replace(r"\{\}", word), name, re.I) for word in words):
                if part in found:
                    raise DataError(
                        f"{folder}: holds {found[part]} and {name}, both of them {part}: keep one."
                    )
                found[part] = name
    return {part: found[part] for part in PARTS if part in found}


def stored_dtype(dtype: np.dtype) -> str:
    """What values of a dtype are stored as: pixels stay bytes, all else is float32."""
    return "uint8" if dtype == np.uint8 else "float32"


def per_piece(nbytes: int) -> int:
    """Examples of a piece."""
    return max(1, PIECE // max(1, nbytes))
