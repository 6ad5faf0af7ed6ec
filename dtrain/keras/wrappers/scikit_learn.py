"""Models as scikit-learn's estimators: functions that make a compiled model, and arguments of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from dtrain.errors import UsageError
from dtrain.keras.losses import CategoricalCrossentropy
from dtrain.keras.models import Model
from dtrain.keras.utils import to_categorical
from dtrain.names import module_getattr

__all__ = ["KerasClassifier", "KerasRegressor"]

__getattr__ = module_getattr("tf.keras.wrappers.scikit_learn")


class _Wrapper:
    """Base of the two.

    build_fn: a function that gives a compiled model. sk_params: arguments of it, and of the model's fit,
    predict and evaluate.
    """

    def __init__(self, build_fn: Callable[..., Any] | None = None, **sk_params: Any) -> None:
        self.build_fn, self.sk_params = build_fn, sk_params

    def get_params(self, deep: bool = True, **more: Any) -> dict[str, Any]:
        """All arguments."""
        return {**self.sk_params, "build_fn": self.build_fn}

    def set_params(self, **params: Any) -> Any:
        """Change arguments."""
        self.build_fn = params.pop("build_fn", self.build_fn)
        self.sk_params.update(params)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks its estimators since 1.6."""
        from sklearn import base

        return type("_", (getattr(base, self._kind), base.BaseEstimator), {})().__sklearn_tags__()

    _kind = "ClassifierMixin"

    def _taken(self, function: Callable[..., Any], more: dict[str, Any]) -> dict[str, Any]:
        names = inspect.signature(function).parameters
        return {k: v for k, v in {**self.sk_params, **more}.items() if k in names}

    def _fit(self, x: Any, y: Any, options: dict[str, Any]) -> Any:
        build = self.build_fn if self.build_fn is not None else cast(Any, self).__call__
        self.model = build(**self._taken(build, {}))
        if isinstance(self.model.compiled.losses[0], CategoricalCrossentropy) and np.ndim(y) != 2:
            y = to_categorical(y)
        self.history = self.model.fit(x, y, **self._taken(Model.fit, options))
        return self.history


class KerasClassifier(_Wrapper):
    """A classifier; labels may be any values."""

    def fit(self, x: Any, y: Any, **options: Any) -> Any:
        """Make a new model and train it."""
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] > 1:
            self.classes_ = np.arange(y.shape[1])
        else:
            self.classes_ = np.unique(y)
            y = np.searchsorted(self.classes_, y)
        self.n_classes_ = len(self.classes_)
        return self._fit(x, y, options)

    def predict(self, x: Any, **options: Any) -> np.ndarray:
        """The class of each example."""
        found = self.model.predict(x, **self._taken(Model.predict, options))
        one = found.shape[-1] == 1
        return self.classes_[(found > 0.5).astype(int) if one else found.argmax(-1)]

    def predict_proba(self, x: Any, **options: Any) -> np.ndarray:
        """The probability of each class, for each example."""
        found = self.model.predict(x, **self._taken(Model.predict, options))
        return np.hstack([1 - found, found]) if found.shape[1] == 1 else found

    def score(self, x: Any, y: Any, **options: Any) -> float:
        """The accuracy.

        Raises:
            UsageError: the model was not compiled with the metric.
        """
        y = np.asarray(y)
        y = y if y.ndim == 2 and y.shape[1] > 1 else np.searchsorted(self.classes_, y)
        if isinstance(self.model.compiled.losses[0], CategoricalCrossentropy) and y.ndim != 2:
            y = to_categorical(y, self.n_classes_)
        found = self.model.evaluate(x, y, return_dict=True, **self._taken(Model.evaluate, options))
        for name in ("accuracy", "acc"):
            if name in found:
                return float(found[name])
        raise UsageError("score: the model has no accuracy: compile it with metrics=['accuracy'].")


class KerasRegressor(_Wrapper):
    """A regression."""

    _kind = "RegressorMixin"

    def fit(self, x: Any, y: Any, **options: Any) -> Any:
        """Make a new model and train it."""
        return self._fit(x, y, options)

    def predict(self, x: Any, **options: Any) -> np.ndarray:
        """The output for each example."""
        return np.squeeze(self.model.predict(x, **self._taken(Model.predict, options)), -1)

    def score(self, x: Any, y: Any, **options: Any) -> float:
        """The loss, negative: the larger the better."""
        found = self.model.evaluate(x, y, **self._taken(Model.evaluate, options))
        return -float(found[0] if isinstance(found, list) else found)
