"""Updates that scale the step of each element by its own past gradients.

S. Ruder, An overview of gradient descent optimization algorithms (2016), tells how they follow from one
another; the form of each is TensorFlow 1's where the two differ. As in ops/update, one op is one flat pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.ops.base import Array, register
from dtrain.ops.update import _Update


def _above_zero(value: float, like: Array) -> float:
    """value, or the smallest normal number where it is 0: the padding between tensors must not be 0/0."""
    return max(value, float(np.finfo(like.dtype).tiny))


@register
class ApplyAdagrad(_Update):
    """Adagrad (Duchi et al. 2011): accumulator += g²; variable -= rate g / sqrt(accumulator + epsilon).

    epsilon is 0 in TensorFlow 1.
    """

    count: int
    epsilon: float
    slots = 1

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"s0 = s0 + g * g; const {{T}} root = dt_sqrt(s0 + ({{T}}){self.epsilon});"
            "p = p - g / dt_above_zero({T}, root) * rate;"
        )

    def update(
        self, xp: Any, variable: Array, gradient: Array, accum: Array, rate: Array, work: Array
    ) -> None:
        xp.square(gradient, work)
        xp.add(accum, work, accum)
        xp.add(accum, self.epsilon, work)
        xp.sqrt(work, work)
        xp.maximum(work, _above_zero(0.0, work), out=work)  # the padding is 0
        xp.divide(gradient, work, work)
        xp.multiply(work, rate, work)
        xp.subtract(variable, work, variable)


@register
class ApplyAdadelta(_Update):
    """Adadelta (Zeiler 2012), its algorithm 1 with a learning rate, which is 1 in the paper.

    accum = rho accum + (1 - rho) g²; step = g sqrt(accum_update + epsilon) / sqrt(accum + epsilon);
    accum_update = rho accum_update + (1 - rho) step²; variable -= rate step.
    """

    count: int
    rho: float
    epsilon: float
    slots = 2
    scratches = 2

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"const {{T}} epsilon = dt_above_zero({{T}}, {self.epsilon});"
            f"s0 = s0 * ({{T}}){self.rho} + g * g * ({{T}}){1 - self.rho};"
            "const {T} step = dt_sqrt(s1 + epsilon) / dt_sqrt(s0 + epsilon) * g;"
            f"s1 = s1 * ({{T}}){self.rho} + step * step * ({{T}}){1 - self.rho};"
            "p = p - step * rate;"
        )

    def update(
        self,
        xp: Any,
        variable: Array,
        gradient: Array,
        accum: Array,
        accum_update: Array,
        rate: Array,
        step: Array,
        work: Array,
    ) -> None:
        epsilon = _above_zero(self.epsilon, work)
        xp.square(gradient, work)
        xp.multiply(work, 1 - self.rho, work)
        xp.multiply(accum, self.rho, accum)
        xp.add(accum, work, accum)
        xp.add(accum, epsilon, work)
        xp.sqrt(work, work)
        xp.add(accum_update, epsilon, step)
        xp.sqrt(step, step)
        xp.divide(step, work, step)
        xp.multiply(step, gradient, step)
        xp.square(step, work)
        xp.multiply(work, 1 - self.rho, work)
        xp.multiply(accum_update, self.rho, accum_update)
        xp.add(accum_update, work, accum_update)
        xp.multiply(step, rate, work)
        xp.subtract(variable, work, variable)


def _rms_step(
    op: Any, xp: Any, variable: Array, gradient: Array, moment: Array, rate: Array, work: Array
) -> None:
    """moment = momentum moment + rate g / sqrt(work + epsilon); variable -= moment."""
    xp.add(work, _above_zero(op.epsilon, work), work)
    xp.sqrt(work, work)
    xp.divide(gradient, work, work)
    xp.multiply(work, rate, work)
    xp.multiply(moment, op.momentum, moment)
    xp.add(moment, work, moment)
    xp.subtract(variable, moment, variable)


def _rms_step_c(op: Any) -> str:
    """_rms_step for one entry, the moment being s1."""
    return (
        f"s1 = s1 * ({{T}}){op.momentum} + g / dt_sqrt(work + dt_above_zero({{T}}, {op.epsilon})) * rate;"
        "p = p - s1;"
    )


@register
class ApplyRMSProp(_Update):
    """RMSProp (Tieleman & Hinton, Coursera lecture 6.5, 2012), with momentum on the scaled gradient.

    rms = decay rms + (1 - decay) g²; moment = momentum moment + rate g / sqrt(rms + epsilon);
    variable -= moment.
    """

    count: int
    decay: float
    momentum: float
    epsilon: float
    slots = 2

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"s0 = s0 * ({{T}}){self.decay} + g * g * ({{T}}){1 - self.decay}; const {{T}} work = s0;"
            f"{_rms_step_c(self)}"
        )

    def update(
        self,
        xp: Any,
        variable: Array,
        gradient: Array,
        rms: Array,
        moment: Array,
        rate: Array,
        work: Array,
    ) -> None:
        xp.square(gradient, work)
        xp.multiply(work, 1 - self.decay, work)
        xp.multiply(rms, self.decay, rms)
        xp.add(rms, work, rms)
        xp.copyto(work, rms)
        _rms_step(self, xp, variable, gradient, moment, rate, work)


@register
class ApplyCenteredRMSProp(_Update):
    """RMSProp by the gradient's variance (Graves 2013, equations 38 to 45): rms - mean² in place of rms."""

    count: int
    decay: float
    momentum: float
    epsilon: float
    slots = 3

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"s0 = s0 * ({{T}}){self.decay} + g * g * ({{T}}){1 - self.decay};"
            f"s2 = s2 * ({{T}}){self.decay} + g * ({{T}}){1 - self.decay};"
            "const {T} variance = s0 - s2 * s2, work = variance < 0 ? 0 : variance;"
            f"{_rms_step_c(self)}"
        )

    def update(
        self,
        xp: Any,
        variable: Array,
        gradient: Array,
        rms: Array,
        moment: Array,
        mean: Array,
        rate: Array,
        work: Array,
    ) -> None:
        xp.square(gradient, work)
        xp.multiply(work, 1 - self.decay, work)
        xp.multiply(rms, self.decay, rms)
        xp.add(rms, work, rms)
        xp.multiply(gradient, 1 - self.decay, work)
        xp.multiply(mean, self.decay, mean)
        xp.add(mean, work, mean)
        xp.square(mean, work)
        xp.subtract(rms, work, work)
        xp.maximum(work, 0, out=work)  # rounding may make a variance of 0 negative, and its root a NaN
        _rms_step(self, xp, variable, gradient, moment, rate, work)


@register
class ApplyAdaMax(_Update):
    """AdaMax (Kingma & Ba 2015, section 7.1): rate comes with the bias correction.

    m = beta1 m + (1 - beta1) g; v = max(beta2 v, |g|); variable -= rate m / (v + epsilon).
    """

    count: int
    beta1: float
    beta2: float
    epsilon: float
    slots = 2

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"s0 = s0 * ({{T}}){self.beta1} + g * ({{T}}){1 - self.beta1};"
            f"const {{T}} size = g < 0 ? -g : g, before = s1 * ({{T}}){self.beta2};"
            "s1 = before < size || size != size ? size : before;"
            f"p = p - s0 / (s1 + dt_above_zero({{T}}, {self.epsilon})) * rate;"
        )

    def update(
        self, xp: Any, variable: Array, gradient: Array, m: Array, v: Array, rate: Array, work: Array
    ) -> None:
        xp.multiply(gradient, 1 - self.beta1, work)
        xp.multiply(m, self.beta1, m)
        xp.add(m, work, m)
        xp.abs(gradient, work)
        xp.multiply(v, self.beta2, v)
        xp.maximum(v, work, out=v)
        xp.add(v, _above_zero(self.epsilon, work), work)
        xp.divide(m, work, work)
        xp.multiply(work, rate, work)
        xp.subtract(variable, work, variable)


@register
class ApplyNadam(_Update):
    """Nadam (Dozat 2016) with a constant beta1, as Ruder's equation 39; rate comes with both corrections.

    m and v as in Adam; variable -= rate (beta1 m + (1 - beta1) g) / (sqrt(v) + epsilon).
    """

    count: int
    beta1: float
    beta2: float
    epsilon: float
    slots = 2
    scratches = 2

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"const {{T}} part = g * ({{T}}){1 - self.beta1};"
            f"s0 = s0 * ({{T}}){self.beta1} + part;"
            f"s1 = s1 * ({{T}}){self.beta2} + g * g * ({{T}}){1 - self.beta2};"
            f"const {{T}} root = dt_sqrt(s1) + dt_above_zero({{T}}, {self.epsilon});"
            f"p = p - (part + s0 * ({{T}}){self.beta1}) / root * rate;"
        )

    def update(
        self,
        xp: Any,
        variable: Array,
        gradient: Array,
        m: Array,
        v: Array,
        rate: Array,
        ahead: Array,
        work: Array,
    ) -> None:
        xp.multiply(gradient, 1 - self.beta1, ahead)
        xp.multiply(m, self.beta1, m)
        xp.add(m, ahead, m)
        xp.multiply(m, self.beta1, work)
        xp.add(ahead, work, ahead)
        xp.square(gradient, work)
        xp.multiply(work, 1 - self.beta2, work)
        xp.multiply(v, self.beta2, v)
        xp.add(v, work, v)
        xp.sqrt(v, work)
        xp.add(work, _above_zero(self.epsilon, work), work)
        xp.divide(ahead, work, work)
        xp.multiply(work, rate, work)
        xp.subtract(variable, work, variable)


@register
class ApplyScheduledNadam(_Update):
    """Nadam (Dozat 2016) with its schedule of beta1, as Keras has it; the rate is three numbers of a step.

    m and v as in Adam; variable -= (rate[0] m + rate[1] g) / (rate[2] sqrt(v) + epsilon).
    """

    count: int
    beta1: float
    beta2: float
    epsilon: float
    slots = 2
    scratches = 2

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"s0 = s0 * ({{T}}){self.beta1} + g * ({{T}}){1 - self.beta1};"
            f"s1 = s1 * ({{T}}){self.beta2} + g * g * ({{T}}){1 - self.beta2};"
            f"const {{T}} root = dt_sqrt(s1) * rate_[2] + dt_above_zero({{T}}, {self.epsilon});"
            "p = p - (s0 * rate + g * rate_[1]) / root;"
        )

    def update(
        self,
        xp: Any,
        variable: Array,
        gradient: Array,
        m: Array,
        v: Array,
        rate: Array,
        ahead: Array,
        work: Array,
    ) -> None:
        xp.multiply(gradient, 1 - self.beta1, work)
        xp.multiply(m, self.beta1, m)
        xp.add(m, work, m)
        xp.square(gradient, work)
        xp.multiply(work, 1 - self.beta2, work)
        xp.multiply(v, self.beta2, v)
        xp.add(v, work, v)
        xp.multiply(m, rate[0], ahead)
        xp.multiply(gradient, rate[1], work)
        xp.add(ahead, work, ahead)
        xp.sqrt(v, work)
        xp.multiply(work, rate[2], work)
        xp.add(work, _above_zero(self.epsilon, work), work)
        xp.divide(ahead, work, work)
        xp.subtract(variable, work, variable)
