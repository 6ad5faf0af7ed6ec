"""Placeholders that a session feeds by itself, such as those of a data set's get_next.

What they are fed comes from a source, which the graph keeps by name: a run that needs one of its tensors
takes one element of it, before the run, the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Operation, Tensor, get_default_graph
from dtrain.graph.shape import Dims
from dtrain.ops.base import Placeholder, register
from dtrain.ops.state import NoOp

#: Under which name a graph keeps its sources.
SOURCES = "sources"


class Source(Protocol):
    """Where the elements come from. Each session has its own place in it."""

    def start(self, session: Any, feeds: Mapping[Tensor, Any], argument: Any) -> None:
        """What a run of one of its operations does; feeds: what the run is fed."""

    def take(self, session: Any, feeds: Mapping[Tensor, Any], argument: Any) -> Sequence[Any]:
        """The next element: a value for each tensor of a call. Raises OutOfRangeError at the end."""

    def put(self, session: Any, values: Sequence[Any], argument: Any) -> None:
        """Take in what a run has computed."""


@register
class Taken(Placeholder):
    """One part of a source's next element.

    call: the number of the call that made it; a run takes one element for each call that it needs.
    part: which of the element's values; argument: what the source is given.
    """

    shape: Dims
    dtype: DType
    source: str
    call: int
    part: int
    argument: Any = None


@register
class Start(NoOp):
    """Sends a source a request, such as to begin anew, before the run that it is in."""

    source: str
    argument: Any = None


@register
class Put(NoOp):
    """Hands a source the values of tensors, after the run that computes them: its control inputs do.

    tensors: their names; argument: what the source is given with them.
    """

    source: str
    tensors: tuple[str, ...]
    argument: Any = None


def add_source(name: str, source: Source) -> str:
    """Keep a source with the default graph; returns its name there."""
    sources = get_default_graph().kept.setdefault(SOURCES, {})
    full = name if name not in sources else f"{name}_{len(sources)}"
    sources[full] = source
    return full


def taken(
    source: str, shapes: Sequence[Dims], dtypes: Sequence[DType], name: str, argument: Any = None
) -> list[Tensor]:
    """The tensors of the next element of a source: one call, with a tensor for each of its values."""
    graph = get_default_graph()
    call = len(graph.operations)
    return [
        graph.add(Taken(shape, dtype, source, call, part, argument), (), name).outputs[0]
        for part, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]


def start(source: str, name: str, argument: Any = None) -> Operation:
    """An operation that sends a source a request."""
    return get_default_graph().add(Start(source, argument), (), name)


def put(source: str, tensors: Sequence[Tensor], name: str, argument: Any = None) -> Operation:
    """An operation that hands a source the values of tensors."""
    kind = Put(source, tuple(t.name for t in tensors), argument)
    return get_default_graph().add(kind, (), name, tuple(t.op for t in tensors))
