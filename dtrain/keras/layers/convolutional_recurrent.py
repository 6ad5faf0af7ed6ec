"""Recurrent layers whose products are convolutions, on sequences of images and the like (Shi et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from dtrain.graph.graph import Tensor
from dtrain.keras.layers.base import Sizes, positive, several
from dtrain.keras.layers.convolutional import FORMS, Spatial, padding_of
from dtrain.keras.layers.recurrent import LSTMCell, _build, _OfCell
from dtrain.keras.names import other_layers
from dtrain.ops.array import expand_dims, reshape, squeeze, transpose
from dtrain.ops.conv import conv2d
from dtrain.ops.convolutions import conv3d
from dtrain.ops.window import place_windows

__all__ = ["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"]


class _ConvLSTMCell(LSTMCell, Spatial):  # type: ignore[misc]  # called as a cell
    """LSTMCell with convolutions for products; its states are [batch, ..., filters]."""

    arguments: ClassVar[tuple[str, ...]] = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        *(name for name in LSTMCell.arguments if name != "units"),
    )

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        *more: Any,
        **options: Any,
    ) -> None:
        super().__init__(filters, *more, **options)
        self.filters = positive(filters, f"{self.name}: filters")
        self.kernel_size = several(kernel_size, self.axes, f"{self.name}: kernel_size")
        self.strides = several(strides, self.axes, f"{self.name}: strides")
        self.padding = padding_of(padding, self.name)
        self.data_format = self._lies(data_format)
        self.dilation_rate = several(dilation_rate, self.axes, f"{self.name}: dilation_rate")

    def build(self, input_shape: Sizes) -> None:
        LSTMCell.build(self, (None, self.channels(input_shape)))
        inner = input_shape[2:] if self._first else input_shape[1:-1]
        how = zip(inner, self.kernel_size, self.strides, self.dilation_rate, strict=True)
        #: The sizes of a state besides the batch's and its filters.
        self.space = [
            None if n is None else place_windows(n, k, s, d, self.padding.upper()).count for n, k, s, d in how
        ]

    def window(self) -> tuple[int, ...]:
        return self.kernel_size

    def of_inputs(self, x: Tensor) -> Tensor:
        shape: Any = x.spec.shape
        flat = reshape(x, [-1, *shape[2:]])
        y = _convolution(flat, self.kernel, self.strides, self.padding.upper(), self.dilation_rate)
        return reshape(y, [-1, shape[1], *y.spec.shape[1:]])  # type: ignore[index]  # its rank is known

    def of_state(self, h: Tensor) -> Tensor:
        return _convolution(h, self.recurrent_kernel, [1] * self.axes, "SAME", [1] * self.axes)


def _convolution(
    x: Tensor, kernel: Any, strides: Sequence[int], padding: str, dilations: Sequence[int]
) -> Tensor:
    """Of sequences, images or volumes, whose channels are last."""
    if len(strides) == 3:
        return conv3d(x, kernel, [1, *strides, 1], padding, dilations=[1, *dilations, 1])
    if len(strides) == 2:
        return conv2d(x, kernel, strides, padding, dilations=dilations)
    y = conv2d(expand_dims(x, 1), expand_dims(kernel, 0), (1, *strides), padding, dilations=(1, *dilations))
    return squeeze(y, [1])


class ConvLSTM2D(_OfCell):
    """An LSTM on sequences of images, with convolutions for products, as Keras 3 has it.

    [batch, steps, height, width, channels] -> [batch, height', width', filters].

    Args:
        filters: channels of the output, and of the states h and c.
        kernel_size: height and width of both kernels, an int or two.
        more: strides, padding, data_format and dilation_rate of the convolution of the inputs, as of Conv2D;
            then activation (tanh), recurrent_activation (sigmoid), use_bias, unit_forget_bias.
        options: the same by their names; LSTMCell's arguments; RNN's (return_sequences, return_state,
            go_backwards, stateful, ...), see help(dt.keras.layers.RNN); and Layer's.

    Raises:
        UsageError: an argument is invalid.

    Example:
        >>> layer = dt.keras.layers.ConvLSTM2D(4, 3, padding="same", input_shape=(5, 8, 8, 1))
        >>> dt.keras.Sequential([layer]).output_shape
        (None, 8, 8, 4)
    """

    axes = 2

    class kind(_ConvLSTMCell):
        axes = 2

    def __init__(self, filters: int, kernel_size: Any, *more: Any, **options: Any) -> None:
        super().__init__(filters, kernel_size, *more, **options)
        self.filters, self.kernel_size = self.cell.filters, self.cell.kernel_size

    def build(self, input_shape: Sizes) -> None:
        form, fix = FORMS[self.axes]
        form, fix = (
            words.replace("batch, ", "batch, steps, ").replace("((", "((steps, ") for words in (form, fix)
        )
        self.fits(input_shape, self.axes + 2, f"sequences of {form}", fix)
        _build(self.cell, (input_shape[0], *input_shape[2:]))

    def call(self, x: Tensor, mask: Any = None, training: Any = None, initial_state: Any = None) -> Any:
        if not self.cell._first:
            return super().call(x, mask, training, initial_state)
        x = transpose(x, [0, 1, *range(3, self.axes + 3), 2])
        states = [transpose(s, [0, *range(2, self.axes + 2), 1]) for s in initial_state or ()]
        found = super().call(x, mask, training, states or None)
        moved = [self._channels_first(t) for t in (found if isinstance(found, list) else [found])]
        return moved if isinstance(found, list) else moved[0]

    def _channels_first(self, y: Tensor) -> Tensor:
        rank = len(y.spec.shape or ())
        before = rank - self.axes - 1  # the axes of the batch and, in a sequence, of the steps
        return transpose(y, [*range(before), rank - 1, *range(before, rank - 1)])

    def state_sizes(self, size: Any) -> tuple[Any, ...]:
        return (*self.cell.space, size)


class ConvLSTM1D(ConvLSTM2D):
    """An LSTM on sequences of sequences: ConvLSTM2D with one direction.

    [batch, steps, length, channels] -> [batch, length', filters].

    Args:
        filters: channels of the output.
        kernel_size: size of both kernels.
        more, options: those of ConvLSTM2D.
    """

    axes = 1

    class kind(_ConvLSTMCell):
        axes = 1


class ConvLSTM3D(ConvLSTM2D):
    """An LSTM on sequences of volumes: ConvLSTM2D with three directions.

    [batch, steps, depth, height, width, channels] -> [batch, depth', height', width', filters].

    Args:
        filters: channels of the output.
        kernel_size: size of both kernels, an int or three.
        more, options: those of ConvLSTM2D.
    """

    axes = 3

    class kind(_ConvLSTMCell):
        axes = 3


__getattr__ = other_layers
