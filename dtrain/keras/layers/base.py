"""What a layer is: weights that it makes when it first sees an input, and the ops that use them.

A new layer is a class:

    class Scale(Layer):
        arguments = ("start",)

        def __init__(self, start=1.0, **options):
            super().__init__(**options)
            self.start = start

        def build(self, input_shape):
            self.factor = self.add_weight("factor", input_shape[-1:], Constant(self.start))

        def call(self, x):
            return x * self.factor
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np

from dtrain.errors import GraphError, UsageError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Graph, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import shape_text
from dtrain.keras import constraints, initializers, legacy, regularizers
from dtrain.keras.calls import (
    Call,
    call_of,
    flat,
    from_input,
    gathered,
    inside,
    is_quiet,
    learning_phase,
    mask_of,
    quiet,
    set_mask,
)
from dtrain.keras.home import home_of
from dtrain.keras.names import as_data
from dtrain.ops.array import identity
from dtrain.ops.base import convert_to_tensor, placeholder, to_array
from dtrain.ops.late import shape as shape_of
from dtrain.ops.math import cast
from dtrain.ops.state import Assign, AssignAdd, Variable

#: Sizes of a batch, None where they are not known; or of a weight.
Sizes = tuple[Any, ...]


class Weight(Variable):
    """A variable of a layer. assign(array), where no graph is being made, sets it at once, as in Keras 3."""

    def _write(self, kind: Any, value: Any, *options: Any) -> Any:
        if isinstance(value, TensorLike) or get_default_graph() is self.graph:
            return super()._write(kind, value, *options)
        new = to_array(value, self.dtype)
        if not isinstance(kind, Assign):
            new = self.numpy() + (new if isinstance(kind, AssignAdd) else -new)
        self.load(new)
        return new


class _Modern(type):
    """Takes Keras 1's names of arguments, too."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of __init__, for help(): __call__ takes anything."""
        own = inspect.signature(cls.__init__)  # type: ignore[misc]
        return own.replace(parameters=list(own.parameters.values())[1:], return_annotation=own.empty)

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        arguments, options = legacy.modern(cls, arguments, options)
        return super().__call__(*arguments, **options)


class Layer(metaclass=_Modern):
    """Base of the layers. A subclass defines build(input_shape), which makes weights, and call(x).

    Args:
        name: by default the class's name in small letters, numbered where a model has it several times.
        trainable: whether training changes its weights.
        input_shape: shape of one example, for a model's first layer.
        batch_input_shape: the same with the batch's size first, which only stateful layers use.
        input_dim: n is the same as input_shape=(n,), or (input_length, n).
        dtype: only float32.
        input_length: steps of an example, with input_dim.
        activity_regularizer: a function from its output to a loss, or its name.
        weights: arrays that its weights start with.
        batch_size: the batch's size, which only stateful layers use.

    Raises:
        UsageError: an argument is invalid.
    """

    #: Arguments of its own, kept as attributes of the same names: what get_config says.
    arguments: ClassVar[tuple[str, ...]] = ()
    #: Whether a size besides the batch's may be known only when there are examples.
    any_size: ClassVar[bool] = False
    #: Whether it hands on which steps of a sequence count.
    supports_masking: Any = False
    is_input: ClassVar[bool] = False
    #: Whether it is a network of layers.
    is_model: ClassVar[bool] = False
    #: Whether a list of one input is that input.
    takes_one: ClassVar[bool] = False

    def __init__(
        self,
        name: str | None = None,
        trainable: bool = True,
        input_shape: Sequence[int | None] | None = None,
        batch_input_shape: Sequence[int | None] | None = None,
        input_dim: int | None = None,
        dtype: Any = None,
        input_length: int | None = None,
        activity_regularizer: Any = None,
        weights: Sequence[Any] | None = None,
        batch_size: int | None = None,
    ) -> None:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__.lstrip("_")).lower()
        words = re.sub(r"(?<=\d)_(?=d$|d_)", "", words)
        self.name = name or words
        self.named = name is not None
        self._trainable = bool(trainable)
        self.batch_given = batch_size if batch_input_shape is None else batch_input_shape[0]
        if batch_input_shape is not None:
            input_shape = batch_input_shape[1:]
        elif input_dim is not None:
            input_shape = (input_dim,) if input_length is None else (input_length, input_dim)
        self.input_shape_given = (
            None if input_shape is None else open_sizes(input_shape, f"{self.name}: input_shape")
        )
        if dtype is not None and str(getattr(dtype, "name", dtype)) != "float32":
            raise UsageError(f"{self.name}: dtype={dtype!r} is not supported: layers compute in float32.")
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self._first_values = [np.asarray(w, np.float32) for w in weights or ()]
        self.input_shape: Any = None
        self.output_shape: Any = None
        self.dtype = "float32"
        self._forget()

    def _forget(self) -> None:
        """Be as new: without weights and calls."""
        self.built = False
        self.graph: Graph | None = None
        self._own: list[Variable] = []
        self._moving: set[Variable] = set()
        self._penalties: dict[Variable, Tensor] = {}  # what its regularizers add to the loss
        self.updates: list[Any] = []  # of the last call while training
        self.owner: Any = getattr(self, "owner", None)  # of a Sequential's layer, what gives the Sequential
        self.calls: list[Call] = []  # that define models

    # -- for subclasses --------------------------------------------------------------------------------
    def build(self, input_shape: Sizes) -> None:
        """Make the weights, by add_weight, for batches of this shape, whose first size is None."""

    def call(self, x: Any) -> Any:
        """The output for a batch x, built into its graph; of several inputs x is a list.

        A subclass may take more, with defaults. It is given what it takes of: training, which is True, False,
        or a float32 scalar tensor that is 1 or 0; and mask, bool [batch, steps], of the steps of x that
        count, or None.
        """
        return x

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Which steps of the output count; None where all do."""
        return mask if self.supports_masking else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The output's sizes for a batch of these; found by a call on no examples."""
        several = isinstance(input_shape, list) and input_shape and isinstance(input_shape[0], list | tuple)
        with Graph().as_default(), inside(1):
            shapes = input_shape if several else [input_shape]
            given = [placeholder("float32", [None, *s[1:]]) for s in shapes]
            copy = self.from_config(self.get_config())
            made = flat(copy(given if several else given[0]))
        return made[0].spec.shape if len(made) == 1 else [t.spec.shape for t in made]

    get_output_shape_for = compute_output_shape

    def add_weight(
        self,
        name: str | None = None,
        shape: Any = None,
        initializer: Any = "glorot_uniform",
        regularizer: Any = None,
        trainable: bool = True,
        constraint: Any = None,
        dtype: Any = None,
    ) -> Variable:
        """Make a weight of the layer: a float32 variable.

        Args:
            name: its name in the layer.
            shape: its sizes.
            initializer: a name or a function of (shape, dtype).
            regularizer: a name or a function from the weight to a loss.
            trainable: whether training changes it; if not, call updates it with add_update.
            constraint: a name or a function from the new value to the valid one.
            dtype: only float32.

        Returns:
            Variable: the weight.
        """
        number = len(self._own)
        make = initializers.get(initializer)
        sizes_ = () if shape is None else open_sizes(shape, f"{self.name}: shape of {name or 'a weight'}")
        if None in sizes_:
            raise GraphError(
                f"all sizes but the first have to be known: its weight {name or ''} would have the shape "
                f"{sizes_}"
            )
        if number < len(self._first_values):
            given = self._first_values[number]
            if given.shape != sizes_:
                raise UsageError(
                    f"{self.name}: weights has an array of shape {given.shape}, and weight {number} is "
                    f"{sizes_}."
                )
            make = initializers.Constant(given)
        graph = get_default_graph()
        with graph.counted_draws("keras weights") if graph.here.draws else nullcontext():
            weight = Weight(
                lambda: make(tuple(sizes_), "float32"),
                trainable=self.trainable and trainable,
                name=name or (f"weight_{number}" if number else "weight"),
                constraint=constraints.get(constraint),
            )
        self._keep(weight, trainable)
        regularizer = regularizers.get(regularizer)
        if regularizer is not None:
            self._penalties[weight] = regularizer(weight)
            weight.graph.add_to_collection(GraphKeys.REGULARIZATION_LOSSES, self._penalties[weight])
        return weight

    def _keep(self, weight: Variable, trainable: bool) -> None:
        self._own.append(weight)
        if not trainable:
            self._moving.add(weight)

    def add_update(self, updates: Any, inputs: Any = None) -> None:
        """An operation for every training step to run beside the optimizer's, or several."""
        for update in updates if isinstance(updates, list | tuple) else [updates]:
            if isinstance(update, tuple):  # Keras's (variable, new value)
                update = update[0].assign(update[1], read_value=False)
            self.updates.append(update)
            found = gathered()
            if found is not None:
                found.updates.append(update)
            if not is_quiet():
                update.graph.add_to_collection(GraphKeys.UPDATE_OPS, update)

    def add_loss(self, losses: Any, inputs: Any = None) -> None:
        """A tensor that is added to the loss of a model, or several."""
        found = gathered()
        if found is not None:
            found.losses += losses if isinstance(losses, list | tuple) else [losses]

    def fits(self, input_shape: Sizes, ndim: int, form: str, hint: str) -> None:
        """Raise GraphError unless a batch has ndim axes besides its first."""
        if len(input_shape) != ndim + 1:
            raise GraphError(f"it takes {form}, and its input is {_batch(input_shape)}: {hint}")

    # -- use -------------------------------------------------------------------------------------------
    def __call__(self, x: Any, *more: Any, training: Any = None, mask: Any = None, **options: Any) -> Any:
        """The layer on a batch, or on a list of them, in their graph; at the first call its weights are made.

        training: True, False, or a float32 scalar tensor that is 1 or 0; by default K.learning_phase().

        Raises:
            GraphError: the input does not fit, or is of another graph than the layer's weights.
        """
        x = _tensors(x)
        x = x[0] if self.takes_one and isinstance(x, list) and len(x) == 1 else x
        options |= dict(zip(call_arguments(type(self))[2:], more, strict=False))
        training = options.pop("training", training)
        mask = options.pop("mask", mask)
        inputs = flat((x, options))
        if not inputs:
            raise GraphError(f"layer {self.name} is called on {x!r}: give a tensor, or a list of them.")
        graph = inputs[0].graph
        shapes = [t.spec.shape for t in flat(x)]
        for t, dims in zip(flat(x), shapes, strict=True):
            if not dims or (
                None in dims[1:] and not self.any_size and type(self).__module__.startswith("dtrain.")
            ):
                raise GraphError(
                    f"layer {self.name}: its input {t.name} has the shape {shape_text(dims)}, and all sizes "
                    "but the first have to be known: give the placeholder a shape, or the first layer "
                    "input_shape=."
                )
        batch = [(None, *dims[1:]) for dims in shapes]  # type: ignore[index]  # known, see above
        form: Any = batch[0] if isinstance(x, Tensor) else batch
        defines = any(from_input(t) for t in inputs)
        # the same model has the same random numbers wherever it is built
        in_model = self.is_model or defines or self.owner is not None or gathered() is not None
        draws = graph.counted_draws("keras calls") if in_model else nullcontext()
        with graph.as_default(), self._scope(graph), quiet(defines), draws, inside() as outermost:
            try:
                self._make(graph, form, x)
                self.updates = []
                y = self._called(x, training, mask, options)
            except GraphError as error:
                words = f"layer {self.name} ({type(self).__name__}): "
                text = str(error)
                raise type(error)(text if text.startswith(words) else words + text) from None
            if outermost:
                y = _own_tensors(y, inputs)
            made = flat(y)
            self._tell_mask(x, made, mask)
            if self.activity_regularizer is not None:
                for t in made:
                    self.add_loss(self.activity_regularizer(t) / cast(batch_size(t), "float32"))
        self.output_shape = made[0].spec.shape if len(made) == 1 else [t.spec.shape for t in made]
        if outermost:
            extra = {} if training is None else {"training": training}
            Call(self, (x,), options | extra, y).record()
        return y

    def _scope(self, graph: Graph) -> Any:
        """Where its ops get their names."""
        return graph.name_scope(self.name)

    def _make(self, graph: Graph, form: Any, x: Any) -> None:
        """Make the weights, or check that they fit."""
        if self.graph is None:
            if not self.built:
                self.build(form)
            self.built, self.graph, self.input_shape = True, graph, form
        elif self.weights and self.graph is not graph:
            raise GraphError("it has its weights in another graph: make a new layer")
        elif self._own and isinstance(x, Tensor) and isinstance(self.input_shape, tuple):
            known, given = self.input_shape, form
            if len(known) != len(given) or (None not in (known[-1], given[-1]) and known[-1] != given[-1]):
                raise GraphError(f"its weights are for {_batch(known)}, and its input is {_batch(given)}")

    def _called(self, x: Any, training: Any, mask: Any, options: dict[str, Any]) -> Any:
        accepted = call_arguments(type(self))
        if "training" in accepted:
            graph: Any = self.graph
            options = {"training": learning_phase(graph) if training is None else training, **options}
        if "mask" in accepted:
            options = {"mask": self._mask(x) if mask is None else mask, **options}
        return self.call(x, **options)

    def _mask(self, x: Any) -> Any:
        return mask_of(x) if isinstance(x, Tensor) else [mask_of(t) for t in flat(x)]

    def _tell_mask(self, x: Any, made: list[Tensor], mask: Any) -> None:
        masks = self._mask(x) if mask is None else mask
        if masks is None or (isinstance(masks, list) and not any(m is not None for m in masks)):
            masks = None
        found = self.compute_mask(x, masks) if masks is not None or self.makes_mask else None
        for tensor, m in zip(made, found if isinstance(found, list) else [found] * len(made), strict=False):
            if m is not None:
                set_mask(tensor, m)

    #: Whether its output may have steps that do not count where all of its input's do.
    makes_mask: ClassVar[bool] = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Layers that are attributes are parts: their weights count as the layer's own."""
        if isinstance(value, Layer) or (isinstance(value, list) and any(isinstance(v, Layer) for v in value)):
            self.__dict__.setdefault("_parts", {})[name] = value
        elif "_parts" in self.__dict__:
            self.__dict__["_parts"].pop(name, None)
        super().__setattr__(name, value)

    @property
    def may_close(self) -> bool:
        """Whether its output may be of tensors that it is not called on: a function's, or a user's own
        layer's.
        """
        return not type(self).__module__.startswith("dtrain.")

    @property
    def parts(self) -> list[Layer]:
        """The layers that it is made of."""
        found: dict[int, Layer] = {}
        for value in self.__dict__.get("_parts", {}).values():
            for layer in value if isinstance(value, list) else [value]:
                if isinstance(layer, Layer):
                    found[id(layer)] = layer
        return list(found.values())

    # -- weights ---------------------------------------------------------------------------------------
    @property
    def trainable(self) -> bool:
        """Whether training changes its weights; setting it sets it for the layers that it is made of."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for layer in self.parts:
            layer.trainable = value

    @property
    def weights(self) -> list[Variable]:
        """Its own, then those of the layers that it is made of."""
        return _once([*self._own, *(w for layer in self.parts for w in layer.weights)])

    @property
    def variables(self) -> list[Variable]:
        return self.weights

    @property
    def trainable_weights(self) -> list[Variable]:
        own = [w for w in self._own if self.trainable and w not in self._moving]
        return _once([*own, *(w for layer in self.parts for w in layer.trainable_weights)])

    @trainable_weights.setter
    def trainable_weights(self, weights: list[Variable]) -> None:
        self._own, self._moving = [], {w for w in self._own if w in self._moving}
        for weight in [*weights, *self._moving]:
            self._keep(weight, weight not in self._moving)

    @property
    def non_trainable_weights(self) -> list[Variable]:
        own = [w for w in self._own if not self.trainable or w in self._moving]
        return _once([*own, *(w for layer in self.parts for w in layer.non_trainable_weights)])

    @non_trainable_weights.setter
    def non_trainable_weights(self, weights: list[Variable]) -> None:
        kept = [w for w in self._own if w not in self._moving]
        self._own, self._moving = kept, set()
        for weight in weights:
            self._keep(weight, False)

    @property
    def trainable_variables(self) -> list[Variable]:
        return self.trainable_weights

    @property
    def losses(self) -> list[Tensor]:
        """What its regularizers add to the loss: of weights that are trained."""
        own = [self._penalties[w] for w in self.trainable_weights if w in self._penalties]
        return [*own, *(loss for layer in self.parts for loss in layer.losses)]

    def count_params(self) -> int:
        """Numbers that its weights hold."""
        return sum(w.shape.num_elements() or 0 for w in self.weights)

    def named_weights(self) -> Iterator[tuple[str, Variable]]:
        """Each weight, by 'layer/weight'."""
        for w in self._own:
            yield f"{self.name}/{w.op.name.rpartition('/')[2]}", w
        for layer in self.parts:
            yield from ((f"{self.name}/{name}", w) for name, w in layer.named_weights())

    def _have_weights(self) -> None:
        """Let the Sequential that it is a layer of be built, if its shapes are known."""
        model = None if self.graph is not None or self.owner is None else self.owner()
        if model is not None and model.is_complete:
            model.build()

    def get_weights(self) -> list[np.ndarray]:
        """Copies of its weights. Collective where they have no values yet."""
        self._have_weights()
        return [] if self.graph is None else home_of(self.graph).read(self.weights)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Give its weights values, in the order of get_weights. Collective.

        Raises:
            UsageError: there are more or fewer, or one has another shape.
        """
        self._have_weights()
        if self.graph is None:
            raise UsageError(f"{self.name}.set_weights: it has no weights yet: call it, or build its model.")
        home_of(self.graph).write([*self.named_weights()], weights, f"{self.name}.set_weights")

    # -- calls -----------------------------------------------------------------------------------------
    def _only_call(self, what: str) -> Call:
        self._have_weights()
        if len(self.calls) != 1:
            many = f"is called {len(self.calls)} times: get_output_at(i) and get_input_at(i) have each"
            raise AttributeError(
                f"layer {self.name} has no {what}: it {many if self.calls else 'is not called yet'}."
            )
        return self.calls[0]

    @property
    def input(self) -> Any:
        """What it was called on, where it was called once."""
        return _given(self._only_call("input"))

    @property
    def output(self) -> Any:
        """What came out, where it was called once."""
        return self._only_call("output").result

    def get_input_at(self, node_index: int) -> Any:
        return _given(self.calls[node_index])

    def get_output_at(self, node_index: int) -> Any:
        return self.calls[node_index].result

    # -- description -----------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """Its arguments as plain data."""
        config: dict[str, Any] = {"name": self.name, "trainable": self.trainable}
        if self.input_shape_given is not None:
            config["input_shape"] = list(self.input_shape_given)
        if self.activity_regularizer is not None:
            config["activity_regularizer"] = as_data(self.activity_regularizer)
        return config | {name: as_data(getattr(self, name)) for name in self.arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def batch_size(x: Tensor) -> Tensor:
    """How many examples a batch has, over all ranks."""
    return shape_of(x)[0]


def _once(items: list[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _tensors(x: Any) -> Any:
    """Tensors of what a layer is called on; a list stays one."""
    if isinstance(x, list | tuple) and any(isinstance(v, TensorLike) for v in x):
        return [convert_to_tensor(v) for v in x]
    if isinstance(x, dict):
        return {k: convert_to_tensor(v) for k, v in x.items()}
    return convert_to_tensor(x)


def _own_tensors(y: Any, inputs: list[Tensor]) -> Any:
    """An output, with a tensor of its own for each that something else made."""
    if isinstance(y, list | tuple):
        return type(y)(_own_tensors(v, inputs) for v in y)
    if not isinstance(y, TensorLike):
        return y
    y = convert_to_tensor(y)
    if call_of(y) is None and not any(y is t for t in inputs):
        return y
    new = identity(y)
    if (mask := mask_of(y)) is not None:
        set_mask(new, mask)
    return new


_accepted: dict[type, tuple[str, ...]] = {}


def _given(call: Call) -> Any:
    """What a call was on; of an Input, which is called on nothing, its own tensor."""
    return call.arguments[0] if call.arguments else call.result


def call_arguments(cls: type) -> tuple[str, ...]:
    """The names of what a layer's call takes, self first."""
    if cls not in _accepted:
        _accepted[cls] = tuple(inspect.signature(cls.call).parameters)  # type: ignore[attr-defined]  # of a Layer
    return _accepted[cls]


def open_sizes(value: Any, what: str) -> Sizes:
    """A shape of which sizes may be None; raises UsageError for anything else."""
    if hasattr(value, "as_list"):
        value = value.as_list()
    entries = value if isinstance(value, list | tuple) else (value,)
    entries = [getattr(n, "value", n) for n in entries]
    known = iter(sizes([n for n in entries if n is not None], what))
    return tuple(None if n is None else next(known) for n in entries)


def sizes(value: Any, what: str) -> tuple[int, ...]:
    """A shape as ints, -1 allowed where the caller allows it; raises UsageError for anything else."""
    entries = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(n, bool) or not hasattr(n, "__index__") for n in entries):
        raise UsageError(f"{what}={value!r}: give whole numbers, such as (28, 28).")
    return tuple(int(n) for n in entries)


def several(value: Any, count: int, what: str, least: int = 1) -> tuple[int, ...]:
    """One size for all directions, or one for each; raises UsageError for anything else."""
    found = sizes(value, what)
    found = found * count if len(found) == 1 else found
    if len(found) != count or min(found) < least:
        some = {1: "it", 2: "two of them", 3: "three of them"}[count]
        raise UsageError(f"{what}={value!r}: give a whole number from {least} up, or {some}.")
    return found


def pair(value: Any, what: str) -> tuple[int, int]:
    """One size for both directions, or two; raises UsageError for anything else."""
    return several(value, 2, what)  # type: ignore[return-value]  # two


def positive(value: Any, what: str) -> int:
    """A count; raises UsageError for what is none."""
    found = sizes(value, what)
    if isinstance(value, list | tuple) or found[0] < 1:
        raise UsageError(f"{what}={value!r}: give an integer >= 1.")
    return found[0]


class Weighted(Layer):
    """Base of layers whose weights have initializers, regularizers and constraints that are arguments.

    `roles` are the weights' names and their initializers: of "kernel" the arguments are kernel_initializer,
    kernel_regularizer and kernel_constraint.
    """

    roles: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        for role, first in self.roles.items():
            setattr(self, f"{role}_initializer", initializers.get(options.pop(f"{role}_initializer", first)))
            for kind, get in (("regularizer", regularizers.get), ("constraint", constraints.get)):
                setattr(self, f"{role}_{kind}", get(options.pop(f"{role}_{kind}", None)))
        super().__init__(**options)

    def weight(self, role: str, shape: Sequence[Any], trainable: bool = True) -> Variable:
        """The weight of a role."""
        how = [getattr(self, f"{role}_{kind}") for kind in ("initializer", "regularizer", "constraint")]
        return self.add_weight(role, shape, how[0], how[1], trainable, how[2])

    def get_config(self) -> dict[str, Any]:
        kinds = ("initializer", "regularizer", "constraint")
        named = {f"{r}_{k}": as_data(getattr(self, f"{r}_{k}")) for r in self.roles for k in kinds}
        return super().get_config() | {k: v for k, v in named.items() if v is not None}


def _batch(shape: Sizes) -> str:
    return f"[batch, {', '.join(map(str, shape[1:]))}]" if shape[1:] else "[batch]"
