"""MNIST as tf.keras.datasets.mnist gives it."""

from __future__ import annotations

import numpy as np

from dtrain import comm
from dtrain.data import load
from dtrain.errors import UsageError

__all__ = ["load_data"]

Pair = tuple[np.ndarray, np.ndarray]


def load_data(path: str = "mnist.npz") -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): images uint8 [n, 28, 28], labels uint8 [n].

    60,000 training and 10,000 test examples, from $DTRAIN_DATA, the user's cache or the mirrors. Collective:
    every rank calls it and gets all examples. The arrays are the caller's own.

    Raises:
        DataError: MNIST is neither there nor to be had, or is damaged.
        UsageError: a path was given; Keras's own file is not read.
    """
    if path != "mnist.npz":
        raise UsageError(
            f"load_data(path={path!r}): dtrain reads MNIST's four files from $DTRAIN_DATA or its cache, and "
            "no .npz file. Leave path out."
        )
    data = load("mnist", comm.world())
    train, test = slice(data.train.start, data.train.stop), slice(data.test.start, data.test.stop)
    pool = data.x, data.y
    parts = [tuple(array[part].copy() for array in pool) for part in (train, test)]
    return parts[0], parts[1]
