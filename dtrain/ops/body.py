"""Bodies: several ops as the work of one, on whole arrays in NumPy, or on one entry in C and CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dtrain.graph.dtypes import DType, as_dtype
from dtrain.graph.graph import Graph, Spec, Tensor
from dtrain.native.loops import TYPES
from dtrain.ops.base import Array, Const, Env, Kernel, Op, placeholder


class Instruction(NamedTuple):
    """One op of a body; args are numbers of values: the inputs first, then what each instruction computes."""

    op: Op
    args: tuple[int, ...]


def kernels(
    env: Env, body: Sequence[Instruction], results: Sequence[int], ins: Sequence[Array], outs: Sequence[Array]
) -> list[Kernel]:
    """The instructions as kernels one after another, from ins to outs, the values numbered by results.

    An out may be the memory of an input. What lies in no out has scratch memory, as little as can be.
    """
    values, outputs = list(ins), dict(zip(results, outs, strict=True))
    last = {a: i for i, (_, args) in enumerate(body) for a in args} | dict.fromkeys(results, len(body))
    scratch: dict[int, Array] = {}  # by value
    free: list[Array] = []
    made: list[Callable[[], Any]] = []
    copies: list[Kernel] = []
    for i, (op, args) in enumerate(body):
        read = [values[a] for a in args]
        out = target = outputs.get(len(values))
        dying = [a for a in dict.fromkeys(args) if last[a] == i and a in scratch]
        if out is None or _still_read(env.xp, body, i, ins, out):
            (spec,) = op.infer(*(Spec(a.shape, as_dtype(a.dtype)) for a in read))
            shape, dtype = np.broadcast_shapes(*(a.shape for a in read)), spec.dtype.numpy
            over = [scratch[a] for a in dying if all(p in op.inplace for p, b in enumerate(args) if b == a)]
            like = [a for a in (*over, *free) if a.shape == shape and a.dtype == dtype]
            target = scratch[len(values)] = like[0] if like else env.scratch(shape, dtype)
            free = [a for a in free if a is not target]
            if out is not None:
                copies.append(partial(env.xp.copyto, out, target))
        free += [scratch[a] for a in dying if scratch[a] is not target]
        made.append(op.bind(env, read, [target]))
        values.append(target)
    return made + copies


def _still_read(xp: Any, body: Sequence[Instruction], i: int, ins: Sequence[Array], out: Array) -> bool:
    """Whether instruction i may not write over an input's memory, which it or a later one reads."""
    for k, x in enumerate(ins):
        if x.size and xp.may_share_memory(x, out):
            op, args = body[i]
            here = any(a == k and p not in op.inplace for p, a in enumerate(args))
            if here or any(k in later.args for later in body[i + 1 :]):
                return True
    return False


class Again:
    """An environment that gives the same scratch memory again, cut to size, after each begin().

    So the pieces of an array are worked on in one piece's memory; the first has to be the largest.
    """

    def __init__(self, env: Env) -> None:
        self._env, self._given, self._next = env, list[Array](), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self) -> None:
        self._next = 0

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        if self._next == len(self._given):
            self._given.append(self._env.scratch(shape, dtype))
        self._next += 1
        size = int(np.prod(shape, dtype=np.int64))
        return self._given[self._next - 1].reshape(-1)[:size].reshape(shape)


class Rule:
    """What a function of scalar tensors does, as a body: arithmetic that is written once.

    function: takes tensors of rank 0, and returns one or several; it has to use elementwise ops alone.
    dtypes: of its inputs. constants: the values numbered after the inputs.
    """

    def __init__(self, function: Callable[..., Any], dtypes: Sequence[DType]) -> None:
        graph = Graph()
        with graph.as_default():
            given = [placeholder(dtype, (), name="input") for dtype in dtypes]
            results = function(*given)
        results = (results,) if isinstance(results, Tensor) else tuple(results)
        nodes = graph.operations[len(given) :]
        consts = [n for n in nodes if isinstance(n.kind, Const)]
        steps = [n for n in nodes if not isinstance(n.kind, Const)]
        assert all(n.kind.elementwise for n in steps), [n.type for n in steps]
        self.constants = [n.kind.value.array for n in consts if isinstance(n.kind, Const)]
        self._values = [*given, *(n.outputs[0] for n in (*consts, *steps))]
        number = {t: i for i, t in enumerate(self._values)}
        self.body = [Instruction(n.kind, tuple(number[t] for t in n.inputs)) for n in steps]
        self.results = [number[t] for t in results]

    def expression(self, names: Sequence[str], cuda: bool = False) -> str | None:
        """Its result in C or CUDA, of inputs of these names, as one expression. None: it has no such form."""
        texts = [*names, *map(self._constant, range(len(names), self._first))]
        for i, (_, args) in enumerate(self.body, self._first):
            text = self._operation(i, [texts[a] for a in args], cuda)
            if text is None:
                return None
            dtype = self._values[i].dtype
            # C computes with short integers as with long ones
            texts.append(f"({text})" if dtype.is_floating else f"({TYPES[dtype.name]})({text})")
        return texts[self.results[0]]

    def text(self, names: Sequence[str], cuda: bool = False) -> str:
        """It for one entry in C or CUDA: of inputs of these names it makes constants x0, x1 ... by number."""
        texts = [*names, *map(self._constant, range(len(names), self._first))]
        texts += [
            str(self._operation(i, [f"x{a}" for a in args], cuda))
            for i, (_, args) in enumerate(self.body, self._first)
        ]
        return "\n".join(
            f"const {TYPES[v.dtype.name]} x{i} = {text};"
            for i, (v, text) in enumerate(zip(self._values, texts, strict=True))
        )

    @property
    def _first(self) -> int:
        """The number of the first value that is computed."""
        return len(self._values) - len(self.body)

    def _constant(self, i: int) -> str:
        value = self.constants[i - (self._first - len(self.constants))]
        return f"({TYPES[self._values[i].dtype.name]}){value.item() + 0!r}"

    def _operation(self, i: int, args: Sequence[str], cuda: bool) -> str | None:
        op: Any  # elementwise
        op, numbers = self.body[i - self._first]
        dtypes = [self._values[a].dtype for a in numbers]
        return op.expression(args, dtypes, TYPES[self._values[i].dtype.name], cuda)
