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
    """start, start + delta, ... up to limit, not included; range(n) counts from 0.

    Integers may be tensors that follow from shapes. The result is int32 unless a float or dtype says
    otherwise.

    Raises:
        GraphError: delta is 0 or leads away from limit.
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


def linspace(start: Any, stop: Any, num: Any, name: str | None = None) -> Tensor:
    """num values at equal distances from start to stop, both included; of start's floating dtype."""
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
    """Identity matrices: ones where row and column agree, of shape batch_shape + [rows, columns]."""
    columns = num_rows if num_columns is None else num_columns
    matrix = one_hot(range_(num_rows), columns, dtype=dtype, name=name or "eye")
    if batch_shape is None:
        return matrix
    lead = static_ints(batch_shape, "eye: batch_shape")
    return broadcast_to(matrix, [*lead, num_rows, columns], name or "eye")


def matrix_diag(diagonal: Any, name: str | None = None) -> Tensor:
    """Matrices with the last axis of a tensor on their diagonals and zeros elsewhere."""
    x = convert_to_tensor(diagonal)
    n = shape(x)[-1]
    on = eye(n, dtype=bool_)
    return where(on, expand_dims(x, -1), np.zeros((), x.dtype.numpy), name=name or "MatrixDiag")


def diag(diagonal: Any, name: str | None = None) -> Tensor:
    """The matrix with a vector on its diagonal and zeros elsewhere."""
    x = convert_to_tensor(diagonal)
    if x.spec.shape is not None and len(x.spec.shape) != 1:
        raise GraphError(f"diag: {x!r} is not a vector; matrix_diag takes several")
    return matrix_diag(x, name or "Diag")


def matrix_diag_part(input: Any, name: str | None = None) -> Tensor:
    """The diagonals of square matrices, which lie in the last two axes."""
    x = convert_to_tensor(input)
    on = eye(shape(x)[-1], dtype=bool_)
    return reduce_sum(where(on, x, np.zeros((), x.dtype.numpy)), -1, name=name or "MatrixDiagPart")


def diag_part(input: Any, name: str | None = None) -> Tensor:
    """The diagonal of a square matrix."""
    return matrix_diag_part(input, name or "DiagPart")


def trace(x: Any, name: str | None = None) -> Tensor:
    """The sum of the diagonal of each square matrix."""
    return reduce_sum(matrix_diag_part(x), -1, name=name or "Trace")


def sequence_mask(lengths: Any, maxlen: Any = None, dtype: Any = bool_, name: str | None = None) -> Tensor:
    """True before each length and False behind it, along a new last axis of maxlen entries."""
    if maxlen is None:
        raise GraphError(
            "sequence_mask needs maxlen: the longest of the lengths is not known before the run."
        )
    x = convert_to_tensor(lengths)
    mask = less(range_(0, maxlen, 1, x.dtype), expand_dims(x, -1), name=name or "SequenceMask")
    return mask if as_dtype(dtype) == bool_ else cast(mask, dtype)
