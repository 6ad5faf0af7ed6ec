"""A stack of layers: its graph, its session, its weights and its description; models.py trains it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakMethod

import numpy as np

from dtrain import comm as communicators
from dtrain.comm import SingleCommunicator
from dtrain.comm.base import Communicator, every_rank
from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import READY, Graph, Tensor, get_default_graph
from dtrain.keras import activations, summary
from dtrain.keras.layers import Layer, deserialize
from dtrain.keras.layers.base import InputLayer, sizes
from dtrain.keras.layers.core import Dropout, Flatten, Reshape
from dtrain.keras.layers.images import GlobalAveragePooling2D
from dtrain.keras.rank_zero import RankZero
from dtrain.ops.base import placeholder
from dtrain.ops.state import Variable, variables_initializer
from dtrain.runtime.config import ConfigProto
from dtrain.runtime.session import Session

_WORLD: Any = object()

#: Under this name a graph counts the models that were made while it was the default one.
_COUNT = "keras models"


class Stack:
    """Layers one after the other.

    A model has a graph and a session of its own. Its random numbers follow from dt.set_random_seed, where
    that was called before. Any thread may call it: steps follow one another, and each is as if it were alone.
    On several ranks every method is collective: each rank calls it, from one thread and with the same arrays,
    and gets the same results.

    Args:
        layers: the first says the shape of an example, by input_shape or as Input(shape); or fit finds it
            out.
        comm: the ranks that work together, by default all; None for this rank alone.
        device: cpu, gpu or auto; by default $DTRAIN_DEVICE, else cpu.
        config: options of its session, such as ConfigProto(check_numerics=True).
    """

    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        name: str | None = None,
        *,
        comm: Communicator | None = _WORLD,
        device: str | None = None,
        config: ConfigProto | None = None,
    ) -> None:
        self.name = name or "sequential"
        self.comm = communicators.world() if comm is _WORLD else comm or SingleCommunicator()
        self.rank_zero = RankZero(self.comm)
        self._device = device or os.environ.get("DTRAIN_DEVICE", "cpu")
        self._config = config
        self._layers: list[Layer] = []
        self._graph: Graph | None = None
        self._session: Session | None = None
        self._outputs: list[Tensor] = []  # of the layers built so far, for a batch of any size
        self._initialized: set[Variable] = set()
        #: Of several threads one makes what a model is made of. It comes before the session's lock.
        self._building = threading.RLock()
        for layer in layers or ():
            self.add(layer)

    def _changed(self) -> None:
        """The layers are others now."""

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
        self._changed()

    def pop(self) -> None:
        """Take the last layer away; raises UsageError where there is none."""
        if not self.layers:
            raise UsageError(f"{self.name}.pop(): it has no layers.")
        self._layers.pop()
        del self._outputs[len(self._layers) :]
        self._changed()

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
        with self._building:
            if self._graph is None:
                outer = get_default_graph()
                with outer.lock:
                    number = outer.kept[_COUNT] = outer.kept.get(_COUNT, -1) + 1
                self._graph = Graph()
                # models made under one seed differ, and the first has the seed itself
                self._graph.kept[READY] = WeakMethod(self._ready)
                self._graph.seed = None if outer.seed is None else (outer.seed + number * 1_000_003) % 2**62
            return self._graph

    @property
    def session(self) -> Session:
        """What holds the values of its weights."""
        if self._session is None:
            with self._building:
                if self._session is None:
                    self._session = Session("", self.graph, self._config, comm=self.comm, device=self._device)
        return self._session

    def _ready(self) -> Session:
        self.initialize()
        return self.session

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

    @every_rank
    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Make the weights of the layers that have none yet, for examples of this shape.

        input_shape: of one example or, as in Keras, of a batch, its first size None.

        Raises:
            UsageError: there are no layers, or the shape is not known.
            GraphError: a layer does not fit what comes before it.
        """
        if not self.built:
            with self._building, self.comm.together():
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
    def trainable(self) -> bool:
        """Whether training changes any layer's weights; setting it sets it for every layer."""
        return any(layer.trainable for layer in self._layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self._layers:
            layer.trainable = bool(value)

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

    def initialize(self, more: Sequence[Variable] = ()) -> None:
        """Give their first values to the weights, and to these variables, where they have none."""
        with self._building:
            new = [v for v in (*self.weights, *more) if v not in self._initialized]
            if new:
                with self.graph.as_default():
                    initializer = variables_initializer(new)
                self.session.run(initializer)
                self._initialized.update(new)

    @every_rank
    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, layer by layer; no other rank is needed once there are any."""
        self.build()
        self.initialize()
        return [np.asarray(v) for v in self.session.run(self.weights)]

    @every_rank
    def set_weights(self, weights: Sequence[Any]) -> None:
        """Give the weights values, in the order of get_weights.

        Raises:
            UsageError: there are more or fewer, or one has another shape.
        """
        named = self.named_weights()
        if len(weights) != len(named):
            raise UsageError(
                f"{self.name}.set_weights: {len(weights)} arrays for {len(named)} weights: give one for each "
                f"of {', '.join(name for name, _ in named)}."
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
        with self.session.lock:
            for variable, array in zip(variables, arrays, strict=True):
                self.session.set_value(variable, array)

    # -- description -------------------------------------------------------------------------
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
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Any:
        """A model with such layers and new weights."""
        model = cls([deserialize(layer) for layer in config["layers"]], config.get("name"), **options)
        if config.get("input_shape") is not None:
            model.build(config["input_shape"])
        return model
