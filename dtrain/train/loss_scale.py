"""Loss scaling, so that gradients do not vanish in float16: tf.train.experimental in TensorFlow 1.15.

The loss is multiplied before the backward pass and the gradients are divided after it (Micikevicius et al.
2018). With powers of two this changes no bit of a gradient that neither number holds too large nor too small.

A dynamic scale is two variables of the graph. It grows by operations of the step, after the update, so it is
captured and saved with all else. It falls where a step has overflowed: the session does that, and takes the
same step again (runtime/numerics.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.dtypes import float32, int64
from dtrain.graph.graph import Operation, Tensor, TensorLike, control_dependencies, get_default_graph
from dtrain.names import module_getattr
from dtrain.ops.array import ones_like
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.check import LOSS_SCALES
from dtrain.ops.math import cast, greater_equal, minimum
from dtrain.ops.state import Variable, group
from dtrain.train.optimizers import GradientsAndVariables, Optimizer

__all__ = ["DynamicLossScale", "FixedLossScale", "MixedPrecisionLossScaleOptimizer"]

#: A dynamic scale grows no further: float32's sums of gradients need room above it.
LARGEST = 2.0**24


class FixedLossScale:
    """A loss scale that stays: a step that overflows is an error, where the session checks numbers.

    Raises:
        UsageError: it is no number of at least 1.
    """

    def __init__(self, loss_scale_value: float) -> None:
        self._value = _number("FixedLossScale: loss_scale_value", loss_scale_value)

    def __call__(self) -> Tensor:
        """The scale, a float32 scalar."""
        return convert_to_tensor(self._value, float32)

    def grow(self, update: Operation) -> list[Tensor]:
        """What is to be run after an update: nothing."""
        return []


class DynamicLossScale:
    """A loss scale that grows where steps go well, and falls where one overflows.

    It is multiplied by `multiplier` after each increment_period good steps in a row, up to 2**24 or what it
    begins with. Where the loss or a gradient is not finite nothing is updated: it is divided by `multiplier`,
    down to 1 at the least, and the same step is taken again; at 1 that is a NumericError. A session does so
    with or without check_numerics.

    Its variables, in the default graph, are saved and restored like others.

    scale: float32 scalar. good_steps: int64 scalar, those since the scale changed.

    Raises:
        UsageError: initial_loss_scale is less than 1, increment_period no integer >= 1, or
            multiplier not above 1.
    """

    def __init__(
        self, initial_loss_scale: float = 2**15, increment_period: int = 2000, multiplier: float = 2.0
    ) -> None:
        self.initial_loss_scale = _number("DynamicLossScale: initial_loss_scale", initial_loss_scale)
        self.multiplier = _number("DynamicLossScale: multiplier", multiplier)
        self.increment_period = int(_number("DynamicLossScale: increment_period", increment_period))
        if self.increment_period != increment_period or self.multiplier == 1:
            raise UsageError(
                f"DynamicLossScale: increment_period is {increment_period:g} and multiplier {multiplier:g}; "
                "give a whole number of steps, and more than 1."
            )
        graph = get_default_graph()
        with graph.name_scope(None):
            self.scale = Variable(
                np.float32(self.initial_loss_scale), trainable=False, name="current_loss_scale"
            )
            self.good_steps = Variable(np.int64(0), trainable=False, name="good_steps")
        graph.kept.setdefault(LOSS_SCALES, {})[self.scale.op.name] = self

    def __call__(self) -> Tensor:
        """The scale, a float32 scalar."""
        return self.scale.value()

    def grow(self, update: Operation) -> list[Tensor]:
        """What is to be run after an update: it counts a good step, and grows where there are enough."""
        steps = self.good_steps.value() + 1
        enough = cast(greater_equal(steps, np.int64(self.increment_period)), int64)
        factor = 1 + cast(enough, float32) * (self.multiplier - 1)
        grown = minimum(self.scale.value() * factor, max(LARGEST, self.initial_loss_scale))
        counted = steps * (1 - enough)
        with control_dependencies([update]):
            return [self.scale.assign(grown), self.good_steps.assign(counted)]


class MixedPrecisionLossScaleOptimizer(Optimizer):
    """Another optimizer, whose gradients are computed of a scaled loss.

    compute_gradients gives the gradients of the loss itself, so that clipping means what it says. State and
    names are those of the other optimizer.

    Args:
        opt: the other.
        loss_scale: a DynamicLossScale or FixedLossScale, a number, or "dynamic".

    Raises:
        UsageError: an argument is none of these.
    """

    def __init__(self, opt: Optimizer, loss_scale: Any) -> None:
        if not isinstance(opt, Optimizer):
            raise UsageError(
                f"MixedPrecisionLossScaleOptimizer: {opt!r} is no optimizer of dt.train; give one, such as "
                "dt.train.AdamOptimizer()."
            )
        super().__init__(opt.learning_rate, opt.get_name())
        self._optimizer = opt
        if isinstance(loss_scale, str) and loss_scale != "dynamic":
            raise UsageError(
                f'MixedPrecisionLossScaleOptimizer: loss_scale is {loss_scale!r}; give "dynamic" or a number.'
            )
        if isinstance(loss_scale, str):
            loss_scale = DynamicLossScale()
        elif not isinstance(loss_scale, DynamicLossScale | FixedLossScale):
            loss_scale = FixedLossScale(loss_scale)
        self._loss_scale: DynamicLossScale | FixedLossScale = loss_scale

    def compute_gradients(
        self,
        loss: Tensor,
        var_list: Iterable[Variable] | None = None,
        gate_gradients: int = Optimizer.GATE_OP,
        aggregation_method: Any = None,
        colocate_gradients_with_ops: bool = False,
        grad_loss: Any = None,
    ) -> list[tuple[Tensor | None, Variable]]:
        loss = convert_to_tensor(loss)
        with loss.graph.as_default(), loss.graph.name_scope("loss_scale"):
            scale = self._loss_scale()
            flowing = cast(scale, loss.dtype)
            if grad_loss is not None or loss.shape != ():
                flowing *= ones_like(loss) if grad_loss is None else convert_to_tensor(grad_loss, loss.dtype)
        pairs = self._optimizer.compute_gradients(
            loss, var_list, gate_gradients, aggregation_method, colocate_gradients_with_ops, flowing
        )
        with loss.graph.as_default(), loss.graph.name_scope("loss_scale"):
            # each rank divides its own term of a gradient, so that all are summed in one bucket as ever;
            # divides, since where tiny numbers count as zero so would the reciprocal of a large scale
            return [(None if g is None else g / cast(scale, g.dtype), v) for g, v in pairs]

    def apply_gradients(
        self,
        grads_and_vars: GradientsAndVariables,
        global_step: Variable | None = None,
        name: str | None = None,
    ) -> Operation:
        updated = self._optimizer.apply_gradients(grads_and_vars, global_step, name)
        with updated.graph.as_default():
            return group(updated, self._loss_scale.grow(updated), name=name or self.name)

    def get_slot(self, variable: Variable, name: str) -> Variable | None:
        return self._optimizer.get_slot(variable, name)

    def get_slot_names(self) -> list[str]:
        return self._optimizer.get_slot_names()

    def variables(self) -> list[Variable]:
        return self._optimizer.variables()


def _number(what: str, value: Any) -> float:
    """A number of at least 1."""
    if isinstance(value, TensorLike) or not isinstance(value, int | float | np.number):
        raise UsageError(f"{what} is {value!r}; give a number.")
    if not (math.isfinite(value) and value >= 1):
        raise UsageError(f"{what} is {value:g}; give a number >= 1.")
    return float(value)


__getattr__ = module_getattr("tf.train.experimental")
