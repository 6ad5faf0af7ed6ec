"""Pooling of images and sequences."""

from __future__ import annotations

from typing import Any

from dtrain.graph.graph import Tensor
from dtrain.keras.layers.base import several
from dtrain.keras.layers.convolutional import Spatial, padding_of
from dtrain.keras.names import other_layers
from dtrain.ops.array import expand_dims, squeeze
from dtrain.ops.math import cast
from dtrain.ops.pool import avg_pool, max_pool
from dtrain.ops.reduce import reduce_max, reduce_mean, reduce_sum

__all__ = [
    "AveragePooling1D",
    "AveragePooling2D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "MaxPooling1D",
    "MaxPooling2D",
]


class _Pooling(Spatial):
    """[batch, h, w, channels] -> [batch, h', w', channels]: windows of pool_size, each strides further.

    Args:
        pool_size: one int or two. strides: also one or two, by default pool_size. padding: 'valid' or 'same'.
    """

    arguments = ("pool_size", "strides", "padding", "data_format")

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.pool_size = several(pool_size, self.axes, f"{self.name}: pool_size")
        what = f"{self.name}: strides"
        self.strides = self.pool_size if strides is None else several(strides, self.axes, what)
        self.padding = padding_of(padding, self.name)
        self.data_format = self._lies(data_format)

    def spatial(self, x: Tensor) -> Tensor:
        if self.axes == 2:
            return self.pooled(x, self.pool_size, self.strides, self.padding.upper())
        y = self.pooled(expand_dims(x, 1), (1, *self.pool_size), (1, *self.strides), self.padding.upper())
        return squeeze(y, [1])

    def pooled(self, x: Tensor, size: Any, strides: Any, padding: str) -> Tensor:
        raise NotImplementedError


class MaxPooling2D(_Pooling):
    """The largest entry of each window of images [batch, height, width, channels].

    Args:
        pool_size: size of a window, an int or (down, across).
        strides: distance of the windows; by default pool_size.
        padding: 'valid' or 'same'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    def pooled(self, x: Tensor, size: Any, strides: Any, padding: str) -> Tensor:
        return max_pool(x, size, strides, padding)


class AveragePooling2D(_Pooling):
    """The mean of each window of images [batch, height, width, channels], padding not counted.

    Args:
        pool_size: size of a window, an int or (down, across).
        strides: distance of the windows; by default pool_size.
        padding: 'valid' or 'same'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    def pooled(self, x: Tensor, size: Any, strides: Any, padding: str) -> Tensor:
        return avg_pool(x, size, strides, padding)


class MaxPooling1D(MaxPooling2D):
    """The largest entry of each window of sequences [batch, steps, channels].

    Args:
        pool_size: steps of a window.
        strides: distance of the windows; by default pool_size.
        padding: 'valid' or 'same'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 1


class AveragePooling1D(AveragePooling2D):
    """The mean of each window of sequences [batch, steps, channels], padding not counted.

    Args:
        pool_size: steps of a window.
        strides: distance of the windows; by default pool_size.
        padding: 'valid' or 'same'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 1


class _Global(Spatial):
    arguments = ("data_format",)

    def __init__(self, data_format: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.data_format = self._lies(data_format)


class GlobalAveragePooling2D(_Global):
    """The mean of each channel: [batch, height, width, channels] -> [batch, channels].

    Args:
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    def spatial(self, x: Tensor) -> Tensor:
        return reduce_mean(x, [1, 2])


class GlobalMaxPooling2D(_Global):
    """The largest entry of each channel: [batch, height, width, channels] -> [batch, channels].

    Args:
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    def spatial(self, x: Tensor) -> Tensor:
        return reduce_max(x, [1, 2])


class GlobalMaxPooling1D(_Global):
    """The largest entry of each channel: [batch, steps, channels] -> [batch, channels].

    Args:
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 1

    def spatial(self, x: Tensor) -> Tensor:
        return reduce_max(x, 1)


class GlobalAveragePooling1D(_Global):
    """The mean of each channel over the steps: [batch, steps, channels] -> [batch, channels].

    Steps that a mask leaves out are not counted.

    Args:
        data_format: 'channels_last' (the default) or 'channels_first'.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    axes = 1

    def call(self, x: Tensor, mask: Any = None) -> Tensor:
        if mask is None:
            return super().call(x)
        counts = expand_dims(cast(mask, x.dtype), 1 if self._first else -1)
        steps = 2 if self._first else 1
        return reduce_sum(x * counts, steps) / reduce_sum(counts, steps)

    def spatial(self, x: Tensor) -> Tensor:
        return reduce_mean(x, 1)


__getattr__ = other_layers
