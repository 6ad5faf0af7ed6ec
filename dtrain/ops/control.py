"""Waiting without handing on a value: tuple."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor, as_operation
from dtrain.ops.array import identity
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.state import group


def tuple(tensors: Sequence[Any], name: str | None = None, control_inputs: Any = None) -> list[Tensor | None]:
    """The same tensors, each there only once all of them (and control_inputs) are; a None stays None.

    Raises:
        GraphError: there is no tensor among them.
    """
    given = [None if t is None else convert_to_tensor(t) for t in tensors]
    present = [t for t in given if t is not None]
    if not present:
        raise GraphError("tuple needs at least one tensor.")
    graph = present[0].graph
    with graph.as_default(), graph.name_scope(name or "tuple"):
        gate = group(present, [as_operation(c) for c in control_inputs or ()])
        with graph.control_dependencies([gate]):
            return [None if t is None else identity(t) for t in given]
