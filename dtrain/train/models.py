"""The models that `dtrain train` knows, written as a user would write them."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import dtrain as dt


def dense(
    x: dt.Tensor, units: int, name: str, activation: Callable[..., dt.Tensor] | None = None
) -> dt.Tensor:
    """A fully connected layer: [n, inputs] -> [n, units]; He's initialisation (He et al. 2015)."""
    inputs = x.shape[1]
    with dt.name_scope(name):
        kernel = dt.Variable(dt.truncated_normal([inputs, units], stddev=sqrt(2 / inputs)), name="kernel")
        bias = dt.Variable(dt.zeros([units]), name="bias")
        y = dt.matmul(x, kernel) + bias
        return activation(y) if activation else y


def logistic(x: dt.Tensor) -> dt.Tensor:
    """784-10: multinomial logistic regression; returns the logits."""
    return dense(x, 10, "logits")


def mlp(x: dt.Tensor) -> dt.Tensor:
    """784-256-256-10 with ReLU; returns the logits."""
    x = dense(x, 256, "hidden_1", dt.nn.relu)
    x = dense(x, 256, "hidden_2", dt.nn.relu)
    return dense(x, 10, "logits")


MODELS = {"logistic": logistic, "mlp": mlp}
