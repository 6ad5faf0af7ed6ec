"""A network of layers: a graph of calls from inputs to outputs, its weights and its description."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator, every_rank
from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Graph, Tensor, get_default_graph
from dtrain.keras import activations, summary
from dtrain.keras.calls import Call, Replay, call_of, flat, inside, order
from dtrain.keras.home import WORLD, Home, home_of
from dtrain.keras.layers import Layer, deserialize
from dtrain.keras.layers.core import Dropout, Flatten, Reshape
from dtrain.keras.layers.pooling import GlobalAveragePooling2D
from dtrain.keras.rank_zero import RankZero
from dtrain.ops.state import Variable
from dtrain.runtime.config import ConfigProto
from dtrain.runtime.session import Session

#: Layers after which an activation is still what the output is.
_KEEP = (Dropout, Flatten, Reshape, GlobalAveragePooling2D)


class Topology(Layer):
    """Layers that are called on one another; models.py trains it.

    It is a layer itself: called on tensors it makes its calls anew on them, with the same weights.

    inputs, outputs: the tensors that define it.
    """

    any_size = True
    supports_masking = True
    is_model = True

    def __init__(
        self,
        name: str | None = None,
        *,
        comm: Communicator | None = WORLD,
        device: str | None = None,
        config: ConfigProto | None = None,
    ) -> None:
        self._where = comm, device, config
        self._making = threading.RLock()
        self._graph: Graph | None = None
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self._layers: list[Layer] = []
        self._steps: list[Any] = []
        self.input_names: list[str] = []
        self.output_names: list[str] = []
        super().__init__(name)

    def _define(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Be the network between these tensors.

        Raises:
            UsageError: an output does not depend on an input, or on another Input; or a name is there twice.
        """
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._steps = order(outputs, inputs)
        self._layers = self._found_layers()
        self._settle_names()
        self.built, self.graph = True, outputs[0].graph
        self.output_names = _numbered([_maker_name(t) for t in outputs])
        self.input_names = _numbered([_maker_name(t) for t in inputs])
        shapes = [(None, *(t.spec.shape or (None,))[1:]) for t in inputs]
        self.input_shape = shapes[0] if len(shapes) == 1 else shapes
        shapes = [(None, *(t.spec.shape or (None,))[1:]) for t in outputs]
        self.output_shape = shapes[0] if len(shapes) == 1 else shapes

    def _found_layers(self) -> list[Layer]:
        """The layers, those first that are furthest from the outputs, as Keras has them."""
        depth: dict[Any, int] = {}
        makers: dict[Tensor, Any] = {t: call_of(t) or t for t in self.inputs}
        for step in self._steps:
            makers.update((t, step) for t in step.outputs)
        for step in [*reversed(self._steps)]:
            own = depth.setdefault(step, 0)
            for tensor in step.inputs:
                maker = makers.get(tensor)
                if maker is not None:
                    depth[maker] = max(depth.get(maker, 0), own + isinstance(step, Call))
        given = [makers[t] for t in self.inputs if isinstance(makers[t], Call)]
        calls = [*given, *(s for s in self._steps if isinstance(s, Call))]
        found: dict[Layer, int] = {}
        for call in calls:
            if call.layer.is_input and call not in given:
                raise UsageError(
                    f"{self.name}: Graph disconnected: the outputs depend on {call.layer.name}, which is not "
                    "among the inputs: give it as one, or build the outputs of these inputs."
                )
            found[call.layer] = max(found.get(call.layer, 0), depth.get(call, 0))
        return sorted(found, key=lambda layer: -found[layer])

    def _settle_names(self) -> None:
        """Give layers without a name of their own one that no other has."""
        taken = {layer.name for layer in self._layers if layer.named}
        for layer in self._layers:
            if layer.named:
                continue
            name, number = layer.name, 0
            while layer.name in taken:
                number += 1
                layer.name = f"{name}_{number}"
            taken.add(layer.name)
            layer.named = True
        names = [layer.name for layer in self._layers]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    f'{self.name}: The name "{name}" is used {names.count(name)} times: give each its own.'
                )

    # -- where it lives --------------------------------------------------------------------------------
    @property
    def graph(self) -> Graph:
        """Where the model is built."""
        with self._making:
            if self._graph is None:
                self._graph = self._new_graph()
            return self._graph

    @graph.setter
    def graph(self, graph: Graph | None) -> None:
        self._graph = graph

    def _new_graph(self) -> Graph:
        return get_default_graph()

    @property
    def home(self) -> Home:
        return home_of(self.graph, *self._where)

    @property
    def comm(self) -> Communicator:
        return self.home.comm

    @property
    def rank_zero(self) -> RankZero:
        return RankZero(self.comm)

    @property
    def session(self) -> Session:
        """What holds the values of its weights."""
        return self.home.session

    @property
    def _building(self) -> Any:
        return self.home.building

    # -- calls -----------------------------------------------------------------------------------------
    def replayed(self, inputs: Sequence[Tensor], training: Any) -> tuple[list[Tensor], Replay]:
        """The outputs of other inputs, and what is known of their making."""
        self._complete()
        if len(inputs) != len(self.inputs):
            raise GraphError(f"it has {len(self.inputs)} inputs, and {len(inputs)} are given")
        replay = Replay(dict(zip(self.inputs, inputs, strict=True)), training)
        return replay.of(self.outputs), replay

    def call(self, x: Any, training: Any = None) -> Any:
        given = [x[name] for name in self.input_names] if isinstance(x, dict) else flat(x)
        made, _ = self.replayed(given, training)
        return made[0] if len(made) == 1 else made

    def _scope(self, graph: Graph) -> Any:
        return nullcontext()

    def _make(self, graph: Graph, form: Any, x: Any) -> None:
        if self._graph is None:
            self._graph = graph
        if self._graph is not graph:
            raise GraphError(
                f"{self.name} has its weights in a graph of its own, where summary(), fit() or the like made "
                f"them, and {flat(x)[0].name} is of another: use clone_model({self.name})."
            )

    def _complete(self) -> None:
        """Have inputs and outputs."""

    def definition(self) -> list[Call]:
        """The calls between inputs and outputs, in an order of doing."""
        return [step for step in self._steps if isinstance(step, Call)]

    @property
    def is_line(self) -> bool:
        """Whether each layer is called once, on what the one before it gave."""
        calls = self.definition()
        tensors = [*self.inputs, *(t for call in calls for t in call.outputs)]
        line = all(call.inputs == [tensor] for call, tensor in zip(calls, tensors, strict=False))
        return line and len(tensors) == len(calls) + 1 and len({c.layer for c in calls}) == len(calls)

    def input_specs(self) -> list[tuple[str, tuple[int | None, ...] | None, str]]:
        """Of each input the name, the sizes of an example (None: any) and the dtype."""
        return [
            (name, tuple(t.spec.shape or ())[1:], t.dtype.name)
            for name, t in zip(self.input_names, self.inputs, strict=True)
        ]

    def ends(self) -> list[tuple[str, str | None, tuple[Any, ...]]]:
        """Of each output (layer, activation, sizes of one) as a loss sees it; None is one not known."""
        self._complete()
        return [_end(t) for t in self.outputs]

    # -- layers ----------------------------------------------------------------------------------------
    @property
    def parts(self) -> list[Layer]:
        return self._layers

    @property
    def layers(self) -> list[Layer]:
        return list(self._layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """A layer by its name or number; raises UsageError where there is none."""
        if isinstance(name, int):
            name, index = None, name
        found = self.layers
        if name is None and index is not None and -len(found) <= index < len(found):
            return found[index]
        for layer in found:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in found)
        raise UsageError(f"{self.name} has no layer {index if name is None else name!r}: it has {names}.")

    @property
    def input(self) -> Any:
        """The tensor that it begins with; a list of several."""
        self._complete()
        return self.inputs[0] if len(self.inputs) == 1 else list(self.inputs)

    @property
    def output(self) -> Any:
        """The tensor that it ends in; a list of several."""
        self._complete()
        return self.outputs[0] if len(self.outputs) == 1 else list(self.outputs)

    @property
    def trainable(self) -> bool:
        """Whether training changes any layer's weights; setting it sets it for every layer."""
        return any(layer.trainable for layer in self._layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self._layers:
            layer.trainable = bool(value)

    def flags(self) -> list[tuple[Layer, bool]]:
        """Whether each layer, and each layer's layer, is trained."""

        def walk(layer: Layer) -> Iterator[tuple[Layer, bool]]:
            if not isinstance(layer, Topology):
                yield layer, layer._trainable
            for part in layer.parts:
                yield from walk(part)

        return list(walk(self))

    # -- weights ---------------------------------------------------------------------------------------
    def count_params(self) -> int:
        """Numbers that the weights hold."""
        self._complete()
        return super().count_params()

    def named_weights(self) -> list[tuple[str, Variable]]:  # type: ignore[override]  # a list is one
        """The weights by 'layer/weight', in the order of get_weights."""
        self._complete()
        found: dict[Variable, str] = {}
        taken = set[str]()
        for layer in self._layers:
            for name, w in layer.named_weights():
                if w not in found:
                    full = next(n for n in _names(name) if n not in taken)
                    found[w] = full
                    taken.add(full)
        return [(name, w) for w, name in found.items()]

    def initialize(self, more: Sequence[Variable] = ()) -> None:
        """Give their first values to the weights, and to these variables, where they have none."""
        states = [v for layer in self.flags() for v in getattr(layer[0], "_kept", ())]
        self.home.initialize([*self.weights, *states, *more])

    @every_rank
    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, layer by layer; no other rank is needed once there are any."""
        self._complete()
        self.initialize()
        return self.home.read(self.weights)

    @every_rank
    def set_weights(self, weights: Sequence[Any]) -> None:
        """Give the weights values, in the order of get_weights.

        Raises:
            UsageError: there are more or fewer, or one has another shape.
        """
        self.home.write(self.named_weights(), weights, f"{self.name}.set_weights")

    def assign(self, variables: Sequence[Variable], arrays: Sequence[np.ndarray]) -> None:
        """Give variables values, once no rank reads the old ones any more."""
        self.home.assign(variables, arrays)

    # -- description -------------------------------------------------------------------------
    def summary(
        self,
        line_length: int | None = None,
        positions: Sequence[float] | None = None,
        print_fn: Callable[[str], Any] | None = None,
    ) -> None:
        """Print a table of the layers, their outputs' shapes and the numbers of their parameters, on rank 0.

        positions: where the columns end, as shares of a line or in characters.

        Raises:
            UsageError: the shape of an example is not known yet.
        """
        self._complete()
        for line in summary.lines(self, line_length, positions):
            self.rank_zero.says(line, by=print_fn)

    def get_config(self) -> dict[str, Any]:
        """The layers, their arguments and their calls as plain data.

        layers: each once. calls: the number of a layer, and its arguments, in which ["tensor", i] is the i-th
        of all tensors: those of the inputs, then each call's outputs. outputs: numbers of tensors.

        Raises:
            UsageError: an op lies between two layers.
        """
        numbers = {t: i for i, t in enumerate(self.inputs)}
        layers: list[Layer] = []
        calls = []

        def told(value: Any) -> Any:
            if isinstance(value, Tensor):
                return ["tensor", numbers[value]]
            if isinstance(value, dict):
                return {k: told(v) for k, v in value.items()}
            return [told(v) for v in value] if isinstance(value, list | tuple) else value

        for step in self._steps:
            if not isinstance(step, Call):
                if any(t in numbers for t in step.inputs):
                    raise UsageError(
                        f"{self.name} has the op {step.name} between its layers, which cannot be written: "
                        "put it into a layer, such as Lambda, or save its weights alone."
                    )
                continue
            if step.layer not in layers:
                layers.append(step.layer)
            calls.append([layers.index(step.layer), told(list(step.arguments)), told(step.options)])
            for t in step.outputs:
                numbers[t] = len(numbers)
        inputs = [call_of(t) for t in self.inputs]
        return {
            "name": self.name,
            "inputs": [_as_entry(c.layer) for c in inputs if c is not None],
            "layers": [_as_entry(layer) for layer in layers],
            "calls": calls,
            "outputs": [numbers[t] for t in self.outputs],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Any:
        """A model with such layers and new weights, in the default graph."""
        tensors = [deserialize(entry).tensor() for entry in config["inputs"]]
        inputs, layers = list(tensors), [deserialize(entry) for entry in config["layers"]]

        def meant(value: Any) -> Any:
            if isinstance(value, list) and len(value) == 2 and value[0] == "tensor":
                return tensors[value[1]]
            if isinstance(value, dict):
                return {k: meant(v) for k, v in value.items()}
            return [meant(v) for v in value] if isinstance(value, list) else value

        for number, arguments, named in config["calls"]:
            with inside(0):
                tensors += flat(layers[number](*meant(arguments), **meant(named)))
        make: Any = cls  # a Model
        return make(inputs, [tensors[i] for i in config["outputs"]], name=config.get("name"), **options)


def _as_entry(layer: Layer) -> dict[str, Any]:
    return {"class_name": type(layer).__name__, "config": layer.get_config()}


def _names(name: str) -> Iterator[str]:
    yield name
    for number in range(1, 1_000_000):
        yield f"{name}_{number}"


def _numbered(names: Sequence[str]) -> list[str]:
    """Names, each once."""
    found: list[str] = []
    for name in names:
        found.append(next(n for n in _names(name) if n not in found))
    return found


def _maker_name(tensor: Tensor) -> str:
    call = call_of(tensor)
    return call.layer.name if call is not None else tensor.op.name.rpartition("/")[2]


def _end(tensor: Tensor) -> tuple[str, str | None, tuple[Any, ...]]:
    """(layer, activation, sizes) of an output."""
    shape = tuple(tensor.spec.shape or ())[1:]
    name = _maker_name(tensor)
    while (call := call_of(tensor)) is not None:
        layer = call.layer
        if isinstance(layer, Topology):
            index = call.outputs.index(tensor)
            inner = layer.ends()[index]
            return inner[0], inner[1], shape
        function = getattr(layer, "activation", None)
        if function is not None:
            known = getattr(function, "__module__", "") == activations.__name__
            return layer.name, function.__name__ if known else None, shape
        if not isinstance(layer, _KEEP) or not call.inputs:
            break
        tensor = call.inputs[0]
    return name, None, shape


def all_parts(layer: Layer) -> Iterator[Layer]:
    """The layers that a layer is made of, and theirs."""
    for part in layer.parts:
        yield part
        yield from all_parts(part)
