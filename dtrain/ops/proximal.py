"""Updates that also pull parameters to 0, by L1 and L2 (Duchi et al. 2009, 2011; McMahan et al. 2013).

In the form of TensorFlow 1's kernels of the same names.
"""

from __future__ import annotations

from dtrain.graph.graph import Tensor
from dtrain.ops.adaptive import _above_zero
from dtrain.ops.base import register
from dtrain.ops.logic import where
from dtrain.ops.math import abs as magnitude
from dtrain.ops.math import exp, greater, log, maximum, multiply, sign, sqrt, square
from dtrain.ops.update import _Update


def shrunk(p: Tensor, by: Tensor | float) -> Tensor:
    """p moved towards 0 by so much, and not beyond it."""
    return multiply(sign(p), maximum(magnitude(p) - by, 0.0))


@register
class ApplyProximalGradientDescent(_Update):
    """p - rate g, moved towards 0 by rate l1, divided by 1 + rate l2."""

    count: int
    l1: float
    l2: float

    def rule(self, p: Tensor, g: Tensor, rate: Tensor) -> Tensor:
        moved = p - g * rate
        moved = shrunk(moved, rate * self.l1) if self.l1 > 0 else moved
        return moved / (rate * self.l2 + 1.0)


@register
class ApplyProximalAdagrad(_Update):
    """ApplyProximalGradientDescent at Adagrad's rate: accumulator += g²; rate / sqrt(accumulator)."""

    count: int
    l1: float
    l2: float
    slots = 1

    def rule(self, p: Tensor, g: Tensor, accum: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        accum = accum + square(g)
        own = rate / maximum(sqrt(accum), _above_zero(0.0, p))
        moved = p - g * own
        moved = shrunk(moved, own * self.l1) if self.l1 > 0 else moved
        return moved / (own * self.l2 + 1.0), accum


@register
class ApplyFtrl(_Update):
    """FTRL-proximal (McMahan et al. 2013): slots are the sum of g² and what the parameter follows from.

    new = accum + g² (g with its shrinkage in neither); linear += g - (new^-power - accum^-power) / rate p;
    p = (l1 sign(linear) - linear) / (new^-power / rate + 2 l2) where |linear| > l1, else 0.
    """

    count: int
    power: float
    l1: float
    l2: float
    shrinkage: float
    slots = 2

    def rule(self, p: Tensor, g: Tensor, accum: Tensor, linear: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        new = accum + square(g)
        pull = g + p * (2 * self.shrinkage) if self.shrinkage else g
        root = self._root(new)
        linear = linear + pull - (root - self._root(accum)) / rate * p
        bottom = maximum(root / rate + 2 * self.l2, _above_zero(0.0, p))
        over = sign(linear) * self.l1 - linear
        return where(greater(magnitude(linear), self.l1), over / bottom, p * 0.0), new, linear

    def _root(self, x: Tensor) -> Tensor:
        """x to the power of -power, which is a root by default."""
        if self.power == -0.5:
            return sqrt(x)
        return exp(log(maximum(x, _above_zero(0.0, x))) * -self.power)


@register
class ApplyAdagradDA(_Update):
    """Adagrad by dual averaging (Duchi et al. 2011): the parameter follows from the sums of g and of g².

    With t steps: sum += g; squares += g²; p = -rate s / (l2 rate t + sqrt(squares)), s being sum moved
    towards 0 by l1 t. The rate is two numbers, rate and t.
    """

    count: int
    l1: float
    l2: float
    slots = 2
    rates = 2

    def rule(
        self, p: Tensor, g: Tensor, total: Tensor, squares: Tensor, rate: Tensor, steps: Tensor
    ) -> tuple[Tensor, ...]:
        total, squares = total + g, squares + square(g)
        top = shrunk(total, steps * self.l1) if self.l1 > 0 else total
        bottom = maximum(rate * steps * self.l2 + sqrt(squares), _above_zero(0.0, p))
        return top / bottom * rate * -1.0, total, squares
