"""Tensors made of counting: range, linspace, eye, diagonals, masks of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, as_dtype, bool_, float32, int32
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import as_static
from dtrain.ops.array import broadcast_to, expand_dims
from dtrain.ops.base import Const, Example, Op, Value, apply, constant, convert_to_tensor, register, to_array
from dtrain.ops.index import one_hot
from dtrain.ops.late import Attributes, Later, known_value, late, shape, static_ints
from dtrain.ops.logic import where
from dtrain.ops.math import add, cast, less, maximum
from dtrain.ops.reduce import reduce_sum


@register
class Range(Op):
    """start, start + delta, ... as far as limit, which is not included; a constant in every plan."""

    start: float | Later
    limit: float | Later
    delta: float | Later
    dtype: DType

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if isinstance(self.start, Later) or isinstance(self.limit, Later) or isinstance(self.delta, Later):
            return [Spec((None,), self.dtype)]
        if self.delta == 0 or (self.limit - self.start) * self.delta < 0:
            raise GraphError(f"no step of {self.delta} leads from {self.start} to {self.limit}")
        return [Spec((int(np.ceil((self.limit - self.start) / self.delta)),), self.dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        (count,) = as_static(self.infer()[0].shape)
        start: Any = self.start  # all known, in a plan
        values = start + np.arange(count) * self.delta
        return apply(Const(Value(values.astype(self.dtype.numpy))), name=node.name)

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(3, 12, 4, int32)),
            Example(cls(2.0, 0.0, -0.5, float32)),
            Example(cls(1, 1, 1, int32)),
        ]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def range_(start: Any, limit: Any = None, delta: Any = 1, dtype: Any = None, name: str = "range") -> Tensor:
    """start, start + delta, ... up to limit, which is not included; range(n) counts from 0.

    Args:
        start: the first value; the limit, where no limit is given.
        limit: where it ends.
        delta: the step. Integers may be tensors that follow from shapes.
        dtype: by default int32, or float32 where one of them is a float.
        name: name of the operation.

    Returns:
        Tensor: a vector.

    Raises:
        GraphError: delta is 0 or leads away from limit.

    Example:
        >>> dt.Session().run(dt.range(2, 8, 3))
        array([2, 5], dtype=int32)
    """
    if limit is None:
        start, limit = 0, start
    attributes = Attributes()
    parts = []
    kinds = []
    for value in (start, limit, delta):
        known = (
            known_value(convert_to_tensor(value)) if isinstance(value, TensorLike) else to_array(value, None)
        )
        if isinstance(value, TensorLike) or known.dtype.kind == "f":  # type: ignore[union-attr]  # of no tensor it is known
            kinds.append(value.dtype if isinstance(value, TensorLike) else float32)
        if known is not None and known.dtype.kind == "f":
            parts.append(known.item())
        else:
            parts.append(attributes.scalar(value, name))
    if dtype is None:
        dtype = next((k for k in kinds if k.is_floating), kinds[0] if kinds else int32)
    return late(Range(*parts, as_dtype(dtype)), (), attributes.values, name)


range_.__name__ = range_.__qualname__ = "range"


def linspace(start: Any, stop: Any, num: Any, name: str | None = None) -> Tensor:
    """Evenly spaced values, both ends included.

    Args:
        start: the first value; integers become floats.
        stop: the last value, of the same dtype.
        num: how many, an int >= 1.
        name: name of the operation.

    Returns:
        Tensor: [num], of the dtype of start.

    Raises:
        GraphError: num < 1, or the dtypes do not agree.
    """
    first = convert_to_tensor(start, None if isinstance(start, TensorLike | np.generic) else float32)
    last = convert_to_tensor(stop, None if isinstance(stop, TensorLike) else first.dtype)
    if not first.dtype.is_floating:
        raise GraphError(f"linspace: {start!r} is not floating")
    low, high, count = known_value(first), known_value(last), Attributes().scalar(num, "linspace: num")
    if low is not None and high is not None and isinstance(count, int):
        if count < 1:
            raise GraphError(f"linspace: num is {count}, not 1 or more")
        return constant(np.linspace(low, high, count).astype(low.dtype), name=name or "LinSpace")
    steps = cast(range_(num), first.dtype)
    last_step = cast(num, first.dtype) - 1
    # one value is the first, and 0 / 1 steps from it
    return add(first, steps * ((last - first) / maximum(last_step, 1)), name=name or "LinSpace")


def eye(
    num_rows: Any,
    num_columns: Any = None,
    batch_shape: Any = None,
    dtype: Any = float32,
    name: str | None = None,
) -> Tensor:
    """Identity matrices.

    Args:
        num_rows: the number of rows.
        num_columns: the number of columns; by default num_rows.
        batch_shape: axes before the last two.
        dtype: of the result.
        name: name of the operation.

    Returns:
        Tensor: of shape batch_shape + [num_rows, num_columns].

    Raises:
        GraphError: there is no such dtype.
    """
    columns = num_rows if num_columns is None else num_columns
    matrix = one_hot(range_(num_rows), columns, dtype=dtype, name=name or "eye")
    if batch_shape is None:
        return matrix
    lead = static_ints(batch_shape, "eye: batch_shape")
    return broadcast_to(matrix, [*lead, num_rows, columns], name or "eye")


def matrix_diag(diagonal: Any, name: str | None = None) -> Tensor:
    """Square matrices with vectors on their diagonals and zeros elsewhere.

    Args:
        diagonal: a tensor [..., n].
        name: name of the operation.

    Returns:
        Tensor: [..., n, n].

    Raises:
        GraphError: diagonal is a scalar.
    """
    x = convert_to_tensor(diagonal)
    n = shape(x)[-1]
    on = eye(n, dtype=bool_)
    return where(on, expand_dims(x, -1), np.zeros((), x.dtype.numpy), name=name or "MatrixDiag")


def diag(diagonal: Any, name: str | None = None) -> Tensor:
    """The square matrix with a vector on its diagonal and zeros elsewhere.

    Args:
        diagonal: a tensor [n].
        name: name of the operation.

    Returns:
        Tensor: [n, n].

    Raises:
        GraphError: the rank is not 1.
    """
    x = convert_to_tensor(diagonal)
    if x.spec.shape is not None and len(x.spec.shape) != 1:
        raise GraphError(f"diag: {x!r} is not a vector; matrix_diag takes several")
    return matrix_diag(x, name or "Diag")


def matrix_diag_part(input: Any, name: str | None = None) -> Tensor:
    """The diagonals of square matrices.

    Args:
        input: a tensor [..., n, n].
        name: name of the operation.

    Returns:
        Tensor: [..., n].

    Raises:
        GraphError: the matrices are not square.
    """
    x = convert_to_tensor(input)
    on = eye(shape(x)[-1], dtype=bool_)
    return reduce_sum(where(on, x, np.zeros((), x.dtype.numpy)), -1, name=name or "MatrixDiagPart")


def diag_part(input: Any, name: str | None = None) -> Tensor:
    """The diagonal of a square matrix.

    Args:
        input: a tensor [n, n].
        name: name of the operation.

    Returns:
        Tensor: [n].

    Raises:
        GraphError: it is no square matrix.
    """
    return matrix_diag_part(input, name or "DiagPart")


def trace(x: Any, name: str | None = None) -> Tensor:
    """The sum of the diagonal of each square matrix.

    Args:
        x: a tensor [..., n, n].
        name: name of the operation.

    Returns:
        Tensor: [...].

    Raises:
        GraphError: the matrices are not square.
    """
    return reduce_sum(matrix_diag_part(x), -1, name=name or "Trace")


def sequence_mask(lengths: Any, maxlen: Any = None, dtype: Any = bool_, name: str | None = None) -> Tensor:
    """True at the first `lengths` places of each row, False after them.

    Args:
        lengths: an integer tensor.
        maxlen: size of the new last axis; required, since shapes are known before the run.
        dtype: of the result.
        name: name of the operation.

    Returns:
        Tensor: of shape lengths.shape + [maxlen].

    Raises:
        GraphError: maxlen is missing, or lengths are not integers.
    """
    if maxlen is None:
        raise GraphError(
            "sequence_mask needs maxlen: the longest of the lengths is not known before the run."
        )
    x = convert_to_tensor(lengths)
    mask = less(range_(0, maxlen, 1, x.dtype), expand_dims(x, -1), name=name or "SequenceMask")
    return mask if as_dtype(dtype) == bool_ else cast(mask, dtype)
