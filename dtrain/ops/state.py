"""Variables: values that stay in the session from run to run, and the ops that write them.

A read without a control dependency on a write of the same run sees the value from before that run's writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Graph, Operation, Spec, Tensor, TensorLike, as_operation, get_default_graph
from dtrain.graph.shape import TensorShape, compatible, is_static, shape_text
from dtrain.ops.base import Array, Env, Example, Kernel, Op, apply, convert_to_tensor, register

GLOBAL_VARIABLES = "variables"
TRAINABLE_VARIABLES = "trainable_variables"


@register
class VariableOp(Op):
    """The variable's memory; the session owns it, keyed by the operation's name.

    Variables of one group and dtype lie one behind the other in one buffer, in the order they were made.
    """

    shape: tuple[int, ...]
    dtype: DType
    group: str
    stateful = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(self.shape, self.dtype)]

    @classmethod
    def examples(cls) -> list[Example]:
        return []


class _Write(Op):
    """Inputs: the variable and a value of its shape. The output is the variable, as written."""

    stateful = True
    no_gradient = "it writes"

    @property
    def writes(self) -> tuple[int, ...]:
        return (0,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        variable, value = specs
        if value.dtype != variable.dtype:
            raise GraphError(
                f"a value of {value.dtype.name} for a variable of {variable.dtype.name}; cast it"
            )
        if not compatible(value.shape, variable.shape):
            raise GraphError(
                f"a value of shape {shape_text(value.shape)} "
                f"for a variable of shape {shape_text(variable.shape)}"
            )
        return [variable]

    @classmethod
    def examples(cls) -> list[Example]:
        return []


@register
class Assign(_Write):
    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(env.xp.copyto, ins[0], ins[1])


@register
class AssignAdd(_Write):
    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(env.xp.add, ins[0], ins[1], ins[0])


@register
class AssignSub(_Write):
    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(env.xp.subtract, ins[0], ins[1], ins[0])


@register
class NoOp(Op):
    """Does nothing, after its control inputs: what group() returns."""

    stateful = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return []

    @classmethod
    def examples(cls) -> list[Example]:
        return []


class Variable(TensorLike):
    """A value that persists between runs: a model's parameters, a step counter.

    Args:
        initial_value: a tensor, array or number, or a function of no arguments that makes one; its shape
            and dtype become the variable's.
        trainable: whether optimizers update it unless told otherwise.
        dtype: converts initial_value first.

    Raises:
        GraphError: initial_value is missing or has unknown sizes.
    """

    def __init__(
        self,
        initial_value: Any = None,
        trainable: bool = True,
        name: str | None = None,
        dtype: Any = None,
        *,
        group: str = "",
    ) -> None:
        graph = get_default_graph()
        name = name or "Variable"
        if initial_value is None:
            raise GraphError(f"{name}: a variable needs an initial value, such as dt.zeros([784, 10]).")
        with graph.control_dependencies(None), graph.name_scope(f"{name}_init"):
            value = initial_value() if callable(initial_value) else initial_value
            initial = convert_to_tensor(value, dtype, name="initial_value")
        if not is_static(initial.spec.shape):
            raise GraphError(
                f"{name}: the initial value {initial.name} has the unknown shape "
                f"{shape_text(initial.spec.shape)}; a variable's sizes are fixed."
            )
        group = group or ("trainable" if trainable else "state")
        self.trainable = trainable
        kind = VariableOp(initial.spec.shape, initial.dtype, group)  # type: ignore[arg-type]
        self.initial_value = initial
        # a variable made inside control_dependencies is there before them
        with graph.control_dependencies(None):
            self._ref = apply(kind, name=name)
            self.initializer = graph.add(Assign(), (self._ref, initial), f"{name}/Assign")
        graph.add_to_collection(GLOBAL_VARIABLES, self)
        if trainable:
            graph.add_to_collection(TRAINABLE_VARIABLES, self)

    @property
    def op(self) -> Operation:
        return self._ref.op

    @property
    def name(self) -> str:
        return self._ref.name

    @property
    def dtype(self) -> DType:
        return self._ref.dtype

    @property
    def shape(self) -> TensorShape:
        return self._ref.shape

    @property
    def graph(self) -> Graph:
        return self._ref.graph

    def get_shape(self) -> TensorShape:
        return self.shape

    def value(self) -> Tensor:
        """The tensor that reads it."""
        return self._ref

    def assign(self, value: Any, name: str | None = None) -> Tensor:
        """A tensor that, when run, sets the variable and gives its new value."""
        return self._write(Assign(), value, name)

    def assign_add(self, delta: Any, name: str | None = None) -> Tensor:
        """A tensor that, when run, adds to the variable and gives its new value."""
        return self._write(AssignAdd(), delta, name)

    def assign_sub(self, delta: Any, name: str | None = None) -> Tensor:
        """A tensor that, when run, subtracts from the variable and gives its new value."""
        return self._write(AssignSub(), delta, name)

    def _write(self, kind: Op, value: Any, name: str | None) -> Tensor:
        return apply(kind, self._ref, convert_to_tensor(value, self.dtype), name=name)

    def __repr__(self) -> str:
        return f"<dt.Variable '{self.name}' shape={self.shape} dtype={self.dtype.name}_ref>"


def global_variables() -> list[Variable]:
    """All variables of the default graph, in the order they were made."""
    return get_default_graph().get_collection(GLOBAL_VARIABLES)


def trainable_variables() -> list[Variable]:
    """Those that optimizers update, in the order they were made."""
    return get_default_graph().get_collection(TRAINABLE_VARIABLES)


def variables_initializer(variables: Sequence[Variable], name: str = "init") -> Operation:
    """An operation that gives these variables their initial values."""
    return group(*(v.initializer for v in variables), name=name)


def global_variables_initializer() -> Operation:
    """An operation that gives every variable made so far its initial value."""
    return variables_initializer(global_variables())


def group(*inputs: Any, name: str | None = None) -> Operation:
    """An operation that is done when all of these are."""
    operations = tuple(as_operation(i) for i in inputs)
    graph = operations[0].graph if operations else get_default_graph()
    return graph.add(NoOp(), (), name or "group_deps", operations)


def no_op(name: str | None = None) -> Operation:
    """An operation that does nothing."""
    return get_default_graph().add(NoOp(), (), name)
