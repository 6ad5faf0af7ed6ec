"""CIFAR-100 as tf.keras.datasets.cifar100 gives it."""

from __future__ import annotations

from dtrain.errors import UsageError
from dtrain.keras.datasets.cache import Pair, of_name

__all__ = ["load_data"]


def load_data(label_mode: str = "fine") -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): images uint8 [n, 32, 32, 3], labels uint8 [n, 1].

    50,000 training and 10,000 test examples, of the binary version, from the user's cache or its makers; see
    `dtrain data fetch cifar100`. Collective: every rank calls it and gets all examples.

    Args:
        label_mode: only 'fine', 100 classes.

    Raises:
        UsageError: label_mode is another.
        DataError: it is damaged, or is not there and cannot be downloaded.
    """
    if label_mode != "fine":
        raise UsageError(f"cifar100.load_data: label_mode={label_mode!r} is not supported, only 'fine'.")
    (x, y), (u, v) = of_name("cifar100")
    return (x, y[:, None]), (u, v[:, None])
