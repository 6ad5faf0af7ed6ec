"""Matrix products: where a network's time goes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import as_static, broadcast, shape_text, size_of
from dtrain.ops.array import SumLike
from dtrain.ops.base import (
    MATRIX,
    Array,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    convert_to_tensor,
    register,
)
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded


@register
class MatMul(Op):
    """a @ b of two matrices, either read transposed (which costs nothing: BLAS takes a flag)."""

    transpose_a: bool = False
    transpose_b: bool = False
    category = MATRIX

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        a, b = specs
        if a.dtype != b.dtype:
            raise GraphError(f"dtypes {a.dtype.name} and {b.dtype.name} differ; use cast on one of them")
        for which, spec in (("first", a), ("second", b)):
            if spec.shape is not None and len(spec.shape) != 2:
                raise GraphError(f"the {which} operand {shape_text(spec.shape)} is not a matrix")
        rows, inner_a = (a.shape or (None, None))[:: -1 if self.transpose_a else 1]
        inner_b, columns = (b.shape or (None, None))[:: -1 if self.transpose_b else 1]
        if inner_a is not None and inner_b is not None and inner_a != inner_b:
            raise GraphError(f"the inner sizes {inner_a} and {inner_b} differ")
        return [Spec((rows, columns), a.dtype)]

    def flops(self, ins: Sequence[Spec], outs: Sequence[Spec]) -> int:
        return 2 * size_of(outs[0].shape) * as_static(ins[0].shape)[0 if self.transpose_a else 1]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        a = ins[0].T if self.transpose_a else ins[0]
        b = ins[1].T if self.transpose_b else ins[1]
        return partial(env.xp.matmul, a, b, outs[0])

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return code.product(*ins, outs[0], self.transpose_a, self.transpose_b)

    def joined(self, code: Any, ins: Sequence[Array], behind: Any) -> Any:
        """The product with the loop after it in its epilogue: see ops/fused.py."""
        if not behind.ends:
            return None
        return code.ended(*ins, self.transpose_a, self.transpose_b, behind.ends, behind)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        a, b = node.inputs
        ta, tb = self.transpose_a, self.transpose_b
        da = matmul(b, dy, tb, True) if ta else matmul(dy, b, False, not tb)
        db = matmul(dy, a, True, ta) if tb else matmul(a, dy, not ta, False)
        return [da, db]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        # each operand's axes as (kept, contracted)
        kept_a, inner_a = (1, 0) if self.transpose_a else (0, 1)
        kept_b, inner_b = (0, 1) if self.transpose_b else (1, 0)
        a, b = placements
        if Sharded(inner_a) == a or Sharded(inner_b) == b:
            return [Sharded(inner_a), Sharded(inner_b)], PARTIAL
        if Sharded(kept_a) == a:
            return [a, REPLICATED], Sharded(0)
        if Sharded(kept_b) == b:
            return [REPLICATED, b], Sharded(1)
        return None

    def place_parts(self, node: Operation, ranks: int) -> Placed:
        kept = 1 if self.transpose_a else 0
        enough = node.inputs[0].spec.shape[kept] >= ranks  # type: ignore[index, operator]
        return ([Sharded(kept), REPLICATED], Sharded(0)) if enough else None

    @classmethod
    def examples(cls) -> list[Example]:
        shapes = {False: ((2, 3), (3, 4)), True: ((3, 2), (4, 3))}
        return [
            Example(cls(ta, tb), shapes[ta][0], shapes[tb][1]) for ta in (False, True) for tb in (False, True)
        ]


@register
class BatchMatMul(Op):
    """Products of the matrices in the last two axes; the axes before broadcast."""

    transpose_a: bool = False
    transpose_b: bool = False
    category = MATRIX

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        a, b = specs
        if a.dtype != b.dtype:
            raise GraphError(f"dtypes {a.dtype.name} and {b.dtype.name} differ; use cast on one of them")
        for which, spec in (("first", a), ("second", b)):
            if spec.shape is not None and len(spec.shape) < 2:
                raise GraphError(f"the {which} operand {shape_text(spec.shape)} is not a matrix")
        if a.shape is None or b.shape is None:
            return [Spec(None, a.dtype)]
        rows, inner_a = a.shape[-2:][:: -1 if self.transpose_a else 1]
        inner_b, columns = b.shape[-2:][:: -1 if self.transpose_b else 1]
        if inner_a is not None and inner_b is not None and inner_a != inner_b:
            raise GraphError(f"the inner sizes {inner_a} and {inner_b} differ")
        batch = broadcast(a.shape[:-2], b.shape[:-2])
        return [Spec((*(batch or ()), rows, columns), a.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        a = ins[0].swapaxes(-1, -2) if self.transpose_a else ins[0]
        b = ins[1].swapaxes(-1, -2) if self.transpose_b else ins[1]
        return partial(env.xp.matmul, a, b, outs[0])

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return code.products(*ins, outs[0], self.transpose_a, self.transpose_b)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        a, b = node.inputs
        ta, tb = self.transpose_a, self.transpose_b
        da = _batch(b, dy, tb, True) if ta else _batch(dy, b, False, not tb)
        db = _batch(dy, a, True, ta) if tb else _batch(a, dy, not ta, False)
        return [apply(SumLike(), da, a), apply(SumLike(), db, b)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if PARTIAL in placements:
            return None
        shapes = [t.spec.shape or () for t in node.inputs]
        out = node.outputs[0].spec.shape or ()
        # axes counted from the end: those of a batch are the same in both operands and the result
        places = [
            p.axis - len(s) if isinstance(p, Sharded) else 0 for p, s in zip(placements, shapes, strict=True)
        ]
        batch = min(places)
        if batch < -2:
            spans = [-batch <= len(s) and s[batch] == out[batch] for s in shapes]
            wanted = [
                Sharded(len(s) + batch) if on else REPLICATED for s, on in zip(shapes, spans, strict=True)
            ]
            return wanted, Sharded(len(out) + batch)
        kept_a, inner_a = (-1, -2) if self.transpose_a else (-2, -1)
        kept_b, inner_b = (-2, -1) if self.transpose_b else (-1, -2)
        if places[0] == inner_a or places[1] == inner_b:
            return [Sharded(len(shapes[0]) + inner_a), Sharded(len(shapes[1]) + inner_b)], PARTIAL
        if places[0] == kept_a:
            return [placements[0], REPLICATED], Sharded(len(out) - 2)
        if places[1] == kept_b:
            return [REPLICATED, placements[1]], Sharded(len(out) - 1)
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(), (5, 2, 3), (5, 3, 4)),
            Example(cls(True, False), (2, 1, 3, 2), (5, 3, 4)),
            Example(cls(False, True), (5, 2, 3), (4, 3)),
            Example(cls(True, True), (3, 2), (5, 4, 3)),
        ]


def _batch(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    return apply(BatchMatMul(transpose_a, transpose_b), a, b)


def matmul(
    a: Any,
    b: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    a_is_sparse: bool = False,
    b_is_sparse: bool = False,
    name: str | None = None,
) -> Tensor:
    """The product of matrices.

    Args:
        a: a tensor [..., m, k]; axes before the last two hold many matrices and broadcast.
        b: a tensor [..., k, n] of the same dtype.
        transpose_a: whether a is given as [..., k, m].
        transpose_b: whether b is given as [..., n, k].
        a_is_sparse, b_is_sparse: accepted for TensorFlow 1; without effect.
        name: name of the operation.

    Returns:
        Tensor: [..., m, n].

    Raises:
        GraphError: dtypes or sizes do not agree.

    Example:
        >>> dt.matmul(dt.zeros([2, 3]), dt.zeros([3, 4])).shape.as_list()
        [2, 4]
    """
    if not isinstance(a, TensorLike) and isinstance(b, TensorLike):
        a = convert_to_tensor(a, b.dtype)
    a = convert_to_tensor(a)
    b = b if isinstance(b, TensorLike) else convert_to_tensor(b, a.dtype)
    many = any(t.shape.ndims is not None and t.shape.ndims > 2 for t in (a, b))
    kind = BatchMatMul if many else MatMul
    return apply(kind(bool(transpose_a), bool(transpose_b)), a, b, name=name or "MatMul")


TensorLike.__matmul__ = lambda self, other: matmul(self, other)  # type: ignore[method-assign]  # filled in here
TensorLike.__rmatmul__ = lambda self, other: matmul(other, self)  # type: ignore[method-assign]  # filled in here
