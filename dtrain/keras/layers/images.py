"""Layers that work on images [batch, height, width, channels]: convolution and pooling."""

from __future__ import annotations

from typing import Any

from dtrain.errors import UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras import activations, initializers, regularizers
from dtrain.keras.layers.base import Layer, Sizes, channels_last, pair, positive
from dtrain.ops.conv import conv2d
from dtrain.ops.pool import avg_pool, max_pool
from dtrain.ops.reduce import reduce_mean

IMAGES = "images [batch, height, width, channels]"


def _padding(padding: str, name: str) -> str:
    if str(padding).lower() not in ("valid", "same"):
        raise UsageError(f"{name}: padding={padding!r}: give 'valid' (whole windows) or 'same'.")
    return str(padding).lower()


class Conv2D(Layer):
    """activation(convolution + bias): [batch, h, w, channels] -> [batch, h', w', filters].

    Args:
        filters: channels of the output. kernel_size, strides, dilation_rate: one int or two (down, across).
        padding: 'valid' takes whole windows only; 'same' gives sizes of inputs / strides, rounded up.

    Raises:
        UsageError: an argument cannot be meant, or data_format is channels_first.
    """

    arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "activation",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = (1, 1),
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.filters = positive(filters, f"{self.name}: filters")
        self.kernel_size = pair(kernel_size, f"{self.name}: kernel_size")
        self.strides = pair(strides, f"{self.name}: strides")
        self.padding = _padding(padding, self.name)
        self.data_format = channels_last(data_format, self.name)
        self.dilation_rate = pair(dilation_rate, f"{self.name}: dilation_rate")
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 3, IMAGES, "put Reshape((height, width, channels)) before it")
        shape = (*self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight("kernel", shape, self.kernel_initializer, self.kernel_regularizer)
        if self.use_bias:
            self.bias = self.add_weight("bias", (self.filters,), self.bias_initializer, self.bias_regularizer)

    def call(self, x: Tensor, training: Any) -> Tensor:
        y = conv2d(x, self.kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)
        return self.activation(y + self.bias if self.use_bias else y)


class _Pooling2D(Layer):
    """[batch, h, w, channels] -> [batch, h', w', channels]: windows of pool_size, each strides further.

    Args:
        pool_size: one int or two. strides: likewise, by default pool_size. padding: 'valid' or 'same'.
    """

    arguments = ("pool_size", "strides", "padding", "data_format")

    def __init__(
        self,
        pool_size: Any = (2, 2),
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.pool_size = pair(pool_size, f"{self.name}: pool_size")
        self.strides = self.pool_size if strides is None else pair(strides, f"{self.name}: strides")
        self.padding = _padding(padding, self.name)
        self.data_format = channels_last(data_format, self.name)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 3, IMAGES, "put it before Flatten, or Reshape before it")


class MaxPooling2D(_Pooling2D):
    """The largest entry of each window; its arguments are pool_size, strides, padding."""

    def call(self, x: Tensor, training: Any) -> Tensor:
        return max_pool(x, self.pool_size, self.strides, self.padding.upper())


class AveragePooling2D(_Pooling2D):
    """The mean of each window, without the padding; its arguments are pool_size, strides, padding."""

    def call(self, x: Tensor, training: Any) -> Tensor:
        return avg_pool(x, self.pool_size, self.strides, self.padding.upper())


class GlobalAveragePooling2D(Layer):
    """The mean of each channel: [batch, h, w, channels] -> [batch, channels]."""

    arguments = ("data_format",)

    def __init__(self, data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.data_format = channels_last(data_format, self.name)

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, 3, IMAGES, "put it before Flatten, or Reshape before it")

    def call(self, x: Tensor, training: Any) -> Tensor:
        return reduce_mean(x, [1, 2])
