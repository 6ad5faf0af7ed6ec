"""Metrics: sums over the examples, and a number that follows from them.

A metric is what its sums say, so it is exact over a whole set, whatever the batches and the number of ranks:
sums are added up over ranks by the graph and over batches by the host, every example once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import as_static, shape_text
from dtrain.keras import losses
from dtrain.keras.losses import (
    binary_crossentropy,
    categorical_crossentropy,
    cosine,
    cosine_proximity,
    hinge,
    kld,
    kullback_leibler_divergence,
    mae,
    mape,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    mse,
    msle,
    poisson,
    sparse_categorical_crossentropy,
    squared_hinge,
)
from dtrain.keras.names import Names, as_data
from dtrain.names import module_getattr
from dtrain.ops.array import expand_dims, reshape
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.index import one_hot
from dtrain.ops.late import shape
from dtrain.ops.math import cast, equal, greater, not_equal
from dtrain.ops.nn import Softmax
from dtrain.ops.reduce import argmax, reduce_sum
from dtrain.ops.topk import in_top_k

__all__ = [
    "AUC",
    "MAE",
    "MAPE",
    "MSE",
    "MSLE",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "Mean",
    "Metric",
    "Precision",
    "Recall",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "binary_accuracy",
    "binary_crossentropy",
    "categorical_accuracy",
    "categorical_crossentropy",
    "cosine",
    "cosine_proximity",
    "deserialize",
    "get",
    "hinge",
    "kld",
    "kullback_leibler_divergence",
    "mae",
    "mape",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "mse",
    "msle",
    "poisson",
    "serialize",
    "sparse_categorical_accuracy",
    "sparse_categorical_crossentropy",
    "sparse_top_k_categorical_accuracy",
    "squared_hinge",
    "top_k_categorical_accuracy",
]

__getattr__ = module_getattr("tf.keras.metrics")


class Metric:
    """Base of the metrics.

    Args:
        name: its name in logs and History.

    Attributes:
        direction: 'up' or 'down', where it is better, or '' if that is not known.
    """

    direction = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def sums(self, y: Tensor, p: Tensor, weights: Tensor | None, dtype: str) -> list[Tensor]:
        """What is added up over the examples: tensors of any shape, of dtype, reduced over the batch.

        y: labels as the loss takes them. p: the model's output. weights: [batch], or for a Mean of steps
        [batch, steps]; None where all are 1.
        """
        raise NotImplementedError

    def result(self, sums: Sequence[Any], examples: int) -> float:
        """The metric, from the sums over this many examples (float64)."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Its arguments as plain data."""
        return {"name": self.name}


class Mean(Metric):
    """The (weighted) mean of a function of labels and output.

    Args:
        function: from (labels, output) to a value for each example.
        name: its name in logs; by default the function's.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Any], name: str | None = None) -> None:
        super().__init__(name or str(getattr(function, "__name__", "mean")))
        self.function = function

    def each(self, y: Tensor, p: Tensor) -> Tensor:
        return convert_to_tensor(self.function(y, p))

    def sums(self, y: Tensor, p: Tensor, weights: Tensor | None, dtype: str) -> list[Tensor]:
        values = cast(self.each(y, p), dtype)
        if values.shape.ndims == 0:  # a mean of the user's own, over the batch
            return [values * cast(shape(p)[0], dtype)]
        if weights is None:
            return [reduce_sum(losses.per_example(values))]
        values, weights = losses.per_example(values, weights.shape.ndims), cast(weights, dtype)
        return [reduce_sum(values * weights), reduce_sum(weights)]

    def result(self, sums: Sequence[Any], examples: int) -> float:
        return _ratio(sums[0], sums[1] if len(sums) > 1 else examples)


def _ratio(a: Any, b: Any) -> float:
    return float(a) / float(b) if b else 0.0


# -- accuracies ------------------------------------------------------------------------------------------
def _scores(p: Tensor) -> Tensor:
    """What is in the order of the probabilities: logits are not rounded to ties, and spare the softmax."""
    found = losses.logits_of(p, Softmax)
    return p if found is None else found


def _is_sparse(y: Tensor, p: Tensor) -> bool:
    """Whether labels are class numbers: they have no axis of classes, or one of size 1."""
    return (y.shape.ndims or 0) < (p.shape.ndims or 0) or y.shape.as_list()[-1:] == [1] != p.shape.as_list()[
        -1:
    ]


def _classes(y: Any, p: Tensor) -> Tensor:
    """Labels as class numbers, one for each row of p."""
    y = convert_to_tensor(y)
    if not _is_sparse(y, p):
        return cast(argmax(y, -1), "int32")
    return cast(reshape(y, shape(p)[:-1]) if y.shape.ndims == p.shape.ndims else y, "int32")


def sparse_categorical_accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """1 where the largest output is that of the label, else 0.

    Args:
        y_true: class numbers [...] or [..., 1].
        y_pred: outputs [..., classes].

    Returns:
        Tensor: float32 [...].
    """
    p = convert_to_tensor(y_pred)
    return cast(equal(cast(argmax(_scores(p), -1), "int32"), _classes(y_true, p)), "float32")


def categorical_accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """1 where the largest output is where the label has its largest entry, else 0.

    Args:
        y_true: labels [..., classes].
        y_pred: outputs [..., classes].

    Returns:
        Tensor: float32 [...].
    """
    return sparse_categorical_accuracy(y_true, y_pred)


def binary_accuracy(y_true: Any, y_pred: Any, threshold: float = 0.5) -> Tensor:
    """1 where the label is 1 and the output above the threshold, or 0 and the output not; else 0.

    As in Keras a label that is neither 0 nor 1 is always counted as wrong.

    Args:
        y_true: labels, 0 or 1.
        y_pred: outputs of the same shape.
        threshold: a number.

    Returns:
        Tensor: float32, of the shape of y_true.
    """
    y, p = losses.same_rank(convert_to_tensor(y_true), convert_to_tensor(y_pred))
    return cast(equal(y, cast(greater(p, threshold), y.dtype)), "float32")


def sparse_top_k_categorical_accuracy(y_true: Any, y_pred: Any, k: int = 5) -> Tensor:
    """1 where the label is among the k largest outputs, else 0.

    Args:
        y_true: class numbers [...] or [..., 1].
        y_pred: outputs [..., classes].
        k: an int.

    Returns:
        Tensor: float32, of the shape of y_true.
    """
    y, p = convert_to_tensor(y_true), convert_to_tensor(y_pred)
    (classes,), numbers = as_static(tuple(p.shape.as_list()[-1:])), _classes(y, p)
    found = in_top_k(reshape(_scores(p), [-1, classes]), reshape(numbers, [-1]), min(k, classes))
    return reshape(cast(found, "float32"), shape(y if _is_sparse(y, p) else numbers))


def top_k_categorical_accuracy(y_true: Any, y_pred: Any, k: int = 5) -> Tensor:
    """1 where the label's largest entry is among the k largest outputs, else 0.

    Args:
        y_true: labels [..., classes].
        y_pred: outputs [..., classes].
        k: an int.

    Returns:
        Tensor: float32 [...].
    """
    return sparse_top_k_categorical_accuracy(y_true, y_pred, k)


def _accuracy(y: Tensor, p: Tensor) -> Tensor:
    """The accuracy that Keras takes for these shapes, whatever the loss is."""
    return binary_accuracy(y, p) if p.shape.as_list()[-1] == 1 else sparse_categorical_accuracy(y, p)


class _Accuracy(Mean):
    direction = "up"


class SparseCategoricalAccuracy(_Accuracy):
    """The fraction of examples whose largest output is that of the label, a class number.

    Args:
        name: its name in logs.
    """

    def __init__(self, name: str = "sparse_categorical_accuracy") -> None:
        super().__init__(sparse_categorical_accuracy, name)


class CategoricalAccuracy(_Accuracy):
    """The fraction of examples whose largest output is where the label has its largest entry.

    Args:
        name: its name in logs.
    """

    def __init__(self, name: str = "categorical_accuracy") -> None:
        super().__init__(categorical_accuracy, name)


class BinaryAccuracy(_Accuracy):
    """The fraction of outputs on the right side of the threshold: above it for label 1, else for label 0.

    Args:
        name: its name in logs.
        threshold: a number.
    """

    def __init__(self, name: str = "binary_accuracy", threshold: float = 0.5) -> None:
        super().__init__(lambda y, p: binary_accuracy(y, p, threshold), name)
        self.threshold = float(threshold)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "threshold": self.threshold}


class TopKCategoricalAccuracy(_Accuracy):
    """The fraction of examples whose label, a row with a single 1, is among the k largest outputs.

    Args:
        k: an int.
        name: its name in logs.
    """

    def __init__(self, k: int = 5, name: str = "top_k_categorical_accuracy") -> None:
        super().__init__(lambda y, p: top_k_categorical_accuracy(y, p, k), name)
        self.k = int(k)

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k, "name": self.name}


class SparseTopKCategoricalAccuracy(TopKCategoricalAccuracy):
    """The fraction of examples whose label, a class number, is among the k largest outputs.

    Args:
        k: an int.
        name: its name in logs.
    """

    def __init__(self, k: int = 5, name: str = "sparse_top_k_categorical_accuracy") -> None:
        super().__init__(k, name)


class _OfLoss(Mean):
    """A loss as a metric: its mean over the examples, without what regularizers add."""

    direction = "down"

    def __init__(self, loss: losses.Loss, name: str) -> None:
        super().__init__(loss.each, name)
        self.loss = loss


# -- counts at thresholds --------------------------------------------------------------------------------
def _decisions(y: Tensor, p: Tensor, weights: Tensor | None, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, probabilities and weights as columns [batch * outputs, 1]."""
    if y.dtype.is_integer and p.shape.ndims == (y.shape.ndims or 0) + 1:
        y = one_hot(y, p.spec.shape[-1])  # type: ignore[index]  # its rank is known
    y = cast(y, dtype)
    if y.shape.ndims != p.shape.ndims:
        raise GraphError(
            f"labels {shape_text(y.spec.shape)} and outputs {shape_text(p.spec.shape)} differ, and "
            "precision, recall and AUC compare them one by one"
        )
    w = reshape(y, [-1, 1]) * 0 + 1
    if weights is not None:
        spread = cast(weights, dtype)
        for _ in range((y.shape.ndims or 1) - 1):
            spread = expand_dims(spread, -1)
        w = reshape(spread + y * 0, [-1, 1])
    return reshape(y, [-1, 1]), reshape(p, [-1, 1]), w


class _Counting(Metric):
    direction = "up"

    def __init__(self, thresholds: float | None = None, name: str | None = None) -> None:
        super().__init__(name or type(self).__name__.lower())
        self.thresholds = 0.5 if thresholds is None else thresholds
        if not (isinstance(self.thresholds, int | float) and 0 <= self.thresholds <= 1):
            raise UsageError(
                f"{type(self).__name__}: thresholds={thresholds!r}: give one number from 0 to 1."
            )

    def get_config(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds, "name": self.name}

    def result(self, sums: Sequence[Any], examples: int) -> float:
        return _ratio(sums[0], sums[1])


def _marked(y: Tensor) -> Tensor:
    return cast(not_equal(y, 0), y.dtype)


class Precision(_Counting):
    """Of the outputs above the threshold, the fraction whose label is not 0; 0 where there are none.

    Args:
        thresholds: one number of 0..1, by default 0.5.
        name: its name in logs.

    Raises:
        UsageError: thresholds is not such a number.
    """

    def sums(self, y: Tensor, p: Tensor, weights: Tensor | None, dtype: str) -> list[Tensor]:
        y, p, w = _decisions(y, p, weights, dtype)
        chosen = cast(greater(p, self.thresholds), dtype) * w
        return [reduce_sum(chosen * _marked(y)), reduce_sum(chosen)]


class Recall(_Counting):
    """Of the outputs whose label is not 0, the fraction above the threshold; 0 where there are none.

    Args:
        thresholds: one number of 0..1, by default 0.5.
        name: its name in logs.

    Raises:
        UsageError: thresholds is not such a number.
    """

    def sums(self, y: Tensor, p: Tensor, weights: Tensor | None, dtype: str) -> list[Tensor]:
        y, p, w = _decisions(y, p, weights, dtype)
        marked = _marked(y) * w
        return [reduce_sum(cast(greater(p, self.thresholds), dtype) * marked), reduce_sum(marked)]


class AUC(Metric):
    """The area under the ROC curve, by trapezoids as in Keras.

    Args:
        num_thresholds: points of the curve, an int >= 2.
        curve: only 'ROC'.
        name: its name in logs.

    Raises:
        UsageError: num_thresholds is below 2, or curve is not 'ROC'.
    """

    direction = "up"

    def __init__(self, num_thresholds: int = 200, curve: str = "ROC", name: str = "auc") -> None:
        super().__init__(name)
        if curve != "ROC":
            raise UsageError(f"AUC: curve={curve!r} is not supported: only 'ROC'.")
        if num_thresholds < 2:
            raise UsageError(f"AUC: num_thresholds={num_thresholds}: give an integer >= 2.")
        self.num_thresholds = int(num_thresholds)

    def get_config(self) -> dict[str, Any]:
        return {"num_thresholds": self.num_thresholds, "name": self.name}

    def sums(self, y: Tensor, p: Tensor, weights: Tensor | None, dtype: str) -> list[Tensor]:
        y, p, w = _decisions(y, p, weights, dtype)
        n = self.num_thresholds
        inner = np.arange(1, n - 1) / (n - 1)
        limits = np.concatenate([[-losses.EPSILON], inner, [1 + losses.EPSILON]])
        above = cast(greater(p, limits.astype(p.dtype.numpy)), dtype)
        right, wrong = _marked(y) * w, (1 - _marked(y)) * w
        return [
            reduce_sum(above * right, 0),
            reduce_sum(above * wrong, 0),
            reduce_sum(right),
            reduce_sum(wrong),
        ]

    def result(self, sums: Sequence[Any], examples: int) -> float:
        right, wrong, positives, negatives = sums
        if not positives or not negatives:
            return 0.0
        rate, false_rate = right / positives, wrong / negatives
        return float(np.sum((false_rate[:-1] - false_rate[1:]) * (rate[:-1] + rate[1:]) / 2))


# -- Keras's names ---------------------------------------------------------------------------------------
_CLASSES: dict[str, Any] = {
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
    "precision": Precision,
    "recall": Recall,
    "auc": AUC,
}
_BY_CLASS = {cls.__name__: cls for cls in sorted(_CLASSES.values(), key=lambda cls: cls.__name__)}
_NAMES = Names("metric", {"accuracy": None, "acc": None} | _CLASSES | _BY_CLASS)


def get(identifier: Any) -> Metric:
    """The metric of a name.

    Args:
        identifier: a name, a function (y_true, y_pred), or a Metric, which is returned itself. 'accuracy' is,
            as in Keras and whatever the loss: binary_accuracy for one output, else
            sparse_categorical_accuracy for class numbers, else categorical_accuracy.

    Returns:
        Metric: the metric.

    Raises:
        UsageError: there is no such metric.
    """
    if isinstance(identifier, Metric):
        return identifier
    if identifier in ("accuracy", "acc"):
        return _Accuracy(_accuracy, identifier)
    if isinstance(identifier, str) and identifier not in _NAMES.known:
        try:
            return _OfLoss(losses.get(identifier), identifier)
        except UsageError:
            pass
    found = _NAMES.get(identifier)
    if isinstance(found, Metric):
        if isinstance(identifier, str):
            found.name = identifier
        return found
    if isinstance(found, losses.Loss) or hasattr(found, "loss"):
        found = getattr(found, "loss", found)
        return _OfLoss(found, found.name)
    return Mean(found)


deserialize, serialize = get, as_data
MSE, MAE, MAPE, MSLE = mse, mae, mape, msle
