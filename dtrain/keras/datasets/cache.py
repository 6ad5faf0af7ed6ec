"""Sets by their names, and files that Keras keeps in ~/.keras/datasets, where they are."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from dtrain import comm
from dtrain.data import load
from dtrain.errors import DataError

Pair = tuple[np.ndarray, np.ndarray]


def of_name(name: str) -> tuple[Pair, Pair]:
    """The training and the test examples of a set that dtrain knows; the caller's own. Collective."""
    data = load(name, comm.world())
    parts = [slice(part.start, part.stop) for part in (data.train, data.test)]
    train, test = (tuple(np.array(array[part]) for array in (data.x, data.y)) for part in parts)
    return train, test  # type: ignore[return-value]  # pairs


def path_of(name: str, what: str) -> Path:
    """A file of this name, by itself or in the cache; raises DataError where there is none."""
    for path in (Path(name), Path.home() / ".keras" / "datasets" / name):
        if path.is_file():
            return path
    raise DataError(
        f"{what} is not there, and dtrain does not download it. Put Keras's file {name} into "
        f"{os.fspath(Path.home() / '.keras' / 'datasets')}."
    )


def arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays of an .npz file; raises DataError for another file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is no .npz file with {', '.join(names)}: {error}.") from None


def idx(path: Path, ndim: int) -> np.ndarray:
    """The bytes of a file in MNIST's format, compressed by gzip; raises DataError for another file."""
    try:
        with gzip.open(path) as file:
            data = file.read(1 << 28)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    shape = tuple(int(n) for n in np.frombuffer(data[4 : 4 + 4 * ndim], ">u4"))
    if data[:4] != bytes([0, 0, 8, ndim]) or len(data) - 4 - 4 * ndim != np.prod(shape):
        raise DataError(f"{path} is no file of bytes with {ndim} axes in MNIST's format.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy()
