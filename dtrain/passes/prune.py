"""prune: the part of the user's graph that a run needs, with its feeds in and every shape known."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Graph, Operation, Spec, Tensor, built
from dtrain.graph.shape import Dims
from dtrain.ops.base import Feed, Placeholder
from dtrain.ops.late import Late
from dtrain.ops.placement import Placement
from dtrain.passes.step import Step


class FeedSpec(NamedTuple):
    """What is fed for a tensor: its global shape, and where the ranks hold it."""

    tensor: Tensor
    shape: tuple[int, ...]
    placement: Placement


def prune(
    fetches: Sequence[Tensor], targets: Sequence[Operation], feeds: Sequence[FeedSpec], ranks: int
) -> Step:
    """Copy what the fetches and targets need, each fed tensor becoming a Feed, and infer all shapes anew.

    Raises:
        InvalidArgumentError: a placeholder is needed and not fed, or the fed shapes do not fit an op.
    """
    fed = {feed.tensor: i for i, feed in enumerate(feeds)}
    needed = needed_by(fetches, targets, fed)
    graph = Graph()
    tensors: dict[Tensor, Tensor] = {}
    operations: dict[Operation, Operation] = {}
    placements: dict[Tensor, Placement] = {}
    for i, feed in enumerate(feeds):
        kind = Feed(i, feed.shape, feed.tensor.dtype)
        specs = [Spec(feed.shape, feed.tensor.dtype)]
        node = Operation(graph, feed.tensor.op.name, kind, (), (), specs, feed.tensor.op.source)
        graph.operations.append(node)
        tensors[feed.tensor] = node.outputs[0]
        placements[node.outputs[0]] = feed.placement
    for node in sorted(needed, key=lambda n: n.id):
        if isinstance(node.kind, Placeholder):
            if node.outputs[0] in fed:
                operations[node] = tensors[node.outputs[0]].op
                continue
            raise InvalidArgumentError(_not_fed(node))
        if node.kind.only_in:
            raise InvalidArgumentError(f"{node.name}{built(node)}: {node.kind.only_in}.")
        inputs = tuple(tensors[t] for t in node.inputs)
        control = tuple(operations[c] for c in node.control_inputs)
        copy = _at_known_shapes(graph, node, inputs, control)
        operations[node] = copy
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            tensors.setdefault(old, new)
    return Step(
        graph,
        tuple(tensors[t] for t in fetches),
        tuple(operations[o] for o in targets),
        ranks,
        placements,
    )


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


def _at_known_shapes(
    graph: Graph, node: Operation, inputs: tuple[Tensor, ...], control: tuple[Operation, ...]
) -> Operation:
    kind = node.kind.settled(node)
    try:
        if isinstance(kind, Late):  # what its attributes come from is a constant at these shapes
            with graph.as_default():
                kind, inputs = kind.resolve(inputs)
        specs = kind.infer(*(t.spec for t in inputs))
    except GraphError as error:
        operands = " and ".join(f"{t.op.name} {t.spec}" for t in inputs)
        raise InvalidArgumentError(
            f"{node.name}{built(node)} does not fit what is fed: with {operands}, {error}."
        ) from None
    copy = Operation(graph, node.name, kind, inputs, control, specs, node.source)
    graph.operations.append(copy)
    return copy


#: The names that TensorFlow 1's own message uses.
_CLASSIC = {"float32": "float", "float64": "double"}


def _not_fed(node: Operation) -> str:
    kind = node.kind
    assert isinstance(kind, Placeholder)
    return (
        f"You must feed a value for placeholder tensor '{node.name}' with dtype {_classic(kind.dtype)}"
        f"{_with_shape(kind.shape)}: pass feed_dict={{...}} to Session.run{built(node)}."
    )


def _classic(dtype: DType) -> str:
    return _CLASSIC.get(dtype.name, dtype.name)


def _with_shape(shape: Dims) -> str:
    if shape is None:
        return ""
    return " and shape [" + ",".join("?" if d is None else str(d) for d in shape) + "]"
