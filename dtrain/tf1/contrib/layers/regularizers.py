"""Regularizers: functions from a variable to a loss, for get_variable and variable_scope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Tensor, get_collection, get_default_graph
from dtrain.ops import math
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.reduce import reduce_sum

__all__ = [
    "apply_regularization",
    "l1_l2_regularizer",
    "l1_regularizer",
    "l2_regularizer",
    "sum_regularizer",
]

Regularizer = Callable[[Any], Tensor | None]


def l1_regularizer(scale: float, scope: str | None = None) -> Regularizer:
    """scale * sum |w|; scale 0 gives None, no loss at all. Raises GraphError for a scale below 0."""
    _check(scale)
    return lambda w: _named(scope or "l1_regularizer", lambda: scale * reduce_sum(math.abs(w)), scale)


def l2_regularizer(scale: float, scope: str | None = None) -> Regularizer:
    """scale * sum w^2 / 2; scale 0 gives None, no loss at all. Raises GraphError for a scale below 0."""
    _check(scale)
    return lambda w: _named(scope or "l2_regularizer", lambda: scale / 2 * reduce_sum(math.square(w)), scale)


def l1_l2_regularizer(scale_l1: float = 1.0, scale_l2: float = 1.0, scope: str | None = None) -> Regularizer:
    """The sum of both."""
    return sum_regularizer(
        [l1_regularizer(scale_l1), l2_regularizer(scale_l2)], scope=scope or "l1_l2_regularizer"
    )


def sum_regularizer(regularizers: Sequence[Regularizer | None], scope: str | None = None) -> Regularizer:
    """The sum of several."""

    def regularizer(w: Any) -> Tensor | None:
        with get_default_graph().name_scope(scope or "sum_regularizer"):
            losses = [loss for r in regularizers if r is not None and (loss := r(w)) is not None]
            return _total(losses) if losses else None

    return regularizer


def apply_regularization(regularizer: Regularizer, weights_list: Sequence[Any] | None = None) -> Tensor:
    """The sum of a regularizer over weights, by default the collection WEIGHTS; it is collected as a loss."""
    weights = get_collection(GraphKeys.WEIGHTS) if weights_list is None else weights_list
    if not weights:
        raise GraphError("apply_regularization: there are no weights to regularize.")
    losses = [loss for w in weights if (loss := regularizer(w)) is not None]
    total = _total(losses) if losses else convert_to_tensor(0.0)
    get_default_graph().add_to_collection(GraphKeys.REGULARIZATION_LOSSES, total)
    return total


def _check(scale: float) -> None:
    if not isinstance(scale, Real) or scale < 0:
        raise GraphError(f"a regularizer's scale is a number of 0 or more, and {scale!r} is given.")


def _named(name: str, build: Callable[[], Tensor], scale: float) -> Tensor | None:
    if scale == 0:
        return None
    with get_default_graph().name_scope(name):
        return build()


def _total(losses: Sequence[Tensor]) -> Tensor:
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total
