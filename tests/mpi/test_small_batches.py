"""Batches of fewer examples than ranks, and last batches of one: each example counts once, as on one rank."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.keras import Sequential, optimizers, regularizers
from dtrain.keras.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend
from dtrain.runtime.batch import Batch
from dtrain.train.batches import windows

pytestmark = pytest.mark.mpi

N, CLASSES = 13, 3
RANDOM = np.random.default_rng(4)
IMAGES = RANDOM.normal(size=(N, 5, 5, 1)).astype(np.float32)
LABELS = RANDOM.integers(0, CLASSES, N)
WEIGHTS = RANDOM.uniform(0, 2, N)


def fitted(layers: Callable[[], list[Any]], comm: Communicator | None, kernels: str, batch: int) -> list[Any]:
    """History, test, outputs and weights of a model that is trained in such batches."""
    dt.reset_default_graph()
    dt.set_random_seed(11)
    model = Sequential(layers(), comm=comm)
    model._session = dt.Session(graph=model.graph, comm=comm, device=Backend(kernels))
    model.compile(
        optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"],
        weighted_metrics=["sparse_categorical_crossentropy"],
    )  # fmt: skip
    history = model.fit(
        IMAGES, LABELS, batch, epochs=2, verbose=0, sample_weight=WEIGHTS,
        validation_data=(IMAGES[:1], LABELS[:1]),
    )  # fmt: skip
    tested = model.evaluate(IMAGES, LABELS, batch_size=batch, verbose=0)
    return [history.history, tested, model.predict(IMAGES, batch_size=batch), model.get_weights()]


def same(found: list[Any], right: list[Any]) -> None:
    assert found[0] == {k: pytest.approx(v, rel=1e-4, abs=1e-5) for k, v in right[0].items()}
    assert found[1] == pytest.approx(right[1], rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(found[2], right[2], rtol=1e-3, atol=1e-5)
    for a, b in zip(found[3], right[3], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kernels", ["numpy", "c"])
@pytest.mark.parametrize("batch", [1, 2, 3, 6, 12])
def test_a_keras_model(batch: int, kernels: str, comm: Communicator) -> None:
    def layers() -> list[Any]:
        return [
            Conv2D(3, 2, activation="relu", input_shape=(5, 5, 1)),
            BatchNormalization(),  # over 16 places an image: of one number the statistics are none
            MaxPooling2D(2),
            Flatten(),
            Dense(8, "tanh", kernel_regularizer=regularizers.l2(0.01)),
            Dropout(0.3),
            Dense(CLASSES, "softmax"),
        ]

    same(fitted(layers, comm, kernels, batch), fitted(layers, None, "numpy", batch))


def test_statistics_of_a_ranks_own_rows_are_all_where_each_rank_has_all(comm: Communicator) -> None:
    def layers(synchronized: bool) -> list[Any]:
        norm = BatchNormalization(synchronized=synchronized, input_shape=(5, 5, 1))
        return [norm, Flatten(), Dense(CLASSES, "softmax")]

    if comm.size > 2:  # 13 are six batches of 2, and one of 1
        same(fitted(partial(layers, False), comm, "c", 2), fitted(partial(layers, True), None, "numpy", 2))


class Program:
    """A program of one's own on a session, with what is summed, what is counted and what has its rows."""

    def __init__(self) -> None:
        dt.reset_default_graph()
        dt.set_random_seed(5)
        self.x, self.labels = dt.placeholder("float32", [None, 25]), dt.placeholder("int32", [None])
        hidden = dt.nn.relu(self.dense(dt.nn.dropout(self.x, 0.8), 25, 9))
        self.logits = self.dense(hidden, 9, CLASSES)
        each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=self.labels, logits=self.logits)
        self.loss = dt.reduce_mean(each)
        guess = dt.cast(dt.argmax(self.logits, 1), "int32")
        self.accuracy = dt.reduce_mean(dt.cast(dt.equal(guess, self.labels), "float32"))
        self.count = dt.reduce_sum(dt.ones_like(each))
        self.first, self.largest = hidden[0, :3], dt.reduce_max(hidden)
        self.train = dt.train.AdamOptimizer(0.01).minimize(self.loss)
        self.initialize = dt.global_variables_initializer()

    def dense(self, x: dt.Tensor, inputs: int, units: int) -> dt.Tensor:
        kernel = dt.Variable(dt.random_normal([inputs, units], stddev=0.3))
        return dt.matmul(x, kernel) + dt.Variable(dt.ones([units]) * 0.1)

    def run(self, comm: Communicator, kernels: str, batch: int, feed: Any) -> list[Any]:
        session = dt.Session(comm=comm, device=Backend(kernels))
        session.run(self.initialize)
        fetches = [self.loss, self.accuracy, self.count, self.first, self.largest, self.logits, self.train]
        values = []
        for start in range(0, N, batch):
            x, labels = IMAGES[start : start + batch].reshape(-1, 25), LABELS[start : start + batch]
            fed = {self.x: feed(x, comm), self.labels: feed(labels.astype(np.int32), comm)}
            values += session.run(fetches, fed)[:-1]
        return [*values, *session.run(dt.trainable_variables())]


def as_shard(rows: np.ndarray, comm: Communicator) -> dt.Shard:
    return dt.Shard(rows[slice(*shard_bounds(len(rows), comm.rank, comm.size))], len(rows))


def as_batch(rows: np.ndarray, comm: Communicator) -> Any:
    return rows.view(Batch)


# batches by NumPy are a Keras model's, above
@pytest.mark.parametrize(("kernels", "feed"), [("numpy", as_shard), ("c", as_shard), ("c", as_batch)])
@pytest.mark.parametrize("batch", [1, 2, 3, 6, 12])
def test_a_program_of_ones_own(batch: int, kernels: str, feed: Any, comm: Communicator) -> None:
    found = Program().run(comm, kernels, batch, feed)
    for value, right in zip(found, Program().run(SingleCommunicator(), "numpy", batch, feed), strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 6])
def test_several_steps_in_a_call(batch: int, comm: Communicator) -> None:
    """Where each rank has the whole batch too: nothing is gathered in a step, so all of it is C."""

    def trained(comm: Communicator, kernels: str) -> list[Any]:
        dt.reset_default_graph()
        dt.set_random_seed(2)
        indices = dt.placeholder("int32", [None])
        x = dt.gather(dt.constant(IMAGES.reshape(N, 25)), indices)
        labels = dt.gather(dt.constant(LABELS.astype(np.int32)), indices)
        logits = dt.matmul(x, dt.Variable(dt.random_normal([25, CLASSES], stddev=0.1)))
        each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = dt.reduce_mean(each)
        fetches = [loss, dt.train.AdamOptimizer(0.01).minimize(loss)]
        session = dt.Session(comm=comm, device=Backend(kernels))
        session.run(dt.global_variables_initializer())
        steps, taken = session.make_callable(fetches, [indices]).several, []
        for window in windows(np.arange(N, dtype=np.int32), batch, comm, lambda: 4):
            taken += [loss for loss, _ in steps(window)]
            assert kernels == "numpy" or [*session.plans.values()][-1].repeats(None)
        return [np.array(taken), *session.run(dt.trainable_variables())]

    for value, right in zip(trained(comm, "c"), trained(SingleCommunicator(), "numpy"), strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-4, atol=1e-6)
