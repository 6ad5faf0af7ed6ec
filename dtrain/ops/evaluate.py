"""One op on given arrays, on the host: what constant folding and the op tests compute with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.graph.dtypes import as_dtype, string
from dtrain.graph.graph import Graph, Spec, Tensor
from dtrain.graph.shape import as_static
from dtrain.ops.base import Const, Op, apply, constant


class HostEnv:
    """NumPy, and memory as it is asked for."""

    xp: Any = np
    on_host = True
    comm: Any = None

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    def random_stream(self, seed: int) -> Callable[[], np.random.Generator]:
        raise AssertionError("a random op is never folded")

    def initialized(self, name: str) -> bool:
        raise AssertionError("an op that reads variables is never folded")


def evaluate(op: Op, inputs: Sequence[np.ndarray], env: Any = None) -> list[np.ndarray]:
    """The outputs of op on host arrays; env: what its kernel is bound in, by default no session's."""
    if type(op).bind is Op.bind and type(op).kernel is Op.kernel and not op.is_view:
        with Graph().as_default():
            node = apply(op, *map(constant, inputs)).op
            result = op.lower(node, node.inputs)
        assert result is not None, f"{type(op).__name__} has neither a kernel nor simpler ops"
        return [_value_of(result)]
    env = env or HostEnv()
    specs = op.infer(*(Spec(a.shape, string if a.dtype == object else as_dtype(a.dtype)) for a in inputs))
    if op.is_view:
        return [np.array(op.view(env, inputs[0], as_static(specs[0].shape)), order="C")]
    outputs = [np.empty(as_static(s.shape), s.dtype.numpy) for s in specs]
    with np.errstate(all="ignore"):  # as in a plan
        op.bind(env, list(inputs), outputs)()
    return outputs


def _value_of(tensor: Tensor) -> np.ndarray:
    """The value of a tensor that is made of constants."""
    kind = tensor.op.kind
    if isinstance(kind, Const):
        return kind.value.array
    return evaluate(kind, [_value_of(t) for t in tensor.op.inputs])[tensor.index]
