"""What a legal graph is, as code: tests run it after every pass."""

from __future__ import annotations

from collections.abc import Iterable

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation


def check(operations: Iterable[Operation]) -> None:
    """Assert that each node follows what it depends on, and that its specs are what its op infers."""
    made: set[object] = set()
    for node in operations:
        for tensor in node.inputs:
            assert tensor in made, f"{node.name} reads {tensor.name}, which nothing before it makes"
            assert tensor.graph is node.graph, f"{node.name} reads {tensor.name} of another graph"
        for operation in node.control_inputs:
            assert operation in made, f"{node.name} waits for {operation.name}, which does not come before it"
        try:
            inferred = list(node.kind.infer(*(t.spec for t in node.inputs)))
        except GraphError as error:
            raise AssertionError(f"{node.name} does not fit its inputs: {error}") from error
        assert [t.spec for t in node.outputs] == inferred, (
            f"{node.name} says {node.outputs}, infers {inferred}"
        )
        made.add(node)
        made.update(node.outputs)
