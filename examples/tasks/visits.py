"""A table and a kind as inputs, an amount and a class as outputs; each loss is shown beside their sum."""

import numpy as np

import dtrain as dt
from dtrain.keras.layers import Dense


def network(x, training):
    kinds = dt.get_variable("kinds", [7, 4])
    both = dt.concat([x["table"], dt.nn.embedding_lookup(kinds, x["kind"])], 1)
    common = Dense(32, activation="relu")(both)
    return {"amount": Dense(1)(common), "again": Dense(1, activation="sigmoid")(common)}


def task():
    rng = np.random.default_rng(5)
    x = {"table": rng.normal(size=(1000, 9)), "kind": rng.integers(0, 7, 1000)}
    amount = x["table"][:, :1] + x["kind"][:, None]
    y = {"amount": amount, "again": amount > 3}
    part = lambda arrays, rows: {name: a[rows] for name, a in arrays.items()}
    train, test = slice(0, 800), slice(800, 1000)
    return dt.Task(
        data=((part(x, train), part(y, train)), (part(x, test), part(y, test))),
        model=network,
        loss={"amount": "mse", "again": "binary_crossentropy"},
        metrics={"amount": ["mae"], "again": ["accuracy"]},
        optimizer="adam",
    )
