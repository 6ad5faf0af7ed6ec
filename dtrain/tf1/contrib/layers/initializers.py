"""Initializers of tf.contrib.layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.shape import as_dims, is_static
from dtrain.ops.initializers import fans
from dtrain.ops.random import random_uniform, truncated_normal

__all__ = ["variance_scaling_initializer", "xavier_initializer", "xavier_initializer_conv2d"]


def variance_scaling_initializer(
    factor: float = 2.0,
    mode: str = "FAN_IN",
    uniform: bool = False,
    seed: int | None = None,
    dtype: Any = "float32",
) -> Callable[..., Any]:
    """Random values whose variance is factor / n: of He et al. 2015 by default.

    n is the number of inputs (FAN_IN), of outputs (FAN_OUT) or the mean of both (FAN_AVG) of one unit. Normal
    values are cut off at two standard deviations of sqrt(1.3 * factor / n).

    Raises:
        GraphError: mode is none of these; when called, the shape has unknown sizes.
    """
    if mode not in ("FAN_IN", "FAN_OUT", "FAN_AVG"):
        raise GraphError(f"variance_scaling_initializer: mode {mode!r} is none of FAN_IN, FAN_OUT, FAN_AVG.")
    own = dtype

    def initializer(shape: Any, dtype: Any = None, partition_info: None = None) -> Any:
        dims = as_dims(shape)
        if not is_static(dims):
            raise GraphError(f"variance_scaling_initializer: the shape {shape} has unknown sizes.")
        inputs, outputs = fans(dims)
        n = {"FAN_IN": inputs, "FAN_OUT": outputs, "FAN_AVG": (inputs + outputs) / 2}[mode]
        kind = dtype or own
        if uniform:
            limit = math.sqrt(3.0 * factor / n)
            return random_uniform(dims, -limit, limit, kind, seed)
        return truncated_normal(dims, 0.0, math.sqrt(1.3 * factor / n), kind, seed)

    return initializer


def xavier_initializer(
    uniform: bool = True, seed: int | None = None, dtype: Any = "float32"
) -> Callable[..., Any]:
    """Glorot & Bengio 2010: variance_scaling_initializer(1.0, 'FAN_AVG', uniform)."""
    return variance_scaling_initializer(1.0, "FAN_AVG", uniform, seed, dtype)


xavier_initializer_conv2d = xavier_initializer
