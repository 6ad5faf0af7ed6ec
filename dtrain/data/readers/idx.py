"""IDX files, MNIST's format: of any shape and element type, plain or compressed, checked to the last byte.

A folder holds train-images and train-labels, and t10k-images and t10k-labels where there are examples to test
on. Digests are checked where there are any: in SHA256SUMS, or MNIST's own. Files are only ever read.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtrain.data.readers.source import Column, Label, Source, names_in, per_piece, stored_dtype
from dtrain.errors import DataError

SUMS = "SHA256SUMS"
CHUNK = 1 << 18  # bytes read at once
DEFLATE_RATIO = 1032  # deflate cannot shrink anything further than this
MOST_AXES = 8

#: What the third byte of a file says of its elements, which are big-endian.
TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
PARTS = {"train": "train", "t10k": "test"}
NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx(\d)-(ubyte|byte|short|int|float|double)(\.gz)?")

FIX = (
    "Delete it and type: dtrain data fetch, or point --dataset or DTRAIN_DATA to a folder with a good copy. "
    "(Another data set in this format needs --dataset DIR.)"
)
FIX_OTHER = f"Copy it anew, or point --dataset to another folder. (Digests in {SUMS} find damage early.)"
FIX_LISTED = (
    f"Copy it anew or, where it is meant to be so, renew {SUMS} in that folder: sha256sum *ubyte* > {SUMS}"
)


class File(NamedTuple):
    """One of the four files of a set whose digests are known.

    shape: what the header has to say; content_sha256: of the decompressed bytes, header included, where it is
    known; gz_sha256, gz_bytes: of the compressed file as the mirrors serve it; gz_md5: where only that is
    published.
    """

    stem: str
    shape: tuple[int, ...]
    content_sha256: str = ""
    gz_sha256: str = ""
    gz_bytes: int = 0
    gz_md5: str = ""

    @property
    def name(self) -> str:
        """The usual file name, without .gz."""
        return f"{self.stem}-idx{len(self.shape)}-ubyte"


#: MNIST.
FILES = (
    File(
        "train-images",
        (60_000, 28, 28),
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
        (10_000, 28, 28),
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
STEMS = tuple(file.stem for file in FILES)


def find(folder: Path) -> dict[str, Path]:
    """Where the four files of a folder are, by stem, of those that it holds.

    Where a file is there in several spellings the compressed one counts, so that a fresh download wins.
    Raises DataError where the folder cannot be listed.
    """
    found: dict[str, Path] = {}
    for name in sorted(names_in(folder), key=lambda name: (not name.endswith(".gz"), "." in name[:-3], name)):
        if match := NAME.fullmatch(name):
            found.setdefault(f"{match[1]}-{match[2]}", folder / name)
    return {stem: found[stem] for stem in STEMS if stem in found}


def locate(folder: Path) -> dict[str, Path]:
    """Where each of the four files is. Raises DataError as find does, and where any is missing."""
    paths = find(folder)
    missing = [file.name for file in FILES if file.stem not in paths]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of the 4 data files missing: {', '.join(missing)} (plain or .gz). Put "
            "them there, point --dataset or DTRAIN_DATA to a folder with all four, or: dtrain data fetch."
        )
    return paths


def is_good(path: Path, file: File) -> bool:
    """Whether a file can be read and holds the content of a known one, no byte less or more."""
    left = 4 + 4 * len(file.shape) + math.prod(file.shape) + 1
    scratch = memoryview(bytearray(CHUNK))
    try:
        with _open(path, FIX) as content:
            while left and (count := content.fill(scratch[: min(CHUNK, left)])):
                left -= count
            return content.is_of(file)
    except DataError:
        return False


class Idx(Source):
    """The files of a folder.

    known: whose digests they have to have; by default those of SHA256SUMS, and any where there is no such
    file.
    """

    def __init__(
        self, folder: Path, known: Sequence[File] = (), classes: Sequence[str] = (), name: str = ""
    ) -> None:
        super().__init__(folder, name)
        self.known = {file.stem: file for file in known}
        self.classes = classes
        found = find(folder)
        # a set may have no test examples, but no file of a pair is left out
        whole = {*found} == {"train-images", "train-labels"} and not known
        self.paths = found if whole else locate(folder)
        self.sums = None if known or SUMS not in names_in(folder) else folder / SUMS
        self.files = [*self.paths.values(), *([self.sums] if self.sums else [])]
        self.fix = FIX if known else FIX_LISTED if self.sums else FIX_OTHER
        self._listed: Mapping[str, str] = {}
        self._mnist: dict[str, bool] = {}

    def look(self, label: Label) -> None:
        if self.sums:
            self._listed = _read_sums(self.sums)
        heads = {}
        for stem, path in self.paths.items():
            with _open(path, self.fix) as content:
                kind, shape = _read_header(content, stem)
                if self.known and (kind, shape) != ("u1", self.known[stem].shape):
                    wanted = _words(self.known[stem].shape)
                    raise _Damage(f"its header says {_words(shape)}, expected {wanted}")
                size = np.dtype(kind).itemsize * math.prod(shape)
                if content.header + size > content.most():
                    raise _Damage(f"is cut short, it is too small for the {_words(shape)} of its header")
                heads[stem] = kind, shape
        first = heads["train-images"]
        for word, part in PARTS.items():
            if f"{word}-images" not in heads:
                continue
            (kind, images), (_, labels) = heads[f"{word}-images"], heads[f"{word}-labels"]
            if images[0] != labels[0]:
                raise DataError(
                    f"{self.paths[f'{word}-labels']}: its header says {_words(labels)}, but "
                    f"{self.paths[f'{word}-images'].name} holds {_words(images)}. {self.fix}"
                )
            if (kind, images[1:]) != (first[0], first[1][1:]):
                raise DataError(
                    f"{self.paths[f'{word}-images']}: its header says {_words(images)}, but "
                    f"{self.paths['train-images'].name} holds {_words(first[1])}. {self.fix}"
                )
            self.parts[part] = images[0]
        self.x = Column(stored_dtype(np.dtype(first[0])), first[1][1:] or (1,))
        self.settle(label)

    def pieces(self, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = per_piece(self.x.nbytes)
        images, labels = (self._arrays(part, what, rows) for what in ("images", "labels"))
        yield from zip(images, labels, strict=True)
        if part == [*self.parts][-1]:
            self._recognize()

    def only_targets(self, part: str) -> Iterator[np.ndarray]:
        return self._arrays(part, "labels", CHUNK)

    def target_names(self) -> Sequence[str]:
        return self.classes

    def place(self, part: str, row: int, cell: int = 0) -> str:
        return f"{self._path(part, 'images')}: example {row}, counted from 0"

    def place_of_target(self, part: str, row: int) -> str:
        return f"{self._path(part, 'labels')}: label {row}, counted from 0"

    def _path(self, part: str, what: str) -> Path:
        (word,) = (word for word, name in PARTS.items() if name == part)
        return self.paths[f"{word}-{what}"]

    def _arrays(self, part: str, what: str, rows: int) -> Iterator[np.ndarray]:
        """The content of a file in pieces of so many examples; its digest is checked after the last."""
        path = self._path(part, what)
        stem = path.name[: path.name.index(what)] + what
        with _open(path, self.fix) as content:
            kind, shape = _read_header(content, stem)
            if shape[0] != self.parts[part]:
                raise _Damage("was changed while it was read")
            dtype, left = np.dtype(kind), shape[0]
            row = dtype.itemsize * math.prod(shape[1:])
            while left:
                array = np.empty((min(rows, left), *shape[1:]), dtype)
                count = content.fill(array.data.cast("B"))
                if count < array.nbytes:
                    done = (shape[0] - left) * row + count
                    raise _Damage(f"is cut short, {done} bytes follow its header, expected {shape[0] * row}")
                left -= len(array)
                yield array
            if content.fill(memoryview(bytearray(1))):
                raise _Damage(f"is too long, more than the expected {shape[0] * row} bytes follow its header")
            self._check(content, stem, path)

    def _check(self, content: _Content, stem: str, path: Path) -> None:
        found = content.sha256.hexdigest()
        (file,) = (file for file in FILES if file.stem == stem)
        self._mnist[stem] = found == file.content_sha256
        if stem in self.known:
            if not content.is_of(self.known[stem]):
                wanted = self.known[stem].content_sha256 or f"md5 {self.known[stem].gz_md5}"
                raise _Damage(f"has the wrong content, sha256 {found}, expected {wanted}")
        elif self.sums:
            found = content.sha256_on_disk.hexdigest()
            expected = self._listed.get(path.name, f"a line in {SUMS}")
            if found != expected:
                raise _Damage(f"has the wrong content, sha256 {found}, expected {expected}")

    def _recognize(self) -> None:
        """A set that is MNIST is called so; one that nearly is has been damaged."""
        if len(self._mnist) == len(FILES) and all(self._mnist.values()):
            self.name = "mnist"
        elif len(self._mnist) == len(FILES) and sum(self._mnist.values()) == 3 and not self.sums:
            (stem,) = (stem for stem, same in self._mnist.items() if not same)
            raise DataError(
                f"{self.paths[stem]}: is not MNIST's, but the other three files are: it is damaged, or it "
                f"needs {SUMS} to say that it is meant so. {FIX_LISTED}"
            )


# -- one file ----------------------------------------------------------------------------------------------
class _Damage(Exception):
    """What is wrong with the file being read, as the middle of a sentence."""


@contextmanager
def _open(path: Path, fix: str) -> Iterator[_Content]:
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
        self.header = 0
        self.sha256 = hashlib.sha256()
        self.sha256_on_disk = hashlib.sha256() if compressed else self.sha256
        self.md5_on_disk = hashlib.md5(usedforsecurity=False)
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

    def is_of(self, file: File) -> bool:
        """Whether what was read is that file, by the best digest there is of it."""
        if file.content_sha256:
            return self.sha256.hexdigest() == file.content_sha256
        return self._inflate is not None and self.md5_on_disk.hexdigest() == file.gz_md5

    def _read_some(self, view: memoryview) -> int:
        if self._inflate is None:
            return self._file.readinto(view)
        while not self._inflate.eof:
            data = self._inflate.unconsumed_tail
            if not data:
                data = self._file.read(CHUNK)
                self.sha256_on_disk.update(data)
                self.md5_on_disk.update(data)
            out = self._inflate.decompress(data, min(len(view), CHUNK))
            if out:
                view[: len(out)] = out
                return len(out)
            if not data and not self._inflate.eof:
                raise EOFError
        if self._inflate.unused_data or self._file.read(1):
            raise _Damage("continues after the end of its compressed data")
        return 0


def _read_header(content: _Content, stem: str) -> tuple[str, tuple[int, ...]]:
    """The dtype and the shape that a file announces."""
    header = bytearray(4)
    if content.fill(memoryview(header)) < len(header):
        raise _Damage("is too short for its header")
    zeros, kind, axes = struct.unpack(">HBB", header)
    least = 2 if stem.endswith("images") else 1
    if zeros or kind not in TYPES or not least <= axes <= MOST_AXES:
        raise _Damage(
            f"is not an IDX file of {stem}, starts {header.hex()}, expected 0000, the type 08 to 0e and "
            f"{least} to {MOST_AXES} axes, such as 000008{3 if least == 2 else 1:02}"
        )
    sizes = bytearray(4 * axes)
    if content.fill(memoryview(sizes)) < len(sizes):
        raise _Damage(f"is too short for the {4 + len(sizes)} bytes of its header")
    content.header = 4 + len(sizes)
    shape = struct.unpack(f">{axes}I", sizes)
    if not all(shape):
        raise _Damage(f"its header says {_words(shape)}: there are none")
    return TYPES[kind], shape


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


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} images of {' x '.join(map(str, shape[1:]))}" if shape[1:] else f"{shape[0]} labels"
