"""Sequential: layers one after the other, trained, tested and saved as Keras does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dtrain import comm as communicators
from dtrain.comm import SingleCommunicator
from dtrain.comm.base import Communicator
from dtrain.compat import module_getattr
from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Graph, Tensor, get_default_graph
from dtrain.keras import activations, callbacks, data, saving, summary, training
from dtrain.keras.layers import Layer, deserialize
from dtrain.keras.layers.base import InputLayer, sizes
from dtrain.keras.layers.core import Dropout, Flatten, Reshape
from dtrain.keras.layers.images import GlobalAveragePooling2D
from dtrain.keras.optimizers import Optimizer
from dtrain.keras.progress import Progress
from dtrain.keras.rank_zero import RankZero
from dtrain.ops.base import placeholder
from dtrain.ops.state import Variable, variables_initializer
from dtrain.runtime.session import Session
from dtrain.train.batches import epoch_order

__all__ = ["Sequential", "clone_model", "load_model", "model_from_json"]

__getattr__ = module_getattr("tf.keras.models")

_WORLD: Any = object()

#: Under this name a graph counts the models that were made while it was the default one.
_COUNT = "keras models"


class Sequential:
    """Layers one after the other.

    A model has a graph and a session of its own. Its random numbers follow from dt.set_random_seed, where
    that was called before. On several ranks every method is collective: each rank calls it, with the same
    arrays, and gets the same results.

    Args:
        layers: the first says the shape of an example, by input_shape or as Input(shape); or fit finds it
            out.
        comm: the ranks that work together, by default all; None for this rank alone.
        device: cpu, gpu or auto; by default $DTRAIN_DEVICE, else cpu.
    """

    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        name: str | None = None,
        *,
        comm: Communicator | None = _WORLD,
        device: str | None = None,
    ) -> None:
        self.name = name or "sequential"
        self.comm = communicators.world() if comm is _WORLD else comm or SingleCommunicator()
        self.rank_zero = RankZero(self.comm)
        self.stop_training = False
        self.history: callbacks.History | None = None
        self._device = device or os.environ.get("DTRAIN_DEVICE", "cpu")
        self._layers: list[Layer] = []
        self._graph: Graph | None = None
        self._session: Session | None = None
        self._outputs: list[Tensor] = []  # of the layers built so far, for a batch of any size
        self._compiled: training.Compiled | None = None
        self._networks: dict[Any, training.Network] = {}
        self._initialized: set[Variable] = set()
        self._passes = 0  # epochs of training, which number the orders of the examples
        self._order_seed: int | None = None
        self._optimizer_state: list[np.ndarray] | None = None  # loaded, for slots that are made when fit runs
        for layer in layers or ():
            self.add(layer)

    # -- layers ----------------------------------------------------------------------------------------
    def add(self, layer: Layer) -> None:
        """Put a layer behind the others.

        Raises:
            UsageError: it is no layer, or a layer of this name is there already.
        """
        if isinstance(layer, type) and issubclass(layer, Layer):
            raise UsageError(
                f"{self.name}.add({layer.__name__}): this is a class: write {layer.__name__}(...)."
            )
        if not isinstance(layer, Layer):
            raise UsageError(f"{self.name}.add({layer!r}): this is no layer, such as Dense(10) is.")
        names = {other.name for other in self._layers}
        if layer.name in names:
            if layer.named or layer.built or layer in self._layers:
                raise UsageError(
                    f"{self.name} has a layer {layer.name} already: give each its own object, and its own "
                    "name."
                )
            number = 1
            while f"{layer.name}_{number}" in names:
                number += 1
            layer.name = f"{layer.name}_{number}"
        self._layers.append(layer)
        self._networks.clear()

    def pop(self) -> None:
        """Take the last layer away; raises UsageError where there is none."""
        if not self.layers:
            raise UsageError(f"{self.name}.pop(): it has no layers.")
        self._layers.pop()
        del self._outputs[len(self._layers) :]
        self._networks.clear()

    @property
    def layers(self) -> list[Layer]:
        return [layer for layer in self._layers if not isinstance(layer, InputLayer)]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """A layer by its name or number; raises UsageError where there is none."""
        for i, layer in enumerate(self.layers):
            if layer.name == name or (name is None and i == index):
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise UsageError(f"{self.name} has no layer {index if name is None else name!r}: it has {names}.")

    @property
    def graph(self) -> Graph:
        """Where the model is built."""
        if self._graph is None:
            outer = get_default_graph()
            number = outer.kept[_COUNT] = outer.kept.get(_COUNT, -1) + 1
            self._graph = Graph()
            # models made under one seed differ, and the first has the seed itself
            self._graph.seed = None if outer.seed is None else (outer.seed + number * 1_000_003) % 2**62
        return self._graph

    @property
    def session(self) -> Session:
        """What holds the values of its weights."""
        if self._session is None:
            self._session = Session(graph=self.graph, comm=self.comm, device=self._device)
        return self._session

    @property
    def build_shape(self) -> tuple[int, ...] | None:
        """The shape of one example, if it is known."""
        first = self._layers[0] if self._layers else None
        if self._outputs and first is not None and first.input_shape is not None:
            return first.input_shape[1:]  # type: ignore[return-value]
        return None if first is None else first.input_shape_given

    @property
    def built(self) -> bool:
        return bool(self._layers) and len(self._outputs) == len(self._layers)

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Make the weights of the layers that have none yet, for examples of this shape.

        input_shape: of one example or, as in Keras, of a batch, its first size None.

        Raises:
            UsageError: there are no layers, or the shape is not known.
            GraphError: a layer does not fit what comes before it.
        """
        if not self.built:
            with self.comm.together():
                self._build(input_shape)

    def _build(self, input_shape: Sequence[int | None] | None) -> None:
        shape = self.build_shape
        if shape is None and input_shape is not None:
            given = list(input_shape)
            shape = sizes(given[1:] if given[:1] == [None] else given, f"{self.name}.build: input_shape")
        if not self._layers:
            raise UsageError(f"{self.name} has no layers: add some, such as Dense(10).")
        if shape is None:
            raise UsageError(
                f"{self.name} does not know the shape of an example yet: give its first layer "
                "input_shape=(...), or call build or fit first."
            )
        graph = self.graph
        with graph.as_default():
            x = self._outputs[-1] if self._outputs else placeholder("float32", [None, *shape], name="input")
            for layer in self._layers[len(self._outputs) :]:
                x = layer(x)
                self._outputs.append(x)

    def call(self, x: Tensor, training: Any = False) -> Tensor:
        """The layers in turn on a batch of the model's graph."""
        for layer in self._layers:
            x = layer(x, training)
        return x

    def __call__(self, x: Any, training: Any = False) -> Tensor:
        """The model on a tensor; a model not built yet makes its weights in the tensor's graph, and lives
        there.

        training: True, False, or a scalar tensor that is 1 or 0.

        Raises:
            GraphError: the model was built in another graph.
        """
        if self._graph is None:
            self._graph = x.graph
        if x.graph is not self._graph:
            raise GraphError(
                f"{self.name} has its weights in a graph of its own, where summary(), fit() or the like made "
                f"them, and {x.name} is of another: use clone_model({self.name})."
            )
        y = self.call(x, training)
        if not self._outputs:
            self._outputs = [y] * len(self._layers)
        return y

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        self.build()
        return self._layers[-1].output_shape or ()

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        self.build()
        return (None, *(self.build_shape or ()))

    def last_output(self) -> tuple[str, str | None, tuple[int, ...]]:
        """(name, activation, shape of one output) of what the loss sees; None is an activation not known."""
        self.build()
        output: Any = self.output_shape[1:]
        for layer in reversed(self._layers):
            function = getattr(layer, "activation", None)
            if function is not None:
                known = getattr(function, "__module__", "") == activations.__name__
                return layer.name, function.__name__ if known else None, output
            if not isinstance(layer, Dropout | Flatten | Reshape | GlobalAveragePooling2D):
                break
        return self._layers[-1].name, None, output

    # -- weights ---------------------------------------------------------------------------------------
    @property
    def weights(self) -> list[Variable]:
        """Of each layer in turn."""
        return [w for layer in self._layers for w in layer.weights]

    @property
    def trainable_weights(self) -> list[Variable]:
        return [w for layer in self._layers for w in layer.trainable_weights]

    @property
    def non_trainable_weights(self) -> list[Variable]:
        return [w for layer in self._layers for w in layer.non_trainable_weights]

    @property
    def losses(self) -> list[Tensor]:
        """What the layers' regularizers add to the loss."""
        return [loss for layer in self._layers for loss in layer.losses]

    @property
    def updates(self) -> list[Any]:
        """What the layers want a training step to run, of their last call."""
        return [update for layer in self._layers for update in layer.updates]

    def count_params(self) -> int:
        """Numbers that the weights hold."""
        self.build()
        return sum(layer.count_params() for layer in self._layers)

    def named_weights(self) -> list[tuple[str, Variable]]:
        """The weights by 'layer/weight', in the order of get_weights."""
        self.build()
        return [
            (f"{layer.name}/{w.op.name.rpartition('/')[2]}", w)
            for layer in self._layers
            for w in layer.weights
        ]

    def initialize(self) -> None:
        """Give their first values to the weights, and to the optimizer's state, that have none."""
        state = self._compiled.variables if self._compiled else []
        new = [v for v in (*self.weights, *state) if v not in self._initialized]
        if new:
            with self.graph.as_default():
                initializer = variables_initializer(new)
            self.session.run(initializer)
            self._initialized.update(new)
        if state and self._optimizer_state is not None:
            saving.restore_state(self, state, self._optimizer_state)
            self._optimizer_state = None

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, layer by layer."""
        self.build()
        self.initialize()
        return [np.asarray(v) for v in self.session.run(self.weights)]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Give the weights values, in the order of get_weights.

        Raises:
            UsageError: there are more or fewer, or one has another shape.
        """
        named = self.named_weights()
        if len(weights) != len(named):
            raise UsageError(
                f"{self.name}.set_weights: {len(weights)} arrays for {len(named)} weights: give one for each "
                "of "
                f"{', '.join(name for name, _ in named)}."
            )
        arrays = [np.asarray(w, np.float32) for w in weights]
        for (name, variable), array in zip(named, arrays, strict=True):
            if list(array.shape) != variable.shape.as_list():
                raise UsageError(
                    f"{self.name}.set_weights: {name} has shape {tuple(variable.shape.as_list())}, and "
                    f"{array.shape} is given: give the weights of a model with the same layers."
                )
        self.initialize()
        self.assign([v for _, v in named], arrays)

    def assign(self, variables: Sequence[Variable], arrays: Sequence[np.ndarray]) -> None:
        """Give variables values, once no rank reads the old ones any more."""
        self.comm.barrier()
        for variable, array in zip(variables, arrays, strict=True):
            self.session.set_value(variable, array)

    # -- training --------------------------------------------------------------------------------------
    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        """Say how the model is trained and measured; the optimizer's state starts anew.

        Args:
            optimizer: a name such as 'adam', or an object of dt.keras.optimizers or dt.train.
            loss: a name, an object of dt.keras.losses, or a function (y_true, y_pred).
            metrics: names, objects or functions; 'accuracy' is the one that fits the loss. weighted_metrics:
                those that sample_weight and class_weight weigh.

        Raises:
            UsageError: one of them is not known, or the loss does not fit the last layer.
        """
        with self.comm.together():
            self._compiled = training.Compiled(self, optimizer, loss, metrics, weighted_metrics)
            self._networks = {key: n for key, n in self._networks.items() if key[0] == "predicting"}
            self._optimizer_state = None
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
        output = self.last_output()[2]
        return ["loss", *(metric.name for metric, _ in self.compiled.metrics(output))]

    def _network(self, mode: str, examples: data.Examples) -> training.Network:
        """The graph for such examples, made once."""
        frozen = tuple(layer.trainable for layer in self._layers)
        key = (mode, examples.rows, frozen)
        if key not in self._networks:
            self._networks[key] = training.Network(self, mode, examples.rows)
        return self._networks[key]

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int = 1,
        callbacks: Sequence[callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: None = None,
        validation_steps: None = None,
    ) -> callbacks.History:
        """Train; returns the History, whose history has a list for the loss and for each metric.

        Args:
            x, y: arrays of examples and labels, whole on every rank.
            batch_size: examples of a step over all ranks together, 32 by default.
            epochs: the number of the last epoch; initial_epoch: the number of the first, counted from 0.
            verbose: 0 prints nothing, 1 a bar for each epoch, 2 a line.
            validation_split: the share of the examples, from the end, that is not trained on but tested after
                each epoch. validation_data: (x, y) or (x, y, sample_weight) to test on instead.
            shuffle: whether each epoch has an order of its own, a function of the seed and the epoch alone.
            class_weight: class -> weight of its examples in the loss. sample_weight: one for each example.
            steps_per_epoch, validation_steps: only None: an epoch is a pass over the arrays.

        Raises, on every rank:
            UsageError: the model is not compiled, or an argument does not fit.
        """
        batch_size = 32 if batch_size is None else batch_size
        with self.comm.together():
            _check_fit(batch_size, verbose, validation_split, steps_per_epoch, validation_steps)
            self.check_compiled("fit")
        verbose = 1 if verbose == "auto" else int(verbose)
        given = data.examples(self, "fit", x, y, sample_weight, class_weight)
        tested, trained_on, held_out = given, range(given.count), range(0)
        if validation_data is not None:
            tested = data.examples(self, "fit: validation_data", *_two_or_three(validation_data))
            held_out = range(tested.count)
        elif validation_split:
            split = _split(given.count, validation_split)
            trained_on, held_out = range(split), range(split, given.count)
        test_order = np.arange(held_out.start, held_out.stop, dtype=np.int32)
        network = self._network("training", given)
        tester = self._network("testing", tested) if len(test_order) else None
        names = self.metrics_names
        history = self.history = _callbacks.History()
        run = _callbacks.Callbacks(
            self,
            [*(callbacks or ()), history],
            {
                "batch_size": batch_size,
                "epochs": epochs,
                "samples": len(trained_on),
                "steps": None,
                "verbose": verbose,
                "do_validation": tester is not None,
                "metrics": names + [f"val_{name}" for name in names] * (tester is not None),
            },
        )
        if verbose:
            validated = f", validate on {len(test_order)} samples" if tester else ""
            self.rank_zero.says(f"Train on {len(trained_on)} samples{validated}")
        self.stop_training = False
        run("train_begin", {})
        first = max(initial_epoch, self._passes)
        for epoch in range(initial_epoch, epochs):
            if verbose:
                self.rank_zero.says(f"Epoch {epoch + 1}/{epochs}")
            run("epoch_begin", epoch, {})
            order = self._order(first + epoch - initial_epoch, trained_on, shuffle)
            progress = Progress(self.rank_zero, verbose, len(trained_on))
            watch = _callbacks.Watch(self, run, progress)
            logs = training.train(self, network, given, order, batch_size, watch)
            self._passes = first + epoch - initial_epoch + 1
            if tester is not None:
                found = training.test(self, tester, tested, test_order, TEST_BATCH, _quiet)
                logs |= {f"val_{name}": value for name, value in found.items()}
            progress.ends(logs)
            run("epoch_end", epoch, logs)
            if self.stop_training:
                break
        run("train_end", {})
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

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int = 1,
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss over all examples or, with metrics, a list of the loss and them (metrics_names says
        which).

        Exact over the whole set: batch_size, by default large, changes the speed and the memory, not the
        result.

        Raises, on every rank:
            UsageError: the model is not compiled, or an argument does not fit.
        """
        batch_size = TEST_BATCH if batch_size is None else batch_size
        with self.comm.together():
            _counts("evaluate", batch_size)
            self.check_compiled("evaluate")
        given = data.examples(self, "evaluate", x, y, sample_weight)
        network = self._network("testing", given)
        progress = Progress(self.rank_zero, int(verbose), given.count)
        order = np.arange(given.count, dtype=np.int32)
        found = training.test(self, network, given, order, batch_size, _shows(progress))
        progress.ends(found)
        found = dict(zip(found, self.rank_zero.decides(list(found.values())), strict=True))
        values = list(found.values())
        return found if return_dict else values if len(values) > 1 else values[0]

    def predict(self, x: Any, batch_size: int | None = None, verbose: int = 0) -> np.ndarray:
        """The outputs for examples, in their order, float32 [n, ...]."""
        batch_size = TEST_BATCH if batch_size is None else batch_size
        with self.comm.together():
            _counts("predict", batch_size)
        given = data.examples(self, "predict", x, labelled=False)
        network = self._network("predicting", given)
        progress = Progress(self.rank_zero, int(verbose), given.count)
        outputs = training.predict(self, network, given, batch_size, _shows(progress))
        progress.ends({})
        return outputs

    def predict_classes(self, x: Any, batch_size: int | None = None, verbose: int = 0) -> np.ndarray:
        """The class of each example: the largest output's number; of one output, whether it is above 1/2."""
        outputs = self.predict(x, batch_size, verbose)
        return outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs > 0.5).astype(np.int32)

    def train_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None
    ) -> Any:
        """One step on one batch; returns what evaluate does, as of before the step."""
        with self.comm.together():
            self.check_compiled("train_on_batch")
        given = data.examples(self, "train_on_batch", x, y, sample_weight, class_weight)
        order = np.arange(given.count, dtype=np.int32)
        nobody = _callbacks.Watch(self, _callbacks.Callbacks(self, [], {}), Progress(self.rank_zero, 0, 1))
        network = self._network("training", given)
        values = list(training.train(self, network, given, order, given.count, nobody).values())
        return values if len(values) > 1 else values[0]

    def test_on_batch(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
        """evaluate, without printing."""
        return self.evaluate(x, y, verbose=0, sample_weight=sample_weight)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """predict."""
        return self.predict(x)

    # -- description and files -------------------------------------------------------------------------
    def summary(self, line_length: int = 65, print_fn: Callable[[str], Any] | None = None) -> None:
        """Print a table of the layers, their outputs' shapes and the numbers of their parameters, on rank 0.

        Raises:
            UsageError: the shape of an example is not known yet.
        """
        self.build()
        for line in summary.lines(self, line_length):
            self.rank_zero.says(line, by=print_fn)

    def get_config(self) -> dict[str, Any]:
        """The layers and their arguments as plain data."""
        shape = self.build_shape
        return {
            "name": self.name,
            "input_shape": None if shape is None else list(shape),
            "layers": [{"class_name": type(la).__name__, "config": la.get_config()} for la in self._layers],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Sequential:
        """A model with such layers and new weights."""
        model = cls([deserialize(layer) for layer in config["layers"]], config.get("name"), **options)
        if config.get("input_shape") is not None:
            model.build(config["input_shape"])
        return model

    def to_json(self, **options: Any) -> str:
        """get_config as JSON, which model_from_json takes."""
        import json

        return json.dumps(saving.about(self), **options)

    def save(
        self, filepath: str | os.PathLike[str], overwrite: bool = True, include_optimizer: bool = True
    ) -> None:
        """Write the model: one safetensors file, its layers and what compile() settled as JSON in its header.

        Raises:
            EnvironmentProblem: it cannot be written. UsageError: a part has no plain form; or the file is
                there, and overwrite is False.
        """
        saving.save(self, filepath, overwrite, whole=True, optimizer=include_optimizer)

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the weights alone, as safetensors."""
        saving.save(self, filepath, overwrite, whole=False, optimizer=False)

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


_callbacks = callbacks  # which an argument of fit hides
TEST_BATCH = training.TEST_BATCH


def _quiet(done: int) -> None: ...


def _shows(progress: Progress) -> Callable[[int], None]:
    return lambda done: progress.moves(done, {}) if progress.due() else None


def _counts(what: str, batch_size: Any) -> None:
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size < 1:
        raise UsageError(f"{what}: batch_size={batch_size!r}: give a whole number from 1 up.")


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


def _split(examples: int, share: float) -> int:
    """How many examples are left to train on, as Keras rounds."""
    split = int(examples * (1 - share))
    if split == 0:
        raise UsageError(f"fit: validation_split={share} leaves none of {examples} to train on.")
    return split


def _two_or_three(validation_data: Any) -> Any:
    if not isinstance(validation_data, list | tuple) or len(validation_data) not in (2, 3):
        raise UsageError("fit: validation_data is (x, y) or (x, y, sample_weight).")
    return validation_data
