"""prune: the part of the user's graph that a run needs, with its feeds in and every shape known."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import InvalidArgumentError
from dtrain.graph.graph import Graph, Operation, Spec, Tensor, built
from dtrain.graph.shape import Dims
from dtrain.ops.base import Const, Feed, Op, Placeholder, Value
from dtrain.ops.placement import Placement
from dtrain.ops.subgraph import whole
from dtrain.passes.copies import Copier, Copies
from dtrain.passes.step import Step


class FeedSpec(NamedTuple):
    """What is fed for a tensor: its global shape, and where the ranks hold it.

    value: of a scalar that decides on branches or steps, what it is: the plan is for this value alone.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    placement: Placement
    value: Any = None


def prune(
    fetches: Sequence[Tensor], targets: Sequence[Operation], feeds: Sequence[FeedSpec], ranks: int
) -> Step:
    """Copy what the fetches and targets need, each fed tensor becoming a Feed, and infer all shapes anew.

    Of an op that holds bodies there are copies of these in its place (see ops/subgraph.py).

    Raises:
        InvalidArgumentError: a placeholder is needed and not fed, or the fed shapes do not fit an op.
    """
    feeds = [FeedSpec(*feed) for feed in feeds]
    fed = {feed.tensor: i for i, feed in enumerate(feeds)}
    needed = needed_by(fetches, targets, fed)
    graph = Graph()
    copies = Copies()
    placements: dict[Tensor, Placement] = {}
    for i, feed in enumerate(feeds):
        dtype = feed.tensor.dtype
        kind: Op = Feed(i, feed.shape, dtype)
        if feed.value is not None:
            kind = Const(Value(np.array(feed.value, dtype.numpy)))
        specs = [Spec(feed.shape, dtype)]
        node = Operation(graph, feed.tensor.op.name, kind, (), (), specs, feed.tensor.op.source)
        graph.operations.append(node)
        copies.tensors[feed.tensor] = node.outputs[0]
        placements[node.outputs[0]] = feed.placement
    with graph.as_default():
        copier = Copier(graph, prune)
        for node in sorted(needed, key=lambda n: n.id):
            if isinstance(node.kind, Placeholder):
                if node.outputs[0] not in fed:
                    raise InvalidArgumentError(_not_fed(node))
                copies.operations[node] = whole(copies.tensors[node.outputs[0]]).op
                continue
            if node.kind.only_in:
                raise InvalidArgumentError(f"{node.name}{built(node)}: {node.kind.only_in}.")
            copier.add(node, copies)
        found = tuple(whole(copies.tensors[t]) for t in fetches)
    return Step(graph, found, tuple(copies.operations[o] for o in targets), ranks, placements)


def needed_by(
    fetches: Sequence[Tensor], targets: Sequence[Operation], fed: Container[Tensor]
) -> set[Operation]:
    """Operations to run: a fed tensor needs nothing of what would have made it."""
    seen: set[Operation] = set()
    stack = [t.op for t in fetches if t not in fed] + list(targets)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(t.op for t in node.inputs if t not in fed)
            stack.extend(node.control_inputs)
    return seen


#: The names that TensorFlow 1's own message uses.
_CLASSIC = {"float32": "float", "float64": "double"}


def _not_fed(node: Operation) -> str:
    kind = node.kind
    assert isinstance(kind, Placeholder)
    dtype = _CLASSIC.get(kind.dtype.name, kind.dtype.name)
    return (
        f"You must feed a value for placeholder tensor '{node.name}' with dtype {dtype}"
        f"{_with_shape(kind.shape)}: pass feed_dict={{...}} to Session.run{built(node)}."
    )


def _with_shape(shape: Dims) -> str:
    if shape is None:
        return ""
    return " and shape [" + ",".join("?" if d is None else str(d) for d in shape) + "]"
