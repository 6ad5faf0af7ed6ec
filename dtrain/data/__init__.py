"""Data sets: one pool of examples on all ranks, the same whatever it was read from; a node reads it once.

source -> pieces -> store (in the user's cache, or where `dtrain data import` wrote it) -> mapped by all ranks

A name is looked for in this order: $DTRAIN_DATA (of MNIST), the user's cache, the mirrors. Only `auto` takes
generated digits after those, and says so. Anything else is a file or a folder, which one of the readers
takes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.data import dataset as sets
from dtrain.data import known, pool, store
from dtrain.data.dataset import ABOUT, Part
from dtrain.data.known import NAMES
from dtrain.data.readers import cifar, find, idx
from dtrain.data.readers.source import Label, Source
from dtrain.data.store import Store
from dtrain.errors import DataError, UsageError
from dtrain.files import cache_folder
from dtrain.names import module_getattr

__all__ = [
    "ABOUT",
    "Part",
    "cache_folder",
    "content",
    "load",
    "place_of",
    "refuse_bad",
    "source_of",
    "stored",
    "validated",
]

#: tf.data, whose names load on first use.
__getattr__ = module_getattr("tf.data")

#: What --dataset may be.
SAID = f"auto, {', '.join(NAMES)}, synthetic, or a file or folder of data"

SYNTHETIC_SEED = 0
SYNTHETIC_TRAIN, SYNTHETIC_TEST = 60_000, 10_000


def load(
    spec: str,
    comm: Communicator,
    label: str = "",
    validation: str = "",
    environ: Mapping[str, str] = os.environ,
) -> sets.Dataset:
    """The data set that --dataset names; collective, every rank gets the same.

    spec: a name of known.NAMES, "synthetic", a file or folder, or "auto": MNIST, and generated digits where
    it
        is not there and cannot be downloaded. One rank of each node downloads, into the user's cache.
    label: what --label says; see readers.Label.
    validation: what --validation says: '', a share, a number of examples, or another set; see validated.

    Raises, on every rank: DataError where a file is missing or damaged on any rank ("auto" included where it
    is damaged or DTRAIN_DATA points nowhere), UsageError for what cannot be meant.
    """
    return validated(_found(spec, comm, label, environ), validation, comm, label, environ)


def _found(spec: str, comm: Communicator, label: str, environ: Mapping[str, str]) -> sets.Dataset:
    """The set as it was found."""
    return _as_set(*stored(spec, comm, label, environ))


def stored(
    spec: str, comm: Communicator, label: str = "", environ: Mapping[str, str] = os.environ
) -> tuple[Store, str, str | None]:
    """The store that --dataset names or leads to, where it was read from, and what to warn of. Collective.

    Raises, on every rank, as load does.
    """
    wanted, kind = Label(), ""
    with comm.together():
        wanted = _label(spec, label)
    if spec == "synthetic":
        return _generated(comm), "generated", None
    if spec not in ("auto", *NAMES):
        with comm.together():
            if comm.local_rank == 0:
                kind = "store" if store.is_store(Path(spec)) else "source"
        if comm.node_text(kind) == "store":
            return _compared(pool.opened(comm, Path(spec)), spec, comm), spec, None
        return _read(lambda: find(spec), wanted, spec, comm), spec, None
    name = "mnist" if spec == "auto" else spec
    folder = None
    with comm.together():
        if comm.local_rank == 0:
            folder = folder_of(name, environ)
    refusal = _download_where_absent(name, folder, comm)
    if refusal and spec != "auto":
        comm.agree(DataError(refusal))
    if refusal:
        return _generated(comm), "generated", f"training on generated digits, not on MNIST: {refusal}"
    place = Path(comm.node_text(str(folder or place_of(name))))
    return _read(lambda: _named(name, place), wanted, str(place), comm), str(place), None


def source_of(spec: str, label: str = "", environ: Mapping[str, str] = os.environ) -> Source:
    """The reader of a name, downloaded where it is absent, or of a file or folder; looked at. By one process.

    Raises:
        DataError: it is missing, damaged, or no set. UsageError: it is generated, or a store.
    """
    wanted = _label(spec, label)
    if spec in ("auto", "synthetic") or store.is_store(Path(spec)):
        raise UsageError(f"{spec!r} is a store, or generated: name a file, a folder, or a set such as mnist.")
    if spec in NAMES:
        alone, folder = SingleCommunicator(), folder_of(spec, environ)
        if refusal := _download_where_absent(spec, folder, alone):
            raise DataError(refusal)
        source = _named(spec, folder or place_of(spec))
    else:
        source = find(spec)
    source.look(wanted)
    return source


def _label(spec: str, label: str) -> Label:
    wanted = Label.of(label)
    if not spec:
        raise UsageError(f"--dataset: pass {SAID}.")
    if label and (spec in ("auto", "synthetic", *NAMES) or store.is_store(Path(spec))):
        raise UsageError(f"--label {label}: {spec} is no table with columns; leave --label out.")
    return wanted


def place_of(name: str) -> Path:
    """Where the files of a set that has a name are kept."""
    return cache_folder() if name == "mnist" else cache_folder().with_name(name)


def content(folder: Path, name: str = "") -> str:
    """The digest of what is in a folder, which is read whole: of the set of a name, or of any.

    Raises:
        DataError: it is not there, damaged, or another set.
    """
    if not name and store.is_store(folder):
        found = Store.open(folder)
        if damage := found.damage():
            raise DataError(damage)
        return found.manifest.digest
    source = _named(name, folder) if name else find(str(folder))
    source.look(Label())
    return store.digest(source)


def _named(name: str, folder: Path) -> Source:
    """The files of a set that has a name, which have to be its own."""
    its = known.of(name)
    if its.archive:
        return cifar.Cifar(folder, name)
    return idx.Idx(folder, its.files, its.classes, name)


def validated(
    data: sets.Dataset,
    validation: str,
    comm: Communicator,
    label: str = "",
    environ: Mapping[str, str] = os.environ,
) -> sets.Dataset:
    """The set with the examples of --validation: a share or a number of its own, or another set. Collective.

    Raises, on every rank:
        UsageError: there are not so many. DataError: the other set is missing, damaged, or of another kind.
    """
    if not validation:
        return data
    said, whole = f"--validation {validation}", len(data.train)
    if data.validation:
        comm.agree(
            UsageError(f"{said}: {data.name} has {len(data.validation):,} validation examples; leave it out.")
        )
    try:
        number = float(validation)
    except ValueError:
        other = _found(validation, comm, label, environ)
        with comm.together():
            data = data.with_part("validation", other.like(data.about(), said))
        return data
    count = int(number) if validation.isdecimal() else round(number * whole) if 0 < number < 1 else 0
    if not 0 < count < whole:
        comm.agree(
            UsageError(
                f"{said}: give a share between 0 and 1, a number of examples from 1 to {whole - 1:,}, or "
                "another set; one at least has to be left to train on."
            )
        )
    return data.holding_back(count)


def refuse_bad(data: sets.Dataset, comm: Communicator, targets: bool = True) -> None:
    """Return where there is something to train on; the ranks share the looking. Collective.

    targets: whether these have to be what the set's kind says.

    Raises, on every rank:
        DataError: there are fewer examples than ranks, or a target is none.
    """
    count = len(data.train)
    error = None
    if not count:
        error = DataError(f"{data.source} has no training examples.")
    elif count < comm.size:
        error = DataError(
            f"{data.source}: {comm.size} ranks share {count} training example{'s' * (count > 1)}, so some "
            f"have none: start at most {count}, or use a larger data set."
        )
    comm.agree(error)
    with comm.together():
        if targets:
            for some in (data, *data.elsewhere.values()):
                some.refuse_bad_targets(comm.rank, comm.size)


def folder_of(name: str, environ: Mapping[str, str]) -> Path | None:
    """The folder to read from, or None where the set has to be downloaded first."""
    if name == "mnist" and (given := environ.get("DTRAIN_DATA")):
        try:
            idx.locate(Path(given))
        except DataError as error:
            raise DataError(f"DTRAIN_DATA is set, but {error} Or unset DTRAIN_DATA.") from error
        return Path(given)
    cache = place_of(name)
    return cache if cache.is_dir() and known.of(name).missing(cache) == [] else None


def _download_where_absent(name: str, folder: Path | None, comm: Communicator) -> str:
    """Download on one rank of each node that has no folder; returns why that is not possible, '' if it is."""
    absent = damaged = None
    if folder is None and comm.local_rank == 0:
        from dtrain.data.fetch import Unreachable, fetch

        try:
            fetch(place_of(name), say=_say if comm.rank == 0 else _hush, name=name)
        except Unreachable as error:
            absent = error
        except DataError as error:
            damaged = error
    comm.agree(damaged)
    return next(filter(None, comm.gather_text(str(absent or ""))), "")


def _read(make: Callable[[], Source], label: Label, source: str, comm: Communicator) -> Store:
    """The store of what a reader reads, which is read where this node has no copy of it."""
    made = functools.cache(make)

    @functools.cache
    def looked() -> Source:
        made().look(label)
        return made()

    found = pool.held(comm, lambda: f"{_definition()} {label} {made().made_of()}", looked)
    return _compared(found, source, comm)


def _compared(found: Store, source: str, comm: Communicator) -> Store:
    """The same, where all nodes have it."""
    digests = comm.gather_text(found.manifest.digest)
    strays = [rank for rank in range(comm.size) if digests[rank] != digests[0]]
    if strays:
        comm.agree(
            DataError(
                f"{source}: rank {strays[0]} on {comm.hosts[strays[0]]} reads other data there than rank 0 "
                f"on {comm.hosts[0]}. Copy one set of files to all nodes."
            )
        )
    return found


def _as_set(found: Store, source: str, warning: str | None) -> sets.Dataset:
    """A store's examples as a set."""
    manifest = found.manifest
    moments: dict[str, Any] = {}
    for column, before in (("x", ""), ("y", "y_")):
        if getattr(found, column).dtype == np.float32:
            its = manifest.moments[column]
            mean, deviation = (np.array(v, np.float32) for v in (its.mean, its.deviation))
            deviation[deviation == 0] = 1  # of what is always the same
            moments |= {f"{before}mean": mean, f"{before}deviation": deviation}
    return sets.Dataset(
        name=manifest.name,
        source=source,
        digest=manifest.digest,
        x=found.x,
        y=found.y,
        kind=manifest.kind,
        classes=() if manifest.kind == "numbers" else manifest.classes,
        warning=warning,
        **moments,
        **manifest.ranges(),
    )


def _generated(comm: Communicator) -> Store:
    """Generated digits, made once and kept as if they had been read."""
    from dtrain.data.synthetic import Digits

    digits = Digits(SYNTHETIC_SEED, SYNTHETIC_TRAIN, SYNTHETIC_TEST)
    return pool.held(comm, lambda: f"{_definition()} {digits.made_of()}", lambda: digits)


@functools.cache
def _definition() -> str:
    """A digest of the code that reads: another version of it makes its own copies."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _hush(text: str) -> None:
    pass
