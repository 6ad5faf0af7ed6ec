"""What a layer is: weights that it makes when it first sees an input, and the ops that use them.

A new layer is a class:

    class Scale(Layer):
        arguments = ("start",)

        def __init__(self, start=1.0, **options):
            super().__init__(**options)
            self.start = start

        def build(self, input_shape):
            self.factor = self.add_weight("factor", input_shape[-1:], Constant(self.start))

        def call(self, x, training):
            return x * self.factor
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from dtrain.errors import GraphError, UsageError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Graph, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import shape_text
from dtrain.keras import initializers, regularizers
from dtrain.keras.names import as_data
from dtrain.ops.base import convert_to_tensor, to_array
from dtrain.ops.state import Assign, AssignAdd, Variable

#: Sizes of one example, or of a weight.
Sizes = tuple[int, ...]


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


class Layer:
    """Base of the layers.

    Args:
        name: by default the class's name in small letters, numbered where a model has it several times.
        trainable: whether training changes its weights.
        input_shape: the shape of one example, for a model's first layer; input_dim=n is input_shape=(n,).
        batch_input_shape: the same with the batch's size before it, which is not used.
        dtype: only float32.

    Raises:
        UsageError: an argument cannot be meant.
    """

    #: Arguments of its own, kept as attributes of the same names: what get_config says.
    arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        name: str | None = None,
        trainable: bool = True,
        input_shape: Sequence[int] | None = None,
        batch_input_shape: Sequence[int | None] | None = None,
        input_dim: int | None = None,
        dtype: Any = None,
    ) -> None:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        self.name = name or words
        self.named = name is not None
        self.trainable = trainable
        if batch_input_shape is not None:
            input_shape = batch_input_shape[1:]  # type: ignore[assignment]
        elif input_dim is not None:
            input_shape = (input_dim,)
        self.input_shape_given = (
            None if input_shape is None else sizes(input_shape, f"{self.name}: input_shape")
        )
        if dtype not in (None, "float32"):
            raise UsageError(f"{self.name}: dtype={dtype!r} is not supported: layers compute in float32.")
        self.graph: Graph | None = None
        self.weights: list[Variable] = []
        self._penalties: dict[Variable, Tensor] = {}  # what its regularizers add to the loss
        self.updates: list[Any] = []  # of the last call while training
        self.input_shape: tuple[int | None, ...] | None = None
        self.output_shape: tuple[int | None, ...] | None = None
        self._moving: set[Variable] = set()

    # -- for subclasses --------------------------------------------------------------------------------
    def build(self, input_shape: Sizes) -> None:
        """Make the weights, by add_weight, for examples of this shape."""

    def call(self, x: Tensor, training: Any) -> Tensor:
        """The output for a batch x, built into its graph.

        training: True, False, or a float32 scalar tensor that is 1 or 0.
        """
        raise NotImplementedError

    def add_weight(
        self,
        name: str,
        shape: Sequence[int],
        initializer: Any = "glorot_uniform",
        regularizer: Any = None,
        trainable: bool = True,
        constraint: Any = None,
    ) -> Variable:
        """A variable of the layer, float32; not trainable means that call updates it, by add_update."""
        make = initializers.get(initializer)
        weight = Weight(
            lambda: make(tuple(shape), "float32"),
            trainable=self.trainable and trainable,
            name=name,
            constraint=constraint,
        )
        self.weights.append(weight)
        if not trainable:
            self._moving.add(weight)
        regularizer = regularizers.get(regularizer)
        if regularizer is not None:
            self._penalties[weight] = regularizer(weight)
            weight.graph.add_to_collection(GraphKeys.REGULARIZATION_LOSSES, self._penalties[weight])
        return weight

    def add_update(self, update: Any) -> None:
        """An operation for every training step to run beside the optimizer's."""
        self.updates.append(update)
        update.graph.add_to_collection(GraphKeys.UPDATE_OPS, update)

    def fits(self, input_shape: Sizes, ndim: int, form: str, hint: str) -> None:
        """Raise GraphError unless an example has ndim axes."""
        if len(input_shape) != ndim:
            raise GraphError(f"it takes {form}, and its input is {_examples(input_shape)}: {hint}")

    # -- use -------------------------------------------------------------------------------------------
    def __call__(self, x: Any, training: Any = False) -> Tensor:
        """The layer on a batch, in the graph of x; at the first call its weights are made.

        Raises:
            GraphError: the input does not fit, or is of another graph than the layer's weights.
        """
        if isinstance(x, Layer):  # Keras's Input(...), which there is a tensor
            raise GraphError(
                f"layer {self.name} is called on {x.name}, of Input: models are Sequential. For "
                "several inputs or branches call layers on placeholders, in a graph of your own."
            )
        x = convert_to_tensor(x)
        dims = x.spec.shape
        if not dims or None in dims[1:]:
            raise GraphError(
                f"layer {self.name}: its input {x.name} has the shape {shape_text(dims)}, and all sizes but "
                "the first have to be known: give the placeholder a shape, or the first layer input_shape=."
            )
        inner: Sizes = dims[1:]  # type: ignore[assignment]
        with x.graph.as_default(), x.graph.name_scope(self.name):
            try:
                if self.graph is None:
                    self.build(inner)
                    self.graph, self.input_shape = x.graph, (None, *inner)
                elif self.weights and self.graph is not x.graph:
                    raise GraphError("it has its weights in another graph: make a new layer")
                elif self.weights and self.input_shape != (None, *inner):
                    raise GraphError(
                        f"its weights are for {_examples(self.input_shape[1:])}, "  # type: ignore[index]
                        f"and its input is {_examples(inner)}"
                    )
                self.updates = []
                y = self.call(x, training)
            except GraphError as error:
                raise GraphError(f"layer {self.name} ({type(self).__name__}): {error}") from None
        self.output_shape = y.spec.shape
        return y

    @property
    def built(self) -> bool:
        return self.graph is not None

    @property
    def trainable_weights(self) -> list[Variable]:
        return [w for w in self.weights if self.trainable and w not in self._moving]

    @property
    def non_trainable_weights(self) -> list[Variable]:
        return [w for w in self.weights if not self.trainable or w in self._moving]

    @property
    def losses(self) -> list[Tensor]:
        """What its regularizers add to the loss: of weights that are trained."""
        return [self._penalties[w] for w in self.trainable_weights if w in self._penalties]

    def count_params(self) -> int:
        """Numbers that its weights hold."""
        return sum(w.shape.num_elements() or 0 for w in self.weights)

    def get_config(self) -> dict[str, Any]:
        """Its arguments as plain data."""
        config: dict[str, Any] = {"name": self.name, "trainable": self.trainable}
        if self.input_shape_given is not None:
            config["input_shape"] = list(self.input_shape_given)
        return config | {name: as_data(getattr(self, name)) for name in self.arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Layer:
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class InputLayer(Layer):
    """Says the shape of one example, as a model's first entry."""

    def __init__(self, input_shape: Sequence[int] | None = None, **options: Any) -> None:
        super().__init__(input_shape=input_shape, **options)
        if self.input_shape_given is None:
            raise UsageError("Input needs the shape of one example: Input(shape=(28, 28)).")

    def call(self, x: Tensor, training: Any) -> Tensor:
        return x


def Input(shape: Sequence[int] | None = None, batch_size: int | None = None, **options: Any) -> InputLayer:
    """InputLayer(shape): what Sequential takes as its first entry. batch_size has no meaning here."""
    return InputLayer(shape, **options)


def sizes(value: Any, what: str) -> Sizes:
    """A shape as ints, -1 allowed where the caller allows it; raises UsageError for anything else."""
    entries = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(n, bool) or not hasattr(n, "__index__") for n in entries):
        raise UsageError(f"{what}={value!r}: give whole numbers, such as (28, 28).")
    return tuple(int(n) for n in entries)


def pair(value: Any, what: str) -> tuple[int, int]:
    """One size for both directions, or two; raises UsageError for anything else."""
    found = sizes(value, what)
    found = found * 2 if len(found) == 1 else found
    if len(found) != 2 or min(found) < 1:
        raise UsageError(f"{what}={value!r}: give a whole number from 1 up, or two of them.")
    return found  # type: ignore[return-value]


def positive(value: Any, what: str) -> int:
    """A count; raises UsageError for what is none."""
    found = sizes(value, what)
    if isinstance(value, list | tuple) or found[0] < 1:
        raise UsageError(f"{what}={value!r}: give a whole number from 1 up.")
    return found[0]


def channels_last(data_format: Any, name: str) -> str:
    """The only layout of images that there is; raises UsageError for the other."""
    if data_format not in (None, "channels_last"):
        raise UsageError(
            f"{name}: data_format={data_format!r} is not supported: images are [height, width, channels]; "
            "x.transpose(0, 2, 3, 1) makes them so."
        )
    return "channels_last"


def _examples(shape: tuple[int | None, ...]) -> str:
    return f"[batch, {', '.join(map(str, shape))}]" if shape else "[batch]"
