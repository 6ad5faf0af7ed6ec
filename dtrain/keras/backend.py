"""keras.backend: functions of tensors, of which losses, metrics, Lambdas and custom layers are made.

`import dtrain.keras.backend as K`. They build into the graph of their arguments, or into the default one.
What asks for a value (eval, get_value, function, batch_get_value, ...) takes the session of the graph's
models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps as _wraps
from math import prod as _prod
from types import FunctionType as _FunctionType
from typing import Any

import numpy as np

from dtrain.errors import GraphError, NotSupportedError, UsageError
from dtrain.graph.dtypes import as_dtype as _as_dtype
from dtrain.graph.graph import Graph as _Graph
from dtrain.graph.graph import (
    Operation,
    Tensor,
    TensorLike,
    get_default_graph,
    name_scope,
    reset_default_graph,
)
from dtrain.graph.graph import Spec as _Spec
from dtrain.keras import activations as _activations
from dtrain.keras import calls as _calls
from dtrain.keras import losses as _losses
from dtrain.keras.home import home_of as _home_of
from dtrain.keras.home import latest as _latest
from dtrain.keras.layers.base import Weight as _Weight
from dtrain.keras.layers.convolutional import depthwise as _depthwise
from dtrain.keras.settings import (
    epsilon,
    floatx,
    image_data_format,
    image_dim_ordering,
    set_epsilon,
    set_floatx,
    set_image_data_format,
)
from dtrain.names import module_getattr
from dtrain.ops import array as _array
from dtrain.ops import conv as _conv
from dtrain.ops import dropout as _dropout
from dtrain.ops import functions as _functions
from dtrain.ops import index as _index
from dtrain.ops import join as _join
from dtrain.ops import late as _late
from dtrain.ops import linalg as _linalg
from dtrain.ops import logic as _logic
from dtrain.ops import make as _make
from dtrain.ops import math as _math
from dtrain.ops import nn as _nn
from dtrain.ops import normalize as _normalize
from dtrain.ops import pool as _pool
from dtrain.ops import random as _random
from dtrain.ops import reduce as _reduce
from dtrain.ops import slicing as _slicing
from dtrain.ops import subgraph as _subgraph
from dtrain.ops import topk as _topk
from dtrain.ops.base import constant as _constant
from dtrain.ops.base import convert_to_tensor as _tensor
from dtrain.ops.base import placeholder as _placeholder

#: Nothing lies below; old_paths.py knows backend.tensorflow_backend.
__path__: list[str] = []

_builtins_range = range

#: What programs take of Keras's inside.
_epsilon, _EPSILON, _BACKEND = epsilon(), epsilon(), "tensorflow"

__all__ = [
    "abs",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "backend",
    "batch_dot",
    "batch_flatten",
    "batch_get_value",
    "batch_normalization",
    "batch_set_value",
    "bias_add",
    "binary_crossentropy",
    "cast",
    "cast_to_floatx",
    "categorical_crossentropy",
    "clear_session",
    "clip",
    "concatenate",
    "constant",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "cos",
    "count_params",
    "cumprod",
    "cumsum",
    "depthwise_conv2d",
    "dot",
    "dropout",
    "dtype",
    "elu",
    "epsilon",
    "equal",
    "eval",
    "exp",
    "expand_dims",
    "eye",
    "flatten",
    "floatx",
    "function",
    "gather",
    "get_session",
    "get_uid",
    "get_value",
    "get_variable_shape",
    "gradients",
    "greater",
    "greater_equal",
    "hard_sigmoid",
    "identity",
    "image_data_format",
    "image_dim_ordering",
    "in_test_phase",
    "in_top_k",
    "in_train_phase",
    "int_shape",
    "is_keras_tensor",
    "is_placeholder",
    "is_sparse",
    "is_tensor",
    "l2_normalize",
    "learning_phase",
    "less",
    "less_equal",
    "log",
    "logsumexp",
    "manual_variable_initialization",
    "map_fn",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "moving_average_update",
    "name_scope",
    "ndim",
    "normalize_batch_in_training",
    "not_equal",
    "one_hot",
    "ones",
    "ones_like",
    "permute_dimensions",
    "placeholder",
    "pool2d",
    "pool3d",
    "pow",
    "print_tensor",
    "prod",
    "random_binomial",
    "random_normal",
    "random_normal_variable",
    "random_uniform",
    "random_uniform_variable",
    "relu",
    "repeat",
    "repeat_elements",
    "reset_uids",
    "reshape",
    "resize_images",
    "resize_volumes",
    "reverse",
    "rnn",
    "round",
    "separable_conv2d",
    "set_epsilon",
    "set_floatx",
    "set_image_data_format",
    "set_image_dim_ordering",
    "set_learning_phase",
    "set_session",
    "set_value",
    "shape",
    "sigmoid",
    "sign",
    "sin",
    "slice",
    "softmax",
    "softplus",
    "softsign",
    "sparse_categorical_crossentropy",
    "spatial_2d_padding",
    "spatial_3d_padding",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "stop_gradient",
    "sum",
    "switch",
    "tanh",
    "temporal_padding",
    "tile",
    "to_dense",
    "transpose",
    "truncated_normal",
    "update",
    "update_add",
    "update_sub",
    "var",
    "variable",
    "zeros",
    "zeros_like",
]

__getattr__ = module_getattr("tf.keras.backend")

set_image_dim_ordering = set_image_data_format


def backend() -> str:
    """'tensorflow', whose words these are."""
    return "tensorflow"


_BACKEND = "tensorflow"


# -- the session -----------------------------------------------------------------------------------------
def get_session() -> Any:
    """The session of the default graph's models, with a value for every variable.

    Where nothing is built in the default graph it is that of the model that was made last: a Sequential has a
    graph of its own.
    """
    return _home_of(_graph_here()).ready()


def _graph_here() -> _Graph:
    """The default graph, or that of the model that was made last where nothing is in it."""
    here = get_default_graph()
    return here if here.operations or _latest() is None else _latest()  # type: ignore[return-value]


def set_session(session: Any) -> None:
    """Let the models of the session's graph use it."""
    _home_of(session.graph).session = session


def clear_session() -> None:
    """Begin with a new default graph; models of the old one stay as they are."""
    reset_default_graph()


def manual_variable_initialization(value: bool) -> None:
    """Refused where it asks for something else than that what has a value keeps it."""
    if value:
        raise NotSupportedError(
            "manual_variable_initialization(True) is not supported: variables that have a value keep it, and "
            "others get their first one."
        )


def learning_phase() -> Any:
    """1 while training and 0 in a test: in a layer's call a number, else a tensor that may be fed."""
    return _calls.learning_phase(_graph_here())


def set_learning_phase(value: Any) -> None:
    """What learning_phase() is in the default graph from here on: 0 or 1."""
    if value not in (0, 1, False, True):
        raise UsageError(f"set_learning_phase({value!r}): give 0 or 1.")
    _calls.set_learning_phase(get_default_graph(), value)


_uids: dict[str, int] = {}


def get_uid(prefix: str = "") -> int:
    """A number that counts up from 1 with each call."""
    _uids[prefix] = _uids.get(prefix, 0) + 1
    return _uids[prefix]


def reset_uids() -> None:
    """Let get_uid begin with 1 again."""
    _uids.clear()


# -- variables and values --------------------------------------------------------------------------------
def variable(value: Any, dtype: Any = None, name: str | None = None, constraint: Any = None) -> Any:
    """A variable; it has its value wherever it is used."""
    first = value if isinstance(value, TensorLike) else np.asarray(value, dtype or "float32")
    return _Weight(first, name=name, dtype=dtype, constraint=constraint)


def constant(value: Any, dtype: Any = None, shape: Any = None, name: str | None = None) -> Tensor:
    """A constant, float32 unless dtype says another."""
    return _constant(value, dtype or "float32", shape, name or "Const")


def placeholder(
    shape: Any = None,
    ndim: int | None = None,
    dtype: Any = None,
    sparse: bool = False,
    name: str | None = None,
) -> Tensor:
    """A tensor that is fed; of ndim axes where there is no shape."""
    if sparse:
        raise NotSupportedError("placeholder(sparse=True) is not supported: give arrays.")
    dims = [None] * ndim if shape is None and ndim is not None else shape
    return _placeholder(dtype or "float32", dims, name=name or "placeholder")


def is_placeholder(x: Any) -> bool:
    """Whether a tensor is fed."""
    return isinstance(x, Tensor) and x.op.type == "Placeholder"


def is_keras_tensor(x: Any) -> bool:
    """Whether a layer, or Input, made it."""
    return isinstance(x, Tensor) and _calls.call_of(x) is not None


def is_tensor(x: Any) -> bool:
    """Whether it is a tensor or a variable."""
    return isinstance(x, TensorLike)


def is_sparse(tensor: Any) -> bool:
    """False: there are no sparse tensors."""
    return False


def to_dense(tensor: Any) -> Any:
    """The tensor itself."""
    return tensor


def shape(x: Any) -> Tensor:
    """The sizes, over all ranks."""
    return _late.shape(x)


def int_shape(x: Any) -> tuple[int | None, ...] | None:
    """The sizes that are known, None for those that are not."""
    dims = x.shape.as_list() if isinstance(x, TensorLike) else list(np.shape(x))
    return None if dims is None else tuple(dims)


def get_variable_shape(x: Any) -> Any:
    """The sizes of a variable or tensor."""
    return int_shape(x)


def ndim(x: Any) -> int | None:
    """How many axes there are, None where that is not known."""
    found = int_shape(x)
    return None if found is None else len(found)


def dtype(x: Any) -> str:
    """The name of the dtype."""
    return str(getattr(x.dtype, "name", x.dtype))


def count_params(x: Any) -> int:
    """How many numbers a variable holds."""
    return int(_prod(int_shape(x) or ()))  # type: ignore[arg-type]  # a variable has no unknown size


def eval(x: Any) -> Any:
    """A tensor's value."""
    if not isinstance(x, TensorLike):
        return x
    return _home_of(x.graph).ready().run(_tensor(x))


def get_value(x: Any) -> Any:
    """A variable's value, or an optimizer's number."""
    return x.numpy() if not isinstance(x, TensorLike) and hasattr(x, "numpy") else eval(x)


def batch_get_value(ops: Sequence[Any]) -> list[Any]:
    """The values of variables."""
    return [get_value(x) for x in ops]


def set_value(x: Any, value: Any) -> None:
    """Give a variable, or an optimizer's number, a value. Collective for a variable."""
    if not isinstance(x, TensorLike):
        x.assign(value)
        return
    home = _home_of(x.graph)
    home.initialize([x])  # type: ignore[list-item]  # it is a Variable
    home.assign([x], [np.asarray(value, x.dtype.numpy)])  # type: ignore[list-item]  # it is a Variable


def batch_set_value(tuples: Sequence[tuple[Any, Any]]) -> None:
    """Give variables values, of pairs (variable, value)."""
    for x, value in tuples:
        set_value(x, value)


def print_tensor(x: Any, message: str = "") -> Any:
    """x; the message is printed while the graph is built."""
    print(message, x)
    return x


class Function:
    """What K.function gives: called on a list of arrays, it gives the outputs' values in a list."""

    def __init__(self, inputs: Sequence[Any], outputs: Any, updates: Sequence[Any]) -> None:
        self.inputs, self.outputs, self.updates = list(inputs), outputs, list(updates or ())
        self._several = isinstance(outputs, list | tuple)
        tensors = [_tensor(t) for t in (outputs if self._several else [outputs])]
        self._tensors = tensors
        self._graph = (tensors or [t for t in self.inputs if isinstance(t, Tensor)])[0].graph
        self._made: dict[Any, list[Tensor]] = {}

    def __call__(self, inputs: Sequence[Any]) -> Any:
        given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) != len(self.inputs):
            raise UsageError(f"K.function: {len(given)} values for {len(self.inputs)} inputs.")
        feeds, training = {}, None
        for key, value in zip(self.inputs, given, strict=True):
            if isinstance(key, Tensor) and not _is_phase(key):
                feeds[key] = value
            else:  # K.learning_phase()
                training = bool(np.ravel(value)[0])
        session = _home_of(self._graph).ready()
        found = session.run([self._outputs(training, list(feeds)), self._changes()], feeds)[0]
        return found if self._several else found[0]

    def _outputs(self, training: bool | None, given: list[Tensor]) -> list[Tensor]:
        """The outputs with layers that train, or do not."""
        if training is None:
            return self._tensors
        if training not in self._made:
            with self._graph.as_default():
                same = {t: _array.identity(t) for t in given}
                self._made[training] = _calls.Replay(same, training).of(self._tensors)
        return self._made[training]

    def _changes(self) -> list[Operation]:
        found = []
        for index, update in enumerate(self.updates):
            if isinstance(update, tuple):
                with self._graph.as_default():
                    update = self.updates[index] = update[0].assign(update[1], read_value=False)
            found.append(update)
        return found


def _is_phase(x: Any) -> bool:
    return isinstance(x, Tensor) and x.op.type == "PlaceholderWithDefault"


def function(inputs: Sequence[Any], outputs: Any, updates: Any = None, **options: Any) -> Function:
    """A function from arrays to the values of tensors that are computed of `inputs`.

    inputs: tensors, one of which may be K.learning_phase(). updates: pairs (variable, new value), or ops.
    """
    if options.get("updates_after") or {k for k, v in options.items() if v is not None} - {"name"}:
        raise UsageError(f"K.function: {', '.join(options)} is not supported: leave it out.")
    return Function(inputs, outputs, updates)


def gradients(loss: Any, variables: Any) -> Any:
    """The gradients of a loss, one for each variable or tensor.

    In a model's loss a tensor of its definition stands for what it is in the network that is trained.
    """
    from dtrain.autodiff import gradients as of

    replay = _calls.gathered()
    if replay is not None:
        many = isinstance(variables, list | tuple)
        found = [
            replay.of([v])[0] if isinstance(v, Tensor) and _calls.from_input(v) else v
            for v in (variables if many else [variables])
        ]
        variables = found if many else found[0]
    return of(loss, variables)


def stop_gradient(variables: Any) -> Any:
    """The tensors, to which no gradient goes."""
    if isinstance(variables, list | tuple):
        return [_array.stop_gradient(v) for v in variables]
    return _array.stop_gradient(variables)


def update(x: Any, new_x: Any) -> Any:
    """An op that sets a variable."""
    return x.assign(new_x, read_value=False)


def update_add(x: Any, increment: Any) -> Any:
    """An op that adds to a variable."""
    return x.assign_add(increment, read_value=False)


def update_sub(x: Any, decrement: Any) -> Any:
    """An op that subtracts from a variable."""
    return x.assign_sub(decrement, read_value=False)


def moving_average_update(x: Any, value: Any, momentum: float) -> Any:
    """An op that moves a variable towards a value by the share 1 - momentum."""
    return x.assign_sub((x - value) * (1 - momentum), read_value=False)


def in_train_phase(x: Any, alt: Any, training: Any = None) -> Any:
    """x while training, alt in a test; either may be a function that gives it."""
    training = learning_phase() if training is None else training
    if not isinstance(training, TensorLike):
        chosen = x if training else alt
        return chosen() if callable(chosen) else chosen
    x, alt = (f() if callable(f) else f for f in (x, alt))
    return _logic.where(_math.greater(training, 0.0), x, alt)


def in_test_phase(x: Any, alt: Any, training: Any = None) -> Any:
    """x in a test, alt while training."""
    return in_train_phase(alt, x, training)


def switch(condition: Any, then_expression: Any, else_expression: Any) -> Any:
    """The one or the other; of tensors both are computed. A condition of fewer axes picks whole rows."""
    if not isinstance(condition, TensorLike):
        chosen = then_expression if condition else else_expression
        return chosen() if callable(chosen) else chosen
    then, other = (f() if callable(f) else f for f in (then_expression, else_expression))
    then, other = _tensor(then), _tensor(other)
    condition = _tensor(condition)
    if not condition.dtype.is_bool:
        condition = _math.not_equal(condition, 0)
    missing = (ndim(then) or 0) - (ndim(condition) or 0)
    for _ in _builtins_range(missing if condition.shape.ndims else 0):
        condition = _array.expand_dims(condition, -1)
    return _logic.where(condition, then, other)


# -- tensors of numbers ----------------------------------------------------------------------------------
def zeros(shape: Any, dtype: Any = None, name: str | None = None) -> Any:
    """A variable of zeros; a tensor where sizes are not known."""
    return _filled(0.0, shape, dtype, name)


def ones(shape: Any, dtype: Any = None, name: str | None = None) -> Any:
    """A variable of ones; a tensor where sizes are not known."""
    return _filled(1.0, shape, dtype, name)


def _filled(value: float, shape: Any, dtype: Any, name: str | None) -> Any:
    dtype = dtype or "float32"
    entries = [shape] if isinstance(shape, TensorLike) else list(np.atleast_1d(np.array(shape, object)))
    if [n for n in entries if isinstance(n, TensorLike)]:
        return (_array.zeros if value == 0 else _array.ones)(shape, dtype, name)
    return variable(np.full(shape, value, dtype), dtype, name)


def eye(size: int, dtype: Any = None, name: str | None = None) -> Any:
    """A variable of ones on the diagonal."""
    return variable(np.eye(size), dtype, name)


def zeros_like(x: Any, dtype: Any = None, name: str | None = None) -> Tensor:
    """Zeros in the shape of x."""
    return _array.zeros_like(x, dtype, name)


def ones_like(x: Any, dtype: Any = None, name: str | None = None) -> Tensor:
    """Ones in the shape of x."""
    return _array.ones_like(x, dtype, name)


def identity(x: Any, name: str | None = None) -> Tensor:
    """A tensor of the same values."""
    return _array.identity(x, name)


def random_normal(
    shape: Any,
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = None,
    seed: int | None = None,
    std: Any = None,
) -> Tensor:
    """Normally distributed numbers, new at every run; std is Keras 1's stddev."""
    stddev = stddev if std is None else std
    return _random.random_normal(shape, mean, stddev, dtype or "float32", seed)


def random_uniform(
    shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: int | None = None
) -> Tensor:
    """Uniform numbers, new at every run."""
    return _random.random_uniform(shape, minval, maxval, dtype or "float32", seed)


def truncated_normal(
    shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: int | None = None
) -> Tensor:
    """Normal numbers within two deviations, new at every run."""
    return _random.truncated_normal(shape, mean, stddev, dtype or "float32", seed)


def random_binomial(shape: Any, p: float = 0.0, dtype: Any = None, seed: int | None = None) -> Tensor:
    """1 with probability p, else 0."""
    return _math.cast(_math.less_equal(_random.random_uniform(shape, seed=seed), p), dtype or "float32")


def random_normal_variable(
    shape: Any, mean: float, scale: float, dtype: Any = None, name: str | None = None, seed: int | None = None
) -> Any:
    """A variable of normally distributed numbers."""
    return variable(_random.random_normal(shape, mean, scale, dtype or "float32", seed), dtype, name)


def random_uniform_variable(
    shape: Any, low: float, high: float, dtype: Any = None, name: str | None = None, seed: int | None = None
) -> Any:
    """A variable of uniform numbers."""
    return variable(_random.random_uniform(shape, low, high, dtype or "float32", seed), dtype, name)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = "int32") -> Tensor:
    """Numbers from start on, below stop."""
    found = _make.range_(0, start, step) if stop is None else _make.range_(start, stop, step)
    return _math.cast(found, dtype)


def cast(x: Any, dtype: Any) -> Tensor:
    """x in another dtype."""
    return _math.cast(x, dtype)


def cast_to_floatx(x: Any) -> Any:
    """A float32 array, or tensor."""
    return _math.cast(x, "float32") if isinstance(x, TensorLike) else np.asarray(x, "float32")


# -- shapes ----------------------------------------------------------------------------------------------
def reshape(x: Any, shape: Any) -> Tensor:
    """x in another shape; of sizes that are None at most the first is found."""
    if isinstance(shape, list | tuple):
        shape = [-1 if n is None else n for n in shape]
    return _array.reshape(x, shape)


def flatten(x: Any) -> Tensor:
    """All entries in a row."""
    return _array.reshape(x, [-1])


def batch_flatten(x: Any) -> Tensor:
    """Each example as a row."""
    dims = int_shape(x) or ()
    if None not in dims[1:]:
        return _array.reshape(x, [-1, _prod(dims[1:])])
    return _array.reshape(x, [_late.shape(x)[0], -1])


def permute_dimensions(x: Any, pattern: Sequence[int]) -> Tensor:
    """The axes in another order."""
    return _array.transpose(x, list(pattern))


def transpose(x: Any) -> Tensor:
    """The axes in opposite order."""
    return _array.transpose(x)


def expand_dims(x: Any, axis: int = -1) -> Tensor:
    """An axis of size 1 more."""
    return _array.expand_dims(x, axis)


def squeeze(x: Any, axis: Any) -> Tensor:
    """Without an axis of size 1."""
    return _array.squeeze(x, axis if isinstance(axis, list | tuple) else [axis])


def concatenate(tensors: Sequence[Any], axis: int = -1) -> Tensor:
    """Tensors one after the other along an axis."""
    return _join.concat(list(tensors), axis)


def stack(x: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors along a new axis."""
    return _join.stack(list(x), axis)


def repeat(x: Any, n: int) -> Tensor:
    """[batch, features] -> [batch, n, features]."""
    return _join.tile(_array.expand_dims(x, 1), [1, n, 1])


def repeat_elements(x: Any, rep: int, axis: int) -> Tensor:
    """Each entry along an axis so many times."""
    x = _tensor(x)
    dims = list(int_shape(x) or ())
    axis %= len(dims)
    times = [1] * (len(dims) + 1)
    times[axis + 1] = rep
    if dims[axis] is None or dims.count(None) > 1:
        raise GraphError(f"repeat_elements: the sizes {dims} have to be known, but for one")
    larger = [-1 if n is None else n * rep if i == axis else n for i, n in enumerate(dims)]
    return _array.reshape(_join.tile(_array.expand_dims(x, axis + 1), times), larger)


def tile(x: Any, n: Any) -> Tensor:
    """A tensor so many times along each axis."""
    return _join.tile(x, [n] if isinstance(n, int) else n)


def reverse(x: Any, axes: Any) -> Tensor:
    """In opposite order along axes."""
    return _join.reverse(x, axes if isinstance(axes, list | tuple) else [axes])


def temporal_padding(x: Any, padding: tuple[int, int] = (1, 1)) -> Tensor:
    """Steps of zeros before and after [batch, steps, features]."""
    return _join.pad(x, [[0, 0], list(padding), [0, 0]])


def spatial_2d_padding(x: Any, padding: Any = ((1, 1), (1, 1)), data_format: str | None = None) -> Tensor:
    """Rows and columns of zeros around images."""
    ends = [list(p) for p in padding]
    first = (data_format or image_data_format()) == "channels_first"
    return _join.pad(x, [[0, 0], [0, 0], *ends] if first else [[0, 0], *ends, [0, 0]])


def slice(x: Any, start: Any, size: Any) -> Tensor:
    """The part of a tensor of a size, from start on."""
    return _slicing.slice_(x, start, size)


def gather(reference: Any, indices: Any) -> Tensor:
    """Rows of a tensor."""
    indices = _tensor(indices)
    return _index.gather(reference, indices if indices.dtype.is_integer else _math.cast(indices, "int32"))


def one_hot(indices: Any, num_classes: int) -> Tensor:
    """Class numbers as rows with a single 1."""
    return _index.one_hot(indices, num_classes)


# -- products --------------------------------------------------------------------------------------------
def dot(x: Any, y: Any) -> Tensor:
    """The product along the last axis of x and the last but one of y."""
    x, y = _tensor(x), _tensor(y)
    if ndim(y) == 2:
        return _linalg.matmul(x, y)
    if ndim(y) == 1:
        return _reduce.reduce_sum(x * y, -1)
    left, right = int_shape(x) or (), int_shape(y) or ()
    order = [len(right) - 2, *_builtins_range(len(right) - 2), len(right) - 1]
    flat = _array.reshape(_array.transpose(y, order), [right[-2], -1])
    found = _linalg.matmul(_array.reshape(x, [-1, left[-1]]), flat)
    return reshape(found, [*left[:-1], *right[:-2], right[-1]])


def batch_dot(x: Any, y: Any, axes: Any = None) -> Tensor:
    """The products of examples along an axis of each.

    Of more than three axes, products of the matrices that the last two are, as in Keras up to 2.2: axes says
    which of the two each is summed along.

    Raises:
        GraphError: axes is neither of the last two.
    """
    from dtrain.keras.layers.merge import Dot

    x, y = _tensor(x), _tensor(y)
    sizes = ndim(x) or 2, ndim(y) or 2
    most = sizes[0] if sizes[0] > sizes[1] else sizes[1]
    if axes is None:
        axes = [sizes[0] - 1, 1 if sizes[1] == 2 else sizes[1] - 2]
    axes = [axes, axes] if isinstance(axes, int) else list(axes)
    if most < 4:
        return Dot(axes).call([x, y])
    missing = [most - size for size in sizes]
    for _ in _builtins_range(missing[0]):
        x = _array.expand_dims(x, -1)
    for _ in _builtins_range(missing[1]):
        y = _array.expand_dims(y, -1)
    at = [axis % size for axis, size in zip(axes, sizes, strict=True)]
    if not {*at} <= {most - 1, most - 2}:
        raise GraphError(f"batch_dot: axes={axes} of {x} and {y}: give one of the last two of each.")
    product = _linalg.matmul(x, y, transpose_a=at[0] != most - 1, transpose_b=at[1] == most - 1)
    if missing == [0, 0]:
        return product
    gone = sizes[0] + sizes[1] - 3 if missing[1] else sizes[0] - 1
    return _array.squeeze(product, [*_builtins_range(gone, gone + missing[0] + missing[1])])


def l2_normalize(x: Any, axis: Any = None) -> Tensor:
    """x over its norm along an axis."""
    total = _reduce.reduce_sum(_math.square(x), axis, keepdims=True)
    return x * _math.rsqrt(_math.maximum(total, 1e-12))


# -- entry by entry --------------------------------------------------------------------------------------
def _said(function: Callable[..., Any], name: str) -> Callable[[Any], Tensor]:
    def said(x: Any) -> Tensor:
        return function(_tensor(x))

    said.__name__, said.__doc__ = name, f"dt.{name}(x)."
    return said


square, exp, log, sign = (_said(getattr(_math, n), n) for n in ("square", "exp", "log", "sign"))
abs, sigmoid, tanh = (_said(getattr(_math, n), n) for n in ("abs", "sigmoid", "tanh"))
sin, cos, round = (_said(getattr(_functions, n), n) for n in ("sin", "cos", "round"))
softplus, softsign = (_said(getattr(_nn, n), n) for n in ("softplus", "softsign"))


def sqrt(x: Any) -> Tensor:
    """The square root, of a number below 0 that of 0."""
    return _math.sqrt(_math.maximum(x, 0.0))


def pow(x: Any, a: Any) -> Tensor:
    """x to the power of a."""
    return _math.pow(x, a)


def clip(x: Any, min_value: Any, max_value: Any) -> Tensor:
    """x, cut off at the two."""
    return _math.minimum(_math.maximum(x, min_value), max_value)


def maximum(x: Any, y: Any) -> Tensor:
    """The larger, entry by entry."""
    return _math.maximum(x, y)


def minimum(x: Any, y: Any) -> Tensor:
    """The smaller, entry by entry."""
    return _math.minimum(x, y)


def equal(x: Any, y: Any) -> Tensor:
    """Whether they are equal, entry by entry."""
    return _math.equal(x, y)


def not_equal(x: Any, y: Any) -> Tensor:
    """Whether they differ, entry by entry."""
    return _math.not_equal(x, y)


def greater(x: Any, y: Any) -> Tensor:
    """Whether x is greater, entry by entry."""
    return _math.greater(x, y)


def greater_equal(x: Any, y: Any) -> Tensor:
    """Whether x is not less, entry by entry."""
    return _math.greater_equal(x, y)


def less(x: Any, y: Any) -> Tensor:
    """Whether x is less, entry by entry."""
    return _math.less(x, y)


def less_equal(x: Any, y: Any) -> Tensor:
    """Whether x is not greater, entry by entry."""
    return _math.less_equal(x, y)


# -- over axes -------------------------------------------------------------------------------------------
def _over(function: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    def over(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
        x = _tensor(x)
        if x.dtype.is_bool and name in ("mean", "sum"):
            x = _math.cast(x, "float32")
        return function(x, list(axis) if isinstance(axis, tuple) else axis, keepdims=keepdims)

    over.__name__, over.__doc__ = name, f"The {name} over axes, by default all."
    return over


mean, sum, prod = (_over(getattr(_reduce, f"reduce_{n}"), n) for n in ("mean", "sum", "prod"))
max, min, any, all = (_over(getattr(_reduce, f"reduce_{n}"), n) for n in ("max", "min", "any", "all"))
logsumexp = _over(_reduce.reduce_logsumexp, "logsumexp")


def var(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The variance over axes."""
    deviation = x - _reduce.reduce_mean(x, axis, keepdims=True)
    return _reduce.reduce_mean(_math.square(deviation), axis, keepdims=keepdims)


def std(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The standard deviation over axes."""
    return _math.sqrt(var(x, axis, keepdims))


def argmax(x: Any, axis: int = -1) -> Tensor:
    """Where the largest entry along an axis is."""
    return _reduce.argmax(x, axis)


def argmin(x: Any, axis: int = -1) -> Tensor:
    """Where the smallest entry along an axis is."""
    return _reduce.argmin(x, axis)


def cumsum(x: Any, axis: int = 0) -> Tensor:
    """The sums along an axis up to each entry."""
    return _reduce.cumsum(x, axis)


def cumprod(x: Any, axis: int = 0) -> Tensor:
    """The products along an axis up to each entry."""
    from dtrain.ops.tensors import cumprod as of

    return of(x, axis)


def in_top_k(predictions: Any, targets: Any, k: int) -> Tensor:
    """Whether the target is among the k largest of each row."""
    return _topk.in_top_k(predictions, targets, k)


# -- networks --------------------------------------------------------------------------------------------
def relu(x: Any, alpha: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Tensor:
    """x above the threshold, cut off at max_value; below it alpha (x - threshold)."""
    if not threshold:
        return _activations.relu(_tensor(x), alpha, max_value)
    from dtrain.keras.layers.advanced_activations import ReLU

    found: Tensor = ReLU(max_value, alpha, threshold).call(_tensor(x))
    return found


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """x where it is positive, else alpha (exp(x) - 1)."""
    return _activations.elu(_tensor(x), alpha)


def hard_sigmoid(x: Any) -> Tensor:
    """x / 6 + 0.5, cut off at 0 and 1."""
    return _activations.hard_sigmoid(_tensor(x))


def softmax(x: Any, axis: int = -1) -> Tensor:
    """exp(x) over its sum along an axis."""
    return _activations.softmax(_tensor(x), axis)


def dropout(x: Any, level: float, noise_shape: Any = None, seed: int | None = None) -> Tensor:
    """x with a share of entries at 0, and the others divided by the rest's share."""
    return _dropout.dropout(x, noise_shape=noise_shape, seed=seed, rate=level)


def categorical_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Tensor:
    """Of each example; output are probabilities unless from_logits."""
    return _losses.CategoricalCrossentropy(from_logits).each(_tensor(target), _tensor(output))


def sparse_categorical_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Tensor:
    """Of each example; targets are class numbers."""
    loss = _losses.SparseCategoricalCrossentropy(from_logits)
    return loss.each(*loss._compared(target, output))


def binary_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Tensor:
    """Entry by entry; output are probabilities unless from_logits."""
    from dtrain.ops.loss import sigmoid_cross_entropy_with_logits as of_logits

    target, output = _tensor(target), _tensor(output)
    logits = output if from_logits else _losses.logits_of(output, _math.Sigmoid)
    if logits is not None:
        return of_logits(labels=target, logits=logits)
    p = _losses._probabilities(output)
    return -target * _math.log(p) - (1 - target) * _math.log(1 - p)


def bias_add(x: Any, bias: Any, data_format: str | None = None) -> Tensor:
    """x plus a number for each channel."""
    bias, rank = _tensor(bias), ndim(x) or 2
    if ndim(bias) != 1 or rank < 3 or not _first(data_format):
        return x + bias
    return x + _array.reshape(bias, [1, -1, *[1] * (rank - 2)])


def batch_normalization(
    x: Any, mean: Any, var: Any, beta: Any, gamma: Any, axis: int = -1, epsilon: float = 1e-3
) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta, of one number for each entry along an axis.

    A float in the place of axis is epsilon, as before Keras 2.2.
    """
    if isinstance(axis, float):
        axis, epsilon = -1, axis
    rank = ndim(x) or 2
    shape = [1] * rank
    shape[axis] = -1
    along = rank > 1 and axis % rank != rank - 1
    parts = [
        _array.reshape(p, shape) if along and p is not None and ndim(_tensor(p)) == 1 else p
        for p in (mean, var, beta, gamma)
    ]
    mean, var, beta, gamma = parts
    return _normalize.batch_normalization(x, mean, var, beta, gamma, epsilon)


def normalize_batch_in_training(
    x: Any, gamma: Any, beta: Any, reduction_axes: Sequence[int], epsilon: float = 1e-3
) -> tuple[Tensor, Tensor, Tensor]:
    """x normalized by its own mean and variance over axes; and the two."""
    x = _tensor(x)
    gone = [axis % (ndim(x) or 1) for axis in reduction_axes]
    found = mean(x, list(gone), keepdims=True)
    spread = var(x, list(gone), keepdims=True)
    shape = [1 if axis in gone else -1 for axis in _builtins_range(ndim(x) or 1)]
    beta, gamma = (None if p is None else _array.reshape(p, shape) for p in (beta, gamma))
    y = _normalize.batch_normalization(x, found, spread, beta, gamma, epsilon)
    return y, _array.squeeze(found, gone), _array.squeeze(spread, gone)


# -- convolutions ----------------------------------------------------------------------------------------
def _first(data_format: str | None) -> bool:
    """Whether channels lie after the batch."""
    found = data_format or image_data_format()
    if found not in ("channels_last", "channels_first"):
        raise UsageError(f"data_format={data_format!r}: give channels_last or channels_first.")
    return found == "channels_first"


def _moved(x: Any, data_format: str | None, work: Callable[[Tensor], Tensor]) -> Tensor:
    """Work that takes channels last, on a tensor that has them where data_format says."""
    x = _tensor(x)
    if not _first(data_format):
        return work(x)
    axes = [*_builtins_range(2, ndim(x) or 3)]
    y = work(_array.transpose(x, [0, *axes, 1]))
    return _array.transpose(y, [0, len(axes) + 1, *_builtins_range(1, len(axes) + 1)])


def conv1d(
    x: Any,
    kernel: Any,
    strides: int = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int = 1,
) -> Tensor:
    """[batch, steps, in] by [size, in, out]; padding may be 'causal'."""

    def work(x: Tensor) -> Tensor:
        how = padding.upper()
        if padding == "causal":
            size: Any = _tensor(kernel).shape.as_list()[0]
            x, how = _join.pad(x, [[0, 0], [dilation_rate * (size - 1), 0], [0, 0]]), "VALID"
        wide = _array.expand_dims(x, 1), _array.expand_dims(kernel, 0)
        return _array.squeeze(_conv.conv2d(*wide, (1, strides), how, dilations=(1, dilation_rate)), [1])

    return _moved(x, data_format or "channels_last", work)


def conv2d(
    x: Any,
    kernel: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = (1, 1),
) -> Tensor:
    """Images [batch, height, width, in] by [height, width, in, out]."""
    how = strides, padding.upper()
    return _moved(x, data_format, lambda x: _conv.conv2d(x, kernel, *how, dilations=dilation_rate))


def conv2d_transpose(
    x: Any,
    kernel: Any,
    output_shape: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str | None = None,
) -> Tensor:
    """The transpose of conv2d, to images of output_shape."""
    to = output_shape
    if _first(data_format):
        to = [to[0], *to[2:], to[1]]
    how = strides, padding.upper()
    return _moved(x, data_format, lambda x: _conv.conv2d_transpose(x, kernel, to, *how))


def conv3d(
    x: Any,
    kernel: Any,
    strides: Any = (1, 1, 1),
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = (1, 1, 1),
) -> Tensor:
    """Volumes [batch, depth, height, width, in] by [depth, height, width, in, out]."""
    from dtrain.ops.convolutions import conv3d as of

    by, apart = [1, *strides, 1], [1, *dilation_rate, 1]
    return _moved(x, data_format, lambda x: of(x, kernel, by, padding.upper(), dilations=apart))


def depthwise_conv2d(
    x: Any,
    depthwise_kernel: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = (1, 1),
) -> Tensor:
    """A convolution of each channel by its own kernels."""
    how = depthwise_kernel, strides, padding, dilation_rate
    return _moved(x, data_format, lambda x: _depthwise(x, *how))


def separable_conv2d(
    x: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Any = (1, 1),
) -> Tensor:
    """depthwise_conv2d, then a convolution of 1 by 1."""
    how = depthwise_kernel, strides, padding, dilation_rate
    return _moved(x, data_format, lambda x: _conv.conv2d(_depthwise(x, *how), pointwise_kernel, 1, "VALID"))


def pool2d(
    x: Any,
    pool_size: Any,
    strides: Any = (1, 1),
    padding: str = "valid",
    data_format: str | None = None,
    pool_mode: str = "max",
) -> Tensor:
    """The largest, or with pool_mode 'avg' the mean, of windows of images."""
    pool = _pool.max_pool if pool_mode == "max" else _pool.avg_pool
    return _moved(x, data_format, lambda x: pool(x, pool_size, strides, padding.upper()))


def pool3d(
    x: Any,
    pool_size: Any,
    strides: Any = (1, 1, 1),
    padding: str = "valid",
    data_format: str | None = None,
    pool_mode: str = "max",
) -> Tensor:
    """The largest, or with pool_mode 'avg' the mean, of windows of volumes."""
    from dtrain.ops.convolutions import avg_pool3d, max_pool3d

    pool = max_pool3d if pool_mode == "max" else avg_pool3d
    size, by = [1, *pool_size, 1], [1, *strides, 1]
    return _moved(x, data_format, lambda x: pool(x, size, by, padding.upper()))


def spatial_3d_padding(
    x: Any, padding: Any = ((1, 1), (1, 1), (1, 1)), data_format: str | None = None
) -> Tensor:
    """Slices, rows and columns of zeros around volumes."""
    ends = [list(p) for p in padding]
    return _join.pad(x, [[0, 0], [0, 0], *ends] if _first(data_format) else [[0, 0], *ends, [0, 0]])


def resize_images(
    x: Any,
    height_factor: int,
    width_factor: int,
    data_format: str | None = None,
    interpolation: str = "nearest",
) -> Tensor:
    """Each row and column so many times; interpolation as of UpSampling2D."""
    from dtrain.keras.layers.convolutional import UpSampling2D

    layer = UpSampling2D((height_factor, width_factor), "channels_last", interpolation)
    return _moved(x, data_format or "channels_last", layer.spatial)


def resize_volumes(
    x: Any, depth_factor: int, height_factor: int, width_factor: int, data_format: str | None = None
) -> Tensor:
    """Each slice, row and column so many times."""
    at = 2 if _first(data_format) else 1
    for axis, factor in enumerate((depth_factor, height_factor, width_factor), at):
        x = repeat_elements(x, factor, axis)
    return _tensor(x)


# -- over steps ------------------------------------------------------------------------------------------
def rnn(
    step_function: Callable[[Any, list[Any]], tuple[Any, list[Any]]],
    inputs: Any,
    initial_states: Sequence[Any],
    go_backwards: bool = False,
    mask: Any = None,
    constants: Sequence[Any] | None = None,
    unroll: bool = False,
    input_length: int | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A step function over [batch, steps, ...], whose number of steps is known: they are unrolled.

    step_function: of a step's inputs and [*states, *constants], to its output and the new states. A step
    that the mask [batch, steps] leaves out changes neither output nor states. unroll, input_length: change
    nothing.

    Returns:
        tuple: the last output, the outputs of all steps, and the last states.
    """
    inputs = _tensor(inputs)
    sizes: Any = inputs.spec.shape
    if sizes is None or sizes[1] is None:
        raise GraphError(f"K.rnn: {inputs} needs a known number of steps: give the model's Input one.")
    if mask is not None:
        mask = _math.cast(mask, "bool")
        mask = _array.squeeze(mask, [2]) if ndim(mask) == 3 else mask
    states, outputs = list(initial_states), list[Any]()
    for step in reversed(_builtins_range(sizes[1])) if go_backwards else _builtins_range(sizes[1]):
        y, new = step_function(inputs[:, step], [*states, *(constants or ())])
        if mask is not None:
            old = outputs[-1] if outputs else _array.zeros_like(y)
            y = _logic.where(mask[:, step], y, old)
            new = [_logic.where(mask[:, step], n, s) for n, s in zip(new, states, strict=True)]
        outputs.append(y)
        states = list(new)
    return outputs[-1], _join.stack(outputs, 1), states


def map_fn(fn: Callable[[Any], Any], elems: Any, name: str | None = None, dtype: Any = None) -> Tensor:
    """A function of each entry along the first axis; dtype is that of its results."""
    x = _tensor(elems)
    size = ndim(x)
    if size == 0:
        raise GraphError(f"map_fn: {x.name} is a scalar: it has no entries to go over.")
    with name_scope(name or "map"):
        recorder = _subgraph.Recorder()
        formal = _subgraph.argument(
            _Spec(None if x.spec.shape is None else x.spec.shape[1:], x.dtype), "Entry"
        )
        result = _tensor(fn(formal))
        wanted = x.dtype if dtype is None else _as_dtype(dtype)
        if result.dtype != wanted:
            raise GraphError(f"map_fn: fn gives {result.dtype.name} and not {wanted.name}: say dtype.")
        loop = _subgraph.Loop(recorder.body([formal], [result]), None, 0, 1)
        return loop.add([x], "Map").outputs[0]


def _in_their_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which builds into the graph of its arguments, such as a model's own."""

    @_wraps(function)
    def built(*arguments: Any, **options: Any) -> Any:
        given = [x for a in (*arguments, *options.values()) for x in (a if isinstance(a, list) else [a])]
        here = get_default_graph()
        graph = next((x.graph for x in given if isinstance(x, TensorLike)), here)
        if graph is here or here.captures:
            return function(*arguments, **options)
        with graph.as_default():
            return function(*arguments, **options)

    return built


for _name in __all__:
    if isinstance(globals()[_name], _FunctionType) and globals()[_name].__module__ == __name__:
        globals()[_name] = _in_their_graph(globals()[_name])
