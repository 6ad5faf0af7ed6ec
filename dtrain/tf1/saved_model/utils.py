"""What a saved model says of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Graph, Tensor, get_default_graph
from dtrain.graph.shape import TensorShape
from dtrain.ops.base import convert_to_tensor

__all__ = ["TensorInfo", "build_tensor_info", "get_tensor_from_tensor_info"]


@dataclass
class TensorInfo:
    """A tensor's name, dtype and shape."""

    name: str
    dtype: DType
    tensor_shape: TensorShape


def build_tensor_info(tensor: Any) -> TensorInfo:
    """Of a tensor or a variable."""
    given = convert_to_tensor(tensor)
    return TensorInfo(given.name, given.dtype, given.shape)


def get_tensor_from_tensor_info(
    tensor_info: TensorInfo, graph: Graph | None = None, import_scope: str | None = None
) -> Tensor:
    """The tensor that it is about, in a graph, by default the default one."""
    scope = f"{import_scope}/" if import_scope else ""
    return (graph or get_default_graph()).get_tensor_by_name(scope + tensor_info.name)
