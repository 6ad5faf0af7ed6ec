"""Means and variances by parts: with weights, and from counts and sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.graph.graph import Tensor
from dtrain.ops.array import CountLike, stop_gradient
from dtrain.ops.base import apply, convert_to_tensor
from dtrain.ops.math import square
from dtrain.ops.reduce import reduce_sum


def weighted_moments(
    x: Any, axes: Sequence[int], frequency_weights: Any, name: str | None = None, keep_dims: bool = False
) -> tuple[Tensor, Tensor]:
    """(mean, variance) of x along axes, each entry counted as often as its weight, which broadcasts, says."""
    x = convert_to_tensor(x)
    weights = convert_to_tensor(frequency_weights, None) * (x * 0 + 1)
    total = reduce_sum(weights, axes, keepdims=True)
    mean = reduce_sum(weights * x, axes, keepdims=True) / total
    variance = reduce_sum(weights * square(x - stop_gradient(mean)), axes, keepdims=True) / total
    if keep_dims:
        return mean, variance
    return reduce_sum(mean, axes), reduce_sum(variance, axes)


def sufficient_statistics(
    x: Any, axes: Sequence[int], shift: Any = None, keep_dims: bool = False, name: str | None = None
) -> tuple[Tensor, Tensor, Tensor, Any]:
    """(count, sum, sum of squares, shift) along axes, of x less the shift, for normalize_moments."""
    x = convert_to_tensor(x)
    count = apply(CountLike(tuple(axes)), x)
    moved = x if shift is None else x - shift
    sums = reduce_sum(moved, axes, keepdims=keep_dims), reduce_sum(square(moved), axes, keepdims=keep_dims)
    return count, *sums, shift


def normalize_moments(
    counts: Any, mean_ss: Any, variance_ss: Any, shift: Any = None, name: str | None = None
) -> tuple[Tensor, Tensor]:
    """(mean, variance) of what sufficient_statistics gave."""
    mean = convert_to_tensor(mean_ss) / counts
    variance = convert_to_tensor(variance_ss) / counts - square(mean)
    return (mean if shift is None else mean + shift), variance
