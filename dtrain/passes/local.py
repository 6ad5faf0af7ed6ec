"""Passes that need no more than a node and its inputs: lower, fold, simplify, cse; and snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.ops.array import BroadcastLike, ExpandDims, Identity, Reshape
from dtrain.ops.base import Const, Op, Value, apply
from dtrain.ops.evaluate import evaluate
from dtrain.ops.math import Add, Mul, RealDiv, Sub
from dtrain.ops.placement import REPLICATED, Placement
from dtrain.ops.state import VariableOp
from dtrain.passes.step import Replacement, Step, memory_of, predecessors, rewrite

#: Constants larger than this many bytes are not made by folding: they would only take memory.
FOLD_BYTES = 1 << 16


def lower(step: Step) -> Step:
    """Replace ops by simpler ones that known shapes allow, until none changes: a mean by sum over count."""
    changed = True
    while changed:
        changed = False

        def rule(node: Operation, inputs: tuple[Tensor, ...]) -> Replacement:
            nonlocal changed
            if isinstance(node.kind, Identity) and isinstance(memory_of(inputs[0]).op.kind, VariableOp):
                return None  # it is a read, at its own place among the writes
            result = node.kind.lower(node, inputs)
            if result is None:
                return None
            changed = True
            if result in inputs and node.control_inputs:
                result = apply(Identity(), result, name=node.name)  # the node that waits
            return [result]

        step = rewrite(step, rule)
    return step


def fold(step: Step) -> Step:
    """Compute once, here, what depends on small constants only."""

    def rule(node: Operation, inputs: tuple[Tensor, ...]) -> Replacement:
        arrays = [constant_of(t) for t in inputs]
        if node.kind.stateful or node.control_inputs or not arrays or any(a is None for a in arrays):
            return None
        if sum(size_of(t.spec.shape) * t.dtype.numpy.itemsize for t in node.outputs) > FOLD_BYTES:
            return None
        values = evaluate(node.kind, [a for a in arrays if a is not None])
        return [apply(Const(Value(v)), name=node.name) for v in values]

    return rewrite(step, rule)


def constant_of(tensor: Tensor) -> Any:
    """The array of a tensor that is a constant, else None."""
    return tensor.op.kind.value.array if isinstance(tensor.op.kind, Const) else None


def simplify(step: Step) -> Step:
    """Drop what changes nothing: x * 1, x + 0, x / 1, and repeating a scalar before broadcasting it."""

    def rule(node: Operation, inputs: tuple[Tensor, ...]) -> Replacement:
        if not node.kind.elementwise or len(inputs) != 2 or node.control_inputs:
            return None
        out = node.outputs[0].spec
        scalars = [_uniform(t) for t in inputs]
        for i, neutral in _neutral(node.kind):
            value = None if (scalar := scalars[i]) is None else constant_of(scalar)
            if value is not None and value == neutral and inputs[1 - i].spec == out:
                return [inputs[1 - i]]
        for i in (0, 1):
            if (
                scalars[i] is not None
                and scalars[i] is not inputs[i]
                and inputs[1 - i].spec.shape == out.shape
            ):
                pair = (scalars[0], inputs[1]) if i == 0 else (inputs[0], scalars[1])
                return [apply(node.kind, *pair, name=node.name)]
        return None

    return rewrite(step, rule)


def _neutral(kind: Op) -> list[tuple[int, int]]:
    """Which operand changes nothing at which value."""
    if isinstance(kind, Mul):
        return [(0, 1), (1, 1)]
    if isinstance(kind, Add):
        return [(0, 0), (1, 0)]
    if isinstance(kind, Sub):
        return [(1, 0)]
    return [(1, 1)] if isinstance(kind, RealDiv) else []


def _uniform(tensor: Tensor) -> Tensor | None:
    """The scalar that a tensor repeats everywhere, if it plainly does."""
    while tensor.spec.shape != ():
        if not isinstance(tensor.op.kind, BroadcastLike | ExpandDims | Reshape) or tensor.op.control_inputs:
            return None
        tensor = tensor.op.inputs[0]
    return tensor


def cse(step: Step) -> Step:
    """Compute equal ops on equal inputs once (common subexpressions)."""
    seen: dict[object, tuple[Tensor, ...]] = {}

    def rule(node: Operation, inputs: tuple[Tensor, ...]) -> Replacement:
        if node.kind.stateful or node.control_inputs or not node.outputs:
            return None
        key = (node.kind, inputs)
        if key not in seen:
            copy = inputs[0].graph.copy_of(node, inputs, ()) if inputs else None
            if copy is None:
                seen[key] = (apply(node.kind, name=node.name),)
            else:
                seen[key] = copy.outputs
        return seen[key]

    return rewrite(step, rule)


def snapshot(step: Step) -> Step:
    """Copy each fetched variable that this run also writes, so that the fetch has one defined value.

    It is the value from before the write, unless the fetch depends on the write.
    """
    step = _settle_views(step)
    written = {memory_of(node.inputs[i]) for node in step.graph.operations for i in node.kind.writes}
    fetches = []
    placements = dict(step.placements)
    for tensor in step.fetches:
        if memory_of(tensor) in written:
            copy = step.graph.add(Identity(), (tensor,), f"{tensor.op.name}/fetch").outputs[0]
            placements[copy] = placements[tensor]
            tensor = copy
        fetches.append(tensor)
    return replace(step, fetches=tuple(fetches), placements=placements)


def _settle_views(step: Step) -> Step:
    """Copy a variable before a view of it where the view is from before a write and its reader after it."""
    written_by = {
        node: {memory_of(node.inputs[i]) for i in node.kind.writes} for node in step.graph.operations
    }
    behind: dict[Operation, set[Operation]] = {}  # the writers that a node depends on
    stale: set[Operation] = set()
    for node in step.graph.operations:
        behind[node] = set()
        for before in predecessors(node):
            behind[node] |= behind[before] | ({before} if written_by[before] else set())
        for tensor in node.inputs:
            view = None
            while tensor.op.kind.is_view:
                view, tensor = tensor.op, tensor.op.inputs[0]
            if view and any(memory_of(tensor) in written_by[w] for w in behind[node] - behind[view]):
                stale.add(view)
    if not stale:
        return step

    def rule(node: Operation, inputs: tuple[Tensor, ...]) -> Replacement:
        return [apply(node.kind, apply(Identity(), inputs[0]), name=node.name)] if node in stale else None

    step = rewrite(step, rule)
    made = (t for node in step.graph.operations for t in node.outputs)
    replicated: dict[Tensor, Placement] = dict.fromkeys(made, REPLICATED)
    return replace(step, placements=replicated | step.placements)
