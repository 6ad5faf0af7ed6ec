"""More of TensorFlow 1's words for tensors, each made of ops that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import bool_, float64, int32, int64
from dtrain.graph.graph import Tensor, TensorLike
from dtrain.graph.shape import TensorShape, as_dims, broadcast, is_static
from dtrain.ops.array import expand_dims, identity, ones_like, reshape, transpose, zeros, zeros_like
from dtrain.ops.base import apply, convert_to_tensor
from dtrain.ops.functions import atan, ceil, erf, floor
from dtrain.ops.index import FlatIndex, ScatterAddLike, gather, one_hot
from dtrain.ops.join import concat, reverse
from dtrain.ops.late import Attributes, Later, known_value, late, static_int
from dtrain.ops.late import shape as sizes_of
from dtrain.ops.linalg import matmul
from dtrain.ops.logic import is_finite, logical_and, logical_or, where
from dtrain.ops.make import matrix_diag, matrix_diag_part, range_
from dtrain.ops.math import (
    abs,
    add,
    add_n,
    cast,
    divide,
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    maximum,
    multiply,
    not_equal,
    pow,
    sqrt,
    square,
    subtract,
)
from dtrain.ops.nn import softplus
from dtrain.ops.reduce import reduce_max, reduce_prod, reduce_sum
from dtrain.ops.slicing import slice_
from dtrain.ops.state import Variable


# -- products --------------------------------------------------------------------------------------------
def einsum(equation: str, *inputs: Any, name: str | None = None) -> Tensor:
    """Products of tensors summed over labels: einsum('ij,jk->ik', a, b) is a matrix product.

    Without '->' the result has, in alphabetical order, the labels that come once.

    Raises:
        GraphError: the equation does not fit, has '...', or a tensor has a label twice.
    """
    text = equation.replace(" ", "")
    given, arrow, out = text.partition("->")
    terms = given.split(",")
    xs = [convert_to_tensor(x) for x in inputs]
    if not arrow:
        out = "".join(sorted(c for c in set(given) - {","} if given.count(c) == 1))
    ranks = [x.shape.ndims for x in xs]
    if len(terms) != len(xs) or any(r is not None and r != len(t) for r, t in zip(ranks, terms, strict=True)):
        raise GraphError(f"einsum: {equation!r} does not fit {', '.join(map(repr, xs))}.")
    if any(len(set(t)) < len(t) for t in (*terms, out)) or "." in text or not set(out) <= set(given):
        raise GraphError(f"einsum: {equation!r}: each label once in a tensor, and no '...'.")
    x, labels = xs[0], terms[0]
    for i in range(1, len(xs)):
        later = set(out).union(*terms[i + 1 :])
        x, labels = _product(x, labels, xs[i], terms[i], later)
    x, labels = _without(x, labels, set(out))
    return transpose(x, [labels.index(c) for c in out], name=name or "einsum")


def tensordot(a: Any, b: Any, axes: Any, name: str | None = None) -> Tensor:
    """Products of a and b summed over axes: the last of a and first of b, so many; or a list for each."""
    x, y = convert_to_tensor(a), convert_to_tensor(b)
    if x.shape.ndims is None or y.shape.ndims is None:
        raise GraphError(f"tensordot: the ranks of {x!r} and {y!r} have to be known.")
    if isinstance(axes, int | np.integer):
        of_x, of_y = [*range(x.shape.ndims - axes, x.shape.ndims)], [*range(axes)]
    else:
        of_x, of_y = ([int(i) for i in ([v] if isinstance(v, int | np.integer) else v)] for v in axes)
        of_x, of_y = [i % x.shape.ndims for i in of_x], [i % y.shape.ndims for i in of_y]
    if len(of_x) != len(of_y):
        raise GraphError(f"tensordot: axes {axes} are not as many of both tensors.")
    first = [chr(97 + i) for i in range(x.shape.ndims)]
    second = [chr(65 + i) for i in range(y.shape.ndims)]
    for i, j in zip(of_x, of_y, strict=True):
        second[j] = first[i]
    out = [c for c in first if c not in second] + [c for c in second if c not in first]
    product, labels = _product(x, "".join(first), y, "".join(second), set(out))
    return transpose(product, [labels.index(c) for c in out], name=name or "Tensordot")


def _product(a: Tensor, of_a: str, b: Tensor, of_b: str, kept: set[str]) -> tuple[Tensor, str]:
    """The product of two tensors, summed over the labels that are not kept, and its labels."""
    a, of_a = _without(a, of_a, kept | set(of_b))
    b, of_b = _without(b, of_b, kept | set(of_a))
    batch = [c for c in of_a if c in of_b and c in kept]
    inner = [c for c in of_a if c in of_b and c not in kept]
    rows, columns = [c for c in of_a if c not in of_b], [c for c in of_b if c not in of_a]
    sizes = dict(zip(of_b, _sizes(b), strict=True)) | dict(zip(of_a, _sizes(a), strict=True))
    # rows but the last stay axes of their own, so that rows of a batch stay where they are
    a = transpose(a, [of_a.index(c) for c in (*batch, *rows, *inner)])
    b = transpose(b, [of_b.index(c) for c in (*batch, *inner, *columns)])
    one = [] if rows else [1]
    a = reshape(a, [*(sizes[c] for c in batch + rows), *one, _all(sizes, inner)])
    between = [1] * (len(rows) - 1)
    b = reshape(b, [*(sizes[c] for c in batch), *between, _all(sizes, inner), _all(sizes, columns)])
    labels = batch + rows + columns
    return reshape(matmul(a, b), [sizes[c] for c in labels]), "".join(labels)


def _without(x: Tensor, labels: str, kept: set[str]) -> tuple[Tensor, str]:
    """x summed over labels that nothing needs."""
    gone = [i for i, c in enumerate(labels) if c not in kept]
    return (reduce_sum(x, gone) if gone else x), "".join(c for c in labels if c in kept)


def _sizes(x: Tensor) -> list[Any]:
    """The sizes of a tensor of known rank, those that are not known as tensors."""
    dims = x.spec.shape or ()
    now = None if is_static(dims) else sizes_of(x)
    return [now[i] if d is None else d for i, d in enumerate(dims)]  # type: ignore[index]  # its rank is known


def _all(sizes: dict[str, Any], labels: Sequence[str]) -> Any:
    total: Any = 1
    for c in labels:
        total = sizes[c] * total
    return total


def scalar_mul(scalar: Any, x: Any) -> Tensor:
    """scalar * x."""
    return multiply(scalar, x)


def accumulate_n(
    inputs: Sequence[Any], shape: Any = None, tensor_dtype: Any = None, name: str | None = None
) -> Tensor:
    """The sum of tensors of one shape and dtype."""
    return add_n(inputs, name or "AccumulateNV2")


def cross(a: Any, b: Any, name: str | None = None) -> Tensor:
    """The cross product of vectors of 3 along the last axis."""
    a, b = convert_to_tensor(a), convert_to_tensor(b)
    if any(t.spec.shape is not None and t.spec.shape[-1:] != (3,) for t in (a, b)):
        raise GraphError(f"cross: {a!r} and {b!r} are not vectors of 3.")

    def turned(x: Tensor, by: int) -> Tensor:
        return gather(x, [(i + by) % 3 for i in range(3)], axis=-1)

    return subtract(turned(a, 1) * turned(b, 2), turned(a, 2) * turned(b, 1), name=name or "Cross")


def norm(
    tensor: Any,
    ord: Any = "euclidean",
    axis: Any = None,
    keepdims: bool | None = None,
    name: str | None = None,
    keep_dims: bool | None = None,
) -> Tensor:
    """The norm of vectors along an axis, of matrices along two, or of all entries.

    ord: 'euclidean' ('fro' of matrices), 1, 2, another number above 0, or inf; of matrices not 2.
    """
    x = convert_to_tensor(tensor)
    keep = bool(keepdims if keepdims is not None else keep_dims)
    matrices = isinstance(axis, list | tuple) and len(axis) == 2
    if ord in ("euclidean", "fro") or (ord == 2 and not matrices):
        return sqrt(reduce_sum(square(x), axis, keepdims=keep), name=name or "norm")
    if isinstance(ord, str) or ord <= 0 or (matrices and ord not in (1, np.inf)):
        raise GraphError(f"norm: ord {ord!r} is not supported here.")
    size = abs(x)
    if matrices:
        summed, largest = axis if ord == 1 else axis[::-1]
        y = reduce_max(reduce_sum(size, summed, keepdims=True), largest, keepdims=True)
        return identity(y, name) if keep else reduce_max(y, list(axis), name=name)
    if ord == np.inf:
        return reduce_max(size, axis, keepdims=keep, name=name)
    if ord == 1:
        return reduce_sum(size, axis, keepdims=keep, name=name)
    return pow(reduce_sum(pow(size, ord), axis, keepdims=keep), 1.0 / ord, name=name or "norm")


def cumprod(
    x: Any, axis: Any = 0, exclusive: bool = False, reverse: bool = False, name: str | None = None
) -> Tensor:
    """Products of the entries up to each along an axis of known size, as cumsum adds them."""
    t = convert_to_tensor(x)
    along = static_int(axis, "cumprod") % max(t.shape.ndims or 1, 1)
    n = None if t.spec.shape is None else t.spec.shape[along]
    if n is None:
        raise GraphError(f"cumprod: the size of axis {axis} of {t!r} has to be known.")

    def moved(y: Tensor, by: int) -> Tensor:
        """y, by so many entries later, after ones."""
        begin, size = [0] * (t.shape.ndims or 0), [-1] * (t.shape.ndims or 0)
        kept = slice_(y, begin, [n - by if i == along else -1 for i in range(len(size))])
        some = slice_(y, begin, [by if i == along else -1 for i in range(len(size))])
        return concat([ones_like(some), kept], along)

    y = _reversed(t, along) if reverse else t
    if exclusive and n:
        y = moved(y, 1)
    by = 1
    while by < n:
        y = y * moved(y, by)
        by *= 2
    return identity(_reversed(y, along) if reverse else y, name=name or "Cumprod")


def _reversed(x: Tensor, axis: int) -> Tensor:
    return reverse(x, [axis])


# -- numbers ---------------------------------------------------------------------------------------------
def erfc(x: Any, name: str | None = None) -> Tensor:
    """1 - erf(x)."""
    return subtract(1.0, erf(x), name=name or "Erfc")


def atan2(y: Any, x: Any, name: str | None = None) -> Tensor:
    """The angle of the point (x, y), from -pi to pi."""
    y, x = convert_to_tensor(y), convert_to_tensor(x)
    left, up = less(x, 0), greater_equal(y, 0)
    flat = greater(abs(x), abs(y))  # where the angle follows from y / x, elsewhere from x / y
    one = ones_like(x)
    by_x = atan(y / where(flat, x, one)) + where(left, where(up, one, -one) * np.pi, zeros_like(x))
    by_y = where(up, one, -one) * (np.pi / 2) - atan(x / where(logical_or(flat, equal(y, 0)), one, y))
    none = logical_and(equal(x, 0), equal(y, 0))
    return where(none, zeros_like(x), where(flat, by_x, by_y), name=name or "Atan2")


def log_sigmoid(x: Any, name: str | None = None) -> Tensor:
    """log(1 / (1 + exp(-x))), without overflow."""
    return multiply(softplus(-convert_to_tensor(x)), -1.0, name=name or "LogSigmoid")


def realdiv(x: Any, y: Any, name: str | None = None) -> Tensor:
    """x / y of floats."""
    return divide(x, y, name)


def div_no_nan(x: Any, y: Any, name: str | None = None) -> Tensor:
    """x / y, and 0 where y is 0."""
    x, y = convert_to_tensor(x), convert_to_tensor(y)
    zero = equal(y, 0)
    return where(zero, zeros_like(x) * zeros_like(y), x / where(zero, ones_like(y), y), name=name)


def truncatediv(x: Any, y: Any, name: str | None = None) -> Tensor:
    """x / y cut towards 0, as C divides integers."""
    x, y = convert_to_tensor(x), convert_to_tensor(y)
    if x.dtype.is_floating:
        q = x / y
        return where(greater_equal(q, 0), floor(q), ceil(q), name=name)
    down = x // y
    inexact = not_equal(down * y, x)
    opposite = not_equal(greater_equal(x, 0), greater_equal(y, 0))
    return add(down, cast(logical_and(inexact, opposite), x.dtype), name=name)


def truncatemod(x: Any, y: Any, name: str | None = None) -> Tensor:
    """What truncatediv leaves: it has the sign of x."""
    x, y = convert_to_tensor(x), convert_to_tensor(y)
    return subtract(x, truncatediv(x, y) * y, name=name)


def clip_by_average_norm(t: Any, clip_norm: Any, name: str | None = None) -> Tensor:
    """t, scaled so that its L2 norm divided by its number of entries is clip_norm at most."""
    x = convert_to_tensor(t)
    count = cast(reduce_prod(sizes_of(x)), x.dtype)
    average = sqrt(reduce_sum(square(x))) / count
    return divide(x * clip_norm, maximum(average, clip_norm), name=name)


def verify_tensor_all_finite(t: Any, msg: str, name: str | None = None) -> Tensor:
    """t. Raises InvalidArgumentError, while running, where it holds a NaN or an infinity."""
    return check_numerics(t, msg, name)


def check_numerics(tensor: Any, message: str, name: str | None = None) -> Tensor:
    """The tensor. Raises InvalidArgumentError, while running, where it holds a NaN or an infinity."""
    from dtrain.ops.host import Assert
    from dtrain.ops.reduce import reduce_all

    x = convert_to_tensor(tensor)
    with x.graph.control_dependencies([Assert(reduce_all(is_finite(x)), [message, x])]):
        return identity(x, name=name)


# -- making and moving -----------------------------------------------------------------------------------
def meshgrid(*args: Any, indexing: str = "xy", name: str | None = None) -> list[Tensor]:
    """Coordinates of a grid, as numpy.meshgrid gives them."""
    if indexing not in ("xy", "ij"):
        raise GraphError(f"meshgrid: indexing {indexing!r} is none of 'xy' and 'ij'.")
    xs = [reshape(convert_to_tensor(x), [-1]) for x in args]
    order = list(range(len(xs)))
    if indexing == "xy" and len(xs) > 1:
        order[0], order[1] = 1, 0
    places = [order.index(i) for i in range(len(xs))]
    grids = []
    for x, at in zip(xs, places, strict=True):
        grid = reshape(x, [-1 if i == at else 1 for i in range(len(xs))])
        for other, place in zip(xs, places, strict=True):
            if other is not x or place != at:
                shape = [-1 if i == place else 1 for i in range(len(xs))]
                grid = grid + zeros_like(cast(reshape(other, shape), x.dtype))
        grids.append(grid)
    return grids


def identity_n(input: Sequence[Any], name: str | None = None) -> list[Tensor]:
    """The same tensors."""
    return [identity(x, name) for x in input]


def shape_n(input: Sequence[Any], out_type: Any = int32, name: str | None = None) -> list[Tensor]:
    """The sizes of each."""
    return [sizes_of(x, name, out_type) for x in input]


def reverse_v2(tensor: Any, axis: Any, name: str | None = None) -> Tensor:
    """reverse, by its other name."""
    return reverse(tensor, axis, name)


def reverse_sequence(
    input: Any,
    seq_lengths: Any,
    seq_axis: int | None = None,
    batch_axis: int | None = None,
    name: str | None = None,
    seq_dim: int | None = None,
    batch_dim: int | None = None,
) -> Tensor:
    """The first seq_lengths[i] entries along seq_axis of example i in opposite order."""
    x = convert_to_tensor(input)
    along = seq_axis if seq_axis is not None else seq_dim
    batch = batch_axis if batch_axis is not None else batch_dim or 0
    if along is None or batch != 0 or along == 0:
        raise GraphError("reverse_sequence: seq_axis is given, and not 0, which is batch_axis.")
    lengths = cast(seq_lengths, int64)
    front = transpose(x, [0, along, *(i for i in range(1, x.shape.ndims or 0) if i != along)])
    places = cast(range_(_sizes(front)[1]), int64)
    column = reshape(lengths, [-1, 1])
    index = where(places < column, column - 1 - places, places + zeros_like(column))
    wide = reshape(index, [*_sizes(index), *[1] * ((x.shape.ndims or 0) - 2)])
    chosen = _along(front, wide)
    order = [0, *range(2, along + 1), 1, *range(along + 1, x.shape.ndims or 0)]
    return transpose(chosen, order, name=name or "ReverseSequence")


def _along(x: Tensor, index: Tensor) -> Tensor:
    """Of each example the entries along axis 1 that the index names: as a product with indicators."""
    n = _sizes(x)[1]
    picked = one_hot(reshape(index, _sizes(index)[:2]), n, dtype=x.dtype)
    flat = reshape(x, [*_sizes(x)[:2], -1])
    return reshape(matmul(picked, flat), _sizes(x))


def invert_permutation(x: Any, name: str | None = None) -> Tensor:
    """y with y[x[i]] = i, for a permutation x of 0, 1, ..."""
    x = convert_to_tensor(x)
    places = cast(range_(_sizes(x)[0]), x.dtype)
    hits = cast(equal(expand_dims(x, 0), expand_dims(places, 1)), x.dtype)
    return reduce_sum(hits * expand_dims(places, 0), 1, name=name)


def space_to_depth(input: Any, block_size: int, name: str | None = None, data_format: str = "NHWC") -> Tensor:
    """Blocks of images [n, height, width, channels] as channels."""
    x, b = _nhwc(input, data_format, "space_to_depth"), block_size
    _, h, w, c = _sizes(x)
    y = transpose(reshape(x, [-1, h // b, b, w // b, b, c]), [0, 1, 3, 2, 4, 5])
    return reshape(y, [-1, h // b, w // b, b * b * c], name=name or "SpaceToDepth")


def depth_to_space(input: Any, block_size: int, name: str | None = None, data_format: str = "NHWC") -> Tensor:
    """The inverse of space_to_depth."""
    x, b = _nhwc(input, data_format, "depth_to_space"), block_size
    _, h, w, c = _sizes(x)
    y = transpose(reshape(x, [-1, h, w, b, b, c // (b * b)]), [0, 1, 3, 2, 4, 5])
    return reshape(y, [-1, h * b, w * b, c // (b * b)], name=name or "DepthToSpace")


def _nhwc(input: Any, data_format: str, what: str) -> Tensor:
    if data_format != "NHWC":
        raise GraphError(f"{what}: data_format is NHWC here.")
    x = convert_to_tensor(input)
    if x.shape.ndims != 4:
        raise GraphError(f"{what}: {x!r} is not [n, height, width, channels].")
    return x


def matrix_band_part(input: Any, num_lower: int, num_upper: int, name: str | None = None) -> Tensor:
    """Matrices with 0 more than num_lower below or num_upper above the diagonal; below 0 keeps that half."""
    x = convert_to_tensor(input)
    rows, columns = (range_(d) for d in _sizes(x)[-2:])
    below = expand_dims(rows, 1) - expand_dims(columns, 0)
    low, high = (static_int(n, "matrix_band_part") for n in (num_lower, num_upper))
    for bound, on in ((low, less_equal(below, low)), (high, greater_equal(below, -high))):
        x = where(on, x, zeros_like(x)) if bound >= 0 else x
    return identity(x, name=name or "MatrixBandPart")


def matrix_set_diag(input: Any, diagonal: Any, name: str | None = None) -> Tensor:
    """Matrices with another diagonal; they are square."""
    x = convert_to_tensor(input)
    return add(
        x, matrix_diag(convert_to_tensor(diagonal) - matrix_diag_part(x)), name=name or "MatrixSetDiag"
    )


def broadcast_static_shape(shape_x: TensorShape, shape_y: TensorShape) -> TensorShape:
    """The shape that two shapes broadcast to."""
    return TensorShape(broadcast(as_dims(shape_x), as_dims(shape_y)))


# -- counting and adding by index ------------------------------------------------------------------------
def confusion_matrix(
    labels: Any,
    predictions: Any,
    num_classes: Any = None,
    dtype: Any = int32,
    name: str | None = None,
    weights: Any = None,
) -> Tensor:
    """How often each label (row) was predicted as each class (column), or the sum of the weights.

    Raises:
        GraphError: num_classes is not given: how many there are is not known before a run.
    """
    if num_classes is None:
        raise GraphError("confusion_matrix: give num_classes: a plan has fixed shapes.")
    rows = one_hot(reshape(labels, [-1]), num_classes, dtype=float64)
    columns = one_hot(reshape(predictions, [-1]), num_classes, dtype=float64)
    if weights is not None:
        rows = rows * reshape(cast(weights, float64), [-1, 1])
    return cast(matmul(rows, columns, transpose_a=True), dtype, name=name or "confusion_matrix")


def unsorted_segment_sum(data: Any, segment_ids: Any, num_segments: Any, name: str | None = None) -> Tensor:
    """[num_segments, ...]: the sums of the rows of data that have an id."""
    x = convert_to_tensor(data)
    like = zeros([num_segments, *(x.spec.shape or ())[1:]], x.dtype)
    return apply(ScatterAddLike(), x, cast(segment_ids, int64), like, name=name or "UnsortedSegmentSum")


def scatter_nd(indices: Any, updates: Any, shape: Any, name: str | None = None) -> Tensor:
    """Zeros of a shape, with updates added at the positions along the last axis of indices."""
    positions, x = convert_to_tensor(indices), convert_to_tensor(updates)
    dims = as_dims(shape) if not isinstance(shape, TensorLike) else _known(shape, "scatter_nd")
    depth = (positions.spec.shape or (None,))[-1]
    if not is_static(dims) or depth is None:
        raise GraphError("scatter_nd: the shape, and the last size of indices, have to be known.")
    outer, rest = dims[:depth], dims[depth:]
    index = reshape(apply(FlatIndex(outer), cast(positions, int64)), [-1])
    like = zeros([int(np.prod(outer)), *rest], x.dtype)
    summed = apply(ScatterAddLike(), reshape(x, [-1, *rest]), index, like)
    return reshape(summed, dims, name=name or "ScatterNd")


def sparse_to_dense(
    sparse_indices: Any,
    output_shape: Any,
    sparse_values: Any,
    default_value: Any = 0,
    validate_indices: bool = True,
    name: str | None = None,
) -> Tensor:
    """An array of default_value with the values at indices: [n, rank], or [n] of a vector.

    sparse_values: [n], or one number for all. An index that is out of range is an error in the run; one that
    is there twice, an error in TensorFlow where validate_indices is set, has the sum of both values.
    """
    positions = cast(convert_to_tensor(sparse_indices), int64)
    values = convert_to_tensor(sparse_values)
    default = convert_to_tensor(default_value, values.dtype)
    attributes = Attributes()
    sizes = attributes.vector(output_shape, "sparse_to_dense")
    known = positions.spec.shape
    fits = known is not None and (len(known) < 2 or (len(known) == 2 and known[1] == len(sizes)))
    if isinstance(sizes, Later) or not fits:
        raise GraphError(f"sparse_to_dense: {positions!r} are no indices [n, rank] for {output_shape!r}.")
    positions = reshape(positions, [-1, len(sizes)])
    index = late(FlatIndex(sizes), [positions], attributes.values)
    each = zeros_like(index, values.dtype)
    empty = zeros([reduce_prod(convert_to_tensor(output_shape))], values.dtype)
    filled = apply(ScatterAddLike(), values + each, index, empty)
    there = not_equal(apply(ScatterAddLike(), each + 1, index, empty), empty)
    # not the default and a change: of a large default nothing of a small value would be left
    return reshape(where(there, filled, default), output_shape, name=name or "SparseToDense")


def _known(shape: Any, what: str) -> tuple[int, ...]:
    value = known_value(convert_to_tensor(shape))
    if value is None or value.dtype == object:
        raise GraphError(f"{what}: the shape has to be known.")
    return tuple(int(d) for d in value)


def scatter_add(
    ref: Variable, indices: Any, updates: Any, use_locking: bool = False, name: str | None = None
) -> Tensor:
    """The variable, with updates added to the rows that indices name."""
    return ref.assign_add(_rows(ref, indices, updates), name=name)


def scatter_sub(
    ref: Variable, indices: Any, updates: Any, use_locking: bool = False, name: str | None = None
) -> Tensor:
    """The variable, with updates subtracted from the rows that indices name."""
    return ref.assign_sub(_rows(ref, indices, updates), name=name)


def scatter_update(
    ref: Variable, indices: Any, updates: Any, use_locking: bool = True, name: str | None = None
) -> Tensor:
    """The variable, with the rows that indices name replaced; a row that is named twice gets the mean."""
    x = convert_to_tensor(updates, ref.dtype)
    count = _rows(ref, indices, ones_like(x))
    named = greater(count, 0)
    mean = _rows(ref, indices, x) / where(named, count, ones_like(count))
    return ref.assign(where(named, cast(mean, ref.dtype), ref), name=name)


def _rows(ref: Variable, indices: Any, updates: Any) -> Tensor:
    """updates, [*indices, ...], in the rows of a tensor like ref, elsewhere 0."""
    at = convert_to_tensor(indices)
    x = convert_to_tensor(updates, ref.dtype)
    rest = list(ref.value().spec.shape or ())[1:]
    wide = x if x.shape.ndims else x + zeros([*_sizes(at), *rest], ref.dtype)
    return apply(ScatterAddLike(), reshape(wide, [-1, *rest]), reshape(at, [-1]), ref)


def bincount(
    arr: Any, weights: Any = None, minlength: Any = None, maxlength: Any = None, dtype: Any = int32
) -> Tensor:
    """How often each of 0 .. minlength - 1 comes, or the sum of the weights.

    Raises:
        GraphError: minlength and maxlength are not given, and the same: a plan has fixed shapes.
    """
    if minlength is None or minlength != maxlength:
        raise GraphError("bincount: give minlength and maxlength, the same: a plan has fixed shapes.")
    hits = one_hot(reshape(arr, [-1]), minlength, dtype=float64)
    if weights is None:
        return cast(reduce_sum(hits, 0), dtype)
    w = convert_to_tensor(weights)
    return cast(reduce_sum(hits * reshape(cast(w, float64), [-1, 1]), 0), w.dtype)


def histogram_fixed_width(
    values: Any, value_range: Any, nbins: int = 100, dtype: Any = int32, name: str | None = None
) -> Tensor:
    """How many values lie in each of nbins equal parts of a range; those outside count at its ends."""
    x = convert_to_tensor(values)
    low, high = (
        cast(v, float64) for v in (convert_to_tensor(value_range)[0], convert_to_tensor(value_range)[1])
    )
    at = floor((cast(reshape(x, [-1]), float64) - low) / (high - low) * float(nbins))
    at = maximum(-maximum(-at, -float(nbins - 1)), 0.0)
    return cast(reduce_sum(one_hot(cast(at, int32), nbins, dtype=float64), 0), dtype, name=name)


def is_numeric_tensor(tensor: Any) -> bool:
    """Whether it is a tensor of numbers."""
    return isinstance(tensor, TensorLike) and not (tensor.dtype.is_string or tensor.dtype == bool_)


def count_up_to(ref: Variable, limit: int, name: str | None = None) -> Tensor:
    """The variable's value, which then grows by 1. InvalidArgumentError, while running, at the limit."""
    from dtrain.ops.host import Assert

    before = identity(ref)
    with before.graph.control_dependencies(
        [Assert(before < limit, [f"{ref.name} has come to {limit}:", before])]
    ):
        now = identity(before)
    with before.graph.control_dependencies([now]):
        after = ref.assign_add(1, read_value=False)
    with before.graph.control_dependencies([after]):
        return identity(now, name=name)
