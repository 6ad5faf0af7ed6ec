"""Locally connected layers: as convolutions, with weights of its own at each place."""

from __future__ import annotations

from typing import Any, ClassVar

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras.layers.base import Sizes
from dtrain.keras.layers.convolutional import _Convolution
from dtrain.keras.names import other_layers
from dtrain.ops.array import expand_dims, reshape, squeeze, transpose
from dtrain.ops.join import concat
from dtrain.ops.linalg import matmul
from dtrain.ops.window import Axis, place_windows

__all__ = ["LocallyConnected1D", "LocallyConnected2D"]


class LocallyConnected2D(_Convolution):
    """activation(windows by their own kernels + their own bias): [batch, h, w, in] -> [batch, h', w', out].

    Its kernel is [h' * w', window's entries * in, filters], its bias [h', w', filters].

    Args:
        filters: channels of the output.
        kernel_size: size of a window, an int or two.
        strides: distance of the windows, an int or two.
        padding: only 'valid'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        activation: a name such as "relu", or a function; by default none.
        use_bias: whether there is a bias.
        implementation: accepted for Keras 2, without effect.
        options: kernel_initializer (glorot_uniform), bias_initializer (zeros), and the same with _regularizer
            and _constraint; and arguments of Layer (name, trainable, input_shape, ...), see
            help(dt.keras.layers.Layer).

    Raises:
        UsageError: padding is 'same', or dilation_rate is not 1.
        GraphError: a size of an example is not known.
    """

    arguments = ("filters", "kernel_size", "strides", "padding", "data_format", "activation", "use_bias")
    roles: ClassVar[dict[str, Any]] = {"kernel": "glorot_uniform", "bias": "zeros"}

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        implementation: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(
            filters, kernel_size, strides, padding, data_format, 1, activation, use_bias, **options
        )
        if self.padding != "valid":
            raise UsageError(f"{self.name}: padding={padding!r} is not supported, only 'valid'.")

    def build(self, input_shape: Sizes) -> None:
        channels = self.channels(input_shape)
        inner = input_shape[2:] if self._first else input_shape[1:-1]
        if None in inner:
            raise GraphError("the sizes of an example have to be known: each place has its own weights")
        self._windows: list[Axis] = [
            place_windows(n, size, by, 1, "VALID")
            for n, size, by in zip(inner, self.kernel_size, self.strides, strict=True)
        ]
        counts = [axis.count for axis in self._windows]
        places, entries = 1, channels
        for axis in self._windows:
            places, entries = places * axis.count, entries * axis.size
        self.kernel = self.weight("kernel", (places, entries, self.filters))
        if self.use_bias:
            self.bias = self.weight("bias", (*counts, self.filters))

    def convolved(self, x: Tensor) -> Tensor:
        """Products of each place's window, over the batch."""
        down, across = (
            self._windows if self.axes == 2 else [place_windows(1, 1, 1, 1, "VALID"), *self._windows]
        )
        x = expand_dims(x, 1) if self.axes == 1 else x
        parts = [x[:, down.under(i), across.under(j)] for i in range(down.size) for j in range(across.size)]
        windows = concat(parts, 3)
        places, entries = down.count * across.count, int(windows.spec.shape[-1])  # type: ignore[index, arg-type]
        flat = transpose(reshape(windows, [-1, places, entries]), [1, 0, 2])
        found = transpose(matmul(flat, self.kernel.value()), [1, 0, 2])
        y = reshape(found, [-1, down.count, across.count, self.filters])
        return squeeze(y, [1]) if self.axes == 1 else y


class LocallyConnected1D(LocallyConnected2D):
    """As LocallyConnected2D, of sequences [batch, steps, channels].

    Args:
        filters: channels of the output.
        kernel_size: size of a window, an int.
        strides: distance of the windows, an int.
        padding: only 'valid'.
        data_format: 'channels_last' (the default) or 'channels_first'.
        activation: a name such as "relu", or a function; by default none.
        use_bias: whether there is a bias.
        implementation: accepted for Keras 2, without effect.
        options: kernel_initializer (glorot_uniform), bias_initializer (zeros), and the same with _regularizer
            and _constraint; and arguments of Layer (name, trainable, input_shape, ...), see
            help(dt.keras.layers.Layer).
    """

    axes = 1


__getattr__ = other_layers
