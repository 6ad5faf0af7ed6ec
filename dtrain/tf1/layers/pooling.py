"""Pooling of sequences [n, steps, channels] and images [n, height, width, channels]."""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor
from dtrain.ops.array import expand_dims, squeeze, transpose
from dtrain.ops.convolutions import avg_pool3d, max_pool3d
from dtrain.ops.pool import avg_pool, max_pool
from dtrain.ops.window import two
from dtrain.tf1.layers.base import Layer, function
from dtrain.tf1.layers.core import channels_first


class _Pooling2D(Layer):
    _pool: Any

    def __init__(
        self,
        pool_size: Any,
        strides: Any,
        padding: str = "valid",
        data_format: str = "channels_last",
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.pool_size, self.strides = two(pool_size, "pool_size"), two(strides, "strides")
        self.padding, self.channels_first = padding.upper(), channels_first(data_format)

    def call(self, inputs: Tensor) -> Tensor:
        if self.channels_first:
            inputs = transpose(inputs, [0, 2, 3, 1])
        pooled = type(self)._pool(inputs, self.pool_size, self.strides, self.padding)
        return transpose(pooled, [0, 3, 1, 2]) if self.channels_first else pooled


class _Pooling1D(Layer):
    _pool: Any

    def __init__(
        self,
        pool_size: Any,
        strides: Any,
        padding: str = "valid",
        data_format: str = "channels_last",
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.pool_size, self.strides = two(pool_size, "pool_size")[0], two(strides, "strides")[0]
        self.padding, self.channels_first = padding.upper(), channels_first(data_format)

    def call(self, inputs: Tensor) -> Tensor:
        if self.channels_first:
            inputs = transpose(inputs, [0, 2, 1])
        rows = expand_dims(inputs, 2)
        pooled = squeeze(type(self)._pool(rows, [self.pool_size, 1], [self.strides, 1], self.padding), [2])
        return transpose(pooled, [0, 2, 1]) if self.channels_first else pooled


class MaxPooling1D(_Pooling1D):
    """The largest of each window of steps."""

    _pool = staticmethod(max_pool)


class AveragePooling1D(_Pooling1D):
    """The mean of each window of steps."""

    _pool = staticmethod(avg_pool)


class MaxPooling2D(_Pooling2D):
    """The largest entry of each window."""

    _pool = staticmethod(max_pool)


class AveragePooling2D(_Pooling2D):
    """The mean of each window, without the padding."""

    _pool = staticmethod(avg_pool)


class _Pooling3D(Layer):
    _pool: Any

    def __init__(
        self,
        pool_size: Any,
        strides: Any,
        padding: str = "valid",
        data_format: str = "channels_last",
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.pool_size, self.strides = _three(pool_size), _three(strides)
        self.padding, self.channels_first = padding.upper(), channels_first(data_format)

    def call(self, inputs: Tensor) -> Tensor:
        if self.channels_first:
            inputs = transpose(inputs, [0, 2, 3, 4, 1])
        pooled = type(self)._pool(inputs, self.pool_size, self.strides, self.padding)
        return transpose(pooled, [0, 4, 1, 2, 3]) if self.channels_first else pooled


def _three(size: Any) -> list[int]:
    """[1, depth, height, width, 1] of one number or three."""
    given = [int(n) for n in size] if hasattr(size, "__len__") else [int(size)] * 3
    if len(given) != 3:
        raise GraphError(f"pooling of volumes: {size!r}: give one number, or three.")
    return [1, *given, 1]


class MaxPooling3D(_Pooling3D):
    """The largest entry of each window of volumes [n, depth, height, width, channels]."""

    _pool = staticmethod(max_pool3d)


class AveragePooling3D(_Pooling3D):
    """The mean of each window of volumes, without the padding."""

    _pool = staticmethod(avg_pool3d)


max_pooling3d = function(MaxPooling3D, "max_pooling3d")
average_pooling3d = function(AveragePooling3D, "average_pooling3d")
max_pooling1d = function(MaxPooling1D, "max_pooling1d")
average_pooling1d = function(AveragePooling1D, "average_pooling1d")
max_pooling2d = function(MaxPooling2D, "max_pooling2d")
average_pooling2d = function(AveragePooling2D, "average_pooling2d")
