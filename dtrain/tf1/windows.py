"""What lies under windows that slide over images: patches, places of maxima, and morphology."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import int64
from dtrain.graph.graph import Tensor
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.join import concat, pad, stack
from dtrain.ops.math import cast
from dtrain.ops.reduce import argmax, reduce_max
from dtrain.ops.window import Axis, padding_of, place_windows, two

__all__ = ["dilation2d", "erosion2d", "extract_image_patches", "max_pool_with_argmax"]


def _under(
    images: Any, size: Any, strides: Any, rates: Any, padding: str, fill: float, what: str
) -> tuple[list[Tensor], Axis, Axis]:
    """For each entry of the windows, row by row, what lies under it in all; and the windows' axes."""
    x = convert_to_tensor(images)
    shape = x.spec.shape
    if shape is None or len(shape) != 4 or None in shape[1:]:
        raise GraphError(f"{what}: {x!r} are images [n, height, width, channels], all but n known.")
    by, apart = two(strides, "strides"), two(rates, "rates")
    down, across = (
        place_windows(shape[1 + i], size[i], by[i], apart[i], padding_of(padding))  # type: ignore[arg-type]
        for i in (0, 1)
    )
    if down.padded or across.padded:
        edges = [[0, 0], [down.before, down.after], [across.before, across.after], [0, 0]]
        x = pad(x, edges, constant_values=fill)
    parts = [x[:, down.under(i), across.under(j)] for i in range(down.size) for j in range(across.size)]
    return parts, down, across


def extract_image_patches(
    images: Any,
    ksizes: Sequence[int],
    strides: Sequence[int],
    rates: Sequence[int],
    padding: str,
    name: str | None = None,
) -> Tensor:
    """[n, height, width, c] -> [n, height', width', ksizes' rows * columns * c]: what lies under each window.

    rates: how far apart the entries of a window lie.

    Raises:
        GraphError: a size but the first is not known, or the windows do not fit.
    """
    parts, _, _ = _under(images, two(ksizes, "ksizes"), strides, rates, padding, 0.0, "extract_image_patches")
    return concat(parts, 3, name=name or "ExtractImagePatches")


def max_pool_with_argmax(
    input: Any,
    ksize: Sequence[int],
    strides: Sequence[int],
    padding: str,
    Targmax: Any = int64,
    name: str | None = None,
) -> tuple[Tensor, Tensor]:
    """(the largest entry of each window, where it lies: (row * width + column) * channels + channel).

    Raises:
        GraphError: a size but the first is not known, or the windows do not fit.
    """
    x = convert_to_tensor(input)
    size = two(ksize, "ksize")
    lowest = float(np.finfo(x.dtype.numpy).min) if x.dtype.is_floating else 0.0
    parts, down, across = _under(x, size, strides, 1, padding, lowest, "max_pool_with_argmax")
    _, height, width, channels = x.shape.as_list()
    assert height is not None and width is not None and channels is not None
    windows = stack(parts, 4)
    which = argmax(windows, 4)
    # the window's corner may lie outside, its largest entry never does
    rows = np.arange(down.count) * down.stride - down.before
    columns = np.arange(across.count) * across.stride - across.before
    corner = rows[:, None, None] * width + columns[:, None]
    row, column = which // across.size, which % across.size
    place = (row * width + column + corner) * channels + np.arange(channels)
    return reduce_max(windows, 4, name=name or "MaxPoolWithArgmax"), cast(place, Targmax)


def dilation2d(
    input: Any,
    filter: Any,
    strides: Sequence[int],
    rates: Sequence[int],
    padding: str,
    name: str | None = None,
) -> Tensor:
    """The largest sum of a window of [n, height, width, c] and a filter [rows, columns, c], by channel."""
    f = convert_to_tensor(filter)
    size = f.spec.shape
    if size is None or len(size) != 3 or None in size:
        raise GraphError(f"dilation2d: the filter {f!r} is [rows, columns, channels], all known.")
    lowest = float(np.finfo(f.dtype.numpy).min)
    parts, down, across = _under(input, size, strides, rates, padding, lowest, "dilation2d")
    entries = [f[i, j] for i in range(down.size) for j in range(across.size)]
    sums = [part + entry for part, entry in zip(parts, entries, strict=True)]
    return reduce_max(stack(sums, 4), 4, name=name or "Dilation2D")


def erosion2d(
    value: Any,
    kernel: Any,
    strides: Sequence[int],
    rates: Sequence[int],
    padding: str,
    name: str | None = None,
) -> Tensor:
    """The smallest difference of a window and a kernel, by channel."""
    flipped = convert_to_tensor(kernel)[::-1, ::-1]
    return -dilation2d(-convert_to_tensor(value), flipped, strides, rates, padding, name)
