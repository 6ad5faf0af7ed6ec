"""A program's own training loop under mpirun: next_batch, a schedule and an adaptive optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import EnvironmentProblem, InvalidArgumentError
from dtrain.examples.tutorials.mnist.sets import DataSet

pytestmark = pytest.mark.mpi


def trained(comm: Communicator | None) -> list[Any]:
    """Losses and parameters of 12 steps on 50 examples in batches of 7, which span epochs."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (50, 3, 3)).astype(np.uint8)
    data = DataSet(
        pixels, (pixels[:, 0, 0] > 99).astype(np.uint8), one_hot=True, dtype="float32", reshape=True, seed=1
    )
    graph = dt.Graph()
    graph.seed = 3
    with graph.as_default():
        x, y = dt.placeholder("float", [None, 9]), dt.placeholder("float", [None, 10])
        w = dt.Variable(dt.random_normal([9, 10], stddev=0.1))
        loss = dt.reduce_mean(dt.nn.softmax_cross_entropy_with_logits(logits=dt.matmul(x, w), labels=y))
        step = dt.train.get_or_create_global_step()
        rate = dt.train.exponential_decay(0.05, step, 4, 0.5, staircase=True)
        train = dt.train.RMSPropOptimizer(rate, centered=True).minimize(loss, global_step=step)
        session = dt.Session(graph=graph, comm=comm)
        session.run(dt.global_variables_initializer())
        losses = []
        for _ in range(12):
            images, labels = data.next_batch(7)
            losses.append(session.run([loss, train], {x: images, y: labels})[0])
        return [losses, *session.run([w, rate])]


def test_all_ranks_train_as_one_does(comm: Communicator) -> None:
    for together, alone in zip(trained(comm), trained(None), strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_data_that_each_rank_shuffles_for_itself_is_an_error(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")
    graph = dt.Graph()
    with graph.as_default():
        x = dt.placeholder("float", [None])
        total = dt.reduce_sum(x)
        session = dt.Session(graph=graph, comm=comm)
        with pytest.raises(InvalidArgumentError, match="not the same on rank 1 as on rank 0"):
            session.run(total, {x: np.random.default_rng(comm.rank).random(5)})


@pytest.mark.parametrize("trainable", [True, False])
def test_weights_that_each_rank_draws_for_itself_are_rank_0s(comm: Communicator, trainable: bool) -> None:
    def drawn(rank: int) -> list[np.ndarray]:
        generator = np.random.default_rng(rank)
        shapes_and_types = (((), "f4"), ((5, 3), "f4"), ((7,), "f8"), ((2, 0), "f4"), ((3,), "f2"))
        values = [generator.standard_normal(shape).astype(dtype) for shape, dtype in shapes_and_types]
        return [*values, generator.random(9) < 0.5]

    graph = dt.Graph()
    with graph.as_default():
        variables = [dt.Variable(value, trainable=trainable) for value in drawn(comm.rank)]
        twice = dt.Variable(variables[1].initialized_value() * 2, trainable=trainable)
        session = dt.Session(graph=graph, comm=comm)
        session.run(dt.global_variables_initializer())
        *values, doubled = session.run([*variables, twice])
    for value, wanted in zip(values, drawn(0), strict=True):
        np.testing.assert_array_equal(value, wanted)
    np.testing.assert_array_equal(doubled, drawn(0)[1] * 2)
    for value in comm.gather_text(repr(values)):
        assert value == repr(values)


def test_constants_that_each_rank_draws_for_itself_are_an_error(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")
    graph = dt.Graph()
    with graph.as_default():
        total = dt.reduce_sum(
            dt.Variable(dt.zeros([5])) + np.random.default_rng(comm.rank).random(5).astype("f")
        )
        session = dt.Session(graph=graph, comm=comm)
        session.run(dt.global_variables_initializer())
        with pytest.raises(EnvironmentProblem, match=r"do not agree on the step .*default_rng a seed"):
            session.run(total)
