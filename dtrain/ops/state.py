"""Variables: values that stay in the session from run to run, and the ops that write them.

A read without a control dependency on a write of the same run sees the value from before that run's writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import (
    Graph,
    Operation,
    Spec,
    Tensor,
    TensorLike,
    as_operation,
    get_default_graph,
    session_for,
)
from dtrain.graph.shape import TensorShape, as_dims, compatible, is_static, shape_text
from dtrain.ops.array import Identity
from dtrain.ops.base import (
    Array,
    Env,
    Kernel,
    Op,
    apply,
    convert_to_tensor,
    register,
    to_array,
)
from dtrain.ops.elementwise import Elementwise
from dtrain.ops.math import Add, Sub

#: Under this name a graph keeps every variable of its own, by its operation.
OWNERS = "variables"

#: The group of variables that optimizers update.
PARAMETERS = "trainable"


@register
class VariableOp(Op):
    """The variable's memory; the session owns it, keyed by the operation's name.

    Variables of one group and dtype lie one after the other in one buffer, in the order they were made.
    """

    shape: tuple[int, ...]
    dtype: DType
    group: str
    stateful = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(self.shape, self.dtype)]


def is_parameter(operation: Operation) -> bool:
    """Whether it is a variable that optimizers update, and no slot of theirs."""
    return isinstance(operation.kind, VariableOp) and operation.kind.group == PARAMETERS


def is_updated(operation: Operation) -> bool:
    """Whether it is a parameter or a slot of one: of these the ranks of a node have one copy, if they can."""
    return isinstance(operation.kind, VariableOp) and operation.kind.group.startswith(PARAMETERS)


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


@register
class Assign(_Write):
    """initial: it gives a variable its initial value, which is rank 0's on all ranks."""

    initial: bool = False

    @property
    def in_parts(self) -> bool:  # type: ignore[override]  # by its attributes
        return self.initial  # all ranks take part in the broadcast, and write the same

    @property
    def from_rank_0(self) -> tuple[int, ...]:  # type: ignore[override]  # by its attributes
        return (1,) if self.initial else ()

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        variable, value = ins
        if not self.initial or variable.dtype == object or env.comm.size == 1:
            return partial(env.xp.copyto, variable, value)
        comm, xp = env.comm, env.xp

        def kernel() -> None:
            host = np.array(value if env.on_host else xp.asnumpy(value), order="C")
            comm.broadcast(host.reshape(-1).view(np.uint8))
            xp.copyto(variable, xp.asarray(host))

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        variable, value = ins
        return None if self.initial else code.move(variable, value)


class _Change(_Write):
    """A write of what an elementwise op makes of the variable and the value."""

    op: ClassVar[Elementwise]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return self.op.bind(env, ins, [ins[0]])

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return self.op.native(code, specs, ins, [ins[0]])


@register
class AssignAdd(_Change):
    op = Add()


@register
class AssignSub(_Change):
    op = Sub()


@register
class NoOp(Op):
    """Does nothing, after its control inputs: what group() returns."""

    stateful = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return []


@register
class InitializedValue(Op):
    """A variable's value where it has one before the run, else its initial value (the second input)."""

    variable: str
    stateful = True
    peeks = (0,)
    no_gradient = "it is for initial values"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return lambda: env.xp.copyto(outs[0], ins[0] if env.initialized(self.variable) else ins[1])


def is_learned(x: Any) -> bool:
    """Whether a tensor is computed of variables; what is no tensor is not."""
    seen: set[Operation] = set()
    todo = [x.op] if isinstance(x, TensorLike) else []
    while todo:
        node = todo.pop()
        if isinstance(node.kind, VariableOp):
            return True
        if node not in seen:
            seen.add(node)
            todo += [t.op for t in node.inputs]
    return False


class Variable(TensorLike):
    """A value that persists between runs: a model's parameters, a step counter.

    Args:
        initial_value: a tensor, array or number, or a function of no arguments that makes one; its shape and
            dtype become the variable's. Other variables without a value in it are replaced by their initial
            values.
        trainable: whether optimizers update it by default.
        collections: names of the collections that it joins, by default GraphKeys.GLOBAL_VARIABLES.
        validate_shape: only True, since the shape of a variable is fixed.
        caching_device: accepted for TensorFlow 1; a variable is on the session's device.
        name: its name, made unique; by default Variable.
        variable_def, import_scope: only None, since there are no protocol buffers to read it from.
        dtype: converts initial_value first.
        expected_shape: what the shape of initial_value must be compatible with.
        constraint: a function from the new value to the valid one, which optimizers apply after an update.
        group: variables of one group are side by side in memory.

    Raises:
        GraphError: initial_value is missing, has unknown sizes, or an argument is not supported.

    Example:
        >>> w = dt.Variable(dt.zeros([784, 10]), name="weights")
        >>> w.shape.as_list()
        [784, 10]
    """

    def __init__(
        self,
        initial_value: Any = None,
        trainable: bool = True,
        collections: Sequence[str] | None = None,
        validate_shape: bool = True,
        caching_device: Any = None,
        name: str | None = None,
        variable_def: None = None,
        dtype: Any = None,
        expected_shape: Any = None,
        import_scope: None = None,
        constraint: Callable[[Any], Any] | None = None,
        *,
        group: str = "",
    ) -> None:
        graph = get_default_graph()
        name = name or "Variable"
        if initial_value is None:
            raise GraphError(f"{name}: a variable needs an initial value, such as dt.zeros([784, 10]).")
        if not validate_shape:
            raise GraphError(f"{name}: validate_shape=False is not supported: a variable's sizes are fixed.")
        if variable_def is not None or import_scope is not None:
            raise GraphError(f"{name}: variable_def and import_scope are not supported: give initial_value.")
        if constraint is not None and not callable(constraint):
            raise GraphError(f"{name}: constraint is no function of the variable's value.")
        if isinstance(collections, str):
            raise GraphError(f"{name}: collections is a list of names: write [{collections!r}].")
        # a variable made inside control_dependencies is there before them
        with graph.control_dependencies(None), graph.name_scope(name) as scope:
            with graph.name_scope("Initializer"):
                value = initial_value() if callable(initial_value) else initial_value
                initial = convert_to_tensor(value, dtype, name="initial_value")
                self._check_initial(initial, scope[:-1], expected_shape)
            group = group or (PARAMETERS if trainable else "state")
            kind = VariableOp(initial.spec.shape, initial.dtype, group)
            self.trainable = trainable
            self.constraint = constraint
            self.initial_value = initial
            self._ref = graph.add(kind, name=scope).outputs[0]
            self._settled = _with_initialized_values(initial)
            self.initializer = graph.add(Assign(initial=True), (self._ref, self._settled), "Assign")
        graph.kept.setdefault(OWNERS, {})[self.op] = self
        keys = [GraphKeys.GLOBAL_VARIABLES] if collections is None else list(collections)
        graph.add_to_collections([*keys, GraphKeys.TRAINABLE_VARIABLES] if trainable else keys, self)

    @classmethod
    def of(
        cls, ref: Tensor, initial_value: Tensor, settled: Tensor, initializer: Operation, trainable: bool
    ) -> Variable:
        """The variable of operations that are there, as in a graph that is imported; in no collection."""
        self = cls.__new__(cls)
        self.trainable, self.constraint = trainable, None
        self.initial_value, self.initializer = initial_value, initializer
        self._ref, self._settled = ref, settled
        ref.graph.kept.setdefault(OWNERS, {})[ref.op] = self
        return self

    def begin_with(self, value: Tensor) -> None:
        """Let its initializer, an operation that is made anew, give it another value of the same shape."""
        self.initial_value = self._settled = value
        name = f"{self.op.name}/Assign_other"
        self.initializer = self.graph.add(Assign(initial=True), (self._ref, value), name)

    @staticmethod
    def _check_initial(initial: Tensor, name: str, expected_shape: Any) -> None:
        if initial.dtype.is_string:
            raise GraphError(
                f"{name}: the initial value {initial.name} is a string, and variables are numbers."
            )
        if not is_static(initial.spec.shape):
            raise GraphError(
                f"{name}: the initial value {initial.name} has the unknown shape "
                f"{shape_text(initial.spec.shape)}; a variable's sizes are fixed."
            )
        if not compatible(initial.spec.shape, as_dims(expected_shape)):
            raise GraphError(
                f"{name}: the initial value has the shape {shape_text(initial.spec.shape)}, not the expected "
                f"{shape_text(as_dims(expected_shape))}."
            )

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

    def read_value(self) -> Tensor:
        """A tensor with its value at the place where it is made: after what control_dependencies asks for."""
        return apply(Identity(), self._ref, name=f"{self.op.name}/read")

    def initialized_value(self) -> Tensor:
        """Its value, or its initial value where it has none: what another's initial value can be made of."""
        with self.graph.as_default():
            return apply(InitializedValue(self.op.name), self._ref, self._settled)

    def eval(self, session: Any = None) -> Any:
        """Its value in a session, by default the default session."""
        return self._ref.eval(session=session)

    def numpy(self) -> Any:
        """Its value in the default session, or in that of the Keras model that it is a weight of."""
        return self.eval()

    def load(self, value: Any, session: Any = None) -> None:
        """Give it a value in a session, by default the default one; every rank gives its own.

        Raises:
            InvalidArgumentError: the value has another shape.
        """
        session = session_for(self.graph, session, "load()")
        session.set_value(self, to_array(value, self.dtype))

    def assign(
        self, value: Any, use_locking: bool = False, name: str | None = None, read_value: bool = True
    ) -> Any:
        """A tensor that, when run, sets the variable and gives its new value.

        read_value=False gives the operation. use_locking has no meaning: operations run one after the other.
        """
        return self._write(Assign(), value, name, read_value)

    def assign_add(
        self, delta: Any, use_locking: bool = False, name: str | None = None, read_value: bool = True
    ) -> Any:
        """As assign, adding to the variable."""
        return self._write(AssignAdd(), delta, name, read_value)

    def assign_sub(
        self, delta: Any, use_locking: bool = False, name: str | None = None, read_value: bool = True
    ) -> Any:
        """As assign, subtracting from the variable."""
        return self._write(AssignSub(), delta, name, read_value)

    def _write(self, kind: Op, value: Any, name: str | None, read_value: bool) -> Any:
        written = apply(kind, self._ref, convert_to_tensor(value, self.dtype), name=name)
        return written if read_value else written.op

    def __repr__(self) -> str:
        return f"<tf.Variable '{self.name}' shape={self.shape} dtype={self.dtype.name}_ref>"


def _with_initialized_values(initial: Tensor) -> Tensor:
    """The tensor with initialized_value() in place of every variable that it is computed of.

    Without this the order of initializers in one run would have to be the user's care.
    """
    owners: dict[Operation, Variable] = initial.graph.kept.get(OWNERS, {})
    settled: dict[Tensor, Tensor] = {}
    for node in sorted(_behind(initial), key=lambda n: n.id):
        inputs = tuple(settled.get(t, t) for t in node.inputs)
        if isinstance(node.kind, VariableOp) and node in owners:
            settled[node.outputs[0]] = owners[node].initialized_value()
        elif inputs != node.inputs and not isinstance(node.kind, InitializedValue):
            copy = initial.graph.add(node.kind, inputs, node.name.rpartition("/")[2], node.control_inputs)
            settled.update(zip(node.outputs, copy.outputs, strict=True))
    return settled.get(initial, initial)


def _behind(tensor: Tensor) -> set[Operation]:
    """The operations that a tensor is computed by."""
    seen: set[Operation] = set()
    stack = [tensor.op]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(t.op for t in node.inputs)
    return seen


def assign(
    ref: Variable,
    value: Any,
    validate_shape: bool | None = None,
    use_locking: bool | None = None,
    name: str | None = None,
) -> Tensor:
    """An op that sets a variable: ref.assign(value).

    Args:
        ref: the variable.
        value: tensor, array or number of its shape, converted to its dtype.
        validate_shape: only True, since the shape of a variable is fixed.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.

    Returns:
        Tensor: the new value.

    Raises:
        GraphError: the shapes differ, or validate_shape is False.
    """
    if validate_shape is False:
        raise GraphError(f"assign to {ref.name}: validate_shape=False is not supported: its sizes are fixed.")
    return ref.assign(value, name=name)


def assign_add(ref: Variable, value: Any, use_locking: bool | None = None, name: str | None = None) -> Tensor:
    """An op that adds to a variable: ref.assign_add(value).

    Args:
        ref: the variable.
        value: tensor, array or number of its shape, converted to its dtype.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.

    Returns:
        Tensor: the new value.

    Raises:
        GraphError: the shapes differ.
    """
    return ref.assign_add(value, name=name)


def assign_sub(ref: Variable, value: Any, use_locking: bool | None = None, name: str | None = None) -> Tensor:
    """An op that subtracts from a variable: ref.assign_sub(value).

    Args:
        ref: the variable.
        value: tensor, array or number of its shape, converted to its dtype.
        use_locking: accepted for TensorFlow 1; without effect, since one run writes at a time.
        name: name of the operation.

    Returns:
        Tensor: the new value.

    Raises:
        GraphError: the shapes differ.
    """
    return ref.assign_sub(value, name=name)


def global_variables(scope: str | None = None) -> list[Variable]:
    """The global variables of the default graph, in the order in which they were made.

    Args:
        scope: only those whose name starts with a match of this regular expression.

    Returns:
        list: Variables.
    """
    return get_default_graph().get_collection(GraphKeys.GLOBAL_VARIABLES, scope)


def trainable_variables(scope: str | None = None) -> list[Variable]:
    """The variables that optimizers update, in the order in which they were made.

    Args:
        scope: only those whose name starts with a match of this regular expression.

    Returns:
        list: Variables.
    """
    return get_default_graph().get_collection(GraphKeys.TRAINABLE_VARIABLES, scope)


def variables_initializer(var_list: Sequence[Variable], name: str = "init") -> Operation:
    """An operation that sets variables to their initial values.

    Args:
        var_list: the variables.
        name: name of the operation.

    Returns:
        Operation: to be run.
    """
    return group(*(v.initializer for v in var_list), name=name)


def global_variables_initializer() -> Operation:
    """An operation that sets every global variable made so far to its initial value."""
    return variables_initializer(global_variables())


def group(*inputs: Any, name: str | None = None) -> Operation:
    """An operation that is done when all its inputs are.

    Args:
        inputs: operations, tensors or variables, or lists of them.
        name: name of the operation.

    Returns:
        Operation: to be run.
    """
    operations = tuple(as_operation(i) for i in _flat(inputs))
    graph = operations[0].graph if operations else get_default_graph()
    return graph.add(NoOp(), (), name or "group_deps", operations)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def no_op(name: str | None = None) -> Operation:
    """An operation that does nothing.

    Args:
        name: name of the operation.
    """
    return get_default_graph().add(NoOp(), (), name)
