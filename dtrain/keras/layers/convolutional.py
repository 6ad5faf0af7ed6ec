"""Convolutions, and what makes images and sequences larger or smaller.

Images are [batch, height, width, channels], sequences [batch, steps, channels]; with data_format
'channels_first' the channels lie after the batch, and are moved before and after the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras import activations, settings
from dtrain.keras.layers.base import Layer, Sizes, Weighted, batch_size, pair, positive, several, sizes
from dtrain.keras.names import other_layers
from dtrain.ops.array import expand_dims, reshape, squeeze, transpose
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.conv import conv2d, conv2d_transpose
from dtrain.ops.join import pad, tile
from dtrain.ops.linalg import matmul
from dtrain.ops.math import add_n
from dtrain.ops.window import place_windows

__all__ = [
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Cropping1D",
    "Cropping2D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
    "UpSampling1D",
    "UpSampling2D",
    "ZeroPadding1D",
    "ZeroPadding2D",
]

FORMS = {
    3: (
        "volumes [batch, depth, height, width, channels]",
        "put Reshape((depth, height, width, channels)) before it",
    ),
    2: ("images [batch, height, width, channels]", "put Reshape((height, width, channels)) before it"),
    1: ("sequences [batch, steps, channels]", "put Reshape((steps, channels)) before it"),
}


def padding_of(padding: str, name: str, more: Sequence[str] = ()) -> str:
    """'valid' or 'same'; raises UsageError for anything else."""
    if str(padding).lower() not in ("valid", "same", *more):
        raise UsageError(f"{name}: padding={padding!r}: give 'valid' (whole windows) or 'same'.")
    return str(padding).lower()


class Spatial(Layer):
    """Base of layers on images (axes = 2) or sequences (1), wherever their channels lie.

    A subclass says `spatial` of what has its channels last.
    """

    axes = 2
    any_size = True
    _first = False

    def _lies(self, data_format: str | None) -> str:
        """Settle where the channels lie; raises UsageError for what is no place."""
        data_format = data_format or (settings.image_data_format() if self.axes > 1 else "channels_last")
        if data_format not in settings.ORDERINGS.values():
            raise UsageError(
                f"{self.name}: data_format={data_format!r}: give channels_last or channels_first."
            )
        self._first = data_format == "channels_first"
        return data_format

    def build(self, input_shape: Sizes) -> None:
        self.fits(input_shape, self.axes + 1, *FORMS[self.axes])

    def channels(self, input_shape: Sizes) -> int:
        """How many there are in a batch of this shape."""
        self.fits(input_shape, self.axes + 1, *FORMS[self.axes])
        found = input_shape[1 if self._first else -1]
        if found is None:
            raise GraphError("the number of channels has to be known")
        return int(found)

    def call(self, x: Tensor) -> Tensor:
        last = [0, *range(2, self.axes + 2), 1]
        y = self.spatial(transpose(x, last) if self._first else x)
        moved = self._first and len(y.spec.shape or ()) == self.axes + 2
        return transpose(y, [0, self.axes + 1, *range(1, self.axes + 1)]) if moved else y

    def spatial(self, x: Tensor) -> Tensor:
        """The output; both have their channels last."""
        raise NotImplementedError


class _Convolution(Spatial, Weighted):
    """activation(convolution + bias): [batch, ..., channels] -> [batch, ..., filters].

    Args:
        filters: channels of the output. kernel_size, strides, dilation_rate: one int, or one for each
            direction.
        padding: 'valid' takes whole windows only; 'same' gives sizes of inputs / strides, rounded up.
        options: kernel_initializer, bias_initializer, also _regularizer and _constraint; and Layer's.

    Raises:
        UsageError: an argument cannot be meant.
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "activation",
        "use_bias",
    )
    roles: ClassVar[dict[str, Any]] = {"kernel": "glorot_uniform", "bias": "zeros"}
    #: More words that padding may be.
    paddings: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = None,
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.filters = positive(filters, f"{self.name}: filters")
        self.kernel_size = several(kernel_size, self.axes, f"{self.name}: kernel_size")
        self.strides = several(strides, self.axes, f"{self.name}: strides")
        self.padding = padding_of(padding, self.name, self.paddings)
        self.data_format = self._lies(data_format)
        self.dilation_rate = several(dilation_rate, self.axes, f"{self.name}: dilation_rate")
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)

    def build(self, input_shape: Sizes) -> None:
        self.kernel = self.weight("kernel", (*self.kernel_size, self.channels(input_shape), self.filters))
        if self.use_bias:
            self.bias = self.weight("bias", (self.filters,))

    def spatial(self, x: Tensor) -> Tensor:
        y = self.convolved(x)
        return self.activation(y + self.bias if self.use_bias else y)

    def convolved(self, x: Tensor) -> Tensor:
        return conv2d(x, self.kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)


class Conv2D(_Convolution):
    """Convolution of images: activation(convolution(x, kernel) + bias).

    [batch, height, width, channels] -> [batch, height', width', filters]. As TensorFlow's it is a
    cross-correlation.

    Args:
        filters: channels of the output.
        kernel_size: height and width of the kernel, an int or two.
        strides: distance of the windows, an int or two.
        padding: 'valid' (only whole windows) or 'same' (output sizes are input sizes / strides, rounded up).
        data_format: 'channels_last' (the default) or 'channels_first'.
        dilation_rate: distance of the kernel's entries, an int or two.
        activation: a name such as "relu", or a function; by default none.
        use_bias: whether there is a bias, [filters].
        options: kernel_initializer (glorot_uniform), bias_initializer (zeros), and the same with _regularizer
            and _constraint; and arguments of Layer (name, trainable, input_shape, ...), see
            help(dt.keras.layers.Layer).

    Raises:
        UsageError: an argument is invalid.

    Example:
        >>> layer = dt.keras.layers.Conv2D(8, 3, padding="same", activation="relu", input_shape=(28, 28, 1))
        >>> dt.keras.Sequential([layer]).output_shape
        (None, 28, 28, 8)
    """


class Conv1D(_Convolution):
    """Convolution of sequences: [batch, steps, channels] -> [batch, steps', filters].

    Args:
        filters: channels of the output.
        kernel_size: steps of the kernel.
        strides: distance of the windows.
        padding: 'valid', 'same', or 'causal': an output depends on no later step.
        data_format: 'channels_last' (the default) or 'channels_first'.
        dilation_rate: distance of the kernel's entries.
        activation: a name such as "relu", or a function; by default none.
        use_bias: whether there is a bias, [filters].
        options: kernel_initializer (glorot_uniform), bias_initializer (zeros), and the same with _regularizer
            and _constraint; and arguments of Layer, see help(dt.keras.layers.Layer).

    Raises:
        UsageError: an argument is invalid.
    """

    axes = 1
    paddings = ("causal",)

    def convolved(self, x: Tensor) -> Tensor:
        padding = self.padding
        if padding == "causal":
            x = pad(x, [[0, 0], [self.dilation_rate[0] * (self.kernel_size[0] - 1), 0], [0, 0]])
            padding = "valid"
        how = (1, *self.strides), padding.upper()
        y = conv2d(expand_dims(x, 1), expand_dims(self.kernel, 0), *how, dilations=(1, *self.dilation_rate))
        return squeeze(y, [1])


class Conv2DTranspose(_Convolution):
    """The transpose of Conv2D, which makes images larger: sizes are multiplied by strides.

    Args:
        filters: channels of the output.
        kernel_size: height and width of the kernel, an int or two.
        more: as for Conv2D, in its order: strides, padding, data_format, dilation_rate, activation, use_bias.
        output_padding: rows and columns that are added at the end, an int or two, less than strides; None
            lets the sizes follow from the others.
        options: as for Conv2D.

    Raises:
        UsageError: an argument is invalid.
    """

    arguments = (*_Convolution.arguments, "output_padding")

    def __init__(
        self, filters: int, kernel_size: Any, *more: Any, output_padding: Any = None, **options: Any
    ):
        super().__init__(filters, kernel_size, *more, **options)
        self.output_padding = output_padding
        if output_padding is None:
            return
        self.output_padding = several(output_padding, self.axes, f"{self.name}: output_padding", 0)
        if any(p >= s for p, s in zip(self.output_padding, self.strides, strict=True)):
            raise UsageError(
                f"{self.name}: output_padding={output_padding!r}: give less than strides={self.strides}."
            )

    def build(self, input_shape: Sizes) -> None:
        self.kernel = self.weight("kernel", (*self.kernel_size, self.filters, self.channels(input_shape)))
        if self.use_bias:
            self.bias = self.weight("bias", (self.filters,))

    def convolved(self, x: Tensor) -> Tensor:
        size = [batch_size(x), *self._larger(x), self.filters]
        kernel = _spread(self.kernel, self.dilation_rate)
        return conv2d_transpose(x, kernel, size, self.strides, self.padding.upper())

    def _larger(self, x: Tensor) -> list[int]:
        """The sizes of the output, as Keras has them."""
        shape: Any = x.spec.shape
        if None in shape[1:-1]:
            raise GraphError("the sizes of its images have to be known")
        found, same = [], self.padding == "same"
        extra = self.output_padding or [None] * self.axes
        how = zip(shape[1:-1], self.strides, self.kernel_size, self.dilation_rate, extra, strict=True)
        for n, s, k, d, more in how:
            reach = (k - 1) * d + 1
            if more is None:
                found.append(n * s if same else n * s + max(reach - s, 0))
            else:
                found.append((n - 1) * s + reach - (reach // 2 * 2 if same else 0) + more)
        return found


def _spread(kernel: Any, dilations: Sequence[int]) -> Any:
    """A kernel with zeros between its entries, so many places apart."""
    for axis, apart in enumerate(dilations):
        if apart > 1:
            sizes = kernel.shape.as_list()
            ends = [[0, 0]] * (len(sizes) + 1)
            ends[axis + 1] = [0, apart - 1]
            wide = reshape(pad(expand_dims(kernel, axis + 1), ends), [*sizes[:axis], -1, *sizes[axis + 1 :]])
            kernel = wide[tuple([slice(None)] * axis + [slice(0, (sizes[axis] - 1) * apart + 1)])]
    return kernel


class DepthwiseConv2D(Spatial, Weighted):
    """A convolution of each channel with its own kernels.

    Args:
        kernel_size: height and width of the kernel, an int or two.
        strides: distance of the windows, an int or two.
        padding: 'valid' or 'same'.
        depth_multiplier: kernels of each channel.
        data_format: 'channels_last' (the default) or 'channels_first'.
        activation: a name such as "relu", or a function; by default none.
        use_bias: whether there is a bias.
        dilation_rate: distance of the kernel's entries, an int or two.
        options: depthwise_initializer, bias_initializer, and the same with _regularizer and _constraint; and
            arguments of Layer, see help(dt.keras.layers.Layer).

    Raises:
        UsageError: an argument is invalid.
    """

    arguments = (
        "kernel_size",
        "strides",
        "padding",
        "depth_multiplier",
        "data_format",
        "activation",
        "use_bias",
        "dilation_rate",
    )
    roles: ClassVar[dict[str, Any]] = {"depthwise": "glorot_uniform", "bias": "zeros"}

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        dilation_rate: Any = 1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.dilation_rate = pair(dilation_rate, f"{self.name}: dilation_rate")
        self.kernel_size = pair(kernel_size, f"{self.name}: kernel_size")
        self.strides = pair(strides, f"{self.name}: strides")
        self.padding = padding_of(padding, self.name)
        self.depth_multiplier = positive(depth_multiplier, f"{self.name}: depth_multiplier")
        self.data_format = self._lies(data_format)
        self.activation, self.use_bias = activations.get(activation), bool(use_bias)

    def build(self, input_shape: Sizes) -> None:
        channels = self.channels(input_shape)
        self.depthwise_kernel = self.weight("depthwise", (*self.kernel_size, channels, self.depth_multiplier))
        if self.use_bias:
            self.bias = self.weight("bias", (channels * self.depth_multiplier,))

    def spatial(self, x: Tensor) -> Tensor:
        y = depthwise(x, self.depthwise_kernel, self.strides, self.padding, self.dilation_rate)
        return self.activation(y + self.bias if self.use_bias else y)


def depthwise(
    x: Tensor, kernel: Any, strides: Sequence[int], padding: str, dilations: Sequence[int] = (1, 1)
) -> Tensor:
    """Images by a kernel [height, width, channels, multiplier], each channel by its own."""
    shape: Any = x.spec.shape
    if None in shape[1:3]:
        raise GraphError("height and width have to be known")
    kernel = convert_to_tensor(kernel)
    rows, columns, channels, times = kernel.shape.as_list()
    found, pads = [], []
    for n, k, s, d in zip(shape[1:3], (rows, columns), strides, dilations, strict=True):
        axis = place_windows(n, k, s, d, padding.upper())
        found.append(axis.count)
        pads.append([axis.before, axis.after])
    x = pad(x, [[0, 0], *pads, [0, 0]]) if any(map(any, pads)) else x
    if times > 1:  # each channel beside itself
        x = reshape(tile(expand_dims(x, -1), [1, 1, 1, 1, times]), [-1, *x.spec.shape[1:3], channels * times])  # type: ignore[index]  # its rank is known
    flat = reshape(kernel, [rows, columns, channels * times])
    (h, w), (down, across), (low, wide) = found, strides, dilations
    rows_at = [slice(i, i + (h - 1) * down + 1, down) for i in range(0, rows * low, low)]
    columns_at = [slice(j, j + (w - 1) * across + 1, across) for j in range(0, columns * wide, wide)]
    parts = [x[:, r, c] * flat[i, j] for i, r in enumerate(rows_at) for j, c in enumerate(columns_at)]
    return add_n(parts)


class SeparableConv2D(_Convolution):
    """A depthwise convolution, then one of 1 by 1 that mixes the channels (Chollet 2017).

    Args:
        filters: channels of the output.
        kernel_size: height and width of the kernel, an int or two.
        more: as for Conv2D, in its order: strides, padding, data_format, dilation_rate, activation, use_bias.
        depth_multiplier: kernels of each channel.
        options: depthwise_initializer, pointwise_initializer, bias_initializer, and the same with
            _regularizer and _constraint; and as for Conv2D.

    Raises:
        UsageError: an argument is invalid.
    """

    arguments = (*_Convolution.arguments, "depth_multiplier")
    roles: ClassVar[dict[str, Any]] = {
        "depthwise": "glorot_uniform",
        "pointwise": "glorot_uniform",
        "bias": "zeros",
    }

    def __init__(self, filters: int, kernel_size: Any, *more: Any, depth_multiplier: int = 1, **options: Any):
        super().__init__(filters, kernel_size, *more, **options)
        self.depth_multiplier = positive(depth_multiplier, f"{self.name}: depth_multiplier")

    def build(self, input_shape: Sizes) -> None:
        channels = self.channels(input_shape)
        wide = channels * self.depth_multiplier
        self.depthwise_kernel = self.weight("depthwise", (*self.kernel_size, channels, self.depth_multiplier))
        self.pointwise_kernel = self.weight("pointwise", (*[1] * self.axes, wide, self.filters))
        if self.use_bias:
            self.bias = self.weight("bias", (self.filters,))

    def convolved(self, x: Tensor) -> Tensor:
        wide = depthwise(x, self.depthwise_kernel, self.strides, self.padding, self.dilation_rate)
        return conv2d(wide, self.pointwise_kernel, 1, "VALID")


class SeparableConv1D(SeparableConv2D):
    """SeparableConv2D of sequences: [batch, steps, channels] -> [batch, steps', filters].

    Args:
        filters: channels of the output.
        kernel_size: steps of the kernel.
        more: as for Conv1D, in its order: strides, padding, data_format, dilation_rate, activation, use_bias.
        depth_multiplier: kernels of each channel.
        options: as for SeparableConv2D.

    Raises:
        UsageError: an argument is invalid.
    """

    axes = 1
    paddings = ("causal",)

    def convolved(self, x: Tensor) -> Tensor:
        padding = self.padding
        if padding == "causal":
            x = pad(x, [[0, 0], [self.dilation_rate[0] * (self.kernel_size[0] - 1), 0], [0, 0]])
            padding = "valid"
        kernels = [expand_dims(k, 0) for k in (self.depthwise_kernel, self.pointwise_kernel)]
        how = (1, *self.strides), padding, (1, *self.dilation_rate)
        return squeeze(conv2d(depthwise(expand_dims(x, 1), kernels[0], *how), kernels[1], 1, "VALID"), [1])


# -- larger and smaller ----------------------------------------------------------------------------------
class UpSampling2D(Spatial):
    """Images [batch, height, width, channels] with each row and column repeated.

    Args:
        size: how many times, an int or (down, across).
        data_format: 'channels_last' (the default) or 'channels_first'.
        interpolation: 'nearest', or 'bilinear' between the middles of pixels, as since Keras 2.3.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments: ClassVar[tuple[str, ...]] = ("size", "data_format", "interpolation")

    def __init__(
        self,
        size: Any = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.size = several(size, self.axes, f"{self.name}: size")
        self.data_format = self._lies(data_format)
        if interpolation not in ("nearest", "bilinear"):
            raise UsageError(f"{self.name}: interpolation={interpolation!r}: give 'nearest' or 'bilinear'.")
        self.interpolation = interpolation

    def spatial(self, x: Tensor) -> Tensor:
        shape: Any = x.spec.shape
        if None in shape[1:]:
            raise GraphError("the sizes of an example have to be known")
        for axis, times in enumerate(self.size, 1):
            if times == 1:
                continue
            if self.interpolation == "bilinear":
                x = _between(x, axis, times)
                continue
            shape = x.spec.shape
            ones = [1] * (len(shape) + 1)
            ones[axis + 1] = times
            larger = [-1, *shape[1:axis], shape[axis] * times, *shape[axis + 1 :]]
            x = reshape(tile(expand_dims(x, axis + 1), ones), larger)
        return x


def _between(x: Tensor, axis: int, times: int) -> Tensor:
    """An axis made so many times as long, by lines between the middles of its entries."""
    dims: Any = x.spec.shape
    count = dims[axis]
    places = np.clip((np.arange(count * times) + 0.5) / times - 0.5, 0, count - 1)
    mix = np.maximum(1 - np.abs(places - np.arange(count)[:, None]), 0).astype(np.float32)
    order = [i for i in range(len(dims)) if i != axis] + [axis]
    return transpose(matmul(transpose(x, order), mix), np.argsort(order).tolist())


class UpSampling1D(UpSampling2D):
    """Sequences [batch, steps, channels] with each step repeated.

    Args:
        size: how many times.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 1
    arguments = ("size",)

    def __init__(self, size: int = 2, **options: Any) -> None:
        super().__init__(size, **options)


def _ends(value: Any, count: int, what: str) -> list[list[int]]:
    """[before, after] of each direction, of one int, one for each, or such pairs."""
    if not isinstance(value, list | tuple):
        return [[sizes(value, what)[0]] * 2] * count
    if count == 1:
        return [list(several(value, 2, what, 0))]
    if len(value) != count:
        raise UsageError(f"{what}={value!r}: give an int, {count} of them, or {count} pairs of them.")
    return [list(several(v, 2, what, 0)) for v in value]


class ZeroPadding2D(Spatial):
    """Images [batch, height, width, channels] with rows and columns of zeros around them.

    Args:
        padding: an int, (down, across), or ((top, bottom), (left, right)).
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments: ClassVar[tuple[str, ...]] = ("padding", "data_format")

    def __init__(self, padding: Any = (1, 1), data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.padding = _ends(padding, self.axes, f"{self.name}: padding")
        self.data_format = self._lies(data_format)

    def spatial(self, x: Tensor) -> Tensor:
        return pad(x, [[0, 0], *self.padding, [0, 0]])


class ZeroPadding1D(ZeroPadding2D):
    """Sequences [batch, steps, channels] with steps of zeros around them.

    Args:
        padding: an int, or (before, after).
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 1
    arguments = ("padding",)

    def __init__(self, padding: Any = 1, **options: Any) -> None:
        super().__init__(padding, **options)


class Cropping2D(Spatial):
    """Images [batch, height, width, channels] without their outer rows and columns.

    Args:
        cropping: an int, (down, across), or ((top, bottom), (left, right)).
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments: ClassVar[tuple[str, ...]] = ("cropping", "data_format")

    def __init__(
        self, cropping: Any = ((0, 0), (0, 0)), data_format: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.cropping = _ends(cropping, self.axes, f"{self.name}: cropping")
        self.data_format = self._lies(data_format)

    def spatial(self, x: Tensor) -> Tensor:
        ends = [slice(before, -behind or None) for before, behind in self.cropping]
        return x[tuple([slice(None), *ends])]


class Cropping1D(Cropping2D):
    """Sequences [batch, steps, channels] without their outer steps.

    Args:
        cropping: an int, or (before, after).
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 1
    arguments = ("cropping",)

    def __init__(self, cropping: Any = (1, 1), **options: Any) -> None:
        super().__init__(cropping, **options)


__getattr__ = other_layers
