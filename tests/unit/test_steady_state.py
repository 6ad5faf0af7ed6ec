"""A training step in the steady state: nothing is looked up, allocated or compiled any more."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.ops.memory import aligned
from dtrain.runtime.backend import Backend
from dtrain.task.models import mlp

BATCH = 1000  # the smallest tensor that depends on it takes 4 kB, a layer's output 1 MB


@pytest.fixture(params=["numpy", "c"])
def step(request: Any) -> tuple[dt.Session, Any, list[np.ndarray]]:
    """A session on the 784-256-256-10 MLP with Adam, what runs a step, and its feeds."""
    dt.set_random_seed(1)
    x, labels = dt.placeholder("float", [None, 784]), dt.placeholder("int32", [None])
    losses = dt.nn.sparse_softmax_cross_entropy_with_logits(
        labels=labels, logits=mlp(x, dt.constant(1.0), (784,), 10)
    )
    loss = dt.reduce_mean(losses)
    train = dt.train.AdamOptimizer().minimize(loss)
    session = dt.Session(comm=None, device=Backend(request.param))
    session.run(dt.global_variables_initializer())
    generator = np.random.default_rng(1)
    feeds = [generator.random((BATCH, 784), np.float32), generator.integers(0, 10, BATCH).astype(np.int32)]
    return session, session.make_callable([loss, train], [x, labels]), feeds


def test_a_step_allocates_nothing_that_stays_and_nothing_big(step: Any) -> None:
    _, call, feeds = step
    for _ in range(3):
        call(*feeds)
    gc.collect()
    tracemalloc.start()
    try:
        call(*feeds)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(20):
            call(*feeds)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 15_000  # what the interpreter keeps for reuse: less than 1 kB a step
    assert peak - after < 36_000  # NumPy broadcasts a bias through a buffer of 32 kB


def test_a_step_is_the_kernels_that_the_mathematics_needs(step: Any) -> None:
    session, call, feeds = step
    call(*feeds)
    plan = list(session.plans.values())[-1]
    found = Counter(node.type for node in plan.kernel_nodes)
    always = {
        "MatMul": 3 + 3 + 2,  # forward; to the weights; to the activations, but not to the images
        "SparseSoftmaxCrossEntropy": 1,
        "ApplyAdam": 1,
        "Assign": 2,  # Adam's powers
        "HasBad": 1,
        "StopIfBad": 1,
    }
    if session.backend.kernels == "numpy":
        sums = 3 + 1  # to the biases; the loss
        assert found == always | {
            "Add": 1,
            "Fused": 2 + 1,
            "ReluGrad": 2,
            "Sum": sums,
            "RealDiv": 1,
            "Mul": 3,
            "Sub": 1,
        }
    else:
        # bias and ReLU, twice; ReLU's gradient and the sum to the bias, twice; the loss's and the last bias's
        assert found == always | {"Add": 1, "Fused": 2 + 2 + 1 + 1, "Sum": 1, "Mul": 2}
        assert len(plan.calls) == 1


def test_a_step_takes_no_more_memory_than_its_tensors_need(step: Any) -> None:
    session, call, feeds = step
    call(*feeds)
    plan = list(session.plans.values())[-1]
    parameters = [784 * 256, 256, 256 * 256, 256, 256 * 10, 10]
    assert plan.packed_bytes == sum(aligned(4 * n) for n in parameters)
    images, hidden = 4 * BATCH * 784, 4 * BATCH * 256
    assert plan.arena_bytes < images + 3 * hidden + 16 * BATCH * 10 + 2000
