"""A placeholder that has a value of its own where none is fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import Dims, as_dims, compatible, shape_text
from dtrain.ops.array import Identity
from dtrain.ops.base import Example, apply, convert_to_tensor, register


@register
class PlaceholderWithDefault(Identity):
    """The input, unless the output is fed."""

    shape: Dims
    stateful = True  # while a graph is built nobody knows whether it will be fed

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return apply(Identity(), *inputs, name=node.name)

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(None), (2, 3))]


def placeholder_with_default(input: Any, shape: Any, name: str | None = None) -> Tensor:
    """A tensor that is `input` unless another value is fed for it.

    Args:
        input: the default, a tensor or array.
        shape: what a value fed must be compatible with.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of input.

    Raises:
        GraphError: the shape of input is not compatible with shape.
    """
    default, dims = convert_to_tensor(input), as_dims(shape)
    if not compatible(default.spec.shape, dims):
        raise GraphError(
            f"placeholder_with_default: the default {default.name} has the shape "
            f"{shape_text(default.spec.shape)}, which {shape_text(dims)} does not allow."
        )
    tensor = apply(PlaceholderWithDefault(dims), default, name=name)
    # what may be fed is wider than the default; a plan infers anew, from what comes
    tensor.spec = Spec(dims, default.dtype)
    return tensor
