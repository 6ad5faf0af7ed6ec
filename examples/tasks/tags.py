"""Several labels at a time, and a loss of your own."""

import numpy as np

import dtrain as dt
from dtrain.keras.layers import Dense


def focal(y_true, y_pred):
    """Cross entropy in which examples that are easy count for less; a number for each example."""
    right = y_true * y_pred + (1 - y_true) * (1 - y_pred)
    return dt.reduce_mean(-dt.square(1 - right) * dt.log(right + 1e-7), 1)


def task():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(1000, 20))
    y = (x @ rng.normal(size=(20, 6)) > 1).astype("float32")
    return dt.Task(
        data=((x[:800], y[:800]), (x[800:], y[800:])),
        model=lambda x, training: Dense(6, activation="sigmoid")(Dense(64, activation="relu")(x)),
        loss=focal,
        metrics=["binary_accuracy"],
        optimizer="adam",
    )
