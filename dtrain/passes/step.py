"""What passes turn into one another: the part of a graph that one run needs, at known shapes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dtrain.graph.graph import Graph, Operation, Tensor
from dtrain.ops.placement import Placement

if TYPE_CHECKING:
    from dtrain.comm.link import Link

#: What a rewriting rule answers for a node: tensors to take the place of its outputs, or None to copy it.
Replacement = Sequence[Tensor] | None
Rule = Callable[[Operation, tuple[Tensor, ...]], Replacement]


@dataclass(frozen=True)
class Step:
    """One run's work.

    graph: only nodes that the run needs, each after those that it depends on.
    fetches: tensors whose values come back; targets: operations that are run for their effect.
    ranks: the number of ranks it is for.
    placements: where each tensor lives; before `place` it holds the feeds' only.
    native: whether to make kernels of our own: None no, True yes, False where `fuse` finds the step worth it.
    device: whether they are CUDA's, not C's.
    checked: whether its updates wait for a look at loss and gradients (see guard).
    losses: where the look only leads to a warning, which fetches it takes in besides what parameters become.
    shares: whether the ranks are those of one node, and have one copy of the parameters (see share).
    bitwise: whether its values are to be the same bits on any number of ranks (see place).
    link: what sums among the ranks take (see overlap); None: each is one bucket, summed when all is there.
    """

    graph: Graph
    fetches: tuple[Tensor, ...]
    targets: tuple[Operation, ...]
    ranks: int = 1
    placements: dict[Tensor, Placement] = field(default_factory=dict)
    native: bool | None = None
    device: bool = False
    checked: bool = False
    losses: Collection[int] | None = None
    link: Link | None = None
    shares: bool = False
    bitwise: bool = False


def rewrite(step: Step, rule: Rule, order: Iterable[Operation] | None = None) -> Step:
    """Rebuild the step's graph node by node, by default in its order, then drop what nothing needs."""
    graph = Graph()
    tensors: dict[Tensor, Tensor] = {}
    operations: dict[Operation, Operation] = {}
    with graph.as_default():
        for node in step.graph.operations if order is None else order:
            inputs = tuple(tensors[t] for t in node.inputs)
            control = tuple(dict.fromkeys(operations[c] for c in node.control_inputs))
            graph.here.control, graph.source = control, node.source
            outputs = rule(node, inputs)
            if outputs is None:
                operations[node] = graph.copy_of(node, inputs, control)
                outputs = operations[node].outputs
            else:
                operations[node] = outputs[0].op
            tensors.update(zip(node.outputs, outputs, strict=True))
    graph.here.control = ()
    return sweep(moved(step, graph, tensors, operations))


def moved(
    step: Step, graph: Graph, tensors: dict[Tensor, Tensor], operations: dict[Operation, Operation]
) -> Step:
    """The step on another graph, given what its tensors and operations became there."""
    return replace(
        step,
        graph=graph,
        fetches=tuple(tensors[t] for t in step.fetches),
        targets=tuple(operations[o] for o in step.targets),
        placements={tensors[t]: p for t, p in step.placements.items() if t in tensors},
    )


def sweep(step: Step) -> Step:
    """Drop the nodes that neither fetches nor targets need."""
    needed = ancestors([*(t.op for t in step.fetches), *step.targets])
    step.graph.operations = [node for node in step.graph.operations if node in needed]
    for position, node in enumerate(step.graph.operations):
        node.id = position
    placements = {t: p for t, p in step.placements.items() if t.op in needed}
    return replace(step, placements=placements)


def ancestors(roots: Iterable[Operation], stop: frozenset[Operation] = frozenset()) -> set[Operation]:
    """The roots and all they depend on; not looking behind the operations in `stop`."""
    seen: set[Operation] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node not in stop:
            stack.extend(t.op for t in node.inputs)
            stack.extend(node.control_inputs)
    return seen


def predecessors(node: Operation) -> set[Operation]:
    """The operations that a node directly depends on."""
    return {t.op for t in node.inputs} | set(node.control_inputs)


def topological(nodes: Sequence[Operation], before: dict[Operation, set[Operation]]) -> list[Operation]:
    """An order in which each node follows those in before[node], and otherwise keeps the given one.

    Raises:
        ValueError: there is none; its argument lists the nodes in or behind a cycle.
    """
    position = {node: i for i, node in enumerate(nodes)}
    waiting = {node: {p for p in before[node] if p in position} for node in nodes}
    followers: dict[Operation, list[Operation]] = {node: [] for node in nodes}
    for node, earlier in waiting.items():
        for p in earlier:
            followers[p].append(node)
    ready = [position[node] for node, earlier in waiting.items() if not earlier]
    heapq.heapify(ready)
    order = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        order.append(node)
        for follower in followers[node]:
            waiting[follower].discard(node)
            if not waiting[follower]:
                heapq.heappush(ready, position[follower])
    if len(order) < len(nodes):
        done = set(order)
        raise ValueError([node for node in nodes if node not in done])
    return order


def memory_of(tensor: Tensor) -> Tensor:
    """The tensor whose memory this one shares: through views, or as a variable that was written."""
    while tensor.op.kind.is_view or tensor.op.kind.writes:
        tensor = tensor.op.inputs[0]
    return tensor
