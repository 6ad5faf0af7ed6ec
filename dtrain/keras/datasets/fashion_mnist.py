"""Fashion-MNIST as tf.keras.datasets.fashion_mnist gives it."""

from __future__ import annotations

from dtrain.keras.datasets.cache import Pair, idx, path_of

__all__ = ["load_data"]


def load_data() -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): images uint8 [n, 28, 28], labels uint8 [n].

    From the four files in ~/.keras/datasets/fashion-mnist.

    Raises:
        DataError: one is not there, or is damaged.
    """
    parts = []
    for stem in ("train", "t10k"):
        found = [
            path_of(f"fashion-mnist/{stem}-{kind}-ubyte.gz", "Fashion-MNIST")
            for kind in ("images-idx3", "labels-idx1")
        ]
        parts.append((idx(found[0], 3), idx(found[1], 1)))
    return parts[0], parts[1]
