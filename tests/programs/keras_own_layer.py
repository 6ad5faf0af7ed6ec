"""A layer of one's own with weights, in a network that is then taken apart for another task."""

import numpy as np
from dtrain.keras.engine.topology import Layer

from dtrain.keras import backend as K
from dtrain.keras import initializers
from dtrain.keras.datasets import mnist
from dtrain.keras.layers import Dense, Dropout, Input
from dtrain.keras.models import Model


class Centred(Layer):
    """What is on either side of a row's mean, weighed by weights of its own."""

    def __init__(self, start="ones", **kwargs):
        self.start = initializers.get(start)
        super().__init__(**kwargs)

    def build(self, input_shape):
        self.scale = self.add_weight(
            name="scale", shape=(2, input_shape[1]), initializer=self.start, trainable=True
        )
        super().build(input_shape)

    def call(self, x):
        x = K.l2_normalize(x - K.mean(x, axis=1, keepdims=True), axis=1)
        return K.concatenate([K.relu(x) * self.scale[0], K.relu(-x) * self.scale[1]], axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 2 * input_shape[1])


(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train, x_test = (x[:4000].reshape(-1, 784).astype("float32") / 255 for x in (x_train, x_test))
y_train, y_test = y_train[:4000], y_test[:4000]

image = Input(shape=(784,))
x = Centred(name="centred")(Dense(64)(image))
x = Dropout(0.1)(x)
x = Centred()(Dense(32)(x))
model = Model(image, Dense(5, activation="softmax")(x))
model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["acc"])
small = y_train < 5
model.fit(x_train[small], y_train[small], batch_size=50, epochs=3, verbose=0)
print([w.shape for w in model.get_layer("centred").get_weights()], model.layers[-2].output_shape)

for layer in model.layers[:4]:  # the features stay, and the classes are others
    layer.trainable = False
large = Model(model.input, Dense(5, activation="softmax", name="large")(model.layers[-2].output))
large.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["acc"])
before = model.get_layer("centred").get_weights()[0]
large.fit(x_train[~small], y_train[~small] - 5, batch_size=50, epochs=3, verbose=0)
print(len(large.trainable_weights), np.array_equal(before, large.get_layer("centred").get_weights()[0]))
features = K.function([large.input, K.learning_phase()], [large.layers[-2].output])
dropped, kept = (features([x_test[:50], phase])[0] for phase in (1, 0))
print(dropped.shape, np.allclose(dropped, kept))
of = y_test >= 5
print(f"accuracy {large.evaluate(x_test[of], y_test[of] - 5, verbose=0)[1]:.4f}")
