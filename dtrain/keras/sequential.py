"""Sequential: layers one after the other."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator, every_rank
from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Graph, Tensor, get_default_graph
from dtrain.keras import training
from dtrain.keras.calls import call_of, definition, flat, order
from dtrain.keras.home import WORLD
from dtrain.keras.layers import Layer, deserialize
from dtrain.keras.layers.base import sizes
from dtrain.keras.layers.inputs import InputLayer
from dtrain.keras.layers.old import Merge
from dtrain.keras.model import Model
from dtrain.keras.names import as_data
from dtrain.keras.topology import Topology, all_parts
from dtrain.runtime.config import ConfigProto


class Sequential(Model):
    """A model of layers one after the other.

    It has a graph and a session of its own until it is called on a tensor of another graph, or contains a
    model of one: then it is in that graph, with its weights.

    Args:
        layers: the first gives the shape of an example, by input_shape or as Input(shape); or fit finds it.
        name: name of the model.
        comm, device, config: as for Model; see help(dt.keras.Model).

    Example:
        >>> model = dt.keras.Sequential([
        ...     dt.keras.layers.Dense(32, activation="relu", input_shape=(784,)),
        ...     dt.keras.layers.Dense(10, activation="softmax"),
        ... ])
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.output_shape
        (None, 10)
    """

    takes_one = True

    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        name: str | None = None,
        *,
        comm: Communicator | None = WORLD,
        device: str | None = None,
        config: ConfigProto | None = None,
    ) -> None:
        self._tensors: list[Tensor] = []  # of the layers built so far, for a batch of any size
        super().__init__(name=name, comm=comm, device=device, config=config)
        for layer in layers or ():
            self.add(layer)

    # -- layers ----------------------------------------------------------------------------------------
    def add(self, layer: Any) -> None:
        """Put a layer after the others.

        Raises:
            UsageError: it is no layer, or a layer of this name is there already.
        """
        if isinstance(layer, type) and issubclass(layer, Layer):
            raise UsageError(
                f"{self.name}.add({layer.__name__}): this is a class: write {layer.__name__}(...)."
            )
        if isinstance(layer, Tensor) and (call := call_of(layer)) is not None and call.layer.is_input:
            given, layer = call.layer, InputLayer(call.layer.input_shape_given, call.layer.dtype)
            layer.batch_given = given.batch_given
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
        layer.owner = weakref.ref(self)
        self.built = False
        self._changed()

    def pop(self) -> None:
        """Take the last layer away; raises UsageError where there is none."""
        if not self.layers:
            raise UsageError(f"{self.name}.pop(): it has no layers.")
        self._layers.pop()
        del self._tensors[len(self._layers) :]
        if self.built:
            self._settle()
        self._changed()

    @property
    def parts(self) -> list[Layer]:
        return self._layers

    @property
    def layers(self) -> list[Layer]:
        return [layer for layer in self._layers if not layer.is_input]

    def _new_graph(self) -> Graph:
        found = next((g for layer in self._layers if (g := _graph_of(layer)) is not None), None)
        if found is not None:
            return found
        outer, graph = get_default_graph(), Graph()
        with outer.lock:
            number = outer.kept[_COUNT] = outer.kept.get(_COUNT, -1) + 1
        # models made under one seed differ, and the first has the seed itself
        graph.seed = None if outer.seed is None else (outer.seed + number * 1_000_003) % 2**62
        return graph

    @property
    def build_shape(self) -> Any:
        """The shape of one example, if it is known; of a Merge, a list of those of its inputs."""
        if self._inputs:
            shapes = [tuple(t.spec.shape or ())[1:] for t in self._inputs]
            return shapes[0] if len(shapes) == 1 else shapes
        first = self._layers[0] if self._layers else None
        if isinstance(first, Merge) and first.layers:
            return first.entries
        if isinstance(first, Sequential):
            return first.build_shape
        if isinstance(first, Model) and first.built:
            return tuple(first.input_shape[1:])
        return None if first is None else first.input_shape_given

    @property
    def is_complete(self) -> bool:
        return self.build_shape is not None

    @every_rank
    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Make the weights of the layers that have none yet, for examples of this shape.

        input_shape: of one example or, as in Keras, of a batch, its first size None.

        Raises:
            UsageError: there are no layers, or the shape is not known.
            GraphError: a layer does not fit what comes before it.
        """
        if not self.built or not self._layers:
            with self._building, self.comm.together():
                self._build(input_shape)

    def _build(self, input_shape: Sequence[int | None] | None) -> None:
        shape = self.build_shape
        if shape is None and input_shape is not None:
            given = list(input_shape)
            shape = (
                given
                if isinstance(given[0], list | tuple)
                else sizes(given[1:] if given[:1] == [None] else given, f"{self.name}.build: input_shape")
            )
        if not self._layers:
            raise UsageError(f"{self.name} has no layers: add some, such as Dense(10).")
        if shape is None:
            raise UsageError(
                f"{self.name} does not know the shape of an example yet: give its first layer "
                "input_shape=(...), or call build or fit first."
            )
        first = self._layers[0]
        self._define_on(shape, first.dtype if first.is_input else "float32", "input")

    def _define_on(self, shape: Any, dtype: str, name: str) -> None:
        """Call the layers that are not called yet; on batches of such examples, where none is."""
        with self.graph.as_default(), definition():
            if not self._inputs:
                many = isinstance(shape, list)
                with self.graph.name_scope(None):
                    for number, sizes_ in enumerate(shape if many else [shape]):
                        entry = InputLayer(sizes_, dtype, name=f"{name}_{number}" if many else name)
                        entry.batch_given = self._layers[0].batch_given if self._layers else None
                        self._inputs.append(entry.tensor())
            entries: Any = self._inputs if len(self._inputs) > 1 else self._inputs[0]
            x = self._tensors[-1] if self._tensors else entries
            for layer in self._layers[len(self._tensors) :]:
                x = x if layer.is_input else layer(x)
                self._tensors.append(x)
        self._settle()

    def _settle(self) -> None:
        self._outputs = self._tensors[-1:] or self._inputs
        self._steps = order(self._outputs, self._inputs)
        self.built = True
        count = len(self._inputs)
        self.input_names = ["input"] if count == 1 else [f"input_{i}" for i in range(count)]
        self.output_names = [self._layers[-1].name if self._layers else "input"]
        for layer in self._layers:
            layer.named = True
        shapes = [(None, *(t.spec.shape or ())[1:]) for t in self._inputs]
        self.input_shape = shapes[0] if count == 1 else shapes
        self.output_shape = (None, *(self._outputs[0].spec.shape or ())[1:])

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors that it begins with: made now, where the shape of an example is known."""
        self._build_if_known()
        return self._inputs

    @inputs.setter
    def inputs(self, tensors: list[Tensor]) -> None:
        self._inputs = tensors

    @property
    def outputs(self) -> list[Tensor]:
        """The tensor that it ends in."""
        self._build_if_known()
        return self._outputs

    @outputs.setter
    def outputs(self, tensors: list[Tensor]) -> None:
        self._outputs = tensors

    def _build_if_known(self) -> None:
        if not self.built and self._layers and self.is_complete:
            self.build()

    def _complete(self) -> None:
        self.build()

    def _make(self, graph: Graph, form: Any, x: Any) -> None:
        first = self._layers[0] if self._layers else None
        if not isinstance(x, Tensor) and not isinstance(first, Merge):
            raise GraphError(f"{self.name} is a Sequential, which takes one tensor")
        if self._graph is None:
            self._graph = next((g for layer in self._layers if (g := _graph_of(layer)) is not None), graph)
        if self._graph is not graph:
            self._move(graph)
        if not self.built:
            given = flat(x)
            shapes = [(t.spec.shape or ())[1:] for t in given]
            one = isinstance(x, Tensor)
            self._define_on(shapes[0] if one else shapes, given[0].dtype.name, f"{self.name}_input")

    def _move(self, graph: Graph) -> None:
        """Live in another graph from here on, with the weights and how it is compiled."""
        walked = [self, *all_parts(self)]
        if any(isinstance(layer, Model) and not isinstance(layer, Sequential) for layer in walked):
            super()._make(graph, None, [*graph.operations[-1].outputs])
        values = state = None
        compiled, shape = self._compiled, self.build_shape
        if self.built:
            home = self.home
            values = home.read(self.weights)
            if compiled is not None and compiled.variables:
                state = home.read(compiled.variables)
        for layer in walked:
            if isinstance(layer, Sequential):
                layer._tensors, layer._inputs, layer._outputs = [], [], []
                layer._where = WORLD, None, None
                layer._changed()
            layer._forget()
        for layer in walked:
            if isinstance(layer, Sequential):
                layer._graph = graph
        if values is not None:
            self.build(shape)
            self.home.write(self.named_weights(), values, self.name)
        if compiled is not None:
            flags = compiled.flags
            with graph.as_default():
                self._compiled = training.Compiled(self, compiled.optimizer, *compiled.given)
            self._compiled.flags = flags
            self._optimizer_state = state

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        self.build()
        return self._output_shape

    @output_shape.setter
    def output_shape(self, shape: Any) -> None:
        self._output_shape = shape

    @property
    def input_shape(self) -> Any:
        if self._layers:
            self.build()
        return self._input_shape

    @input_shape.setter
    def input_shape(self, shape: Any) -> None:
        self._input_shape = shape

    # -- description -----------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """The layers and their arguments as plain data."""
        shape = self.build_shape
        return {
            "name": self.name,
            "input_shape": None if shape is None else as_data(shape),
            "layers": [{"class_name": type(la).__name__, "config": la.get_config()} for la in self._layers],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Any:
        """A model with such layers and new weights."""
        model = cls([deserialize(layer) for layer in config["layers"]], config.get("name"), **options)
        if config.get("input_shape") is not None:
            model.build(config["input_shape"])
        return model

    def predict_classes(self, x: Any, batch_size: int | None = None, verbose: int = 0) -> np.ndarray:
        """The class of each example: the largest output's number; of one output, whether it is above 1/2."""
        outputs = self.predict(x, batch_size, verbose)
        return outputs.argmax(-1) if outputs.shape[-1] > 1 else (outputs > 0.5).astype(np.int32)

    def predict_proba(self, x: Any, batch_size: int | None = None, verbose: int = 0) -> np.ndarray:
        """predict."""
        return self.predict(x, batch_size, verbose)


#: Under this name a graph counts the models that were made while it was the default one.
_COUNT = "keras models"


def _graph_of(layer: Layer) -> Graph | None:
    """Where a layer has its weights."""
    if isinstance(layer, Merge):
        return next((g for model in layer.layers if (g := _graph_of(model)) is not None), None)
    return layer._graph if isinstance(layer, Topology) else layer.graph if layer.weights else None
