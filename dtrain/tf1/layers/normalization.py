"""Batch normalization (Ioffe & Szegedy 2015), over the whole batch on any number of ranks."""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor
from dtrain.ops.array import CountLike, reshape, stop_gradient, zeros_like
from dtrain.ops.base import apply
from dtrain.ops.math import maximum
from dtrain.ops.normalize import batch_normalization as normalized
from dtrain.ops.normalize import moments
from dtrain.ops.state import Variable
from dtrain.tf1.layers.base import Layer, chosen, fixed, function, size_along


class BatchNormalization(Layer):
    """(inputs - mean) / sqrt(variance + epsilon) * gamma + beta, for each entry of an axis.

    While training, mean and variance are the batch's, and moving averages of them are updated by operations
    in UPDATE_OPS: moving = momentum * moving + (1 - momentum) * batch. They are run where the program asks:
    `with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)): step = ...`. Otherwise the
    moving averages are used. Of images the moving variance divides by count - 1, as in TensorFlow 1.

    Args:
        fused: for images, TensorFlow's fast form by default; False keeps the variance as it is.
        renorm, virtual_batch_size, adjustment: not supported.
    """

    def __init__(
        self,
        axis: Any = -1,
        momentum: Any = 0.99,
        epsilon: float = 1e-3,
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
        renorm: bool = False,
        renorm_clipping: Any = None,
        renorm_momentum: float = 0.99,
        fused: bool | None = None,
        trainable: bool = True,
        virtual_batch_size: int | None = None,
        adjustment: Any = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(trainable, name, **options)
        refused = {"renorm": renorm, "virtual_batch_size": virtual_batch_size, "adjustment": adjustment}
        if given := [label for label, value in refused.items() if value]:
            raise GraphError(f"batch_normalization: {', '.join(given)} is not supported: leave it out.")
        self.axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
        if not isinstance(self.axis, int):
            raise GraphError(f"batch_normalization: axis is one number, and not {axis!r}.")
        self.momentum, self.epsilon, self.center, self.scale = momentum, epsilon, center, scale
        self.fused = fused
        self._beta = dict(
            initializer=beta_initializer, regularizer=beta_regularizer, constraint=beta_constraint
        )
        self._gamma = dict(
            initializer=gamma_initializer, regularizer=gamma_regularizer, constraint=gamma_constraint
        )
        self._moving = moving_mean_initializer, moving_variance_initializer
        self.gamma: Variable | None = None
        self.beta: Variable | None = None

    def build(self, input_shape: Any) -> None:
        if input_shape.ndims is None:
            raise GraphError(f"layer {self.name}: the rank of its inputs has to be known.")
        if self.fused and not self._of_images(input_shape.ndims):
            raise GraphError(f"layer {self.name}: fused=True is for images of rank 4, and channels.")
        shape = [size_along(input_shape, self.axis, f"layer {self.name}")]
        if self.scale:
            self.gamma = self.add_weight("gamma", shape, **self._gamma)
        if self.center:
            self.beta = self.add_weight("beta", shape, **self._beta)
        mean, variance = self._moving
        self.moving_mean = self.add_weight("moving_mean", shape, initializer=mean, trainable=False)
        self.moving_variance = self.add_weight(
            "moving_variance", shape, initializer=variance, trainable=False
        )

    def call(self, inputs: Tensor, training: Any = False) -> Tensor:
        rank = len(inputs.shape)
        axis = self.axis % rank
        others = [a for a in range(rank) if a != axis]
        # along any axis but the last, statistics need its place to broadcast
        shape = [-1 if a == axis else 1 for a in range(rank)] if axis < rank - 1 else None

        def normal(mean: Any, variance: Any) -> Tensor:
            given = (mean, variance, self.beta, self.gamma)
            if shape is not None:
                given = tuple(None if v is None else reshape(v, shape) for v in given)  # type: ignore[assignment]  # of four
            return normalized(inputs, *given, self.epsilon)

        def trained() -> Tensor:
            return normal(mean, variance)

        if fixed(training) is not False:
            mean, variance = moments(inputs, others)
            self._average(training, mean, self._unbiased(inputs, others, variance))
        return chosen(training, trained, lambda: normal(self.moving_mean, self.moving_variance))

    def _of_images(self, rank: int) -> bool:
        return rank == 4 and self.axis % 4 in (1, 3)

    def _unbiased(self, inputs: Tensor, axes: list[int], variance: Tensor) -> Tensor:
        """The variance that is averaged; TensorFlow's fast form for images divides by count - 1."""
        if self.fused is False or not self._of_images(len(inputs.shape)):
            return variance
        count = apply(CountLike(tuple(axes)), inputs)
        return variance * (count / maximum(count - 1, 1))

    def _average(self, training: Any, mean: Tensor, variance: Tensor) -> None:
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            self.add_update(moved(moving, stop_gradient(batch), self.momentum, training))


def moved(moving: Variable, value: Tensor, momentum: Any, training: Any = True) -> Any:
    """An operation: moving = momentum * moving + (1 - momentum) * value, where it trains."""
    step = (moving - value) * (1 - momentum)
    return moving.assign_sub(chosen(training, lambda: step, lambda: zeros_like(step)), read_value=False)


batch_normalization = function(BatchNormalization, "batch_normalization", "training")
