"""Dense, Flatten and Dropout."""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor
from dtrain.ops.array import identity, reshape, transpose
from dtrain.ops.dropout import dropout as dropped
from dtrain.ops.late import shape as sizes_of
from dtrain.ops.linalg import matmul
from dtrain.ops.nn import bias_add
from dtrain.ops.state import Variable
from dtrain.tf1.layers.base import Layer, activated, chosen, function, size_along


class Dense(Layer):
    """activation(inputs @ kernel + bias), along the last axis of the inputs."""

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        trainable: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(trainable, name, activity_regularizer=activity_regularizer, **options)
        self.units, self.activation, self.use_bias = int(units), activation, use_bias
        self._kernel = dict(
            initializer=kernel_initializer, regularizer=kernel_regularizer, constraint=kernel_constraint
        )
        self._bias = dict(
            initializer=bias_initializer, regularizer=bias_regularizer, constraint=bias_constraint
        )
        self.kernel: Variable | None = None
        self.bias: Variable | None = None

    def build(self, input_shape: Any) -> None:
        size = size_along(input_shape, -1, f"layer {self.name}")
        self.kernel = self.add_weight("kernel", [size, self.units], **self._kernel)
        if self.use_bias:
            self.bias = self.add_weight("bias", [self.units], **self._bias)

    def call(self, inputs: Tensor) -> Tensor:
        outputs = matmul(inputs, self.kernel)
        if self.bias is not None:
            outputs = bias_add(outputs, self.bias)
        return activated(self.activation, outputs)


class Flatten(Layer):
    """[n, ...] as [n, size]."""

    def __init__(
        self,
        data_format: str = "channels_last",
        trainable: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(trainable, name, **options)
        self.channels_first = channels_first(data_format)

    def call(self, inputs: Tensor) -> Tensor:
        rank = inputs.shape.ndims
        if self.channels_first and rank is not None and rank > 2:
            inputs = transpose(inputs, [0, *range(2, rank), 1])
        dims = inputs.spec.shape
        if dims is not None and None not in dims[1:]:
            size = 1
            for d in dims[1:]:
                size *= d  # type: ignore[operator]  # none is None
            return reshape(inputs, [-1 if dims[0] is None else dims[0], size])
        return reshape(inputs, [sizes_of(inputs)[0], -1])


class Dropout(Layer):
    """While training, a share `rate` of the entries set to 0 and the others divided by 1 - rate."""

    def __init__(
        self,
        rate: Any = 0.5,
        noise_shape: Any = None,
        seed: int | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.rate, self.noise_shape, self.seed = rate, noise_shape, seed

    def call(self, inputs: Tensor, training: Any = False) -> Tensor:
        return chosen(
            training,
            lambda: dropped(inputs, noise_shape=self.noise_shape, seed=self.seed, rate=self.rate),
            lambda: identity(inputs),
        )


def channels_first(data_format: str) -> bool:
    """Whether channels stand after the examples. Raises GraphError for an order that is not known."""
    if data_format not in ("channels_first", "channels_last"):
        raise GraphError(f"data_format {data_format!r} is none of channels_first and channels_last.")
    return data_format == "channels_first"


dense = function(Dense, "dense")
dropout = function(Dropout, "dropout", "training")


def flatten(inputs: Any, name: str | None = None, data_format: str = "channels_last") -> Tensor:
    """[n, ...] as [n, size]."""
    return Flatten(data_format, name=name)(inputs)
