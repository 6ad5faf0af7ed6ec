"""tf.contrib.learn's Experiment: an estimator with what it is trained and evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.errors import UsageError
from dtrain.tf1.estimator import Estimator as Core
from dtrain.tf1.estimator import EvalSpec, TrainSpec
from dtrain.tf1.estimator import train_and_evaluate as both

__all__ = ["Experiment", "run"]


class Experiment:
    """train, evaluate, and both in turn."""

    def __init__(
        self,
        estimator: Any,
        train_input_fn: Callable[..., Any],
        eval_input_fn: Callable[..., Any],
        eval_metrics: Any = None,
        train_steps: int | None = None,
        eval_steps: int | None = 100,
        train_monitors: Sequence[Any] | None = None,
        eval_hooks: Sequence[Any] | None = None,
        min_eval_frequency: Any = None,
    ) -> None:
        if min_eval_frequency is not None:
            raise UsageError("Experiment: it evaluates at checkpoints: leave min_eval_frequency out.")
        if eval_metrics is not None and isinstance(estimator, Core):
            raise UsageError("Experiment: eval_metrics are for estimators of tf.contrib.learn.")
        self._estimator, self._metrics = estimator, eval_metrics
        self._core: Core = estimator if isinstance(estimator, Core) else estimator.core
        self._train = TrainSpec(train_input_fn, train_steps, train_monitors)
        self._test = EvalSpec(eval_input_fn, eval_steps, hooks=eval_hooks)

    @property
    def estimator(self) -> Any:
        return self._estimator

    def train(self) -> Any:
        """Train up to the global step train_steps."""
        self._core.train(self._train.input_fn, self._train.hooks, max_steps=self._train.max_steps)
        return self._estimator

    def evaluate(self) -> dict[str, Any]:
        """The metrics of the newest checkpoint."""
        steps, hooks = self._test.steps, self._test.hooks
        if self._metrics is None:
            return self._core.evaluate(self._test.input_fn, steps, hooks)
        return self._estimator.evaluate(
            input_fn=self._test.input_fn, steps=steps, hooks=hooks, metrics=self._metrics
        )

    def train_and_evaluate(self) -> tuple[Any, list[Any]]:
        """Train, with evaluations at checkpoints and at the end; returns the last metrics, and []."""
        if self._metrics is None:
            return both(self._core, self._train, self._test)
        self.train()
        return self.evaluate(), []


def run(
    experiment_fn: Callable[..., Experiment],
    output_dir: str | None = None,
    schedule: str | None = None,
    run_config: Any = None,
    hparams: Any = None,
) -> Any:
    """Make an experiment, of a folder or a RunConfig, and call its method `schedule`."""
    if (output_dir is None) == (run_config is None):
        raise UsageError("learn_runner.run: give output_dir or run_config, and not both.")
    made = experiment_fn(output_dir) if run_config is None else experiment_fn(run_config, hparams)
    return getattr(made, schedule or "train_and_evaluate")()
