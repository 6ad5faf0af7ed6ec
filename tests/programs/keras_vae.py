"""A variational autoencoder: a code that is drawn in a Lambda, and a loss that is added of inner tensors."""

import numpy as np

from dtrain.keras import backend as K
from dtrain.keras.datasets import mnist
from dtrain.keras.layers import Dense, Input, Lambda
from dtrain.keras.losses import binary_crossentropy
from dtrain.keras.models import Model


def sampling(args):
    mean, log_var = args
    batch, size = K.shape(mean)[0], K.int_shape(mean)[1]
    return mean + K.exp(0.5 * log_var) * K.random_normal(shape=(batch, size))


(x_train, _), (x_test, _) = mnist.load_data()
x_train, x_test = (x[:3000].reshape(-1, 784).astype("float32") / 255 for x in (x_train, x_test))

inputs = Input(shape=(784,), name="encoder_input")
x = Dense(64, activation="relu")(inputs)
z_mean, z_log_var = Dense(2, name="z_mean")(x), Dense(2, name="z_log_var")(x)
z = Lambda(sampling, output_shape=(2,), name="z")([z_mean, z_log_var])
encoder = Model(inputs, [z_mean, z_log_var, z], name="encoder")

codes = Input(shape=(2,), name="z_sampling")
decoder = Model(codes, Dense(784, activation="sigmoid")(Dense(64, activation="relu")(codes)), name="decoder")

outputs = decoder(encoder(inputs)[2])
vae = Model(inputs, outputs, name="vae")
reconstruction = 784 * binary_crossentropy(inputs, outputs)
divergence = -0.5 * K.sum(1 + z_log_var - K.square(z_mean) - K.exp(z_log_var), axis=-1)
vae.add_loss(K.mean(reconstruction + divergence))
vae.compile(optimizer="adam")
history = vae.fit(x_train, epochs=4, batch_size=100, validation_data=(x_test, None), verbose=0).history
print([layer.name for layer in vae.layers], [code.shape for code in encoder.predict(x_test[:5])])
print(np.round(decoder.predict(np.zeros((1, 2))).mean(), 1) < 1)
print(f"loss {history['loss'][0]:.2f} {history['val_loss'][-1]:.2f}")
