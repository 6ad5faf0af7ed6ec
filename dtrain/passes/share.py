"""share: among the ranks of one node gradients are summed by what reads them, in memory that all reach.

An update of parameters of which the node has one copy is done by all ranks, each on its part. So it can read
all ranks' terms of its gradients where they lie, and their sums lie in no memory: in place of the AllReduce
stands a NodeBarrier, and the few other numbers of the bucket each rank adds up for itself.

The gradient to a layer's weights is a product, of its inputs, turned, with the gradients to its outputs: a
sum over the rows of the batch. Where those are fewer numbers than the weights, no rank computes its term of
the sum. Behind the barrier each reads all ranks' rows and computes its part of the weights' gradient: nothing
is added up, and every bit is that of one rank.
"""

from __future__ import annotations

from dataclasses import replace

from dtrain.graph.graph import Graph, Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.native.code import own_products
from dtrain.ops.base import Const, Feed
from dtrain.ops.check import HasBad
from dtrain.ops.collective import AllReduce, NodeBarrier, RowsOfProduct, SumTerms
from dtrain.ops.linalg import MatMul
from dtrain.ops.placement import REPLICATED, Placement, Sharded
from dtrain.ops.state import VariableOp, is_updated
from dtrain.ops.update import _Update
from dtrain.passes.step import Step, memory_of, moved

#: Bytes of a bucket's other sums up to which each rank adds them up for itself instead of a part of them.
SMALL = 16 << 10


def share(step: Step) -> Step:
    """Leave the sums of gradients to their updates, where all ranks share memory and kernels are C."""
    if not (step.shares and step.native) or step.device:
        return step
    uses = _uses(step)
    left: dict[Operation, dict[Tensor, Operation]] = {}  # of each such bucket the gradients and their updates
    for node in step.graph.operations:
        if isinstance(node.kind, AllReduce) and not node.kind.bucket:
            updates = {t: update for t in node.outputs if (update := _update_of(t, uses))}
            rest = sum(_nbytes(t) for t in node.outputs if t not in updates)
            if updates and rest <= SMALL:
                left[node] = updates
    return _rebuild(step, left, _products(step, left, uses)) if left else step


def _uses(step: Step) -> dict[Tensor, list[Operation | None]]:
    """Of the memory of each tensor what reads or writes it, once for each input; None is a fetch."""
    uses: dict[Tensor, list[Operation | None]] = {}
    for node in step.graph.operations:
        for tensor in node.inputs:
            uses.setdefault(memory_of(tensor), []).append(node)
    for tensor in step.fetches:
        uses.setdefault(memory_of(tensor), []).append(None)
    return uses


def _update_of(gradient: Tensor, uses: dict[Tensor, list[Operation | None]]) -> Operation | None:
    """The update that alone reads a summed gradient, where it can add up the terms itself."""
    node, *others = uses.get(gradient) or [None]
    if node is None or others or not isinstance(node.kind, _Update) or gradient not in node.inputs:
        return None
    every = all(node.inputs[k].op is gradient.op for k in node.kind.packs)
    shared = all(is_updated(memory_of(node.inputs[k]).op) for k in node.kind.writes)
    same = all(t.dtype == gradient.dtype for t in node.inputs)
    return node if every and shared and same and gradient.dtype.name in ("float32", "float64") else None


def _products(
    step: Step,
    left: dict[Operation, dict[Tensor, Operation]],
    uses: dict[Tensor, list[Operation | None]],
) -> set[Operation]:
    """The products that are computed by parts of the weights: what they read is less than what they make."""
    if not own_products():
        return set()
    packed = {t for n in step.graph.operations for k in n.kind.packs for t in [n.inputs[k]]}
    waited = {c for n in step.graph.operations for c in n.control_inputs}

    def is_free(tensor: Tensor) -> bool:
        """Whether a kernel writes it into memory that is ours to choose."""
        kind = tensor.op.kind
        elsewhere = kind.is_view or kind.writes or isinstance(kind, VariableOp | Const | Feed | AllReduce)
        return not elsewhere and tensor not in packed

    def suits(term: Tensor) -> bool:
        node = term.op
        if not isinstance(node.kind, MatMul) or not node.kind.transpose_a or node.kind.transpose_b:
            return False
        if term.dtype.name != "float32" or any(step.placements[t] != Sharded(0) for t in node.inputs):
            return False
        read = sum(size_of(t.spec.shape) for t in node.inputs)
        once = [use for use in uses[term] if use is None or not isinstance(use.kind, HasBad)]
        alone = len(once) == 1 and node not in waited
        return alone and all(map(is_free, node.inputs)) and read < size_of(term.spec.shape)

    return {
        term.op
        for bucket, updates in left.items()
        for term, gradient in zip(bucket.inputs, bucket.outputs, strict=True)
        if gradient in updates and suits(term)
    }


def _rebuild(step: Step, left: dict[Operation, dict[Tensor, Operation]], products: set[Operation]) -> Step:
    graph = Graph()
    tensors: dict[Tensor, Tensor] = {}
    operations: dict[Operation, Operation] = {}
    placements: dict[Tensor, Placement] = {}
    read: dict[Operation, list[Operation]] = {}  # of each bucket what has to be done before its update ends
    for node in step.graph.operations:
        if node in products:  # computed behind the barrier
            continue
        graph.source, kind = node.source, node.kind
        control = tuple(dict.fromkeys(operations[c] for c in node.control_inputs))
        if node in left:
            apart = [t.op for t in node.inputs if t.op in products]
            held = [t for t in node.inputs if t.op not in products] + [t for n in apart for t in n.inputs]
            held = list(dict.fromkeys(held))
            barrier = graph.add(NodeBarrier(len(held)), tuple(tensors[t] for t in held), node.name, control)
            behind = dict(zip(held, barrier.outputs, strict=True))
            placements |= {behind[t]: step.placements[t] for t in held}
            operations[node], read[node] = barrier, []
            for term, total in zip(node.inputs, node.outputs, strict=True):
                source = term.op
                if source in products:
                    waits = tuple(operations[c] for c in source.control_inputs)
                    factors = tuple(behind[t] for t in source.inputs)
                    rows = operations[source] = graph.add(RowsOfProduct(), factors, source.name, waits)
                    tensors[total], placements[rows.outputs[0]] = rows.outputs[0], Sharded(0)
                elif total in left[node]:
                    tensors[total] = behind[term]
                else:
                    whole = graph.add(SumTerms(), (behind[term],), f"{source.name}/SumTerms")
                    tensors[total], placements[whole.outputs[0]] = whole.outputs[0], REPLICATED
                    read[node].append(whole)
            continue
        inputs = list(node.inputs)
        if isinstance(kind, HasBad):
            apart = [t.op for t in inputs if t.op in products]
            inputs = [t for t in inputs if t.op not in products] + [t for n in apart for t in n.inputs]
            kind = HasBad(tuple(n.inputs[0].spec.shape[0] for n in apart))
        elif isinstance(kind, _Update) and (bucket := node.inputs[kind.count].op) in left:
            sums = [(k, node.inputs[i]) for k, i in enumerate(kind.packs)]
            rows = tuple(k for k, t in sums if bucket.inputs[t.index].op in products)
            terms = tuple(k for k, t in sums if k not in rows and t in left[bucket])
            kind = type(kind)(**vars(kind) | {"terms": terms, "rows": rows})
            control += tuple(read[bucket])
        copy = graph.copy_of(node, tuple(tensors[t] for t in inputs), control, kind)
        operations[node] = copy
        tensors.update(zip(node.outputs, copy.outputs, strict=True))
    step = moved(step, graph, tensors, operations)
    return replace(step, placements=step.placements | placements)


def _nbytes(tensor: Tensor) -> int:
    return size_of(tensor.spec.shape) * tensor.dtype.numpy.itemsize
