"""Layers of Keras 1 that later ones have no more: Merge, MaxoutDense and Highway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor
from dtrain.keras import activations
from dtrain.keras.layers.base import Layer, Sizes, Weighted, positive
from dtrain.keras.layers.merge import joining
from dtrain.keras.names import as_data, other_layers
from dtrain.ops.array import reshape, transpose
from dtrain.ops.linalg import matmul
from dtrain.ops.math import sigmoid
from dtrain.ops.reduce import reduce_max

__all__ = ["Highway", "MaxoutDense", "Merge"]


class Merge(Layer):
    """The outputs of models joined, as the first layer of a Sequential; or a list of tensors joined.

    Args:
        layers: models or layers whose shapes are known; the inputs of all are those of the Sequential, in
            their order. None where it is called on a list of tensors.
        mode: sum, mul, concat, ave, max, dot, cos, or a function of the list.
        concat_axis: the axis of concat.
        dot_axes: the axes of dot and cos.
        output_shape: accepted for Keras 1; the output has a shape.
        options: arguments of Layer (name, trainable, weights, ...); see help(dt.keras.layers.Layer).

    Raises:
        UsageError: mode is none of them.
    """

    arguments = ("mode", "concat_axis", "dot_axes")
    any_size = True

    def __init__(
        self,
        layers: Sequence[Any] | None = None,
        mode: Any = "sum",
        concat_axis: int = -1,
        dot_axes: Any = -1,
        output_shape: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.layers = list(layers or ())
        self.mode, self.concat_axis, self.dot_axes = mode, concat_axis, dot_axes
        self._joining = joining(mode, concat_axis, dot_axes)

    @property
    def entries(self) -> list[Sizes] | None:
        """The shapes of one example for each of its inputs; None where one is not known."""
        found: list[Sizes] = []
        for layer in self.layers:
            shapes = _entries(layer)
            if shapes is None:
                return None
            found += shapes
        return found or None

    def call(self, x: Any) -> Tensor:
        given = list(x) if isinstance(x, list | tuple) else [x]
        made = []
        for layer in self.layers:
            count = len(_entries(layer) or [()])
            made.append(layer(given[0] if count == 1 else given[:count]))
            given = given[count:]
        if given and self.layers:
            raise GraphError(f"it has {len(self.layers)} models, and {len(given)} inputs are left over")
        found: Tensor = self._joining(made or given)
        return found

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"layers": as_data(self.layers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from dtrain.keras.layers import deserialize

        return cls(**{**config, "layers": [deserialize(layer) for layer in config["layers"]]})


def _entries(layer: Any) -> list[Sizes] | None:
    """The shapes of one example for the inputs of a model or layer."""
    if not layer.is_model:
        return None if layer.input_shape_given is None else [layer.input_shape_given]
    if not layer.is_complete:
        return None
    shapes = layer.input_shape
    return [tuple(s[1:]) for s in (shapes if isinstance(shapes, list) else [shapes])]


class MaxoutDense(Weighted):
    """The largest of several Dense layers, unit by unit (Goodfellow et al. 2013).

    Args:
        units: size of the output (Keras 1: output_dim).
        nb_feature: how many layers.
        use_bias: whether there are biases.
        options: kernel_initializer, bias_initializer, and the same with _regularizer and _constraint, by
            these names or Keras 1's; and arguments of Layer, see help(dt.keras.layers.Layer).

    Raises:
        UsageError: an argument is invalid.
    """

    arguments = ("units", "nb_feature", "use_bias")
    roles: ClassVar[dict[str, Any]] = {"kernel": "glorot_uniform", "bias": "zeros"}

    def __init__(self, units: int, nb_feature: int = 4, use_bias: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.units = positive(units, f"{self.name}: units")
        self.nb_feature = positive(nb_feature, f"{self.name}: nb_feature")
        self.use_bias = bool(use_bias)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 1, "[batch, inputs]", "put Flatten() before it")
        self.kernel = self.weight("kernel", (self.nb_feature, input_shape[-1], self.units))
        if self.use_bias:
            self.bias = self.weight("bias", (self.nb_feature, self.units))

    def call(self, x: Tensor) -> Tensor:
        wide = self.nb_feature * self.units
        flat = reshape(transpose(self.kernel, [1, 0, 2]), [-1, wide])
        y = reshape(matmul(x, flat), [-1, self.nb_feature, self.units])
        return reduce_max(y + self.bias if self.use_bias else y, 1)


class Highway(Weighted):
    """gate * activation(x kernel + bias) + (1 - gate) * x, its gate a sigmoid of x (Srivastava et al. 2015).

    Args:
        activation: a name or a function; by default none.
        use_bias: whether there are biases; the gate's starts at 1.
        options: kernel_initializer, bias_initializer, and the same with _regularizer and _constraint, by
            these names or Keras 1's; and arguments of Layer, see help(dt.keras.layers.Layer).
    """

    arguments = ("activation", "use_bias")
    kernel_initializer: Any
    roles: ClassVar[dict[str, Any]] = {"kernel": "glorot_uniform", "bias": "zeros"}

    def __init__(self, activation: Any = None, use_bias: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.activation, self.use_bias = activations.get(activation), bool(use_bias)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 1, "[batch, inputs]", "put Flatten() before it")
        size = input_shape[-1]
        self.kernel = self.weight("kernel", (size, size))
        self.carry = self.add_weight("carry", (size, size), self.kernel_initializer)
        if self.use_bias:
            self.bias = self.weight("bias", (size,))
            self.carry_bias = self.add_weight("carry_bias", (size,), "ones")

    def call(self, x: Tensor) -> Tensor:
        y, gate = matmul(x, self.kernel), matmul(x, self.carry)
        if self.use_bias:
            y, gate = y + self.bias, gate + self.carry_bias
        gate = sigmoid(gate)
        return gate * self.activation(y) + (1 - gate) * x


__getattr__ = other_layers
