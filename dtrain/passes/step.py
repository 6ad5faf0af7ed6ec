"""What passes turn into one another: the part of a graph that one run needs, at known shapes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dtrain.graph.graph import Graph, Operation, Tensor
from dtrain.ops.base import Op
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


def rewrite(step: Step, rule: Rule) -> Step:
    """Rebuild the step's graph node by node, then drop what nothing needs."""
    made = Rebuild(step)
    graph = made.graph
    with graph.as_default():
        for node in step.graph.operations:
            inputs, control = made.inputs(node.inputs), made.control(node)
            graph.here.control, graph.source = control, node.source
            outputs = rule(node, inputs)
            if outputs is None:
                made.copy(node, inputs, control)
            else:
                made.operations[node] = outputs[0].op
                made.tensors.update(zip(node.outputs, outputs, strict=True))
    graph.here.control = ()
    return sweep(made.result())


class Rebuild:
    """A step's graph made anew, node by node.

    tensors, operations: what those of the step are in the new graph. placements: of tensors that only the new
    graph has.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.graph = step, Graph()
        self.tensors: dict[Tensor, Tensor] = {}
        self.operations: dict[Operation, Operation] = {}
        self.placements: dict[Tensor, Placement] = {}

    def inputs(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """What these tensors are now."""
        return tuple(self.tensors[t] for t in tensors)

    def control(self, *nodes: Operation) -> tuple[Operation, ...]:
        """What the control inputs of these nodes are now, each once."""
        return tuple(dict.fromkeys(self.operations[c] for node in nodes for c in node.control_inputs))

    def copy(
        self,
        node: Operation,
        inputs: tuple[Tensor, ...] | None = None,
        control: Iterable[Operation] | None = None,
        kind: Op | None = None,
    ) -> Operation:
        """Copy a node, by default with its own inputs, control inputs and op."""
        control = self.control(node) if control is None else tuple(dict.fromkeys(control))
        copy = self.graph.copy_of(node, self.inputs(node.inputs) if inputs is None else inputs, control, kind)
        self.replace([node], node.outputs, copy)
        return copy

    def replace(self, nodes: Iterable[Operation], outputs: Sequence[Tensor], made: Operation) -> None:
        """Let a new node be what these nodes are now, and its outputs what these tensors are."""
        self.tensors.update(zip(outputs, made.outputs, strict=True))
        self.operations.update(dict.fromkeys(nodes, made))

    def result(self) -> Step:
        """The step on the new graph."""
        placements = {self.tensors[t]: p for t, p in self.step.placements.items() if t in self.tensors}
        return replace(
            self.step,
            graph=self.graph,
            fetches=self.inputs(self.step.fetches),
            targets=tuple(self.operations[o] for o in self.step.targets),
            placements=placements | self.placements,
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
    """The roots and all they depend on; not looking before the operations in `stop`."""
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
        ValueError: there is none; its argument lists the nodes in or after a cycle.
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
