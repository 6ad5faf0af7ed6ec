"""join: on a device a loop that alone reads a product's result, or rows of a table, is one op with it."""

from __future__ import annotations

from collections.abc import Sequence

from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.ops.array import Reshape
from dtrain.ops.body import Instruction
from dtrain.ops.fused import BIAS, GATE, GATE_SUMS, RELU, RELU_MASK, Fused, Joined, JoinedRows
from dtrain.ops.lend import LentRows
from dtrain.ops.linalg import MatMul
from dtrain.ops.math import Add
from dtrain.ops.nn import Relu, ReluGrad
from dtrain.ops.reduce import Sum
from dtrain.passes.step import Rebuild, Step, ancestors, memory_of, sweep

#: What a loop after may be one op with.
FIRST = MatMul | LentRows


def join(step: Step) -> Step:
    """Make each such pair a Joined, whose kernel is one where there is one, and else theirs.

    A product does not move after a write of what it reads.
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
        loops = not isinstance(reader.kind, Fused) or reader.kind._elementwise(reader.kind.results[0])
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
    if not firsts:
        return step
    kinds = {loop: _joined(loop, first, tensor) for loop, (first, tensor) in firsts.items()}
    for loop, kind in kinds.items():
        if kind.ends in (GATE, GATE_SUMS):  # whose mask the product writes that made the ReLU
            y = next(t for t in loop.inputs if t is not firsts[loop][1]).op
            if y in kinds and kinds[y].ends == RELU:
                kinds[y] = Joined(**vars(kinds[y]) | {"ends": RELU_MASK})
    return _rebuilt(step, firsts, kinds)


def _joined(loop: Operation, first: Operation, tensor: Tensor) -> Joined:
    """The op of both; tensor: what the loop reads of the first."""
    at, count = [*loop.inputs].index(tensor), len(loop.inputs)
    then = loop.kind
    if not isinstance(then, Fused):
        then = Fused(count, (Instruction(then, tuple(range(count))),), (count,), (loop.name,))
    if isinstance(first.kind, LentRows):
        return JoinedRows(first.kind, then, at, tensor.spec.shape, name=first.name)
    ends = _end(then, at, [t.spec for t in loop.inputs])
    return Joined(first.kind, then, at, tensor.spec.shape, ends, first.name)


def _end(loop: Fused, at: int, specs: Sequence[Spec]) -> str:
    """What a loop is after a product, its input `at`, that cuBLASLt may do in the same kernel."""
    kinds = [type(op) for op, _ in loop.body]
    if len(specs) != 2 or set(loop.body[0].args) != {0, 1} or any(s.dtype.name != "float32" for s in specs):
        return ""
    columns, other = (specs[at].shape or ())[-1:], specs[1 - at].shape
    chained = len(kinds) == 1 or loop.body[1].args == (2,)
    if kinds in ([Add], [Add, Relu]) and other in (columns, (1, *columns)) and chained:
        return (BIAS if len(kinds) == 1 else RELU) if loop.results == (1 + len(kinds),) else ""
    if kinds[0] is not ReluGrad or loop.body[0].args != (at, 1 - at) or other != specs[at].shape:
        return ""
    if len(kinds) == 1:
        return GATE
    summed = loop.body[1].op
    sums = isinstance(summed, Sum) and summed.axes == (0,) and len(kinds) == 2 and chained
    sums = sums and loop.results == (2, 3)
    return GATE_SUMS if sums else ""


def _rebuilt(
    step: Step, firsts: dict[Operation, tuple[Operation, Tensor]], kinds: dict[Operation, Joined]
) -> Step:
    made = Rebuild(step)
    for node in step.graph.operations:
        if node not in firsts:
            made.copy(node)
            continue
        first, tensor = firsts[node]
        inputs = made.inputs([*first.inputs, *(t for t in node.inputs if t is not tensor)])
        made.copy(node, inputs, kind=kinds[node])
    return sweep(made.result())
