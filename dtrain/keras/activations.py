"""Activations: functions of a tensor, which layers take by name or as they are."""

from __future__ import annotations

from typing import Any

from dtrain.graph.graph import Tensor
from dtrain.keras.names import Names, as_data
from dtrain.names import module_getattr
from dtrain.ops import math, nn
from dtrain.ops.logic import where

__all__ = [
    "deserialize",
    "elu",
    "exponential",
    "get",
    "hard_sigmoid",
    "linear",
    "relu",
    "selu",
    "serialize",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "swish",
    "tanh",
]

__getattr__ = module_getattr("tf.keras.activations")


def linear(x: Tensor) -> Tensor:
    """x itself."""
    return x


def relu(x: Tensor, alpha: float = 0.0, max_value: float | None = None) -> Tensor:
    """max(x, 0); alpha is the slope below 0, max_value what it is cut off at."""
    y = nn.leaky_relu(x, alpha) if alpha else nn.relu(x)
    return y if max_value is None else math.minimum(y, max_value)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return math.sigmoid(x)


def hard_sigmoid(x: Tensor) -> Tensor:
    """x / 6 + 0.5, cut off at 0 and 1, as in Keras 3; Keras 2 had 0.2 x + 0.5."""
    return nn.relu6(x + 3) / 6


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) over its sum along an axis."""
    return nn.softmax(x, axis)


def exponential(x: Tensor) -> Tensor:
    """exp(x)."""
    return math.exp(x)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha (exp(x) - 1)."""
    y = nn.elu(x)
    return y if alpha == 1 else where(math.greater(x, 0), y, alpha * y)


def selu(x: Tensor) -> Tensor:
    """The scaled elu of Klambauer et al. 2017."""
    return nn.selu(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return nn.softplus(x)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return nn.softsign(x)


def swish(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return nn.swish(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return math.tanh(x)


_NAMES = Names(
    "activation",
    {name: globals()[name] for name in __all__ if name not in ("get", "deserialize", "serialize")},
    made=True,
)


def get(identifier: Any) -> Any:
    """The function of a name; None is linear. Raises UsageError for a name that is not there."""
    return linear if identifier is None else _NAMES.get(identifier)


deserialize, serialize = get, as_data
