"""In which order a step's nodes run: a function of the graph alone, or ranks that differ would deadlock."""

from __future__ import annotations

from collections.abc import Sequence

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Tensor
from dtrain.passes.step import Step, memory_of, predecessors, topological


def schedule(step: Step) -> list[Operation]:
    """The nodes whose values are needed, in an order that is a function of the graph alone."""
    before = dependencies(step)
    return ordered(list(before), before)


def ordered(nodes: Sequence[Operation], before: dict[Operation, set[Operation]]) -> list[Operation]:
    """The nodes, each after those in before[node]; raises GraphError where that is impossible."""
    try:
        return topological(nodes, before)
    except ValueError as error:
        names = ", ".join(n.name for n in error.args[0][:5])
        raise GraphError(
            f"these operations read and write the same variables in a circle: {names}. Say which comes first "
            "with dt.control_dependencies."
        ) from None


def dependencies(step: Step) -> dict[Operation, set[Operation]]:
    """The nodes whose values are needed, each with those that come directly before it.

    A read of a variable that does not depend on a write of it comes before the write. Several writes of one
    variable come in the graph's order, and what follows from one of them reads before the next.
    """
    needed: set[Operation] = set()
    stack = [*(t.op for t in step.fetches), *step.targets]
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed.add(node)
        stack.extend(node.control_inputs)
        stack.extend(t.op for i, t in enumerate(node.inputs) if i not in node.kind.shape_only)
    nodes = [n for n in step.graph.operations if n in needed]
    before = {n: {p for p in predecessors(n) if p in needed} for n in nodes}
    behind = _reach(nodes, before)
    position = {n: i for i, n in enumerate(nodes)}
    writers: dict[Tensor, list[int]] = {}  # of each variable, as positions
    for writer in nodes:
        for memory in {memory_of(writer.inputs[i]) for i in writer.kind.writes}:
            writers.setdefault(memory, []).append(position[writer])
    for writer in nodes:
        for memory in {memory_of(writer.inputs[i]) for i in writer.kind.writes}:
            later = sum(1 << p for p in writers[memory] if p > position[writer])
            for reader in nodes:
                if reader is writer or reader.kind.is_view or position[writer] in _bits(behind[reader]):
                    continue
                if not any(memory_of(t) is memory for t in reader.inputs):
                    continue
                also_writes = position[reader] in writers[memory]
                # what depends on a later write is behind this one already
                if position[reader] < position[writer] if also_writes else not behind[reader] & later:
                    before[writer].add(reader)
    return before


def _reach(nodes: Sequence[Operation], before: dict[Operation, set[Operation]]) -> dict[Operation, int]:
    """For each node the set of positions of the nodes it depends on, as the bits of an int."""
    position = {n: i for i, n in enumerate(nodes)}
    behind: dict[Operation, int] = {}
    for node in nodes:
        bits = 0
        for p in before[node]:
            bits |= behind[p] | 1 << position[p]
        behind[node] = bits
    return behind


class _bits:
    def __init__(self, value: int) -> None:
        self.value = value

    def __contains__(self, position: int) -> bool:
        return bool(self.value >> position & 1)
