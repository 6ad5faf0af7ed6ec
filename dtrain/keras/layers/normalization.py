"""BatchNormalization (Ioffe & Szegedy 2015)."""

from __future__ import annotations

from typing import Any, ClassVar

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor
from dtrain.keras import constraints, initializers, regularizers
from dtrain.keras.layers.base import Layer, Sizes, Weighted
from dtrain.keras.names import other_layers
from dtrain.ops.array import stop_gradient, transpose
from dtrain.ops.base import apply
from dtrain.ops.logic import where
from dtrain.ops.math import greater, rsqrt, square
from dtrain.ops.normalize import MeanOfShard, batch_normalization, moments
from dtrain.ops.reduce import reduce_mean


class BatchNormalization(Layer):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta for each channel (Ioffe & Szegedy 2015).

    In training the statistics are the batch's, and moving averages of them are kept for tests:
    moving = momentum * moving + (1 - momentum) * batch. The variance divides by the count. A layer with
    trainable=False works in training as in a test, and its moving averages stay.

    Args:
        axis: the axis of the channels; another than the last is moved there, and back.
        momentum: of the moving averages.
        epsilon: what is added to the variance.
        center: whether there is a weight beta.
        scale: whether there is a weight gamma.
        beta_initializer, gamma_initializer: names or functions of (shape, dtype).
        moving_mean_initializer, moving_variance_initializer: names or functions of (shape, dtype).
        beta_regularizer, gamma_regularizer: names or functions from a weight to a loss.
        beta_constraint, gamma_constraint: names or functions from a new weight to the valid one.
        synchronized: whether the batch is the global one, on any number of ranks. False uses each rank's own
            rows, which saves two messages per layer and step, but then the result depends on the number of
            ranks; the moving averages are those over the ranks.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).

    Raises:
        UsageError: an argument is invalid.
    """

    arguments = (
        "axis",
        "momentum",
        "epsilon",
        "center",
        "scale",
        "beta_initializer",
        "gamma_initializer",
        "moving_mean_initializer",
        "moving_variance_initializer",
        "beta_regularizer",
        "gamma_regularizer",
        "beta_constraint",
        "gamma_constraint",
        "synchronized",
    )

    supports_masking = True

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        synchronized: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.axis, self.momentum, self.epsilon = int(axis), float(momentum), float(epsilon)
        self.center, self.scale, self.synchronized = bool(center), bool(scale), bool(synchronized)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)

    any_size = True

    def build(self, input_shape: Sizes) -> None:
        axis = self.axis % len(input_shape) if -len(input_shape) <= self.axis < len(input_shape) else 0
        if axis == 0:
            raise GraphError(f"axis={self.axis} is none of the axes of channels in {input_shape}")
        #: The order of axes with the channels last, and back; None where they are.
        self._orders: tuple[list[int], list[int]] | None = None
        if axis != len(input_shape) - 1:
            there = [i for i in range(len(input_shape)) if i != axis] + [axis]
            self._orders = there, [there.index(i) for i in range(len(input_shape))]
        shape = (input_shape[axis],)
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                "gamma",
                shape,
                self.gamma_initializer,
                self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = self.add_weight(
                "beta", shape, self.beta_initializer, self.beta_regularizer, constraint=self.beta_constraint
            )
        self.moving_mean = self.add_weight(
            "moving_mean", shape, self.moving_mean_initializer, trainable=False
        )
        self.moving_variance = self.add_weight(
            "moving_variance", shape, self.moving_variance_initializer, trainable=False
        )

    def call(self, x: Tensor, training: Any = False) -> Tensor:
        if self._orders is None:
            return self._normalized(x, training)
        there, back = self._orders
        return transpose(self._normalized(transpose(x, there), training), back)

    def _normalized(self, x: Tensor, training: Any) -> Tensor:
        if training is False or not self.trainable:
            return self._tested(x)
        trained = self._trained(x)
        if training is True:
            return trained
        # where, not a product with 0: what is not chosen may be infinite
        return where(greater(training, 0), trained, self._tested(x))

    def _tested(self, x: Tensor) -> Tensor:
        moving = self.moving_mean.value(), self.moving_variance.value()
        return batch_normalization(x, *moving, self.beta, self.gamma, self.epsilon)

    def _trained(self, x: Tensor) -> Tensor:
        axes = list(range(len(x.spec.shape or ()) - 1))
        if self.synchronized:
            mean, variance = moments(x, axes)
            y = batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        else:
            deviation = x - apply(MeanOfShard(), x)
            own = apply(MeanOfShard(), square(deviation))
            y = deviation * rsqrt(own + self.epsilon)
            y = y if self.gamma is None else y * self.gamma
            y = y if self.beta is None else y + self.beta
            mean, variance = reduce_mean(x, axes), reduce_mean(own, axes)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            step = (1 - self.momentum) * (stop_gradient(batch) - moving)
            self.add_update(moving.assign_add(step, read_value=False))
        return y


class LayerNormalization(Weighted):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta along the last axis (Ba et al. 2016).

    Args:
        axis: only the last.
        epsilon: what is added to the variance.
        center: whether there is a weight beta.
        scale: whether there is a weight gamma.
        options: beta_initializer, gamma_initializer, and the same with _regularizer and _constraint; and
            Layer's arguments, see help(dt.keras.layers.Layer).
    """

    arguments = ("axis", "epsilon", "center", "scale")
    roles: ClassVar[dict[str, Any]] = {"gamma": "ones", "beta": "zeros"}
    any_size, supports_masking = True, True

    def __init__(
        self, axis: int = -1, epsilon: float = 0.001, center: bool = True, scale: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        self.axis, self.epsilon, self.center, self.scale = (
            int(axis),
            float(epsilon),
            bool(center),
            bool(scale),
        )

    def build(self, input_shape: Sizes) -> None:
        if self.axis not in (-1, len(input_shape) - 1):
            raise GraphError(f"axis={self.axis} is not supported: features lie along the last axis, -1")
        self.gamma = self.weight("gamma", input_shape[-1:]) if self.scale else None
        self.beta = self.weight("beta", input_shape[-1:]) if self.center else None

    def call(self, x: Tensor) -> Tensor:
        deviation = x - reduce_mean(x, -1, keepdims=True)
        y = deviation * rsqrt(reduce_mean(square(deviation), -1, keepdims=True) + self.epsilon)
        y = y if self.gamma is None else y * self.gamma
        return y if self.beta is None else y + self.beta


__getattr__ = other_layers
