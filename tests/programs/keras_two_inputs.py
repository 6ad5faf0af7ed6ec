"""Two inputs, a layer that both share, two outputs: a digit's halves, its class, whether it is even."""

import os

import numpy as np

import dtrain.keras.backend as K
from dtrain.keras.datasets import mnist
from dtrain.keras.layers import Dense, Flatten, Input, concatenate
from dtrain.keras.models import Model, load_model
from dtrain.keras.utils import np_utils

(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train, y_train = x_train[:4000] / 255.0, y_train[:4000]
x_test, y_test = x_test[:1000] / 255.0, y_test[:1000]
halves = [x_train[:, :14], x_train[:, 14:]]
tested = [x_test[:, :14], x_test[:, 14:]]

upper, lower = Input(shape=(14, 28), name="upper"), Input(shape=(14, 28), name="lower")
hidden = Dense(64, activation="relu")
both = concatenate([hidden(Flatten()(upper)), hidden(Flatten()(lower))])
digit = Dense(10, activation="softmax", name="digit")(both)
even = Dense(1, activation="sigmoid", name="even")(both)
model = Model(inputs=[upper, lower], outputs=[digit, even])
model.compile(
    optimizer="adam",
    loss={"digit": "categorical_crossentropy", "even": "binary_crossentropy"},
    loss_weights=[1.0, 0.5],
    metrics=["accuracy"],
)
labels = {"digit": np_utils.to_categorical(y_train, 10), "even": y_train % 2 == 0}
right = {"digit": np_utils.to_categorical(y_test, 10), "even": y_test % 2 == 0}
model.fit(halves, labels, batch_size=50, epochs=3, verbose=0)
path = os.path.join(os.environ.get("LOG_DIR", "."), "halves.model")
model.save(path)
same = load_model(path)
print(np.array_equal(same.predict(tested)[0], model.predict({"upper": tested[0], "lower": tested[1]})[0]))
print(K.int_shape(both), model.count_params(), [layer.name for layer in model.layers])
for name, value in zip(model.metrics_names, model.evaluate(tested, right, verbose=0)):
    print(f"{name} {value:.4f}")
