"""tensorflow.python.layers.utils: branches that are chosen while the graph is built, where they can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.tf1.layers.base import chosen, fixed

__all__ = ["constant_value", "smart_cond"]


def constant_value(pred: Any) -> bool | None:
    """Whether a boolean or a tensor is true, where that is known before a run; else None."""
    return fixed(pred)


def smart_cond(pred: Any, fn1: Callable[[], Any], fn2: Callable[[], Any], name: str | None = None) -> Any:
    """fn1() where pred is true, else fn2(); where the run decides, both are computed."""
    return chosen(pred, fn1, fn2)
