"""Matrix products: where a network's time goes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import shape_text
from dtrain.ops.base import Array, Env, Example, Kernel, Op, Placed, apply, convert_to_tensor, register
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded


@register
class MatMul(Op):
    """a @ b of two matrices, either read transposed (which costs nothing: BLAS takes a flag)."""

    transpose_a: bool = False
    transpose_b: bool = False

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

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        a = ins[0].T if self.transpose_a else ins[0]
        b = ins[1].T if self.transpose_b else ins[1]
        return partial(env.xp.matmul, a, b, outs[0])

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

    @classmethod
    def examples(cls) -> list[Example]:
        shapes = {False: ((2, 3), (3, 4)), True: ((3, 2), (4, 3))}
        return [
            Example(cls(ta, tb), shapes[ta][0], shapes[tb][1]) for ta in (False, True) for tb in (False, True)
        ]


def matmul(
    a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, name: str | None = None
) -> Tensor:
    """Product of two matrices [m, k] and [k, n] (after the transpositions asked for): [m, n]."""
    if not isinstance(a, TensorLike) and isinstance(b, TensorLike):
        a = convert_to_tensor(a, b.dtype)
    a = convert_to_tensor(a)
    b = b if isinstance(b, TensorLike) else convert_to_tensor(b, a.dtype)
    return apply(MatMul(bool(transpose_a), bool(transpose_b)), a, b, name=name)


TensorLike.__matmul__ = lambda self, other: matmul(self, other)  # type: ignore[method-assign]
TensorLike.__rmatmul__ = lambda self, other: matmul(other, self)  # type: ignore[method-assign]
