"""tf.contrib.learn's models that are made: tf.estimator's, fitted with arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.ops import nn
from dtrain.ops.array import squeeze
from dtrain.tf1 import estimator as core
from dtrain.tf1.contrib.learn.estimator import Trainable
from dtrain.tf1.feature_column import Column, numeric_column

#: What the features are called that are one array.
ARRAY = "x"


def infer_real_valued_columns_from_input(x: Any) -> list[Column]:
    """The columns of an array [n, width], or of each array of a dict."""
    if isinstance(x, Mapping):
        return [numeric_column(key, np.shape(x[key])[1:] or (1,)) for key in sorted(x)]
    return [numeric_column(ARRAY, np.shape(x)[1:] or (1,))]


class _Canned(Trainable):
    outputs = "predictions"

    def __init__(self, made: core.Estimator, **refused: Any) -> None:
        if given := [name for name, value in refused.items() if value]:
            raise UsageError(f"{type(self).__name__}: {', '.join(given)} is not supported: leave it out.")
        self.core = made
        inner = made._model_fn

        def model_fn(features: Any, labels: Any, mode: str) -> Any:
            spec = inner(features, labels, mode)
            if mode == core.ModeKeys.EVAL and self._asked:
                predictions = dict(spec.predictions)
                if "class_ids" in predictions:
                    predictions["classes"] = squeeze(predictions["class_ids"], [1])
                measured = {**spec.eval_metric_ops, **self._measures(labels, predictions)}
                spec = spec._replace(eval_metric_ops=measured)
            return spec

        made._model_fn = model_fn

    def features(self, x: Any) -> Any:
        return x if isinstance(x, Mapping) else {ARRAY: x}


class _Classifier(_Canned):
    def _predictions(self, x: Any, input_fn: Any, batch_size: Any, outputs: Any) -> Iterator[Any]:
        if outputs is not None:
            found = self.core.predict(self._input(x, None, input_fn, batch_size, 1))
            wanted = list(outputs)
            return ({k: v for k, v in _named(row).items() if k in wanted} for row in found)
        return self.predict_classes(x, input_fn, batch_size)

    def predict_classes(
        self, x: Any = None, input_fn: Any = None, batch_size: Any = None, as_iterable: bool = True
    ) -> Any:
        """The class of each example."""
        rows = self.core.predict(self._input(x, None, input_fn, batch_size, 1), "class_ids")
        found = (row["class_ids"][0] for row in rows)
        return found if as_iterable else np.array(list(found))

    def predict_proba(
        self, x: Any = None, input_fn: Any = None, batch_size: Any = None, as_iterable: bool = True
    ) -> Any:
        """The probabilities of the classes, of each example."""
        rows = self.core.predict(self._input(x, None, input_fn, batch_size, 1), "probabilities")
        found = (row["probabilities"] for row in rows)
        return found if as_iterable else np.array(list(found))


class _Regressor(_Canned):
    def _predictions(self, x: Any, input_fn: Any, batch_size: Any, outputs: Any) -> Iterator[Any]:
        rows = self.core.predict(self._input(x, None, input_fn, batch_size, 1))
        if outputs is not None:
            return ({"scores": row["predictions"][0]} for row in rows)
        return (row["predictions"][0] for row in rows)

    def predict_scores(
        self, x: Any = None, input_fn: Any = None, batch_size: Any = None, as_iterable: bool = True
    ) -> Any:
        """predict."""
        return self.predict(x, input_fn, batch_size, None, as_iterable)


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "classes": row["class_ids"][0]}


class LinearClassifier(_Classifier):
    """A linear model of classes."""

    def __init__(
        self,
        feature_columns: Any,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column_name: str | None = None,
        optimizer: Any = None,
        gradient_clip_norm: None = None,
        enable_centered_bias: bool = False,
        _joint_weight: bool = False,
        config: Any = None,
        feature_engineering_fn: None = None,
        label_keys: Any = None,
    ) -> None:
        made = core.LinearClassifier(
            feature_columns, model_dir, n_classes, weight_column_name, label_keys, optimizer or "Ftrl", config
        )
        super().__init__(
            made,
            gradient_clip_norm=gradient_clip_norm,
            enable_centered_bias=enable_centered_bias,
            feature_engineering_fn=feature_engineering_fn,
        )


class LinearRegressor(_Regressor):
    """A linear model of numbers."""

    def __init__(
        self,
        feature_columns: Any,
        model_dir: Any = None,
        weight_column_name: str | None = None,
        optimizer: Any = None,
        gradient_clip_norm: None = None,
        enable_centered_bias: bool = False,
        label_dimension: int = 1,
        _joint_weights: bool = False,
        config: Any = None,
        feature_engineering_fn: None = None,
    ) -> None:
        made = core.LinearRegressor(
            feature_columns, model_dir, label_dimension, weight_column_name, optimizer or "Ftrl", config
        )
        super().__init__(
            made,
            gradient_clip_norm=gradient_clip_norm,
            enable_centered_bias=enable_centered_bias,
            feature_engineering_fn=feature_engineering_fn,
        )


class DNNClassifier(_Classifier):
    """Dense layers and classes."""

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: Any,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column_name: str | None = None,
        optimizer: Any = None,
        activation_fn: Any = nn.relu,
        dropout: float | None = None,
        gradient_clip_norm: None = None,
        enable_centered_bias: bool = False,
        config: Any = None,
        feature_engineering_fn: None = None,
        embedding_lr_multipliers: None = None,
        input_layer_min_slice_size: None = None,
        label_keys: Any = None,
    ) -> None:
        made = core.DNNClassifier(
            hidden_units,
            feature_columns,
            model_dir,
            n_classes,
            weight_column_name,
            label_keys,
            optimizer or "Adagrad",
            activation_fn,
            dropout,
            config=config,
        )
        super().__init__(
            made,
            gradient_clip_norm=gradient_clip_norm,
            enable_centered_bias=enable_centered_bias,
            feature_engineering_fn=feature_engineering_fn,
            embedding_lr_multipliers=embedding_lr_multipliers,
        )


class DNNRegressor(_Regressor):
    """Dense layers and numbers."""

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: Any,
        model_dir: Any = None,
        weight_column_name: str | None = None,
        optimizer: Any = None,
        activation_fn: Any = nn.relu,
        dropout: float | None = None,
        gradient_clip_norm: None = None,
        enable_centered_bias: bool = False,
        config: Any = None,
        feature_engineering_fn: None = None,
        label_dimension: int = 1,
        embedding_lr_multipliers: None = None,
        input_layer_min_slice_size: None = None,
    ) -> None:
        made = core.DNNRegressor(
            hidden_units,
            feature_columns,
            model_dir,
            label_dimension,
            weight_column_name,
            optimizer or "Adagrad",
            activation_fn,
            dropout,
            config=config,
        )
        super().__init__(
            made,
            gradient_clip_norm=gradient_clip_norm,
            enable_centered_bias=enable_centered_bias,
            feature_engineering_fn=feature_engineering_fn,
            embedding_lr_multipliers=embedding_lr_multipliers,
        )
