"""The global step: the variable that counts the training steps, found by its collection or name."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import bool_
from dtrain.graph.graph import Graph, get_default_graph
from dtrain.ops.state import Variable


def get_global_step(graph: Graph | None = None) -> Variable | None:
    """The graph's global step, or None.

    It is the variable in the collection GLOBAL_STEP or, where that is empty, the one called global_step.

    Args:
        graph: by default the default graph.

    Returns:
        Variable: the global step or None.

    Raises:
        UsageError: the collection holds several, or it is not a scalar number.
    """
    graph = graph if graph is not None else get_default_graph()
    found = graph.get_collection(GraphKeys.GLOBAL_STEP)
    if len(found) > 1:
        names = ", ".join(v.name for v in found)
        raise UsageError(f"the graph has several global steps, {names}, and may have one.")
    if not found:
        variables = graph.get_collection(GraphKeys.GLOBAL_VARIABLES)
        found = [v for v in variables if v.op.name == "global_step"][:1]
    if not found:
        return None
    (step,) = found
    # TensorFlow's Supervisor takes one of floats
    if step.dtype == bool_ or step.value().spec.shape != ():
        raise UsageError(
            f"the global step {step.name} is {step.dtype.name}{step.shape}; it has to be a scalar number."
        )
    return step


def create_global_step(graph: Graph | None = None) -> Variable:
    """Make the graph's global step: a variable global_step, int64, not trainable, initially 0.

    Args:
        graph: by default the default graph.

    Returns:
        Variable: the global step.

    Raises:
        UsageError: there is one already.
    """
    graph = graph if graph is not None else get_default_graph()
    if get_global_step(graph) is not None:
        raise UsageError("the graph has a global step already: get_or_create_global_step() gives it.")
    with graph.as_default(), graph.name_scope(None):
        step = Variable(np.int64(0), trainable=False, name="global_step")
    graph.add_to_collection(GraphKeys.GLOBAL_STEP, step)
    return step


def get_or_create_global_step(graph: Graph | None = None) -> Variable:
    """The graph's global step, made if there is none.

    Args:
        graph: by default the default graph.

    Returns:
        Variable: the global step.

    Raises:
        UsageError: what is there is not an integer scalar.
    """
    graph = graph if graph is not None else get_default_graph()
    with graph.lock:
        found = get_global_step(graph)
        return found if found is not None else create_global_step(graph)


def global_step(sess: Any, global_step_tensor: Any) -> int:
    """The value of a global step in a session, an int.

    Args:
        sess: the session.
        global_step_tensor: the variable or tensor.
    """
    return int(sess.run(global_step_tensor))
