"""Class numbers; the model gives logits."""

import numpy as np

import dtrain as dt
from dtrain.keras.layers import Dense


def network(x, training):
    x = Dense(64, activation="relu")(x)
    x = dt.nn.dropout(x, rate=0.2 * training)
    return Dense(5)(x)


def task():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1000, 20))
    y = (x @ rng.normal(size=(20, 5))).argmax(1)
    return dt.Task(
        data=((x[:800], y[:800]), (x[800:], y[800:])),
        model=network,
        loss=dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        optimizer="adam",
    )
