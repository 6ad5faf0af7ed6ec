"""Variable scopes: variable_scope names and shares variables, get_variable makes or finds them.

The variables that get_variable made are found by full name, in a store that each graph has one of; each
thread is in scopes of its own. A name scope groups operations and may get a number; a variable scope is a
name that is entered again as it is.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.dtypes import as_dtype, float32
from dtrain.graph.graph import Graph, Tensor, TensorLike, get_default_graph
from dtrain.graph.shape import as_dims, compatible, is_static, shape_text
from dtrain.ops.initializers import Zeros, glorot_uniform
from dtrain.ops.state import Variable


class _AutoReuse:
    """Find the variable, or make it where there is none."""

    def __repr__(self) -> str:
        return "AUTO_REUSE"


AUTO_REUSE: Any = _AutoReuse()

#: Under this name a graph keeps the variables that get_variable made, by full name.
BY_NAME = "variables by name"


class _Scopes(threading.local):
    """Where in a graph this thread makes variables: the scope it is in, and those entered so far."""

    def __init__(self) -> None:
        self.scope = VariableScope("", False)
        self.entered: dict[str, int] = {}

    def unique_scope(self, name: str) -> str:
        """name, or name_1, name_2 ... so that the current scope has not entered it yet."""
        inside = f"{self.scope.name}/" if self.scope.name else ""
        candidate, count = name, 0
        while self.entered.get(inside + candidate):
            count += 1
            candidate = f"{name}_{count}"
        return candidate

    def leave(self, name: str) -> None:
        """Forget what was entered inside a scope: its default names start anew when it is entered again."""
        for inner in self.entered:
            if inner.startswith(f"{name}/"):
                self.entered[inner] = 0


def _scopes() -> _Scopes:
    """The default graph's; as in TensorFlow 1 each thread begins outside of all."""
    return get_default_graph().kept.setdefault("variable_scopes", _Scopes())


class VariableScope:
    """A prefix of variable names, and the defaults of get_variable inside it.

    Args:
        name: the prefix.
        reuse: True finds variables, False makes them, AUTO_REUSE does either.
        original_name_scope: the name scope that was opened with it, ending in '/'.
    """

    def __init__(self, name: str, reuse: Any, original_name_scope: str = "") -> None:
        self.name = name
        self.reuse = reuse
        self.original_name_scope = original_name_scope
        self.initializer: Any = None
        self.regularizer: Any = None
        self.custom_getter: Any = None
        self.constraint: Any = None
        self.dtype = float32

    def reuse_variables(self) -> None:
        """From here on find variables, to the end of the scope's block."""
        self.reuse = True

    def set_initializer(self, initializer: Any) -> None:
        self.initializer = initializer

    def set_regularizer(self, regularizer: Any) -> None:
        self.regularizer = regularizer

    def set_dtype(self, dtype: Any) -> None:
        self.dtype = as_dtype(dtype)

    def get_collection(self, name: str) -> list[Any]:
        """What a collection of the default graph holds of this scope."""
        return get_default_graph().get_collection(name, f"{self.name}/" if self.name else None)

    def global_variables(self) -> list[Variable]:
        return self.get_collection(GraphKeys.GLOBAL_VARIABLES)

    def trainable_variables(self) -> list[Variable]:
        return self.get_collection(GraphKeys.TRAINABLE_VARIABLES)

    def get_variable(self, name: str, *args: Any, **kwargs: Any) -> Variable:
        """get_variable as if inside this scope."""
        with variable_scope(self, auxiliary_name_scope=False):
            return get_variable(name, *args, **kwargs)

    def _told(self, **options: Any) -> None:
        for name, value in options.items():
            if value is not None:
                setattr(self, name, value)


def get_variable_scope() -> VariableScope:
    """The current variable scope."""
    return _scopes().scope


@contextmanager
def variable_scope(
    name_or_scope: str | VariableScope | None,
    default_name: str | None = None,
    values: Any = None,
    initializer: Any = None,
    regularizer: Any = None,
    caching_device: Any = None,
    partitioner: None = None,
    custom_getter: Callable[..., Any] | None = None,
    reuse: Any = None,
    dtype: Any = None,
    use_resource: bool | None = None,
    constraint: Callable[[Tensor], Any] | None = None,
    auxiliary_name_scope: bool = True,
) -> Iterator[VariableScope]:
    """Prefix the names that get_variable uses inside, and open a name scope for the operations.

    Args:
        name_or_scope: a name; or a scope that `as` gave, which is entered again wherever this is.
        default_name: where name_or_scope is None: a name that is made unique.
        values, caching_device, use_resource: accepted for TensorFlow 1; without effect.
        initializer, regularizer, dtype, constraint, custom_getter: defaults of get_variable inside, which
            inner scopes inherit. A custom_getter wraps those around it.
        partitioner: only None.
        reuse: True, False or None (as the scope around), or AUTO_REUSE; inside a scope that reuses, all do.
        auxiliary_name_scope: False opens no name scope.

    Yields:
        VariableScope: the scope.

    Raises:
        GraphError: there is no name, or partitioner is given.
    """
    _no_partitioner(partitioner)
    scopes, graph = _scopes(), get_default_graph()
    outer = scopes.scope
    if reuse not in (None, False, True, AUTO_REUSE):
        raise GraphError("variable_scope: reuse is True, False, None or dt.AUTO_REUSE.")
    if isinstance(name_or_scope, VariableScope):
        base, label = name_or_scope, name_or_scope.name.rpartition("/")[2]
        full = base.name
    else:
        if name_or_scope is None:
            if default_name is None:
                raise GraphError("variable_scope: give a name, or default_name.")
            if reuse:
                raise GraphError("variable_scope: reuse needs a name to find; default_name makes a new one.")
            label, chosen = default_name, scopes.unique_scope(default_name)
        else:
            label = chosen = name_or_scope
        base = outer
        full = f"{outer.name}/{chosen}" if outer.name and chosen else outer.name or chosen
    counts = copy.copy(scopes.entered)
    with _named(graph, label if auxiliary_name_scope else "") as opened:
        scope = copy.copy(base)
        scope.name, scope.reuse = full, reuse or base.reuse
        if not isinstance(name_or_scope, VariableScope):
            scope.original_name_scope = opened
        if custom_getter is not None:
            custom_getter = _around(base.custom_getter, custom_getter)
        scope._told(initializer=initializer, regularizer=regularizer, constraint=constraint)
        scope._told(custom_getter=custom_getter, dtype=None if dtype is None else as_dtype(dtype))
        scopes.entered[full] = scopes.entered.get(full, 0) + 1
        scopes.scope = scope
        try:
            yield scope
        finally:
            scopes.scope = outer
            scopes.leave(full)
            if isinstance(name_or_scope, VariableScope):
                scopes.entered = counts


@contextmanager
def _named(graph: Graph, label: str) -> Iterator[str]:
    """The name scope of a variable scope; '' stays in the one around."""
    if label:
        with graph.name_scope(label) as opened:
            yield opened
    else:
        yield graph.here.scope


def _around(outer: Callable[..., Any] | None, inner: Callable[..., Any]) -> Callable[..., Any]:
    """A custom getter whose getter is the one of the scope around."""
    if outer is None:
        return inner
    return lambda getter, *args, **kwargs: inner(partial(outer, getter), *args, **kwargs)


def _no_partitioner(partitioner: Any) -> None:
    if partitioner is not None:
        raise GraphError("partitioner is not supported: every rank holds each variable whole. Leave it out.")


def get_variable(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Callable[[Any], Any] | None = None,
    trainable: bool = True,
    collections: Sequence[str] | None = None,
    caching_device: Any = None,
    partitioner: None = None,
    validate_shape: bool = True,
    use_resource: bool | None = None,
    custom_getter: Callable[..., Any] | None = None,
    constraint: Callable[[Tensor], Any] | None = None,
) -> Variable:
    """The variable of this name in the current variable scope: found or made, as the scope's reuse says.

    Args:
        name: its name in the scope.
        shape: fixed sizes; not given with an initializer that is a value.
        dtype: by default the scope's, float32, or that of a value.
        initializer: a value, or a function of (shape, dtype); by default the scope's, else glorot_uniform for
            floating types and zeros for others.
        regularizer: a function from the variable to a loss, which joins REGULARIZATION_LOSSES when it is
            made.
        trainable, collections, constraint, validate_shape: as for Variable.
        partitioner: only None.
        caching_device, use_resource: accepted for TensorFlow 1; without effect.
        custom_getter: called instead with (getter, name, ...); getter does what this would have done.

    Returns:
        Variable: the variable.

    Raises:
        GraphError: a ValueError. The variable exists and reuse is False, it does not and reuse is True, it
            has another shape or dtype, or the arguments do not make one.

    Example:
        >>> with dt.variable_scope("layer1"):
        ...     w = dt.get_variable("w", [784, 10])
        >>> w.name
        'layer1/w:0'
    """
    scope = get_variable_scope()
    full = f"{scope.name}/{name}" if scope.name else name
    options: dict[str, Any] = {
        "name": full,
        "shape": shape,
        "dtype": dtype,
        "initializer": initializer if initializer is not None else scope.initializer,
        "regularizer": regularizer if regularizer is not None else scope.regularizer,
        "reuse": scope.reuse,
        "trainable": trainable,
        "collections": collections,
        "caching_device": caching_device,
        "partitioner": partitioner,
        "validate_shape": validate_shape,
        "use_resource": use_resource,
        "constraint": constraint if constraint is not None else scope.constraint,
    }
    getter = custom_getter
    if scope.custom_getter is not None:
        getter = scope.custom_getter if getter is None else _around(scope.custom_getter, getter)
    return _find_or_make(**options) if getter is None else getter(_find_or_make, **options)


def get_local_variable(name: str, *args: Any, **kwargs: Any) -> Variable:
    """get_variable of a variable that is neither trained nor saved: it joins LOCAL_VARIABLES alone.

    Args:
        name: the variable's name in the current scope.
        args, kwargs: the other arguments of get_variable.

    Returns:
        Variable: the variable.

    Raises:
        GraphError: as get_variable.
    """
    return get_variable(
        name, *args, **{**kwargs, "trainable": False, "collections": [GraphKeys.LOCAL_VARIABLES]}
    )


def _find_or_make(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Callable[[Any], Any] | None = None,
    reuse: Any = None,
    trainable: bool = True,
    collections: Sequence[str] | None = None,
    caching_device: Any = None,
    partitioner: None = None,
    validate_shape: bool = True,
    use_resource: bool | None = None,
    constraint: Callable[[Tensor], Any] | None = None,
) -> Variable:
    """get_variable by full name, with the scope's settings in the arguments: what a custom getter gets."""
    _no_partitioner(partitioner)
    graph = get_default_graph()
    variables: dict[str, Variable] = graph.kept.setdefault(BY_NAME, {})
    with graph.lock:
        found = variables.get(name)
        if found is not None:
            if not reuse:
                raise GraphError(
                    f"Variable {name} already exists, disallowed. Did you mean to set reuse=True or "
                    f"reuse=tf.AUTO_REUSE in VarScope? Originally defined at {found.op.source}."
                )
            return _checked(found, name, shape, dtype)
        if reuse is True:
            raise GraphError(
                f"Variable {name} does not exist, or was not created with tf.get_variable(). Did you mean to "
                "set reuse=tf.AUTO_REUSE in VarScope?"
            )
        # the name is the variable scope's alone: name scopes do not count
        with graph.control_dependencies(None), graph.name_scope(None):
            value = _initial_value(name, shape, dtype, initializer)
            variable = variables[name] = Variable(
                value, trainable, collections, validate_shape, name=name, dtype=dtype, constraint=constraint
            )
            if regularizer is not None:
                with graph.name_scope(f"{name}/Regularizer/"):
                    loss = regularizer(variable)
                if loss is not None:
                    graph.add_to_collection(GraphKeys.REGULARIZATION_LOSSES, loss)
    return variable


def _checked(variable: Variable, name: str, shape: Any, dtype: Any) -> Variable:
    """The variable, which is to have this shape and dtype where they are given."""
    if shape is not None and not compatible(as_dims(shape), variable.shape.dims):
        raise GraphError(
            f"Trying to share variable {name}, but specified shape {shape_text(as_dims(shape))} and found "
            f"shape {variable.shape}."
        )
    if dtype is not None and as_dtype(dtype) != variable.dtype:
        raise GraphError(
            f"Trying to share variable {name}, but specified dtype {as_dtype(dtype).name} and found dtype "
            f"{variable.dtype.name}."
        )
    return variable


def _initial_value(name: str, shape: Any, dtype: Any, initializer: Any) -> Any:
    """A value, or a function of no arguments that makes one, for a new variable."""
    if isinstance(initializer, TensorLike) or (initializer is not None and not callable(initializer)):
        if shape is not None:
            raise GraphError(f"{name}: If initializer is a constant, do not specify shape.")
        return initializer
    dims = as_dims(shape)
    if dims is None and callable(initializer) and not _parameters(initializer):
        return initializer
    if not is_static(dims):
        raise GraphError(
            f"Shape of a new variable ({name}) must be fully defined, but instead was {shape_text(dims)}."
        )
    wanted = get_variable_scope().dtype if dtype is None else as_dtype(dtype)
    if initializer is None:
        initializer = glorot_uniform() if wanted.is_floating else Zeros()
    elif isinstance(initializer, type):
        initializer = initializer()
    parameters = _parameters(initializer)
    if not parameters:
        return initializer
    extra = {"partition_info": None} if "partition_info" in parameters else {}
    return lambda: initializer(list(dims), dtype=wanted, **extra)


def _parameters(function: Any) -> Sequence[str]:
    """The names of a function's parameters; of a class, those of what it makes."""
    target = function.__call__ if isinstance(function, type) else function
    return [p for p in inspect.signature(target).parameters if p != "self"]
