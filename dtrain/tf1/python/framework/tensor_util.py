"""tensorflow.python.framework.tensor_util: what is known of a tensor before a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from dtrain.graph.graph import TensorLike
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.late import known_value

__all__ = ["constant_value", "is_tensor"]


def constant_value(tensor: Any, partial: bool = False) -> np.ndarray | None:
    """The value of a tensor that follows from constants and known shapes, else None."""
    value = known_value(convert_to_tensor(tensor))
    return None if value is None or (value.dtype == object and None in value) else value


def is_tensor(x: Any) -> bool:
    """Whether it is a tensor or variable of a graph."""
    return isinstance(x, TensorLike)
