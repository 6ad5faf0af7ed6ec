"""Collections: named lists that a graph carries, such as its variables or its summaries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


class GraphKeys:
    """Names of the collections that dtrain fills or reads, and of some that programs fill."""

    GLOBAL_VARIABLES = "variables"
    LOCAL_VARIABLES = "local_variables"
    MODEL_VARIABLES = "model_variables"
    TRAINABLE_VARIABLES = "trainable_variables"
    MOVING_AVERAGE_VARIABLES = "moving_average_variables"
    SUMMARIES = "summaries"
    REGULARIZATION_LOSSES = "regularization_losses"
    LOSSES = "losses"
    UPDATE_OPS = "update_ops"
    TRAIN_OP = "train_op"
    GLOBAL_STEP = "global_step"
    WEIGHTS = "weights"
    BIASES = "biases"
    ACTIVATIONS = "activations"
    INIT_OP = "init_op"
    SAVERS = "savers"
    EVAL_STEP = "eval_step"
    LOCAL_INIT_OP = "local_init_op"
    QUEUE_RUNNERS = "queue_runners"
    READY_OP = "ready_op"
    SUMMARY_OP = "summary_op"
    TABLE_INITIALIZERS = "table_initializer"


def in_scope(values: Iterable[Any], scope: str | None) -> list[Any]:
    """Those whose name matches the regular expression `scope` at its start; all of them for None."""
    if scope is None:
        return list(values)
    pattern = re.compile(scope)
    return [v for v in values if hasattr(v, "name") and pattern.match(v.name)]
