"""Fashion-MNIST as tf.keras.datasets.fashion_mnist gives it."""

from __future__ import annotations

from pathlib import Path

from dtrain import comm
from dtrain.keras.datasets.cache import Pair, idx, of_name, path_of
from dtrain.keras.rank_zero import RankZero

__all__ = ["load_data"]


def load_data() -> tuple[Pair, Pair]:
    """((x_train, y_train), (x_test, y_test)): images uint8 [n, 28, 28], labels uint8 [n].

    From the four files in ~/.keras/datasets/fashion-mnist where they are, else from the user's cache or the
    mirrors; see `dtrain data fetch fashion-mnist`. Collective: every rank calls it and gets all examples.

    Raises:
        DataError: it is damaged, or is not there and cannot be downloaded.
    """
    own = Path.home() / ".keras" / "datasets" / "fashion-mnist"
    (there,) = RankZero(comm.world()).decides([own.is_dir()])
    if not there:
        return of_name("fashion-mnist")
    parts = []
    for stem in ("train", "t10k"):
        found = [
            path_of(f"fashion-mnist/{stem}-{kind}-ubyte.gz", "Fashion-MNIST")
            for kind in ("images-idx3", "labels-idx1")
        ]
        parts.append((idx(found[0], 3), idx(found[1], 1)))
    return parts[0], parts[1]
