"""Names that TensorFlow had before 1.0, for what has another since."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dtrain import summary
from dtrain.errors import UsageError
from dtrain.graph.graph import Tensor
from dtrain.ops.join import stack, unstack
from dtrain.ops.linalg import matmul
from dtrain.ops.math import reciprocal

__all__ = [
    "SummaryWriter",
    "batch_matmul",
    "histogram_summary",
    "image_summary",
    "inv",
    "merge_all_summaries",
    "merge_summary",
    "pack",
    "scalar_summary",
    "unpack",
]


def pack(values: Any, axis: int = 0, name: str | None = None) -> Tensor:
    """`stack` since TensorFlow 1.0."""
    return stack(values, axis, name or "pack")


def unpack(value: Any, num: int | None = None, axis: int = 0, name: str | None = None) -> list[Tensor]:
    """`unstack` since TensorFlow 1.0."""
    return unstack(value, num, axis, name or "unpack")


def batch_matmul(x: Any, y: Any, adj_x: bool = False, adj_y: bool = False, name: str | None = None) -> Tensor:
    """`matmul` since TensorFlow 1.0."""
    return matmul(x, y, transpose_a=adj_x, transpose_b=adj_y, name=name)


def inv(x: Any, name: str | None = None) -> Tensor:
    """`reciprocal` since TensorFlow 1.0: 1 / x."""
    return reciprocal(x, name)


def scalar_summary(
    tags: Any, values: Any, collections: Sequence[str] | None = None, name: str | None = None
) -> Tensor:
    """`summary.scalar(name, tensor)` since TensorFlow 1.0; of one tag."""
    return summary.scalar(_tag(tags), values, collections)


def histogram_summary(
    tag: Any, values: Any, collections: Sequence[str] | None = None, name: str | None = None
) -> Tensor:
    """`summary.histogram(name, values)` since TensorFlow 1.0."""
    return summary.histogram(_tag(tag), values, collections)


def image_summary(
    tag: Any,
    tensor: Any,
    max_images: int = 3,
    collections: Sequence[str] | None = None,
    name: str | None = None,
) -> Tensor:
    """`summary.image(name, tensor)` since TensorFlow 1.0."""
    return summary.image(_tag(tag), tensor, max_images, collections)


def merge_summary(
    inputs: Sequence[Tensor], collections: Sequence[str] | None = None, name: str | None = None
) -> Tensor:
    """`summary.merge` since TensorFlow 1.0."""
    return summary.merge(inputs, collections, name)


def merge_all_summaries(key: str = "summaries") -> Tensor | None:
    """`summary.merge_all` since TensorFlow 1.0."""
    return summary.merge_all(key)


class SummaryWriter(summary.FileWriter):
    """`summary.FileWriter` since TensorFlow 1.0."""

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        graph: Any = None,
        max_queue: int = 10,
        flush_secs: float = 120,
        graph_def: Any = None,
    ) -> None:
        super().__init__(logdir, graph, max_queue, flush_secs, graph_def)


def _tag(tag: Any) -> str:
    if not isinstance(tag, str):
        raise UsageError(f"a summary has one tag, a string, and {tag!r} is given: make one for each.")
    return tag
