"""Layers on volumes [batch, depth, height, width, channels], whose sizes but the batch's are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.graph.graph import Tensor
from dtrain.keras.layers.convolutional import (
    Conv2DTranspose,
    Cropping2D,
    UpSampling2D,
    ZeroPadding2D,
    _Convolution,
    _spread,
)
from dtrain.keras.layers.core import Dropout
from dtrain.keras.layers.pooling import _Global, _Pooling
from dtrain.keras.names import other_layers
from dtrain.ops.array import expand_dims, reshape, transpose
from dtrain.ops.base import placeholder
from dtrain.ops.convolutions import avg_pool3d, conv3d, max_pool3d
from dtrain.ops.join import pad, reverse
from dtrain.ops.reduce import reduce_max, reduce_mean
from dtrain.ops.window import place_windows, window_count

__all__ = [
    "AveragePooling3D",
    "Conv3D",
    "Conv3DTranspose",
    "Cropping3D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling3D",
    "MaxPooling3D",
    "SpatialDropout3D",
    "UpSampling3D",
    "ZeroPadding3D",
]


class Conv3D(_Convolution):
    """Convolution of volumes: [batch, d, h, w, channels] -> [batch, d', h', w', filters].

    Args:
        filters: channels of the output.
        kernel_size: depth, height and width of the kernel, an int or three.
        strides: distance of the windows, an int or three.
        padding: 'valid' (only whole windows) or 'same' (output sizes are input sizes / strides, rounded up).
        data_format: 'channels_last' (the default) or 'channels_first'.
        dilation_rate: distance of the kernel's entries, an int or three.
        activation: a name such as "relu", or a function; by default none.
        use_bias: whether there is a bias, [filters].
        options: kernel_initializer (glorot_uniform), bias_initializer (zeros), and the same with _regularizer
            and _constraint; and arguments of Layer (name, trainable, input_shape, ...), see
            help(dt.keras.layers.Layer).
    """

    axes = 3

    def convolved(self, x: Tensor) -> Tensor:
        inner: Any = (x.spec.shape or ())[1:4]
        if None in inner:  # defines a model, and is called anew on volumes whose sizes are known
            how = zip(inner, self.kernel_size, self.strides, self.dilation_rate, strict=True)
            counts = [window_count(n, k, s, d, self.padding.upper()) for n, k, s, d in how]
            return placeholder("float32", [None, *counts, self.filters])
        strides, apart = [1, *self.strides, 1], [1, *self.dilation_rate, 1]
        return conv3d(x, self.kernel, strides, self.padding.upper(), dilations=apart)


class Conv3DTranspose(Conv2DTranspose):
    """The transpose of Conv3D, which makes volumes larger: sizes are multiplied by strides.

    Args:
        filters: channels of the output.
        kernel_size: depth, height and width of the kernel, an int or three.
        more: as for Conv3D, in its order: strides, padding, data_format, dilation_rate, activation, use_bias.
        output_padding: slices, rows and columns that are added at the end, an int or three; as of
            Conv2DTranspose.
        options: as for Conv3D.
    """

    axes = 3

    def convolved(self, x: Tensor) -> Tensor:
        kernel = _spread(self.kernel, self.dilation_rate)
        dims: Any = x.spec.shape
        reach, inner = kernel.shape.as_list()[:3], dims[1:4]
        ends = []
        for size, k, s, n in zip(self._larger(x), reach, self.strides, inner, strict=True):
            before = k - 1 - place_windows(size, k, s, 1, self.padding.upper()).before
            ends.append([before, size + k - 1 - before - ((n - 1) * s + 1)])
        # each place of the output sees what put something there: a convolution with the kernel turned around
        x = pad(_apart(x, self.strides), [[0, 0], *ends, [0, 0]])
        return conv3d(x, transpose(reverse(kernel, [0, 1, 2]), [0, 1, 2, 4, 3]), [1] * 5, "VALID")


def _apart(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Volumes with zeros between their entries, so many places apart."""
    for axis, by in enumerate(strides, 1):
        if by > 1:
            dims: Any = x.spec.shape
            ends = [[0, 0]] * 6
            ends[axis + 1] = [0, by - 1]
            wide = reshape(
                pad(expand_dims(x, axis + 1), ends), [-1, *dims[1:axis], dims[axis] * by, *dims[axis + 1 :]]
            )
            x = wide[tuple([slice(None)] * axis + [slice(0, (dims[axis] - 1) * by + 1)])]
    return x


class MaxPooling3D(_Pooling):
    """The largest entry of each window of volumes [batch, depth, height, width, channels].

    Args:
        pool_size: size of a window, an int or three.
        strides: distance of the windows; by default pool_size.
        padding: 'valid' or 'same'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 3

    def spatial(self, x: Tensor) -> Tensor:
        return max_pool3d(x, [1, *self.pool_size, 1], [1, *self.strides, 1], self.padding.upper())


class AveragePooling3D(_Pooling):
    """The mean of each window of volumes [batch, depth, height, width, channels].

    Args:
        pool_size: size of a window, an int or three.
        strides: distance of the windows; by default pool_size.
        padding: only 'valid'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 3

    def spatial(self, x: Tensor) -> Tensor:
        return avg_pool3d(x, [1, *self.pool_size, 1], [1, *self.strides, 1], self.padding.upper())


class GlobalAveragePooling3D(_Global):
    """The mean of each channel: [batch, d, h, w, channels] -> [batch, channels].

    Args:
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 3

    def spatial(self, x: Tensor) -> Tensor:
        return reduce_mean(x, [1, 2, 3])


class GlobalMaxPooling3D(_Global):
    """The largest entry of each channel: [batch, d, h, w, channels] -> [batch, channels].

    Args:
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 3

    def spatial(self, x: Tensor) -> Tensor:
        return reduce_max(x, [1, 2, 3])


class UpSampling3D(UpSampling2D):
    """Volumes enlarged: each slice, row and column several times.

    Args:
        size: how often each is repeated, an int or three.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 3
    arguments = ("size", "data_format")

    def __init__(self, size: Any = (2, 2, 2), data_format: str | None = None, **options: Any) -> None:
        super().__init__(size, data_format, **options)


class ZeroPadding3D(ZeroPadding2D):
    """Volumes with zeros around them.

    Args:
        padding: how many on each side: an int, three, or three pairs (before, after).
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 3

    def __init__(self, padding: Any = (1, 1, 1), data_format: str | None = None, **options: Any) -> None:
        super().__init__(padding, data_format, **options)


class Cropping3D(Cropping2D):
    """Volumes without their outer entries.

    Args:
        cropping: how many on each side: an int, three, or three pairs (before, after).
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 3

    def __init__(self, cropping: Any = (1, 1, 1), data_format: str | None = None, **options: Any) -> None:
        super().__init__(cropping, data_format, **options)


class SpatialDropout3D(Dropout):
    """Dropout of whole channels of volumes, which lie along the last axis.

    Args:
        rate: the probability that a channel is dropped.
        noise_shape: as of Dropout; by default one entry for each channel.
        seed: makes the mask different from those of other layers.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("rate", "seed")

    def _noise(self, x: Tensor) -> Any:
        return [None, 1, 1, 1, x.spec.shape[-1]]  # type: ignore[index]


__getattr__ = other_layers
