"""What TensorArray is made of: in a plan a list of tensors, whose entries steps of loops read and write."""

from __future__ import annotations

from collections.abc import Sequence

from dtrain.errors import InvalidArgumentError
from dtrain.graph.dtypes import DType, int32
from dtrain.graph.graph import Operation, Spec, Tensor, built
from dtrain.graph.shape import Dims
from dtrain.ops.array import ZerosLike
from dtrain.ops.base import apply, constant, register
from dtrain.ops.subgraph import Backward, Copier, Pieces, Planned, Subgraph, entries


class _ArrayOp(Subgraph):
    """An op on an array, whose tensor has the unknown shape: what it is in a plan is Pieces."""

    own = 1

    def number(self, node: Operation, planned: Planned, copy: Copier, what: str) -> int:
        """A size or index. Raises InvalidArgumentError where it follows from values."""
        known = copy.known(planned)
        if known is None:
            raise InvalidArgumentError(
                f"{node.name}{built(node)}: {what} of a TensorArray follows from values, and a plan is made "
                "before there are: take a counter of the loop, or a size from dt.shape(...)."
            )
        return int(known)

    def entry(self, node: Operation, array: Sequence[Planned | None], at: int) -> Planned:
        """One entry. Raises InvalidArgumentError where there is none."""
        found = array[at] if 0 <= at < len(array) else None
        if found is None:
            raise InvalidArgumentError(
                f"{node.name}{built(node)}: the TensorArray has no entry {at}: of {len(array)} nothing was "
                "written there."
            )
        return found


@register
class ArrayNew(_ArrayOp):
    """An array of so many entries (the input), none of which is written yet."""

    element: Dims
    dtype: DType
    no_gradient = "it has no values"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(None, self.dtype)]

    def expand(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        size = self.number(node, inputs[0], copy, "the size")
        return [Pieces([None] * size, Spec(self.element, self.dtype))]


@register
class ArrayWrite(_ArrayOp):
    """Inputs: an array, an index, a value. The array with this value there, longer where grows allows it."""

    grows: bool

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(None, specs[0].dtype)]

    def expand(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        array, at = list(entries(inputs[0])), self.number(node, inputs[1], copy, "the index")
        if at >= len(array) and self.grows:
            array += [None] * (at + 1 - len(array))
        if not 0 <= at < len(array):
            raise InvalidArgumentError(
                f"{node.name}{built(node)}: entry {at} is beyond the {len(array)} of the TensorArray: give "
                "it another size, or dynamic_size=True."
            )
        array[at] = inputs[2]
        like = node.inputs[2].spec
        return [Pieces(array, like)]

    def backward(
        self, node: Operation, dys: Sequence[Tensor | None], gradients: Backward
    ) -> Sequence[Tensor | None]:
        _, index, value = node.inputs
        flow = dys[0]
        assert flow is not None
        name = node.name.rpartition("/")[2]
        rest = ArrayWrite(self.grows).add((flow, index, apply(ZerosLike(), value)), name)
        part = ArrayRead(value.spec.shape).add((flow, index), name)
        return [rest.outputs[0], None, part.outputs[0]]


@register
class ArrayRead(_ArrayOp):
    """Inputs: an array and an index. The entry there."""

    element: Dims

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(self.element, specs[0].dtype)]

    def expand(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        return [self.entry(node, entries(inputs[0]), self.number(node, inputs[1], copy, "the index"))]

    def backward(
        self, node: Operation, dys: Sequence[Tensor | None], gradients: Backward
    ) -> Sequence[Tensor | None]:
        array, index = node.inputs
        size = ArraySize().add((array,), "Size").outputs[0]
        empty = ArrayNew(self.element, array.dtype).add((size,), "TensorArray").outputs[0]
        assert dys[0] is not None
        return [ArrayWrite(False).add((empty, index, dys[0]), "Write").outputs[0], None]


@register
class ArraySize(_ArrayOp):
    """How many entries an array has."""

    no_gradient = "its result is a count"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), int32)]

    def expand(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        return [constant(len(entries(inputs[0])), int32)]
