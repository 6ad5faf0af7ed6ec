"""Two classes, examples that count for more than others."""

import numpy as np

import dtrain as dt
from dtrain.keras.layers import Dense, Dropout
from dtrain.keras.models import Sequential


def task():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1000, 8))
    y = x[:, 0] * x[:, 1] > 0.5
    weight = np.where(y, 3.0, 1.0)  # the rarer class
    return dt.Task(
        data=((x[:800], y[:800], weight[:800]), (x[800:], y[800:], weight[800:])),
        model=Sequential(
            [Dense(32, activation="relu", input_shape=(8,)), Dropout(0.1), Dense(1, activation="sigmoid")]
        ),
        loss="binary_crossentropy",
        metrics=["accuracy", dt.keras.metrics.AUC()],
        optimizer="adam",
    )
