"""What Python computes of single elements: reading files, decoding images and records.

What comes out, and of which shape, depends on values, so it is in no plan: it runs in the functions of data
sets, before a plan on what that is fed, or at once where its inputs are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Spec, Tensor, get_default_graph
from dtrain.graph.shape import Dims, as_dims
from dtrain.ops.base import Const, Op, constant, convert_to_tensor, register, to_array
from dtrain.ops.evaluate import evaluate
from dtrain.ops.late import known_value
from dtrain.ops.sources import SOURCES


@register
class PythonOp(Op):
    """A function of Python's on arrays, which returns one or, for several dtypes, a list of them."""

    function: Callable[..., Any]
    dtypes: tuple[DType, ...]
    shapes: tuple[Dims, ...]
    takes_strings = True
    stateful = True
    no_gradient = "it is computed by Python"
    only_in = (
        "it runs in Python before the plan, so it takes what is fed or comes of a data set, and what follows "
        "from that without variables"
    )

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]

    def compute(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The outputs, as arrays of the dtypes."""
        results = self.function(*(a[()] if a.ndim == 0 else a for a in map(np.asarray, arrays)))
        every = results if len(self.dtypes) != 1 else [results]
        return [to_array(value, dtype) for value, dtype in zip(every, self.dtypes, strict=True)]


def computed(kind: Op, arrays: Sequence[np.ndarray], env: Any = None) -> list[np.ndarray]:
    """The outputs of an op on arrays, be it one of Python's or not; env: as of evaluate."""
    if (compute := getattr(kind, "compute", None)) is not None:
        return compute(*arrays)
    return [kind.value.array] if isinstance(kind, Const) else evaluate(kind, arrays, env)


def in_python(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    dtypes: Sequence[DType],
    shapes: Sequence[Any],
    name: str,
) -> list[Tensor]:
    """The outputs of a function of Python's, of these dtypes and (as far as they are known) shapes."""
    tensors = [convert_to_tensor(value) for value in inputs]
    kind = PythonOp(function, tuple(dtypes), tuple(as_dims(shape) for shape in shapes))
    values = [known_value(t) for t in tensors]
    if all(v is not None for v in values):
        return [constant(value, name=name) for value in kind.compute(*values)]  # type: ignore[arg-type]  # none is None
    graph = get_default_graph()
    graph.kept.setdefault(SOURCES, {})  # a session looks for it then
    return list(graph.add(kind, tuple(tensors), name).outputs)
