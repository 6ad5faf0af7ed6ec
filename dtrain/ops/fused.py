"""Several elementwise ops, and sums of what they compute, as one op: what the pass `fuse` makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.graph.dtypes import as_dtype
from dtrain.graph.graph import Spec
from dtrain.ops.base import ELEMENTWISE, MATRIX, Array, Env, Example, Kernel, Op, in_order, register
from dtrain.ops.body import Again, Instruction, kernels
from dtrain.ops.evaluate import evaluate
from dtrain.ops.linalg import MatMul
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


#: What a loop may be that ends a product: x + b; ReLU of that, and with a mask that one of the next two
#: reads; what flows back through a ReLU; and its sums over the rows too. cuda/epilogue.py knows these names.
BIAS, RELU, RELU_MASK, GATE, GATE_SUMS = "bias", "relu", "relu and mask", "gate", "gate and sums"


class Behind(NamedTuple):
    """A loop and its arrays, for the op whose result it reads as value `at`, where ins has None.

    ends: which of BIAS and the like it is, or ''. values: the spec of each of the loop's values, with global
    sizes.
    """

    loop: Fused
    ends: str
    values: list[Spec]
    at: int
    ins: list[Array]
    outs: Sequence[Array]


@register
class Joined(Op):
    """An op and the one loop that reads its result, as one op: what the pass `join` makes on a device.

    first: what comes first, whose inputs come first; then: the loop; at: which of its inputs is the first's
    result, and shape: seen in this shape; ends: what the loop is after a product, or ''. A first has
    `joined`, which may do both in one kernel. By default it is a product. name: of its operation.
    """

    first: Any  # an op with `joined`
    then: Fused
    at: int
    shape: tuple[int, ...]
    ends: str = ""
    name: str = ""
    no_gradient = "it is made after gradients are"

    category = MATRIX

    def _parts(self, ins: Sequence[Any], between: Any) -> tuple[list[Any], list[Any]]:
        """The inputs of both, or what there is to say of each; between: the same of the first's result."""
        count = len(ins) - self.then.inputs + 1
        others = list(ins[count:])
        others.insert(self.at, between)
        return list(ins[:count]), others

    def _specs(self, specs: Sequence[Spec]) -> tuple[list[Spec], list[Spec]]:
        firsts, others = self._parts(specs, None)
        (made,) = self.first.infer(*firsts)
        others[self.at] = Spec(self.shape, made.dtype)
        return firsts, others

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return self.then.infer(*self._specs(specs)[1])

    def flops(self, ins: Sequence[Spec], outs: Sequence[Spec]) -> int:
        firsts = self._specs(ins)[0]
        return self.first.flops(firsts, self.first.infer(*firsts))

    def _between(self, env: Any, ins: Sequence[Array], outs: Sequence[Array]) -> tuple[Array, list[Array]]:
        """Memory for the first's result, and the loop's inputs with it."""
        firsts, others = self._parts(ins, None)
        (made,) = self.first.infer(*(Spec(a.shape, as_dtype(a.dtype)) for a in firsts))
        x = env.scratch(made.shape, made.dtype.numpy)
        others[self.at] = x.reshape(outs[0].shape)
        return x, others

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        x, others = self._between(env, ins, outs)
        first = self.first.bind(env, self._parts(ins, x)[0], [x])
        then = self.then.bind(env, others, outs)

        def kernel() -> None:
            first()
            then()

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        if not code.cuda:
            return None
        firsts, others = self._specs(specs)
        arrays, behind = self._parts(ins, None)
        one = self.first.joined(
            code, arrays, Behind(self.then, self.ends, self.then.values(others), self.at, behind, outs)
        )
        if one is not None:
            return one
        x, behind = self._between(code, ins, outs)
        return in_order(
            self.first.native(code, firsts, arrays, [x]), self.then.native(code, others, behind, outs)
        )

    def first_bad(self, ins: Sequence[np.ndarray]) -> str:
        """As of the loop, or the first op, if it makes one."""
        arrays, others = self._parts(ins, None)
        if self.first.stateful:
            return self.first.described(self.name)
        (made,) = evaluate(self.first, arrays)
        if not np.isfinite(made).all():
            return self.first.described(self.name)
        others[self.at] = made.reshape(self.shape)
        return self.then.first_bad(others)

    def described(self, name: str) -> str:
        return f"{self.first.described(self.name)} or {self.then.described(name)}"

    @classmethod
    def examples(cls) -> list[Example]:
        body = (Instruction(Add(), (0, 1)), Instruction(Relu(), (2,)))
        then = Fused(2, body, (3,))
        return [Example(cls(MatMul(), then, 0, (3, 4), ends), (3, 2), (2, 4), (4,)) for ends in ("", RELU)]


@register
class JoinedRows(Joined):
    """The same where the first is rows of an external table."""

    stateful = True
    tells = (0,)
    category = ELEMENTWISE

    @classmethod
    def examples(cls) -> list[Example]:
        return []


def _has_rows(array: Array, shape: tuple[int, ...]) -> bool:
    """Whether an operand runs along the first axis of the shape that all broadcast to."""
    return array.ndim == len(shape) and array.shape[0] == shape[0]
