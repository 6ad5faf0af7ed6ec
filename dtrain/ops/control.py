"""Waiting without handing on a value: tuple; and a check of conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.graph import Spec, Tensor, as_operation
from dtrain.ops.array import identity
from dtrain.ops.base import Array, Op, apply, convert_to_tensor, register
from dtrain.ops.state import group


@register
class SoMany(Op):
    """The first of some boolean scalars, if at least and at most so many of them are true."""

    least: int
    most: int
    no_gradient = "its result is boolean"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def kernel(self, xp: Any, *ins: Array, out: Array) -> None:
        true = sum(bool(x) for x in ins)
        if not self.least <= true <= self.most:
            raise InvalidArgumentError(
                f"case: {true} of its {len(ins)} conditions are true: "
                + ("there is no default." if true < self.least else "exclusive says that only one is.")
            )
        xp.copyto(out, ins[0])


def so_many(preds: Sequence[Tensor], least: int, most: int) -> Tensor:
    """The first of some boolean scalars; InvalidArgumentError, when run, unless so many are true."""
    return apply(SoMany(least, most), *preds)


def tuple(tensors: Sequence[Any], name: str | None = None, control_inputs: Any = None) -> list[Tensor | None]:
    """The same tensors, each available only after all of them are.

    Args:
        tensors: tensors; a None stays None.
        control_inputs: further operations to wait for.
        name: name of the operation.

    Returns:
        list: the tensors; None stays None.

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
