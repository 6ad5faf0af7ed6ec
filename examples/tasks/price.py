"""Regression, with a mean absolute error beside the loss."""

import numpy as np

import dtrain as dt
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential


def task():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, 13))
    y = x @ rng.normal(size=(13, 1)) + 0.1 * rng.normal(size=(1000, 1))
    return dt.Task(
        data=((x[:800], y[:800]), (x[800:], y[800:])),
        model=Sequential([Dense(32, activation="relu", input_shape=(13,)), Dense(1)]),
        loss="mse",
        metrics=["mae"],
        optimizer=dt.keras.optimizers.Adam(0.01),
    )
