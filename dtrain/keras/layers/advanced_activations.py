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
    """x where x > 0, else alpha * x (Maas et al. 2013).

    Args:
        alpha: the slope below 0.
        negative_slope: Keras 3's name of alpha.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("alpha",)
    any_size, supports_masking = True, True

    def __init__(self, alpha: float = 0.3, negative_slope: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = float(alpha if negative_slope is None else negative_slope)

    def call(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.alpha)


class PReLU(Weighted):
    """x where x > 0, else alpha * x, alpha being a weight for each place of an example (He et al. 2015).

    Args:
        shared_axes: axes, counted from 1, along which alpha is the same.
        options: alpha_initializer (zeros), alpha_regularizer, alpha_constraint; and arguments of Layer, see
            help(dt.keras.layers.Layer).
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
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2016).

    Args:
        alpha: a number.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("alpha",)
    any_size, supports_masking = True, True

    def __init__(self, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = float(alpha)

    def call(self, x: Tensor) -> Tensor:
        return activations.elu(x, self.alpha)


class ThresholdedReLU(Layer):
    """x where x > theta, else 0 (Konda et al. 2015).

    Args:
        theta: a number >= 0.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("theta",)
    any_size, supports_masking = True, True

    def __init__(self, theta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.theta = float(theta)

    def call(self, x: Tensor) -> Tensor:
        return x * cast(greater(x, self.theta), x.dtype)


class ReLU(Layer):
    """max(x, 0), with an optional upper bound and slope.

    Args:
        max_value: the upper bound; None for none.
        negative_slope: the slope below threshold.
        threshold: where the positive part starts.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

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
    """exp(x) divided by its sum along an axis.

    Args:
        axis: the axis of the classes.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("axis",)
    any_size, supports_masking = True, True

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = int(axis)

    def call(self, x: Tensor) -> Tensor:
        return activations.softmax(x, self.axis)


__getattr__ = other_layers
