"""What an Estimator is given: modes, what a model function returns, how a run is made and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dtrain.errors import UsageError
from dtrain.ops.base import convert_to_tensor
from dtrain.runtime.config import ConfigProto


class ModeKeys:
    """What a model function is called for."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


class _Spec(NamedTuple):
    mode: str
    predictions: Any = None
    loss: Any = None
    train_op: Any = None
    eval_metric_ops: Mapping[str, Any] | None = None
    export_outputs: Any = None
    training_chief_hooks: Sequence[Any] = ()
    training_hooks: Sequence[Any] = ()
    scaffold: Any = None
    evaluation_hooks: Sequence[Any] = ()
    prediction_hooks: Sequence[Any] = ()


class EstimatorSpec(_Spec):
    """What a model function returns.

    Args:
        mode: of ModeKeys.
        predictions: a tensor or a dict of them; loss: a scalar; train_op: what a step runs.
        eval_metric_ops: (value, update_op) by name, as tf.metrics gives them.
        export_outputs: by name, those of tf.estimator.export; by default the predictions.

    Raises:
        UsageError: what the mode needs is missing.
    """

    def __new__(cls, mode: str, *args: Any, **named: Any) -> EstimatorSpec:
        spec = super().__new__(cls, mode, *args, **named)
        needs = {ModeKeys.TRAIN: ("loss", "train_op"), ModeKeys.EVAL: ("loss",)}
        for name in needs.get(mode, ("predictions",)):
            if getattr(spec, name) is None:
                raise UsageError(f"EstimatorSpec: mode {mode!r} needs {name}=.")
        if spec.loss is not None:
            shape = convert_to_tensor(spec.loss).spec.shape
            if shape not in ((), (1,), None):
                raise UsageError(f"EstimatorSpec: the loss has to be one number, and has shape {shape}.")
        metrics = {name: metric for name, metric in (spec.eval_metric_ops or {}).items()}
        for name, metric in metrics.items():
            if not isinstance(metric, tuple | list) or len(metric) != 2:
                raise UsageError(
                    f"eval_metric_ops[{name!r}] has to be (value, update_op), as tf.metrics gives."
                )
        hooks: dict[str, Any] = {
            name: tuple(getattr(spec, name) or ())
            for name in ("training_chief_hooks", "training_hooks", "evaluation_hooks", "prediction_hooks")
        }
        return spec._replace(eval_metric_ops=metrics, **hooks)


class RunConfig:
    """How an Estimator runs: where it saves, how often, and what it reports.

    train_distribute, eval_distribute and device_fn are refused: the ranks of mpirun share each batch.
    """

    def __init__(
        self,
        model_dir: str | None = None,
        tf_random_seed: int | None = None,
        save_summary_steps: int | None = 100,
        save_checkpoints_steps: int | None = None,
        save_checkpoints_secs: float | None = None,
        session_config: ConfigProto | None = None,
        keep_checkpoint_max: int = 5,
        keep_checkpoint_every_n_hours: float = 10000,
        log_step_count_steps: int | None = 100,
        train_distribute: None = None,
        device_fn: None = None,
        protocol: None = None,
        eval_distribute: None = None,
        experimental_distribute: None = None,
    ) -> None:
        distribute = train_distribute or eval_distribute or experimental_distribute
        if distribute is not None or device_fn is not None:
            raise UsageError(
                "RunConfig: leave distribution strategies and device_fn out: `mpirun -n N` starts N ranks, "
                "which share each batch."
            )
        if save_checkpoints_steps is not None and save_checkpoints_secs is not None:
            raise UsageError("RunConfig: give save_checkpoints_steps or save_checkpoints_secs, not both.")
        if save_checkpoints_steps is None and save_checkpoints_secs is None:
            save_checkpoints_secs = 600
        self.model_dir, self.tf_random_seed = model_dir, tf_random_seed
        self.save_summary_steps = save_summary_steps
        self.save_checkpoints_steps, self.save_checkpoints_secs = (
            save_checkpoints_steps,
            save_checkpoints_secs,
        )
        self.session_config, self.keep_checkpoint_max = session_config, keep_checkpoint_max
        self.keep_checkpoint_every_n_hours = keep_checkpoint_every_n_hours
        self.log_step_count_steps = log_step_count_steps

    #: TensorFlow's cluster of one: every rank of mpirun runs the whole program.
    task_type, task_id, master, is_chief, num_ps_replicas, num_worker_replicas = "worker", 0, "", True, 0, 1

    def replace(self, **named: Any) -> RunConfig:
        """The same with some values others."""
        values = dict(vars(self)) | named
        if named.get("save_checkpoints_steps") is not None and "save_checkpoints_secs" not in named:
            values["save_checkpoints_secs"] = None
        if named.get("save_checkpoints_secs") is not None and "save_checkpoints_steps" not in named:
            values["save_checkpoints_steps"] = None
        return RunConfig(**values)


class TrainSpec(NamedTuple):
    """What train_and_evaluate trains on."""

    input_fn: Callable[..., Any]
    max_steps: int | None = None
    hooks: Sequence[Any] | None = None


class EvalSpec(NamedTuple):
    """What train_and_evaluate evaluates on, at checkpoints at least throttle_secs apart and at the end."""

    input_fn: Callable[..., Any]
    steps: int | None = 100
    name: str | None = None
    hooks: Sequence[Any] | None = None
    exporters: None = None
    start_delay_secs: float = 120
    throttle_secs: float = 600
