"""Convolutions of sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.graph.graph import Tensor
from dtrain.ops.array import reshape, transpose
from dtrain.ops.conv import conv2d_transpose as conv2d_transposed
from dtrain.ops.convolutions import conv3d_transpose as conv3d_transposed
from dtrain.ops.convolutions import convolution
from dtrain.ops.convolutions import separable_conv2d as separated
from dtrain.ops.late import shape as sizes_of
from dtrain.ops.math import add
from dtrain.ops.state import Variable
from dtrain.tf1.layers.base import Layer, activated, function, size_along
from dtrain.tf1.layers.core import channels_first


class _Conv(Layer):
    """activation(convolution(inputs, kernel) + bias); padding 'valid' or 'same'."""

    axes: int

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str = "channels_last",
        dilation_rate: Any = 1,
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
        self.filters = int(filters)
        self.kernel_size = _each(kernel_size, self.axes)
        self.strides, self.dilation_rate = _each(strides, self.axes), _each(dilation_rate, self.axes)
        self.padding, self.channels_first = padding.upper(), channels_first(data_format)
        self.activation, self.use_bias = activation, use_bias
        self._kernel = dict(
            initializer=kernel_initializer, regularizer=kernel_regularizer, constraint=kernel_constraint
        )
        self._bias = dict(
            initializer=bias_initializer, regularizer=bias_regularizer, constraint=bias_constraint
        )
        self.kernel: Variable | None = None
        self.bias: Variable | None = None

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            "kernel", [*self.kernel_size, self._channels(input_shape), self.filters], **self._kernel
        )
        self._add_bias()

    def call(self, inputs: Tensor) -> Tensor:
        data_format = "NC" if self.channels_first else None
        y = convolution(
            inputs, self.kernel, self.padding, self.strides, self.dilation_rate, data_format=data_format
        )
        return self._finished(y)

    def _channels(self, input_shape: Any) -> int:
        return size_along(input_shape, 1 if self.channels_first else -1, f"layer {self.name}")

    def _add_bias(self) -> None:
        if self.use_bias:
            self.bias = self.add_weight("bias", [self.filters], **self._bias)

    def _finished(self, y: Tensor) -> Tensor:
        """With the bias and the activation."""
        if self.bias is not None:
            bias = reshape(self.bias, [-1, *[1] * self.axes]) if self.channels_first else self.bias
            y = add(y, bias, name="BiasAdd")
        return activated(self.activation, y)


class Conv1D(_Conv):
    """A convolution of sequences [n, steps, channels]; kernel [size, in, filters]."""

    axes = 1


class Conv2D(_Conv):
    """A convolution of images [n, height, width, channels]; kernel [height, width, in, filters]."""

    axes = 2


class Conv3D(_Conv):
    """A convolution of volumes [n, depth, height, width, channels]; the sizes but n are to be known."""

    axes = 3


class _Transposed(_Conv):
    """The transpose of a convolution; its kernel's last axes are [filters, in]."""

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str = "channels_last",
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
        settings = {k: v for k, v in locals().items() if k not in ("self", "options", "__class__")}
        super().__init__(**settings, **options)

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            "kernel", [*self.kernel_size, self.filters, self._channels(input_shape)], **self._kernel
        )
        self._add_bias()

    def call(self, inputs: Tensor) -> Tensor:
        last = [0, *range(2, self.axes + 2), 1]
        if self.channels_first:
            inputs = transpose(inputs, last)
        to = self.enlarged(inputs, self.kernel_size, self.strides, self.padding)
        by = [1, *self.strides, 1]
        transposed = conv2d_transposed if self.axes == 2 else conv3d_transposed
        y = transposed(inputs, self.kernel, [*to, self.filters], by, self.padding)
        back = [0, self.axes + 1, *range(1, self.axes + 1)]
        return self._finished(transpose(y, back) if self.channels_first else y)

    @staticmethod
    def enlarged(images: Tensor, kernel: Sequence[int], strides: Sequence[int], padding: str) -> list[Any]:
        """The sizes of the result but its channels."""
        now, axes = sizes_of(images), len(kernel)
        sizes: Any = images.spec.shape or (None,) * (axes + 2)
        examples, *old = (now[i] if sizes[i] is None else sizes[i] for i in range(axes + 1))
        rests = [max(k - s, 0) if padding == "VALID" else 0 for k, s in zip(kernel, strides, strict=True)]
        return [examples, *(n * s + rest for n, s, rest in zip(old, strides, rests, strict=True))]


class Conv2DTranspose(_Transposed):
    """The transpose of a convolution, which makes images larger; kernel [height, width, filters, in]."""

    axes = 2


class Conv3DTranspose(_Transposed):
    """The same of volumes; kernel [depth, height, width, filters, in]; the sizes but n are to be known."""

    axes = 3


class SeparableConv2D(_Conv):
    """A convolution of each channel by itself, then one of 1 by 1 over all of them.

    Kernels: depthwise_kernel [height, width, in, depth_multiplier] and pointwise_kernel.
    """

    axes = 2

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str = "channels_last",
        dilation_rate: Any = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = None,
        pointwise_initializer: Any = None,
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        trainable: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            bias_initializer=bias_initializer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            bias_constraint=bias_constraint,
            trainable=trainable,
            name=name,
            **options,
        )
        self.depth_multiplier = depth_multiplier
        self._depthwise = dict(
            initializer=depthwise_initializer,
            regularizer=depthwise_regularizer,
            constraint=depthwise_constraint,
        )
        self._pointwise = dict(
            initializer=pointwise_initializer,
            regularizer=pointwise_regularizer,
            constraint=pointwise_constraint,
        )

    def build(self, input_shape: Any) -> None:
        channels = self._channels(input_shape)
        self.depthwise_kernel = self.add_weight(
            "depthwise_kernel", [*self.kernel_size, channels, self.depth_multiplier], **self._depthwise
        )
        between = channels * self.depth_multiplier
        self.pointwise_kernel = self.add_weight(
            "pointwise_kernel", [1, 1, between, self.filters], **self._pointwise
        )
        self._add_bias()

    def call(self, inputs: Tensor) -> Tensor:
        kernels = self.depthwise_kernel, self.pointwise_kernel
        if self.channels_first:
            inputs = transpose(inputs, [0, 2, 3, 1])
        y = separated(inputs, *kernels, self.strides, self.padding, self.dilation_rate)
        return self._finished(transpose(y, [0, 3, 1, 2]) if self.channels_first else y)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    given = tuple(int(v) for v in value) if hasattr(value, "__len__") else (int(value),)
    return given * axes if len(given) == 1 else given


conv1d, conv2d, conv3d = (
    function(*of) for of in ((Conv1D, "conv1d"), (Conv2D, "conv2d"), (Conv3D, "conv3d"))
)
conv2d_transpose = function(Conv2DTranspose, "conv2d_transpose")
conv3d_transpose = function(Conv3DTranspose, "conv3d_transpose")
separable_conv2d = function(SeparableConv2D, "separable_conv2d")
