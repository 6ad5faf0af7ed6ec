"""Looking after variables: which there are, which have a value, and giving them one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import bool_, string
from dtrain.graph.graph import Operation, Spec, Tensor, get_default_graph
from dtrain.ops.base import Array, Env, Kernel, Op, apply, register
from dtrain.ops.state import Variable, global_variables, global_variables_initializer, variables_initializer


class _Peek(Op):
    """Inputs: variables, which may have no value; they are named by the attribute `variables`."""

    variables: tuple[str, ...]
    stateful = True
    no_gradient = "it does not read values"

    @property
    def peeks(self) -> tuple[int, ...]:  # type: ignore[override]  # by its attributes
        return tuple(range(len(self.variables)))


@register
class IsVariableInitialized(_Peek):
    variables: tuple[str, ...]

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), bool_)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return lambda: outs[0].fill(env.initialized(self.variables[0]))


@register
class ReportUninitialized(_Peek):
    """A vector of names, as one object: how long it is shows only in the run."""

    variables: tuple[str, ...]

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), string)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        def kernel() -> None:
            names = [name.encode() for name in self.variables if not env.initialized(name)]
            outs[0][()] = np.array(names, object)

        return kernel


def is_variable_initialized(variable: Variable) -> Tensor:
    """Whether a variable has a value, as the run begins: a bool scalar.

    Args:
        variable: the variable.
    """
    with variable.graph.as_default():
        return apply(IsVariableInitialized((variable.op.name,)), variable)


def report_uninitialized_variables(
    var_list: Sequence[Variable] | None = None, name: str = "report_uninitialized_variables"
) -> Tensor:
    """The names of the variables without a value: a vector of bytes.

    Args:
        var_list: the variables; by default all global and local ones.
        name: name of the operation.
    """
    variables = list(var_list) if var_list is not None else global_variables() + local_variables()
    variables = list(dict.fromkeys(variables))
    names = apply(ReportUninitialized(tuple(v.op.name for v in variables)), *variables, name=name)
    names.spec = Spec((None,), string)  # what a fetch gives
    return names


def local_variables(scope: str | None = None) -> list[Variable]:
    """Variables in the collection LOCAL_VARIABLES of the default graph, which are not saved.

    Args:
        scope: only those whose name starts with a match of this regular expression.

    Returns:
        list: Variables.
    """
    return get_default_graph().get_collection(GraphKeys.LOCAL_VARIABLES, scope)


def model_variables(scope: str | None = None) -> list[Variable]:
    """Variables in the collection MODEL_VARIABLES of the default graph.

    Args:
        scope: only those whose name starts with a match of this regular expression.

    Returns:
        list: Variables.
    """
    return get_default_graph().get_collection(GraphKeys.MODEL_VARIABLES, scope)


def local_variables_initializer() -> Operation:
    """An operation that sets every local variable made so far to its initial value."""
    return variables_initializer(local_variables())


def all_variables() -> list[Variable]:
    """The older name of global_variables."""
    return global_variables()


def initialize_all_variables() -> Operation:
    """The older name of global_variables_initializer."""
    return global_variables_initializer()


def initialize_variables(var_list: Sequence[Variable], name: str = "init") -> Operation:
    """The older name of variables_initializer.

    Args:
        var_list: the variables.
        name: name of the operation.

    Returns:
        Operation: to be run.
    """
    return variables_initializer(var_list, name)


def initialize_local_variables() -> Operation:
    """The older name of local_variables_initializer."""
    return local_variables_initializer()
