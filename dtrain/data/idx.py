"""IDX files, MNIST's format: found in a folder, checked to the last byte, and read into one pool.

Nothing that a file says of itself is trusted: its size is known before memory is taken, no more than one byte
beyond it is read, and a digest decides whether the content is the right one. Files are only ever read.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtrain.data.pool import Pool
from dtrain.errors import DataError

SIDE = 28
CLASSES = 10
SUMS = "SHA256SUMS"
CHUNK = 1 << 18  # bytes read at once where the target is not the pool
MOST_EXAMPLES = 10_000_000
DEFLATE_RATIO = 1032  # deflate cannot shrink anything further than this

FIX = (
    "Delete it and type: dtrain data fetch, or point --dataset or DTRAIN_DATA to a folder with a good copy. "
    f"(Another data set in this format needs --dataset DIR and a {SUMS} file in DIR.)"
)
FIX_LISTED = (
    f"Copy it anew or, where it is meant to be so, renew {SUMS} in that folder: sha256sum *ubyte* > {SUMS}"
)


class File(NamedTuple):
    """One of MNIST's four files.

    shape: what the header has to say; content_sha256: of the decompressed bytes, header included;
    gz_sha256, gz_bytes: of the compressed file as the mirrors serve it.
    """

    stem: str
    shape: tuple[int, ...]
    content_sha256: str
    gz_sha256: str
    gz_bytes: int

    @property
    def name(self) -> str:
        """The usual file name, without .gz."""
        return f"{self.stem}-idx{len(self.shape)}-ubyte"

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling in use; where a folder holds several the first counts, so a fresh download wins."""
        dotted = f"{self.stem}.idx{len(self.shape)}-ubyte"
        return f"{self.name}.gz", self.name, f"{dotted}.gz", dotted


FILES = (
    File(
        "train-images",
        (60_000, SIDE, SIDE),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
    ),
    File(
        "train-labels",
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
    ),
    File(
        "t10k-images",
        (10_000, SIDE, SIDE),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
    ),
    File(
        "t10k-labels",
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
    ),
)


def find(folder: Path) -> dict[File, Path]:
    """Which of the four files a folder holds, and where.

    Raises DataError where the folder does not exist or cannot be listed.
    """
    names = _names(folder)
    spelled = {file: next((name for name in file.names if name in names), None) for file in FILES}
    return {file: folder / name for file, name in spelled.items() if name}


def locate(folder: Path) -> dict[File, Path]:
    """Where each of the four files is. Raises DataError as find does, and where any is missing."""
    paths = find(folder)
    missing = [file.name for file in FILES if file not in paths]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the 4 data files missing: {', '.join(missing)} (plain or .gz). Put "
            "them there, point --dataset or DTRAIN_DATA to a folder with all four, or: dtrain data fetch."
        )
    return paths


def read(folder: Path, other: bool = False) -> Pool:
    """Read and check the four files of a folder.

    other: allow another data set in MNIST's format, where the folder holds its digests in SHA256SUMS.
    Raises DataError that names the file where any is missing, unreadable, damaged or not what it should be.
    """
    paths = locate(folder)
    sums = _read_sums(folder / SUMS) if other and SUMS in _names(folder) else None
    shapes = {file: file.shape for file in FILES} if sums is None else _announced_shapes(paths)

    train_images, train_labels, test_images, test_labels = FILES
    train, test = shapes[train_images][0], shapes[test_images][0]
    images = np.empty((train + test, SIDE, SIDE), np.uint8)
    labels = np.empty(train + test, np.uint8)
    parts = {
        train_images: images[:train],
        train_labels: labels[:train],
        test_images: images[train:],
        test_labels: labels[train:],
    }
    content = tuple(_read_into(part, file, paths[file], sums) for file, part in parts.items())
    return Pool(images, labels, train, content)


def made_of(folder: Path) -> str:
    """What read() would read, by the names, sizes, times and numbers of the files, in a line.

    Raises DataError as locate does.
    """
    paths = [*locate(folder).values(), *([folder / SUMS] if SUMS in _names(folder) else [])]
    try:
        found = [(str(path), path.stat()) for path in paths]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}). {FIX}") from error
    return repr([(path, s.st_size, s.st_mtime_ns, s.st_ino) for path, s in found])


def is_good(path: Path, file: File) -> bool:
    """Whether a file can be read and holds MNIST's content, no byte less or more."""
    left = _header_bytes(file) + math.prod(file.shape) + 1
    scratch = memoryview(bytearray(CHUNK))
    try:
        with _open(path) as content:
            while left and (count := content.fill(scratch[: min(CHUNK, left)])):
                left -= count
            return content.sha256.hexdigest() == file.content_sha256
    except DataError:
        return False


# -- one file ------------------------------------------------------------------------------------------
class _Damage(Exception):
    """What is wrong with the file being read, as the middle of a sentence."""


@contextmanager
def _open(path: Path, fix: str = FIX) -> Iterator[_Content]:
    """Open a file to read its content; what goes wrong meanwhile becomes a DataError: file, problem, fix."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise _Damage("is not a regular file")
        with open(path, "rb", buffering=0) as file:
            yield _Content(file, path.suffix == ".gz")
    except _Damage as damage:
        raise DataError(f"{path}: {damage}. {fix}") from None
    except EOFError:
        raise DataError(f"{path}: is cut short, its compressed data ends in the middle. {fix}") from None
    except zlib.error as error:
        raise DataError(f"{path}: cannot be decompressed ({error}). {fix}") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Make it readable, or point --dataset or DTRAIN_DATA "
            "to a folder with a good copy."
        ) from error


class _Content:
    """The decompressed bytes of an open file, read piece by piece and hashed on the way."""

    def __init__(self, file: FileIO, compressed: bool) -> None:
        self.sha256 = hashlib.sha256()
        self.sha256_on_disk = hashlib.sha256() if compressed else self.sha256
        self._file = file
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if compressed else None

    def fill(self, view: memoryview) -> int:
        """Fill a view of bytes as far as the content goes; returns the number of bytes."""
        done = 0
        while done < len(view) and (count := self._read_some(view[done:])):
            done += count
        self.sha256.update(view[:done])
        return done

    def most(self) -> int:
        """Bytes of content that a file of this size can hold at most."""
        size = os.fstat(self._file.fileno()).st_size
        return size * DEFLATE_RATIO if self._inflate else size

    def _read_some(self, view: memoryview) -> int:
        if self._inflate is None:
            return self._file.readinto(view)
        while not self._inflate.eof:
            data = self._inflate.unconsumed_tail
            if not data:
                data = self._file.read(CHUNK)
                self.sha256_on_disk.update(data)
            out = self._inflate.decompress(data, min(len(view), CHUNK))
            if out:
                view[: len(out)] = out
                return len(out)
            if not data and not self._inflate.eof:
                raise EOFError
        if self._inflate.unused_data or self._file.read(1):
            raise _Damage("goes on after the end of its compressed data")
        return 0


def _read_into(part: np.ndarray, file: File, path: Path, sums: dict[str, str] | None) -> str:
    """Fill a part of the pool from a file and check its digest; returns its content's sha256 (hex)."""
    with _open(path, FIX if sums is None else FIX_LISTED) as content:
        shape = _read_header(content, file)
        if shape != part.shape:
            raise _Damage(f"is not MNIST's, its header says {_words(shape)}, expected {_words(part.shape)}")
        count = content.fill(memoryview(part).cast("B"))
        if count < part.size:
            raise _Damage(f"is cut short, {count} bytes follow its header, expected {part.size}")
        if content.fill(memoryview(bytearray(1))):
            raise _Damage(f"is too long, more than the expected {part.size} bytes follow its header")
        digest = content.sha256.hexdigest()
        if sums is None:
            found, expected = digest, file.content_sha256
        else:
            found, expected = content.sha256_on_disk.hexdigest(), sums.get(path.name, f"a line in {SUMS}")
        if found != expected:
            raise _Damage(f"has the wrong content, sha256 {found}, expected {expected}")
        if part.ndim == 1 and part.max() >= CLASSES:
            index = int(np.argmax(part >= CLASSES))
            raise _Damage(f"label {index}, counted from 0, is {part[index]}, expected 0 to {CLASSES - 1}")
    return digest


def _read_header(content: _Content, file: File) -> tuple[int, ...]:
    dimensions = len(file.shape)
    header = bytearray(_header_bytes(file))
    if content.fill(memoryview(header)) < len(header):
        raise _Damage(f"is too short for the {len(header)} bytes of its header")
    magic = struct.pack(">HBB", 0, 8, dimensions)  # two zeros, 8 for unsigned bytes, number of dimensions
    if header[:4] != magic:
        raise _Damage(f"is not an IDX file of {file.stem}, starts {header[:4].hex()}, expected {magic.hex()}")
    return struct.unpack_from(f">{dimensions}I", header, 4)


# -- another data set in MNIST's format ------------------------------------------------------------------
def _read_sums(path: Path) -> dict[str, str]:
    """Digests by file name, from a file as sha256sum prints it."""
    text = memoryview(bytearray(CHUNK))
    digests = {}
    with _open(path, FIX_LISTED) as content:
        lines = bytes(text[: content.fill(text)]).decode(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if match := re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line):
                digests[match[2]] = match[1].lower()
            elif line.strip():
                raise _Damage(f"line {number} is not a sha256, two spaces and a file name")
    return digests


def _announced_shapes(paths: dict[File, Path]) -> dict[File, tuple[int, ...]]:
    """The shapes that the headers give, where files of these sizes can hold them and they fit together."""
    shapes: dict[File, tuple[int, ...]] = {}
    for file, path in paths.items():
        with _open(path, FIX_LISTED) as content:
            shape = shapes[file] = _read_header(content, file)
            if shape[1:] != file.shape[1:] or not 1 <= shape[0] <= MOST_EXAMPLES:
                limits = _words((MOST_EXAMPLES, *file.shape[1:]))
                raise _Damage(f"its header says {_words(shape)}, expected 1 to {limits}")
            if _header_bytes(file) + math.prod(shape) > content.most():
                raise _Damage(f"is cut short, it is too small for the {_words(shape)} that its header gives")
    for images, labels in (FILES[:2], FILES[2:]):
        if shapes[images][0] != shapes[labels][0]:
            raise DataError(
                f"{paths[labels]}: its header says {_words(shapes[labels])}, but {paths[images].name} holds "
                f"{_words(shapes[images])}. {FIX_LISTED}"
            )
    return shapes


def _header_bytes(file: File) -> int:
    return 4 + 4 * len(file.shape)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read as a folder of data files ({error.strerror}). Point --dataset or "
            "DTRAIN_DATA to a folder that exists and that you may read, or type: dtrain data fetch."
        ) from error


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} images of {shape[1]} x {shape[2]}" if len(shape) == 3 else f"{shape[0]} labels"
