"""share: among the ranks of one node gradients are summed by what reads them, in memory that all reach.

An update of parameters of which the node has one copy is done by all ranks, each on its part. So it can read
all ranks' terms of its gradients where they lie, and their sums lie in no memory: in place of the AllReduce
stands a NodeBarrier, and the few other numbers of the bucket each rank adds up for itself.

The gradient to a layer's weights is a product, of its inputs, turned, with the gradients to its outputs: a
sum over the rows of the batch. Where those are fewer numbers than the weights, no rank computes its term of
the sum. After the barrier each reads all ranks' rows and computes its part of the weights' gradient: nothing
is added up, and every bit is that of one rank.
"""

from __future__ import annotations

from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.native.code import own_products
from dtrain.ops.base import Const, Feed
from dtrain.ops.check import HasBad, ProductBound
from dtrain.ops.collective import AllReduce, NodeBarrier, RowsOfProduct, SumTerms
from dtrain.ops.linalg import MatMul
from dtrain.ops.placement import PARTIAL, REPLICATED, Sharded
from dtrain.ops.state import VariableOp, is_updated
from dtrain.ops.update import _Update
from dtrain.passes.step import Rebuild, Step, memory_of, sweep

#: Bytes of a bucket's other sums up to which each rank adds them up for itself instead of a part of them.
SMALL = 16 << 10

#: Of the memory of each tensor what reads or writes it, once for each input; None is a fetch.
Uses = dict[Tensor, list[Operation | None]]


def share(step: Step) -> Step:
    """Leave the sums of gradients to their updates, where all ranks share memory and kernels are C."""
    if not (step.shares and step.native) or step.device:
        return step
    uses: Uses = {}
    for node in step.graph.operations:
        for tensor in node.inputs:
            uses.setdefault(memory_of(tensor), []).append(node)
    for tensor in step.fetches:
        uses.setdefault(memory_of(tensor), []).append(None)
    found: dict[Operation, set[Tensor]] = {}  # of each bucket the gradients that updates can sum
    for update in step.graph.operations:
        bucket = _bucket_of(update)
        if bucket is not None:
            alone = {t for k in update.kind.packs if uses[t := update.inputs[k]] == [update]}
            found.setdefault(bucket, set()).update(alone)
    left = {bucket: gradients for bucket, gradients in found.items() if gradients and _few(bucket, gradients)}
    if step.bitwise and any(n.kind.rows for n in step.graph.operations if isinstance(n.kind, _Update)):
        left = {n: set() for n in step.graph.operations if isinstance(n.kind, AllReduce) and _few(n, set())}
    if not left:
        return step
    rebuilt = _Rebuilt(step, left, _products(step, left, uses))
    for node in step.graph.operations:
        rebuilt.add(node)
    return rebuilt.result()


def _few(bucket: Operation, gradients: set[Tensor]) -> bool:
    """Whether what a bucket sums besides is small."""
    rest = (t.spec for t in bucket.outputs if t not in gradients)
    return sum(size_of(spec.shape) * spec.dtype.numpy.itemsize for spec in rest) <= SMALL


def _bucket_of(update: Operation) -> Operation | None:
    """The sum that all of an update's gradients come from, where it can add up the terms itself."""
    if not isinstance(update.kind, _Update):
        return None
    first = update.inputs[update.kind.count]
    one = all(update.inputs[k].op is first.op for k in update.kind.packs)
    shared = all(is_updated(memory_of(update.inputs[k]).op) for k in update.kind.writes)
    same = all(t.dtype == first.dtype for t in update.inputs) and first.dtype.name in ("float32", "float64")
    sums = isinstance(first.op.kind, AllReduce) and not first.op.kind.bucket
    return first.op if one and shared and same and sums else None


def _products(step: Step, left: dict[Operation, set[Tensor]], uses: Uses) -> set[Operation]:
    """The products to compute by parts of the weights: what they read is less than what they make."""
    nodes = step.graph.operations
    packed = {n.inputs[k] for n in nodes for k in n.kind.packs}
    waited = {*step.targets, *(c for n in nodes for c in n.control_inputs)}

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
        others = [use for use in uses[term] if use is None or not isinstance(use.kind, HasBad)]
        alone = len(others) == 1 and node not in waited
        return alone and all(map(is_free, node.inputs)) and read < size_of(term.spec.shape)

    return {
        term.op
        for bucket, gradients in left.items()
        for term, total in zip(bucket.inputs, bucket.outputs, strict=True)
        if total in gradients and suits(term) and own_products()
    }


class _Rebuilt(Rebuild):
    """The step's graph anew, node by node."""

    def __init__(self, step: Step, left: dict[Operation, set[Tensor]], products: set[Operation]) -> None:
        super().__init__(step)
        self.left, self.products = left, products
        self.behind: dict[Operation, list[Operation]] = {}  # each bucket's barrier, what reads others' memory

    def add(self, node: Operation) -> None:
        graph, kind = self.graph, node.kind
        graph.source = node.source
        waits = list(self.control(node))
        if node in self.left:
            self.meet(node, waits)
            return
        inputs = self.inputs(node.inputs)
        if node in self.products:  # it comes after the barrier
            bound = graph.add(ProductBound(), inputs, f"{node.name}/Bound", tuple(waits)).outputs[0]
            self.tensors[node.outputs[0]], self.placements[bound] = bound, PARTIAL
            return
        if isinstance(kind, _Update) and (bucket := node.inputs[kind.count].op) in self.left:
            terms, rows = (
                tuple(k for k, i in enumerate(kind.packs) if self.placements.get(inputs[i]) == placement)
                for placement in (PARTIAL, Sharded(0))
            )
            kind = type(kind)(**vars(kind) | {"terms": terms, "rows": rows})
            waits += self.behind[bucket]  # it ends in the barrier after which the memory is written again
        self.copy(node, inputs, waits, kind)

    def meet(self, bucket: Operation, waits: list[Operation]) -> None:
        """Put a barrier in a bucket's place, and after it what reads the memory of other ranks."""
        terms = [t for t in bucket.inputs if t.op not in self.products]
        products = [t.op for t in bucket.inputs if t.op in self.products]
        held = list(dict.fromkeys([*terms, *(t for p in products for t in p.inputs)]))
        here = self.inputs(held)
        waits += (self.operations[c] for p in products for c in p.control_inputs)
        control = tuple(dict.fromkeys(waits))
        barrier = self.graph.add(NodeBarrier(len(here)), here, bucket.name, control)
        reached = dict(zip(held, barrier.outputs, strict=True))
        self.placements |= {reached[t]: self.step.placements[t] for t in held}
        made = []
        for term, total in zip(bucket.inputs, bucket.outputs, strict=True):
            source = term.op
            if source in self.products:
                both = tuple(reached[t] for t in source.inputs)
                made.append(self.graph.add(RowsOfProduct(), both, source.name))
                self.placements[made[-1].outputs[0]] = Sharded(0)
            elif total in self.left[bucket]:
                self.tensors[total] = reached[term]
                continue
            else:
                made.append(self.graph.add(SumTerms(), (reached[term],), f"{source.name}/SumTerms"))
                self.placements[made[-1].outputs[0]] = REPLICATED
            self.tensors[total] = made[-1].outputs[0]
        self.operations[bucket], self.behind[bucket] = barrier, made

    def result(self) -> Step:
        return sweep(super().result())
