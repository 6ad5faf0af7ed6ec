"""NumPy's files: an .npz, a pair of .npy, or a folder of such pairs. Nothing is ever unpickled.

What an array is for follows from its name: x or images, y or labels, after or before train, test or
validation, such as x_train and y_train, or test_images and test_labels.
"""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from dtrain.data.readers.source import (
    SPELLINGS,
    Column,
    Label,
    Source,
    names_in,
    per_piece,
    regular,
    stored_dtype,
)
from dtrain.errors import DataError

X_NAMES = ("x", "images", "image", "data", "features", "inputs", "samples")
Y_NAMES = ("y", "labels", "label", "targets", "target")
MOST_HEADER = 10_000  # bytes of the header of an .npy
MOST_MEMBERS = 1_000
MOST_TURNED = 256 << 20  # bytes of an array in Fortran's order, which has to be read whole
DEFLATE_RATIO = 1032


class _Array(NamedTuple):
    """An array in a file: which file, which member of an .npz, and what its header says."""

    path: Path
    member: str
    dtype: np.dtype
    shape: tuple[int, ...]
    turned: bool

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else f"{self.path}"


class Npy(Source):
    """Arrays of an .npz, of two .npy files, or of a folder of such."""

    def __init__(self, *paths: Path) -> None:
        super().__init__(paths[0], paths[0].stem if paths[0].suffix else "")
        self.pair = len(paths) == 2
        if paths[0].is_dir():
            named = [name for name in names_in(paths[0]) if name.endswith(".npy")]
            self.files = [paths[0] / name for name in named]
        else:
            self.files = [*paths]
        self._arrays: dict[tuple[str, str], _Array] = {}

    def look(self, label: Label) -> None:
        found: dict[str, _Array] = {}
        for file in self.files:
            regular(file)
            for array in _arrays_of(file):
                name = Path(array.member or file.name).stem
                if name in found:
                    raise DataError(f"{array}: there are two arrays called {name}.")
                found[name] = array
        if self.pair:
            x, y = found.values()
            self._arrays = {("train", "x"): x, ("train", "y"): y}
        else:
            self._assign(found)
        self._compare()
        x = self._arrays["train", "x"]
        self.x = Column(stored_dtype(x.dtype), x.shape[1:] or (1,))
        self.settle(label)

    def _assign(self, found: Mapping[str, _Array]) -> None:
        for name, array in found.items():
            meant = _meaning(name)
            if meant is None:
                self.unused.append(name)
            elif meant in self._arrays:
                raise DataError(
                    f"{array}: is the {meant[1]} of {meant[0]}, as {self._arrays[meant].member or 'another'} "
                    "is: keep one of the two."
                )
            else:
                self._arrays[meant] = array
        if ("train", "x") not in self._arrays or ("train", "y") not in self._arrays:
            has = ", ".join(found) or "nothing"
            raise DataError(
                f"{self.path}: holds {has}, but no pair of arrays to train on: call them x and y, or "
                "x_train and y_train (images and labels do as well)."
            )

    def _compare(self) -> None:
        """The arrays of a part have one length, those of all parts one shape."""
        x, y = self._arrays["train", "x"], self._arrays["train", "y"]
        for part in SPELLINGS:
            here = {word: self._arrays.get((part, word)) for word in "xy"}
            if not any(here.values()):
                continue
            for word, array in here.items():
                if array is None:
                    raise DataError(f"{self.path}: holds no {word} for {part}.")
                if not array.shape:
                    raise DataError(f"{array}: is a single value: give an array with an example a row.")
                if array.dtype.kind not in ("biuf" if word == "x" else "biufU"):
                    raise DataError(f"{array}: holds {array.dtype}: give numbers.")
                first = x if word == "x" else y
                if array.shape[1:] != first.shape[1:]:
                    raise DataError(
                        f"{array}: an example is {[*array.shape[1:]]}, but {[*first.shape[1:]]} in {first}."
                    )
                if (array.dtype == np.uint8) != (first.dtype == np.uint8) and word == "x":
                    raise DataError(f"{array}: holds {array.dtype}, but {first} {first.dtype}.")
            xs, ys = self._arrays[part, "x"], self._arrays[part, "y"]
            if xs.shape[0] != ys.shape[0]:
                raise DataError(
                    f"{ys}: holds {ys.shape[0]:,} targets for the {xs.shape[0]:,} "
                    f"examples of {xs.member or xs.path.name}."
                )
            self.parts[part] = xs.shape[0]

    def pieces(self, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        x, y = self._arrays[part, "x"], self._arrays[part, "y"]
        rows = per_piece(max(self.x.nbytes, x.nbytes // max(1, x.shape[0])))
        yield from zip(_read(x, rows), map(_words, _read(y, rows)), strict=True)

    def only_targets(self, part: str) -> Iterator[np.ndarray]:
        y = self._arrays[part, "y"]
        return map(_words, _read(y, per_piece(y.nbytes // max(1, y.shape[0]))))

    def place(self, part: str, row: int, cell: int = 0) -> str:
        index = np.unravel_index(cell, self.x.shape)
        return f"{self._arrays[part, 'x']}[{', '.join(map(str, (row, *map(int, index))))}]"

    def place_of_target(self, part: str, row: int) -> str:
        return f"{self._arrays[part, 'y']}[{row}]"


def _meaning(name: str) -> tuple[str, str] | None:
    """(part, x or y) of an array's name; None where it has none."""
    words = [word for word in re.split(r"[_\-. ]+", name.lower()) if word]
    part = next((p for p, spelled in SPELLINGS.items() if {*words} & {*spelled}), "train")
    left = [word for word in words if word not in SPELLINGS[part]]
    if len(left) != 1 or len(words) - len(left) > 1:
        return None
    return (part, "x") if left[0] in X_NAMES else (part, "y") if left[0] in Y_NAMES else None


def _words(y: np.ndarray) -> np.ndarray:
    return y.astype(object) if y.dtype.kind == "U" else y


# -- files -------------------------------------------------------------------------------------------------
def _arrays_of(path: Path) -> Sequence[_Array]:
    """The arrays of a file, by their headers."""
    if path.suffix.lower() == ".npy":
        with _opened(path) as file:
            array, head = _header(file, path, "")
        size = path.stat().st_size - head
        if size != array.nbytes:
            raise DataError(
                f"{path}: is {'cut short' if size < array.nbytes else 'too long'}, {size:,} bytes "
                f"follow its header, expected {array.nbytes:,}."
            )
        return [array]
    found = []
    with _opened(path) as file, _zip(file, path) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise DataError(f"{path}: holds {len(members):,} files: it is no .npz of a data set.")
        for member in members:
            name = member.filename
            if re.search(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:|\0", name):
                raise DataError(f"{path}: {name!a} is a path outside of it.")
            if not name.endswith(".npy"):
                raise DataError(f"{path}: {name!a} is no array (.npy).")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise DataError(f"{path}: {name} is encrypted or packed as NumPy does not; use numpy.savez.")
            if member.file_size > member.compress_size * DEFLATE_RATIO + 1024:
                raise DataError(
                    f"{path}: {name} cannot unpack to the {member.file_size:,} bytes that it announces."
                )
            with archive.open(member) as content:
                array, head = _header(content, path, name)
            if head + array.nbytes != member.file_size:
                raise DataError(
                    f"{path}: {name} holds {member.file_size - head:,} bytes, expected {array.nbytes:,}."
                )
            found.append(array)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file; what goes wrong with it becomes a DataError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None


@contextmanager
def _zip(file: IO[bytes], path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except DataError:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
        *(ValueError, OverflowError, struct.error, KeyError),
    ) as error:
        raise DataError(f"{path}: is damaged, or no .npz ({error or type(error).__name__}).") from None


def _header(file: IO[bytes], path: Path, member: str) -> tuple[_Array, int]:
    """What the header of an .npy says, and how long it is; raises DataError."""
    where = f"{path}: {member}" if member else f"{path}"
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise DataError(f"{where}: is no .npy file, it starts {magic.hex() or 'with nothing'}.")
    wide = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(wide), "little")
    text = file.read(min(length, MOST_HEADER + 1))
    if length > MOST_HEADER or len(text) < length:
        raise DataError(f"{where}: its header is cut short, or {length:,} bytes long.")
    try:
        said: Any = ast.literal_eval(text.decode("latin-1" if magic[6] < 3 else "utf-8").strip(" \n"))
        descr, turned, shape = said["descr"], said["fortran_order"], said["shape"]
        good = isinstance(descr, str) and turned in (True, False) and isinstance(shape, tuple)
        good = good and len(said) == 3 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
        dtype = np.dtype(descr)
    except (ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError, IndexError):
        raise DataError(f"{where}: has a header that is not of an array of numbers.") from None
    if not good or len(shape) > 32:
        raise DataError(f"{where}: has a header that is not of an array of numbers.")
    if dtype.hasobject:
        raise DataError(
            f"{where}: is pickled (dtype object); nothing is unpickled: save an array of numbers."
        )
    if dtype.kind not in "biufU" or not dtype.itemsize:
        raise DataError(f"{where}: holds {dtype}: give numbers.")
    return _Array(path, member, dtype, shape, bool(turned) and len(shape) > 1), 8 + wide + length


def _read(array: _Array, rows: int) -> Iterator[np.ndarray]:
    """The array, in pieces of so many rows."""
    with ExitStack() as stack:
        file = stack.enter_context(_opened(array.path))
        if array.member:
            archive = stack.enter_context(_zip(file, array.path))
            file = stack.enter_context(archive.open(array.member))
        again, _ = _header(file, array.path, array.member)
        if again != array:
            raise DataError(f"{array}: was changed while it was read.")
        if array.turned:
            if array.nbytes > MOST_TURNED:
                raise DataError(
                    f"{array}: is in Fortran's order and {array.nbytes:,} bytes long: save "
                    "numpy.ascontiguousarray of it."
                )
            whole = np.empty(array.shape[::-1], array.dtype)
            _fill(file, whole, array)
            for at in range(0, array.shape[0], rows):
                yield np.ascontiguousarray(whole.T[at : at + rows])
        else:
            for at in range(0, array.shape[0], rows):
                piece = np.empty((min(rows, array.shape[0] - at), *array.shape[1:]), array.dtype)
                _fill(file, piece, array)
                yield piece
        if file.read(1):  # of an .npz: its checksum is compared at its end
            raise DataError(f"{array}: is too long.")


def _fill(file: IO[bytes], into: np.ndarray, array: _Array) -> None:
    view = into.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + (1 << 20)])  # type: ignore[attr-defined]  # binary files have it
        if not count:
            raise DataError(f"{array}: is cut short.")
        done += count
