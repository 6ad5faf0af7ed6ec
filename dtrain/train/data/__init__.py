"""Data sets: one pool of examples on all ranks, the same whatever it was read from; a node reads it once.

Looked for in this order: the folder that was given, $DTRAIN_DATA, the user's cache, the mirrors. Only `auto`
goes on from there to generated digits, and says so.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import DataError, UsageError
from dtrain.files import cache_folder
from dtrain.train.data import idx
from dtrain.train.data.pool import Pool, held

__all__ = ["Dataset", "cache_folder", "load"]

SYNTHETIC_SEED = 0
SYNTHETIC_TRAIN, SYNTHETIC_TEST = 60_000, 10_000


@dataclass(frozen=True)
class Dataset:
    """Examples of 28 x 28 grey pixels and their classes, training and test examples in one pool.

    name: "mnist", "synthetic" or the name of the folder that holds another set.
    images: uint8 [n, 28, 28], C-contiguous, 0 paper .. 255 ink; labels: uint8 [n], 0 .. classes - 1. Neither
        may be written to, so that a graph holds these very arrays and no copy.
    train, test: index ranges into the pool.
    source: the folder it was read from, or "generated".
    digest: sha256 (hex) over all examples, the same wherever the same set was read from.
    warning: what to tell the user where this is not the set hoped for, otherwise None.
    weights: of each example, float32 [n], where they are not all 1.

    A task's own arrays are such a set, of examples and labels of any shape and number, or of several by name.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    train: range
    test: range
    source: str
    digest: str
    classes: int = 10
    warning: str | None = None
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        for arrays in (self.images, self.labels):
            for array in arrays.values() if isinstance(arrays, dict) else [arrays]:
                array.flags.writeable = False


def load(dataset: str, comm: Communicator, environ: Mapping[str, str] = os.environ) -> Dataset:
    """Load a data set; collective, every rank gets the same.

    dataset: "mnist", "synthetic", a folder, or "auto": MNIST, and generated digits where it is neither there
    nor to be had. One rank of each node downloads, into cache_folder().
    Raises, on every rank: DataError where a file is missing or damaged on any rank ("auto" included where it
    is damaged or DTRAIN_DATA points nowhere), UsageError for an empty dataset.
    """
    if dataset == "synthetic":
        return _generate(comm)
    folder = None
    with comm.together():
        if comm.local_rank == 0:
            folder = _look(dataset, environ)
    if dataset in ("auto", "mnist"):
        refusal = _download_where_absent(folder, comm)
        if refusal and dataset == "mnist":
            comm.agree(DataError(refusal))
        if refusal:
            return _generate(comm, warning=f"training on generated digits, not on MNIST: {refusal}")
    return _read(Path(comm.node_text(str(folder or cache_folder()))), dataset, comm)


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
        from dtrain.train.data.fetch import Unreachable, fetch

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
    return Dataset(
        name="mnist" if is_mnist else folder.resolve().name,
        images=pool.images,
        labels=pool.labels,
        train=range(pool.train),
        test=range(pool.train, len(pool.labels)),
        source=str(folder),
        digest=digest,
    )


def _generate(comm: Communicator, warning: str | None = None) -> Dataset:
    """Generated digits, made once and kept as if they had been read."""
    from dtrain.train.data import synthetic

    examples = range(SYNTHETIC_TRAIN + SYNTHETIC_TEST)

    def make() -> Pool:
        images, labels = synthetic.generate(SYNTHETIC_SEED, examples)
        digest = hashlib.sha256(images.ravel())
        digest.update(labels)
        return Pool(images, labels, SYNTHETIC_TRAIN, (digest.hexdigest(),))

    pool = held(comm, lambda: f"{_definition(synthetic)} {SYNTHETIC_SEED} {SYNTHETIC_TRAIN} {examples}", make)
    return Dataset(
        name="synthetic",
        images=pool.images,
        labels=pool.labels,
        train=range(pool.train),
        test=range(pool.train, len(pool.labels)),
        source="generated",
        digest=pool.content[0],
        warning=warning,
    )


def _definition(module: ModuleType) -> str:
    """A digest of the code that makes a pool: another version of it makes its own."""
    return hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _hush(text: str) -> None:
    pass
