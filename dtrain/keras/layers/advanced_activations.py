"""Activations that have arguments or weights, as layers."""

from __future__ import annotations

from typing import Any, ClassVar

from dtrain.errors import UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras import activations
from dtrain.keras.layers.base import Layer, Sizes, Weighted
from dtrain.keras.names import other_layers
from dtrain.ops.math import cast, greater
from dtrain.ops.nn import leaky_relu, relu

__all__ = ["ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax", "ThresholdedReLU"]


class LeakyReLU(Layer):
    """x where it is positive, else alpha * x."""

    arguments = ("alpha",)
    any_size, supports_masking = True, True

    def __init__(self, alpha: float = 0.3, negative_slope: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = float(alpha if negative_slope is None else negative_slope)

    def call(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.alpha)


class PReLU(Weighted):
    """x where it is positive, else alpha * x, alpha being a weight for each place of an example.

    shared_axes: axes, counted from 1, along which alpha is the same.
    """

    arguments = ("shared_axes",)
    roles: ClassVar[dict[str, Any]] = {"alpha": "zeros"}
    supports_masking = True

    def __init__(self, shared_axes: Any = None, **options: Any) -> None:
        super().__init__(**options)
        axes = shared_axes if isinstance(shared_axes, list | tuple | None) else [shared_axes]
        self.shared_axes = None if axes is None else list(axes)

    def build(self, input_shape: Sizes) -> None:
        shared = self.shared_axes or []
        self.alpha = self.weight("alpha", [1 if i in shared else n for i, n in enumerate(input_shape)][1:])

    def call(self, x: Tensor) -> Tensor:
        return relu(x) - self.alpha * relu(-x)


class ELU(Layer):
    """x where it is positive, else alpha (exp(x) - 1)."""

    arguments = ("alpha",)
    any_size, supports_masking = True, True

    def __init__(self, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = float(alpha)

    def call(self, x: Tensor) -> Tensor:
        return activations.elu(x, self.alpha)


class ThresholdedReLU(Layer):
    """x where it is above theta, else 0."""

    arguments = ("theta",)
    any_size, supports_masking = True, True

    def __init__(self, theta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.theta = float(theta)

    def call(self, x: Tensor) -> Tensor:
        return x * cast(greater(x, self.theta), x.dtype)


class ReLU(Layer):
    """max(x, 0), cut off at max_value; negative_slope below threshold."""

    arguments = ("max_value", "negative_slope", "threshold")
    any_size, supports_masking = True, True

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if threshold and (negative_slope or max_value is not None):
            raise UsageError(
                f"{self.name}: threshold goes alone here: leave out negative_slope and max_value."
            )
        self.max_value, self.negative_slope = max_value, float(negative_slope or 0)
        self.threshold = float(threshold or 0)

    def call(self, x: Tensor) -> Tensor:
        if self.threshold:
            return x * cast(greater(x, self.threshold), x.dtype)
        return activations.relu(x, self.negative_slope, self.max_value)


class Softmax(Layer):
    """exp(x) over its sum along an axis."""

    arguments = ("axis",)
    any_size, supports_masking = True, True

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = int(axis)

    def call(self, x: Tensor) -> Tensor:
        return activations.softmax(x, self.axis)


__getattr__ = other_layers
