"""What a session feeds by itself: elements of data sets and queues, and what Python computes of them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from dtrain.errors import InvalidArgumentError
from dtrain.graph.graph import Graph, Operation, Tensor
from dtrain.ops.base import Placeholder
from dtrain.ops.python import computed
from dtrain.ops.sources import SOURCES, Put, Start, Taken
from dtrain.runtime.batch import Batch
from dtrain.runtime.feeds import as_fed


class Taking:
    """What a run takes from the sources of its graph: tensors to feed, and where their values come from.

    What Python computes of them (ops/python.py) is computed here, too, and fed.
    """

    def __init__(self, graph: Graph, needed: set[Operation], fed: Container[Tensor]) -> None:
        self._sources = graph.kept.get(SOURCES, {})
        ordered = sorted(needed, key=lambda node: node.id)
        self._starts = [node.kind for node in ordered if isinstance(node.kind, Start)]
        self._puts = [node.kind for node in ordered if isinstance(node.kind, Put)]
        #: What the run has to compute besides, to hand it to queues.
        self.fetched = tuple(graph.get_tensor_by_name(name) for kind in self._puts for name in kind.tensors)
        self._takes = [n for n in ordered if isinstance(n.kind, Taken) and n.outputs[0] not in fed]
        #: Ops in Python's hands, with what they follow from.
        self._computes: list[Operation] = []
        known = {n.outputs[0] for n in ordered if n.outputs and isinstance(n.kind, Taken | Placeholder)}
        for node in ordered:
            if not node.outputs or node.outputs[0] in known or node.outputs[0] in fed:
                continue
            able = bool(node.kind.only_in) or not node.kind.stateful
            if able and all(t in known or t in fed for t in node.inputs):
                known.update(node.outputs)
                self._computes.append(node)
        self._computes = _before(self._computes, [n for n in ordered if n.kind.only_in])
        hosted = [n for n in self._computes if n.kind.only_in]
        self.tensors = tuple(t for node in (*self._takes, *hosted) for t in node.outputs)

    def __bool__(self) -> bool:
        return bool(self._starts or self.tensors or self._puts)

    def values(self, session: Any, feeds: Mapping[Tensor, Any]) -> list[Any]:
        """The values of `tensors`: one element of each source for each call. Raises OutOfRangeError."""
        for kind in self._starts:
            self._sources[kind.source].start(session, feeds, kind.argument)
        elements: dict[int, Sequence[Any]] = {}
        values = dict(feeds)
        for node in self._takes:
            taken: Any = node.kind
            if taken.call not in elements:
                source = self._sources[taken.source]
                elements[taken.call] = source.take(session, feeds, taken.argument)
            values[node.outputs[0]] = elements[taken.call][taken.part]
        for node in self._computes:
            missing = [t for t in node.inputs if t not in values]
            if missing:
                name = missing[0].op.name
                raise InvalidArgumentError(f"You must feed a value for placeholder tensor '{name}'.")
            given = [values[t] for t in node.inputs]
            results = computed(node.kind, [as_fed(t, v) for t, v in zip(node.inputs, given, strict=True)])
            rows = any(isinstance(v, Batch) for v in given)
            for tensor, value in zip(node.outputs, results, strict=True):
                fits = rows and value.ndim and value.dtype != object
                values[tensor] = value.view(Batch) if fits else value
        return [values[t] for t in self.tensors]

    def put(self, session: Any, values: Sequence[Any]) -> None:
        """Hand the values of `fetched` to where they go, after the run."""
        rest = iter(values)
        for kind in self._puts:
            self._sources[kind.source].put(session, [next(rest) for _ in kind.tensors], kind.argument)


def _before(nodes: Sequence[Operation], wanted: Sequence[Operation]) -> list[Operation]:
    """Those of the nodes, in order, that the wanted ones follow from, and these."""
    keep: set[Operation] = set(wanted)
    for node in reversed(nodes):
        if node in keep:
            keep.update(t.op for t in node.inputs)
    return [node for node in nodes if node in keep]
