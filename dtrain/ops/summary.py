"""Summary ops: tensors whose value is a serialised summary, which a FileWriter puts into an event file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import string, uint8
from dtrain.graph.graph import Spec, Tensor, get_default_graph
from dtrain.ops import summary_proto
from dtrain.ops.base import Array, Env, Kernel, Op, apply, convert_to_tensor, register


class _Summary(Op):
    """One output, a scalar string. On several ranks its inputs are whole, so all make the same bytes."""

    stateful = True
    no_gradient = "it is a record"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), string)]

    def serialize(self, *values: np.ndarray) -> bytes:
        """The summary of these values, which are on the host."""
        raise NotImplementedError

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        summary_proto.protos()  # what is not installed is reported before the first step
        to_host: Callable[[Any], Any] = np.asarray if env.on_host else env.xp.asnumpy

        def kernel() -> None:
            outs[0][()] = self.serialize(*(x if x.dtype == object else to_host(x) for x in ins))

        return kernel


def _numeric(spec: Spec, what: str) -> None:
    if spec.dtype.is_bool:
        raise GraphError(f"a {what} summary is of numbers; cast the bools")


@register
class ScalarSummary(_Summary):
    tag: str

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        _numeric(specs[0], "scalar")
        if specs[0].shape not in ((), None):
            raise GraphError("a scalar summary is of one number; reduce the tensor first")
        return super().infer(*specs)

    def serialize(self, *values: np.ndarray) -> bytes:
        return summary_proto.scalar(self.tag, float(values[0]))


@register
class HistogramSummary(_Summary):
    tag: str

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        _numeric(specs[0], "histogram")
        return super().infer(*specs)

    def serialize(self, *values: np.ndarray) -> bytes:
        return summary_proto.histogram(self.tag, values[0])


@register
class ImageSummary(_Summary):
    tag: str
    max_outputs: int

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape, dtype = specs[0]
        if shape is not None and (len(shape) != 4 or shape[3] not in (1, 3, 4, None)):
            raise GraphError(
                "an image summary is of [batch, height, width, channels] with 1, 3 or 4 channels"
            )
        if dtype != uint8 and not dtype.is_floating:
            raise GraphError("an image summary is of uint8 or floating values; cast the tensor")
        return super().infer(*specs)

    def serialize(self, *values: np.ndarray) -> bytes:
        return summary_proto.images(self.tag, values[0], self.max_outputs)


@register
class TextSummary(_Summary):
    tag: str
    takes_strings = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if not specs[0].dtype.is_string:
            raise GraphError("a text summary is of strings")
        return super().infer(*specs)

    def serialize(self, *values: np.ndarray) -> bytes:
        return summary_proto.text(self.tag, values[0].ravel().tolist(), values[0].shape)


@register
class MergeSummary(_Summary):
    takes_strings = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if any(not spec.dtype.is_string for spec in specs):
            raise GraphError("only summaries can be merged")
        return super().infer(*specs)

    def serialize(self, *values: np.ndarray) -> bytes:
        return summary_proto.merge(bytes(value[()]) for value in values)


def scalar(
    name: str, tensor: Any, collections: Sequence[str] | None = None, family: str | None = None
) -> Tensor:
    """A summary of one number. Its tag is its name in the graph, name scopes included.

    Args:
        collections: those that it joins, by default GraphKeys.SUMMARIES, which merge_all reads.
        family: what the tag begins with, so that TensorBoard shows tags of one family together.

    Raises:
        GraphError: the tensor is no scalar number.
    """
    return _add(name, tensor, collections, family, ScalarSummary)


def histogram(
    name: str, values: Any, collections: Sequence[str] | None = None, family: str | None = None
) -> Tensor:
    """A summary of how a tensor's values are distributed; one that is not finite is an error in the run."""
    return _add(name, values, collections, family, HistogramSummary)


def image(
    name: str,
    tensor: Any,
    max_outputs: int = 3,
    collections: Sequence[str] | None = None,
    family: str | None = None,
) -> Tensor:
    """A summary of the first images of a batch [batch, height, width, channels]; channels is 1, 3 or 4.

    uint8 is shown as it is. Floats are scaled, each image by itself: 0 becomes black and the largest value
    white, or, where there are negative values, 0 becomes grey.

    Raises:
        GraphError: the tensor is not of such a shape, or neither uint8 nor floating.
    """
    return _add(name, tensor, collections, family, lambda tag: ImageSummary(tag, int(max_outputs)))


def text(name: str, tensor: Any, collections: Sequence[str] | None = None) -> Tensor:
    """A summary of a string or an array of them; raises GraphError where it is something else."""
    return _add(name, tensor, collections, None, TextSummary)


def merge(
    inputs: Sequence[Tensor], collections: Sequence[str] | None = None, name: str | None = None
) -> Tensor:
    """One summary of several, to run them at once."""
    if not inputs:
        raise GraphError("summary.merge: there are no summaries to merge.")
    merged = apply(MergeSummary(), *inputs, name=name or "Merge/MergeSummary")
    merged.graph.add_to_collections(collections or (), merged)
    return merged


def merge_all(
    key: str = GraphKeys.SUMMARIES, scope: str | None = None, name: str | None = None
) -> Tensor | None:
    """One summary of all that a collection of the default graph holds; None where it holds none."""
    summaries = get_default_graph().get_collection(key, scope)
    return merge(summaries, name=name) if summaries else None


def _add(
    name: str,
    tensor: Any,
    collections: Sequence[str] | None,
    family: str | None,
    kind: Callable[[str], Op],
) -> Tensor:
    source = convert_to_tensor(tensor)
    graph = source.graph
    clean = re.sub(r"[^-/\w.]", "_", name).lstrip("/")  # as TensorFlow 1 makes a name of any text
    with graph.name_scope(f"{family}/{clean}" if family else clean) as scope:
        tag = f"{family}/{scope[:-1]}" if family else scope[:-1]
    summary = graph.add(kind(tag), (source,), scope).outputs[0]
    graph.add_to_collections([GraphKeys.SUMMARIES] if collections is None else collections, summary)
    return summary
