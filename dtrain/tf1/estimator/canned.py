"""Estimators whose models are made: linear models, networks of dense layers, and both together.

Losses of training are sums over the batch, as TensorFlow 1's are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.dtypes import float32, int64
from dtrain.graph.graph import Tensor, control_dependencies
from dtrain.ops import nn
from dtrain.ops.array import expand_dims, reshape, squeeze, zeros_like
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.dropout import dropout as dropped
from dtrain.ops.initializers import Zeros, glorot_uniform
from dtrain.ops.join import concat
from dtrain.ops.linalg import matmul
from dtrain.ops.loss import sigmoid_cross_entropy_with_logits, sparse_softmax_cross_entropy_with_logits
from dtrain.ops.math import cast, greater, maximum, sigmoid, square
from dtrain.ops.python import in_python
from dtrain.ops.reduce import argmax, reduce_sum
from dtrain.ops.scopes import get_variable, variable_scope
from dtrain.ops.state import assign_add, group, trainable_variables
from dtrain.tf1 import metrics
from dtrain.tf1.estimator.estimator import Estimator
from dtrain.tf1.estimator.spec import EstimatorSpec, ModeKeys, RunConfig
from dtrain.tf1.feature_column import input_layer, linear_model
from dtrain.train.optimizers import (
    AdagradOptimizer,
    AdamOptimizer,
    GradientDescentOptimizer,
    Optimizer,
    RMSPropOptimizer,
)
from dtrain.train.step_counter import get_global_step

#: Optimizers by name. Without regularisation and with weights that begin at 0 FTRL's steps are Adagrad's.
_OPTIMIZERS = {
    "Adagrad": AdagradOptimizer,
    "Adam": AdamOptimizer,
    "Ftrl": AdagradOptimizer,
    "RMSProp": RMSPropOptimizer,
    "SGD": GradientDescentOptimizer,
}


def _optimizer(given: Any, rate: float) -> Optimizer:
    if isinstance(given, str):
        if given not in _OPTIMIZERS:
            raise UsageError(f"optimizer {given!r}: the names are {', '.join(_OPTIMIZERS)}.")
        return _OPTIMIZERS[given](rate)
    return given() if callable(given) and not isinstance(given, Optimizer) else given


# -- heads: what follows from logits -----------------------------------------------------------------------
class _Head:
    """Logits to predictions, loss and metrics.

    width: how many logits an example has.
    """

    width: int

    def __init__(self, weight_column: Any = None) -> None:
        if weight_column is not None and not isinstance(weight_column, str):
            raise UsageError("weight_column has to be the name of a feature.")
        self._weight = weight_column

    def weights(self, features: Any) -> Tensor | None:
        """[n, 1] where the examples have weights."""
        if self._weight is None:
            return None
        return reshape(cast(convert_to_tensor(features[self._weight]), float32), [-1, 1])

    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The labels as they count, and the loss of each example, [n, 1]."""
        raise NotImplementedError

    def measures(self, labels: Tensor, predictions: dict[str, Tensor], weights: Any) -> dict[str, Any]:
        raise NotImplementedError

    def spec(
        self, features: Any, labels: Any, mode: str, logits: Tensor, train: Callable[[Tensor], Any]
    ) -> EstimatorSpec:
        predictions = self.predictions(logits)
        if mode == ModeKeys.PREDICT:
            return EstimatorSpec(mode, predictions)
        if labels is None:
            raise UsageError("a canned estimator needs labels: let input_fn give (features, labels).")
        labels, losses = self.losses(logits, convert_to_tensor(labels))
        weights = self.weights(features)
        loss = reduce_sum(losses if weights is None else losses * weights)
        if mode == ModeKeys.TRAIN:
            return EstimatorSpec(mode, predictions, loss, train(loss))
        measured = self.measures(labels, predictions, weights)
        measured["average_loss"] = metrics.mean(losses, weights)
        return EstimatorSpec(mode, predictions, loss, eval_metric_ops=measured)


class _Regression(_Head):
    def __init__(self, width: int, weight_column: Any) -> None:
        super().__init__(weight_column)
        self.width = width

    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        return {"predictions": logits}

    def losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        labels = reshape(cast(labels, float32), [-1, self.width])
        return labels, square(logits - labels)

    def measures(self, labels: Tensor, predictions: dict[str, Tensor], weights: Any) -> dict[str, Any]:
        return {
            "label/mean": metrics.mean(labels, weights),
            "prediction/mean": metrics.mean(predictions["predictions"], weights),
        }


class _Classes(_Head):
    """Several classes."""

    def __init__(self, classes: int, vocabulary: Sequence[Any] | None, weight_column: Any) -> None:
        super().__init__(weight_column)
        if vocabulary is not None and len(vocabulary) != classes:
            raise UsageError(f"label_vocabulary has {len(vocabulary)} labels for {classes} classes.")
        self.classes = classes
        self.width = 1 if classes == 2 else classes
        self._words = None
        if vocabulary is not None:
            self._words = [w.encode() if isinstance(w, str) else w for w in vocabulary]

    def numbers(self, labels: Tensor) -> Tensor:
        """Labels as int64 [n, 1]."""
        if self._words is not None:
            places = {word: i for i, word in enumerate(self._words)}

            def found(values: Any) -> np.ndarray:
                array = np.asarray(values)
                return np.array([places[v] for v in array.ravel().tolist()], np.int64).reshape(array.shape)

            labels = in_python(found, [labels], [int64], [labels.spec.shape], "class_ids")[0]
        if labels.dtype.is_string:
            raise UsageError("labels are text: give label_vocabulary.")
        return reshape(cast(labels, int64), [-1, 1])

    def word(self, number: int) -> bytes:
        """What class a number is, in the predictions."""
        return str(number).encode() if self._words is None else self._words[number]

    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        if self.width == 1:
            two = concat([zeros_like(logits), logits], 1)
            return {
                "logits": logits,
                "logistic": sigmoid(logits),
                "probabilities": nn.softmax(two),
                "class_ids": cast(greater(logits, 0.0), int64),
            }
        return {
            "logits": logits,
            "probabilities": nn.softmax(logits),
            "class_ids": expand_dims(argmax(logits, 1), -1),
        }

    def losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        labels = self.numbers(labels)
        if self.width == 1:
            truth = cast(labels, float32)
            return labels, sigmoid_cross_entropy_with_logits(labels=truth, logits=logits)
        each = sparse_softmax_cross_entropy_with_logits(labels=squeeze(labels, [1]), logits=logits)
        return labels, expand_dims(each, -1)

    def measures(self, labels: Tensor, predictions: dict[str, Tensor], weights: Any) -> dict[str, Any]:
        found = predictions["class_ids"]
        measured = {"accuracy": metrics.accuracy(labels, found, weights)}
        if self.width == 1:
            share, truth = predictions["logistic"], cast(labels, float32)
            mean = metrics.mean(truth, weights)
            value, update = metrics.mean(truth, weights)
            baseline = maximum(value, 1 - value), maximum(update, 1 - update)
            measured |= {
                "accuracy_baseline": baseline,
                "auc": metrics.auc(labels, share, weights),
                "auc_precision_recall": metrics.auc(labels, share, weights, curve="PR"),
                "label/mean": mean,
                "precision": metrics.precision(labels, found, weights),
                "prediction/mean": metrics.mean(share, weights),
                "recall": metrics.recall(labels, found, weights),
            }
        return measured


# -- networks --------------------------------------------------------------------------------------------
def _linear(features: Any, columns: Any, width: int) -> Tensor:
    with variable_scope("linear"):
        return linear_model(features, columns, width)


def _dnn(
    features: Any,
    columns: Any,
    units: Sequence[int],
    activation: Any,
    rate: float | None,
    mode: str,
    width: int,
) -> Tensor:
    with variable_scope("dnn"):
        with variable_scope("input_from_feature_columns"):
            net = input_layer(features, columns)
        for i, size in enumerate(units):
            with variable_scope(f"hiddenlayer_{i}"):
                net = activation(_dense(net, size))
                if rate and mode == ModeKeys.TRAIN:
                    net = dropped(net, keep_prob=1 - rate)
        with variable_scope("logits"):
            return _dense(net, width)


def _dense(x: Tensor, units: int) -> Tensor:
    shape = x.spec.shape
    assert shape is not None and shape[-1] is not None
    kernel = get_variable("kernel", [shape[-1], units], initializer=glorot_uniform())
    bias = get_variable("bias", [units], initializer=Zeros())
    return matmul(x, kernel) + bias


def _no_partitioner(partitioner: Any) -> None:
    if partitioner is not None:
        raise UsageError("input_layer_partitioner: variables are not split: leave it out.")


class _Canned(Estimator):
    """An estimator with a head and a network."""

    def __init__(
        self,
        head: _Head,
        network: Callable[[Any, str], Tensor],
        train: Callable[[Tensor], Any],
        model_dir: Any,
        config: RunConfig | None,
        warm_start_from: Any,
    ) -> None:
        self._head = head

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            logits = network(features, mode)
            return head.spec(features, labels, mode, logits, train)

        super().__init__(model_fn, model_dir, config, warm_start_from=warm_start_from)

    def _finished(self, batch: Any) -> Any:
        if not isinstance(self._head, _Classes) or "class_ids" not in batch:
            return batch
        words = np.empty(batch["class_ids"].shape, object)
        words.ravel()[:] = [self._head.word(int(i)) for i in batch["class_ids"].ravel()]
        return {**batch, "classes": words}

    def predict(self, input_fn: Any, predict_keys: Any = None, *args: Any, **named: Any) -> Any:
        keys = [predict_keys] if isinstance(predict_keys, str) else predict_keys
        if keys is not None and "classes" in keys:  # they are made of class_ids
            keys = [*(k for k in keys if k != "classes"), "class_ids"]
        return super().predict(input_fn, keys, *args, **named)


def _step(optimizer: Any, rate: float) -> Callable[[Tensor], Any]:
    return lambda loss: _optimizer(optimizer, rate).minimize(loss, global_step=get_global_step())


def _linear_rate(columns: Sequence[Any]) -> float:
    return min(0.2, 1.0 / math.sqrt(len(list(columns))))


class LinearClassifier(_Canned):
    """A linear model of classes. optimizer: by default TensorFlow's FTRL, whose steps are Adagrad's here."""

    def __init__(
        self,
        feature_columns: Any,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: str | None = None,
        label_vocabulary: Sequence[Any] | None = None,
        optimizer: Any = "Ftrl",
        config: RunConfig | None = None,
        partitioner: None = None,
        warm_start_from: None = None,
    ) -> None:
        _no_partitioner(partitioner)
        columns, head = list(feature_columns), _Classes(n_classes, label_vocabulary, weight_column)
        super().__init__(
            head,
            lambda features, mode: _linear(features, columns, head.width),
            _step(optimizer, _linear_rate(columns)),
            model_dir,
            config,
            warm_start_from,
        )


class LinearRegressor(_Canned):
    """A linear model of numbers; its loss is the squared error."""

    def __init__(
        self,
        feature_columns: Any,
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: str | None = None,
        optimizer: Any = "Ftrl",
        config: RunConfig | None = None,
        partitioner: None = None,
        warm_start_from: None = None,
    ) -> None:
        _no_partitioner(partitioner)
        columns, head = list(feature_columns), _Regression(label_dimension, weight_column)
        super().__init__(
            head,
            lambda features, mode: _linear(features, columns, head.width),
            _step(optimizer, _linear_rate(columns)),
            model_dir,
            config,
            warm_start_from,
        )


class DNNClassifier(_Canned):
    """Dense layers, of hidden_units each, and logits of classes."""

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: Any,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: str | None = None,
        label_vocabulary: Sequence[Any] | None = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable[[Tensor], Tensor] = nn.relu,
        dropout: float | None = None,
        input_layer_partitioner: None = None,
        config: RunConfig | None = None,
        warm_start_from: None = None,
    ) -> None:
        _no_partitioner(input_layer_partitioner)
        columns, head = list(feature_columns), _Classes(n_classes, label_vocabulary, weight_column)
        super().__init__(
            head,
            lambda features, mode: _dnn(
                features, columns, hidden_units, activation_fn, dropout, mode, head.width
            ),
            _step(optimizer, 0.05),
            model_dir,
            config,
            warm_start_from,
        )


class DNNRegressor(_Canned):
    """Dense layers, of hidden_units each, and numbers; its loss is the squared error."""

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: Any,
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: str | None = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable[[Tensor], Tensor] = nn.relu,
        dropout: float | None = None,
        input_layer_partitioner: None = None,
        config: RunConfig | None = None,
        warm_start_from: None = None,
    ) -> None:
        _no_partitioner(input_layer_partitioner)
        columns, head = list(feature_columns), _Regression(label_dimension, weight_column)
        super().__init__(
            head,
            lambda features, mode: _dnn(
                features, columns, hidden_units, activation_fn, dropout, mode, head.width
            ),
            _step(optimizer, 0.05),
            model_dir,
            config,
            warm_start_from,
        )


class _Combined(_Canned):
    """The sum of a linear model's and a network's logits, each with an optimizer of its own."""

    def __init__(
        self,
        head: _Head,
        linear: tuple[Any, Any],
        dnn: tuple[Any, Any, Sequence[int], Any, float | None],
        model_dir: Any,
        config: RunConfig | None,
        warm_start_from: Any,
    ) -> None:
        columns, optimizer = list(linear[0] or ()), linear[1]
        dnn_columns, dnn_optimizer, units, activation, dropout = dnn
        dnn_columns = list(dnn_columns or ())
        if not columns and not dnn_columns:
            raise UsageError("give linear_feature_columns, dnn_feature_columns, or both.")

        def network(features: Any, mode: str) -> Tensor:
            parts = []
            if dnn_columns:
                parts.append(_dnn(features, dnn_columns, units, activation, dropout, mode, head.width))
            if columns:
                parts.append(_linear(features, columns, head.width))
            return parts[0] if len(parts) == 1 else parts[0] + parts[1]

        def train(loss: Tensor) -> Any:
            steps = []
            if dnn_columns:
                own = trainable_variables("dnn")
                steps.append(_optimizer(dnn_optimizer, 0.05).minimize(loss, var_list=own))
            if columns:
                rate = min(0.005, 1.0 / math.sqrt(len(columns)))
                steps.append(
                    _optimizer(optimizer, rate).minimize(loss, var_list=trainable_variables("linear"))
                )
            with control_dependencies([group(*steps)]):
                step = get_global_step()
                assert step is not None
                return assign_add(step, 1).op

        super().__init__(head, network, train, model_dir, config, warm_start_from)


class DNNLinearCombinedClassifier(_Combined):
    """A wide and deep model of classes."""

    def __init__(
        self,
        model_dir: Any = None,
        linear_feature_columns: Any = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Any = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] = (),
        dnn_activation_fn: Callable[[Tensor], Tensor] = nn.relu,
        dnn_dropout: float | None = None,
        n_classes: int = 2,
        weight_column: str | None = None,
        label_vocabulary: Sequence[Any] | None = None,
        input_layer_partitioner: None = None,
        config: RunConfig | None = None,
        warm_start_from: None = None,
    ) -> None:
        _no_partitioner(input_layer_partitioner)
        super().__init__(
            _Classes(n_classes, label_vocabulary, weight_column),
            (linear_feature_columns, linear_optimizer),
            (dnn_feature_columns, dnn_optimizer, dnn_hidden_units, dnn_activation_fn, dnn_dropout),
            model_dir,
            config,
            warm_start_from,
        )


class DNNLinearCombinedRegressor(_Combined):
    """A wide and deep model of numbers."""

    def __init__(
        self,
        model_dir: Any = None,
        linear_feature_columns: Any = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: Any = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] = (),
        dnn_activation_fn: Callable[[Tensor], Tensor] = nn.relu,
        dnn_dropout: float | None = None,
        label_dimension: int = 1,
        weight_column: str | None = None,
        input_layer_partitioner: None = None,
        config: RunConfig | None = None,
        warm_start_from: None = None,
    ) -> None:
        _no_partitioner(input_layer_partitioner)
        super().__init__(
            _Regression(label_dimension, weight_column),
            (linear_feature_columns, linear_optimizer),
            (dnn_feature_columns, dnn_optimizer, dnn_hidden_units, dnn_activation_fn, dnn_dropout),
            model_dir,
            config,
            warm_start_from,
        )
