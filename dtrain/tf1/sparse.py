"""Sparse tensors as what they are made of: indices, values and a shape. What is computed of them is dense."""

from __future__ import annotations

from typing import Any, NamedTuple

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, int64
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import TensorShape
from dtrain.names import module_getattr
from dtrain.ops.array import identity, ones_like, reshape, zeros_like
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.late import known_value
from dtrain.ops.linalg import matmul as dense_matmul
from dtrain.ops.logic import where
from dtrain.ops.math import add as dense_add
from dtrain.ops.math import cast, equal, rsqrt, square
from dtrain.ops.nn import embedding_lookup
from dtrain.ops.reduce import reduce_max as dense_max
from dtrain.ops.reduce import reduce_sum as dense_sum
from dtrain.ops.tensors import sparse_to_dense, unsorted_segment_sum

__all__ = [
    "SparseTensor",
    "SparseTensorValue",
    "add",
    "embedding_lookup_sparse",
    "matmul",
    "reduce_max",
    "reduce_sum",
    "sparse_add",
    "sparse_reduce_max",
    "sparse_reduce_sum",
    "sparse_tensor_dense_matmul",
    "sparse_tensor_to_dense",
    "to_dense",
]

__getattr__ = module_getattr("tf.sparse")


class SparseTensorValue(NamedTuple):
    """A sparse array: indices [n, rank], values [n], dense_shape [rank]."""

    indices: Any
    values: Any
    dense_shape: Any


class SparseTensor:
    """A tensor of zeros but for n values.

    Args:
        indices: int64 [n, rank], where they are, in the order of rows.
        values: [n].
        dense_shape: int64 [rank].

    It is nothing that a session gives or takes: fetch and feed its three parts.
    """

    def __init__(self, indices: Any, values: Any, dense_shape: Any) -> None:
        self.indices = cast(convert_to_tensor(indices), int64)
        self.values = convert_to_tensor(values)
        self.dense_shape = cast(convert_to_tensor(dense_shape), int64)

    @classmethod
    def from_value(cls, sparse_tensor_value: Any) -> SparseTensor:
        """Of a SparseTensorValue, or of a SparseTensor, which is given back."""
        return sparse_tensor_value if isinstance(sparse_tensor_value, cls) else cls(*sparse_tensor_value)

    @property
    def dtype(self) -> DType:
        return self.values.dtype

    @property
    def op(self) -> Any:
        """What makes its values."""
        return self.values.op

    @property
    def graph(self) -> Any:
        return self.values.graph

    @property
    def shape(self) -> TensorShape:
        """As far as it is known."""
        known = known_value(self.dense_shape)
        if known is None:
            rank = (self.dense_shape.spec.shape or (None,))[0]
            return TensorShape(None if rank is None else [None] * rank)
        return TensorShape([None if d is None else int(d) for d in known])

    def get_shape(self) -> TensorShape:
        return self.shape

    def __repr__(self) -> str:
        return f"SparseTensor(indices={self.indices}, values={self.values}, dense_shape={self.dense_shape})"


def _given(value: Any, what: str) -> SparseTensor:
    if isinstance(value, SparseTensorValue):
        return SparseTensor(*value)
    if not isinstance(value, SparseTensor):
        raise GraphError(f"{what}: {value!r} is no SparseTensor.")
    return value


def to_dense(
    sp_input: Any, default_value: Any = 0, validate_indices: bool = True, name: str | None = None
) -> Tensor:
    """The whole tensor, with default_value where it has no value."""
    x = _given(sp_input, "sparse_tensor_to_dense")
    return sparse_to_dense(
        x.indices, x.dense_shape, x.values, default_value, validate_indices, name or "SparseToDense"
    )


def sparse_tensor_dense_matmul(
    sp_a: Any, b: Any, adjoint_a: bool = False, adjoint_b: bool = False, name: str | None = None
) -> Tensor:
    """A sparse matrix times a dense one; either may be transposed first. It is computed densely."""
    return dense_matmul(
        to_dense(_given(sp_a, "sparse_tensor_dense_matmul")),
        b,
        transpose_a=adjoint_a,
        transpose_b=adjoint_b,
        name=name or "SparseTensorDenseMatMul",
    )


def sparse_reduce_sum(
    sp_input: Any,
    axis: Any = None,
    keepdims: bool | None = None,
    reduction_axes: Any = None,
    keep_dims: bool | None = None,
) -> Tensor:
    """The sums along axes, or of all, as a dense tensor."""
    dense = to_dense(_given(sp_input, "sparse_reduce_sum"))
    return dense_sum(dense, reduction_axes if axis is None else axis, bool(keepdims or keep_dims))


def sparse_reduce_max(
    sp_input: Any,
    axis: Any = None,
    keepdims: bool | None = None,
    reduction_axes: Any = None,
    keep_dims: bool | None = None,
) -> Tensor:
    """The largest of the values along axes, or of all, as a dense tensor; 0 where a row has none."""
    x = _given(sp_input, "sparse_reduce_max")
    axes, keep = reduction_axes if axis is None else axis, bool(keepdims or keep_dims)
    there = to_dense(SparseTensor(x.indices, ones_like(x.values), x.dense_shape))
    dense, none = to_dense(x), equal(there, zeros_like(there))
    found = dense_max(where(none, zeros_like(dense) + x.dtype.min, dense), axes, keep)
    return where(equal(dense_sum(there, axes, keep), zeros_like(found)), zeros_like(found), found)


def sparse_add(a: Any, b: Any, thresh: Any = 0) -> Tensor:
    """A sparse and a dense tensor added; two sparse ones have no number of values that is known."""
    sparse = [isinstance(x, SparseTensor | SparseTensorValue) for x in (a, b)]
    if all(sparse) or not any(sparse):
        raise GraphError("sparse_add: one of both is dense here: sparse_tensor_to_dense makes it.")
    dense = [to_dense(x) if isinstance(x, SparseTensor | SparseTensorValue) else x for x in (a, b)]
    return dense_add(*dense)


def embedding_lookup_sparse(
    params: Any,
    sp_ids: Any,
    sp_weights: Any = None,
    partition_strategy: str = "mod",
    name: str | None = None,
    combiner: str | None = None,
    max_norm: float | None = None,
) -> Tensor:
    """[rows, ...]: of each row of ids their rows of params, added up, with weights.

    combiner: 'sum', 'mean' (the default: over the weights) or 'sqrtn' (over the root of their squares).

    Raises:
        GraphError: max_norm is given, or combiner is another.
    """
    ids = _given(sp_ids, "embedding_lookup_sparse")
    combiner = combiner or "mean"
    if max_norm is not None or combiner not in ("sum", "mean", "sqrtn"):
        raise GraphError("embedding_lookup_sparse: combiner is sum, mean or sqrtn, and there is no max_norm.")
    rows = embedding_lookup(params, ids.values)
    kept = [-1, *[1] * (len(rows.spec.shape or (0,)) - 1)]
    weights = None if sp_weights is None else _given(sp_weights, "embedding_lookup_sparse").values
    by = ones_like(ids.values, rows.dtype) if weights is None else cast(weights, rows.dtype)
    at, count = ids.indices[:, 0], ids.dense_shape[0]
    if (known := known_value(ids.dense_shape)) is not None and known[0] is not None:
        count = int(known[0])  # type: ignore[assignment]
    total = unsorted_segment_sum(rows * reshape(by, kept), at, count)
    if combiner == "sum":
        return identity(total, name=name)
    if combiner == "mean":
        return identity(total / reshape(unsorted_segment_sum(by, at, count), kept), name=name)
    return identity(total * reshape(rsqrt(unsorted_segment_sum(square(by), at, count)), kept), name=name)


matmul, sparse_tensor_to_dense = sparse_tensor_dense_matmul, to_dense
add, reduce_sum, reduce_max = sparse_add, sparse_reduce_sum, sparse_reduce_max
