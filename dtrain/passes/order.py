"""In which order a step's nodes run: a function of the graph alone, or ranks that differ would deadlock."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.ops.collective import AllReduce
from dtrain.passes.step import Step, ancestors, memory_of, predecessors, topological

#: Entries that an op reads and writes up to which its place among others is free.
FEW = 1 << 14


def schedule(step: Step) -> list[Operation]:
    """The nodes whose values are needed, in an order that is a function of the graph alone.

    On a device what no write waits for, such as metrics, comes last, where it is small: it can be done beside
    the update then.
    """
    before = dependencies(step)
    late = unawaited(step)
    return ordered(sorted(before, key=lambda n: n in late), before)


def unawaited(step: Step) -> set[Operation]:
    """On a device what is small and no write or sum waits for."""
    if not step.device:
        return set()
    nodes = step.graph.operations
    awaited = ancestors(n for n in nodes if n.kind.writes or isinstance(n.kind, AllReduce))
    sizes = {n: sum(size_of(t.spec.shape) for t in (*n.inputs, *n.outputs)) for n in nodes}
    return {n for n in nodes if n not in awaited and sizes[n] <= FEW}


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
    position = {n: i for i, n in enumerate(nodes)}
    readers: dict[Tensor, list[Operation]] = {}  # of each variable; writers are among them
    writers: dict[Tensor, list[Operation]] = {}
    for node in nodes:
        if not node.kind.is_view:
            for memory in {memory_of(t) for t in node.inputs}:
                readers.setdefault(memory, []).append(node)
        for memory in {memory_of(node.inputs[i]) for i in node.kind.writes}:
            writers.setdefault(memory, []).append(node)
    behind = _behind(nodes, before, {w for group in writers.values() for w in group})
    for memory, writes in writers.items():
        for earlier, writer in pairwise(writes):
            before[writer].add(earlier)
        #: By reader, the position of the last write that it depends on.
        last = {reader: position[writer] for writer in writes for reader in behind[writer]}
        places = [position[writer] for writer in writes]
        for reader in set(readers[memory]).difference(writes):
            following = bisect(places, last.get(reader, -1))
            if following < len(writes):
                before[writes[following]].add(reader)
    return before


def _behind(
    nodes: Sequence[Operation], before: dict[Operation, set[Operation]], of: set[Operation]
) -> dict[Operation, set[Operation]]:
    """For some of the nodes those that depend on them."""
    followers: dict[Operation, list[Operation]] = {n: [] for n in nodes}
    for node in nodes:
        for p in before[node]:
            followers[p].append(node)
    found = {}
    for node in of:
        seen, stack = set[Operation](), [*followers[node]]
        while stack:
            follower = stack.pop()
            if follower not in seen:
                seen.add(follower)
                stack += followers[follower]
        found[node] = seen
    return found
