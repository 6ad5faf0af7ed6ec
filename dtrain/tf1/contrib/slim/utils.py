"""slim.utils: outputs of layers by name."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from dtrain.graph.graph import Tensor, get_collection, get_default_graph
from dtrain.tf1.contrib.layers.layers import collected

__all__ = ["collect_named_outputs", "convert_collection_to_dict", "last_dimension"]


def collect_named_outputs(collections: Any, alias: str, outputs: Tensor) -> Tensor:
    """Add a tensor to collections under a name; it comes back."""
    if collections:
        get_default_graph().add_to_collections(collections, outputs)
        collected(outputs.graph)[outputs] = alias
    return outputs


def convert_collection_to_dict(collection: str, clear_collection: bool = False) -> OrderedDict[str, Tensor]:
    """The tensors of a collection by the scopes of their layers."""
    found = get_collection(collection)
    names = collected(get_default_graph())
    if clear_collection:
        get_default_graph().clear_collection(collection)
    return OrderedDict((names.get(tensor, tensor.op.name), tensor) for tensor in found)


def last_dimension(shape: Any, min_rank: int = 1) -> int | None:
    """The size of the last axis."""
    return shape.dims[-1] if shape.dims else None
