"""A node holds a data set once: a store in the user's cache, which all its ranks map.

One rank reads the source and writes the examples down as they are used; the others, and later runs, only map
that store, so a start has nothing to unpack and the memory is the system's own copy of the file, one a node.
The copy's name is a digest of what it was made of. Its content is not believed: the ranks of a node share the
work of checking it against the checksums written with it, and one that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.data import store
from dtrain.data.store import Examples, Store
from dtrain.errors import DataError
from dtrain.files import own_cache

#: Copies that are kept: those used last, and not more bytes of them than this, the newest apart.
KEPT, KEPT_BYTES = 16, 32 << 30
#: A store of up to so many bytes is compared with its checksums at every start (0.1 s on one core).
CHECKED = 256 << 20
#: What each rank may have for itself where there is nowhere to write.
MOST_IN_MEMORY = 1 << 30


def held(comm: Communicator, made_of: Callable[[], str], make: Callable[[], Examples]) -> Store:
    """The store of the examples of make(), written by one rank of a node where it has no good one.
    Collective.

    made_of: what they follow from, so that a copy can be found; called where make() would be.
    Raises, on every rank, what made_of, make and reading its examples raise.
    """
    first, found, damaged = comm.local_rank == 0, None, False
    for _ in range(2):
        place = ""
        with comm.together():
            if first:
                place = _place(made_of(), make, damaged)
        place = comm.node_text(place)
        found = _mapped(Path(place), comm.local_rank, comm.local_size) if place else None
        good = comm.allgather(np.array([found is not None]))
        if first and place and Path(place).parent != root():
            shutil.rmtree(Path(place).parent, ignore_errors=True)  # all have mapped it
        if good.all():
            break
        damaged = not good[list(comm.node)].all()
    with comm.together():
        if found is None:  # there is nowhere to write: each rank has its own
            found = store.gather(make())
    return found


def opened(comm: Communicator, path: Path) -> Store:
    """The store in a folder that `dtrain data import` wrote, checked as far as a start may take. Collective.

    Raises, on every rank:
        DataError: it is damaged, or there is none.
    """
    with comm.together():
        found = Store.open(path)
        if found.nbytes <= CHECKED and (damage := found.damage(comm.local_rank, comm.local_size)):
            raise DataError(damage)
    return found


def root() -> Path | None:
    """The folder of the copies; None where there can be none."""
    return own_cache("pools")


def _place(made_of: str, make: Callable[[], Examples], damaged: bool) -> str:
    """The folder of a copy, made where there is none; '' where it cannot be written anywhere."""
    name = hashlib.sha256(f"{store.FORMAT} {made_of}".encode()).hexdigest()[:32]
    cache = root()
    if cache is not None and not damaged and (cache / name).is_dir():
        try:
            os.utime(cache / name)
        except OSError:
            pass
        return str(cache / name)
    examples, refusal = make(), ""
    if (size := store.nbytes(examples)) > CHECKED:
        print(
            f"dtrain: reads {size / 1e9:.1f} GB once, to keep them as they are used",
            file=sys.stderr,
            flush=True,
        )
    if cache is not None:
        try:
            if damaged:
                shutil.rmtree(cache / name, ignore_errors=True)
            store.write(cache / name, examples, 0o700)
            _drop_old(cache)
            return str(cache / name)
        except OSError as error:  # the disk is full, or full for this user
            refusal = store.sentence(error, cache)
    import tempfile

    try:
        path = Path(tempfile.mkdtemp(prefix="dtrain-pool-"), name)
        try:
            store.write(path, examples, 0o700)
        except BaseException:
            path.parent.rmdir()
            raise
        return str(path)
    except OSError as error:
        if size > MOST_IN_MEMORY:
            raise DataError(refusal or store.sentence(error, Path(tempfile.gettempdir()))) from None
        return ""


def _mapped(path: Path, rank: int, ranks: int) -> Store | None:
    """The copy in a folder, of which this rank has checked its share; None where it is not as written."""
    try:
        found = Store.open(path)
    except DataError:
        return None
    return None if found.nbytes <= CHECKED and found.damage(rank, ranks) else found


def _drop_old(cache: Path) -> None:
    def used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:  # another process was first
            return 0.0

    total = 0
    for number, path in enumerate(sorted(cache.iterdir(), key=used, reverse=True)):
        try:
            total += sum(file.stat().st_size for file in path.iterdir())
        except OSError:
            pass
        if number >= KEPT or (number and total > KEPT_BYTES):
            shutil.rmtree(path, ignore_errors=True)
