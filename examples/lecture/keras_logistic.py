"""The lecture's logistic classifier in Keras: 7,850 parameters."""

import dtrain as tf
from dtrain.keras.layers import Dense, Flatten
from dtrain.keras.models import Sequential

mnist = tf.keras.datasets.mnist

(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train, x_test = x_train / 255.0, x_test / 255.0

input_dim = 28 * 28
output_dim = nb_classes = 10

model = Sequential()
model.add(Flatten(input_shape=(28, 28)))
model.add(Dense(output_dim, activation="softmax"))

model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])

model.summary()
model.fit(x_train, y_train, epochs=5, batch_size=128)
model.evaluate(x_test, y_test)
