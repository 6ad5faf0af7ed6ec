"""tf.contrib.framework: arguments by scope, and variables by name and collection.

with arg_scope([layers.conv2d], padding="SAME", weights_regularizer=layers.l2_regularizer(1e-4)):
    h = layers.conv2d(x, 32, [5, 5])        # as if both had been written here
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import TensorLike, get_collection, get_default_graph
from dtrain.names import module_getattr
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.scopes import VariableScope, get_variable
from dtrain.ops.state import Variable
from dtrain.train.readers import (
    assign_from_checkpoint_fn,
    init_from_checkpoint,
    list_variables,
    load_variable,
)
from dtrain.train.step_counter import create_global_step, get_global_step, get_or_create_global_step

__all__ = [
    "add_arg_scope",
    "add_model_variable",
    "arg_scope",
    "arg_scoped_arguments",
    "assert_global_step",
    "assign_from_checkpoint_fn",
    "create_global_step",
    "current_arg_scope",
    "filter_variables",
    "get_global_step",
    "get_local_variables",
    "get_model_variables",
    "get_or_create_global_step",
    "get_trainable_variables",
    "get_unique_variable",
    "get_variables",
    "get_variables_by_name",
    "get_variables_by_suffix",
    "get_variables_to_restore",
    "has_arg_scope",
    "init_from_checkpoint",
    "is_tensor",
    "list_variables",
    "load_variable",
    "local_variable",
    "model_variable",
    "variable",
]

__getattr__ = module_getattr("tf.contrib.framework")

#: Arguments by function, of the scopes that this thread is in.
Arguments = dict[Any, dict[str, Any]]


class _Stack(threading.local):
    def __init__(self) -> None:
        self.scopes: list[Arguments] = [{}]


_stack = _Stack()
_scoped: dict[Any, tuple[str, ...]] = {}


def add_arg_scope(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the function takes arguments from arg_scope."""

    @wraps(func)
    def scoped(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **{**current_arg_scope().get(scoped, {}), **kwargs})

    code = getattr(func, "__code__", None)
    _scoped[scoped] = () if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return scoped


@contextmanager
def arg_scope(list_ops_or_scope: Any, **kwargs: Any) -> Iterator[Arguments]:
    """Give functions arguments by name, where a call does not; a scope that `as` gave is entered again.

    Raises:
        GraphError: one of the functions is not decorated with add_arg_scope, or a scope is changed.
    """
    if isinstance(list_ops_or_scope, dict):
        if kwargs:
            raise GraphError("arg_scope: a scope that is entered again takes no more arguments.")
        scope = dict(list_ops_or_scope)
    else:
        if not isinstance(list_ops_or_scope, list | tuple):
            raise GraphError(
                "arg_scope takes a list of functions: arg_scope([layers.conv2d], padding='SAME')."
            )
        scope = dict(current_arg_scope())
        for op in list_ops_or_scope:
            if not has_arg_scope(op):
                raise GraphError(f"{getattr(op, '__name__', op)} is not decorated with @add_arg_scope.")
            scope[op] = {**scope.get(op, {}), **kwargs}
    _stack.scopes.append(scope)
    try:
        yield scope
    finally:
        _stack.scopes.pop()


def current_arg_scope() -> Arguments:
    """Arguments by function, where this line is."""
    return _stack.scopes[-1]


def has_arg_scope(func: Callable[..., Any]) -> bool:
    """Whether it takes arguments from arg_scope."""
    return func in _scoped


def arg_scoped_arguments(func: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments that arg_scope can give it."""
    return _scoped[func]


# -- variables -------------------------------------------------------------------------------------------
@add_arg_scope
def variable(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Any = None,
    trainable: bool = True,
    collections: Any = None,
    caching_device: Any = None,
    device: Any = None,
    partitioner: Any = None,
    custom_getter: Any = None,
    use_resource: bool | None = None,
) -> Variable:
    """get_variable, under contrib's name. device and caching_device have no meaning here."""
    keys = [GraphKeys.GLOBAL_VARIABLES] if collections is None else list(dict.fromkeys(collections))
    return get_variable(
        name,
        shape,
        dtype,
        initializer,
        regularizer,
        trainable,
        keys,
        partitioner=partitioner,
        custom_getter=custom_getter,
    )


@add_arg_scope
def model_variable(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Any = None,
    trainable: bool = True,
    collections: Any = None,
    caching_device: Any = None,
    device: Any = None,
    partitioner: Any = None,
    custom_getter: Any = None,
    use_resource: bool | None = None,
) -> Variable:
    """A variable that also joins MODEL_VARIABLES: what a model is, without what its training needs."""
    keys = [*(collections or ()), GraphKeys.GLOBAL_VARIABLES, GraphKeys.MODEL_VARIABLES]
    return variable(
        name,
        shape,
        dtype,
        initializer,
        regularizer,
        trainable,
        keys,
        partitioner=partitioner,
        custom_getter=custom_getter,
    )


def local_variable(initial_value: Any, validate_shape: bool = True, name: str | None = None) -> Variable:
    """A variable that is neither trained nor saved."""
    return Variable(
        initial_value,
        trainable=False,
        collections=[GraphKeys.LOCAL_VARIABLES],
        validate_shape=validate_shape,
        name=name,
    )


def add_model_variable(var: Variable) -> None:
    """Let a variable join MODEL_VARIABLES, where it is not in there."""
    if var not in get_collection(GraphKeys.MODEL_VARIABLES):
        get_default_graph().add_to_collection(GraphKeys.MODEL_VARIABLES, var)


def get_variables(
    scope: str | VariableScope | None = None,
    suffix: str | None = None,
    collection: str = GraphKeys.GLOBAL_VARIABLES,
) -> list[Variable]:
    """The variables of a collection in a scope, whose names end in the suffix."""
    name = scope.name if isinstance(scope, VariableScope) else scope
    found = get_collection(collection, name)
    if suffix is None:
        return found
    ending = re.compile(rf"(.*/)?{re.escape(suffix.partition(':')[0])}$")
    return [v for v in found if ending.match(v.op.name)]


def get_model_variables(scope: Any = None, suffix: str | None = None) -> list[Variable]:
    """get_variables of MODEL_VARIABLES."""
    return get_variables(scope, suffix, GraphKeys.MODEL_VARIABLES)


def get_local_variables(scope: Any = None, suffix: str | None = None) -> list[Variable]:
    """get_variables of LOCAL_VARIABLES."""
    return get_variables(scope, suffix, GraphKeys.LOCAL_VARIABLES)


def get_trainable_variables(scope: Any = None, suffix: str | None = None) -> list[Variable]:
    """get_variables of TRAINABLE_VARIABLES."""
    return get_variables(scope, suffix, GraphKeys.TRAINABLE_VARIABLES)


def get_variables_by_suffix(suffix: str, scope: Any = None) -> list[Variable]:
    """The variables whose names end in the suffix."""
    return get_variables(scope, suffix)


def get_variables_by_name(given_name: str, scope: Any = None) -> list[Variable]:
    """The variables whose last name is this."""
    return get_variables(scope, given_name)


def get_unique_variable(var_op_name: str) -> Variable:
    """The one variable of this name. Raises GraphError where there is none, or several."""
    found = [v for v in get_variables() if v.op.name == var_op_name] or get_variables(None, var_op_name)
    if len(found) != 1:
        raise GraphError(f"{len(found)} variables are called {var_op_name}, and not one.")
    return found[0]


def get_variables_to_restore(
    include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> list[Variable]:
    """All variables, or those of the scopes in include, without those of the scopes in exclude."""
    kept = get_variables() if include is None else [v for scope in include for v in get_variables(scope)]
    without = {v for scope in exclude or () for v in get_variables(scope)}
    return [v for v in dict.fromkeys(kept) if v not in without]


def filter_variables(
    var_list: Iterable[Variable],
    include_patterns: Sequence[str] | None = None,
    exclude_patterns: Sequence[str] | None = None,
    reg_search: bool = True,
) -> list[Variable]:
    """The variables whose names match one of the first patterns, and none of the others."""
    find = re.search if reg_search else re.match
    kept = list(var_list)
    if include_patterns is not None:
        kept = [v for v in kept if any(find(p, v.op.name) for p in include_patterns)]
    return [v for v in kept if not any(find(p, v.op.name) for p in exclude_patterns or ())]


def assert_global_step(global_step_tensor: Any) -> None:
    """Raises GraphError unless it is an integer scalar."""
    step = convert_to_tensor(global_step_tensor)
    if not step.dtype.is_integer or step.spec.shape not in ((), None):
        raise GraphError(f"{step!r} is no global step: it has to be an integer scalar.")


def is_tensor(x: Any) -> bool:
    """Whether it is a tensor or variable of a graph."""
    return isinstance(x, TensorLike)
