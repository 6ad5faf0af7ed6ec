"""MNIST as tf.keras.datasets.mnist gives it."""

from __future__ import annotations

from pathlib import Path

from dtrain.keras.datasets.cache import Pair, arrays, of_name

__all__ = ["load_data"]


def load_data(path: str = "mnist.npz") -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): images uint8 [n, 28, 28], labels uint8 [n].

    60,000 training and 10,000 test examples: of Keras's own file where `path` is one, else from
    $DTRAIN_DATA, the user's cache or the mirrors. Collective: every rank calls it and gets all examples. The
    arrays are the caller's own.

    Raises:
        DataError: MNIST is damaged, or is not there and cannot be downloaded.
    """
    if Path(path).is_file():
        x, y, u, v = arrays(Path(path), ("x_train", "y_train", "x_test", "y_test"))
        return (x, y), (u, v)
    return of_name("mnist")
