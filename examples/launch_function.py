"""Ranks from a script of one process: `dt.launch` calls a function on each and gives rank 0's result."""

import numpy as np

import dtrain as dt


def train(rows):
    """On every rank: fit a line; each rank works on its share of every batch."""
    from dtrain.keras.layers import Dense
    from dtrain.keras.models import Sequential

    dt.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(rows, 1))
    model = Sequential([Dense(1, input_shape=(1,))])
    model.compile(dt.keras.optimizers.SGD(0.1), "mse")
    model.fit(x, 3 * x - 1, batch_size=50, epochs=5, verbose=0)
    return model.get_weights()


if __name__ == "__main__":
    slope, offset = dt.launch(2, train, 500)
    print(f"slope {slope.item():.2f}, offset {offset.item():.2f}")
