"""Optimizers that pull parameters to 0: tf.train.FtrlOptimizer and the proximal ones."""

from __future__ import annotations

from typing import Any

from dtrain.errors import UsageError
from dtrain.graph.dtypes import float64
from dtrain.graph.graph import Tensor
from dtrain.ops.base import Op
from dtrain.ops.join import stack
from dtrain.ops.math import cast
from dtrain.ops.proximal import (
    ApplyAdagradDA,
    ApplyFtrl,
    ApplyProximalAdagrad,
    ApplyProximalGradientDescent,
)
from dtrain.ops.state import Variable
from dtrain.train.optimizers import Optimizer

__all__ = [
    "AdagradDAOptimizer",
    "FtrlOptimizer",
    "ProximalAdagradOptimizer",
    "ProximalGradientDescentOptimizer",
]


def _strengths(name: str, **strengths: float) -> list[float]:
    for label, value in strengths.items():
        if value < 0:
            raise UsageError(f"{name}: {label} is {value:g}, and has to be 0 or more.")
    return [float(v) for v in strengths.values()]


def _positive(name: str, value: float) -> float:
    if value <= 0:
        raise UsageError(f"{name}: initial_accumulator_value is {value:g}; it has to be positive.")
    return float(value)


class ProximalGradientDescentOptimizer(Optimizer):
    """Gradient descent, then a pull to 0 by L1 and L2 (Duchi & Singer 2009)."""

    def __init__(
        self,
        learning_rate: Any,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        use_locking: bool = False,
        name: str = "ProximalGradientDescent",
    ) -> None:
        super().__init__(learning_rate, name)
        self._strengths = _strengths(name, l1=l1_regularization_strength, l2=l2_regularization_strength)

    def _update(self, count: int) -> Op:
        return ApplyProximalGradientDescent(count, *self._strengths)


class ProximalAdagradOptimizer(Optimizer):
    """Adagrad with a pull to 0 by L1 and L2."""

    slots = ("accumulator",)

    def __init__(
        self,
        learning_rate: Any,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        use_locking: bool = False,
        name: str = "ProximalAdagrad",
    ) -> None:
        super().__init__(learning_rate, name)
        self.starts = {"accumulator": _positive(name, initial_accumulator_value)}
        self._strengths = _strengths(name, l1=l1_regularization_strength, l2=l2_regularization_strength)

    def _update(self, count: int) -> Op:
        return ApplyProximalAdagrad(count, *self._strengths)


class FtrlOptimizer(Optimizer):
    """FTRL-proximal (McMahan et al. 2013), for sparse linear models.

    Raises:
        UsageError: learning_rate_power is above 0, or a strength below.
    """

    slots = ("accum", "linear")

    def __init__(
        self,
        learning_rate: Any,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        use_locking: bool = False,
        name: str = "Ftrl",
        accum_name: str | None = None,
        linear_name: str | None = None,
        l2_shrinkage_regularization_strength: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, name)
        if learning_rate_power > 0:
            raise UsageError(f"{name}: learning_rate_power is {learning_rate_power:g}, and is 0 or less.")
        self.slots = (accum_name or "accum", linear_name or "linear")
        self.starts = {self.slots[0]: _positive(name, initial_accumulator_value)}
        self._power = float(learning_rate_power)
        self._strengths = _strengths(
            name,
            l1=l1_regularization_strength,
            l2=l2_regularization_strength,
            l2_shrinkage=l2_shrinkage_regularization_strength,
        )

    def _update(self, count: int) -> Op:
        return ApplyFtrl(count, self._power, *self._strengths)


class AdagradDAOptimizer(Optimizer):
    """Adagrad by dual averaging (Duchi et al. 2011). global_step: its value is the number of steps before."""

    slots = ("gradient_accumulator", "gradient_squared_accumulator")

    def __init__(
        self,
        learning_rate: Any,
        global_step: Variable,
        initial_gradient_squared_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        use_locking: bool = False,
        name: str = "AdagradDA",
    ) -> None:
        super().__init__(learning_rate, name)
        self._step = global_step
        self.starts = {self.slots[1]: _positive(name, initial_gradient_squared_accumulator_value)}
        self._strengths = _strengths(name, l1=l1_regularization_strength, l2=l2_regularization_strength)

    def _update(self, count: int) -> Op:
        return ApplyAdagradDA(count, *self._strengths)

    def _rate(self) -> Tensor:
        return stack([cast(super()._rate(), float64), cast(self._step, float64) + 1.0])
