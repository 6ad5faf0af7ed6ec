"""Gradients that the ranks of a node compute by parts of the parameter instead of by parts of the batch.

The gradient to a layer's weights is a product, of its inputs, turned, with the gradients to its outputs: a
sum over the rows of the batch. Where each rank sums over its own rows, the ranks then have to add up whole
matrices. Where each sums over all rows for its part of the matrix, it reads the others' inputs and gradients
instead: at small batches that is less, nothing is added up, each rank goes on with its part to the update,
and every bit is that of one rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.ops.linalg import MatMul
from dtrain.ops.memory import aligned
from dtrain.ops.placement import Sharded, local_shape
from dtrain.passes.step import Step


class Exchange:
    """Which products of a plan are computed so, and the memory in which ranks read one another's rows.

    products: each with the allreduce that would have summed it.
    packed: this rank's rows of what is read by all; memory: where they lie.
    """

    def __init__(self) -> None:
        self.products: dict[Operation, Operation] = {}
        self.packed: dict[Tensor, Any] = {}
        self.memory: list[Any] = []
        self._everyones: dict[Tensor, list[Any]] = {}

    def fill(self, step: Step, comm: Any, products: dict[Operation, Operation]) -> None:
        """Take these products, if there is memory for what they read. Collective."""
        read = list(dict.fromkeys(t for node in products for t in node.inputs))
        shapes = {
            t: [local_shape(t.spec.shape, step.placements[t], r, comm.size) for r in range(comm.size)]
            for t in read
        }
        room = {t: aligned(max(size_of(s) for s in shapes[t]) * t.dtype.numpy.itemsize) for t in read}
        memory = comm.bucket(sum(room.values())) if products else None
        if memory is None:
            return
        self.products, self.memory, at = products, [memory[0]], 0
        for tensor in read:
            terms = comm.terms(memory[0][at : at + room[tensor]])
            at += room[tensor]
            self._everyones[tensor] = [
                term[: size_of(shape) * tensor.dtype.numpy.itemsize].view(tensor.dtype.numpy).reshape(shape)
                for term, shape in zip(terms, shapes[tensor], strict=True)
            ]
            self.packed[tensor] = self._everyones[tensor][comm.rank]

    def operands(self, node: Operation) -> tuple[list[Any], list[Any]]:
        """All ranks' rows of both sides of a product, in rank order."""
        a, b = node.inputs
        return self._everyones[a], self._everyones[b]


def suits(step: Step, source: Tensor, made: Callable[[Tensor], bool]) -> bool:
    """Whether a term of a sum is such a product, and what it reads is less than what would be added up.

    made: whether a kernel writes a tensor into memory that is ours to choose.
    """
    node = source.op
    if not isinstance(node.kind, MatMul) or not node.kind.transpose_a or node.kind.transpose_b:
        return False
    if source.dtype.name != "float32" or any(step.placements[t] != Sharded(0) for t in node.inputs):
        return False
    read = sum(size_of(t.spec.shape) for t in node.inputs)
    return all(made(t) for t in node.inputs) and read < size_of(source.spec.shape)


def behind(nodes: Sequence[Operation], products: dict[Operation, Operation]) -> list[Operation]:
    """The nodes with each product right behind the allreduce at which all ranks have met."""
    order: list[Operation] = []
    of: dict[Operation, list[Operation]] = {}
    for product, allreduce in products.items():
        of.setdefault(allreduce, []).append(product)
    for node in nodes:
        if node in products:
            continue
        order.append(node)
        order += of.get(node, ())
    return order
