"""fuse: runs of elementwise ops, and the reductions after them, become one pass over memory."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.native.loops import MAX_AXES, TYPES, joined, reduced
from dtrain.ops.body import Instruction
from dtrain.ops.fused import Fused
from dtrain.ops.reduce import _Reduction
from dtrain.passes.order import dependencies, ordered, unawaited
from dtrain.passes.step import Rebuild, Step, predecessors, sweep

#: Values that a step must compute before it is worth the compiler's time, where that is left to dtrain.
WORTH = 50_000
#: Ops that one loop does at most: the compiler's time grows faster than their number, and so do its streams.
MOST = 64


def fuse(step: Step) -> Step:
    """Join elementwise ops of one shape and placement, where no other op stands between them.

    Where the kernels are C, reductions of what they compute join them, and so do independent scalars; but no
    sum does in a bitwise step, since its order would follow from what is beside it.
    """
    made = sum(size_of(t.spec.shape) for n in step.graph.operations for t in n.outputs)
    worth = step.native or step.bitwise or made >= WORTH
    step = replace(step, native=step.native is not None and worth)
    needed = dependencies(step)
    before = {n: needed.get(n, set()) | predecessors(n) for n in step.graph.operations}
    order = ordered(step.graph.operations, before)
    groups = _Groups(step, before)
    for node in order:
        groups.place(node, node in needed)
    return _rebuild(step, groups, order)


class _Groups:
    """The nodes of a step, each in a group; most groups are one node."""

    def __init__(self, step: Step, before: dict[Operation, set[Operation]]) -> None:
        self.step, self.before, self.native = step, before, bool(step.native)
        self.elementwise = {n for n in step.graph.operations if _is_elementwise(n, step)}
        self.late = unawaited(step)
        self.of: dict[Operation, list[Operation]] = {}
        self.position: dict[Operation, int] = {}  # in the order of placing
        self.alike: dict[
            object, dict[Operation, list[Operation]]
        ] = {}  # by shape and placement, first member

    def place(self, node: Operation, needed: bool) -> None:
        """Put a node into a group of an earlier one, or into its own."""
        self.of[node] = group = [node]
        self.position[node] = len(self.position)
        source = self._source(node)
        if source is None or not needed:  # of some only the shape is asked for
            return
        key = (source.spec.shape, self.step.placements[source], node in self.late)
        known = self.alike.setdefault(key, {})
        producers = {self.of[t.op][0] for t in node.inputs if t.op in self.of}
        leaders = sorted(producers & known.keys(), key=self.position.__getitem__)
        scalars = known if self.native and source.spec.shape == () else ()
        for leader in chain(leaders, (g for g in scalars if g not in producers)):
            candidate = known[leader]
            if len(candidate) == MOST:
                continue
            if self.step.bitwise and not self._is_loop([*candidate, node]):
                continue
            sums = (t for t in node.inputs if isinstance(t.op.kind, _Reduction))
            if not any(self.of[t.op] is candidate for t in sums) and not self._between(candidate, node):
                candidate.append(node)
                self.of[node] = candidate
                return
        if node in self.elementwise:
            known[node] = group

    def _is_loop(self, members: Sequence[Operation]) -> bool:
        """Whether C has a loop for them; if not NumPy does them, whose exp has other bits than C's."""
        made = {t for member in members for t in member.outputs}
        reads: list[Any] = [t.spec.shape or () for m in members for t in m.inputs if t not in made]
        each: list[Any] = [m.outputs[0].spec.shape or () for m in members if m in self.elementwise]
        space = np.broadcast_shapes(*each)
        sums = [reduced(m.kind, len(space)) for m in members if m not in self.elementwise]
        return len(joined(space, reads, sums)) <= MAX_AXES

    def _source(self, node: Operation) -> Tensor | None:
        """The tensor whose shape and placement say which group a node may join."""
        if node in self.elementwise:
            return node.outputs[0]
        kind = node.kind
        summed = isinstance(kind, _Reduction) and self.native and not node.control_inputs
        if isinstance(kind, _Reduction) and self.step.bitwise and kind.joins in ("plus", "times"):
            return None
        return node.inputs[0] if summed and node.outputs[0].dtype.name in TYPES else None

    def _between(self, group: list[Operation], node: Operation) -> bool:
        """Whether an op outside the group lies after one in it and before the node.

        Looked for from the node back, what was placed first first, and nothing from before the group.
        """
        first = self.position[group[0]]
        seen = {first}
        ahead: list[tuple[int, list[Operation]]] = []

        def look(members: Sequence[Operation]) -> bool:
            found = False
            for p in (p for member in members for p in self.before[member]):
                other = self.of[p]
                at = self.position[other[0]]
                found = found or other is group
                if at not in seen and self.position[other[-1]] > first:
                    seen.add(at)
                    heapq.heappush(ahead, (at, other))
            return found

        look([node])
        while ahead:
            if look(heapq.heappop(ahead)[1]):
                return True
        return False


def _is_elementwise(node: Operation, step: Step) -> bool:
    kind: Any = node.kind
    if not kind.elementwise or kind.stateful or node.control_inputs or len(node.outputs) != 1:
        return False
    if any(t.dtype.is_string for t in (*node.inputs, *node.outputs)):
        return False
    dtypes = [t.dtype for t in node.inputs]
    return not step.native or kind.translatable(dtypes, node.outputs[0].dtype, step.device)


def _rebuild(step: Step, groups: _Groups, order: Sequence[Operation]) -> Step:
    leaders = {n: groups.of[n][0] for n in order}
    units = [n for n in order if leaders[n] is n]
    before = {u: {leaders[p] for member in groups.of[u] for p in groups.before[member]} - {u} for u in units}
    readers: dict[Tensor, set[Operation]] = {}
    for node in order:
        for tensor in node.inputs:
            readers.setdefault(tensor, set()).add(leaders[node])
    kept = {*(t.op for t in step.fetches), *step.targets, *(c for n in order for c in n.control_inputs)}
    rebuild = Rebuild(step)
    graph = rebuild.graph
    for unit in ordered(units, before):
        members = groups.of[unit]
        if len(members) == 1:
            rebuild.copy(unit)
            continue
        made = [m.outputs[0] for m in members]
        outside = [t for t in made if t.op in kept or readers.get(t, set()) - {unit}]
        fused, inputs, outputs = _join(members, outside)
        specs, first = [t.spec for t in outputs], outputs[0].op
        control = rebuild.control(*members)
        copy = Operation(graph, first.name, fused, rebuild.inputs(inputs), control, specs, first.source)
        graph.operations.append(copy)
        rebuild.replace(members, outputs, copy)
    return sweep(rebuild.result())


def _join(
    members: Sequence[Operation], outside: Sequence[Tensor]
) -> tuple[Fused, list[Tensor], list[Tensor]]:
    """The op that does the members, its inputs, and the tensors that are its outputs."""
    inside = {m.outputs[0] for m in members}
    inputs = list(dict.fromkeys(t for m in members for t in m.inputs if t not in inside))
    number = {t: i for i, t in enumerate([*inputs, *(m.outputs[0] for m in members)])}
    body = tuple(Instruction(m.kind, tuple(number[t] for t in m.inputs)) for m in members)
    # whole ones first: the first may take over an input's memory
    outputs = sorted(outside, key=lambda t: (not t.op.kind.elementwise, number[t]))
    names = tuple(m.name for m in members)
    return Fused(len(inputs), body, tuple(number[t] for t in outputs), names), inputs, outputs
