"""Pairs of digits: one network for both, the distance of what it says of them, a loss of one's own."""

import numpy as np

from dtrain.keras import backend as K
from dtrain.keras.datasets import mnist
from dtrain.keras.layers import Dense, Dropout, Input, Lambda
from dtrain.keras.models import Model, Sequential
from dtrain.keras.optimizers import RMSprop


def distance(pair):
    a, b = pair
    return K.sqrt(K.maximum(K.sum(K.square(a - b), axis=1, keepdims=True), K.epsilon()))


def contrastive(y_true, y_pred):
    near, far = K.square(y_pred), K.square(K.maximum(1.0 - y_pred, 0.0))
    return K.mean(y_true * near + (1 - y_true) * far)


def accuracy(y_true, y_pred):
    return K.mean(K.equal(y_true, K.cast(y_pred < 0.5, y_true.dtype)))


def pairs(x, y, count, seed):
    draw = np.random.RandomState(seed)
    first, second = draw.randint(0, len(x), count), draw.randint(0, len(x), count)
    same = [np.flatnonzero(y == y[i])[draw.randint(0, 50)] for i in first[: count // 2]]
    second[: count // 2] = same
    order = draw.permutation(count)
    first, second = first[order], second[order]
    return [x[first], x[second]], (y[first] == y[second]).astype("float32")


(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train, x_test = (x.reshape(-1, 784).astype("float32") / 255 for x in (x_train, x_test))
x, y = pairs(x_train[:2000], y_train[:2000], 4000, 1)
u, v = pairs(x_test[:1000], y_test[:1000], 1000, 2)

base = Sequential()
base.add(Dense(64, input_shape=(784,), activation="relu"))
base.add(Dropout(0.1))
base.add(Dense(32, activation="relu"))

a, b = Input(shape=(784,)), Input(shape=(784,))
apart = Lambda(distance, output_shape=lambda shapes: (shapes[0][0], 1))([base(a), base(b)])
model = Model([a, b], apart)
model.compile(loss=contrastive, optimizer=RMSprop(), metrics=[accuracy])
model.fit(x, y, batch_size=100, epochs=5, validation_data=(u, v), verbose=0)
print(len(model.weights), base.count_params(), model.predict(u)[:2].shape)
print(f"accuracy {model.evaluate(u, v, verbose=0)[1]:.4f}")
