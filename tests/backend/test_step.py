"""One training step on each device against the same step written out in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import EnvironmentProblem
from dtrain.runtime.backend import Backend, make_backend


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=[pytest.mark.gpu, pytest.mark.timeout(300)])])
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return make_backend(request.param, local_rank=0)
    except EnvironmentProblem as error:
        pytest.skip(str(error))


def by_hand(
    parameters: list[np.ndarray], images: np.ndarray, labels: np.ndarray, rate: float
) -> tuple[list[np.ndarray], float]:
    """One step of gradient descent on relu(x w1 + b1) w2 + b2 with softmax cross entropy."""
    w1, b1, w2, b2 = parameters
    x = images / 255
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    shifted = logits - logits.max(1, keepdims=True)
    rows = np.arange(len(x))
    total = np.exp(shifted).sum(1)
    loss = (np.log(total) - shifted[rows, labels]).mean()
    delta = np.exp(shifted) / total[:, None]
    delta[rows, labels] -= 1
    delta /= len(x)
    back = (delta @ w2.T) * (hidden > 0)
    gradients = [x.T @ back, back.sum(0), hidden.T @ delta, delta.sum(0)]
    return [p - rate * g for p, g in zip(parameters, gradients, strict=True)], float(loss)


def test_steps_are_those_written_by_hand(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (50, 13), np.uint8)
    classes = rng.integers(0, 5, 50).astype(np.int32)
    indices = dt.placeholder("int32", [None])
    x = dt.cast(dt.gather(dt.constant(pool), indices), "float32") * (1 / 255)
    w1 = dt.Variable(dt.truncated_normal([13, 7]))
    b1 = dt.Variable(dt.zeros([7]))
    w2 = dt.Variable(dt.random_normal([7, 5]))
    b2 = dt.Variable(dt.random_uniform([5]))
    logits = dt.matmul(dt.nn.relu(dt.matmul(x, w1) + b1), w2) + b2
    each = dt.nn.sparse_softmax_cross_entropy_with_logits(
        labels=dt.gather(dt.constant(classes), indices), logits=logits
    )
    loss = dt.reduce_mean(each)
    step = dt.train.GradientDescentOptimizer(0.5).minimize(loss)
    variables = [w1, b1, w2, b2]
    session = dt.Session(comm=None, device=backend)
    session.run(dt.global_variables_initializer())
    wanted = [v.astype(np.float64) for v in session.run(variables)]
    for size in (10, 10, 3, 1):  # another size is another plan
        chosen = rng.integers(0, 50, size).astype(np.int32)
        value, _ = session.run([loss, step], {indices: chosen})
        wanted, wanted_loss = by_hand(wanted, pool[chosen], classes[chosen], 0.5)
        assert value == pytest.approx(wanted_loss, rel=1e-5)
    for value, reference in zip(session.run(variables), wanted, strict=True):
        np.testing.assert_allclose(value, reference, atol=2e-6)


def test_initial_values_do_not_depend_on_the_device(backend: Backend) -> None:
    dt.set_random_seed(3)
    makers = (dt.random_normal, dt.truncated_normal, dt.random_uniform)
    variables = [dt.Variable(make([4, 3])) for make in makers]
    values = []
    for device in (backend, Backend()):
        session = dt.Session(comm=None, device=device)
        session.run(dt.global_variables_initializer())
        values.append(session.run(variables))
    for a, b in zip(*values, strict=True):
        np.testing.assert_array_equal(a, b)
