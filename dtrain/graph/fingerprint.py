"""A digest of a graph: equal on ranks that are about to do the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from dtrain.graph.graph import Operation


def fingerprint(operations: Iterable[Operation]) -> str:
    """Hex digest of the nodes in order: names, kinds with their attributes, inputs, specs."""
    digest = hashlib.sha256()
    for node in operations:
        line = (
            node.name,
            repr(node.kind),
            [t.name for t in node.inputs],
            [c.name for c in node.control_inputs],
            [str(t.spec) for t in node.outputs],
        )
        digest.update(repr(line).encode())
    return digest.hexdigest()[:16]
