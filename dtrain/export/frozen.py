"""A network as it works in a test, with its parameters as constants, for any number of examples.

A plan is for known shapes, so the graph is pruned and simplified for two numbers of examples. The two are
node for node the same but for what follows from the number: a size that differs is a multiple of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.graph import Operation, Tensor, built
from dtrain.ops.array import BroadcastLike
from dtrain.ops.base import Const, Feed, Value, apply
from dtrain.ops.dropout import DropoutMask
from dtrain.ops.logic import Select
from dtrain.ops.placement import REPLICATED
from dtrain.ops.state import VariableOp
from dtrain.passes.local import constant_of, cse, fold, lower, simplify
from dtrain.passes.prune import FeedSpec, prune
from dtrain.passes.step import Replacement, Step, rewrite

#: The two numbers of examples; 1 would broadcast.
COUNTS = (5, 7)


class Both(NamedTuple):
    """A node for the first number of examples, and for the second."""

    a: Operation
    b: Operation

    @property
    def kind(self) -> Any:
        """The first's op, of the class that its form in ONNX is written for."""
        return self.a.kind


class Frozen(NamedTuple):
    """inputs, outputs: tensors of the first step, by name. steps: one for each number of examples."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    steps: tuple[Step, Step]

    def nodes(self) -> Iterator[Both]:
        """The nodes in their order.

        Raises:
            UsageError: the two steps are not node for node the same.
        """
        first, second = (step.graph.operations for step in self.steps)
        numbers: list[dict[Tensor, int]] = [{}, {}]
        for a, b in zip(first, second, strict=False):
            reads = [[number[t] for t in n.inputs] for n, number in zip((a, b), numbers, strict=True)]
            if type(a.kind) is not type(b.kind) or reads[0] != reads[1]:
                raise UsageError(f"{a.name}{built(a)}: what is computed there depends on the batch's size.")
            for node, number in zip((a, b), numbers, strict=True):
                number.update({t: len(number) + i for i, t in enumerate(node.outputs)})
            yield Both(a, b)


def freeze(
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    values: Mapping[str, np.ndarray],
    fixed: Mapping[Tensor, Any] = MappingProxyType({}),
) -> Frozen:
    """Freeze what lies between placeholders and outputs.

    values: of each variable, by name. fixed: of other placeholders, scalars.

    Raises:
        InvalidArgumentError: another placeholder is needed.
    """
    steps = [_step(inputs, outputs, values, fixed, count) for count in COUNTS]
    fetched = dict(zip((*outputs, *inputs), steps[0].fetches, strict=True))
    results = {name: fetched[name] for name in outputs}
    return Frozen({name: fetched[name] for name in inputs}, results, (steps[0], steps[1]))


def _step(
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    values: Mapping[str, np.ndarray],
    fixed: Mapping[Tensor, Any],
    count: int,
) -> Step:
    """The simplified step for so many examples."""
    feeds = [FeedSpec(t, (count, *(t.spec.shape or ())[1:]), REPLICATED) for t in inputs.values()]  # type: ignore[arg-type]  # refused else, in freeze
    feeds += [FeedSpec(t, (), REPLICATED) for t in fixed]
    step = prune([*outputs.values(), *inputs.values()], [], feeds, ranks=1)  # inputs stay, whoever reads them
    known = dict(values) | {t.op.name: np.array(value, t.dtype.numpy) for t, value in fixed.items()}

    def constants(node: Operation, read: tuple[Tensor, ...]) -> Replacement:
        if node.name not in known or not isinstance(node.kind, VariableOp | Feed):
            return None
        return [apply(Const(Value(known[node.name])), name=node.name)]

    step = rewrite(step, constants)
    for run_pass in (lower, fold, settle, fold, simplify, cse):
        step = run_pass(step)
    return step


def settle(step: Step) -> Step:
    """Drop what only training does: masks that keep all, and the branch that is not chosen."""

    def rule(node: Operation, inputs: tuple[Tensor, ...]) -> Replacement:
        if isinstance(node.kind, DropoutMask) and constant_of(inputs[1]) == 1:
            return [apply(BroadcastLike(None, False), inputs[1], inputs[0], name=node.name)]
        if isinstance(node.kind, Select):
            condition = constant_of(inputs[0])
            if condition is not None and condition.size and (condition == condition.flat[0]).all():
                chosen = inputs[1 if condition.flat[0] else 2]
                return [chosen] if chosen.spec == node.outputs[0].spec else None
        return None

    return rewrite(step, rule)
