"""CIFAR-10 as tf.keras.datasets.cifar10 gives it."""

from __future__ import annotations

from dtrain.keras.datasets.cache import Pair, of_name

__all__ = ["load_data"]


def load_data() -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): images uint8 [n, 32, 32, 3], labels uint8 [n, 1].

    50,000 training and 10,000 test examples, of the binary version, from the user's cache or its makers; see
    `dtrain data fetch cifar10`. Collective: every rank calls it and gets all examples.

    Raises:
        DataError: it is damaged, or is not there and cannot be downloaded.
    """
    (x, y), (u, v) = of_name("cifar10")
    return (x, y[:, None]), (u, v[:, None])
