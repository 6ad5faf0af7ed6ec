"""A graph as plain data: what TensorFlow 1's GraphDef shows, without protocol buffers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dtrain.graph.graph import Operation, Tensor


@dataclass(frozen=True)
class NodeDef:
    """One operation of a GraphDef.

    Args:
        name: the operation's name.
        op: the name of its op.
        input: names of its inputs; '^name' is a control dependency.
        attr: its attributes.
    """

    name: str
    op: str
    input: list[str]
    attr: dict[str, Any]

    def __str__(self) -> str:
        lines = [f'name: "{self.name}"', f'op: "{self.op}"']
        lines += [f'input: "{name}"' for name in self.input]
        for key, value in self.attr.items():
            lines += ["attr {", f'  key: "{key}"', f"  value: {value!r}", "}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class GraphDef:
    """All operations of a graph, in the order in which they were made.

    Args:
        node: a NodeDef for each operation.
    """

    node: list[NodeDef] = field(default_factory=list)

    def __str__(self) -> str:
        parts = []
        for node in self.node:
            inner = "\n".join(f"  {line}" for line in str(node).splitlines())
            parts.append(f"node {{\n{inner}\n}}")
        return "\n".join(parts)


def graph_def_of(operations: Iterable[Operation]) -> GraphDef:
    """The operations as a GraphDef."""
    return GraphDef([node_def_of(operation) for operation in operations])


def node_def_of(operation: Operation) -> NodeDef:
    """One operation as a NodeDef; attr holds the op's own attributes and the outputs' shapes and dtypes."""
    inputs = [_input_name(t) for t in operation.inputs]
    inputs += [f"^{c.name}" for c in operation.control_inputs]
    kind = operation.kind
    attr = dict(vars(kind))
    attr["_output_shapes"] = [t.shape for t in operation.outputs]
    attr["_output_dtypes"] = [t.dtype.name for t in operation.outputs]
    return NodeDef(operation.name, operation.type, inputs, attr)


def _input_name(tensor: Tensor) -> str:
    """As in TensorFlow 1: an operation's first output goes by the operation's name."""
    return tensor.op.name if tensor.index == 0 else tensor.name
