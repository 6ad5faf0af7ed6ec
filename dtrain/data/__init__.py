"""Data sets: one pool of examples on all ranks, the same whatever it was read from; a node reads it once.

Looked for in this order: the folder that was given, $DTRAIN_DATA, the user's cache, the mirrors. Only `auto`
goes on from there to generated digits, and says so.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from dtrain.comm.base import Communicator
from dtrain.data import idx
from dtrain.data.dataset import ABOUT, Dataset, Part
from dtrain.data.pool import Pool, held
from dtrain.errors import DataError, UsageError
from dtrain.files import cache_folder

__all__ = ["ABOUT", "Dataset", "Part", "cache_folder", "load", "refuse_bad", "validated"]

SYNTHETIC_SEED = 0
SYNTHETIC_TRAIN, SYNTHETIC_TEST = 60_000, 10_000


def load(
    spec: str,
    comm: Communicator,
    label: str | None = None,
    validation: str = "",
    environ: Mapping[str, str] = os.environ,
) -> Dataset:
    """The data set that --dataset names; collective, every rank gets the same.

    spec: "mnist", "synthetic", a folder, or "auto": MNIST, and generated digits where it is neither there
        nor to be had. One rank of each node downloads, into cache_folder().
    label: the column of a table that holds the targets.
    validation: what --validation says: '', a share, a number of examples, or another set; see validated.

    Raises, on every rank: DataError where a file is missing or damaged on any rank ("auto" included where it
    is damaged or DTRAIN_DATA points nowhere), UsageError for what cannot be meant.
    """
    return validated(_found(spec, comm, label, environ), validation, comm, label, environ)


def _found(spec: str, comm: Communicator, label: str | None, environ: Mapping[str, str]) -> Dataset:
    """The set as it was found. Other formats are read here, as _read reads IDX files."""
    if label is not None:
        comm.agree(UsageError(f"--label {label}: {spec} is no table with columns; leave --label out."))
    if spec == "synthetic":
        return _generate(comm)
    folder = None
    with comm.together():
        if comm.local_rank == 0:
            folder = _look(spec, environ)
    if spec in ("auto", "mnist"):
        refusal = _download_where_absent(folder, comm)
        if refusal and spec == "mnist":
            comm.agree(DataError(refusal))
        if refusal:
            return _generate(comm, warning=f"training on generated digits, not on MNIST: {refusal}")
    return _read(Path(comm.node_text(str(folder or cache_folder()))), spec, comm)


def validated(
    data: Dataset,
    validation: str,
    comm: Communicator,
    label: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Dataset:
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


def refuse_bad(data: Dataset, comm: Communicator, targets: bool = True) -> None:
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
            f"{comm.size} ranks share {count} training example{'s' * (count > 1)}, so some have none: start "
            f"at most {count}, or use a larger data set."
        )
    comm.agree(error)
    with comm.together():
        if targets:
            for some in (data, *data.elsewhere.values()):
                some.refuse_bad_targets(comm.rank, comm.size)


def _look(dataset: str, environ: Mapping[str, str]) -> Path | None:
    """The folder to read from, or None where MNIST has to be downloaded first."""
    if dataset not in ("auto", "mnist"):
        if not dataset or not os.path.isdir(dataset):
            kind = DataError if dataset else UsageError
            if os.path.exists(dataset):
                raise kind(
                    f"--dataset {dataset!r} is a file: give a folder that holds the four files of MNIST, or "
                    "of a set in its format (28 x 28, 10 classes). Other data is for fit of dt.keras or a "
                    "graph of your own."
                )
            raise kind(
                f"--dataset {dataset!r}: there is no such folder. Pass auto, mnist, synthetic or a folder "
                "that holds the four files of MNIST or of a set in its format."
            )
        return Path(dataset)
    if given := environ.get("DTRAIN_DATA"):
        try:
            idx.locate(Path(given))
        except DataError as error:
            raise DataError(f"DTRAIN_DATA is set, but {error} Or unset DTRAIN_DATA.") from error
        return Path(given)
    cache = cache_folder()
    return cache if os.path.isdir(cache) and len(idx.find(cache)) == len(idx.FILES) else None


def _download_where_absent(folder: Path | None, comm: Communicator) -> str:
    """Download on one rank of each node that has no folder; returns why that is not possible, '' if it is."""
    absent = damaged = None
    if folder is None and comm.local_rank == 0:
        from dtrain.data.fetch import Unreachable, fetch

        try:
            fetch(cache_folder(), say=_say if comm.rank == 0 else _hush)
        except Unreachable as error:
            absent = error
        except DataError as error:
            damaged = error
    comm.agree(damaged)
    return next(filter(None, comm.gather_text(str(absent or ""))), "")


def _read(folder: Path, dataset: str, comm: Communicator) -> Dataset:
    other = dataset not in ("auto", "mnist")
    pool = held(
        comm,
        lambda: f"{_definition(idx)} {other} {idx.made_of(folder.resolve())}",
        lambda: idx.read(folder, other),
    )
    digest = hashlib.sha256(" ".join(pool.content).encode()).hexdigest()
    digests = comm.gather_text(digest)
    strays = [rank for rank in range(comm.size) if digests[rank] != digests[0]]
    if strays:
        comm.agree(
            DataError(
                f"{folder}: rank {strays[0]} on {comm.hosts[strays[0]]} reads other data there than rank 0 "
                f"on {comm.hosts[0]}. Copy one set of files to all nodes."
            )
        )
    is_mnist = pool.content == tuple(file.content_sha256 for file in idx.FILES)
    name = "mnist" if is_mnist else folder.resolve().name
    return of_pool(pool, name, str(folder), digest)


def of_pool(pool: Pool, name: str, source: str, digest: str, warning: str | None = None) -> Dataset:
    """A pool's examples as a set."""
    return Dataset(
        name=name,
        source=source,
        digest=digest,
        x=pool.x,
        y=pool.y,
        train=range(pool.train),
        test=range(pool.train, len(pool.y)),
        kind=pool.kind,
        classes=pool.classes,
        warning=warning,
    )


def _generate(comm: Communicator, warning: str | None = None) -> Dataset:
    """Generated digits, made once and kept as if they had been read."""
    from dtrain.data import synthetic

    examples = range(SYNTHETIC_TRAIN + SYNTHETIC_TEST)

    def make() -> Pool:
        images, labels = synthetic.generate(SYNTHETIC_SEED, examples)
        digest = hashlib.sha256(images.ravel())
        digest.update(labels)
        return Pool(images, labels, SYNTHETIC_TRAIN, (digest.hexdigest(),))

    pool = held(comm, lambda: f"{_definition(synthetic)} {SYNTHETIC_SEED} {SYNTHETIC_TRAIN} {examples}", make)
    return of_pool(pool, "synthetic", "generated", pool.content[0], warning)


def _definition(module: ModuleType) -> str:
    """A digest of the code that makes a pool: another version of it makes its own."""
    return hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _hush(text: str) -> None:
    pass
