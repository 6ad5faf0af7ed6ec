"""Model: a network of layers, trained, tested and saved as Keras does it."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.comm.base import Communicator, every_rank
from dtrain.config import steps_of
from dtrain.data.dataset import Part
from dtrain.data.order import epoch_order, order_of
from dtrain.errors import UsageError
from dtrain.graph.graph import Graph, Tensor, TensorLike
from dtrain.hints import nearest
from dtrain.keras import data, legacy, run, saving, training
from dtrain.keras.callbacks import Callback, Callbacks, Following, History
from dtrain.keras.calls import Replay, call_of, flat, gathered, inside
from dtrain.keras.home import WORLD
from dtrain.keras.layers import Layer
from dtrain.keras.layers.inputs import Input
from dtrain.keras.optimizers import Optimizer
from dtrain.keras.progress import Bar
from dtrain.keras.sources import Arrays, Computed, Source, gives_batches, source_of
from dtrain.keras.topology import Topology, all_parts
from dtrain.keras.training import TEST_BATCH
from dtrain.ops.state import Variable
from dtrain.runtime.config import ConfigProto
from dtrain.train.batches import shard_sizes, windows
from dtrain.train.engine import Engine
from dtrain.train.observer import Observer, Observers
from dtrain.train.state import Progress


class Model(Topology):
    """A network from inputs, tensors that Input() returned, to outputs, made of them by calls of layers.

    Or a base class: a subclass defines `call`, its attributes are its layers, and fit or build completes it.

    A model is in the graph of its inputs, with the models that it shares layers with. Its random numbers
    follow from dt.set_random_seed, if that was called before. Any thread may call it: steps follow one
    another, and each is as if it were alone. On several ranks every method is collective: each rank calls it,
    from one thread and with the same arrays, and gets the same results.

    Args:
        inputs: a tensor, or a list of them.
        outputs: a tensor, or a list of them.
        name: name of the model.
        comm: the ranks that work together, by default all; None for this rank alone.
        device: cpu, gpu or auto; by default $DTRAIN_DEVICE, else cpu.
        config: options of its session, such as ConfigProto(check_numerics=True).

    Raises:
        UsageError: an output does not depend on the inputs alone.
    """

    def __init__(
        self,
        inputs: Any = None,
        outputs: Any = None,
        name: str | None = None,
        *,
        comm: Communicator | None = WORLD,
        device: str | None = None,
        config: ConfigProto | None = None,
    ) -> None:
        self.stop_training = False
        self.history: History | None = None
        self._compiled: training.Compiled | None = None
        self._targets: Any = None  # tensors of labels that compile() was given
        self._networks: dict[Any, training.Network] = {}
        self._passes = 0  # epochs of training, which number the orders of the examples
        self._order_seed: int | None = None
        self._loss_tensors: training.LossTensors | None = None
        self._weighs_steps = False
        self._optimizer_state: list[np.ndarray] | None = None  # loaded, for slots that are made when fit runs
        self.added_losses: list[Tensor] = []
        self.added_metrics: list[tuple[str, Tensor]] = []
        super().__init__(name, comm=comm, device=device, config=config)
        if (inputs is None) != (outputs is None):
            raise UsageError(f"{self.name}: give inputs and outputs.")
        if inputs is not None:
            tensors = flat(inputs), flat(outputs)
            if not all(tensors):
                raise UsageError(
                    f"{self.name}: inputs={inputs!r}, outputs={outputs!r}: give tensors, those of Input() "
                    "and those that layers made of them."
                )
            self._define(*tensors)

    def _changed(self) -> None:
        self._networks.clear()
        self._loss_tensors = None

    if not TYPE_CHECKING:  # which would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            """targets, sample_weights and total_loss, as in Keras 2, where a program has not its own."""
            at = {"targets": 0, "sample_weights": 1, "total_loss": 2}.get(name)
            if at is None or self.__dict__.get("_compiled") is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return self.loss_tensors[at]

    @property
    def loss_tensors(self) -> training.LossTensors:
        """Placeholders of labels and weights, and the loss of them, made once."""
        if self._loss_tensors is None:
            with self._building, self.comm.together():
                self._complete()
                self._loss_tensors = training.loss_tensors(self, self._weighs_steps)
        return self._loss_tensors

    # -- custom classes --------------------------------------------------------------------------
    @every_rank
    def build(self, input_shape: Any = None) -> None:
        """Make what has no weights yet, for batches of this shape, or of these: a list of shapes.

        Raises:
            UsageError: the shapes are not known.
        """
        if self.built:
            return
        if input_shape is None:
            raise UsageError(
                f"{self.name} does not know the shape of an example yet: call build or fit first."
            )
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        with self._building, self.comm.together(), self.graph.as_default(), inside(0):
            inputs = [Input(tuple(s)[1:] if tuple(s)[:1] == (None,) else tuple(s)) for s in shapes]
            own = self._tracked
            x = inputs[0] if len(inputs) == 1 else inputs
            self._define(inputs, flat(self._own_call(x, None)))
            self._layers = [*own, *(layer for layer in self._layers if layer not in own)]

    @property
    def _tracked(self) -> list[Layer]:
        return Layer.parts.fget(self)  # type: ignore[attr-defined]  # of a property

    @property
    def parts(self) -> list[Layer]:
        return self._layers or self._tracked

    def _own_call(self, x: Any, training: Any) -> Any:
        takes = inspect.signature(self.call).parameters
        return self.call(x, training=training) if "training" in takes else self.call(x)

    @property
    def _is_own(self) -> bool:
        return type(self).call is not Topology.call

    def replayed(self, inputs: Sequence[Tensor], training: Any) -> tuple[list[Tensor], Replay]:
        if not self._is_own:
            return super().replayed(inputs, training)
        replay = Replay(dict(zip(self.inputs, inputs, strict=True)), training)
        with replay.block():
            return flat(self._own_call(inputs[0] if len(inputs) == 1 else list(inputs), training)), replay

    def _make(self, graph: Graph, form: Any, x: Any) -> None:
        super()._make(graph, form, x)
        if self._is_own and not self.built:
            self.built, self.input_shape = True, form
            self._layers = self._tracked

    def add_loss(self, losses: Any, inputs: Any = None) -> None:
        """Add a tensor that was computed of the model's to its loss."""
        if gathered() is not None:
            super().add_loss(losses)
        else:
            self.added_losses += losses if isinstance(losses, list | tuple) else [losses]
            self._changed()

    def add_metric(self, value: Tensor, name: str | None = None, aggregation: str | None = "mean") -> None:
        """Report the mean over the examples of a tensor that was computed of the model's, under this name."""
        if aggregation not in (None, "mean"):
            raise UsageError(f"add_metric: aggregation={aggregation!r}: only 'mean' is supported.")
        self.added_metrics.append((name or f"metric_{len(self.added_metrics)}", value))
        self._changed()

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
        loss_weights: Any = None,
        sample_weight_mode: Any = None,
        target_tensors: Any = None,
        **options: Any,
    ) -> None:
        """Set how the model is trained and measured; the optimizer's state starts anew.

        Whether the loss fits the last layer is checked at its first use: a generator may be compiled with any
        loss, and be trained only as part of another model.

        Args:
            optimizer: a name such as 'adam', or an object of dt.keras.optimizers or dt.train.
            loss: a name, an object of dt.keras.losses, or a function (y_true, y_pred); for several outputs a
                list, or a dict by their names, in which None is no loss. None where add_loss defines the
                loss.
            metrics: names, objects or functions; 'accuracy' is the one that fits the loss. For several
                outputs a list for each, a dict by their names, or some for every output.
            weighted_metrics: metrics that sample_weight and class_weight apply to.
            loss_weights: factors of the outputs' losses, a list or a dict.
            sample_weight_mode: None, or 'temporal', or one for each output; sample_weight of shape [n, steps]
                weighs steps either way.
            target_tensors: a tensor of the labels, or a list of one for each output, if fit is given none
                because the inputs are tensors, too: Input(tensor=...).
            options: accepted without effect: run_eagerly, jit_compile, steps_per_execution, auto_scale_loss.

        Raises:
            UsageError: one of them is not known.
        """
        _refuse("compile", options)
        given = sample_weight_mode.values() if isinstance(sample_weight_mode, Mapping) else sample_weight_mode
        modes = [given] if isinstance(given, str) else list(given or ())
        for mode in modes:
            if mode not in (None, "temporal"):
                raise UsageError(f"compile: sample_weight_mode={mode!r}: give None or 'temporal'.")
        self._weighs_steps, self._loss_tensors = "temporal" in modes, None
        many = isinstance(target_tensors, list | tuple)
        self._targets = target_tensors if many or target_tensors is None else [target_tensors]
        with self._building, self.comm.together():
            how = loss, metrics, weighted_metrics, loss_weights
            self._compiled = training.Compiled(self, optimizer, *how)
            self._networks = {key: n for key, n in self._networks.items() if key[0] == "predicting"}
            self._optimizer_state = None
            self.session.numerics.look_again()

    def show_accuracy(self) -> None:
        """Measure the accuracy, too, where compile was given no metrics, as Keras 1's methods did."""
        compiled = self._compiled
        if compiled is None or compiled.given[1] or compiled.given[2]:
            return
        loss, _, _, loss_weights = compiled.given
        mode = "temporal" if self._weighs_steps else None
        self.compile(compiled.optimizer, loss, ["accuracy"], None, loss_weights, mode, self._targets)

    def check_compiled(self, what: str) -> training.Compiled:
        """What compile() settled; raises UsageError where it was not called or the loss does not fit."""
        if self._compiled is None:
            raise UsageError(
                f"{what}: {self.name} is not compiled: call {self.name}.compile(optimizer='adam', loss=...) "
                "first."
            )
        if self.is_complete:
            for loss, end in zip(self._compiled.losses, self.ends(), strict=True):
                if loss is not None:
                    loss.fits(*end)
        return self._compiled

    @property
    def is_complete(self) -> bool:
        """Whether its shapes are known."""
        return self.built

    @property
    def stateful(self) -> bool:
        """Whether a batch begins with the states that the one before it left."""
        return any(getattr(layer, "stateful", False) for layer in all_parts(self))

    def reset_states(self) -> None:
        """Let the next batch begin with states of zeros. Collective."""
        layer: Any
        for layer in all_parts(self):
            if getattr(layer, "stateful", False):
                layer.reset_states()

    @property
    def may_lack_loss(self) -> bool:
        """Whether add_loss, here or in a layer of the user's own, may say all of the loss."""
        own = any(not type(layer).__module__.startswith("dtrain.") for layer in all_parts(self))
        return bool(self.added_losses) or own or self._is_own

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
        return self.compiled.names

    @property
    def may_fix_batch(self) -> bool:
        """Whether something may be written for one size of batch: a function or a layer of the user's own."""
        own = (type(p).__name__ == "Lambda" or type(p).__module__[:7] != "dtrain." for p in all_parts(self))
        return any(own)

    def given_tensors(self, what: str, x: Any, y: Any, labelled: bool) -> Computed:
        """Where batches come from if x is a tensor, or None: then from those that Input was given.

        Raises:
            UsageError: it was given none, there are no labels, or both tensors and arrays.
        """
        if x is None:
            layers = [call.layer for t in self.inputs if (call := call_of(t)) is not None]
            x = [getattr(layer, "tensor_given", None) for layer in layers]
            y = self._targets if y is None else y
            if not x or any(t is None for t in x):
                raise UsageError(f"{what}: x is missing: give arrays, or a model of Input(tensor=...).")
        labels = y if isinstance(y, list | tuple) else [y]
        if labelled and not all(isinstance(t, TensorLike) for t in labels):
            raise UsageError(
                f"{what}: x is a tensor, and its labels have to be one as well: compile with target_tensors, "
                "or give y as a tensor."
            )
        x, y = (v[0] if isinstance(v, list | tuple) and len(v) == 1 else v for v in (x, y))
        return Computed((x, y) if labelled else x)

    def network(self, mode: str, examples: data.Examples, votes: bool = False) -> training.Network:
        """The graph for such examples, made once."""
        key = (mode, examples.rows, examples.index, votes)
        with self._building:
            if key not in self._networks:
                self._networks[key] = training.Network(self, *key)
            return self._networks[key]

    @legacy.named
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
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool | str = False,
        checkpoint_every: int = 0,
        keep: int = 3,
        profile: str | None = None,
        bitwise: bool | None = None,
        **options: Any,
    ) -> History:
        """Train the model. Collective.

        Args:
            x, y: arrays of examples and labels, whole on every rank. Or x alone, which yields batches (x, y)
                or (x, y, sample_weight), the same on every rank: a generator, another iterable, or an object
                with __len__ and __getitem__ as keras.utils.Sequence has them. The end of a generator ends the
                training.
            batch_size: examples of a step over all ranks together, by default 32; for arrays.
            epochs: the number of the last epoch.
            verbose: 0 prints nothing, 1 a bar for each epoch, 2 a line.
            callbacks: objects of dt.keras.callbacks.
            validation_split: the fraction of the examples, from the end, that is tested after each epoch
                instead of trained on.
            validation_data: (x, y), (x, y, sample_weight), or what yields such batches, to test on instead.
            shuffle: whether each epoch has its own order, a function of the seed and the epoch alone: of the
                arrays' examples, or of a Sequence's batches.
            class_weight: class -> weight of its examples in the loss, by default 1; not for validation.
            sample_weight: one weight for each example, also for validation_split's.
            initial_epoch: the number of the first epoch, counted from 0.
            steps_per_epoch: batches of an epoch, by default all; the next epoch continues after them. A pass
                over arrays or a Sequence that ends within an epoch ends it, as in Keras 3.
            validation_steps: batches of a test, of arrays the first.
            validation_batch_size: examples of a step of the test, with validation_steps by default
                batch_size; without them it changes no result.
            validation_freq: epochs from one test to the next, or the numbers of those with one, counted from
                1.
            run_dir: a folder in which the fit is recorded and saved as a run of `dtrain train` is; `dtrain
                report` reads it. A signal to stop (SIGTERM, Ctrl-C) saves and ends the program.
            resume: True resumes the run in run_dir, bit for bit; 'auto' does so if there is one. Batches that
                the run has used are skipped: those of a Sequence by number, others are drawn and dropped.
            checkpoint_every: steps between two checkpoints in run_dir, besides one after each epoch; 0 for
                none.
            keep: how many checkpoints are kept.
            profile: "FIRST:LAST", steps counted from 0: run_dir gets a timeline of all ranks, trace.json, and
                a table of where their time went.
            bitwise: whether every value is the same bits on any number of ranks (docs/bitwise.md), in the
                model's later calls too; None leaves it as it is.
            options: accepted for Keras 2 without effect: max_queue_size, workers, use_multiprocessing.

        Returns:
            History: its history has a list for the loss and for each metric.

        Raises:
            UsageError: on every rank, if the model is not compiled, or an argument is invalid.
            CheckpointError: on every rank, if the run cannot be resumed.
        """
        _refuse("fit", options)
        if run.for_study:
            run_dir, profile = run.for_study.pop()
        batch_size = 32 if batch_size is None else batch_size
        with self.comm.together():
            _check_fit(batch_size, verbose, validation_split)
            for name, number in (
                ("steps_per_epoch", steps_per_epoch),
                ("validation_steps", validation_steps),
                ("validation_batch_size", validation_batch_size),
            ):
                if number is not None:
                    _counts("fit", number, name)
            if not isinstance(validation_freq, list | tuple | set):
                _counts("fit", validation_freq, "validation_freq")
            self.check_compiled("fit")
            recorded = None
            window = None if profile is None else steps_of(profile, f"fit: profile={profile!r}")
            if window and run_dir is None:
                raise UsageError("fit: profile= needs run_dir=, the folder that gets the timeline.")
            if run_dir is not None:
                recorded = run.options_of(self, run_dir, resume, batch_size, steps_per_epoch, epochs)
                _counts("fit", keep, "keep")
            validation = None
            if validation_data is not None:
                batched = gives_batches(validation_data)
                validation = (validation_data,) if batched else _two_or_three(validation_data)
        verbose = _verbose(verbose)
        if bitwise is not None:
            self.session.bitwise = bool(bitwise)

        def order(epoch: int, numbers: range | Part) -> Any:
            return self._order(first + epoch, numbers)

        begin, first = initial_epoch + 1, 1
        source = source_of(
            self,
            "fit",
            (x, y, sample_weight),
            batch_size,
            steps_per_epoch,
            class_weight=class_weight,
            validation_split=validation_split if validation is None else 0.0,
            begin=begin,
            order=order if shuffle else None,
        )
        given = source.first(begin)
        fixed = validation_steps or self.stateful or self.may_fix_batch
        rows = validation_batch_size or (batch_size if fixed else TEST_BATCH)
        tested: Source | None
        if validation is None:
            tested = source.held_back(rows, validation_steps)
        else:
            what = "fit: validation_data"
            tested = source_of(self, what, validation, rows, validation_steps, tests=True)
        total = source.steps and source.steps * (epochs - initial_epoch)
        if window and total and window[0] >= total:
            self.comm.agree(UsageError(f"fit: profile={profile!r}: this fit has {total} steps."))
        steps = training.Steps(self, votes=recorded is not None)
        network = steps.takes(given)
        if tested is not None:
            self.network("testing", tested.first(0))
        names = self.metrics_names
        history = self.history = History()
        followers = [*(callbacks or ()), history]
        if isinstance(tested, Arrays):
            tested.shows(followers)
        call = Callbacks(
            self,
            followers,
            {
                "batch_size": batch_size,
                "epochs": epochs,
                "samples": source.count,
                "steps": source.steps if steps_per_epoch or source.count is None else None,
                "verbose": verbose,
                "do_validation": tested is not None,
                "metrics": names + [f"val_{name}" for name in names] * (tested is not None),
                "resumed": False,
            },
        )
        if verbose and source.count:
            validated = f", validate on {tested.count} samples" if tested and tested.count else ""
            self.rank_zero.says(f"Train on {source.count} samples{validated}")
        self.stop_training = False
        self._passes = max(initial_epoch, self._passes)
        at, found, started = Progress(epoch=begin), None, time.perf_counter()
        observers: list[Observer] = [Following(self, call)]
        with ExitStack() as stack:
            around: dict[str, Any] = {}
            if recorded is not None:
                facts = {
                    "examples": source.count,
                    "validation_examples": tested.count if tested else 0,
                    "test_examples": 0,
                    "shards": shard_sizes(range(source.count or 0), batch_size, self.comm.size),
                    "model": self.name,
                    "parameters": self.count_params(),
                    "optimizer": recorded.optimizer,
                    "lr": float(self.optimizer.learning_rate),
                    "batch_size": batch_size if source.count else given.count,
                    "iterations_per_epoch": source.steps,
                    "epochs": epochs,
                    "seed": self.graph.seed,
                    "dataset": "arrays" if source.count else "batches",
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
            first = self._passes - at.epoch + 1  # a model that was trained before continues with other orders
            if shuffle and not source.once:
                self._settle_order()
            tests = sum(_is_due(validation_freq, epoch) for epoch in range(begin, at.epoch))
            if found is not None and at.epoch <= epochs:
                source.skip(begin, at.epoch, at.iteration)
                if tested is not None:
                    tested.skip(0, tests, 0)

            def test() -> dict[str, float]:
                nonlocal tests
                self._passes = first + at.epoch
                if tested is None or not _is_due(validation_freq, at.epoch):
                    return {}
                call("test_begin", {})
                parts = tested.parts("testing", tests)
                tests += 1
                found = training.test(self, parts, tested.batch_size, _quiet)
                call("test_end", found)
                return found

            # a callback may change anything after a batch, and a rate that decays is another in each step
            one = call.listen_to_batches or self.optimizer.decay or window
            profiler = None
            if window is not None and recorded is not None:
                from dtrain.train.profile import StepProfiler

                profiler = StepProfiler(self.session, steps.step, window, Path(recorded.run_dir))
                steps.step = profiler  # type: ignore[method-assign]  # takes the steps from here on
            Engine(
                self.comm,
                steps,
                partial(source.windows, steps),
                epochs,
                at,
                Observers(*observers),
                test,
                (lambda taken: 1) if one else network.pace,
                tested="validation",
                **around,
            ).run()
            if profiler is not None:
                report.profile(**profiler.finish())
            if recorded is not None:
                tested_last = {f"validation_{name}": value for name, value in at.tested.items()}
                seconds = time.perf_counter() - started
                report.done(**tested_last, seconds=seconds, run_dir=recorded.run_dir)
        call("train_end", {})
        return history

    def _order(self, epoch: int, numbers: range | Part) -> Any:
        """The order of examples, or of batches, in a pass: a function of the seed and the epoch."""
        assert self._order_seed is not None
        if isinstance(numbers, Part):
            return order_of(self._order_seed, epoch, numbers)
        return epoch_order(self._order_seed, epoch, numbers)

    def _settle_order(self) -> None:
        """Draw the seed of the orders, where there is none; as Keras does, so that np.random.seed counts."""
        if self._order_seed is None:
            (drawn,) = self.rank_zero.decides([np.random.randint(2**31)])
            self._order_seed = int(drawn) if self.graph.seed is None else self.graph.seed

    @legacy.named
    @every_rank
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = 1,
        sample_weight: Any = None,
        steps: int | None = None,
        return_dict: bool = False,
        **options: Any,
    ) -> Any:
        """The loss over all examples, and the metrics. Collective.

        Args:
            x, y, sample_weight: arrays; or x alone, which yields batches, as for fit.
            batch_size: by default large; it changes the speed and the memory, not the result.
            verbose: 0 prints nothing.
            steps: only so many batches; of arrays each of batch_size, by default then 32.
            return_dict: whether to return {name: value}.
            options: accepted for Keras 2 without effect: max_queue_size, workers, use_multiprocessing.

        Returns:
            float or list: the loss or, with metrics, a list in the order of metrics_names.

        Raises:
            UsageError: on every rank, if the model is not compiled, or an argument is invalid.
        """
        _refuse("evaluate", options)
        source = self._tested("evaluate", (x, y, sample_weight), batch_size, steps)
        progress = Bar(self.rank_zero, _verbose(verbose), source.count)
        found = training.test(self, source.parts("testing"), source.batch_size, _shows(progress))
        progress.ends(found)
        found = dict(zip(found, self.rank_zero.decides(list(found.values())), strict=True))
        return found if return_dict else _listed(found)

    @legacy.named
    @every_rank
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = 0,
        steps: int | None = None,
        **options: Any,
    ) -> Any:
        """The outputs for examples, in their order. Collective.

        Args:
            x: arrays, or what yields batches; of batches that are tuples the first entry.
            batch_size: by default large; it changes the speed and the memory, not the result.
            verbose: 0 prints nothing.
            steps: only so many batches; of arrays each of batch_size, by default then 32.
            options: accepted for Keras 2 without effect: max_queue_size, workers, use_multiprocessing.

        Returns:
            numpy.ndarray: float32 [n, ...]; a list of them for several outputs.

        Raises:
            UsageError: on every rank, if an argument is invalid.
        """
        _refuse("predict", options)
        source = self._tested("predict", (x,), batch_size, steps, labelled=False)
        progress = Bar(self.rank_zero, _verbose(verbose), source.count)
        outputs = training.predict(self, source.parts("predicting"), source.batch_size, _shows(progress))
        progress.ends({})
        return outputs

    def _tested(
        self,
        what: str,
        given: Sequence[Any],
        batch_size: int | None,
        steps: int | None,
        labelled: bool = True,
    ) -> Source:
        """What evaluate and predict go over."""
        with self.comm.together():
            size = batch_size if batch_size is not None else TEST_BATCH if steps is None else 32
            if batch_size is None:  # what Input(batch_shape=) says
                makers = [call.layer for t in self.inputs if (call := call_of(t)) is not None]
                size = next((n for m in makers if (n := getattr(m, "batch_given", None))), size)
            if batch_size is None and self.stateful:
                parts: Iterator[Any] = all_parts(self)
                size = next(layer.batch for layer in parts if getattr(layer, "stateful", False))
            _counts(what, size)
            if steps is not None:
                _counts(what, steps, "steps")
            if labelled:
                self.check_compiled(what)
        source = source_of(self, what, given, size, steps, labelled)
        source.first(0)
        return source

    @every_rank
    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """One training step on one batch. Collective.

        Args:
            x, y, sample_weight, class_weight: arrays, as for fit.
            return_dict: whether to return {name: value}.

        Returns:
            float or list: what evaluate returns, as of before the step.
        """
        with self.comm.together():
            self.check_compiled("train_on_batch")
        given = data.examples(self, "train_on_batch", x, y, sample_weight, class_weight)
        order = np.arange(given.count, dtype=np.int32)
        steps = training.Steps(self)
        steps.takes(given)
        (window,) = windows(order, given.count, self.comm, lambda: 1)
        ((loss, sums, _),) = steps.step(window, None)
        found = steps.results(loss * given.count, sums, given.count)
        return found if return_dict else _listed(found)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """evaluate on one batch, without printing. Collective.

        Args:
            x, y, sample_weight: arrays, as for fit.
            return_dict: whether to return {name: value}.

        Returns:
            float or list: what evaluate returns.
        """
        return self.evaluate(x, y, verbose=0, sample_weight=sample_weight, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """predict on one batch. Collective.

        Args:
            x: an array, or several as a list.

        Returns:
            numpy.ndarray: float32 [n, ...]; a list of them for several outputs.
        """
        return self.predict(x)

    # -- Keras 2's names -------------------------------------------------------------------------------
    @legacy.named
    def fit_generator(
        self,
        generator: Any,
        steps_per_epoch: int | None = None,
        epochs: int = 1,
        verbose: int = 1,
        callbacks: Sequence[Callback] | None = None,
        validation_data: Any = None,
        validation_steps: int | None = None,
        **arguments: Any,
    ) -> History:
        """fit; validation_steps counts batches that are given, not those of arrays."""
        return self.fit(
            generator,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_data=validation_data,
            validation_steps=validation_steps if gives_batches(validation_data) else None,
            **arguments,
        )

    @legacy.named
    def evaluate_generator(
        self, generator: Any, steps: int | None = None, verbose: int = 0, **options: Any
    ) -> Any:
        """evaluate."""
        return self.evaluate(generator, steps=steps, verbose=verbose, **options)

    @legacy.named
    def predict_generator(
        self, generator: Any, steps: int | None = None, verbose: int = 0, **options: Any
    ) -> np.ndarray:
        """predict."""
        return self.predict(generator, steps=steps, verbose=verbose, **options)

    # -- files -----------------------------------------------------------------------------------------
    def to_json(self, **options: Any) -> str:
        """get_config as JSON, which model_from_json takes."""
        return json.dumps(saving.about(self), **options)

    def to_yaml(self, **options: Any) -> str:
        """get_config as JSON, which is YAML as well; options of YAML's own forms are not taken."""
        if options:
            raise UsageError(f"to_yaml: {', '.join(options)}: leave it out, the text is JSON.")
        return self.to_json(indent=1)

    def save(
        self, filepath: str | os.PathLike[str], overwrite: bool = True, include_optimizer: bool = True
    ) -> None:
        """Write the model to one safetensors file, with layers and compile's arguments as JSON in its header.

        Rank 0 writes, and needs no other rank for it once the model has its weights.

        Args:
            filepath: the file.
            overwrite: whether an existing file is replaced.
            include_optimizer: whether the optimizer and its state are saved.

        Raises:
            EnvironmentProblem: it cannot be written.
            UsageError: a part cannot be written as plain data; or the file exists, and overwrite is False.
        """
        saving.save(self, filepath, overwrite, whole=True, optimizer=include_optimizer)

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the weights alone, as safetensors."""
        saving.save(self, filepath, overwrite, whole=False, optimizer=False)

    @every_rank
    def load_weights(self, filepath: str | os.PathLike[str], by_name: bool = False) -> None:
        """Take the weights of a file that save or save_weights wrote, or of a run's newest checkpoint.

        filepath: the file, or the run_dir of a fit of such a model. by_name: only of the layers that have the
        names of layers there.

        Raises, on every rank:
            CheckpointError: it is missing, damaged, or of a model with other layers.
        """
        saving.load_weights(self, filepath, by_name)


# -- arguments -----------------------------------------------------------------------------------------
def _quiet(done: int) -> None: ...


def _listed(found: Mapping[str, float]) -> Any:
    """The loss or, with metrics, a list of all."""
    values = list(found.values())
    return values if len(values) > 1 else values[0]


def _shows(progress: Bar) -> Callable[[int], None]:
    return lambda done: progress.moves({}) if progress.due(done) else None


#: Arguments of Keras's that change no result.
_NO_MEANING = {"run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss"} | {
    *("max_queue_size", "workers", "use_multiprocessing")
}


def _refuse(what: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for an argument that is not supported, unless it is None or changes no result."""
    for name, value in options.items():
        if value is not None and name not in _NO_MEANING:
            near = nearest(name, inspect.signature(getattr(Model, what)).parameters)
            fix = f"did you mean {near}?" if near else "leave it out."
            raise UsageError(f"{what}: {name}={value!r} is not supported: {fix}")


def _verbose(verbose: Any) -> int:
    return 1 if verbose == "auto" else int(verbose)


def _counts(what: str, number: Any, name: str = "batch_size") -> None:
    if isinstance(number, bool) or not hasattr(number, "__index__") or number < 1:
        raise UsageError(f"{what}: {name}={number!r}: give an integer >= 1.")


def _is_due(freq: Any, epoch: int) -> bool:
    """Whether there is a test after this epoch, counted from 1, as Keras 3 has it."""
    return epoch in freq if isinstance(freq, list | tuple | set) else epoch % freq == 0


def _check_fit(batch_size: Any, verbose: Any, validation_split: Any) -> None:
    _counts("fit", batch_size)
    if not 0 <= validation_split < 1:
        raise UsageError(f"fit: validation_split={validation_split}: give a share from 0 to less than 1.")
    if verbose not in (0, 1, 2, "auto"):
        raise UsageError(f"fit: verbose={verbose!r}: give 0 (silent), 1 (a bar) or 2 (a line an epoch).")


def _two_or_three(validation_data: Any) -> Any:
    if not isinstance(validation_data, list | tuple) or len(validation_data) not in (2, 3):
        raise UsageError("fit: validation_data is (x, y) or (x, y, sample_weight), or gives such batches.")
    return validation_data
