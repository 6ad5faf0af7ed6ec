"""tf.graph_util: a graph with its variables' values as constants, and what some nodes need of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.graph_def import GraphDef, NodeDef, packed
from dtrain.names import module_getattr
from dtrain.ops.base import Const, Value
from dtrain.ops.state import VariableOp

__all__ = [
    "convert_variables_to_constants",
    "extract_sub_graph",
    "remove_training_nodes",
]

__getattr__ = module_getattr("tf.graph_util")


def extract_sub_graph(graph_def: GraphDef, dest_nodes: Sequence[str]) -> GraphDef:
    """The nodes that some need, in their order. Raises GraphError, an AssertionError in TensorFlow's, for a
    name that no node has."""
    if isinstance(dest_nodes, str):
        raise GraphError("extract_sub_graph: dest_nodes is a list of names.")
    nodes = {node.name: node for node in graph_def.node}
    needed, stack = set[str](), list(dest_nodes)
    while stack:
        name = stack.pop().lstrip("^").partition(":")[0]
        if name not in nodes:
            raise GraphError(f"{name} is not in the graph.")
        if name not in needed:
            needed.add(name)
            stack += [*nodes[name].input, *_inside(nodes[name])]
    return GraphDef([node for node in graph_def.node if node.name in needed])


def _inside(node: NodeDef) -> list[str]:
    """The operations that a loop or a branch consists of."""
    forms = [packed(value) for value in node.attr.values()]
    bodies = [form["body"] for form in forms if isinstance(form, dict) and "body" in form]
    ends = [form for formals, results, _ in bodies for form in (*formals["tuple"], *results["tuple"])]
    return [*(form["tensor"] for form in ends), *(name for _, _, names in bodies for name in names)]


def convert_variables_to_constants(
    sess: Any,
    input_graph_def: GraphDef,
    output_node_names: Sequence[str],
    variable_names_whitelist: Iterable[str] | None = None,
    variable_names_blacklist: Iterable[str] | None = None,
) -> GraphDef:
    """What some nodes need, with the values that variables have in a session as constants. Collective.

    variable_names_whitelist: only these become constants; variable_names_blacklist: these do not.

    Raises:
        GraphError: there is no node of such a name.
        FailedPreconditionError: a variable has no value.
    """
    needed = extract_sub_graph(input_graph_def, output_node_names)
    only = None if variable_names_whitelist is None else set(variable_names_whitelist)
    besides = set(variable_names_blacklist or ())
    names = [
        node.name
        for node in needed.node
        if node.op == VariableOp.__name__ and (only is None or node.name in only) and node.name not in besides
    ]
    values = dict(zip(names, sess.run([f"{name}:0" for name in names]), strict=True))
    return GraphDef([_constant(n, values[n.name]) if n.name in values else n for n in needed.node])


def _constant(node: NodeDef, value: Any) -> NodeDef:
    kept = {key: item for key, item in node.attr.items() if key[0] == "_"}
    return NodeDef(node.name, Const.__name__, [], {"value": Value(np.asarray(value)), **kept})


def remove_training_nodes(input_graph: GraphDef, protected_nodes: Sequence[str] | None = None) -> GraphDef:
    """The graph without nodes that only pass a tensor on, but for the protected ones."""
    protected = set(protected_nodes or ())
    passed = {
        node.name: node.input[0]
        for node in input_graph.node
        if node.op == "Identity" and len(node.input) == 1 and node.name not in protected
    }

    def source(name: str) -> str:
        while name.removesuffix(":0") in passed:
            name = passed[name.removesuffix(":0")]
        return name

    return GraphDef(
        [
            NodeDef(node.name, node.op, [source(name) for name in node.input], node.attr)
            for node in input_graph.node
            if node.name not in passed or any(f"^{node.name}" in other.input for other in input_graph.node)
        ]
    )
