"""tf.metrics: numbers over all batches so far, as sums in local variables.

Each function returns (value, update_op): update_op adds a batch and gives the number with it, value gives the
number as it stands. The sums are over the whole batch of all ranks. local_variables_initializer begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import bool_, float32
from dtrain.graph.graph import Tensor, get_default_graph
from dtrain.names import module_getattr
from dtrain.ops.array import expand_dims, ones_like, squeeze, zeros
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.index import one_hot
from dtrain.ops.logic import logical_and, logical_not, logical_or, where
from dtrain.ops.math import abs, cast, equal, greater, multiply, sqrt, square
from dtrain.ops.reduce import reduce_mean, reduce_sum
from dtrain.ops.scopes import variable_scope
from dtrain.ops.state import Variable, assign_add
from dtrain.ops.topk import in_top_k

__all__ = [
    "accuracy",
    "auc",
    "false_negatives",
    "false_positives",
    "mean",
    "mean_absolute_error",
    "mean_per_class_accuracy",
    "mean_squared_error",
    "mean_tensor",
    "percentage_below",
    "precision",
    "recall",
    "recall_at_k",
    "root_mean_squared_error",
    "true_negatives",
    "true_positives",
]

__getattr__ = module_getattr("tf.metrics")

#: What a metric gives: the number as it stands, and the number with this batch.
Metric = tuple[Tensor, Tensor]

METRIC_VARIABLES = "metric_variables"


def mean(
    values: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """The mean of values, each of its weight."""
    with variable_scope(name, "mean"):
        values = cast(convert_to_tensor(values), float32)
        return _told(_mean(values, _weights(weights, values)), metrics_collections, updates_collections)


def mean_tensor(
    values: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """The mean of each entry over the batches, which all have one known shape."""
    with variable_scope(name, "mean"):
        values = cast(convert_to_tensor(values), float32)
        weights = _weights(weights, values)
        counted = ones_like(values) if weights is None else ones_like(values) * weights
        weighted = values if weights is None else values * weights
        total, count = _variable("total_tensor", values.shape), _variable("count_tensor", values.shape)
        metric = _over(total, count), _over(assign_add(total, weighted), assign_add(count, counted))
        return _told(metric, metrics_collections, updates_collections)


def accuracy(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """How often predictions are the labels."""
    with variable_scope(name, "accuracy"):
        labels, predictions, weights = _matched(labels, predictions, weights)
        right = cast(equal(cast(predictions, labels.dtype), labels), float32)
        return _told(_mean(right, weights), metrics_collections, updates_collections)


def mean_absolute_error(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """The mean of |predictions - labels|."""
    with variable_scope(name, "mean_absolute_error"):
        labels, predictions, weights = _matched(labels, predictions, weights, float32)
        return _told(_mean(abs(predictions - labels), weights), metrics_collections, updates_collections)


def mean_squared_error(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """The mean of (predictions - labels)^2."""
    with variable_scope(name, "mean_squared_error"):
        labels, predictions, weights = _matched(labels, predictions, weights, float32)
        return _told(_mean(square(labels - predictions), weights), metrics_collections, updates_collections)


def root_mean_squared_error(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """The root of mean_squared_error."""
    with variable_scope(name, "root_mean_squared_error"):
        labels, predictions, weights = _matched(labels, predictions, weights, float32)
        value, update = _mean(square(labels - predictions), weights)
        return _told((sqrt(value), sqrt(update)), metrics_collections, updates_collections)


def percentage_below(
    values: Any,
    threshold: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """How many of the values are below a threshold, from 0 to 1."""
    with variable_scope(name, "percentage_below_threshold"):
        below = cast(greater(threshold, convert_to_tensor(values)), float32)
        return _told(_mean(below, _weights(weights, below)), metrics_collections, updates_collections)


def mean_per_class_accuracy(
    labels: Any,
    predictions: Any,
    num_classes: int,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """The mean over the classes of how often predictions are right of those of the class.

    update_op gives the number of each class.
    """
    with variable_scope(name, "mean_accuracy"):
        labels, predictions, weights = _matched(labels, predictions, weights)
        of_class = one_hot(labels, num_classes)
        right = cast(equal(cast(predictions, labels.dtype), labels), float32)
        if weights is not None:
            of_class = of_class * expand_dims(weights * ones_like(right), -1)
        axes = list(range(len(of_class.spec.shape or ()) - 1))
        count, hits = _variable("total", [num_classes]), _variable("count", [num_classes])
        sums = (
            assign_add(hits, reduce_sum(of_class * expand_dims(right, -1), axes)),
            assign_add(count, reduce_sum(of_class, axes)),
        )
        metric = reduce_mean(_over(hits, count)), _over(*sums)
        return _told(metric, metrics_collections, updates_collections)


def recall_at_k(
    labels: Any,
    predictions: Any,
    k: int,
    class_id: None = None,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """How often the label, one of an example, is among the k classes of the highest predictions.

    Before there are examples it is NaN.
    """
    if class_id is not None:
        raise GraphError("recall_at_k: class_id is not supported; leave it out.")
    with variable_scope(name, f"recall_at_{k}"):
        labels, predictions = convert_to_tensor(labels), convert_to_tensor(predictions)
        if len(labels.spec.shape or ()) == 2:
            labels = squeeze(labels, [1])
        found = in_top_k(predictions, labels, k)
        truth, weights = logical_or(found, True), _weights(weights, found)
        right = _count(truth, found, weights, True, True, f"true_positive_at_{k}")
        missed = _count(truth, found, weights, False, True, f"false_negative_at_{k}")
        metric = right[0] / (right[0] + missed[0]), right[1] / (right[1] + missed[1])
        return _told(metric, metrics_collections, updates_collections)


# -- of true and false ---------------------------------------------------------------------------------
def _counting(name: str, said: bool, is_so: bool) -> Callable[..., Metric]:
    def metric(
        labels: Any,
        predictions: Any,
        weights: Any = None,
        metrics_collections: Any = None,
        updates_collections: Any = None,
        name: str | None = None,
    ) -> Metric:
        with variable_scope(name, default):
            labels, predictions, weights = _matched(labels, predictions, weights, bool_)
            counted = _count(labels, predictions, weights, said, is_so, "count")
            return _told(counted, metrics_collections, updates_collections)

    default = name
    metric.__name__ = metric.__qualname__ = name
    metric.__doc__ = f"How many examples of label {is_so} are predicted {said}, each of its weight."
    return metric


true_positives = _counting("true_positives", True, True)
true_negatives = _counting("true_negatives", False, False)
false_positives = _counting("false_positives", True, False)
false_negatives = _counting("false_negatives", False, True)


def precision(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """How many of those predicted true are true; 0 where none is."""
    with variable_scope(name, "precision"):
        labels, predictions, weights = _matched(labels, predictions, weights, bool_)
        right = _count(labels, predictions, weights, True, True, "true_positives/count")
        wrong = _count(labels, predictions, weights, True, False, "false_positives/count")
        metric = _share(right[0], wrong[0]), _share(right[1], wrong[1])
        return _told(metric, metrics_collections, updates_collections)


def recall(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    name: str | None = None,
) -> Metric:
    """How many of the true ones are predicted true; 0 where none is."""
    with variable_scope(name, "recall"):
        labels, predictions, weights = _matched(labels, predictions, weights, bool_)
        right = _count(labels, predictions, weights, True, True, "true_positives/count")
        missed = _count(labels, predictions, weights, False, True, "false_negatives/count")
        metric = _share(right[0], missed[0]), _share(right[1], missed[1])
        return _told(metric, metrics_collections, updates_collections)


def auc(
    labels: Any,
    predictions: Any,
    weights: Any = None,
    num_thresholds: int = 200,
    metrics_collections: Any = None,
    updates_collections: Any = None,
    curve: str = "ROC",
    name: str | None = None,
    summation_method: str = "trapezoidal",
) -> Metric:
    """The area under the ROC curve, or 'PR', by as many thresholds of the predictions, from 0 to 1."""
    if curve not in ("ROC", "PR"):
        raise GraphError(f"auc: curve is {curve!r}; it is 'ROC' or 'PR'.")
    if summation_method not in ("trapezoidal", "minoring", "majoring"):
        raise GraphError(
            f"auc: summation_method is {summation_method!r}; it is 'trapezoidal', 'minoring' or 'majoring'."
        )
    with variable_scope(name, "auc"):
        labels, predictions, weights = _matched(labels, predictions, weights)
        labels, predictions = cast(labels, bool_), cast(predictions, float32)
        inner = [(i + 1) / (num_thresholds - 1) for i in range(num_thresholds - 2)]
        thresholds = np.array([-1e-7, *inner, 1 + 1e-7], np.float32)
        said, is_so = greater(_beside(predictions), thresholds), _beside(labels)
        if weights is not None:
            weights = _beside(weights * ones_like(predictions))
        axes = list(range(len(said.spec.shape or ()) - 1))

        def counts(name: str, one: Tensor) -> Metric:
            numbers = cast(one, float32) if weights is None else cast(one, float32) * weights
            variable = _variable(name, [num_thresholds])
            return variable.value(), assign_add(variable, reduce_sum(numbers, axes))

        tp = counts("true_positives", logical_and(said, is_so))
        fn = counts("false_negatives", logical_and(logical_not(said), is_so))
        tn = counts("true_negatives", logical_and(logical_not(said), logical_not(is_so)))
        fp = counts("false_positives", logical_and(said, logical_not(is_so)))

        def area(tp: Tensor, fn: Tensor, tn: Tensor, fp: Tensor) -> Tensor:
            recalled = (tp + 1e-6) / (tp + fn + 1e-6)
            if curve == "ROC":
                x, y = fp / (fp + tn + 1e-6), recalled
            else:
                x, y = recalled, (tp + 1e-6) / (tp + fp + 1e-6)
            rules: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
                "trapezoidal": lambda a, b: (a + b) / 2.0,
                "minoring": lambda a, b: where(greater(a, b), b, a),
                "majoring": lambda a, b: where(greater(a, b), a, b),
            }
            return reduce_sum((x[:-1] - x[1:]) * rules[summation_method](y[:-1], y[1:]))

        metric = area(tp[0], fn[0], tn[0], fp[0]), area(tp[1], fn[1], tn[1], fp[1])
        return _told(metric, metrics_collections, updates_collections)


# -- sums ------------------------------------------------------------------------------------------------
def _variable(name: str, shape: Any) -> Variable:
    return Variable(
        zeros(shape), trainable=False, collections=[GraphKeys.LOCAL_VARIABLES, METRIC_VARIABLES], name=name
    )


def _mean(values: Tensor, weights: Tensor | None) -> Metric:
    total, count = _variable("total", []), _variable("count", [])
    counted = ones_like(values) if weights is None else ones_like(values) * weights
    weighted = values if weights is None else values * weights
    sums = assign_add(total, reduce_sum(weighted)), assign_add(count, reduce_sum(counted))
    return _over(total, count), _over(*sums)


def _count(labels: Tensor, predictions: Tensor, weights: Any, said: bool, is_so: bool, name: str) -> Metric:
    right = logical_and(
        predictions if said else logical_not(predictions), labels if is_so else logical_not(labels)
    )
    numbers = cast(right, float32) if weights is None else cast(right, float32) * weights
    variable = _variable(name, [])
    return variable.value(), assign_add(variable, reduce_sum(numbers))


def _over(total: Any, count: Any) -> Tensor:
    """total / count, 0 where nothing counts."""
    total, count = convert_to_tensor(total), convert_to_tensor(count)
    none = equal(count, 0.0)
    return where(none, ones_like(total) * 0.0, total / where(none, ones_like(count), count))


def _share(one: Tensor, other: Tensor) -> Tensor:
    return _over(one, one + other)


def _beside(tensor: Tensor) -> Tensor:
    return expand_dims(tensor, -1)


# -- arguments -------------------------------------------------------------------------------------------
def _matched(labels: Any, predictions: Any, weights: Any, dtype: Any = None) -> tuple[Tensor, Tensor, Any]:
    """Labels, predictions and weights of one rank: a last axis of size 1 that only one has is left out."""
    labels, predictions = convert_to_tensor(labels), convert_to_tensor(predictions)
    ranks = [None if t.spec.shape is None else len(t.spec.shape) for t in (labels, predictions)]
    if None not in ranks and ranks[0] - ranks[1] == 1:  # type: ignore[operator]  # none is None
        labels = squeeze(labels, [-1])
    elif None not in ranks and ranks[1] - ranks[0] == 1:  # type: ignore[operator]  # none is None
        predictions = squeeze(predictions, [-1])
    if dtype is not None:
        labels, predictions = cast(labels, dtype), cast(predictions, dtype)
    return labels, predictions, _weights(weights, predictions)


def _weights(weights: Any, values: Tensor) -> Tensor | None:
    if weights is None:
        return None
    weights = cast(convert_to_tensor(weights), float32)
    own, full = weights.spec.shape, values.spec.shape
    if own and full is not None:
        if len(own) - len(full) == 1:
            weights = squeeze(weights, [-1])
        elif len(full) - len(own) == 1:
            weights = expand_dims(weights, -1)
    return weights


def _told(metric: Metric, values: Any, updates: Any) -> Metric:
    """The metric, whose tensors join collections."""
    graph = get_default_graph()
    value, update = multiply(metric[0], 1.0, name="value"), multiply(metric[1], 1.0, name="update_op")
    for names, tensor in ((values, value), (updates, update)):
        if names:
            graph.add_to_collections([names] if isinstance(names, str) else list(names), tensor)
    return value, update
