"""Normalisation: by length, and by mean and variance over the batch.

Moments are those of the global batch, so that batch normalisation on several ranks is what it is on one, with
no synchronised form of its own. The form that keeps to a rank's own rows is the one that needs an op.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.ops.array import CountLike, stop_gradient
from dtrain.ops.base import (
    Array,
    Env,
    Kernel,
    Op,
    Placed,
    apply,
    convert_to_tensor,
    in_order,
    plain,
    register,
)
from dtrain.ops.math import RealDiv, add, maximum, multiply, sqrt, square
from dtrain.ops.placement import Placement, Sharded
from dtrain.ops.reduce import Sum, reduce_mean, reduce_sum


@register
class MeanOfShard(Op):
    """Each entry replaced by the mean along all axes but the last, over the rows that this rank holds.

    Unlike any other op it gives another value on another number of ranks. It is a projection, and its own
    transpose, hence its gradient.
    """

    of_shard = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if not specs[0].dtype.is_floating:
            raise GraphError(f"it is not defined on {specs[0].dtype.name}; cast it")
        return specs

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, out = env.xp, ins[0], outs[0]
        mean = env.scratch(x.shape[-1:], x.dtype)
        axes, count = tuple(range(x.ndim - 1)), max(x.size // max(x.shape[-1], 1), 1)

        def kernel() -> None:
            xp.sum(x, axis=axes, out=mean)
            xp.divide(mean, count, mean)
            xp.copyto(out, mean)

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (x,), (spec,) = ins, specs
        columns = x.shape[-1:]
        mean = code.scratch((*[1] * (x.ndim - 1), *columns), x.dtype)
        if mean is None or not plain(x):
            return None
        count = code.constant(np.array(max(x.size // max(*columns, 1), 1), x.dtype))
        kept, scalar = Spec(mean.shape, spec.dtype), Spec((), spec.dtype)
        total = Sum(tuple(range(x.ndim - 1)), True)
        return in_order(
            code.loop([(total, (0,))], [1], [spec, kept], [x], [mean]),
            # the third, which is not read, has the result's sizes
            code.loop([(RealDiv(), (0, 1))], [3], [kept, scalar, spec, spec], [mean, count, outs[0]], outs),
        )

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(MeanOfShard(), dy)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return (placements, Sharded(0)) if placements[0] == Sharded(0) else None


def l2_normalize(
    x: Any,
    axis: int | Sequence[int] | None = None,
    epsilon: float = 1e-12,
    name: str | None = None,
    dim: int | Sequence[int] | None = None,
) -> Tensor:
    """x / sqrt(max(sum of squares along axis, epsilon)).

    Args:
        x: a floating tensor.
        axis: an int or several; None for all axes.
        epsilon: lower bound of the sum.
        dim: the older name of axis.
        name: name of the operation.

    Returns:
        Tensor: of the shape of x.

    Raises:
        GraphError: there is no such axis.
    """
    x = convert_to_tensor(x)
    length = reduce_sum(square(x), dim if axis is None else axis, keepdims=True)
    return multiply(x, 1 / sqrt(maximum(length, epsilon)), name=name or "l2_normalize")


def moments(
    x: Any,
    axes: int | Sequence[int],
    shift: Any = None,
    name: str | None = None,
    keep_dims: bool = False,
    keepdims: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of x along axes, over the global batch; the variance divides by the count.

    Args:
        x: a floating tensor.
        axes: an int or several.
        shift: accepted for TensorFlow 1; without effect.
        keepdims: whether the axes stay, with size 1.
        name: name of the operation.
        keep_dims: the older name of keepdims.

    Returns:
        tuple: mean and variance, tensors.

    Raises:
        GraphError: there is no such axis.

    Example:
        >>> mean, variance = dt.nn.moments(dt.constant([1.0, 3.0]), [0])
        >>> [float(v) for v in dt.Session().run([mean, variance])]
        [2.0, 1.0]
    """
    x = convert_to_tensor(x)
    keep = bool(keep_dims if keepdims is None else keepdims)
    mean = reduce_mean(x, axes, keepdims=True, name=name or "moments")
    # the gradient by way of this mean is zero, since deviations from it add up to zero
    variance = reduce_mean(square(x - stop_gradient(mean)), axes, keepdims=keep)
    return (mean if keep else reduce_mean(x, axes)), variance


def batch_normalization(
    x: Any,
    mean: Any,
    variance: Any,
    offset: Any,
    scale: Any,
    variance_epsilon: float,
    name: str | None = None,
) -> Tensor:
    """(x - mean) / sqrt(variance + variance_epsilon) * scale + offset (Ioffe & Szegedy 2015).

    Args:
        x: a floating tensor.
        mean, variance: statistics that broadcast to x: [channels] for images [n, height, width, channels];
            see moments.
        offset: what is added, or None.
        scale: what it is multiplied by, or None.
        variance_epsilon: a small number that keeps the root from 0.
        name: name of the operation.

    Returns:
        Tensor: of the shape of x.

    Raises:
        GraphError: shapes or dtypes do not agree.
    """
    x = convert_to_tensor(x)
    factor = 1 / sqrt(convert_to_tensor(variance) + variance_epsilon)
    factor = factor if scale is None else factor * scale
    shift = -mean * factor if offset is None else offset - mean * factor
    return add(x * factor, shift, name=name or "batchnorm")


def fused_batch_norm(
    x: Any,
    scale: Any,
    offset: Any,
    mean: Any = None,
    variance: Any = None,
    epsilon: float = 0.001,
    data_format: str = "NHWC",
    is_training: bool = True,
    name: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """batch_normalization of images with statistics over all axes but the channels.

    Args:
        x: images [n, height, width, channels].
        scale, offset: vectors [channels].
        mean, variance: vectors [channels] if not is_training; else not given.
        epsilon: what is added to the variance.
        data_format: only NHWC.
        is_training: whether the statistics are computed from the batch.
        name: name of the operation.

    Returns:
        tuple: the output, mean and variance; in training the variance divides by count - 1, as a running
        average needs it.

    Raises:
        GraphError: statistics are missing, or given in training, or data_format is not NHWC.
    """
    x = convert_to_tensor(x)
    if data_format != "NHWC":
        raise GraphError(f"data_format {data_format}: images are NHWC here; dt.transpose(x, [0, 2, 3, 1])")
    if is_training != (mean is None and variance is None):
        raise GraphError("fused_batch_norm: mean and variance are given just when is_training is False")
    if not is_training:
        y = batch_normalization(x, mean, variance, offset, scale, epsilon, name)
        return y, convert_to_tensor(mean), convert_to_tensor(variance)
    if x.shape.ndims is None:
        raise GraphError(f"fused_batch_norm: the rank of {x.name} is not known")
    axes = tuple(range(x.shape.ndims - 1))
    mean, variance = moments(x, axes)
    y = batch_normalization(x, mean, variance, offset, scale, epsilon, name)
    count = apply(CountLike(axes), x)
    return y, mean, variance * (count / maximum(count - 1, 1))
