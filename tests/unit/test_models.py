"""The models: their shapes, and that several ranks train them as one does, dropout included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain import config
from dtrain.task.models import MODELS

PARAMETERS = {
    "logistic": 784 * 10 + 10,
    "mlp": 784 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10,
    "cnn": 25 * 32 + 32 + 25 * 32 * 64 + 64 + 3136 * 1024 + 1024 + 1024 * 10 + 10,
}


def test_the_command_offers_the_models_that_there_are() -> None:
    assert tuple(MODELS) == config.MODELS


@pytest.mark.parametrize("name", MODELS)
def test_models_map_pixels_to_ten_logits(name: str) -> None:
    x, training = dt.placeholder("float32", [None, 784]), dt.placeholder("float32", [])
    logits = MODELS[name](x, training, (28, 28), 10)
    assert logits.shape.as_list() == [None, 10]
    assert sum(v.shape.num_elements() for v in dt.trainable_variables()) == PARAMETERS[name]


def test_the_cnn_drops_while_training_only() -> None:
    x, training = dt.placeholder("float32", [None, 784]), dt.placeholder("float32", [])
    logits = MODELS["cnn"](x, training, (28, 28), 10)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    pixels = np.random.default_rng(0).random((3, 784), np.float32)
    tested = [session.run(logits, {x: pixels, training: 0.0}) for _ in range(2)]
    trained = [session.run(logits, {x: pixels, training: 1.0}) for _ in range(2)]
    np.testing.assert_array_equal(*tested)
    assert (trained[0] != trained[1]).any()


def test_ranks_train_the_cnn_as_one_does(on_threads: Callable[..., list[Any]]) -> None:
    graph = dt.Graph()
    graph.seed = 3
    with graph.as_default():
        x, labels = dt.placeholder("float32", [None, 784]), dt.placeholder("int32", [None])
        training = dt.placeholder("float32", [])
        logits = MODELS["cnn"](x, training, (28, 28), 10)
        losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = dt.reduce_mean(losses)
        minimize = dt.train.GradientDescentOptimizer(0.05).minimize(loss)
        initialize, variables = dt.global_variables_initializer(), dt.trainable_variables()
    generator = np.random.default_rng(1)
    pixels = generator.random((3, 7, 784), np.float32)
    classes = generator.integers(0, 10, (3, 7)).astype(np.int32)

    def body(comm: Any) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        session.run(initialize)
        low, high = (0, 7) if comm is None else (7 * r // comm.size for r in (comm.rank, comm.rank + 1))
        found = []
        for images, numbers in zip(pixels, classes, strict=True):
            feeds = {x: dt.Shard(images[low:high], 7), labels: dt.Shard(numbers[low:high], 7), training: 1.0}
            found.append(session.run([loss, minimize], feeds)[0])
        return found, session.run(variables)

    expected = body(None)
    for losses_found, values in on_threads(3, body):
        np.testing.assert_allclose(losses_found, expected[0], rtol=1e-4)
        for value, right in zip(values, expected[1], strict=True):
            np.testing.assert_allclose(value, right, rtol=1e-3, atol=1e-5)
