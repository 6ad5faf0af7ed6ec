"""A store: a folder with a file of flat rows for each column, and a manifest. All that is read becomes one.

x.bin, y.bin: rows of fixed size, one after the other, little-endian: training, validation, test examples.
manifest.json: name; what targets are, and the classes; how many examples each part has; of each column dtype
and shape of a row, the CRC-32 of each MiB and the SHA-256; mean and deviation; a digest of it all; its own
CRC-32.

A row is found by arithmetic, so a set that is larger than memory is mapped, and the pages of it that are in
use are the same for all ranks of a node. A store is written beside its place and renamed, so nobody meets
half of one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from dtrain.data.dataset import PARTS
from dtrain.data.readers.source import KINDS, Column
from dtrain.errors import DataError
from dtrain.files import open_regular, read_regular, sync

FORMAT = 1
MANIFEST = "manifest.json"
PIECE = 1 << 20  # bytes under one checksum
MOST_MANIFEST = 256 << 20  # bytes: eleven for each MiB of the columns
BLOCK = 1 << 16  # numbers whose mean is taken at once: they stay in the cache
DTYPES = ("uint8", "int32", "float32")
BEGINS = 10  # seconds in which a writer that has written nothing may not have its lock yet
MOST_MOMENTS = 1 << 16  # means and deviations that are kept; of a longer last axis there is one of each


class Moments(NamedTuple):
    """Of the training examples: mean and deviation for each index of the last axis; least and most of all."""

    mean: list[float]
    deviation: list[float]
    least: float
    most: float


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    parts: how many examples each has, in the order in which they lie. columns: "x" and "y". sums: the CRC-32
    of each MiB of a column; sha256: of the whole. digest: of all that examples are, so two stores of the same
    have the same. counts: of each class or label, by the part. moments: of x, and of y where that is numbers.
    source: what it was read from. unused: what else was there.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    parts: dict[str, int]
    columns: dict[str, Column]
    sums: dict[str, list[int]]
    sha256: dict[str, str]
    digest: str
    counts: dict[str, list[int]]
    moments: dict[str, Moments]
    source: str
    unused: list[str]

    @property
    def examples(self) -> int:
        return sum(self.parts.values())

    def bytes_of(self, column: str) -> int:
        return self.examples * self.columns[column].nbytes

    def ranges(self) -> dict[str, Any]:
        """Where each part lies in the columns."""
        found, at = {}, 0
        for part in PARTS:
            found[part] = range(at, at := at + self.parts.get(part, 0))
        return found

    def text(self) -> str:
        """The file: JSON, whose last field is the CRC-32 of the object without it."""
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
        moments = {name: Moments(*m) for name, m in said.pop("moments").items()}
        found = cls(classes=tuple(said.pop("classes")), columns=columns, moments=moments, **said)
        found.check()
        return found

    def check(self) -> None:
        """Raise ValueError unless it can be of a store: whoever wrote it is not trusted."""

        def whole(number: Any, least: int = 0) -> bool:
            return type(number) is int and least <= number < 1 << 48

        good = self.kind in KINDS and {*self.columns} == {"x", "y"} and {*self.parts} <= {*PARTS}
        good = good and all(
            isinstance(name, str)
            for name in (self.name, self.digest, self.source, *self.unused, *self.classes)
        )
        good = good and all(map(whole, self.parts.values())) and self.parts.get("train", 0) > 0
        for name, column in self.columns.items():
            good = good and column.dtype in DTYPES and len(column.shape) <= 32
            good = good and all(whole(n, 1) for n in column.shape)
            good = good and len(self.sums[name]) == -(-self.bytes_of(name) // PIECE)
            good = good and all(whole(n) for n in self.sums[name])
        for name, (mean, deviation, least, most) in self.moments.items():
            numbers = [*mean, *deviation, least, most]
            good = good and all(isinstance(n, float) and math.isfinite(n) for n in numbers)
            last = self.columns[name].shape[-1:] or (1,)
            good = good and len(mean) == len(deviation) == (last[0] if last[0] <= MOST_MOMENTS else 1)
        for part, counted in self.counts.items():
            good = (
                good and part in self.parts and len(counted) == len(self.classes) and all(map(whole, counted))
            )
        y = self.columns["y"]
        good = good and {*self.moments} == ({"x", "y"} if y.dtype == "float32" else {"x"})
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

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.y.nbytes

    def damage(self, rank: int = 0, ranks: int = 1) -> str:
        """Which MiB is not as it was written, the first of a rank's share of them: a sentence, or ''."""
        for name, array in (("x", self.x), ("y", self.y)):
            flat = array.reshape(-1).view(np.uint8)
            sums = self.manifest.sums[name]
            for piece in range(rank, len(sums), ranks):
                if zlib.crc32(flat[piece * PIECE : (piece + 1) * PIECE].data) != sums[piece]:
                    row = self.manifest.columns[name].nbytes
                    first, last = piece * PIECE // row, (min(flat.size, (piece + 1) * PIECE) - 1) // row
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
            shape = (manifest.examples, *column.shape)
            mapped = np.memmap(file, np.dtype(column.dtype).newbyteorder("<"), "r", shape=shape)
    except OSError as error:
        raise DataError(f"{at}: cannot be read ({error.strerror}).") from None
    return mapped.view(np.ndarray)


def is_store(path: Path) -> bool:
    return (path / MANIFEST).is_file()


# -- writing -----------------------------------------------------------------------------------------------
class Examples(Protocol):
    """What can be written as a store.

    parts: how many examples each has, in the order of PARTS. rows(): x and y in pieces, part by part.
    about(): the manifest's name, kind, classes, source and unused, once the last piece was given.
    """

    parts: dict[str, int]

    @property
    def columns(self) -> dict[str, Column]: ...

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...

    def about(self) -> dict[str, Any]: ...


class _Written:
    """A column, as it is written."""

    def __init__(self, file: IO[bytes] | None, column: Column) -> None:
        self.column, self.rows = column, 0
        self.sums: list[int] = []
        self._file, self._sha256 = file, hashlib.sha256()
        self._crc, self._left = 0, PIECE

    def add(self, rows: np.ndarray) -> None:
        self.rows += len(rows)
        data = np.ascontiguousarray(rows, np.dtype(self.column.dtype).newbyteorder("<")).data.cast("B")
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
        """After the last row; returns the SHA-256 of all."""
        if self._left < PIECE:
            self._end()
        return self._sha256.hexdigest()

    def _end(self) -> None:
        self.sums.append(self._crc)
        self._crc, self._left = 0, PIECE


class _Moments:
    """Mean and deviation of what is seen, for each index of the last axis (Chan's way to join pieces)."""

    def __init__(self, column: Column) -> None:
        last = column.shape[-1] if column.shape else 1
        self.axis = last if last <= MOST_MOMENTS else 1
        self.count, self.mean, self.squares = 0, np.zeros(self.axis), np.zeros(self.axis)
        self.least, self.most = math.inf, -math.inf

    def add(self, rows: np.ndarray) -> None:
        values = rows.reshape(-1, self.axis)
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
        block = max(1, BLOCK // self.axis)
        for at in range(0, len(values), block):
            self._add(values[at : at + block].astype(np.float64))

    def _add(self, values: np.ndarray) -> None:
        count, mean = len(values), values.mean(0)
        values -= mean
        both, apart = self.count + count, mean - self.mean
        self.squares += np.einsum("ij,ij->j", values, values) + apart**2 * (self.count * count / both)
        self.mean += apart * (count / both)
        self.count = both

    def said(self) -> Moments:
        deviation = np.sqrt(self.squares / max(1, self.count))
        return Moments(self.mean.tolist(), deviation.tolist(), self.least, self.most)


def write(path: Path, examples: Examples, mode: int = 0o777) -> None:
    """Write a store; it is there whole, or not at all. mode: of its folder, but for the umask.

    Raises OSError where it cannot be written, and what reading the examples raises. A store that another
    process has put there meanwhile stays. What killed processes left of the same store is removed.
    """
    _remove_left(path)
    work = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    work.mkdir(mode=mode)
    try:
        with ExitStack() as stack:
            files = {n: stack.enter_context(open(work / f"{n}.bin", "xb")) for n in examples.columns}
            _locked(files["x"])  # until it has its name
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


def _remove_left(path: Path) -> None:
    """Remove what killed processes wrote of a store, and say so. Whoever still writes has a lock."""
    for left in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 16}.part"):
        try:
            with open_regular(left / "x.bin", "r+b") as file:
                found = os.fstat(file.fileno())
                begins = not found.st_size and time.time() - found.st_mtime < BEGINS
                if left.is_symlink() or begins or not _locked(file):
                    continue
        except OSError:
            continue
        shutil.rmtree(left, ignore_errors=True)
        print(f"dtrain: removed {left}, which an import left that was killed", file=sys.stderr, flush=True)


def _locked(file: IO[bytes]) -> bool:
    """Lock a file until it is closed; False where another process has, or there are no locks."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def nbytes(examples: Examples) -> int:
    """What the columns take."""
    return sum(examples.parts.values()) * sum(column.nbytes for column in examples.columns.values())


def digest(examples: Examples) -> str:
    """What the digest of their store would be."""
    return _fill({}, examples).digest


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
    written = {name: _Written(files.get(name), column) for name, column in columns.items()}
    moments = {n: _Moments(c) for n, c in columns.items() if n == "x" or c.dtype == "float32"}
    ends, seen_of = _ends(parts), dict[str, np.ndarray]()
    for x, y in examples.rows():
        at = written["y"].rows
        part = next(part for part, end in ends.items() if at < end)
        for name, array in (("x", x), ("y", y)):
            written[name].add(array)
            if part == "train" and name in moments:
                moments[name].add(array)
        if columns["y"].dtype != "float32":
            seen = y.sum(0, np.int64) if y.ndim > 1 else np.bincount(y)
            seen_of[part] = _added(seen_of.get(part, np.zeros(0, np.int64)), seen)
    sha256 = {name: column.end() for name, column in written.items()}
    said = examples.about()
    none = np.zeros(len(said["classes"]), np.int64)
    counts = {p: [*map(int, _added(c, none))] for p, c in seen_of.items()}
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
        moments={name: m.said() for name, m in moments.items()},
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
    return (
        f"{path}: cannot be written ({what}): nothing was left there. Make room, or import the set to "
        "another place: dtrain data import SET --to DIR"
    )
