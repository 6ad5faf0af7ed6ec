"""Constraints: what a weight is after each step."""

from __future__ import annotations

from typing import Any

from dtrain.graph.graph import Tensor
from dtrain.keras.names import Names, as_data
from dtrain.names import module_getattr
from dtrain.ops.clip import clip_by_value
from dtrain.ops.math import cast, greater_equal, sqrt, square
from dtrain.ops.reduce import reduce_sum

__all__ = [
    "Constraint",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "UnitNorm",
    "deserialize",
    "get",
    "max_norm",
    "maxnorm",
    "min_max_norm",
    "non_neg",
    "nonneg",
    "serialize",
    "unit_norm",
    "unitnorm",
]

__getattr__ = module_getattr("tf.keras.constraints")

#: What keeps a division finite, as Keras's epsilon().
EPSILON = 1e-7


class Constraint:
    """Base of the constraints: a function from a weight to what it becomes."""

    def __call__(self, w: Any) -> Tensor:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


def _norms(w: Any, axis: Any) -> Tensor:
    return sqrt(reduce_sum(square(w), axis, keepdims=True))


class MaxNorm(Constraint):
    """w, scaled down where its norm along the axes is above max_value."""

    def __init__(self, max_value: float = 2, axis: Any = 0) -> None:
        self.max_value, self.axis = max_value, axis

    def __call__(self, w: Any) -> Tensor:
        norms = _norms(w, self.axis)
        return w * (clip_by_value(norms, 0.0, float(self.max_value)) / (norms + EPSILON))


class MinMaxNorm(Constraint):
    """w, scaled by the share `rate` towards a norm along the axes that lies in min_value..max_value."""

    def __init__(
        self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Any = 0
    ) -> None:
        self.min_value, self.max_value, self.rate, self.axis = min_value, max_value, rate, axis

    def __call__(self, w: Any) -> Tensor:
        norms = _norms(w, self.axis)
        near = clip_by_value(norms, float(self.min_value), float(self.max_value))
        return w * ((self.rate * near + (1 - self.rate) * norms) / (norms + EPSILON))


class NonNeg(Constraint):
    """w, 0 where it is negative."""

    def __call__(self, w: Any) -> Tensor:
        return w * cast(greater_equal(w, 0.0), "float32")


class UnitNorm(Constraint):
    """w over its norm along the axes."""

    def __init__(self, axis: Any = 0) -> None:
        self.axis = axis

    def __call__(self, w: Any) -> Tensor:
        return w / (_norms(w, self.axis) + EPSILON)


max_norm = maxnorm = MaxNorm
min_max_norm = MinMaxNorm
non_neg = nonneg = NonNeg
unit_norm = unitnorm = UnitNorm

_NAMES = Names(
    "constraint",
    {n: globals()[n] for n in __all__ if n not in ("Constraint", "get", "deserialize", "serialize")},
)


def get(identifier: Any) -> Any:
    """The constraint of a name, or the function from a weight itself; raises UsageError for others."""
    return _NAMES.get(identifier)


deserialize, serialize = get, as_data
