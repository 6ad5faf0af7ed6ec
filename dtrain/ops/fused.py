"""Several elementwise ops, and sums of what they compute, as one op: what the pass `fuse` makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.graph.graph import Spec
from dtrain.ops.base import ELEMENTWISE, Array, Env, Example, Kernel, Op, register
from dtrain.ops.body import Again, Instruction, kernels
from dtrain.ops.evaluate import evaluate
from dtrain.ops.math import Add, Mul
from dtrain.ops.nn import Relu
from dtrain.ops.reduce import Sum

#: Bytes of a piece of one operand where NumPy does the instructions: several operands fit in the L2 cache.
PIECE = 1 << 18


@register
class Fused(Op):
    """A body of elementwise instructions over one shape, and of sums over axes of it.

    inputs: how many there are; results: the numbers of the values that are outputs; names: of the ops that
    the instructions come from, for messages.
    """

    inputs: int
    body: tuple[Instruction, ...]
    results: tuple[int, ...]
    names: tuple[str, ...] = ()
    no_gradient = "it is made after gradients are"
    category = ELEMENTWISE

    @property
    def inplace(self) -> tuple[int, ...]:  # type: ignore[override]  # by its attributes
        """Entries of an input of output 0's shape are read before they are written, one by one."""
        return tuple(range(self.inputs)) if self._elementwise(self.results[0]) else ()

    def _elementwise(self, value: int) -> bool:
        return self.body[value - self.inputs].op.elementwise

    def values(self, specs: Sequence[Spec]) -> list[Spec]:
        """The spec of every value of the body."""
        found = list(specs)
        for op, args in self.body:
            found.extend(op.infer(*(found[a] for a in args)))
        return found

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        values = self.values(specs)
        return [values[v] for v in self.results]

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return code.loop(self.body, self.results, self.values(specs), ins, outs)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        """The instructions one after another, over pieces of the rows that stay in the cache."""
        shape = np.broadcast_shapes(*(a.shape for a in ins))
        nbytes = max(a.nbytes for a in (*ins, *outs))
        rows, step = shape[0] if shape else 0, shape[0] if shape else 0
        if env.on_host and nbytes > PIECE and all(self._elementwise(v) for v in self.results):
            step = max(1, PIECE * rows // nbytes)
        made: list[Kernel] = []
        if step == rows:
            made = kernels(env, self.body, self.results, ins, outs)
        else:
            again = Again(env)
            for at in range(0, rows, step):
                again.begin()
                piece = [a[at : at + step] if _has_rows(a, shape) else a for a in (*ins, *outs)]
                made += kernels(again, self.body, self.results, piece[: self.inputs], piece[self.inputs :])

        def kernel() -> None:
            for each in made:
                each()

        return kernel

    def first_bad(self, ins: Sequence[np.ndarray]) -> str:
        """Type and name of the first instruction that makes a NaN or an infinity of ins, or else of all."""
        values = list(ins)
        for (op, args), name in zip(self.body, self.names, strict=True):
            (made,) = evaluate(op, [values[a] for a in args])
            if made.dtype.kind == "f" and not np.isfinite(made).all():
                return op.described(name)
            values.append(made)
        return self.described("")

    def described(self, name: str) -> str:
        pairs = zip(self.body, self.names, strict=True)
        return "one of " + ", ".join(op.described(own) for (op, _), own in pairs)

    @classmethod
    def examples(cls) -> list[Example]:
        body = (
            Instruction(Add(), (0, 1)),
            Instruction(Relu(), (3,)),
            Instruction(Mul(), (4, 2)),
            Instruction(Sum((0,), False), (5,)),
        )
        return [
            Example(cls(3, body, (4, 6)), (3, 4), (4,), ()),
            Example(cls(3, body[:3], (5,)), (3, 4), (4,), ()),
        ]


def _has_rows(array: Array, shape: tuple[int, ...]) -> bool:
    """Whether an operand runs along the first axis of the shape that all broadcast to."""
    return array.ndim == len(shape) and array.shape[0] == shape[0]
