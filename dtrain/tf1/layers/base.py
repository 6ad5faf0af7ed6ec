"""What all layers of tf.layers have in common: a variable scope of their own, and their variables in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import as_dtype
from dtrain.graph.graph import Operation, Tensor, TensorLike, get_default_graph, name_scope
from dtrain.graph.shape import TensorShape
from dtrain.keras import activations, initializers
from dtrain.ops.array import reshape
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.late import known_value
from dtrain.ops.logic import where
from dtrain.ops.math import cast
from dtrain.ops.scopes import BY_NAME, VariableScope, get_variable, get_variable_scope, variable_scope
from dtrain.ops.state import Variable


class Layer:
    """Base of the layers, and of custom ones: build(input_shape) makes variables, call(inputs) uses them.

    The first call makes the variables, in the variable scope where it stands; later calls use them again.

    Args:
        trainable: whether its variables are among the trainable ones.
        name: of its scope; by default the class's in small letters, made unique.
        dtype: of its variables, by default that of its first input.
        activity_regularizer: a function from the output to a loss, which joins REGULARIZATION_LOSSES.
        _scope, _reuse: the scope to make variables in, and whether those that are there are used.
    """

    def __init__(
        self,
        trainable: bool = True,
        name: str | None = None,
        dtype: Any = None,
        activity_regularizer: Callable[[Tensor], Any] | None = None,
        *,
        _scope: str | VariableScope | None = None,
        _reuse: Any = None,
    ) -> None:
        self.trainable = trainable
        self.built = False
        self.activity_regularizer = activity_regularizer
        self._dtype = None if dtype is None else as_dtype(dtype)
        self._reuse = _reuse
        self._base_name = name or _snake(type(self).__name__)
        self._name = name or _unique(self._base_name)
        self._trainable: list[Variable] = []
        self._others: list[Variable] = []
        self.updates: list[Operation] = []
        self.losses: list[Tensor] = []
        self._scope: VariableScope | None = None
        if _scope:
            with variable_scope(_scope) as self._scope:
                pass

    # -- for subclasses --------------------------------------------------------------------------------
    def build(self, input_shape: Any) -> None:
        """Make the variables, for inputs of this TensorShape."""
        self.built = True

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The outputs."""
        return inputs

    def add_weight(
        self,
        name: str,
        shape: Any,
        dtype: Any = None,
        initializer: Any = None,
        regularizer: Callable[[Any], Any] | None = None,
        trainable: bool = True,
        constraint: Callable[[Tensor], Any] | None = None,
    ) -> Variable:
        """A variable of the layer, found or made in its scope. To be called from build."""
        store: dict[str, Variable] = get_default_graph().kept.setdefault(BY_NAME, {})
        before = len(store)
        variable = get_variable(
            name,
            shape,
            dtype if dtype is not None else self._dtype,
            initializers.get(initializer) if isinstance(initializer, str) else initializer,
            trainable=trainable and self.trainable,
            constraint=constraint,
        )
        if regularizer is not None and len(store) > before:  # it is new
            with name_scope(f"{name}/Regularizer"):
                self.add_loss(regularizer(variable))
        (self._trainable if trainable else self._others).append(variable)
        return variable

    add_variable = add_weight

    def add_update(self, updates: Any, inputs: Any = None) -> None:
        """What is to be run with a training step: it joins UPDATE_OPS."""
        for update in updates if isinstance(updates, list | tuple) else [updates]:
            self.updates.append(update)
            get_default_graph().add_to_collection(GraphKeys.UPDATE_OPS, update)

    def add_loss(self, losses: Any, inputs: Any = None) -> None:
        """What is to be added to the loss: it joins REGULARIZATION_LOSSES. None is nothing."""
        for loss in losses if isinstance(losses, list | tuple) else [losses]:
            if loss is not None:
                self.losses.append(loss)
                get_default_graph().add_to_collection(GraphKeys.REGULARIZATION_LOSSES, loss)

    # -- for all ---------------------------------------------------------------------------------------
    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The outputs for these inputs: a tensor or array, or a list of them."""
        several = isinstance(inputs, list | tuple) and any(isinstance(x, TensorLike) for x in inputs)
        tensors = [convert_to_tensor(x) for x in inputs] if several else convert_to_tensor(inputs)
        self._enter(kwargs.pop("scope", None))
        assert self._scope is not None
        first = tensors[0] if isinstance(tensors, list) else tensors
        with (
            variable_scope(self._scope, reuse=self.built or self._reuse, auxiliary_name_scope=False),
            name_scope(self._scope.original_name_scope),
        ):
            if not self.built:
                self._dtype = self._dtype or first.dtype
                self.build([t.shape for t in tensors] if isinstance(tensors, list) else first.shape)
                self.built = True
            outputs = self.call(tensors, *args, **kwargs)
            if self.activity_regularizer is not None:
                self.add_loss(self.activity_regularizer(outputs))
        return outputs

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, as TensorFlow 1 has it by name."""
        return self(inputs, *args, **kwargs)

    def _enter(self, scope: Any) -> None:
        """Settle the variable scope at the first call."""
        if self._scope is None:
            named = (scope or self._base_name) if self._reuse else scope
            with variable_scope(named, None if named else self._base_name) as self._scope:
                pass

    @property
    def name(self) -> str:
        return self._name

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def scope_name(self) -> str:
        """Of its variables. Raises GraphError before the first call of a layer without a name."""
        if self._scope is None:
            raise GraphError(f"layer {self._name} has no scope before it is called.")
        return self._scope.name

    @property
    def graph(self) -> Any:
        return self.variables[0].graph if self.variables else get_default_graph()

    @property
    def trainable_variables(self) -> list[Variable]:
        return list(self._trainable) if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[Variable]:
        return list(self._others) if self.trainable else [*self._trainable, *self._others]

    @property
    def variables(self) -> list[Variable]:
        return [*self._trainable, *self._others]

    trainable_weights, non_trainable_weights, weights = (
        trainable_variables,
        non_trainable_variables,
        variables,
    )

    def count_params(self) -> int:
        """How many numbers its variables hold."""
        return sum(v.shape.num_elements() or 0 for v in self.variables)


def function(layer: type[Layer], name: str, *more: str) -> Callable[..., Any]:
    """The layer as a function: inputs, then the class's arguments, then `reuse` and those in `more`.

    more: arguments of the call, with a default of False.
    """
    own = inspect.signature(layer.__init__).parameters.values()
    plain = [p for p in own if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "dtype"]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    calls = [inspect.Parameter(n, kind, default=False) for n in more]
    at = next((i for i, p in enumerate(plain) if p.name in ("trainable", "name")), len(plain))
    named = [*plain[:at], *calls, *plain[at:]]
    reuse = inspect.Parameter("reuse", kind, default=None)
    signature = inspect.Signature([inspect.Parameter("inputs", kind), *named, reuse])

    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        inputs, again = given.pop("inputs"), given.pop("reuse", None)
        calling = {n: given.pop(n) for n in more if n in given}
        called = given.get("name")
        return layer(**given, _scope=called, _reuse=again)(inputs, **calling)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"{layer.__name__} as a function of its inputs: {(layer.__doc__ or '').strip()}"
    call.__signature__ = signature  # type: ignore[attr-defined]  # inspect reads it
    return call


def chosen(training: Any, yes: Callable[[], Tensor], no: Callable[[], Tensor]) -> Tensor:
    """yes() while training, else no(); for a tensor that the run decides both, and one of them."""
    known = fixed(training)
    if known is not None:
        return yes() if known else no()
    # not a product with 0: what is not chosen may be infinite
    return where(reshape(cast(training, "bool"), []), yes(), no())


def fixed(training: Any) -> bool | None:
    """Whether it trains, where that is known as the line is written."""
    if not isinstance(training, TensorLike):
        return bool(training)
    known = known_value(convert_to_tensor(training))
    return None if known is None or known.dtype == object else bool(known)


def activated(activation: Any, x: Tensor) -> Tensor:
    """activation(x): a function, the name of one, or None for none."""
    if activation is None:
        return x
    return (activations.get(activation) if isinstance(activation, str) else activation)(x)


def size_along(shape: TensorShape, axis: int, layer: str) -> int:
    """The size of an axis, which has to be known. Raises GraphError where it is not."""
    dims = shape.dims
    size = dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
    if size is None:
        raise GraphError(
            f"{layer}: the inputs have the shape {shape}, and the size of axis {axis}, which the variables "
            "depend on, has to be known: dt.reshape(x, [-1, size])."
        )
    return int(size)


def _snake(name: str) -> str:
    """'Conv2DTranspose' as 'conv2d_transpose'."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
    return words if words[0] != "_" else f"private{words}"


def _unique(name: str) -> str:
    """name, name_1, ... for the layers of a graph in one variable scope."""
    counts: dict[str, int] = get_default_graph().kept.setdefault("layer names", {})
    key = f"{get_variable_scope().name}/{name}"
    counts[key] = counts.get(key, 0) + 1
    return name if counts[key] == 1 else f"{name}_{counts[key] - 1}"
