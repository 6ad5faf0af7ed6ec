"""An LSTM that reads the rows of a digit from top to bottom, and layers of one step each behind it."""

from dtrain.keras.utils.np_utils import to_categorical

from dtrain.keras.callbacks import EarlyStopping
from dtrain.keras.datasets import mnist
from dtrain.keras.layers.core import Activation, Dense, Dropout
from dtrain.keras.layers.recurrent import LSTM
from dtrain.keras.models import Sequential

(x_train, y_train), (x_test, y_test) = mnist.load_data()
x_train = x_train[:2000].astype("float32") / 255
x_test = x_test[:1000].astype("float32") / 255

model = Sequential()
model.add(LSTM(output_dim=32, input_shape=(28, 28), dropout_W=0.1))
model.add(Dropout(0.2))
model.add(Dense(10))
model.add(Activation("softmax"))
model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
model.fit(
    x_train,
    to_categorical(y_train[:2000], 10),
    batch_size=50,
    nb_epoch=4,
    verbose=0,
    callbacks=[EarlyStopping(monitor="loss")],
)
print(model.layers[0].output_shape, [w.shape for w in model.layers[0].get_weights()])
loss, accuracy = model.evaluate(x_test, to_categorical(y_test[:1000], 10), verbose=0)
print(f"accuracy {accuracy:.4f}")
