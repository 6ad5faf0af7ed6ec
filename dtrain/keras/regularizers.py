"""Regularizers: what a layer's weights add to the loss."""

from __future__ import annotations

from typing import Any

from dtrain.errors import UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras.names import Names, as_data
from dtrain.names import module_getattr
from dtrain.ops import math
from dtrain.ops.base import constant
from dtrain.ops.reduce import reduce_sum

__all__ = [
    "L1L2",
    "ActivityRegularizer",
    "Regularizer",
    "WeightRegularizer",
    "activity_l1",
    "activity_l1l2",
    "activity_l2",
    "deserialize",
    "get",
    "l1",
    "l1_l2",
    "l1l2",
    "l2",
    "serialize",
]

__getattr__ = module_getattr("tf.keras.regularizers")


class Regularizer:
    """Base of custom regularizers: called on a weight, or on a layer's output, it gives what to add."""

    def __call__(self, x: Any) -> Any:
        return 0.0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


class L1L2(Regularizer):
    """l1 * sum |w| + l2 * sum w^2, once a step however many ranks or examples there are.

    Raises:
        UsageError: a factor is negative.
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        if not (l1 >= 0 and l2 >= 0):
            raise UsageError(f"a regularizer's factors are 0 or more, and l1={l1}, l2={l2} are given.")
        self.l1, self.l2 = float(l1), float(l2)

    def __call__(self, weight: Any) -> Tensor:
        terms = []
        if self.l1:
            terms.append(self.l1 * reduce_sum(math.abs(weight)))
        if self.l2:
            terms.append(self.l2 * reduce_sum(math.square(weight)))
        return math.add_n(terms) if terms else constant(0.0)

    def get_config(self) -> dict[str, float]:
        return {"l1": self.l1, "l2": self.l2}


def l1(l: float = 0.01) -> L1L2:  # noqa: E741 - Keras's own name
    """l * sum |w|."""
    return L1L2(l1=l)


def l2(l: float = 0.01) -> L1L2:  # noqa: E741
    """l * sum w^2."""
    return L1L2(l2=l)


l1_l2 = L1L2  # both, by default 0 as in Keras 3

# Keras 1's names: one and the same for weights and for outputs
WeightRegularizer = ActivityRegularizer = L1L2
activity_l1, activity_l2 = l1, l2


def l1l2(l1: float = 0.01, l2: float = 0.01) -> L1L2:
    """l1 * sum |w| + l2 * sum w^2, as Keras 1 has it."""
    return L1L2(l1, l2)


activity_l1l2 = l1l2


_NAMES = Names(
    "regularizer",
    {
        "L1L2": L1L2,
        "l1": l1,
        "l2": l2,
        "l1_l2": l1_l2,
        "l1l2": l1l2,
        "activity_l1": activity_l1,
        "activity_l2": activity_l2,
        "activity_l1l2": activity_l1l2,
    },
)


def get(identifier: Any) -> Any:
    """The regularizer of a name, or the function from a weight to a loss; raises UsageError for others."""
    return _NAMES.get(identifier)


deserialize, serialize = get, as_data
