"""A node holds a data set once: files of arrays in the user's cache, which all its ranks map.

One rank reads the source and writes the examples down as they are used; the others, and later runs, only map
that file, so a start has nothing to unpack and the memory is the system's own copy of the file, one a node.
The copy's name is a digest of what it was made of. Its content is not believed: the ranks of a node share the
work of checking it against the checksums written with it, and one that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.files import own_cache, read_regular

#: NumPy reads a header with Python's parser, which fails now and then in two threads at once (CPython 3.11).
_PARSING = threading.Lock()

FORMAT = 2
CHUNK = 1 << 20  # bytes under one checksum
MOST_ABOUT = 1 << 20  # bytes of the file of checksums, which has ten for each MiB
#: Copies that are kept: those used last.
KEPT = 16


@dataclass(frozen=True)
class Pool:
    """Examples x [n, ...] and targets y [n, ...], training examples first; see Dataset.

    train: how many of the n are training examples, all others being test examples; content: sha256 (hex) of
    what they were read from.
    """

    x: np.ndarray
    y: np.ndarray
    train: int
    content: tuple[str, ...]
    kind: str = "classes"
    classes: tuple[str, ...] = tuple("0123456789")


def held(comm: Communicator, made_of: Callable[[], str], make: Callable[[], Pool]) -> Pool:
    """The pool that make() gives, made by one rank of a node where the node has no good copy. Collective.

    made_of: what the pool follows from, so that a copy of it can be found; called where make() would be.
    Raises, on every rank, what made_of and make raise.
    """
    first, pool, damaged = comm.local_rank == 0, None, False
    for _ in range(2):
        place = ""
        with comm.together():
            if first:
                place = _place(made_of(), make, damaged)
        place = comm.node_text(place)
        pool = _mapped(Path(place), comm.local_rank, comm.local_size) if place else None
        good = comm.allgather(np.array([pool is not None]))
        if first and place and Path(place).parent != root():
            shutil.rmtree(Path(place).parent, ignore_errors=True)  # all have mapped it
        if good.all():
            break
        damaged = not good[list(comm.node)].all()
    with comm.together():
        if pool is None:  # there is nowhere to write: each rank has its own
            pool = make()
    return pool


def root() -> Path | None:
    """The folder of the copies; None where there can be none."""
    return own_cache("pools")


def _place(made_of: str, make: Callable[[], Pool], damaged: bool) -> str:
    """The folder of a pool's copy, made where there is none; '' where it cannot be written anywhere."""
    name = hashlib.sha256(f"{FORMAT} {made_of}".encode()).hexdigest()[:32]
    cache = root()
    if cache is not None and not damaged and (cache / name).is_dir():
        try:
            os.utime(cache / name)
        except OSError:
            pass
        return str(cache / name)
    pool = make()
    if cache is not None:
        try:
            if damaged:
                shutil.rmtree(cache / name, ignore_errors=True)
            _write(pool, cache / name)
            _drop_old(cache)
            return str(cache / name)
        except OSError:  # the disk is full, or full for this user
            pass
    import tempfile

    try:
        path = Path(tempfile.mkdtemp(prefix="dtrain-pool-"), name)
        _write(pool, path)
        return str(path)
    except OSError:
        return ""


def _write(pool: Pool, path: Path) -> None:
    """Make a copy under another name first, so that nobody meets half of it."""
    work = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    work.mkdir(mode=0o700)
    try:
        np.save(work / "x.npy", pool.x)
        np.save(work / "y.npy", pool.y)
        sums = [[zlib.crc32(c) for c in _chunks(a)] for a in (pool.x, pool.y)]
        said = {"train": pool.train, "content": pool.content, "kind": pool.kind, "classes": pool.classes}
        about = json.dumps({**said, "sums": sums})
        (work / "about").write_text(f"{zlib.crc32(about.encode()):08x} {about}")
        try:
            os.rename(work, path)
        except OSError:
            if not path.is_dir():  # if it is one, another process has made the same meanwhile
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _mapped(path: Path, rank: int, ranks: int) -> Pool | None:
    """The copy in a folder, of which this rank has checked its share; None where it is not as written."""
    try:
        check, _, text = read_regular(path / "about", MOST_ABOUT).decode().partition(" ")
        if int(check, 16) != zlib.crc32(text.encode()):
            return None
        about: dict[str, Any] = json.loads(text)
        arrays = [_map(path / f"{name}.npy") for name in ("x", "y")]
    except Exception:  # of a damaged header NumPy raises anything: tokenize's errors, too
        return None
    for array, sums in zip(arrays, about["sums"], strict=True):
        chunks = _chunks(array)
        if len(chunks) != len(sums):
            return None
        if any(zlib.crc32(chunks[i]) != sums[i] for i in range(rank, len(sums), ranks)):
            return None
    return Pool(*arrays, about["train"], tuple(about["content"]), about["kind"], tuple(about["classes"]))


def _map(path: Path) -> np.ndarray:
    with _PARSING:
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def _chunks(array: np.ndarray) -> list[np.ndarray]:
    flat = array.reshape(-1).view(np.uint8)
    return [flat[at : at + CHUNK] for at in range(0, flat.size, CHUNK)]


def _drop_old(cache: Path) -> None:
    def used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:  # another process was first
            return 0.0

    for path in sorted(cache.iterdir(), key=used, reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
