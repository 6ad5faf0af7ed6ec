"""The network of 3 x 3 convolutions for `dtrain train --model conv3.py:network`, in Keras's words."""

from __future__ import annotations

import dtrain as dt
from dtrain.keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D, Reshape


def network(x: dt.Tensor, training: dt.Tensor) -> dt.Tensor:
    """Images [n, 784] to 10 numbers each."""
    x = Reshape((28, 28, 1))(x)
    for channels in (32, 64):
        x = MaxPooling2D()(Conv2D(channels, 3, activation="relu")(x))
    return Dense(10)(Dropout(0.5)(Flatten()(x), training))
