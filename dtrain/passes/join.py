"""join: on a device a loop that alone reads a product's result, or rows of a table, is one op with it."""

from __future__ import annotations

from collections.abc import Sequence

from dtrain.graph.graph import Graph, Operation, Tensor
from dtrain.ops.array import Reshape
from dtrain.ops.body import Instruction
from dtrain.ops.fused import Fused, Joined
from dtrain.ops.lend import LentRows
from dtrain.ops.linalg import MatMul
from dtrain.passes.step import Step, ancestors, memory_of, moved, sweep

#: What a loop behind may be one op with.
FIRST = MatMul | LentRows


def join(step: Step) -> Step:
    """Make each such pair a Joined, whose kernel is one where there is one, and else theirs.

    A product does not move behind a write of what it reads.
    """
    if not (step.device and step.native):
        return step
    nodes = step.graph.operations
    uses: dict[Tensor, list[Operation]] = {}
    for node in nodes:
        for tensor in node.inputs:
            uses.setdefault(tensor, []).append(node)
    kept = {*(t.op for t in step.fetches), *step.targets, *(c for n in nodes for c in n.control_inputs)}
    written = {memory_of(n.inputs[k]): n for n in nodes for k in n.kind.writes}

    def alone(tensor: Tensor) -> Operation | None:
        """What alone reads a tensor, once."""
        found = uses.get(tensor, [])
        return found[0] if len(found) == 1 and tensor.op not in kept else None

    def loop_behind(node: Operation) -> tuple[Operation, Tensor] | None:
        """The loop that is to be one with a node, and the tensor that it reads of it."""
        tensor = node.outputs[0]
        reader = alone(tensor)
        while reader is not None and isinstance(reader.kind, Reshape) and isinstance(node.kind, LentRows):
            tensor = reader.outputs[0]
            reader = alone(tensor)
        if reader is None or not (reader.kind.elementwise or isinstance(reader.kind, Fused)):
            return None
        first = reader.outputs[0]
        loops = reader.kind.elementwise or reader.kind._elementwise(reader.kind.results[0])
        alike = first.spec.shape == tensor.spec.shape and step.placements[first] == step.placements[tensor]
        if not loops or not alike or node.control_inputs or reader.kind.stateful:
            return None
        writers = {w for t in node.inputs if (w := written.get(memory_of(t))) is not None}
        if writers and writers & ancestors([reader]):
            return None
        return reader, tensor

    firsts: dict[Operation, tuple[Operation, Tensor]] = {}  # by loop
    for node in nodes:
        if isinstance(node.kind, FIRST):
            found = loop_behind(node)
            if found is not None and found[0] not in firsts:
                firsts[found[0]] = node, found[1]
    return _rebuilt(step, firsts) if firsts else step


def _rebuilt(step: Step, firsts: dict[Operation, tuple[Operation, Tensor]]) -> Step:
    graph = Graph()
    tensors: dict[Tensor, Tensor] = {}
    operations: dict[Operation, Operation] = {}
    for node in step.graph.operations:
        inputs: Sequence[Tensor] = node.inputs
        kind = node.kind
        if node in firsts:
            first, tensor = firsts[node]
            at = [*node.inputs].index(tensor)
            body = (Instruction(kind, tuple(range(len(node.inputs)))),)
            then = kind if isinstance(kind, Fused) else Fused(len(inputs), body, (len(inputs),), (node.name,))
            kind = Joined(first.kind, then, at, tensor.spec.shape)
            inputs = [*first.inputs, *(t for k, t in enumerate(node.inputs) if k != at)]
        control = tuple(dict.fromkeys(operations[c] for c in node.control_inputs))
        copy = graph.copy_of(node, tuple(tensors[t] for t in inputs), control, kind)
        operations[node] = copy
        tensors.update(zip(node.outputs, copy.outputs, strict=True))
    return sweep(moved(step, graph, tensors, operations))
