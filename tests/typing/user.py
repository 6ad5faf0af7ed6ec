"""A program of a user's, for mypy: the types that a type checker and an editor see in dtrain's names.

`mypy` checks it with the package, strictly (see pyproject.toml); assert_type fails for another type, Any too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import assert_type

import dtrain as dt


def graph_of_tensors() -> None:
    graph = assert_type(dt.Graph(), dt.Graph)
    with graph.as_default() as same:
        assert_type(same, dt.Graph)
        x = assert_type(dt.placeholder("float32", [None, 3], name="x"), dt.Tensor)
        labels = assert_type(dt.placeholder("int32", [None]), dt.Tensor)
        w = assert_type(dt.Variable(dt.zeros([3, 2])), dt.Variable)
        with dt.variable_scope("output"):
            b = assert_type(dt.get_variable("b", [2], initializer=dt.zeros_initializer()), dt.Variable)
        z = assert_type(dt.matmul(x, w) + b, dt.Tensor)
        assert_type((1.0 - z * 2)[:, 0], dt.Tensor)
        assert_type(z > 0, dt.Tensor)
        assert_type(x.shape, dt.TensorShape)
        assert_type(x.op, dt.Operation)
        assert_type(w.dtype, dt.DType)
        assert_type(dt.nn.relu(z), dt.Tensor)
        assert_type(dt.reduce_mean(dt.square(z), axis=0), dt.Tensor)
        loss = assert_type(dt.losses.sparse_softmax_cross_entropy(labels, z), dt.Tensor)
        optimizer = assert_type(dt.train.AdamOptimizer(1e-2), dt.train.AdamOptimizer)
        step = assert_type(optimizer.minimize(loss), dt.Operation)
        assert_type(dt.gradients(loss, [w, b]), list[dt.Tensor | None])
        assert_type(dt.trainable_variables(), list[dt.Variable])
        saver = assert_type(dt.train.Saver(), dt.train.Saver)
        start = assert_type(dt.global_variables_initializer(), dt.Operation)
    config = dt.ConfigProto(allow_soft_placement=True, check_numerics=True)
    config.gpu_options.allow_growth = True
    with dt.Session(graph=graph, config=config) as session:
        assert_type(session, dt.Session)
        session.run(start)
        feeds = {x: np.ones([4, 3], np.float32), labels: np.zeros(4, np.int32)}
        _, value = session.run([step, loss], feed_dict=feeds)
        saver.save(session, f"model-{float(value):.3f}")


class Scale(dt.keras.layers.Layer):
    """A layer of the user's own: its call has more arguments than the base's."""

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.factor = assert_type(self.add_weight("factor", input_shape[-1:], "ones"), dt.Variable)

    def call(self, x: dt.Tensor, training: Any = None) -> dt.Tensor:
        return x * self.factor


class Stop(dt.keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.model.stop_training = logs is not None and logs["loss"] < 0.1


def sequential() -> dt.keras.Sequential:
    dense = assert_type(dt.keras.layers.Dense(8, activation="relu", input_shape=(3,)), dt.keras.layers.Dense)
    model = dt.keras.Sequential([dense, Scale(), dt.keras.layers.Dropout(0.5), dt.keras.layers.Dense(2)])
    assert_type(model, dt.keras.Sequential)
    optimizer = assert_type(dt.keras.optimizers.Adam(1e-3), dt.keras.optimizers.Adam)
    loss = dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    x, y = np.ones([8, 3], np.float32), np.zeros(8, np.int32)
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[Stop()])
    assert_type(history, dt.keras.callbacks.History)
    model.predict(x)
    return model


def functional() -> dt.keras.Model:
    inputs = assert_type(dt.keras.Input(shape=(3,)), dt.Tensor)
    model = dt.keras.Model(inputs, dt.keras.layers.Dense(2)(inputs))
    assert_type(model, dt.keras.Model)
    return model


def task() -> dt.Task:
    data = (np.ones([8, 3], np.float32), np.zeros(8, np.int32))
    return assert_type(dt.Task(data=data, model=sequential, loss="sparse_categorical_crossentropy"), dt.Task)


def mistakes() -> None:
    """What a type checker has to refuse, or the ignore is an error, as one that is not needed."""
    dt.launch("two", sequential)  # type: ignore[arg-type]
    print(dt.placeholder("float32").shap)  # type: ignore[attr-defined]
    dt.Session().run()  # type: ignore[call-arg]
    dt.Variable(1.0) + dt.Graph().nodes  # type: ignore[attr-defined]
    dt.keras.layers.Dense("ten")  # type: ignore[arg-type]
    dt.keras.Sequential().fitt()  # type: ignore[attr-defined]
    dt.train.AdamOptimizer(momentum=0.9)  # type: ignore[call-arg]


def train() -> None:
    graph_of_tensors()
    sequential().summary()
    functional()
    task()


if __name__ == "__main__":
    dt.launch(2, train)
