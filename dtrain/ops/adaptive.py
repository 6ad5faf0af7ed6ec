"""Updates that scale the step of each element by its own past gradients.

S. Ruder, An overview of gradient descent optimization algorithms (2016), describes how they follow from one
another; the form of each is TensorFlow 1's where the two differ. As in ops/update, one op is one flat pass.
"""

from __future__ import annotations

import numpy as np

from dtrain.graph.graph import Tensor
from dtrain.ops.base import register
from dtrain.ops.math import abs as magnitude
from dtrain.ops.math import maximum, sqrt, square
from dtrain.ops.update import _Update


def _above_zero(value: float, like: Tensor) -> float:
    """value, or the smallest normal number where it is 0: the padding between tensors must not be 0/0."""
    return max(value, float(np.finfo(like.dtype.numpy).tiny))


@register
class ApplyAdagrad(_Update):
    """Adagrad (Duchi et al. 2011): accumulator += g²; variable -= rate g / sqrt(accumulator + epsilon).

    epsilon is 0 in TensorFlow 1.
    """

    count: int
    epsilon: float
    slots = 1

    def rule(self, p: Tensor, g: Tensor, accum: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        accum = accum + square(g)
        root = maximum(sqrt(accum + self.epsilon), _above_zero(0.0, p))
        return p - g / root * rate, accum


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

    def rule(self, p: Tensor, g: Tensor, accum: Tensor, steps: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        epsilon = _above_zero(self.epsilon, p)
        accum = accum * self.rho + square(g) * (1 - self.rho)
        step = sqrt(steps + epsilon) / sqrt(accum + epsilon) * g
        steps = steps * self.rho + square(step) * (1 - self.rho)
        return p - step * rate, accum, steps


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

    def rule(self, p: Tensor, g: Tensor, rms: Tensor, moment: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        rms = rms * self.decay + square(g) * (1 - self.decay)
        moment = moment * self.momentum + g / sqrt(rms + _above_zero(self.epsilon, p)) * rate
        return p - moment, rms, moment


@register
class ApplyCenteredRMSProp(_Update):
    """RMSProp by the gradient's variance (Graves 2013, equations 38 to 45): rms - mean² in place of rms."""

    count: int
    decay: float
    momentum: float
    epsilon: float
    slots = 3

    def rule(
        self, p: Tensor, g: Tensor, rms: Tensor, moment: Tensor, mean: Tensor, rate: Tensor
    ) -> tuple[Tensor, ...]:
        rms = rms * self.decay + square(g) * (1 - self.decay)
        mean = mean * self.decay + g * (1 - self.decay)
        # rounding may make a variance of 0 negative, and its root a NaN
        variance = maximum(rms - square(mean), 0.0)
        moment = moment * self.momentum + g / sqrt(variance + _above_zero(self.epsilon, p)) * rate
        return p - moment, rms, moment, mean


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

    def rule(self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        m = m * self.beta1 + g * (1 - self.beta1)
        v = maximum(v * self.beta2, magnitude(g))
        return p - m / (v + _above_zero(self.epsilon, p)) * rate, m, v


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

    def rule(self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        part = g * (1 - self.beta1)
        m = m * self.beta1 + part
        v = v * self.beta2 + square(g) * (1 - self.beta2)
        root = sqrt(v) + _above_zero(self.epsilon, p)
        return p - (part + m * self.beta1) / root * rate, m, v


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
    rates = 3

    def rule(
        self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, of_m: Tensor, of_g: Tensor, of_root: Tensor
    ) -> tuple[Tensor, ...]:
        m = m * self.beta1 + g * (1 - self.beta1)
        v = v * self.beta2 + square(g) * (1 - self.beta2)
        root = sqrt(v) * of_root + _above_zero(self.epsilon, p)
        return p - (m * of_m + g * of_g) / root, m, v
