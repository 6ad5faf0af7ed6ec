"""Small functions of TensorFlow 1, each made of ops that there are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import as_dtype, int32
from dtrain.graph.dtypes import float16 as half
from dtrain.graph.dtypes import float64 as double
from dtrain.graph.graph import Tensor, TensorLike
from dtrain.graph.shape import as_dims, compatible, merge
from dtrain.ops.array import expand_dims, identity, zeros_like
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.convolutions import depthwise_conv2d, pool
from dtrain.ops.index import gather, gather_nd
from dtrain.ops.join import concat
from dtrain.ops.late import known_value, static_int
from dtrain.ops.late import shape as sizes_of
from dtrain.ops.logic import where
from dtrain.ops.make import range_
from dtrain.ops.math import (
    cast,
    divide,
    equal,
    greater,
    log,
    maximum,
    minimum,
    multiply,
    sigmoid,
    sqrt,
    square,
)
from dtrain.ops.normalize import batch_normalization
from dtrain.ops.pool import avg_pool as avg_pool2d
from dtrain.ops.pool import max_pool as max_pool2d
from dtrain.ops.reduce import reduce_mean, reduce_sum
from dtrain.ops.tensors import div_no_nan as divide_no_nan
from dtrain.ops.topk import top_k

__all__ = [
    "SaverDef",
    "argsort",
    "avg_pool1d",
    "avg_pool2d",
    "batch_gather",
    "batch_norm_with_global_normalization",
    "depthwise_conv2d_native",
    "dimension_at_index",
    "dimension_value",
    "divide_no_nan",
    "double",
    "ensure_shape",
    "get_logger",
    "get_static_value",
    "half",
    "init_scope",
    "is_tensor",
    "log_poisson_loss",
    "max_pool1d",
    "max_pool2d",
    "multiply_no_nan",
    "polyval",
    "reciprocal_no_nan",
    "reduce_euclidean_norm",
    "reduce_std",
    "reduce_variance",
    "roll",
    "saturate_cast",
    "silu",
    "sort",
    "switch_case",
    "where_v2",
    "xdivy",
    "xlogy",
]


def is_tensor(x: Any) -> bool:
    """Whether it is a tensor or a variable."""
    return isinstance(x, TensorLike)


def get_logger() -> logging.Logger:
    """The logger that tf.logging writes to."""
    return logging.getLogger("tensorflow")


def init_scope() -> nullcontext[None]:
    """Changes nothing: there are no functions whose graphs operations would have to be lifted out of."""
    return nullcontext()


def dimension_value(dimension: Any) -> int | None:
    """A size of a shape as a number, or None."""
    return getattr(dimension, "value", dimension)


def dimension_at_index(shape: Any, index: int) -> Any:
    """A size of a shape."""
    return shape[index]


def get_static_value(tensor: Any, partial: bool = False) -> np.ndarray | None:
    """The value of a tensor that follows from constants and shapes, else None.

    partial: also where some entries are known only; the others are None.
    """
    value = known_value(convert_to_tensor(tensor))
    return None if value is None or (value.dtype == object and not partial) else value


def ensure_shape(x: Any, shape: Any, name: str | None = None) -> Tensor:
    """x, of which the shape is known from here on. InvalidArgumentError, while running, if it has another.

    Raises:
        GraphError: what is known of the shape does not fit.
    """
    from dtrain.ops.asserts import assert_equal

    tensor, dims = convert_to_tensor(x), as_dims(shape)
    if not compatible(tensor.spec.shape, dims):
        raise GraphError(f"ensure_shape: {tensor!r} cannot be {shape}.")
    to = merge(tensor.spec.shape, dims)
    if dims is None or to == tensor.spec.shape:
        return identity(tensor, name=name)
    sizes = sizes_of(tensor)
    wanted = [i for i, d in enumerate(dims) if d is not None]
    check = assert_equal(
        gather(sizes, wanted),
        [dims[i] for i in wanted],
        message=f"ensure_shape: {tensor.name} is not {shape}",
    )
    with tensor.graph.control_dependencies([check]):
        y = identity(tensor, name=name)
    y.set_shape(list(to or ()))
    return y


def where_v2(condition: Any, x: Any = None, y: Any = None, name: str | None = None) -> Tensor:
    """where whose three tensors broadcast."""
    if x is None and y is None:
        return where(condition, name=name)
    chosen, other = convert_to_tensor(x), convert_to_tensor(y)
    like = zeros_like(chosen) + zeros_like(other)
    at = convert_to_tensor(condition)
    both = like + zeros_like(at, like.dtype)
    return where(
        greater(cast(at, int32) + zeros_like(both, int32), 0), chosen + both, other + both, name=name
    )


def saturate_cast(value: Any, dtype: Any, name: str | None = None) -> Tensor:
    """cast, where what the type cannot hold becomes the nearest that it can."""
    x, to = convert_to_tensor(value), as_dtype(dtype)
    low, high = (np.asarray(v).astype(x.dtype.numpy) for v in (to.min, to.max))
    if float(high) > float(to.max):  # what it was rounded to is too large
        high = np.nextafter(high, np.zeros_like(high))
    if float(x.dtype.min) < float(to.min):
        x = maximum(x, low)
    if float(x.dtype.max) > float(to.max):
        x = minimum(x, high)
    return cast(x, to, name=name)


class SaverDef:
    """Numbers of TensorFlow's file formats, for Saver(write_version=...): there is one of dtrain's."""

    LEGACY, V1, V2 = 0, 1, 2


# -- order -----------------------------------------------------------------------------------------------
def roll(input: Any, shift: Any, axis: Any, name: str | None = None) -> Tensor:
    """The entries along axes moved on by as many places, from the end to the beginning.

    Raises:
        GraphError: a size, a shift or an axis is not known.
    """
    x = convert_to_tensor(input)
    shifts, axes = (np.atleast_1d(v).tolist() for v in (shift, axis))
    for by, at in zip(shifts, axes, strict=True):
        dims = x.spec.shape
        if dims is None or dims[at] is None:
            raise GraphError(f"roll: the size of axis {at} of {x!r} is not known.")
        x = gather(x, np.roll(np.arange(dims[at]), by), axis=at)
    return identity(x, name=name)


def sort(values: Any, axis: int = -1, direction: str = "ASCENDING", name: str | None = None) -> Tensor:
    """The entries along an axis in order. The axis's size is known. direction: or DESCENDING."""
    return _sorted(values, axis, direction, 0, name)


def argsort(
    values: Any, axis: int = -1, direction: str = "ASCENDING", stable: bool = False, name: str | None = None
) -> Tensor:
    """The places, int32, that the entries in order are taken from; of equal ones the first comes first."""
    return _sorted(values, axis, direction, 1, name)


def _sorted(values: Any, axis: int, direction: str, part: int, name: str | None) -> Tensor:
    from dtrain.ops.array import transpose

    if direction not in ("ASCENDING", "DESCENDING"):
        raise GraphError(f"sort: direction is ASCENDING or DESCENDING, and not {direction!r}.")
    x = convert_to_tensor(values)
    rank = len(x.spec.shape or ())
    axis = static_int(axis, "sort: axis") % max(rank, 1)
    order = [i for i in range(rank) if i != axis] + [axis]
    moved = transpose(x, order)
    size = (moved.spec.shape or (None,))[-1]
    if size is None:
        raise GraphError(f"sort: the size of axis {axis} of {x!r} is not known.")
    up = direction == "ASCENDING"
    # bitwise not turns the order of integers around without overflow, as -x does that of floats
    turned = (-1 - moved if moved.dtype.is_integer else -moved) if up else moved
    found = top_k(turned, size)[part]
    if part == 0 and up:
        found = -1 - found if moved.dtype.is_integer else -found
    return transpose(found, np.argsort(order).tolist(), name=name)


def batch_gather(params: Any, indices: Any, name: str | None = None) -> Tensor:
    """[n, k, ...]: of each row of params [n, m, ...] those that its row of indices [n, k] names."""
    x, at = convert_to_tensor(params), convert_to_tensor(indices)
    if len(at.spec.shape or ()) != 2:
        raise GraphError(f"batch_gather: the indices {at!r} are [n, k] here.")
    rows = expand_dims(range_(sizes_of(at)[0]), 1) + zeros_like(at, int32)
    pairs = concat([expand_dims(rows, 2), expand_dims(cast(at, int32), 2)], 2)
    return gather_nd(x, pairs, name=name)


def switch_case(
    branch_index: Any,
    branch_fns: Sequence[Any],
    default: Callable[[], Any] | None = None,
    name: str = "switch_case",
) -> Any:
    """What the function of a number gives, the default's or the last's for a number that has none."""
    from dtrain.tf1.control_flow import case

    given: Any = branch_fns.items() if isinstance(branch_fns, dict) else branch_fns
    pairs = [(i, f) if callable(f) else tuple(f) for i, f in enumerate(given)]
    pairs = sorted(pairs, key=lambda pair: pair[0])
    index = convert_to_tensor(branch_index)
    return case([(equal(index, i), f) for i, f in pairs], default or pairs[-1][1], name=name)


# -- numbers ---------------------------------------------------------------------------------------------
def polyval(coeffs: Sequence[Any], x: Any, name: str | None = None) -> Tensor:
    """The polynomial of these coefficients, that of the highest power first, of x."""
    at = convert_to_tensor(x)
    total = zeros_like(at)
    for c in coeffs:
        total = convert_to_tensor(c, at.dtype) + total * at
    return identity(total, name=name)


def multiply_no_nan(x: Any, y: Any, name: str | None = None) -> Tensor:
    """x y, and 0 where y is 0, whatever x is."""
    a, b = convert_to_tensor(x), convert_to_tensor(y)
    none = equal(b + zeros_like(a), zeros_like(a + b))
    return where(none, zeros_like(a + b), multiply(a, b), name=name)


def reciprocal_no_nan(x: Any, name: str | None = None) -> Tensor:
    """1 / x, and 0 where x is 0."""
    at = convert_to_tensor(x)
    return divide_no_nan(zeros_like(at) + 1, at, name=name)


def xlogy(x: Any, y: Any, name: str | None = None) -> Tensor:
    """x log y, and 0 where x is 0."""
    return _of_x(x, y, lambda a, b: a * log(b), name)


def xdivy(x: Any, y: Any, name: str | None = None) -> Tensor:
    """x / y, and 0 where x is 0."""
    return _of_x(x, y, divide, name)


def _of_x(x: Any, y: Any, function: Callable[[Any, Any], Tensor], name: str | None) -> Tensor:
    a, b = convert_to_tensor(x), convert_to_tensor(y)
    wide, none = a + zeros_like(b), equal(a, zeros_like(a)) if a.spec.shape == b.spec.shape else None
    none = equal(wide, zeros_like(wide)) if none is None else none
    other = b + zeros_like(wide)
    # no gradient comes from where x is 0: there y is 1
    safe = where(none, zeros_like(wide) + 1, other)
    return where(none, zeros_like(wide), function(wide, safe), name=name)


def reduce_variance(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """The mean of the squared differences from the mean."""
    x = convert_to_tensor(input_tensor)
    return reduce_mean(square(x - reduce_mean(x, axis, True)), axis, keepdims, name=name)


def reduce_std(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """The root of the variance."""
    return sqrt(reduce_variance(input_tensor, axis, keepdims), name=name)


def reduce_euclidean_norm(
    input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None
) -> Tensor:
    """The root of the sum of squares."""
    return sqrt(reduce_sum(square(convert_to_tensor(input_tensor)), axis, keepdims), name=name)


# -- nets ------------------------------------------------------------------------------------------------
def silu(features: Any, beta: float = 1.0) -> Tensor:
    """x sigmoid(beta x)."""
    x = convert_to_tensor(features)
    return x * sigmoid(x * beta)


def log_poisson_loss(
    targets: Any, log_input: Any, compute_full_loss: bool = False, name: str | None = None
) -> Tensor:
    """exp(c) - z c, for targets z and logarithms c of what is expected.

    compute_full_loss: with z log z - z + log(2 pi z) / 2 where z is above 1, Stirling's approximation.
    """
    from dtrain.ops.math import exp

    c = convert_to_tensor(log_input)
    z = convert_to_tensor(targets, c.dtype)
    loss = exp(c) - c * z
    if not compute_full_loss:
        return identity(loss, name=name)
    inside = greater(z, 1)
    safe = where(inside, z, zeros_like(z) + 1)
    more = safe * log(safe) - safe + 0.5 * log(2 * np.pi * safe)
    return identity(loss + where(inside, more, zeros_like(z)), name=name)


def batch_norm_with_global_normalization(
    t: Any,
    m: Any = None,
    v: Any = None,
    beta: Any = None,
    gamma: Any = None,
    variance_epsilon: float = 1e-3,
    scale_after_normalization: bool = True,
    name: str | None = None,
) -> Tensor:
    """batch_normalization by mean m and variance v, scaled by gamma if scale_after_normalization."""
    scale = gamma if scale_after_normalization else None
    return batch_normalization(t, m, v, beta, scale, variance_epsilon, name)


def depthwise_conv2d_native(
    input: Any,
    filter: Any,
    strides: Any,
    padding: Any,
    data_format: str = "NHWC",
    dilations: Any = (1, 1, 1, 1),
    name: str | None = None,
) -> Tensor:
    """depthwise_conv2d, whose dilations are of four axes."""
    rate = [dilations[2], dilations[3]] if data_format == "NCHW" else [dilations[1], dilations[2]]
    return depthwise_conv2d(input, filter, strides, padding, rate, name, data_format)


def avg_pool1d(
    input: Any, ksize: Any, strides: Any, padding: Any, data_format: str = "NWC", name: str | None = None
) -> Tensor:
    """The mean of each window of sequences [n, steps, channels]."""
    return _pool1d("AVG", input, ksize, strides, padding, data_format, name)


def max_pool1d(
    input: Any, ksize: Any, strides: Any, padding: Any, data_format: str = "NWC", name: str | None = None
) -> Tensor:
    """The largest entry of each window of sequences [n, steps, channels]."""
    return _pool1d("MAX", input, ksize, strides, padding, data_format, name)


def _pool1d(
    kind: str, input: Any, ksize: Any, strides: Any, padding: Any, data_format: str, name: str | None
) -> Tensor:
    size, by = (max(np.atleast_1d(v).tolist()) for v in (ksize, strides))
    return pool(input, [size], kind, padding, None, [by], name, data_format)
