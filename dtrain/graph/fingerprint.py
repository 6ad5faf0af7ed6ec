"""A digest of a graph: equal on ranks that are about to do the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from dtrain.graph.graph import Operation


def fingerprint(operations: Iterable[Operation]) -> str:
    """Hex digest of the nodes in order: names, kinds with their attributes, inputs, specs.

    Of a constant that counts on rank 0 only, such as weights drawn by NumPy, the value is left out.
    """
    digest = hashlib.sha256()
    for line in lines(operations):
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def lines(operations: Iterable[Operation]) -> list[str]:
    """What a fingerprint is made of, a line a node."""
    operations = list(operations)
    counts = _count_everywhere(operations)
    return [
        repr(
            (
                node.name,
                repr(node.kind) if node.inputs or node in counts else node.type,
                [t.name for t in node.inputs],
                [c.name for c in node.control_inputs],
                [str(t.spec) for t in node.outputs],
            )
        )
        for node in operations
    ]


def _count_everywhere(operations: list[Operation]) -> set[Operation]:
    """The nodes whose values reach more than inputs that are rank 0's anyway."""
    used = {tensor.op for node in operations for tensor in node.inputs}
    counts = {node for node in operations if node not in used}
    for node in reversed(operations):
        if node in counts or node.kind.writes:
            counts.update(t.op for i, t in enumerate(node.inputs) if i not in node.kind.from_rank_0)
    return counts
