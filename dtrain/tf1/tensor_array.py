"""TensorArray: a list of tensors of one dtype, for loops that write or read an entry a step."""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, as_dtype, int32
from dtrain.graph.graph import Spec, Tensor, get_default_graph
from dtrain.graph.shape import Dims, as_dims, compatible, merge, shape_text
from dtrain.ops.array import identity, reshape
from dtrain.ops.arrays import ArrayNew, ArrayRead, ArraySize, ArrayWrite
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.index import gather as gather_rows
from dtrain.ops.join import concat, unstack
from dtrain.ops.late import shape as shape_of


class TensorArray:
    """An array of tensors, which write and unstack return anew, as in TensorFlow 1.

    A plan holds each entry by itself, so an index has to follow from counters, constants and shapes.

    Args:
        size: how many entries; a number or a scalar tensor.
        dynamic_size: whether a write beyond the size makes it larger.
        element_shape: of each entry, where it is known; all have the same, infer_shape or not.
        clear_after_read, colocate_with_first_write_call: change nothing but TensorFlow's use of memory.
        handle: only None.

    flow: the tensor that stands for the array, and carries it around a loop.
    """

    def __init__(
        self,
        dtype: Any,
        size: Any = None,
        dynamic_size: bool | None = None,
        clear_after_read: bool | None = None,
        tensor_array_name: str | None = None,
        handle: None = None,
        flow: Tensor | None = None,
        infer_shape: bool = True,
        element_shape: Any = None,
        colocate_with_first_write_call: bool = True,
        name: str | None = None,
    ) -> None:
        if handle is not None:
            raise GraphError("TensorArray: handle is not supported: give size.")
        if (flow is None) == (size is None):
            raise GraphError("TensorArray: give size, or flow.")
        self.dtype: DType = as_dtype(dtype)
        self._element: Dims = as_dims(element_shape)
        self._grows = bool(dynamic_size)
        if flow is None:
            count = convert_to_tensor(size, int32) if not isinstance(size, Tensor) else size
            kind = ArrayNew(self._element, self.dtype)
            flow = kind.add((count,), name or tensor_array_name or "TensorArray").outputs[0]
        self.flow: Tensor = flow

    def with_flow(self, flow: Tensor) -> TensorArray:
        """The same kind of array, as another tensor."""
        return TensorArray(self.dtype, dynamic_size=self._grows, flow=flow, element_shape=self._element)

    def _of(self, element: Dims) -> Dims:
        if not compatible(self._element, element):
            raise GraphError(
                f"TensorArray: an entry of the shape {shape_text(element)} does not fit "
                f"{shape_text(self._element)}."
            )
        return merge(self._element, element)

    def write(self, index: Any, value: Any, name: str | None = None) -> TensorArray:
        """The array with a value at an index."""
        tensor = convert_to_tensor(value, None if isinstance(value, Tensor) else self.dtype)
        if tensor.dtype != self.dtype:
            raise GraphError(f"TensorArray: {tensor!r} is not of {self.dtype.name}: cast it.")
        node = ArrayWrite(self._grows).add((self.flow, convert_to_tensor(index), tensor), name or "Write")
        written = self.with_flow(node.outputs[0])
        written._element = self._of(tensor.spec.shape)
        return written

    def read(self, index: Any, name: str | None = None) -> Tensor:
        """The value at an index."""
        return ArrayRead(self._element).add((self.flow, convert_to_tensor(index)), name or "Read").outputs[0]

    def stack(self, name: str | None = None) -> Tensor:
        """All entries as a tensor, along a new axis 0; what was not written is 0."""
        whole = identity(self.flow, name=name or "Stack")
        if self._element is not None:
            whole.spec = Spec((None, *self._element), self.dtype)
        return whole

    def gather(self, indices: Any, name: str | None = None) -> Tensor:
        """The entries at some indices, stacked."""
        return gather_rows(self.stack(), indices, name=name)

    def concat(self, name: str | None = None) -> Tensor:
        """All entries one after the other along their axis 0."""
        whole = self.stack()
        return reshape(whole, concat([[-1], shape_of(whole)[2:]], 0), name=name)

    def unstack(self, value: Any, name: str | None = None) -> TensorArray:
        """The array of the entries of a tensor along axis 0."""
        tensor = convert_to_tensor(value, self.dtype)
        dims = tensor.spec.shape
        filled = self.with_flow(identity(tensor, name=name))
        filled._element = self._of(None if dims is None else dims[1:])
        return filled

    def scatter(self, indices: Any, value: Any, name: str | None = None) -> TensorArray:
        """The array with the entries of a tensor along axis 0 at some indices, whose number is known."""
        positions = convert_to_tensor(indices, int32)
        if not positions.spec.shape or positions.spec.shape[0] is None:
            raise GraphError("TensorArray.scatter: how many indices there are has to be known.")
        result = self
        with get_default_graph().name_scope(name or "Scatter"):
            values = unstack(value, positions.spec.shape[0])
            for at, entry in zip(unstack(positions), values, strict=True):
                result = result.write(at, entry)
        return result

    def size(self, name: str | None = None) -> Tensor:
        """How many entries it has."""
        return ArraySize().add((self.flow,), name or "Size").outputs[0]

    def identity(self) -> TensorArray:
        return self

    def split(self, value: Any, lengths: Any, name: str | None = None) -> TensorArray:
        """Raises GraphError: entries have one shape."""
        raise GraphError("TensorArray.split is not supported: entries have one shape. Take unstack.")


__all__ = ["TensorArray"]
