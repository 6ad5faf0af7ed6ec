"""Learning-rate schedules against TensorFlow 1's formulas in NumPy, and the global step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import UsageError

train = dt.train


def polynomial(step: float, power: float, cycle: bool) -> float:
    steps = 10.0
    if cycle:
        steps *= max(np.ceil(step / steps), 1)
    else:
        step = min(step, steps)
    return (0.5 - 0.1) * (1 - step / steps) ** power + 0.1


def restarts(step: float, t_mul: float, m_mul: float, alpha: float) -> float:
    start, length, rate = 0.0, 10.0, 0.5
    while step >= start + length:
        start, length, rate = start + length, length * t_mul, rate * m_mul
    return (1 - alpha) * rate * 0.5 * (1 + np.cos(np.pi * (step - start) / length)) + 0.5 * alpha


#: What makes the schedule from a step tensor, and what it should be at a step.
CASES: dict[str, tuple[Callable[[Any], dt.Tensor], Callable[[int], float]]] = {
    "exponential": (lambda s: train.exponential_decay(0.5, s, 10, 0.9), lambda s: 0.5 * 0.9 ** (s / 10)),
    "exponential, stairs": (
        lambda s: train.exponential_decay(0.5, s, 10, 0.9, staircase=True),
        lambda s: 0.5 * 0.9 ** (s // 10),
    ),
    "natural": (
        lambda s: train.natural_exp_decay(0.5, s, 10, 0.9),
        lambda s: 0.5 * np.exp(-0.9 * s / 10),
    ),
    "natural, stairs": (
        lambda s: train.natural_exp_decay(0.5, s, 10, 0.9, True),
        lambda s: 0.5 * np.exp(-0.9 * (s // 10)),
    ),
    "inverse": (lambda s: train.inverse_time_decay(0.5, s, 10, 0.9), lambda s: 0.5 / (1 + 0.9 * s / 10)),
    "inverse, stairs": (
        lambda s: train.inverse_time_decay(0.5, s, 10, 0.9, True),
        lambda s: 0.5 / (1 + 0.9 * (s // 10)),
    ),
    "polynomial": (lambda s: train.polynomial_decay(0.5, s, 10, 0.1), lambda s: polynomial(s, 1, False)),
    "polynomial, squared": (
        lambda s: train.polynomial_decay(0.5, s, 10, 0.1, 2.0),
        lambda s: polynomial(s, 2, False),
    ),
    "polynomial, cycle": (
        lambda s: train.polynomial_decay(0.5, s, 10, 0.1, cycle=True),
        lambda s: polynomial(s, 1, True),
    ),
    "cosine": (
        lambda s: train.cosine_decay(0.5, s, 10, 0.2),
        lambda s: 0.5 * (0.8 * 0.5 * (1 + np.cos(np.pi * min(s, 10) / 10)) + 0.2),
    ),
    "restarts": (lambda s: train.cosine_decay_restarts(0.5, s, 10), lambda s: restarts(s, 2, 1, 0)),
    "restarts of one length": (
        lambda s: train.cosine_decay_restarts(0.5, s, 10, 1.0, 0.7, 0.1),
        lambda s: restarts(s, 1, 0.7, 0.1),
    ),
    "piecewise": (
        lambda s: train.piecewise_constant(s, [3, 12], [0.5, 0.25, 0.125]),
        lambda s: 0.5 if s <= 3 else 0.25 if s <= 12 else 0.125,
    ),
    "one piece": (lambda s: train.piecewise_constant(s, [], [0.5]), lambda s: 0.5),
}

STEPS = [0, 1, 3, 4, 9, 10, 11, 12, 13, 20, 21, 29, 40, 55]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("name", CASES)
def test_the_rate_at_a_step(name: str, dtype: Any) -> None:
    make, right = CASES[name]
    step = dt.placeholder(dtype, [])
    rate = make(step)
    assert rate.dtype == dt.float32 and rate.shape == ()
    run = dt.Session(comm=None).make_callable(rate, [step])
    # where a period ends, rounding decides which side the restarts are on
    steps = [s for s in STEPS if name != "restarts" or s not in (10, 30)]
    np.testing.assert_allclose([run(dtype(s)) for s in steps], [right(s) for s in steps], rtol=2e-6)


def test_a_step_uses_the_rate_of_the_count_before_it() -> None:
    step = train.get_or_create_global_step()
    rate = train.piecewise_constant(step, [0, 1], [1.0, 10.0, 100.0])
    v = dt.Variable([0.0])
    minimize = train.GradientDescentOptimizer(rate).minimize(dt.reduce_sum(v), global_step=step)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    values = []
    for _ in range(4):
        session.run(minimize)
        values.append(float(session.run(v)[0]))
    assert values == [-1, -11, -111, -211]
    assert train.global_step(session, step) == 4


@pytest.mark.parametrize("name", ["AdamOptimizer", "AdaMaxOptimizer", "NadamOptimizer", "RMSPropOptimizer"])
def test_every_optimizer_takes_a_schedule(name: str) -> None:
    """A rate of 0 from the second step on stops it."""
    step = train.create_global_step()
    v = dt.Variable(np.array([2.0]))
    rate = train.piecewise_constant(step, [0], [0.125, 0.0])
    minimize = getattr(train, name)(rate).minimize(dt.reduce_sum(v), global_step=step)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run(minimize)
    first = session.run(v)
    assert first[0] < 2
    session.run(minimize)
    assert session.run(v) == first


def test_a_schedule_may_be_made_of_tensors_and_float64() -> None:
    step, start = dt.placeholder("int64", []), dt.constant(np.float64(0.5))
    rates = [
        train.exponential_decay(start, step, dt.constant(10), dt.constant(0.5)),
        train.piecewise_constant(step, [2], [start, start / 2]),
    ]
    assert [r.dtype for r in rates] == [dt.float64, dt.float64]
    assert dt.Session(comm=None).run(rates, {step: 20}) == [0.125, 0.25]


def test_refusals() -> None:
    with pytest.raises(UsageError, match="needs a global_step"):
        train.exponential_decay(0.1, None, 10, 0.9)
    with pytest.raises(UsageError, match="2 boundaries make 3 pieces, but there are 2 values"):
        train.piecewise_constant(dt.constant(1), [1, 2], [0.1, 0.2])


# -- the global step -----------------------------------------------------------------------------------------
def test_the_global_step_is_made_once() -> None:
    assert train.get_global_step() is None
    with dt.name_scope("anywhere"):
        step = train.get_or_create_global_step()
    assert train.get_or_create_global_step() is step and train.get_global_step() is step
    assert step.op.name == "global_step" and step.dtype == dt.int64
    assert step not in dt.trainable_variables()
    with pytest.raises(UsageError, match="already"):
        train.create_global_step()
    other = dt.Graph()
    assert train.get_global_step(other) is None
    assert train.create_global_step(other).graph is other


def test_a_variable_of_this_name_is_the_global_step() -> None:
    step = dt.Variable(0, trainable=False, name="global_step")
    assert train.get_global_step() is step


def test_a_global_step_is_a_number() -> None:
    dt.Variable([0.5], trainable=False, name="global_step")
    with pytest.raises(UsageError, match="has to be a scalar number"):
        train.get_global_step()
