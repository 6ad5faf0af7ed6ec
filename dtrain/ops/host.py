"""Python functions that a step calls on the host: py_func, Print, Assert.

Every rank calls them, with whole arrays that are the same on all ranks; Print writes on rank 0.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import InvalidArgumentError
from dtrain.graph.dtypes import DType, as_dtype
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import Dims, is_static
from dtrain.ops.array import identity
from dtrain.ops.base import Array, Env, Kernel, Op, convert_to_tensor, register, to_array


class Function:
    """A Python function as an op's attribute: equal to itself alone; ranks compare its name."""

    def __init__(self, call: Callable[..., Any], name: str = "") -> None:
        self.call = call
        self.name = name or getattr(call, "__qualname__", type(call).__name__)

    def __repr__(self) -> str:
        return f"function {self.name}"


@register
class HostCall(Op):
    """What a Python function, called as function(rank, *values), makes of the inputs' values.

    shapes: of the results; None is that of the first input, where set_shape does not say another.
    """

    function: Function
    dtypes: tuple[DType, ...]
    shapes: tuple[Dims, ...]
    stateful = True
    no_gradient = "it is a Python function"
    takes_strings = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        first = specs[0].shape if specs else ()
        return [Spec(first if s is None else s, d) for s, d in zip(self.shapes, self.dtypes, strict=True)]

    def settled(self, node: Operation) -> HostCall:
        said = tuple(o.spec.shape if is_static(o.spec.shape) else None for o in node.outputs)
        return HostCall(self.function, self.dtypes, said)

    def compute(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The outputs for one element of a data set."""
        results = self.function.call(0, *(a[()] if a.ndim == 0 else a for a in arrays))
        return [to_array(value, dtype) for value, dtype in zip(results, self.dtypes, strict=True)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        to_host: Callable[[Any], Any] = np.array if env.on_host else env.xp.asnumpy
        rank = env.comm.rank

        def kernel() -> None:
            given = [x.copy() if x.dtype == object else to_host(x) for x in ins]
            results = self.function.call(rank, *given)
            for out, dtype, value in zip(outs, self.dtypes, results, strict=True):
                array = np.asarray(value)
                if array.shape != out.shape or (array.dtype != dtype.numpy and not dtype.is_string):
                    raise InvalidArgumentError(
                        f"{self.function} gives {array.dtype.name}{list(array.shape)} where "
                        f"{dtype.name}{list(out.shape)} is expected: Tout says the dtype, and set_shape "
                        "on what py_func returns the shape, which is else that of its first input."
                    )
                out[...] = array if env.on_host or dtype.is_string else env.xp.asarray(array)

        return kernel


def host_call(call: Callable[..., Any], inputs: Sequence[Any], name: str) -> Operation:
    """An operation without a result that calls call(rank, *values)."""
    tensors = tuple(convert_to_tensor(x) for x in inputs)
    graph = tensors[0].graph if tensors else get_default_graph()
    return graph.add(HostCall(Function(call, name), (), ()), tensors, name)


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def Print(
    input_: Any,
    data: Sequence[Any],
    message: str | None = None,
    first_n: int | None = None,
    summarize: int | None = None,
    name: str | None = None,
) -> Tensor:
    """input_, and when it is computed rank 0 writes the values of data on stderr.

    message: before them. first_n: how many times. summarize: entries of each, 3 by default.
    """
    left = [-1 if first_n is None else first_n]

    def show(rank: int, *values: np.ndarray) -> tuple[()]:
        if rank == 0 and left[0]:
            left[0] -= 1
            builtins.print(
                f"{message or ''}{''.join(_short(v, summarize or 3) for v in values)}", file=sys.stderr
            )
        return ()

    x = convert_to_tensor(input_)
    with x.graph.control_dependencies([host_call(show, data, "Print/write")]):
        return identity(x, name=name or "Print")


def Assert(
    condition: Any, data: Sequence[Any], summarize: int | None = None, name: str | None = None
) -> Operation:
    """An operation that fails unless condition, a scalar, is true; the message has the values of data.

    Raises:
        InvalidArgumentError: while running.
    """
    texts = [None if isinstance(d, TensorLike) else d for d in data]

    def check(rank: int, holds: np.ndarray, *values: np.ndarray) -> tuple[()]:
        if not holds.all():
            given = iter(values)
            parts = [_short(next(given), summarize or 3) if t is None else str(t) for t in texts]
            raise InvalidArgumentError(f"assertion failed: {' '.join(p for p in parts if p)}")
        return ()

    tensors = [d for d in data if isinstance(d, TensorLike)]
    return host_call(check, [condition, *tensors], name or "Assert")


def py_func(
    func: Callable[..., Any], inp: Sequence[Any], Tout: Any, stateful: bool = True, name: str | None = None
) -> Any:
    """What func makes of arrays, when it is computed: a tensor, or a list of them where Tout is a list.

    Every rank calls it, with the whole arrays, so func has to give the same on all. A result has the shape of
    the first input; another one is given by set_shape, with all sizes. No gradient flows through it.

    Raises:
        InvalidArgumentError: while running, where a result has another dtype or shape.
    """
    several = isinstance(Tout, list | tuple)
    dtypes = tuple(as_dtype(d) for d in (Tout if several else [Tout]))

    def call(rank: int, *values: np.ndarray) -> Sequence[Any]:
        results = func(*values)
        if len(dtypes) == 1 and not (isinstance(results, list | tuple) and len(results) == 1):
            return [results]
        return list(results) if isinstance(results, list | tuple) else [results]

    inputs = tuple(convert_to_tensor(x) for x in inp)
    graph = inputs[0].graph if inputs else get_default_graph()
    named = Function(call, getattr(func, "__qualname__", "py_func"))
    node = graph.add(HostCall(named, dtypes, (None,) * len(dtypes)), inputs, name or "PyFunc")
    for output, dtype in zip(node.outputs, dtypes, strict=True):
        output.spec = Spec(None, dtype)  # until set_shape says it
    if not several:
        return node.outputs[0]
    return list(node.outputs)


def _short(value: np.ndarray, count: int) -> str:
    """The first entries of an array, as TensorFlow prints them."""
    flat = value.ravel()
    shown = [v.decode(errors="replace") if isinstance(v, bytes) else f"{v:g}" for v in flat[:count].tolist()]
    return f"[{' '.join(shown)}{'...' if flat.size > count else ''}]"


def print(
    *inputs: Any,
    output_stream: Any = None,
    summarize: int = 3,
    sep: str = " ",
    end: str = "\n",
    name: str | None = None,
) -> Operation:
    """An operation by which rank 0 writes values, and what is no tensor as it is, on stderr.

    output_stream: sys.stderr, sys.stdout, or another object with write.
    """
    texts = [None if isinstance(x, TensorLike) else str(x) for x in inputs]

    def show(rank: int, *values: np.ndarray) -> tuple[()]:
        if rank == 0:
            given = iter(values)
            parts = [_long(next(given), summarize) if t is None else t for t in texts]
            builtins.print(*parts, sep=sep, end=end, file=output_stream or sys.stderr)
        return ()

    return host_call(show, [x for x in inputs if isinstance(x, TensorLike)], name or "PrintV2")


def _long(value: np.ndarray, count: int) -> str:
    """An array as tf.print writes it: `count` entries at both ends of each axis."""
    if value.ndim == 0:
        item = value.item()
        return item.decode(errors="replace") if isinstance(item, bytes) else f"{item:g}"
    most = value.size if count < 0 else 2 * count
    parts = [_long(v, count) for v in value]
    if len(parts) > most:
        parts = [*parts[:count], "...", *parts[-count:]]
    return "[" + ("\n " if value.ndim > 1 else " ").join(parts) + "]"
