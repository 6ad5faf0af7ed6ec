"""Sequential: layers one after the other, trained, tested and saved as Keras does it."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from dtrain.comm.base import every_rank
from dtrain.compat import module_getattr
from dtrain.errors import UsageError
from dtrain.hints import nearest
from dtrain.keras import data, run, saving, training
from dtrain.keras.callbacks import Callback, Callbacks, Following, History
from dtrain.keras.layers import Layer
from dtrain.keras.optimizers import Optimizer
from dtrain.keras.progress import Bar
from dtrain.keras.stack import Stack
from dtrain.keras.training import TEST_BATCH
from dtrain.ops.state import Variable
from dtrain.train.batches import epoch_order, iterations, shard_sizes, windows
from dtrain.train.engine import Engine
from dtrain.train.observer import Observer, Observers
from dtrain.train.state import Progress

__all__ = ["Sequential", "clone_model", "load_model", "model_from_json"]

__getattr__ = module_getattr("tf.keras.models")


class Sequential(Stack):
    __doc__ = Stack.__doc__

    def __init__(
        self, layers: Sequence[Layer] | None = None, name: str | None = None, **options: Any
    ) -> None:
        self.stop_training = False
        self.history: History | None = None
        self._compiled: training.Compiled | None = None
        self._networks: dict[Any, training.Network] = {}
        self._passes = 0  # epochs of training, which number the orders of the examples
        self._order_seed: int | None = None
        self._optimizer_state: list[np.ndarray] | None = None  # loaded, for slots that are made when fit runs
        super().__init__(layers, name, **options)

    def _changed(self) -> None:
        self._networks.clear()

    def initialize(self, more: Sequence[Variable] = ()) -> None:
        state = self._compiled.variables if self._compiled else []
        super().initialize([*more, *state])
        if state and self._optimizer_state is not None:
            saving.restore_state(self, state, self._optimizer_state)
            self._optimizer_state = None

    # -- training --------------------------------------------------------------------------------------
    @every_rank
    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **options: Any,
    ) -> None:
        """Say how the model is trained and measured; the optimizer's state starts anew.

        Args:
            optimizer: a name such as 'adam', or an object of dt.keras.optimizers or dt.train.
            loss: a name, an object of dt.keras.losses, or a function (y_true, y_pred).
            metrics: names, objects or functions; 'accuracy' is the one that fits the loss. weighted_metrics:
                those that sample_weight and class_weight weigh.
            options: run_eagerly, jit_compile, steps_per_execution and auto_scale_loss have no meaning here.

        Raises:
            UsageError: one of them is not known, or the loss does not fit the last layer.
        """
        _refuse("compile", {k: v for k, v in options.items() if k not in _NO_MEANING})
        with self._building, self.comm.together():
            self._compiled = training.Compiled(self, optimizer, loss, metrics, weighted_metrics)
            self._networks = {key: n for key, n in self._networks.items() if key[0] == "predicting"}
            self._optimizer_state = None
            self.session.numerics.look_again()
            self.check_compiled("compile")

    def check_compiled(self, what: str) -> training.Compiled:
        """What compile() settled; raises UsageError where it was not called or the loss does not fit."""
        if self._compiled is None:
            raise UsageError(
                f"{what}: {self.name} is not compiled: call {self.name}.compile(optimizer='adam', loss=...) "
                "first."
            )
        if self.build_shape is not None:
            layer, activation, output = self.last_output()
            self._compiled.loss.fits(layer, activation, output)
        return self._compiled

    @property
    def compiled(self) -> training.Compiled:
        return self.check_compiled(self.name)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that the model is compiled with, whose learning_rate may be changed."""
        return self.compiled.optimizer

    @property
    def metrics_names(self) -> list[str]:
        """What evaluate returns, in this order."""
        return ["loss", *(metric.name for metric, _ in self.compiled.metrics)]

    def _network(self, mode: str, examples: data.Examples, votes: bool = False) -> training.Network:
        """The graph for such examples, made once."""
        frozen = tuple(layer.trainable for layer in self._layers)
        key = (mode, examples.rows, frozen, votes)
        with self._building:
            if key not in self._networks:
                self._networks[key] = training.Network(self, mode, examples.rows, votes)
            return self._networks[key]

    @every_rank
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int = 1,
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: None = None,
        validation_steps: None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool | str = False,
        checkpoint_every: int = 0,
        keep: int = 3,
        **options: Any,
    ) -> History:
        """Train; returns the History, whose history has a list for the loss and for each metric.

        Args:
            x, y: arrays of examples and labels, whole on every rank.
            batch_size: examples of a step over all ranks together, 32 by default.
            epochs: the number of the last epoch; initial_epoch: the number of the first, counted from 0.
            verbose: 0 prints nothing, 1 a bar for each epoch, 2 a line.
            validation_split: the share of the examples, from the end, that is not trained on but tested after
                each epoch. validation_data: (x, y) or (x, y, sample_weight) to test on instead.
            shuffle: whether each epoch has an order of its own, a function of the seed and the epoch alone.
            class_weight: class -> weight of its examples in the loss, 1 where it is not named; those held
                back for validation are not weighed. sample_weight: one for each, also of those held back.
            steps_per_epoch, validation_steps: only None: an epoch is a pass over the arrays.
            validation_batch_size: examples of a step of the test; changes no result.
            validation_freq: epochs from one test to the next, or the numbers of those with one, from 1.
            run_dir: a folder in which the fit is recorded and saved as a run of `dtrain train` is, behind
                each epoch and every checkpoint_every steps; `dtrain report` reads it. A signal to stop
                (SIGTERM, Ctrl-C) saves and ends the program. keep: how many checkpoints stay.
            resume: True goes on with the run in run_dir, bit for bit; 'auto' where it holds one.
            options: Keras 2's max_queue_size, workers and use_multiprocessing have no meaning here.

        Raises, on every rank:
            UsageError: the model is not compiled, or an argument does not fit.
            CheckpointError: the run is to be resumed and cannot be.
        """
        _refuse("fit", {k: v for k, v in options.items() if k not in _NO_MEANING})
        batch_size = 32 if batch_size is None else batch_size
        with self.comm.together():
            _check_fit(batch_size, verbose, validation_split, steps_per_epoch, validation_steps)
            if validation_batch_size is not None:
                _counts("fit", validation_batch_size, "validation_batch_size")
            _check_freq(validation_freq)
            self.check_compiled("fit")
            recorded = None
            if run_dir is not None:
                recorded = run.options_of(self, run_dir, resume, batch_size, epochs)
                _counts("fit", keep, "keep")
            validation = None if validation_data is None else _two_or_three(validation_data)
        verbose = _verbose(verbose)
        share = validation_split if validation is None else 0.0
        given = data.examples(self, "fit", x, y, sample_weight, class_weight, validation_split=share)
        tested, trained_on, held_out = given, range(given.split), range(given.split, given.count)
        if validation is not None:
            tested = data.examples(self, "fit: validation_data", *validation)
            held_out = range(tested.count)
        test_order = np.arange(held_out.start, held_out.stop, dtype=np.int32)
        network = self._network("training", given, votes=recorded is not None)
        tester = self._network("testing", tested) if len(test_order) else None
        names = self.metrics_names
        history = self.history = History()
        followers = [*(callbacks or ()), history]
        call = Callbacks(
            self,
            followers,
            {
                "batch_size": batch_size,
                "epochs": epochs,
                "samples": len(trained_on),
                "steps": None,
                "verbose": verbose,
                "do_validation": tester is not None,
                "metrics": names + [f"val_{name}" for name in names] * (tester is not None),
                "resumed": False,
            },
        )
        if verbose:
            validated = f", validate on {len(test_order)} samples" if tester else ""
            self.rank_zero.says(f"Train on {len(trained_on)} samples{validated}")
        self.stop_training = False
        self._passes = max(initial_epoch, self._passes)
        at, found, begun = Progress(epoch=initial_epoch + 1), None, time.perf_counter()
        observers: list[Observer] = [Following(self, call)]
        with ExitStack() as stack:
            around: dict[str, Any] = {}
            if recorded is not None:
                facts = {
                    "examples": len(trained_on),
                    "test_examples": len(test_order),
                    "shards": shard_sizes(trained_on, batch_size, self.comm.size),
                    "model": self.name,
                    "parameters": self.count_params(),
                    "optimizer": recorded.optimizer,
                    "lr": float(self.optimizer.learning_rate),
                    "batch_size": batch_size,
                    "iterations_per_epoch": iterations(trained_on, batch_size),
                    "epochs": epochs,
                    "seed": self.graph.seed,
                    "dataset": "arrays",
                    "source": recorded.program,
                }
                fit = run.recorded(self, recorded, given, followers, facts, at, checkpoint_every, keep)
                found, report, around = stack.enter_context(fit)
                observers.insert(0, report)
            call.params["resumed"] = found is not None
            call("train_begin", {})
            if found is not None:
                at = found.at
                run.take(self, followers, found)
            first = self._passes - at.epoch + 1  # a model that was trained before goes on with other orders

            def test() -> dict[str, float]:
                self._passes = first + at.epoch
                if tester is None or not _is_due(validation_freq, at.epoch):
                    return {}
                call("test_begin", {})
                rows = validation_batch_size or TEST_BATCH
                found = training.test(self, tester, tested, test_order, rows, _quiet)
                call("test_end", found)
                return found

            # a callback may change anything behind a batch, and a rate that decays is another in each step
            one = call.listen_to_batches or self.optimizer.decay
            Engine(
                self.comm,
                training.Steps(self, network, given),
                lambda epoch: self._order(first + epoch - 1, trained_on, shuffle),
                batch_size,
                epochs,
                at,
                Observers(*observers),
                test,
                (lambda: 1) if one else network.pace,
                **around,
            ).run()
            if recorded is not None:
                tested_last = {f"test_{name}": value for name, value in at.tested.items()}
                seconds = time.perf_counter() - begun
                report.done(**tested_last, seconds=seconds, run_dir=recorded.run_dir)
        call("train_end", {})
        return history

    def _order(self, epoch: int, examples: range, shuffle: bool) -> np.ndarray:
        """The order of an epoch's examples: a function of the seed and the epoch."""
        if not shuffle:
            return np.arange(examples.start, examples.stop, dtype=np.int32)
        if self._order_seed is None:
            drawn = self.rank_zero.decides([np.random.randint(2**31)])[
                0
            ]  # as Keras, so that np.random.seed counts
            self._order_seed = int(drawn) if self.graph.seed is None else self.graph.seed
        return epoch_order(self._order_seed, epoch, examples)

    @every_rank
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = 1,
        sample_weight: Any = None,
        return_dict: bool = False,
        **options: Any,
    ) -> Any:
        """The loss over all examples or, with metrics, a list of the loss and them (metrics_names says
        which).

        Exact over the whole set: batch_size, by default large, changes the speed and the memory, not the
        result.

        Raises, on every rank:
            UsageError: the model is not compiled, or an argument does not fit.
        """
        _refuse("evaluate", options)
        batch_size = TEST_BATCH if batch_size is None else batch_size
        with self.comm.together():
            _counts("evaluate", batch_size)
            self.check_compiled("evaluate")
        given = data.examples(self, "evaluate", x, y, sample_weight)
        network = self._network("testing", given)
        progress = Bar(self.rank_zero, _verbose(verbose), given.count)
        order = np.arange(given.count, dtype=np.int32)
        found = training.test(self, network, given, order, batch_size, _shows(progress))
        progress.ends(found)
        found = dict(zip(found, self.rank_zero.decides(list(found.values())), strict=True))
        values = list(found.values())
        return found if return_dict else values if len(values) > 1 else values[0]

    @every_rank
    def predict(
        self, x: Any, batch_size: int | None = None, verbose: int | str = 0, **options: Any
    ) -> np.ndarray:
        """The outputs for examples, in their order, float32 [n, ...]."""
        _refuse("predict", options)
        batch_size = TEST_BATCH if batch_size is None else batch_size
        with self.comm.together():
            _counts("predict", batch_size)
        given = data.examples(self, "predict", x, labelled=False)
        network = self._network("predicting", given)
        progress = Bar(self.rank_zero, _verbose(verbose), given.count)
        outputs = training.predict(self, network, given, batch_size, _shows(progress))
        progress.ends({})
        return outputs

    def predict_classes(self, x: Any, batch_size: int | None = None, verbose: int = 0) -> np.ndarray:
        """The class of each example: the largest output's number; of one output, whether it is above 1/2."""
        outputs = self.predict(x, batch_size, verbose)
        return outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs > 0.5).astype(np.int32)

    @every_rank
    def train_on_batch(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on one batch; returns what evaluate does, as of before the step."""
        with self.comm.together():
            self.check_compiled("train_on_batch")
        given = data.examples(self, "train_on_batch", x, y, sample_weight, class_weight)
        order = np.arange(given.count, dtype=np.int32)
        steps = training.Steps(self, self._network("training", given), given)
        (window,) = windows(order, given.count, self.comm, lambda: 1)
        ((loss, sums, _),) = steps.step(window, None)
        found = steps.results(loss * given.count, sums, given.count)
        values = list(found.values())
        return found if return_dict else values if len(values) > 1 else values[0]

    def test_on_batch(self, x: Any, y: Any, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """evaluate, without printing."""
        return self.evaluate(x, y, verbose=0, sample_weight=sample_weight, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """predict."""
        return self.predict(x)

    # -- files -----------------------------------------------------------------------------------------
    def to_json(self, **options: Any) -> str:
        """get_config as JSON, which model_from_json takes."""
        return json.dumps(saving.about(self), **options)

    def save(
        self, filepath: str | os.PathLike[str], overwrite: bool = True, include_optimizer: bool = True
    ) -> None:
        """Write the model: one safetensors file, its layers and what compile() settled as JSON in its header.

        Rank 0 writes, and needs no other rank for it once the model has its weights.

        Raises:
            EnvironmentProblem: it cannot be written. UsageError: a part has no plain form; or the file is
                there, and overwrite is False.
        """
        saving.save(self, filepath, overwrite, whole=True, optimizer=include_optimizer)

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the weights alone, as safetensors."""
        saving.save(self, filepath, overwrite, whole=False, optimizer=False)

    @every_rank
    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Take the weights of a file that save or save_weights wrote.

        Raises, on every rank:
            CheckpointError: it is missing, damaged, or of a model with other layers.
        """
        saving.load_weights(self, filepath)


# -- functions -------------------------------------------------------------------------------------------
load_model, model_from_json = saving.load_model, saving.model_from_json


def clone_model(model: Sequential) -> Sequential:
    """A model with the same layers and new weights."""
    config = {**model.get_config(), "input_shape": None}
    return Sequential.from_config(config, comm=model.comm)


def _quiet(done: int) -> None: ...


def _shows(progress: Bar) -> Callable[[int], None]:
    return lambda done: progress.moves(done, {}) if progress.due() else None


#: Arguments of Keras's that change no result.
_NO_MEANING = {"run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss"} | {
    *("max_queue_size", "workers", "use_multiprocessing")
}


def _refuse(what: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for an argument that there is not here, unless it is None."""
    for name, value in options.items():
        if value is not None:
            near = nearest(name, inspect.signature(getattr(Sequential, what)).parameters)
            fix = "give it the examples that are meant, x[:n]" if name == "steps" else "leave it out"
            fix = f"did you mean {near}?" if near else f"{fix}."
            raise UsageError(f"{what}: {name}={value!r} is not supported: {fix}")


def _verbose(verbose: Any) -> int:
    return 1 if verbose == "auto" else int(verbose)


def _counts(what: str, number: Any, name: str = "batch_size") -> None:
    if isinstance(number, bool) or not hasattr(number, "__index__") or number < 1:
        raise UsageError(f"{what}: {name}={number!r}: give a whole number from 1 up.")


def _check_freq(freq: Any) -> None:
    if not isinstance(freq, list | tuple | set):
        _counts("fit", freq, "validation_freq")


def _is_due(freq: Any, epoch: int) -> bool:
    """Whether there is a test behind this epoch, counted from 1, as Keras 3 has it."""
    return epoch in freq if isinstance(freq, list | tuple | set) else epoch % freq == 0


def _check_fit(batch_size: Any, verbose: Any, validation_split: Any, *steps: Any) -> None:
    _counts("fit", batch_size)
    if steps != (None, None):
        raise UsageError(
            "fit: an epoch is a pass over the arrays: leave out steps_per_epoch, validation_steps."
        )
    if not 0 <= validation_split < 1:
        raise UsageError(f"fit: validation_split={validation_split}: give a share from 0 to less than 1.")
    if verbose not in (0, 1, 2, "auto"):
        raise UsageError(f"fit: verbose={verbose!r}: give 0 (silent), 1 (a bar) or 2 (a line an epoch).")


def _two_or_three(validation_data: Any) -> Any:
    if not isinstance(validation_data, list | tuple) or len(validation_data) not in (2, 3):
        raise UsageError("fit: validation_data is (x, y) or (x, y, sample_weight).")
    return validation_data
