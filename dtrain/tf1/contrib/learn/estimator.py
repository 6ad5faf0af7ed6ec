"""tf.contrib.learn's Estimator, on tf.estimator's: fit with arrays, custom metrics, SKCompat."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import UsageError
from dtrain.ops.base import convert_to_tensor, placeholder
from dtrain.tf1 import estimator as core
from dtrain.tf1.estimator.inputs import numpy_input_fn
from dtrain.tf1.nest import mapped

__all__ = ["Estimator", "MetricSpec", "ModeKeys", "ModelFnOps", "RunConfig", "SKCompat"]


class ModeKeys:
    """What a model function is called for."""

    TRAIN, EVAL, INFER = core.ModeKeys.TRAIN, core.ModeKeys.EVAL, core.ModeKeys.PREDICT


class ModelFnOps(NamedTuple):
    """What a model function returns; so does (predictions, loss, train_op)."""

    mode: str
    predictions: Any = None
    loss: Any = None
    train_op: Any = None
    eval_metric_ops: Mapping[str, Any] | None = None
    output_alternatives: Any = None
    training_chief_hooks: Sequence[Any] = ()
    training_hooks: Sequence[Any] = ()
    scaffold: Any = None


class MetricSpec(NamedTuple):
    """A metric for evaluate: metric_fn(labels=, predictions=), of the prediction of this name."""

    metric_fn: Callable[..., Any]
    prediction_key: str | None = None
    label_key: str | None = None
    weight_key: str | None = None


def RunConfig(
    master: str | None = None,
    num_cores: int = 0,
    log_device_placement: bool = False,
    gpu_memory_fraction: float = 1,
    tf_random_seed: int | None = None,
    save_summary_steps: int | None = 100,
    save_checkpoints_secs: float | None = None,
    save_checkpoints_steps: int | None = None,
    keep_checkpoint_max: int = 5,
    keep_checkpoint_every_n_hours: float = 10000,
    log_step_count_steps: int | None = 100,
    evaluation_master: str = "",
    model_dir: str | None = None,
    session_config: Any = None,
) -> core.RunConfig:
    """tf.estimator's RunConfig; num_cores and the GPU's memory are not its to say: cores are mpirun's."""
    if master or evaluation_master:
        raise UsageError("RunConfig: there are no servers: leave master out.")
    return core.RunConfig(
        model_dir=model_dir,
        tf_random_seed=tf_random_seed,
        save_summary_steps=save_summary_steps,
        save_checkpoints_steps=save_checkpoints_steps,
        save_checkpoints_secs=save_checkpoints_secs,
        session_config=session_config,
        keep_checkpoint_max=keep_checkpoint_max,
        keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
        log_step_count_steps=log_step_count_steps,
    )


class Trainable:
    """fit, evaluate and predict with arrays, on an estimator of tf.estimator.

    A subclass has `core`, and may say which prediction predict gives.
    """

    core: core.Estimator
    #: The metrics of the evaluation that is being built.
    _asked: Mapping[str, Any] | None = None

    @property
    def model_dir(self) -> str:
        return self.core.model_dir

    @property
    def config(self) -> core.RunConfig:  # type: ignore[name-defined]  # of the module, which core above hides
        return self.core.config

    def features(self, x: Any) -> Any:
        """Arrays as the model takes them."""
        return x

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        input_fn: Callable[..., Any] | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        monitors: Sequence[Any] | None = None,
        max_steps: int | None = None,
    ) -> Any:
        """Train on arrays, by default on all at each step, or on what input_fn gives. Returns itself."""
        self.core.train(self._input(x, y, input_fn, batch_size, None), monitors, steps, max_steps)
        return self

    def partial_fit(self, *args: Any, **named: Any) -> Any:
        """fit, which continues where the one before ended."""
        return self.fit(*args, **named)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        input_fn: Callable[..., Any] | None = None,
        feed_fn: None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        name: str | None = None,
        checkpoint_path: str | None = None,
        hooks: Sequence[Any] | None = None,
        log_progress: bool = True,
    ) -> dict[str, Any]:
        """The loss, the model's metrics, and those that are given by name as MetricSpec."""
        if feed_fn is not None:
            raise UsageError("evaluate: feed_fn is not supported: give arrays or input_fn.")
        self._asked = metrics
        try:
            given = self._input(x, y, input_fn, batch_size, 1)
            return self.core.evaluate(given, steps, hooks, checkpoint_path, name)
        finally:
            self._asked = None

    def predict(
        self,
        x: Any = None,
        input_fn: Callable[..., Any] | None = None,
        batch_size: int | None = None,
        outputs: Sequence[str] | None = None,
        as_iterable: bool = True,
        iterate_batches: bool = False,
    ) -> Any:
        """The predictions of each example, as an iterator, or all in arrays if not as_iterable."""
        found = self._predictions(x, input_fn, batch_size, outputs)
        return found if as_iterable else _gathered(list(found))

    def _predictions(
        self, x: Any, input_fn: Any, batch_size: int | None, outputs: Sequence[str] | None
    ) -> Iterator[Any]:
        return self.core.predict(self._input(x, None, input_fn, batch_size, 1), outputs)

    def get_variable_names(self) -> list[str]:
        return self.core.get_variable_names()

    def get_variable_value(self, name: str) -> np.ndarray:
        return self.core.get_variable_value(name)

    def _input(self, x: Any, y: Any, input_fn: Any, batch_size: int | None, epochs: int | None) -> Any:
        if (x is None) == (input_fn is None):
            raise UsageError("give arrays as x and y, or input_fn, and not both.")
        if input_fn is not None:
            return input_fn
        arrays = {k: np.asarray(v) for k, v in x.items()} if isinstance(x, Mapping) else np.asarray(x)
        labels = None if y is None else np.asarray(y)
        count = len(next(iter(arrays.values())) if isinstance(arrays, dict) else arrays)
        return numpy_input_fn(self.features(arrays), labels, batch_size or count, epochs, epochs is None)

    def _measures(self, labels: Any, predictions: Any) -> dict[str, Any]:
        """The metrics that evaluate was asked for."""
        found = {}
        for name, spec in (self._asked or {}).items():
            if not isinstance(spec, MetricSpec):
                raise UsageError(f"evaluate: metrics[{name!r}] has to be a MetricSpec.")
            if spec.weight_key is not None:
                raise UsageError("MetricSpec: weight_key is not supported.")
            said = predictions if spec.prediction_key is None else predictions[spec.prediction_key]
            truth = labels if spec.label_key is None else labels[spec.label_key]
            found[name] = spec.metric_fn(labels=truth, predictions=said)
        return found


class Estimator(Trainable):
    """A model function with a folder of checkpoints.

    model_fn(features, targets, mode, params, config) returns ModelFnOps or (predictions, loss, train_op);
    of mode, params and config it is given those that it names. feature_engineering_fn is refused.
    """

    def __init__(
        self,
        model_fn: Callable[..., Any],
        model_dir: str | None = None,
        config: Any = None,
        params: Mapping[str, Any] | None = None,
        feature_engineering_fn: None = None,
    ) -> None:
        if feature_engineering_fn is not None:
            raise UsageError("Estimator: feature_engineering_fn is not supported: call it in model_fn.")
        named = set(inspect.signature(model_fn).parameters)
        #: What the labels were that it was trained or evaluated with.
        self._labels: Any = None

        def specified(features: Any, labels: Any, mode: str, params: Any, config: Any) -> core.EstimatorSpec:
            given = {"mode": mode, "params": params, "config": config}
            if labels is None and self._labels is not None:  # functions of the time compute the loss anyway
                labels = mapped(lambda spec: placeholder(spec.dtype, spec.shape), self._labels)
            elif labels is not None:
                self._labels = mapped(lambda label: convert_to_tensor(label).spec, labels)
            result = model_fn(features, labels, **{k: v for k, v in given.items() if k in named})
            if isinstance(result, core.EstimatorSpec):
                return result
            if not isinstance(result, ModelFnOps):
                predictions, loss, train_op = result
                result = ModelFnOps(mode, predictions, loss, train_op)
            measured = dict(result.eval_metric_ops or {})
            if mode == ModeKeys.EVAL:
                measured |= self._measures(labels, result.predictions)
            return core.EstimatorSpec(
                mode,
                result.predictions,
                result.loss,
                result.train_op,
                measured,
                training_chief_hooks=result.training_chief_hooks,
                training_hooks=result.training_hooks,
                scaffold=result.scaffold,
            )

        self.core = core.Estimator(specified, model_dir, config, params)


class SKCompat:
    """An estimator with scikit-learn's words: fit, score and predict of arrays."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int = 128,
        steps: int | None = None,
        max_steps: int | None = None,
        monitors: Any = None,
    ) -> SKCompat:
        """Train on arrays. Returns itself."""
        self._estimator.fit(x, y, steps=steps, batch_size=batch_size, monitors=monitors, max_steps=max_steps)
        return self

    def score(
        self,
        x: Any,
        y: Any,
        batch_size: int = 128,
        steps: int | None = None,
        metrics: Any = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """evaluate of arrays."""
        return self._estimator.evaluate(x, y, batch_size=batch_size, steps=steps, metrics=metrics, name=name)

    def predict(self, x: Any, batch_size: int = 128, outputs: Sequence[str] | None = None) -> Any:
        """All predictions in arrays."""
        return self._estimator.predict(x, batch_size=batch_size, outputs=outputs, as_iterable=False)


def _gathered(rows: Sequence[Any]) -> Any:
    if rows and isinstance(rows[0], Mapping):
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return np.array(rows)
