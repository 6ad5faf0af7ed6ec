"""MNIST as tf.keras.datasets.mnist gives it."""

from __future__ import annotations

import os

import numpy as np

from dtrain import comm
from dtrain.data import load
from dtrain.errors import DataError

__all__ = ["load_data"]

Pair = tuple[np.ndarray, np.ndarray]


def load_data(path: str = "mnist.npz") -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): images uint8 [n, 28, 28], labels uint8 [n].

    60,000 training and 10,000 test examples: of Keras's own file where `path` is one, else from $DTRAIN_DATA, the
    user's cache or the mirrors. Collective: every rank calls it and gets all examples. The arrays are the
    caller's own.

    Raises:
        DataError: MNIST is neither there nor to be had, or is damaged.
    """
    if os.path.isfile(path):
        return read_npz(path)
    data = load("mnist", comm.world())
    train, test = slice(data.train.start, data.train.stop), slice(data.test.start, data.test.stop)
    pool = data.x, data.y
    parts = [tuple(array[part].copy() for array in pool) for part in (train, test)]
    return parts[0], parts[1]


def read_npz(path: str) -> tuple[Pair, Pair]:
    """A file of the arrays x_train, y_train, x_test and y_test; raises DataError for another."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return (file["x_train"], file["y_train"]), (file["x_test"], file["y_test"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is no .npz file of x_train, y_train, x_test and y_test: {error}.") from None
