"""A convolutional autoencoder of digits, with noise on its inputs; its halves are models of their own."""

import numpy as np

from dtrain.keras.callbacks import ReduceLROnPlateau
from dtrain.keras.datasets import mnist
from dtrain.keras.layers import (
    Conv2D,
    Conv2DTranspose,
    Dense,
    Flatten,
    GaussianNoise,
    Input,
    LeakyReLU,
    Reshape,
    UpSampling2D,
)
from dtrain.keras.models import Model

(x_train, _), (x_test, _) = mnist.load_data()
x_train = np.reshape(x_train[:1000], [-1, 28, 28, 1]).astype("float32") / 255
x_test = np.reshape(x_test[:300], [-1, 28, 28, 1]).astype("float32") / 255

image = Input(shape=(28, 28, 1), name="image")
x = GaussianNoise(0.2)(image)
for filters in (8, 16):
    x = Conv2D(filters, kernel_size=3, strides=2, padding="same")(x)
    x = LeakyReLU(alpha=0.1)(x)
code = Dense(16, name="code")(Flatten()(x))
encoder = Model(image, code, name="encoder")

given = Input(shape=(16,), name="given")
x = Reshape((7, 7, 16))(Dense(7 * 7 * 16, activation="relu")(given))
x = Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
x = UpSampling2D()(x)
decoder = Model(given, Conv2D(1, (3, 3), activation="sigmoid", padding="same")(x), name="decoder")

autoencoder = Model(image, decoder(encoder(image)), name="autoencoder")
autoencoder.compile(loss="mse", optimizer="adam")
history = autoencoder.fit(
    x_train,
    x_train,
    validation_data=(x_test, x_test),
    epochs=3,
    batch_size=50,
    verbose=0,
    callbacks=[ReduceLROnPlateau(monitor="val_loss", patience=1)],
).history
print([layer.name for layer in autoencoder.layers], autoencoder.get_layer("decoder").output_shape)
whole, parts = autoencoder.predict(x_test), decoder.predict(encoder.predict(x_test))
print(np.allclose(whole, parts, atol=1e-5))
print(f"loss {history['val_loss'][0]:.4f} {history['val_loss'][-1]:.4f} of {np.var(x_test):.4f}")
