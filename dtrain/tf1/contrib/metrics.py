"""tf.contrib.metrics: tf.metrics under their first names, predictions before labels."""

from __future__ import annotations

from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.dtypes import float32
from dtrain.graph.graph import Tensor
from dtrain.names import module_getattr
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.math import cast, equal
from dtrain.ops.reduce import reduce_mean, reduce_sum
from dtrain.ops.tensors import confusion_matrix
from dtrain.tf1 import metrics
from dtrain.tf1.metrics import Metric

__all__ = [
    "accuracy",
    "aggregate_metric_map",
    "aggregate_metrics",
    "confusion_matrix",
    "streaming_accuracy",
    "streaming_auc",
    "streaming_mean",
    "streaming_mean_absolute_error",
    "streaming_mean_squared_error",
    "streaming_precision",
    "streaming_recall",
    "streaming_root_mean_squared_error",
]

__getattr__ = module_getattr("tf.contrib.metrics")

streaming_mean = metrics.mean


def accuracy(predictions: Any, labels: Any, weights: Any = None, name: str | None = None) -> Tensor:
    """How often predictions are the labels, in this run."""
    right = cast(equal(convert_to_tensor(predictions), labels), float32)
    if weights is None:
        return reduce_mean(right)
    weights = cast(weights, float32)
    return reduce_sum(right * weights) / reduce_sum(right * 0.0 + weights)


def aggregate_metrics(*value_update_tuples: Any) -> tuple[list[Any], list[Any]]:
    """The values and the updates of metrics."""
    if not value_update_tuples:
        raise GraphError("aggregate_metrics: give at least one metric.")
    values, updates = zip(*value_update_tuples, strict=True)
    return list(values), list(updates)


def aggregate_metric_map(names_to_tuples: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values and the updates of metrics, each by name."""
    pairs = dict(names_to_tuples).items()
    return {name: pair[0] for name, pair in pairs}, {name: pair[1] for name, pair in pairs}


def streaming_accuracy(predictions: Any, labels: Any, *args: Any, **named: Any) -> Metric:
    """metrics.accuracy."""
    return metrics.accuracy(labels, predictions, *args, **named)


def streaming_auc(predictions: Any, labels: Any, *args: Any, **named: Any) -> Metric:
    """metrics.auc."""
    return metrics.auc(labels, predictions, *args, **named)


def streaming_mean_absolute_error(predictions: Any, labels: Any, *args: Any, **named: Any) -> Metric:
    """metrics.mean_absolute_error."""
    return metrics.mean_absolute_error(labels, predictions, *args, **named)


def streaming_mean_squared_error(predictions: Any, labels: Any, *args: Any, **named: Any) -> Metric:
    """metrics.mean_squared_error."""
    return metrics.mean_squared_error(labels, predictions, *args, **named)


def streaming_precision(predictions: Any, labels: Any, *args: Any, **named: Any) -> Metric:
    """metrics.precision."""
    return metrics.precision(labels, predictions, *args, **named)


def streaming_recall(predictions: Any, labels: Any, *args: Any, **named: Any) -> Metric:
    """metrics.recall."""
    return metrics.recall(labels, predictions, *args, **named)


def streaming_root_mean_squared_error(predictions: Any, labels: Any, *args: Any, **named: Any) -> Metric:
    """metrics.root_mean_squared_error."""
    return metrics.root_mean_squared_error(labels, predictions, *args, **named)
