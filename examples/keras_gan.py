"""A generator against a discriminator, whose weights stay while the generator learns."""

import numpy as np

from dtrain.keras.layers import BatchNormalization, Dense, Input, LeakyReLU
from dtrain.keras.models import Model, Sequential
from dtrain.keras.optimizers import Adam

np.random.seed(1)
generator = Sequential()
generator.add(Dense(16, input_dim=4))
generator.add(LeakyReLU(0.2))
generator.add(BatchNormalization(momentum=0.8))
generator.add(Dense(2))

discriminator = Sequential([Dense(16, input_dim=2), LeakyReLU(0.2), Dense(1, activation="sigmoid")])
discriminator.compile(loss="binary_crossentropy", optimizer=Adam(0.01), metrics=["accuracy"])

noise = Input(shape=(4,))
discriminator.trainable = False
combined = Model(noise, discriminator(generator(noise)))
combined.compile(loss="binary_crossentropy", optimizer=Adam(0.01))

ones, zeros = np.ones((64, 1)), np.zeros((64, 1))
for step in range(150):
    real = np.random.normal((2.0, -1.0), 0.3, (64, 2))
    made = generator.predict(np.random.normal(size=(64, 4)))
    before = discriminator.get_weights()[0]
    losses = [discriminator.train_on_batch(real, ones)[0], discriminator.train_on_batch(made, zeros)[0]]
    between = discriminator.get_weights()[0]
    loss = combined.train_on_batch(np.random.normal(size=(64, 4)), ones)
    after = discriminator.get_weights()[0]
    if step == 0:
        print(np.array_equal(before, between), np.array_equal(between, after))
made = generator.predict(np.random.normal(size=(500, 4)))
print(f"mean {made.mean(0)[0]:.2f} {made.mean(0)[1]:.2f}, losses {np.mean(losses):.3f} {loss:.3f}")
