"""Gradients by parts of the parameter: where they pay, and with the bits of one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm.mpi import MPICommunicator
from dtrain.native import code, compiler
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(
        not compiler.command() or not code._product().fast, reason="needs a C compiler and AVX2 or AVX-512"
    ),
]


def network(make: Callable[[], Any]) -> tuple[list[Any], Any, Any]:
    """Two layers of which the first is large: what a step fetches, and what it is fed."""
    dt.set_random_seed(3)
    x, y = dt.placeholder("float32", [None, 75]), dt.placeholder("float32", [None, 5])
    h = dt.nn.relu(dt.matmul(x * 0.5, dt.Variable(dt.random_normal([75, 61]), name="large")) + 0.1)
    out = dt.matmul(h, dt.Variable(dt.random_normal([61, 5]), name="small"))
    loss = dt.reduce_mean(dt.square(out - y))
    return [loss, make().minimize(loss)], x, y


def descent() -> Any:
    return dt.train.GradientDescentOptimizer(0.1)


def train(
    comm: MPICommunicator | None, batches: list[int], make: Callable[[], Any]
) -> tuple[dt.Session, list[Any]]:
    """Values of the variables after each step."""
    with dt.Graph().as_default():
        fetches, x, y = network(make)
        session = dt.Session(comm=comm, device=Backend("c"))
        session.run(dt.global_variables_initializer())
        values = []
        for seed, total in enumerate(batches):
            generator = np.random.default_rng(seed)
            images = generator.standard_normal((total, 75)) * (generator.random((total, 75)) < 0.3)
            low, high = shard_bounds(total, comm.rank, comm.size) if comm else (0, total)
            rows, targets = images.astype("f")[low:high], np.ones((high - low, 5), "f")
            session.run(fetches, {x: dt.Shard(rows, total), y: dt.Shard(targets, total)})
            values.append(session.run(dt.trainable_variables()))
        return session, values


def exchanged(session: dt.Session) -> list[int]:
    """How many products each plan that trains computes by parts of the parameter."""
    plans = [p for p in session.plans.values() if any(n.type.startswith("Apply") for n in p.nodes)]
    return [sum(n.type == "RowsOfProduct" for n in p.kernel_nodes) for p in plans]


@pytest.mark.parametrize("total, products", [(4, 2), (7, 1), (25, 1)])
def test_a_step_has_the_bits_of_one_rank(comm: MPICommunicator, total: int, products: int) -> None:
    """Of weights whose gradient is exchanged; the others' terms are added up in another order."""
    session, (many,) = train(comm, [total], descent)
    _, (one,) = train(None, [total], descent)
    assert exchanged(session) == [products]
    np.testing.assert_array_equal(many[0], one[0])
    np.testing.assert_allclose(many[1], one[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: dt.train.AdamOptimizer(0.01), lambda: dt.train.MomentumOptimizer(0.01, 0.9)]
)
def test_training_is_that_of_one_rank(comm: MPICommunicator, make: Callable[[], Any]) -> None:
    batches = [25, 25, 4, 31, 25, 1] * 3
    session, many = train(comm, batches, make)
    _, one = train(None, batches, make)
    assert sorted(exchanged(session)) == [0, 1, 1, 2]  # the second for batches of 4; of 1 each rank has all
    for a, b in zip(many[-1], one[-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_large_batch_is_summed(comm: MPICommunicator) -> None:
    """75 x 61 numbers are fewer than a batch of 40 has on both sides."""
    session, (many,) = train(comm, [40], descent)
    _, (one,) = train(None, [40], descent)
    assert exchanged(session) == [0]
    np.testing.assert_allclose(many[0], one[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lacking", ["bucket", "shared"])
def test_without_room_to_share_all_ranks_sum(
    comm: MPICommunicator, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For gradients, or for parameters."""
    comm = MPICommunicator()
    monkeypatch.setattr(comm, lacking, lambda nbytes: None)
    session, many = train(comm, [7, 25, 7], lambda: dt.train.AdamOptimizer(0.01))
    _, one = train(None, [7, 25, 7], lambda: dt.train.AdamOptimizer(0.01))
    assert exchanged(session) == [0, 0]
    assert not any(n.type == "NodeBarrier" for p in session.plans.values() for n in p.nodes)
    assert len(comm._buckets) == (2 if lacking == "shared" else 0)
    for a, b in zip(many[-1], one[-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variable", [0, 1])
def test_a_gradient_that_is_fetched_is_whole(comm: MPICommunicator, variable: int) -> None:
    """Of the small one the sum is one of the few that each rank adds up for itself."""
    for which in (comm, None):
        with dt.Graph().as_default():
            (loss, step), x, y = network(descent)
            gradient = dt.gradients(loss, [dt.trainable_variables()[variable]])[0]
            session = dt.Session(comm=which, device=Backend("c"))
            session.run(dt.global_variables_initializer())
            rows = np.random.default_rng(0).standard_normal((10, 75)).astype("f")
            low, high = shard_bounds(10, which.rank, which.size) if which else (0, 10)
            feeds = {x: dt.Shard(rows[low:high], 10), y: dt.Shard(np.ones((high - low, 5), "f"), 10)}
            found = session.run([gradient, step], feeds)[0]
            if which:
                many = found
    np.testing.assert_allclose(many, found, rtol=1e-5, atol=1e-6)
