"""Layers on volumes [batch, depth, height, width, channels], whose sizes but the batch's are known."""

from __future__ import annotations

from typing import Any

from dtrain.graph.graph import Tensor
from dtrain.keras.layers.convolutional import Cropping2D, UpSampling2D, ZeroPadding2D, _Convolution
from dtrain.keras.layers.core import Dropout
from dtrain.keras.layers.pooling import _Global, _Pooling
from dtrain.keras.names import other_layers
from dtrain.ops.convolutions import avg_pool3d, conv3d, max_pool3d
from dtrain.ops.reduce import reduce_max, reduce_mean

__all__ = [
    "AveragePooling3D",
    "Conv3D",
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
        strides, apart = [1, *self.strides, 1], [1, *self.dilation_rate, 1]
        return conv3d(x, self.kernel, strides, self.padding.upper(), dilations=apart)


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
