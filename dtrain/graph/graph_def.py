"""A graph as plain data: what TensorFlow 1's GraphDef shows, without protocol buffers.

As bytes it is JSON of dtrain's own, which TensorFlow does not read: nothing in it is executed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import InvalidArgumentError
from dtrain.graph.dtypes import DType, as_dtype
from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import TensorShape

FORMAT = "dtrain graph 1"
#: Under this name a graph keeps the scalar placeholders that sizes, branches and numbers of steps are made
#: of: a plan is for their values.
DECIDERS = "deciders"


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

    def SerializeToString(self) -> bytes:
        """The graph as bytes. What only Python has, such as a function, is named there, not kept."""
        nodes = [[n.name, n.op, list(n.input), {k: packed(v) for k, v in n.attr.items()}] for n in self.node]
        return json.dumps({"format": FORMAT, "nodes": nodes}).encode()

    def ParseFromString(self, serialized: bytes) -> int:
        """Take the operations of what SerializeToString gave; returns how many bytes that were.

        Raises:
            InvalidArgumentError: it is something else, such as a graph of TensorFlow's.
        """
        try:
            content = json.loads(serialized)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            nodes = [
                NodeDef(name, op, list(inputs), {k: unpacked(v) for k, v in attr.items()})
                for name, op, inputs, attr in content["nodes"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgumentError(
                f"this is no graph that dtrain wrote ({error}); those of TensorFlow are not read."
            ) from None
        self.node[:] = nodes
        return len(serialized)

    @classmethod
    def FromString(cls, serialized: bytes) -> GraphDef:
        """A new one of what SerializeToString gave."""
        definition = cls()
        definition.ParseFromString(serialized)
        return definition


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
    if not operation.graph.kept.get(DECIDERS, set()).isdisjoint(operation.outputs):
        attr["_decides"] = True
    return NodeDef(operation.name, operation.type, inputs, attr)


def _input_name(tensor: Tensor) -> str:
    """As in TensorFlow 1: an operation's first output goes by the operation's name."""
    return tensor.op.name if tensor.index == 0 else tensor.name


# -- attributes as JSON ------------------------------------------------------------------------------------
class Packed(NamedTuple):
    """An attribute as it was stored, where its type is one of the ops' own: its kind, and the content."""

    kind: str
    content: Any


def packed(value: Any) -> Any:
    """A value of an attribute in lists, dicts of one key, numbers and texts."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.generic():
            return value.item()
        case Packed():
            return {value.kind: value.content}
        case DType():
            return {"dtype": value.name}
        case TensorShape():
            return {"shape": value.dims if value.dims is None else list(value.dims)}
        case Tensor() | Operation():
            return {"tensor" if isinstance(value, Tensor) else "operation": value.name}
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case np.ndarray() if value.dtype != object:
            data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            return {"array": [value.dtype.str, list(value.shape), data]}
        case np.ndarray():
            return {"texts": [list(value.shape), [packed(item) for item in value.ravel()]]}
        case list():
            return [packed(item) for item in value]
        case tuple() if hasattr(value, "_fields"):
            return {"named": [type(value).__name__, [packed(item) for item in value]]}
        case tuple():
            return {"tuple": [packed(item) for item in value]}
    if value is Ellipsis:
        return {"ellipsis": 0}
    if hasattr(value, "array"):
        return {"value": packed(value.array)}
    if hasattr(value, "formals"):
        return {"body": [packed(value.formals), packed(value.results), [n.name for n in value.nodes]]}
    if hasattr(value, "infer"):
        return {"op": [type(value).__name__, {name: packed(item) for name, item in vars(value).items()}]}
    return {"python": type(value).__name__}


def unpacked(form: Any, make: Callable[[str, Any], Any] = Packed) -> Any:
    """What packed made the form of; make(kind, content) of what is the ops' own."""
    if isinstance(form, list):
        return [unpacked(item, make) for item in form]
    if not isinstance(form, dict):
        return form
    ((kind, content),) = form.items()
    match kind:
        case "dtype":
            return as_dtype(content)
        case "shape":
            return TensorShape(None if content is None else tuple(content))
        case "bytes":
            return base64.b64decode(content)
        case "array":
            dtype, shape, data = content
            return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)
        case "texts":
            shape, items = content
            array = np.empty(len(items), object)
            array[:] = [unpacked(item, make) for item in items]
            return array.reshape(shape)
        case "tuple":
            return tuple(unpacked(item, make) for item in content)
        case "ellipsis":
            return Ellipsis
    return make(kind, content)
