"""tf.estimator.Estimator: a model function trained, evaluated and asked for predictions.

The loop is that of a monitored session (dtrain/train/monitored.py): checkpoints, resuming, signals and
summaries are its. On several ranks every rank makes the same calls, and shares each batch.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Iterator as Iterates
from typing import Any

import numpy as np

from dtrain.comm import world
from dtrain.errors import OutOfRangeError, UsageError
from dtrain.graph.graph import Graph, set_random_seed
from dtrain.ops import summary_proto
from dtrain.ops.state import group
from dtrain.summary import FileWriter, scalar
from dtrain.tf1 import metrics
from dtrain.tf1.dataset import Dataset
from dtrain.tf1.estimator.spec import EstimatorSpec, EvalSpec, ModeKeys, RunConfig, TrainSpec
from dtrain.train.hooks import (
    CheckpointSaverHook,
    LoggingTensorHook,
    NanTensorHook,
    SessionRunHook,
    StopAtStepHook,
)
from dtrain.train.monitored import (
    ChiefSessionCreator,
    MonitoredSession,
    MonitoredTrainingSession,
    Scaffold,
)
from dtrain.train.saver import Saver, checkpoint_exists, latest_checkpoint, read_variables
from dtrain.train.step_counter import create_global_step, get_global_step


class Estimator:
    """A model function with a folder of checkpoints.

    Args:
        model_fn: model_fn(features, labels, mode, params, config) -> EstimatorSpec; arguments that it does
            not name are not given.
        model_dir: where checkpoints and event files lie; by default config's, or a new folder in the
            machine's temporary one.
        params: what model_fn gets as params.
        warm_start_from: refused; restore a Saver's checkpoint in a Scaffold's init_fn.
    """

    def __init__(
        self,
        model_fn: Callable[..., Any],
        model_dir: str | os.PathLike[str] | None = None,
        config: RunConfig | None = None,
        params: Mapping[str, Any] | None = None,
        warm_start_from: None = None,
    ) -> None:
        if warm_start_from is not None:
            raise UsageError(
                "Estimator: warm_start_from is not supported: give the EstimatorSpec a Scaffold whose "
                "init_fn restores a Saver's checkpoint."
            )
        self._config = config or RunConfig()
        if not isinstance(self._config, RunConfig):
            raise UsageError(f"Estimator: config has to be a RunConfig, and is {config!r}.")
        folder = os.fspath(model_dir) if model_dir is not None else self._config.model_dir
        if folder is None:
            comm = world()
            folder = comm.broadcast_text(tempfile.mkdtemp() if comm.rank == 0 else "")
            if comm.rank == 0:
                print(f"Using temporary folder as model directory: {folder}", flush=True)
        self._config = self._config.replace(model_dir=folder)
        self._model_fn, self._params = model_fn, params
        self._named = set(inspect.signature(model_fn).parameters)

    @property
    def model_dir(self) -> str:
        """The folder of the checkpoints."""
        assert self._config.model_dir is not None
        return self._config.model_dir

    @property
    def config(self) -> RunConfig:
        return self._config

    @property
    def params(self) -> Any:
        """A copy of the params."""
        return dict(self._params) if isinstance(self._params, Mapping) else self._params

    @property
    def model_fn(self) -> Callable[..., Any]:
        return self._model_fn

    # -- training ----------------------------------------------------------------------------------------
    def train(
        self,
        input_fn: Callable[..., Any],
        hooks: Sequence[SessionRunHook] | None = None,
        steps: int | None = None,
        max_steps: int | None = None,
        saving_listeners: Sequence[Any] | None = None,
    ) -> Estimator:
        """Train until the data ends, for `steps` steps more, or up to the global step `max_steps`.

        It resumes from the newest checkpoint of model_dir. Returns itself.

        Raises:
            UsageError: steps and max_steps are both given, or not positive.
        """
        if steps is not None and max_steps is not None:
            raise UsageError("Estimator.train: give steps or max_steps, not both.")
        if any(n is not None and n <= 0 for n in (steps, max_steps)):
            raise UsageError("Estimator.train: steps and max_steps have to be positive.")
        if max_steps is not None and self.step_of(self.latest_checkpoint()) >= max_steps:
            return self
        config = self._config
        with Graph().as_default():
            spec, begin = self._built(input_fn, ModeKeys.TRAIN)
            scaffold = self._scaffold(spec)
            scalar("loss", spec.loss)
            step = get_global_step()
            after = [*spec.training_hooks, *spec.training_chief_hooks, *(hooks or ()), *begin]
            after += [NanTensorHook(spec.loss)]
            watched = _watched()
            if config.log_step_count_steps:
                told = {"loss": spec.loss, "step": step}
                after.append(LoggingTensorHook(told, every_n_iter=config.log_step_count_steps))
            if steps is not None or max_steps is not None:
                after.append(StopAtStepHook(steps, max_steps))
            after.append(
                CheckpointSaverHook(
                    self.model_dir,
                    config.save_checkpoints_secs,
                    config.save_checkpoints_steps,
                    scaffold=scaffold,
                    listeners=saving_listeners,
                )
            )
            with MonitoredTrainingSession(
                checkpoint_dir=self.model_dir,
                scaffold=scaffold,
                hooks=after,
                save_checkpoint_secs=None,
                save_summaries_steps=config.save_summary_steps if watched else None,
                config=config.session_config,
                log_step_count_steps=config.log_step_count_steps if watched else None,
            ) as session:
                while not session.should_stop():
                    session.run([spec.train_op, spec.loss])
        return self

    # -- evaluation --------------------------------------------------------------------------------------
    def evaluate(
        self,
        input_fn: Callable[..., Any],
        steps: int | None = None,
        hooks: Sequence[SessionRunHook] | None = None,
        checkpoint_path: str | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """The metrics over the input's batches, or the first `steps` of them, with loss and global_step.

        name: of the folder eval_<name> in model_dir that they are written to.

        Raises:
            UsageError: there is no checkpoint.
        """
        path = self._checkpoint(checkpoint_path, "evaluate")
        with Graph().as_default():
            spec, begin = self._built(input_fn, ModeKeys.EVAL)
            wanted = dict(spec.eval_metric_ops or {})
            wanted.setdefault("loss", metrics.mean(spec.loss))
            update = group(*(metric[1] for metric in wanted.values()))
            values = {key: metric[0] for key, metric in wanted.items()}
            step = get_global_step()
            creator = ChiefSessionCreator(
                self._scaffold(spec), config=self._config.session_config, checkpoint_filename_with_path=path
            )
            every = [*spec.evaluation_hooks, *(hooks or ()), *begin]
            with MonitoredSession(creator, every) as session:
                done = 0
                try:
                    while (steps is None or done < steps) and not session.should_stop():
                        session.run(update)
                        done += 1
                except OutOfRangeError:
                    if not done:
                        raise UsageError("Estimator.evaluate: the input has no batches.") from None
                found, at = session.run_step_fn(lambda context: context.session.run([values, step]))
        found = {key: np.asarray(value)[()] for key, value in found.items()} | {"global_step": int(at)}
        results = {k: found[k] for k in sorted(found)}
        self._tell(results, name)
        return results

    def _tell(self, results: Mapping[str, Any], name: str | None) -> None:
        """Print the metrics and write them to an event file, on rank 0."""
        watched = _watched()
        if world().rank:
            return
        text = ", ".join(f"{key} = {value}" for key, value in results.items())
        print(f"Saving dict for global step {results['global_step']}: {text}", flush=True)
        if watched:
            writer = FileWriter(self.eval_dir(name), comm=None)
            for key, value in results.items():
                if key != "global_step" and np.ndim(value) == 0:
                    writer.add_summary(summary_proto.scalar(key, float(value)), results["global_step"])
            writer.close()

    # -- prediction --------------------------------------------------------------------------------------
    def predict(
        self,
        input_fn: Callable[..., Any],
        predict_keys: Any = None,
        hooks: Sequence[SessionRunHook] | None = None,
        checkpoint_path: str | None = None,
        yield_single_examples: bool = True,
    ) -> Iterates[Any]:
        """The predictions of each example, or of each batch; every rank has to ask for as many.

        predict_keys: names of the predictions that are wanted, by default all.

        Raises:
            UsageError: there is no checkpoint, or no prediction of these names.
        """
        path = self._checkpoint(checkpoint_path, "predict")
        graph = Graph()
        with graph.as_default():
            spec, begin = self._built(input_fn, ModeKeys.PREDICT)
            wanted = spec.predictions
            if predict_keys is not None:
                names = [predict_keys] if isinstance(predict_keys, str) else predict_keys
                wanted = {key: value for key, value in wanted.items() if key in names}
                if not wanted:
                    raise UsageError(f"Estimator.predict: no prediction has a name of {list(names)}.")
            creator = ChiefSessionCreator(
                self._scaffold(spec), config=self._config.session_config, checkpoint_filename_with_path=path
            )
            session = MonitoredSession(creator, [*spec.prediction_hooks, *(hooks or ()), *begin])
        return self._predictions(session, wanted, yield_single_examples)

    def _predictions(self, session: MonitoredSession, wanted: Any, single: bool) -> Iterates[Any]:
        with session:
            while not session.should_stop():
                batch = self._finished(session.run(wanted))
                if not single:
                    yield batch
                elif isinstance(batch, Mapping):
                    for i in range(len(next(iter(batch.values())))):
                        yield {key: value[i] for key, value in batch.items()}
                else:
                    yield from batch

    def _finished(self, batch: Any) -> Any:
        """A batch of predictions as it is handed out."""
        return batch

    # -- what is saved -----------------------------------------------------------------------------------
    def latest_checkpoint(self) -> str | None:
        """The newest checkpoint of model_dir."""
        return latest_checkpoint(self.model_dir)

    def get_variable_names(self) -> list[str]:
        """The names of the variables in the newest checkpoint."""
        return sorted(read_variables(self._checkpoint(None, "get_variable_names")))

    def get_variable_value(self, name: str) -> np.ndarray:
        """A variable's value in the newest checkpoint; its name with or without ':0'."""
        values = read_variables(self._checkpoint(None, "get_variable_value"), [name.removesuffix(":0")])
        return values[name.removesuffix(":0")]

    def eval_dir(self, name: str | None = None) -> str:
        """The folder that evaluate writes to."""
        return os.path.join(self.model_dir, f"eval_{name}" if name else "eval")

    def export_savedmodel(
        self,
        export_dir_base: str,
        serving_input_receiver_fn: Callable[[], Any],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        strip_default_attrs: bool = False,
    ) -> bytes:
        """Write the model for predictions into a new folder, named by the time, and return its path.

        The files are dtrain's (see saved_model.builder): saved_model.loader.load and
        contrib.predictor.from_saved_model read them, TensorFlow's serving does not.

        Args:
            serving_input_receiver_fn: makes the ServingInputReceiver of tf.estimator.export.
            assets_extra: files that are copied, by their names in assets.extra.
            as_text, strip_default_attrs: change nothing.
            checkpoint_path: by default the newest of model_dir.

        Raises:
            UsageError: there is no checkpoint.
        """
        from dtrain.tf1.estimator.export import signatures
        from dtrain.tf1.saved_model.builder import SavedModelBuilder
        from dtrain.tf1.saved_model.tag_constants import SERVING

        path = self._checkpoint(checkpoint_path, "export_savedmodel")
        comm = world()
        now = np.array([time.time()], np.int64)
        while comm.rank == 0 and os.path.exists(os.path.join(export_dir_base, str(now[0]))):
            now += 1
        folder = os.path.join(export_dir_base, str(comm.broadcast(now)[0]))
        with Graph().as_default():
            set_random_seed(self._config.tf_random_seed)
            create_global_step()
            receiver = serving_input_receiver_fn()
            given = {"mode": ModeKeys.PREDICT, "params": self.params, "config": self._config, "labels": None}
            spec = self._model_fn(
                receiver.features, **{key: value for key, value in given.items() if key in self._named}
            )
            creator = ChiefSessionCreator(
                self._scaffold(spec), config=self._config.session_config, checkpoint_filename_with_path=path
            )
            session = creator.create_session()
            with session:
                builder = SavedModelBuilder(folder)
                made = signatures(receiver, spec.export_outputs, spec.predictions)
                builder.add_meta_graph_and_variables(session, [SERVING], made)
                builder.save(as_text)
        if comm.rank == 0:
            for name, source in (assets_extra or {}).items():
                to = os.path.join(folder, "assets.extra", name)
                os.makedirs(os.path.dirname(to), exist_ok=True)
                shutil.copy(source, to)
        return folder.encode()

    export_saved_model = export_savedmodel

    # -- parts -------------------------------------------------------------------------------------------
    def _built(self, input_fn: Callable[..., Any], mode: str) -> tuple[EstimatorSpec, list[SessionRunHook]]:
        """Input and model in the default graph, and what begins the input."""
        set_random_seed(self._config.tf_random_seed)
        create_global_step()
        features, labels, begin = self._input(input_fn, mode)
        given = {"mode": mode, "params": self.params, "config": self._config, "labels": labels}
        named = {key: value for key, value in given.items() if key in self._named}
        if labels is not None and "labels" not in self._named:
            raise UsageError("Estimator: model_fn has no argument labels, and the input gives some.")
        spec = self._model_fn(features, **named)
        if not isinstance(spec, EstimatorSpec):
            raise UsageError(f"Estimator: model_fn has to return an EstimatorSpec, and returned {spec!r}.")
        return spec, begin

    def _input(self, input_fn: Callable[..., Any], mode: str) -> tuple[Any, Any, list[SessionRunHook]]:
        names = inspect.signature(input_fn).parameters
        given = {"mode": mode, "params": self.params, "config": self._config}
        result = input_fn(**{key: value for key, value in given.items() if key in names})
        begin: list[SessionRunHook] = []
        if isinstance(result, Dataset):
            iterator = result.make_initializable_iterator()
            begin.append(_Begin(iterator.initializer))
            result = iterator.get_next()
        if isinstance(result, list | tuple):
            if len(result) != 2:
                raise UsageError("Estimator: input_fn gives (features, labels), or features alone.")
            features, labels = result
            return features, None if mode == ModeKeys.PREDICT else labels, begin
        return result, None, begin

    def _scaffold(self, spec: EstimatorSpec) -> Scaffold:
        scaffold = spec.scaffold or Scaffold()
        if scaffold.saver is None:
            scaffold.saver = Saver(max_to_keep=self._config.keep_checkpoint_max)
        return scaffold

    def _checkpoint(self, path: str | None, what: str) -> str:
        path = path or self.latest_checkpoint()
        if path is None or not checkpoint_exists(path):
            raise UsageError(
                f"Estimator.{what}: Could not find trained model in model_dir: {self.model_dir}. Train it."
            )
        return path

    def step_of(self, path: str | None) -> int:
        """The global step of a checkpoint, as rank 0 reads it; 0 of None."""
        step, comm = np.zeros(1, np.int64), world()
        if path is not None:
            with comm.together():
                if comm.rank == 0:
                    step[0] = read_variables(path, ["global_step"])["global_step"]
        return int(comm.broadcast(step)[0])


def _watched() -> bool:
    """Whether there is TensorBoard to write event files with, as rank 0 finds."""
    found = importlib.util.find_spec("tensorboard") is not None
    return bool(world().broadcast(np.array([found], np.uint8))[0])


class _Begin(SessionRunHook):
    """Begins a pass over the input."""

    def __init__(self, initializer: Any) -> None:
        self._initializer = initializer

    def after_create_session(self, session: Any, coord: Any) -> None:
        session.run(self._initializer)


class _EvaluateWhereSaved:
    """Evaluates after checkpoints, as often as the specification says, by rank 0's clock."""

    def __init__(self, estimator: Estimator, spec: EvalSpec) -> None:
        self._estimator, self._spec = estimator, spec
        self._last = time.monotonic()
        self.at = -1
        self.results: dict[str, Any] | None = None

    def begin(self) -> None:
        pass

    def before_save(self, session: Any, step: int) -> None:
        pass

    def after_save(self, session: Any, step: int) -> None:
        due = np.array([step > 0 and time.monotonic() - self._last >= self._spec.throttle_secs], np.uint8)
        if session.comm.broadcast(due)[0]:
            self.evaluate(step)

    def end(self, session: Any, step: int) -> None:
        pass

    def evaluate(self, step: int) -> None:
        spec = self._spec
        found = self._estimator.evaluate(spec.input_fn, spec.steps, spec.hooks, name=spec.name)
        self.at, self.results = step, found
        self._last = time.monotonic()


def train_and_evaluate(
    estimator: Estimator, train_spec: TrainSpec, eval_spec: EvalSpec
) -> tuple[dict[str, Any] | None, list[Any]]:
    """Train, evaluate at checkpoints and at the end; returns the last metrics, and [].

    Raises:
        UsageError: exporters are given.
    """
    if eval_spec.exporters:
        raise UsageError("train_and_evaluate: exporters are not supported: models are not exported.")
    listener = _EvaluateWhereSaved(estimator, eval_spec)
    estimator.train(
        train_spec.input_fn, train_spec.hooks, max_steps=train_spec.max_steps, saving_listeners=[listener]
    )
    step = estimator.step_of(estimator.latest_checkpoint())
    if step != listener.at:
        listener.evaluate(step)
    return listener.results, []
