"""Summaries of tensors and collections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Tensor, get_collection
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.nn import zero_fraction
from dtrain.ops.summary import histogram, scalar

__all__ = [
    "summarize_activation",
    "summarize_activations",
    "summarize_collection",
    "summarize_tensor",
    "summarize_tensors",
]


def summarize_tensor(tensor: Any, tag: str | None = None) -> Tensor:
    """A histogram of a tensor or variable; of a scalar its value."""
    value = convert_to_tensor(tensor)
    name = tag or getattr(tensor, "op", value.op).name
    return scalar(name, value) if value.shape.ndims == 0 else histogram(name, value)


def summarize_activation(op: Any) -> Tensor:
    """A histogram of a layer's output, and for relu the share of zeros."""
    if op.op.type in ("Relu", "Softplus", "Relu6"):
        scalar(f"{op.op.name}/zeros", zero_fraction(op))
    return histogram(f"{op.op.name}/activation", op)


def summarize_tensors(
    tensors: Iterable[Any], summarizer: Callable[[Any], Tensor] = summarize_tensor
) -> list[Tensor]:
    """A summary of each."""
    return [summarizer(tensor) for tensor in tensors]


def summarize_collection(
    collection: str, name_filter: str | None = None, summarizer: Callable[[Any], Tensor] = summarize_tensor
) -> list[Tensor]:
    """A summary of each member of a collection whose name matches."""
    return summarize_tensors(get_collection(collection, name_filter), summarizer)


def summarize_activations(
    name_filter: str | None = None, summarizer: Callable[[Any], Tensor] = summarize_activation
) -> list[Tensor]:
    """A summary of each member of ACTIVATIONS."""
    return summarize_collection(GraphKeys.ACTIVATIONS, name_filter, summarizer)
