"""A table of your own: train with early stopping, test, predict new rows, save and load."""

import os
import tempfile

import numpy as np

import dtrain as dt
from dtrain.keras.callbacks import EarlyStopping
from dtrain.keras.layers import Dense, Dropout
from dtrain.keras.models import Sequential, load_model

folder = os.environ.get("LOG_DIR") or tempfile.mkdtemp()
dt.set_random_seed(0)

# In place of a file of yours: the price of houses by size and age. Every rank reads the same rows.
rng = np.random.default_rng(0)
size, age = rng.uniform(30, 200, 1000), rng.uniform(0, 90, 1000)
table = np.stack([size, age, 0.03 * size - 0.009 * age + rng.normal(0, 0.1, 1000)], 1)

x, y = table[:, :2].astype("float32"), table[:, 2:].astype("float32")
x = (x - x.mean(0)) / x.std(0)

model = Sequential([Dense(32, activation="relu", input_shape=(2,)), Dropout(0.05), Dense(1)])
model.compile(optimizer=dt.keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
history = model.fit(
    x[:800],
    y[:800],
    batch_size=50,
    epochs=20,
    validation_split=0.2,
    callbacks=[EarlyStopping(patience=3, restore_best_weights=True)],
    verbose=0,
)
loss, error = model.evaluate(x[800:], y[800:], verbose=0)
said = model.predict(x[800:803], verbose=0)

file = os.path.join(folder, "houses.safetensors")
model.save(file)  # rank 0 writes
again = load_model(file).predict(x[800:803], verbose=0)
print(f"mean absolute error {error:.3f}, of three houses {np.abs(said - y[800:803]).max():.2f} at most")
print("the same after loading:", np.allclose(said, again))
