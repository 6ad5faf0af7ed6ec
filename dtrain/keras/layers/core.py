"""Layers that work on features: Dense, Activation, Dropout, Flatten, Reshape."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras import activations, initializers, regularizers
from dtrain.keras.layers.base import Layer, Sizes, positive, sizes
from dtrain.ops.array import reshape
from dtrain.ops.dropout import dropout
from dtrain.ops.linalg import matmul


class Dense(Layer):
    """activation(x kernel + bias), along the last axis: [batch, ..., inputs] -> [batch, ..., units].

    Raises:
        UsageError: units is no whole number from 1 up, or a name is not known.
    """

    arguments = (
        "units",
        "activation",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
    )

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units = positive(units, f"{self.name}: units")
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)

    def build(self, input_shape: Sizes) -> None:
        if not input_shape:
            raise GraphError("its input is [batch]: it takes [batch, inputs]; x.reshape(-1, 1) makes it so")
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight("kernel", shape, self.kernel_initializer, self.kernel_regularizer)
        if self.use_bias:
            self.bias = self.add_weight("bias", (self.units,), self.bias_initializer, self.bias_regularizer)

    def call(self, x: Tensor, training: Any) -> Tensor:
        y = matmul(x, self.kernel)
        return self.activation(y + self.bias if self.use_bias else y)


class Activation(Layer):
    """A function of each batch, by name or as it is."""

    arguments = ("activation",)

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.get(activation)

    def call(self, x: Tensor, training: Any) -> Tensor:
        return self.activation(x)


class Dropout(Layer):
    """While training, entries set to 0 with probability rate and the rest divided by 1 - rate.

    The mask is that of the global batch, so it does not depend on the number of ranks.

    Args:
        noise_shape: the mask's shape for a batch, its first size None: 1 where entries go together.
        seed: makes the mask another than that of other layers; by default the layer's place does.
    """

    arguments = ("rate", "noise_shape", "seed")

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= rate < 1:
            raise UsageError(f"{self.name}: rate={rate}: give the share to drop, from 0 to less than 1.")
        self.rate, self.noise_shape, self.seed = float(rate), noise_shape, seed

    def call(self, x: Tensor, training: Any) -> Tensor:
        if training is False or self.rate == 0:
            return x
        rate = self.rate if training is True else self.rate * training
        return dropout(x, noise_shape=self.noise_shape, seed=self.seed, rate=rate)


class Flatten(Layer):
    """Each example as a row: [batch, ...] -> [batch, product of the rest]."""

    def call(self, x: Tensor, training: Any) -> Tensor:
        return reshape(x, [-1, prod(x.spec.shape[1:])])  # type: ignore[index, arg-type]


class Reshape(Layer):
    """Each example in another shape, of which one size may be -1."""

    arguments = ("target_shape",)

    def __init__(self, target_shape: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = sizes(target_shape, f"{self.name}: target_shape")
        if sum(n < 1 for n in self.target_shape) > 1 or min(self.target_shape, default=1) < -1:
            raise UsageError(f"{self.name}: target_shape={target_shape!r}: one size at most may be -1.")

    def call(self, x: Tensor, training: Any) -> Tensor:
        have = prod(x.spec.shape[1:])  # type: ignore[index, arg-type]
        known = prod(n for n in self.target_shape if n > 0)
        if have != known and (-1 not in self.target_shape or have % known):
            raise GraphError(f"examples of {have} numbers do not fit the shape {self.target_shape}")
        return reshape(x, [-1, *(have // known if n == -1 else n for n in self.target_shape)])
