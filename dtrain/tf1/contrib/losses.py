"""tf.contrib.losses: the losses, with predictions before labels, as they were before tf.losses."""

from __future__ import annotations

from typing import Any

from dtrain import losses
from dtrain.graph.graph import Tensor
from dtrain.losses import (
    add_loss,
    compute_weighted_loss,
    get_losses,
    get_regularization_losses,
    get_total_loss,
)
from dtrain.names import module_getattr

__all__ = [
    "absolute_difference",
    "add_loss",
    "compute_weighted_loss",
    "get_losses",
    "get_regularization_losses",
    "get_total_loss",
    "hinge_loss",
    "log_loss",
    "mean_squared_error",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "sparse_softmax_cross_entropy",
]

__getattr__ = module_getattr("tf.contrib.losses")


def absolute_difference(
    predictions: Any, labels: Any, weights: Any = 1.0, scope: str | None = None
) -> Tensor:
    """tf.losses.absolute_difference."""
    return losses.absolute_difference(labels, predictions, weights, scope)


def mean_squared_error(predictions: Any, labels: Any, weights: Any = 1.0, scope: str | None = None) -> Tensor:
    """tf.losses.mean_squared_error."""
    return losses.mean_squared_error(labels, predictions, weights, scope)


def hinge_loss(logits: Any, labels: Any, scope: str | None = None) -> Tensor:
    """The losses [n, ...] of tf.losses.hinge_loss, one an entry and not collected."""
    return losses.hinge_loss(labels, logits, 1.0, scope, None, losses.Reduction.NONE)


def log_loss(
    predictions: Any, labels: Any, weights: Any = 1.0, epsilon: float = 1e-7, scope: str | None = None
) -> Tensor:
    """tf.losses.log_loss."""
    return losses.log_loss(labels, predictions, weights, epsilon, scope)


def sigmoid_cross_entropy(
    logits: Any,
    multi_class_labels: Any,
    weights: Any = 1.0,
    label_smoothing: float = 0,
    scope: str | None = None,
) -> Tensor:
    """tf.losses.sigmoid_cross_entropy."""
    return losses.sigmoid_cross_entropy(multi_class_labels, logits, weights, label_smoothing, scope)


def softmax_cross_entropy(
    logits: Any, onehot_labels: Any, weights: Any = 1.0, label_smoothing: float = 0, scope: str | None = None
) -> Tensor:
    """tf.losses.softmax_cross_entropy."""
    return losses.softmax_cross_entropy(onehot_labels, logits, weights, label_smoothing, scope)


def sparse_softmax_cross_entropy(
    logits: Any, labels: Any, weights: Any = 1.0, scope: str | None = None
) -> Tensor:
    """tf.losses.sparse_softmax_cross_entropy."""
    return losses.sparse_softmax_cross_entropy(labels, logits, weights, scope)
