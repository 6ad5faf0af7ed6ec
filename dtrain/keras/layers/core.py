"""Layers that work on features, shapes and functions: Dense, Activation, Dropout, Reshape, Lambda, ..."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, ClassVar

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import compatible
from dtrain.keras import activations, regularizers, settings
from dtrain.keras.layers.base import Layer, Sizes, Weighted, batch_size, positive, sizes
from dtrain.keras.names import as_data, other_layers
from dtrain.ops.array import expand_dims, reshape, transpose
from dtrain.ops.dropout import dropout
from dtrain.ops.join import tile
from dtrain.ops.linalg import matmul
from dtrain.ops.math import cast, not_equal
from dtrain.ops.reduce import reduce_any


class Dense(Weighted):
    """A fully connected layer: activation(x kernel + bias), along the last axis.

    [batch, ..., inputs] -> [batch, ..., units].

    Args:
        units: size of the output.
        activation: a name such as "relu", or a function; by default none.
        use_bias: whether there is a bias, [units].
        options: kernel_initializer (glorot_uniform), bias_initializer (zeros), and the same with _regularizer
            and _constraint; and arguments of Layer (name, trainable, input_shape, ...), see
            help(dt.keras.layers.Layer).

    Raises:
        UsageError: units is not an integer >= 1, or a name is not known.

    Example:
        >>> model = dt.keras.Sequential([dt.keras.layers.Dense(10, activation="softmax", input_shape=(784,))])
        >>> model.count_params()
        7850
    """

    arguments = ("units", "activation", "use_bias")
    roles: ClassVar[dict[str, Any]] = {"kernel": "glorot_uniform", "bias": "zeros"}
    any_size, supports_masking = True, True

    def __init__(self, units: int, activation: Any = None, use_bias: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.units = positive(units, f"{self.name}: units")
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)

    def build(self, input_shape: Sizes) -> None:
        if len(input_shape) < 2:
            raise GraphError("its input is [batch]: it takes [batch, inputs]; x.reshape(-1, 1) makes it so")
        self.kernel = self.weight("kernel", (input_shape[-1], self.units))
        if self.use_bias:
            self.bias = self.weight("bias", (self.units,))

    def call(self, x: Tensor) -> Tensor:
        y = matmul(x, self.kernel)
        return self.activation(y + self.bias if self.use_bias else y)


class Activation(Layer):
    """A function applied to each batch.

    Args:
        activation: a name such as "relu", or a function from tensor to tensor.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("activation",)
    any_size, supports_masking = True, True

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.get(activation)

    def call(self, x: Tensor) -> Tensor:
        return self.activation(x)


class Dropout(Layer):
    """Sets entries to 0 at random in training, and divides the rest by 1 - rate (Srivastava et al. 2014).

    The mask is that of the global batch, so it does not depend on the number of ranks.

    Args:
        rate: the probability that an entry is dropped.
        noise_shape: shape of the mask, None for the batch: 1 where entries are dropped together.
        seed: makes the mask different from those of other layers; by default it depends on the layer's place.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments: ClassVar[tuple[str, ...]] = ("rate", "noise_shape", "seed")
    any_size, supports_masking = True, True

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= rate < 1:
            raise UsageError(f"{self.name}: rate={rate}: give the share to drop, from 0 to less than 1.")
        self.rate, self.noise_shape, self.seed = float(rate), noise_shape, seed

    def call(self, x: Tensor, training: Any = False) -> Tensor:
        if training is False or self.rate == 0:
            return x
        rate = self.rate if training is True else self.rate * training
        return dropout(x, noise_shape=self._noise(x), seed=self.seed, rate=rate)

    def _noise(self, x: Tensor) -> Any:
        return self.noise_shape


class SpatialDropout1D(Dropout):
    """Dropout of whole channels of sequences [batch, steps, channels] (Tompson et al. 2015).

    Args:
        rate: the probability that a channel is dropped.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("rate", "seed")

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(rate, **options)

    def _noise(self, x: Tensor) -> Any:
        return [None, 1, x.spec.shape[-1]]  # type: ignore[index]  # its rank is known


class SpatialDropout2D(Dropout):
    """Dropout of whole channels of images [batch, height, width, channels] (Tompson et al. 2015).

    Args:
        rate: the probability that a channel is dropped.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("rate", "data_format", "seed")

    def __init__(self, rate: float, data_format: str | None = None, **options: Any) -> None:
        super().__init__(rate, **options)
        self.data_format = data_format or settings.image_data_format()

    def _noise(self, x: Tensor) -> Any:
        sizes_: Any = x.spec.shape
        return [None, 1, 1, sizes_[-1]] if self.data_format == "channels_last" else [None, sizes_[1], 1, 1]


class Flatten(Layer):
    """Each example as a row: [batch, ...] -> [batch, product of the other sizes].

    Args:
        data_format: 'channels_last' (the default) or 'channels_first', which moves the channels to the end
            first.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("data_format",)

    def __init__(self, data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.data_format = data_format

    def call(self, x: Tensor) -> Tensor:
        shape: Any = x.spec.shape
        if self.data_format == "channels_first" and len(shape) > 2:
            x = transpose(x, [0, *range(2, len(shape)), 1])
        return reshape(x, [-1, prod(shape[1:])])


class Reshape(Layer):
    """Each example in another shape.

    Args:
        target_shape: the shape without the batch; one size may be -1.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("target_shape",)
    any_size = True

    def __init__(self, target_shape: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = sizes(target_shape, f"{self.name}: target_shape")
        if sum(n < 1 for n in self.target_shape) > 1 or min(self.target_shape, default=1) < -1:
            raise UsageError(f"{self.name}: target_shape={target_shape!r}: one size at most may be -1.")

    def call(self, x: Tensor) -> Tensor:
        if None in x.spec.shape[1:]:  # type: ignore[index]  # its rank is known
            return reshape(x, [batch_size(x), *self.target_shape])
        have = prod(x.spec.shape[1:])  # type: ignore[index, arg-type]  # none is None
        known = prod(n for n in self.target_shape if n > 0)
        if have != known and (-1 not in self.target_shape or have % known):
            raise GraphError(f"examples of {have} numbers do not fit the shape {self.target_shape}")
        return reshape(x, [-1, *(have // known if n == -1 else n for n in self.target_shape)])


class Permute(Layer):
    """The axes of each example in another order.

    Args:
        dims: for each axis of the result the axis of the input, counted from 1.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("dims",)
    any_size = True

    def __init__(self, dims: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.dims = sizes(dims, f"{self.name}: dims")
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise UsageError(f"{self.name}: dims={dims!r}: give each of 1 to {len(self.dims)} once.")

    def build(self, input_shape: Sizes) -> None:
        if len(input_shape) != len(self.dims) + 1:
            raise GraphError(f"examples of {len(input_shape) - 1} axes do not fit dims={self.dims}")

    def call(self, x: Tensor) -> Tensor:
        return transpose(x, [0, *self.dims])


class RepeatVector(Layer):
    """Each row n times: [batch, features] -> [batch, n, features].

    Args:
        n: how many times.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("n",)

    def __init__(self, n: int, **options: Any) -> None:
        super().__init__(**options)
        self.n = positive(n, f"{self.name}: n")

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 1, "[batch, features]", "put Flatten() before it")

    def call(self, x: Tensor) -> Tensor:
        return tile(expand_dims(x, 1), [1, self.n, 1])


class Lambda(Layer):
    """A function as a layer.

    A model with it is saved with the function's name; load_model takes the function in custom_objects.

    Args:
        function: from a tensor or a list of them to tensors; a parameter `mask` or `training` gets its value.
        output_shape: sizes without the batch's, or a function of the input's shape that gives the output's:
            sets what the function leaves unknown, and nothing else.
        mask: the mask that it passes on, or a function that makes it.
        arguments: more keyword arguments of the function.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    any_size = True

    def __init__(
        self,
        function: Callable[..., Any],
        output_shape: Any = None,
        mask: Any = None,
        arguments: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if isinstance(function, str):
            from dtrain.keras.names import Names

            function = Names("function", {}, made=True).get(function)
        if not callable(function):
            raise UsageError(f"{self.name}: {function!r} is no function of a tensor.")
        self.function, self._arguments, self._mask_given = function, arguments or {}, mask
        self._said = output_shape
        self._asked = set(inspect.signature(function).parameters) if callable(function) else set()

    @property
    def may_close(self) -> bool:
        return True

    def call(self, x: Any, mask: Any = None, training: Any = None) -> Any:
        more = {k: v for k, v in (("mask", mask), ("training", training)) if k in self._asked}
        result = self.function(x, **{**more, **self._arguments})
        if self._said is not None and isinstance(result, Tensor):
            given = x if isinstance(x, list) else [x]
            shapes = [tuple(t.shape.as_list()) if t.spec.shape is not None else None for t in given]
            said = self._said(shapes if isinstance(x, list) else shapes[0]) if callable(self._said) else None
            dims = (None, *(self._said if said is None else said[1:]))
            if compatible(result.spec.shape, dims):
                result.set_shape(dims)
        return result

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self._mask_given(inputs, mask) if callable(self._mask_given) else self._mask_given

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "function": as_data(self.function),
            "arguments": as_data(self._arguments),
        }


class Masking(Layer):
    """Masks steps all of whose features are mask_value; they become 0.

    Args:
        mask_value: a number.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("mask_value",)
    any_size, makes_mask = True, True

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value = float(mask_value)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 2, "[batch, steps, features]", "put Reshape((steps, features)) before it")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return reduce_any(not_equal(inputs, self.mask_value), -1)

    def call(self, x: Tensor) -> Tensor:
        return x * cast(reduce_any(not_equal(x, self.mask_value), -1, keepdims=True), x.dtype)


class ActivityRegularization(Layer):
    """The input itself; l1 * sum |x| + l2 * sum x², divided by the number of examples, joins the loss.

    Args:
        l1: weight of the absolute values.
        l2: weight of the squares.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("l1", "l2")
    any_size, supports_masking = True, True

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **options: Any) -> None:
        super().__init__(activity_regularizer=regularizers.L1L2(l1, l2), **options)
        self.l1, self.l2 = float(l1), float(l2)

    def get_config(self) -> dict[str, Any]:
        return {k: v for k, v in super().get_config().items() if k != "activity_regularizer"}


__all__ = [
    "Activation",
    "ActivityRegularization",
    "Dense",
    "Dropout",
    "Flatten",
    "Lambda",
    "Masking",
    "Permute",
    "RepeatVector",
    "Reshape",
    "SpatialDropout1D",
    "SpatialDropout2D",
]


__getattr__ = other_layers
