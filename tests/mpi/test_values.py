"""Values in TensorFlow's other forms are the same on any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.ops.placement import shard_bounds

pytestmark = pytest.mark.mpi

N = 7
RANDOM = np.random.default_rng(3)
ROWS = RANDOM.normal(size=(N, 3)).astype(np.float32)
HOT = np.eye(3, dtype=np.int64)[RANDOM.integers(0, 3, N)]
WHOLE = RANDOM.integers(-50, 50, (N, 3)).astype(np.int8)


def results(comm: Communicator | None) -> list[Any]:
    dt.reset_default_graph()
    dt.set_random_seed(4)
    x, hot = dt.placeholder("float", [None, 3]), dt.placeholder("int64", [None, 3])
    whole, v = dt.placeholder("int8", [None, 3]), dt.Variable(np.ones(3, np.float32))
    losses = dt.nn.softmax_cross_entropy_with_logits(labels=hot, logits=x * v)
    noise = dt.random_normal([3], mean=v, stddev=dt.reduce_mean(x), seed=1)
    spread = dt.random_uniform(dt.shape(x), x - 1, x, seed=2)
    found = [
        losses,
        dt.gradients(losses, v)[0],
        dt.reduce_mean(whole),
        dt.reduce_mean(whole, 0),
        noise,
        spread,
        dt.truncated_normal(dt.shape(x), x, 0.1, seed=3),
        dt.random_uniform([9], dt.reduce_max(dt.cast(whole, "int32")), 100, "int32", seed=4),
        *dt.gradients(dt.reduce_sum(noise * noise) + dt.reduce_sum(spread * spread), [v, x]),
    ]
    step = dt.train.GradientDescentOptimizer(0.1).minimize(dt.reduce_mean(losses), var_list=[v])
    clip = v.assign(dt.minimum(v, 0.5))
    session = dt.Session(comm=comm)
    session.run(dt.global_variables_initializer())

    def feed(rows: np.ndarray) -> Any:
        return rows if comm is None else dt.Shard(rows[slice(*shard_bounds(N, comm.rank, comm.size))], N)

    feeds = {x: feed(ROWS), hot: feed(HOT), whole: feed(WHOLE)}
    return [*session.run(found, feeds), *session.run([step, clip], feeds)[1:], session.run(v)]


def test_values_of_all_forms(comm: Communicator) -> None:
    for a, b in zip(results(comm), results(None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    means = results(comm)[2:4]
    np.testing.assert_array_equal(means[0], np.trunc(WHOLE.mean(dtype=np.float64)))
    np.testing.assert_array_equal(means[1], np.trunc(WHOLE.mean(0, dtype=np.float64)))
