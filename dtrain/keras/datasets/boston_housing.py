"""Boston housing prices as tf.keras.datasets.boston_housing gives them."""

from __future__ import annotations

import numpy as np

from dtrain.keras.datasets.cache import Pair, arrays, path_of

__all__ = ["load_data"]


def load_data(
    path: str = "boston_housing.npz", test_split: float = 0.2, seed: int = 113
) -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): features float64 [n, 13], prices float64 [n].

    From a file, by itself or in ~/.keras/datasets. test_split: the share tested on. seed: of the order.

    Raises:
        DataError: it is not there, or is damaged.
    """
    x, y = arrays(path_of(path, "The Boston housing data"), ("x", "y"))
    order = np.arange(len(x))
    np.random.RandomState(seed).shuffle(order)
    x, y, at = x[order], y[order], int(len(x) * (1 - test_split))
    return (x[:at], y[:at]), (x[at:], y[at:])
