"""Learning rates that change with the step, as scalars of the graph: give one to an optimizer.

    step = dt.train.get_or_create_global_step()
    rate = dt.train.exponential_decay(0.1, step, decay_steps=1000, decay_rate=0.96)
    train = dt.train.GradientDescentOptimizer(rate).minimize(loss, global_step=step)

A step uses the rate of the count before it. The result has the learning rate's dtype, float32 for a Python
number, and the step is counted in it. Every argument but the switches may be a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.graph import Tensor, TensorLike, get_default_graph
from dtrain.ops import functions, math
from dtrain.ops.array import identity
from dtrain.ops.base import convert_to_tensor


def exponential_decay(
    learning_rate: Any,
    global_step: Any,
    decay_steps: Any,
    decay_rate: Any,
    staircase: bool = False,
    name: str | None = None,
) -> Tensor:
    """learning_rate * decay_rate ** (global_step / decay_steps).

    Args:
        learning_rate: the rate at step 0, a number or scalar tensor.
        global_step: the step, an integer scalar tensor.
        decay_steps: steps in which the rate decays by decay_rate.
        decay_rate: a number or scalar tensor.
        staircase: whether the exponent is rounded down.
        name: name of the operation.

    Returns:
        Tensor: a scalar, for an optimizer's learning_rate.

    Example:
        >>> rate = dt.train.exponential_decay(0.5, dt.constant(20), 10, 0.5)
        >>> print(dt.Session().run(rate))
        0.125
    """

    def rate(start: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        return start * math.pow(_like(start, decay_rate), _periods(step, steps, staircase))

    return _schedule(name or "ExponentialDecay", learning_rate, global_step, decay_steps, rate)


def natural_exp_decay(
    learning_rate: Any,
    global_step: Any,
    decay_steps: Any,
    decay_rate: Any,
    staircase: bool = False,
    name: str | None = None,
) -> Tensor:
    """learning_rate * exp(-decay_rate * global_step / decay_steps).

    Args:
        learning_rate: the rate at step 0, a number or scalar tensor.
        global_step: the step, an integer scalar tensor.
        decay_steps: unit of the steps.
        decay_rate: a number or scalar tensor.
        staircase: whether global_step / decay_steps is rounded down.
        name: name of the operation.

    Returns:
        Tensor: a scalar, for an optimizer's learning_rate.
    """

    def rate(start: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        return start * math.exp(_like(start, decay_rate) * -_periods(step, steps, staircase))

    return _schedule(name or "NaturalExpDecay", learning_rate, global_step, decay_steps, rate)


def inverse_time_decay(
    learning_rate: Any,
    global_step: Any,
    decay_steps: Any,
    decay_rate: Any,
    staircase: bool = False,
    name: str | None = None,
) -> Tensor:
    """learning_rate / (1 + decay_rate * global_step / decay_steps).

    Args:
        learning_rate: the rate at step 0, a number or scalar tensor.
        global_step: the step, an integer scalar tensor.
        decay_steps: unit of the steps.
        decay_rate: a number or scalar tensor.
        staircase: whether global_step / decay_steps is rounded down.
        name: name of the operation.

    Returns:
        Tensor: a scalar, for an optimizer's learning_rate.
    """

    def rate(start: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        return start / (1 + _like(start, decay_rate) * _periods(step, steps, staircase))

    return _schedule(name or "InverseTimeDecay", learning_rate, global_step, decay_steps, rate)


def polynomial_decay(
    learning_rate: Any,
    global_step: Any,
    decay_steps: Any,
    end_learning_rate: Any = 0.0001,
    power: Any = 1.0,
    cycle: bool = False,
    name: str | None = None,
) -> Tensor:
    """(learning_rate - end_learning_rate) * (1 - global_step / decay_steps) ** power + end_learning_rate.

    Args:
        learning_rate: the rate at step 0, a number or scalar tensor.
        global_step: the step, an integer scalar tensor.
        decay_steps: steps of the decay; after them the rate stays at the end.
        end_learning_rate: the rate at the end.
        power: the exponent; 1 is linear.
        cycle: whether the decay starts again at the end, each time up to the next multiple of decay_steps
            counted from 0.
        name: name of the operation.

    Returns:
        Tensor: a scalar, for an optimizer's learning_rate.
    """

    def rate(start: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        if cycle:
            steps = steps * math.maximum(functions.ceil(step / steps), 1)
        else:
            step = math.minimum(step, steps)
        end = _like(start, end_learning_rate)
        return (start - end) * math.pow(1 - step / steps, _like(start, power)) + end

    return _schedule(name or "PolynomialDecay", learning_rate, global_step, decay_steps, rate)


def cosine_decay(
    learning_rate: Any, global_step: Any, decay_steps: Any, alpha: Any = 0.0, name: str | None = None
) -> Tensor:
    """Half a cosine from learning_rate down to alpha * learning_rate (Loshchilov & Hutter 2017).

    Args:
        learning_rate: the rate at step 0, a number or scalar tensor.
        global_step: the step, an integer scalar tensor.
        decay_steps: steps of the decay.
        alpha: the last rate as a fraction of the first.
        name: name of the operation.

    Returns:
        Tensor: a scalar, for an optimizer's learning_rate.
    """

    def rate(start: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        return start * _cosine(math.minimum(step, steps) / steps, _like(start, alpha))

    return _schedule(name or "CosineDecay", learning_rate, global_step, decay_steps, rate)


def cosine_decay_restarts(
    learning_rate: Any,
    global_step: Any,
    first_decay_steps: Any,
    t_mul: float = 2.0,
    m_mul: Any = 1.0,
    alpha: Any = 0.0,
    name: str | None = None,
) -> Tensor:
    """cosine_decay with restarts (SGDR, Loshchilov & Hutter 2017).

    Args:
        learning_rate: the rate at step 0, a number or scalar tensor.
        global_step: the step, an integer scalar tensor.
        first_decay_steps: steps of the first period.
        t_mul: each period is t_mul times as long as the one before; a number.
        m_mul: each period starts at m_mul times the rate of the one before.
        alpha: the last rate of each period as a fraction of learning_rate.
        name: name of the operation.

    Returns:
        Tensor: a scalar, for an optimizer's learning_rate.
    """

    def rate(start: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        done = step / steps  # in first periods
        if t_mul == 1.0:
            period = functions.floor(done)
            fraction = done - period
        else:
            # period i starts at (t_mul**i - 1) / (t_mul - 1) first periods and is t_mul**i of them long
            period = functions.floor(math.log(1 - done * (1 - t_mul)) * (1 / float(np.log(t_mul))))
            length = math.pow(_like(start, t_mul), period)
            fraction = (done - (1 - length) * (1 / (1 - t_mul))) / length
        return start * _cosine(fraction, _like(start, alpha), math.pow(_like(start, m_mul), period))

    return _schedule(name or "SGDRDecay", learning_rate, global_step, first_decay_steps, rate)


def piecewise_constant(
    x: Any, boundaries: Sequence[Any], values: Sequence[Any], name: str | None = None
) -> Tensor:
    """values[0] where x <= boundaries[0], values[i] where boundaries[i-1] < x <= boundaries[i], and so on.

    Args:
        x: a scalar tensor, such as the global step.
        boundaries: ascending numbers of the dtype of x.
        values: numbers, one more than boundaries.
        name: name of the operation.

    Returns:
        Tensor: a scalar, for an optimizer's learning_rate.

    Raises:
        UsageError: there are not as many values as pieces.
    """
    if len(boundaries) != len(values) - 1:
        raise UsageError(
            f"piecewise_constant: {len(boundaries)} boundaries make {len(boundaries) + 1} pieces, but there "
            f"are {len(values)} values: give one for each."
        )
    with get_default_graph().name_scope(name or "PiecewiseConstant"):
        x = convert_to_tensor(x)
        first = convert_to_tensor(values[0])
        limits = [convert_to_tensor(b, x.dtype) for b in boundaries]
        result = first
        for limit, value in zip(limits, values[1:], strict=True):
            passed = math.cast(math.greater(x, limit), first.dtype)
            result = result * (1 - passed) + _like(first, value) * passed  # exact: one of the factors is 0
        return identity(result)


def linear_cosine_decay(
    learning_rate: Any,
    global_step: Any,
    decay_steps: Any,
    num_periods: Any = 0.5,
    alpha: Any = 0.0,
    beta: Any = 0.001,
    name: str | None = None,
) -> Tensor:
    """A line down to alpha times num_periods cosines, plus beta; times learning_rate (Bello et al. 2017)."""

    def rate(start: Tensor, step: Tensor, steps: Tensor) -> Tensor:
        done = math.minimum(step, steps) / steps
        wave = 0.5 * (1.0 + functions.cos(np.pi * 2.0 * _like(start, num_periods) * done))
        return start * ((_like(start, alpha) + 1.0 - done) * wave + _like(start, beta))

    return _schedule(name or "LinearCosineDecay", learning_rate, global_step, decay_steps, rate)


def _schedule(
    name: str,
    learning_rate: Any,
    global_step: Any,
    decay_steps: Any,
    rate: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """rate(learning rate, step, steps), all three scalars of one floating dtype, under a name."""
    if global_step is None:
        raise UsageError(f"{name} needs a global_step: dt.train.get_or_create_global_step() makes one.")
    with get_default_graph().name_scope(name):
        start = convert_to_tensor(learning_rate, name="learning_rate")
        return rate(start, _like(start, global_step), _like(start, decay_steps))


def _like(start: Tensor, value: Any) -> Tensor:
    """A number or tensor in the dtype of start."""
    if isinstance(value, TensorLike):
        return math.cast(value, start.dtype)
    return convert_to_tensor(value, start.dtype)


def _periods(step: Tensor, steps: Tensor, staircase: bool) -> Tensor:
    return functions.floor(step / steps) if staircase else step / steps


def _cosine(fraction: Tensor, alpha: Tensor, height: Any = 1.0) -> Tensor:
    """From about `height` (exactly at alpha 0) at a fraction of 0 to alpha at 1."""
    return (1 - alpha) * (0.5 * height * (1 + functions.cos(fraction * float(np.pi)))) + alpha
