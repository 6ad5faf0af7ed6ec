"""tf.feature_column: how columns of a table become numbers that a network takes.

A column gives a dense tensor [n, width]. A categorical one counts how often each category is in an example's
row, so that a linear model's weights, and embeddings, are matrix products with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError, UsageError
from dtrain.graph.dtypes import float32, int64
from dtrain.graph.graph import Tensor
from dtrain.names import module_getattr
from dtrain.ops.array import expand_dims, ones_like, reshape
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.index import one_hot
from dtrain.ops.initializers import TruncatedNormal, Zeros
from dtrain.ops.join import concat
from dtrain.ops.linalg import matmul
from dtrain.ops.logic import where
from dtrain.ops.math import cast, equal, floormod, greater_equal, maximum
from dtrain.ops.python import in_python
from dtrain.ops.reduce import reduce_sum
from dtrain.ops.scopes import get_variable, variable_scope

__all__ = [
    "bucketized_column",
    "categorical_column_with_hash_bucket",
    "categorical_column_with_identity",
    "categorical_column_with_vocabulary_list",
    "embedding_column",
    "indicator_column",
    "input_layer",
    "linear_model",
    "numeric_column",
]

__getattr__ = module_getattr("tf.feature_column")


class Column:
    """A column: its name, how many numbers it gives, whether it counts categories, and is for input_layer."""

    name: str
    width: int
    categorical = False
    is_dense = True

    def dense(self, features: Mapping[str, Any]) -> Tensor:
        """What it makes of the features: [n, width] of float32."""
        raise NotImplementedError


class _Numeric(Column):
    def __init__(self, key: str, shape: Any, normalizer: Callable[[Tensor], Tensor] | None) -> None:
        self.name = self.key = key
        dims = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        self.width, self._normalizer = int(np.prod(dims)), normalizer

    def dense(self, features: Mapping[str, Any]) -> Tensor:
        values = cast(_feature(features, self.key), float32)
        if self._normalizer is not None:
            values = self._normalizer(values)
        return reshape(values, [-1, self.width])


class _Bucketized(Column):
    categorical = True

    def __init__(self, source: Column, boundaries: Sequence[float]) -> None:
        if not isinstance(source, _Numeric):
            raise UsageError("bucketized_column: source_column has to be a numeric_column.")
        if list(boundaries) != sorted(set(boundaries)):
            raise UsageError("bucketized_column: boundaries have to be sorted, each once.")
        self._source, self._boundaries = source, np.array(boundaries, np.float32)
        self.name = f"{source.name}_bucketized"
        self.width = source.width * (len(boundaries) + 1)

    def dense(self, features: Mapping[str, Any]) -> Tensor:
        values = self._source.dense(features)
        above = cast(greater_equal(expand_dims(values, -1), self._boundaries), int64)
        buckets = one_hot(reduce_sum(above, -1), len(self._boundaries) + 1)
        return reshape(buckets, [-1, self.width])


class _Categorical(Column):
    """Categories by number, in any of the axes after the first; a number below 0 counts nowhere."""

    categorical = True
    is_dense = False

    def __init__(self, key: str, width: int) -> None:
        self.name = self.key = key
        self.width = width

    def numbers(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def dense(self, features: Mapping[str, Any]) -> Tensor:
        values = _feature(features, self.key)
        rank = len(values.spec.shape) if values.spec.shape is not None else 1
        hot = one_hot(self.numbers(values), self.width)
        return hot if rank == 1 else reduce_sum(hot, list(range(1, rank)))


class _Vocabulary(_Categorical):
    def __init__(self, key: str, words: Sequence[Any], default: int, oov: int) -> None:
        super().__init__(key, len(words) + oov)
        if not len(words) or len(set(words)) != len(words):
            raise UsageError(f"{key}: vocabulary_list has to have words, each once.")
        self._default, self._oov = default, oov
        self._texts = isinstance(words[0], str | bytes)
        self._places = {w.encode() if isinstance(w, str) else w: i for i, w in enumerate(words)}

    def numbers(self, values: Tensor) -> Tensor:
        if values.dtype.is_string != self._texts:
            raise GraphError(f"{self.key}: its vocabulary and its values are of other dtypes.")
        return in_python(self._found, [values], [int64], [values.spec.shape], f"{self.key}_lookup")[0]

    def _found(self, values: Any) -> np.ndarray:
        array = np.asarray(values)
        found = [self._place(v) for v in array.ravel().tolist()]
        return np.array(found, np.int64).reshape(array.shape)

    def _place(self, value: Any) -> int:
        place = self._places.get(value)
        if place is None and self._oov:
            return len(self._places) + _hash(value) % self._oov
        return self._default if place is None else place


class _Identity(_Categorical):
    def __init__(self, key: str, width: int, default: int | None) -> None:
        super().__init__(key, width)
        self._default = default

    def numbers(self, values: Tensor) -> Tensor:
        values = cast(values, int64)
        if self._default is None:
            return values
        inside = equal(maximum(values, 0) - floormod(maximum(values, 0), self.width), 0)
        inside = equal(cast(inside, int64) * cast(greater_equal(values, 0), int64), 1)
        return where(inside, values, ones_like(values) * self._default)


class _Hashed(_Categorical):
    def numbers(self, values: Tensor) -> Tensor:
        return in_python(self._found, [values], [int64], [values.spec.shape], f"{self.key}_hash")[0]

    def _found(self, values: Any) -> np.ndarray:
        array = np.asarray(values)
        return np.array([_hash(v) % self.width for v in array.ravel().tolist()], np.int64).reshape(
            array.shape
        )


class _Indicator(Column):
    def __init__(self, source: Column) -> None:
        self._source = _categorical(source, "indicator_column")
        self.name, self.width = f"{source.name}_indicator", source.width

    def dense(self, features: Mapping[str, Any]) -> Tensor:
        return self._source.dense(features)


class _Embedding(Column):
    def __init__(self, source: Column, dimension: int, combiner: str, initializer: Any) -> None:
        if combiner not in ("mean", "sum", "sqrtn"):
            raise UsageError(f"embedding_column: combiner is {combiner!r}; it is 'mean', 'sum' or 'sqrtn'.")
        self._source, self._combiner = _categorical(source, "embedding_column"), combiner
        self.name, self.width = f"{source.name}_embedding", dimension
        self._initializer = initializer or TruncatedNormal(0.0, 1 / np.sqrt(dimension))

    def dense(self, features: Mapping[str, Any]) -> Tensor:
        counts = self._source.dense(features)
        table = get_variable(
            "embedding_weights", [self._source.width, self.width], initializer=self._initializer
        )
        rows = matmul(counts, table)
        if self._combiner == "sum":
            return rows
        number = reduce_sum(counts if self._combiner == "mean" else counts * counts, 1, keepdims=True)
        return rows / maximum(number if self._combiner == "mean" else number**0.5, 1e-12)


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def numeric_column(
    key: str,
    shape: Any = (1,),
    default_value: None = None,
    dtype: Any = float32,
    normalizer_fn: Callable[[Tensor], Tensor] | None = None,
) -> Column:
    """The numbers of a feature of this shape, as normalizer_fn makes them. default_value is refused."""
    if default_value is not None:
        raise UsageError("numeric_column: default_value is not supported: features are dense.")
    return _Numeric(key, shape, normalizer_fn)


def bucketized_column(source_column: Column, boundaries: Sequence[float]) -> Column:
    """In which bucket a number is: below boundaries[0], from there to below boundaries[1], ..."""
    return _Bucketized(source_column, boundaries)


def categorical_column_with_vocabulary_list(
    key: str,
    vocabulary_list: Sequence[Any],
    dtype: Any = None,
    default_value: int = -1,
    num_oov_buckets: int = 0,
) -> Column:
    """The place of a word, or a number, in a list.

    Others are default_value (-1: none), or in num_oov_buckets more categories.
    """
    if num_oov_buckets and default_value != -1:
        raise UsageError(f"{key}: give default_value or num_oov_buckets, not both.")
    return _Vocabulary(key, list(vocabulary_list), default_value, num_oov_buckets)


def categorical_column_with_identity(key: str, num_buckets: int, default_value: int | None = None) -> Column:
    """Categories by number; one out of range is default_value or, without it, none."""
    return _Identity(key, num_buckets, default_value)


def categorical_column_with_hash_bucket(key: str, hash_bucket_size: int, dtype: Any = None) -> Column:
    """A category by the hash of its text. The hash is another than TensorFlow's."""
    return _Hashed(key, hash_bucket_size)


def indicator_column(categorical_column: Column) -> Column:
    """How often each category is in an example, for a network that takes numbers."""
    return _Indicator(categorical_column)


def embedding_column(
    categorical_column: Column, dimension: int, combiner: str = "mean", initializer: Any = None
) -> Column:
    """A learned row of `dimension` numbers for each category; combiner: of several of an example."""
    return _Embedding(categorical_column, dimension, combiner, initializer)


def input_layer(
    features: Mapping[str, Any],
    feature_columns: Any,
    weight_collections: None = None,
    trainable: bool = True,
    cols_to_vars: None = None,
) -> Tensor:
    """The columns side by side, by their names: [n, all widths]."""
    columns = _columns(feature_columns)
    for column in columns:
        if not column.is_dense:
            raise UsageError(
                f"input_layer: {column.name} is categorical: wrap it in indicator_column or embedding_column."
            )
    with variable_scope(None, "input_layer"):
        parts = []
        for column in columns:
            with variable_scope(_scope(column.name)):
                parts.append(column.dense(features))
        return parts[0] if len(parts) == 1 else concat(parts, 1)


def linear_model(
    features: Mapping[str, Any],
    feature_columns: Any,
    units: int = 1,
    sparse_combiner: str = "sum",
    weight_collections: None = None,
    trainable: bool = True,
    cols_to_vars: None = None,
) -> Tensor:
    """The sum of all columns times weights of their own, and a bias: [n, units]. Weights begin at 0."""
    if sparse_combiner != "sum":
        raise UsageError("linear_model: sparse_combiner has to be 'sum'.")
    with variable_scope(None, "linear_model"):
        total = None
        for column in _columns(feature_columns):
            with variable_scope(_scope(column.name)):
                weights = get_variable(
                    "weights", [column.width, units], initializer=Zeros(), trainable=trainable
                )
                part = matmul(column.dense(features), weights)
            total = part if total is None else total + part
        bias = get_variable("bias_weights", [units], initializer=Zeros(), trainable=trainable)
        return total + bias


# -- helpers ---------------------------------------------------------------------------------------------
def _columns(columns: Any) -> list[Column]:
    given = [columns] if isinstance(columns, Column) else list(columns)
    if not given or not all(isinstance(c, Column) for c in given):
        raise UsageError("feature_columns has to be a list of columns, as tf.feature_column makes them.")
    if len({c.name for c in given}) < len(given):
        raise UsageError("feature_columns: two columns have the same name.")
    return sorted(given, key=lambda c: c.name)


def _categorical(column: Column, what: str) -> Column:
    if not isinstance(column, Column) or not column.categorical:
        raise UsageError(f"{what} takes a categorical column.")
    return column


def _feature(features: Mapping[str, Any], key: str) -> Tensor:
    if not isinstance(features, Mapping) or key not in features:
        names = sorted(features) if isinstance(features, Mapping) else type(features).__name__
        raise UsageError(f"Feature {key} is not in features dictionary: it has {names}.")
    return convert_to_tensor(features[key])


def _scope(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_.-/" else "_" for c in name)


def _hash(value: Any) -> int:
    return zlib.crc32(value if isinstance(value, bytes) else str(value).encode())
