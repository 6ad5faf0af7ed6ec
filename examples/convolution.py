"""A convolutional network for colour images, with batch normalisation, pooling and dropout."""

import numpy as np

import dtrain as dt
from dtrain.keras.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from dtrain.keras.models import Sequential

dt.set_random_seed(0)

# In place of images of yours: noise with a bright square, whose quarter of the image is the class.
rng = np.random.default_rng(0)
y = rng.integers(0, 4, 480)
x = rng.uniform(0, 0.5, (480, 16, 16, 3)).astype("float32")
for image, quarter in zip(x, y, strict=True):
    top, left = 8 * (quarter // 2) + rng.integers(0, 4), 8 * (quarter % 2) + rng.integers(0, 4)
    image[top : top + 4, left : left + 4] += 0.5

model = Sequential(
    [
        Conv2D(8, 3, padding="same", activation="relu", input_shape=(16, 16, 3)),
        BatchNormalization(),
        MaxPooling2D(),
        Conv2D(16, 3, activation="relu"),
        MaxPooling2D(),
        Flatten(),
        Dropout(0.2),
        Dense(4, activation="softmax"),
    ]
)
model.compile(dt.keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(x[:400], y[:400], batch_size=40, epochs=5, verbose=0)
loss, accuracy = model.evaluate(x[400:], y[400:], verbose=0)
print(f"{model.count_params():,} parameters, accuracy {accuracy:.3f}")
