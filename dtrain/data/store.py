"""A store: a folder with a file of flat rows for each column, and manifest.json. All that is read becomes
one.

    x.bin, y.bin     rows of fixed size, one behind the other, little-endian: training, validation, test
    examples manifest.json    format, name, kind, classes, parts (how many of each), columns (dtype and shape
    of a row, the
                     CRC-32 of each MiB, SHA-256), mean and deviation, a digest of all; and its own CRC-32

A row is found by arithmetic, so a set that is larger than memory is mapped, and the pages of it that are in
use are the same for all ranks of a node. A store is written beside its place and renamed, so nobody meets
half of one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from dtrain.data.readers.source import KINDS, PARTS, Column
from dtrain.errors import DataError
from dtrain.files import open_regular, read_regular, sync

FORMAT = 1
MANIFEST = "manifest.json"
PIECE = 1 << 20  # bytes under one checksum
MOST_MANIFEST = 256 << 20  # bytes: eleven for each MiB of the columns
DTYPES = ("uint8", "int32", "float32")


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    parts: how many examples each has, in the order in which they lie. columns: "x" and "y". sums: the CRC-32
    of each MiB of a column; sha256: of the whole. digest: of all that examples are, so two stores of the same
    have the same. mean, deviation: of the training examples, for each index of the last axis of x, and of y
    where that is numbers. source: what it was read from.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    parts: dict[str, int]
    columns: dict[str, Column]
    sums: dict[str, list[int]]
    sha256: dict[str, str]
    digest: str
    counts: dict[str, list[int]] = field(default_factory=dict)
    mean: dict[str, list[float]] = field(default_factory=dict)
    deviation: dict[str, list[float]] = field(default_factory=dict)
    least: float = 0.0
    most: float = 0.0
    source: str = ""

    @property
    def examples(self) -> int:
        return sum(self.parts.values())

    def bytes_of(self, column: str) -> int:
        return self.examples * self.columns[column].nbytes

    def ranges(self) -> dict[str, range]:
        """Where each part lies in the columns."""
        found, at = {}, 0
        for part in PARTS:
            found[part] = range(at, at := at + self.parts.get(part, 0))
        return found

    def text(self) -> str:
        """The file; its last line is the checksum of the lines before."""
        body = json.dumps(
            {"format": FORMAT} | asdict(self) | {"columns": {n: [*c] for n, c in self.columns.items()}}
        )
        return f'{body[:-1]}, "crc": {zlib.crc32(body.encode())}}}\n'

    @classmethod
    def of(cls, data: bytes) -> Manifest:
        """The manifest in a file; raises ValueError, saying what is wrong, for what is none."""
        text = data.decode()
        body, mark, check = text.rpartition(', "crc": ')
        if not mark or f"{zlib.crc32((body + '}').encode())}}}\n" != check:
            raise ValueError("its text does not have its checksum")
        said = json.loads(body + "}")
        if said.pop("format") != FORMAT:
            raise ValueError(f"it is of another format than {FORMAT}, which this version of dtrain reads")
        columns = {name: Column(dtype, tuple(shape)) for name, (dtype, shape) in said.pop("columns").items()}
        found = cls(classes=tuple(said.pop("classes")), columns=columns, **said)
        found.check()
        return found

    def check(self) -> None:
        """Raise ValueError unless it can be of a store: whoever wrote it is not trusted."""

        def whole(number: Any, least: int = 0) -> bool:
            return type(number) is int and least <= number < 1 << 48

        good = self.kind in KINDS and {*self.columns} == {"x", "y"} and {*self.parts} <= {*PARTS}
        good = good and all(
            isinstance(name, str) for name in (self.name, self.digest, self.source, *self.classes)
        )
        good = good and all(map(whole, self.parts.values())) and self.parts.get("train", 0) > 0
        for name, column in self.columns.items():
            good = good and column.dtype in DTYPES and len(column.shape) <= 32
            good = good and all(whole(n, 1) for n in column.shape)
            good = good and len(self.sums[name]) == -(-self.bytes_of(name) // PIECE)
            good = good and all(whole(n) for n in self.sums[name])
        y = self.columns["y"]
        good = good and (y.dtype == "float32") == (self.kind == "numbers")
        good = good and (len(self.classes) > 0 and y.shape == () if self.kind == "classes" else True)
        if not good:
            raise ValueError("what it says cannot be")


class Store(NamedTuple):
    """A set by its columns, x and y [examples, ...], which are not to be written to, and its manifest.

    path: its folder; None where it lies in this process's memory.
    """

    path: Path | None
    manifest: Manifest
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Store:
        """Map the store in a folder; its columns have the right size, and that is all that is known of them.

        Raises:
            DataError: there is no store, or none that is whole, with the file in question.
        """
        manifest = read_manifest(path)
        return cls(path, manifest, *(_map(path, manifest, name) for name in ("x", "y")))

    def damage(self, share: Callable[[int], bool] = lambda piece: True) -> str:
        """Which MiB is not as it was written, the first of those in a share: a sentence, or ''."""
        for name, array in (("x", self.x), ("y", self.y)):
            flat = array.reshape(-1).view(np.uint8)
            for piece, expected in enumerate(self.manifest.sums[name]):
                if share(piece) and zlib.crc32(flat[piece * PIECE : (piece + 1) * PIECE]) != expected:
                    row = self.manifest.columns[name].nbytes
                    first, last = piece * PIECE // row, min(flat.size, (piece + 1) * PIECE) // row
                    return (
                        f"{self.path}/{name}.bin: is damaged in examples {first:,} to {last:,}, counted "
                        "from 0: import the set again."
                    )
        return ""


def read_manifest(path: Path) -> Manifest:
    """The manifest of the store in a folder; raises DataError."""
    at = path / MANIFEST
    try:
        return Manifest.of(read_regular(at, MOST_MANIFEST))
    except FileNotFoundError:
        raise DataError(f"{path}: holds no {MANIFEST}: `dtrain data import` writes one.") from None
    except OSError as error:
        raise DataError(f"{at}: cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError) as error:
        said = error if type(error) is ValueError else "it is no manifest"
        raise DataError(f"{at}: is damaged ({said}): import the set again.") from None


def _map(path: Path, manifest: Manifest, name: str) -> np.ndarray:
    column, size = manifest.columns[name], manifest.bytes_of(name)
    at = path / f"{name}.bin"
    try:
        with open_regular(at) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise DataError(
                    f"{at}: is {found:,} bytes long, expected {size:,}: it was cut short or replaced; "
                    "import the set again."
                )
            data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{at}: cannot be read ({error.strerror}).") from None
    array = np.frombuffer(data, np.dtype(column.dtype).newbyteorder("<"))
    return array.reshape(manifest.examples, *column.shape).view(column.dtype)


def is_store(path: Path) -> bool:
    return (path / MANIFEST).is_file()


# -- writing -----------------------------------------------------------------------------------------------
class Examples(Protocol):
    """What can be written: how many examples each part has, in the order of PARTS; their columns; x and y in
    pieces, part by part; and, behind the last piece, name, kind, classes and source."""

    parts: dict[str, int]

    @property
    def columns(self) -> dict[str, Column]: ...

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...

    def about(self) -> dict[str, Any]: ...


class Written:
    """A column, as it is written."""

    def __init__(self, file: IO[bytes] | None, column: Column) -> None:
        self.column, self.rows = column, 0
        self.sums: list[int] = []
        self._file, self._sha256 = file, hashlib.sha256()
        self._crc, self._left = 0, PIECE

    def add(self, rows: np.ndarray) -> None:
        self.rows += len(rows)
        data = memoryview(np.ascontiguousarray(rows, np.dtype(self.column.dtype).newbyteorder("<"))).cast("B")
        self._sha256.update(data)
        if self._file:
            self._file.write(data)
        while data:
            self._crc = zlib.crc32(data[: self._left], self._crc)
            taken = min(self._left, len(data))
            data, self._left = data[taken:], self._left - taken
            if not self._left:
                self._end()

    def end(self) -> str:
        """Behind the last row; returns the SHA-256 of all."""
        if self._left < PIECE:
            self._end()
        return self._sha256.hexdigest()

    def _end(self) -> None:
        self.sums.append(self._crc)
        self._crc, self._left = 0, PIECE


class _Moments:
    """Mean and deviation of what is seen, for each index of the last axis (Chan's way to join pieces)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(()), np.zeros(())

    def add(self, rows: np.ndarray) -> None:
        values = rows.reshape(-1, rows.shape[-1] if rows.ndim > 1 else 1).astype(np.float64)
        count, mean = len(values), values.mean(0)
        squares = ((values - mean) ** 2).sum(0)
        both, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart**2 * (self.count * count / both)
        self.mean = self.mean + apart * (count / both)
        self.count = both

    def deviation(self) -> list[float]:
        return np.sqrt(self.squares / max(1, self.count)).tolist()


def write(path: Path, examples: Examples) -> None:
    """Write a store; it is there whole, or not at all.

    Raises OSError where it cannot be written, and what reading the examples raises. A store that another
    process has put there meanwhile stays.
    """
    work = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    work.mkdir(mode=0o700)
    try:
        with ExitStack() as stack:
            files = {n: stack.enter_context(open(work / f"{n}.bin", "xb")) for n in examples.columns}
            manifest = _fill(files, examples)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        with open(work / MANIFEST, "x", encoding="utf-8") as out:
            out.write(manifest.text())
            out.flush()
            os.fsync(out.fileno())
        try:
            os.rename(work, path)
        except OSError:
            if not is_store(path):
                raise
        sync(path.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def gather(examples: Examples) -> Store:
    """Examples as a store in this process's memory."""
    count = sum(examples.parts.values())
    arrays = [np.empty((count, *examples.columns[n].shape), examples.columns[n].dtype) for n in ("x", "y")]

    class Kept:
        parts, columns, about = examples.parts, examples.columns, staticmethod(examples.about)

        @staticmethod
        def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            at = 0
            for pieces in examples.rows():
                for whole, piece in zip(arrays, pieces, strict=True):
                    whole[at : at + len(piece)] = piece
                at += len(pieces[0])
                yield pieces

    manifest = _fill({}, Kept())
    for array in arrays:
        array.flags.writeable = False
    return Store(None, manifest, *arrays)


def _fill(files: Mapping[str, IO[bytes]], examples: Examples) -> Manifest:
    """Write the examples into files, where there are any; returns what there is to say of them."""
    parts, columns = examples.parts, examples.columns
    written = {name: Written(files.get(name), column) for name, column in columns.items()}
    moments: dict[str, _Moments] = {}
    ends, counts = _ends(parts), {}
    least, most = math.inf, -math.inf
    for x, y in examples.rows():
        at = written["y"].rows
        part = next(part for part, end in ends.items() if at < end)
        for name, array in (("x", x), ("y", y)):
            written[name].add(array)
            if part == "train" and (name == "x" or columns["y"].dtype == "float32"):
                moments.setdefault(name, _Moments()).add(array)
        if part == "train":
            least, most = min(least, float(x.min())), max(most, float(x.max()))
        if columns["y"].dtype != "float32":
            seen = y.sum(0, np.int64) if y.ndim > 1 else np.bincount(y)
            counts[part] = _added(counts.get(part, np.zeros(0, np.int64)), seen)
    sha256 = {name: column.end() for name, column in written.items()}
    said = examples.about()
    counts = {p: [*map(int, _added(c, np.zeros(len(said["classes"]), np.int64)))] for p, c in counts.items()}
    what = [
        said["kind"],
        [*said["classes"]],
        {**parts},
        {n: [c.dtype, [*c.shape]] for n, c in columns.items()},
    ]
    digest = hashlib.sha256(json.dumps([what, sha256], sort_keys=True).encode()).hexdigest()
    return Manifest(
        parts={**parts},
        columns={**columns},
        sums={name: column.sums for name, column in written.items()},
        sha256=sha256,
        digest=digest,
        counts=counts,
        mean={name: m.mean.tolist() for name, m in moments.items()},
        deviation={name: m.deviation() for name, m in moments.items()},
        least=least,
        most=most,
        **said,
    )


def _ends(parts: Mapping[str, int]) -> dict[str, int]:
    ends, at = {}, 0
    for part, count in parts.items():
        ends[part] = at = at + count
    return ends


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(a), len(b)), np.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total


def sentence(error: OSError, path: Path) -> str:
    """What to say where a store could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else error.strerror or str(error)
    return f"{path}: cannot be written ({what}): nothing was left there. Give another folder with --to."
