"""Activations: element by element, and over classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.dtypes import float32
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import compatible, shape_text
from dtrain.ops.array import reshape, transpose
from dtrain.ops.base import (
    Array,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    by_rows,
    convert_to_tensor,
    register,
)
from dtrain.ops.elementwise import Elementwise, floating
from dtrain.ops.functions import expm1, log1p
from dtrain.ops.index import gather
from dtrain.ops.join import concat
from dtrain.ops.linalg import matmul
from dtrain.ops.logic import gate, logical_and, where
from dtrain.ops.math import (
    abs,
    add,
    cast,
    equal,
    exp,
    greater,
    less,
    maximum,
    minimum,
    multiply,
    negative,
    sigmoid,
    square,
)
from dtrain.ops.placement import Placement, Sharded
from dtrain.ops.reduce import reduce_mean, reduce_sum


# -- element by element ----------------------------------------------------------------------------------
@register
class Relu(Elementwise):
    """max(x, 0)."""

    def rule(self, x: Tensor) -> Tensor:
        return maximum(x, 0)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReluGrad(), dy, node.outputs[0])]


@register
class ReluGrad(Elementwise):
    """dy where y, the activation's output, is positive, else 0."""

    arity = 2

    def rule(self, dy: Tensor, y: Tensor) -> Tensor:
        return gate(greater(y, 0), dy)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(self, dy, node.inputs[1]), None]


@register
class Relu6(Elementwise):
    """min(max(x, 0), 6)."""

    domain = (-3.0, 9.0)

    def rule(self, x: Tensor) -> Tensor:
        return minimum(maximum(x, 0), 6)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        y = node.outputs[0]
        return [gate(logical_and(greater(y, 0), less(y, 6)), dy)]


@register
class LeakyRelu(Elementwise):
    """x where it is positive, else alpha * x."""

    alpha: float
    takes = staticmethod(floating)

    def rule(self, x: Tensor) -> Tensor:
        return where(greater(x, 0), x, x * self.alpha)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [where(greater(node.inputs[0], 0), dy, dy * self.alpha)]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(alpha), (3, 4)) for alpha in (0.2, 1.5)]


@register
class Elu(Elementwise):
    """scale * x where x is positive, else scale * alpha * (exp(x) - 1); SELU with its two constants."""

    alpha: float = 1.0
    scale: float = 1.0
    takes = staticmethod(floating)

    def rule(self, x: Tensor) -> Tensor:
        return (expm1(minimum(x, 0)) * self.alpha + maximum(x, 0)) * self.scale

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        y = node.outputs[0]
        return [dy * where(less(y, 0), y + self.scale * self.alpha, self.scale)]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (3, 4)), Example(cls(1.7, 1.05), (3, 4))]


@register
class Softplus(Elementwise):
    """log(1 + exp(x)), as max(x, 0) + log(1 + exp(-|x|)): no large x overflows."""

    takes = staticmethod(floating)

    def rule(self, x: Tensor) -> Tensor:
        return log1p(exp(-abs(x))) + maximum(x, 0)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy * sigmoid(node.inputs[0])]


@register
class Softsign(Elementwise):
    """x / (1 + |x|)."""

    takes = staticmethod(floating)

    def rule(self, x: Tensor) -> Tensor:
        return x / (1 + abs(x))

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy / square(1 + abs(node.inputs[0]))]


# -- over classes ----------------------------------------------------------------------------------------
class _Rowwise(Op):
    """Ops over the last axis; the other axes are independent rows."""

    inplace = (0,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if not specs[0].dtype.is_floating:
            raise GraphError(f"it is not defined on {specs[0].dtype.name}; cast it")
        if specs[0].shape == ():
            raise GraphError("a scalar has no classes to normalise over")
        return [specs[0]]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        rank = len(node.inputs[0].spec.shape or ())
        if isinstance(placement, Sharded) and placement.axis != rank - 1:
            return placements, placement
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (3, 4)), Example(cls(), (5,)), Example(cls(), (2, 3, 4))]


def _nothing() -> None:
    """What there is to do where there are no entries."""


@register
class Softmax(_Rowwise):
    """exp(x) over its sum, shifted by the largest entry so that nothing overflows."""

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, out = env.xp, ins[0], outs[0]
        row = env.scratch((*x.shape[:-1], 1), x.dtype)
        if not x.size:
            return _nothing

        def kernel() -> None:
            xp.max(x, axis=-1, keepdims=True, out=row)
            xp.subtract(x, row, out)
            xp.exp(out, out)
            xp.sum(out, axis=-1, keepdims=True, out=row)
            xp.divide(out, row, out)

        return kernel

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        y = node.outputs[0]
        return [(dy - reduce_sum(dy * y, -1, keepdims=True)) * y]

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return by_rows(code, "softmax", ins[0], *outs)


@register
class LogSoftmax(_Rowwise):
    """log(softmax(x)) without the rounding of either."""

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, out = env.xp, ins[0], outs[0]
        row = env.scratch((*x.shape[:-1], 1), x.dtype)
        powers = env.scratch(x.shape, x.dtype)
        if not x.size:
            return _nothing

        def kernel() -> None:
            xp.max(x, axis=-1, keepdims=True, out=row)
            xp.subtract(x, row, out)
            xp.exp(out, powers)
            xp.sum(powers, axis=-1, keepdims=True, out=row)
            xp.log(row, row)
            xp.subtract(out, row, out)

        return kernel

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy - reduce_sum(dy, -1, keepdims=True) * exp(node.outputs[0])]

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return by_rows(code, "log_softmax", ins[0], *outs)


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
#: SELU's constants, with which activations keep mean 0 and variance 1 (Klambauer et al. 2017).
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def relu(features: Any, name: str | None = None) -> Tensor:
    """max(x, 0), element by element.

    Args:
        features: a numeric tensor.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not numeric.

    Example:
        >>> dt.Session().run(dt.nn.relu([-1.0, 2.0]))
        array([0., 2.], dtype=float32)
    """
    return apply(Relu(), features, name=name)


def relu6(features: Any, name: str | None = None) -> Tensor:
    """min(max(x, 0), 6), element by element.

    Args:
        features: a numeric tensor.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not numeric.
    """
    return apply(Relu6(), features, name=name)


def leaky_relu(features: Any, alpha: float = 0.2, name: str | None = None) -> Tensor:
    """x where x > 0, else alpha * x (Maas et al. 2013).

    Args:
        features: a floating tensor.
        alpha: the slope below 0.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating.
    """
    return apply(LeakyRelu(float(alpha)), features, name=name)


def elu(features: Any, name: str | None = None) -> Tensor:
    """x where x > 0, else exp(x) - 1 (Clevert et al. 2016).

    Args:
        features: a floating tensor.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating.
    """
    return apply(Elu(), features, name=name)


def selu(features: Any, name: str | None = None) -> Tensor:
    """The self-normalizing elu with its two constants (Klambauer et al. 2017).

    Args:
        features: a floating tensor.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating.
    """
    return apply(Elu(SELU_ALPHA, SELU_SCALE), features, name=name or "Selu")


def softplus(features: Any, name: str | None = None) -> Tensor:
    """log(1 + exp(x)), computed stably.

    Args:
        features: a floating tensor.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating.
    """
    return apply(Softplus(), features, name=name)


def softsign(features: Any, name: str | None = None) -> Tensor:
    """x / (1 + |x|), element by element.

    Args:
        features: a floating tensor.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating.
    """
    return apply(Softsign(), features, name=name)


def softmax(logits: Any, axis: int | None = None, name: str | None = None, dim: int | None = None) -> Tensor:
    """exp(logits) divided by its sum along an axis, computed stably.

    Args:
        logits: a floating tensor.
        axis: the axis of the classes; by default the last.
        dim: the older name of axis.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating, or there is no such axis.

    Example:
        >>> dt.Session().run(dt.nn.softmax([[1.0, 1.0]]))
        array([[0.5, 0.5]], dtype=float32)
    """
    return _over_axis(Softmax(), logits, axis, dim, name)


def log_softmax(
    logits: Any, axis: int | None = None, name: str | None = None, dim: int | None = None
) -> Tensor:
    """log(softmax(logits)), computed stably.

    Args:
        logits: a floating tensor.
        axis: the axis of the classes; by default the last.
        dim: the older name of axis.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating, or there is no such axis.
    """
    return _over_axis(LogSoftmax(), logits, axis, dim, name)


def _over_axis(kind: Op, logits: Any, axis: int | None, dim: int | None, name: str | None) -> Tensor:
    """An op over the last axis, applied over any."""
    if axis is not None and dim is not None:
        raise GraphError("dim is the older name of axis: give one of them.")
    logits = convert_to_tensor(logits)
    axis = dim if axis is None else axis
    rank = logits.shape.ndims
    if axis is None or axis in (-1, (rank or 0) - 1):
        return apply(kind, logits, name=name)
    if rank is None or not -rank <= axis < rank:
        raise GraphError(f"axis {axis} is not one of {logits.name} {shape_text(logits.spec.shape)}")
    swap = list(range(rank))
    swap[axis], swap[-1] = swap[-1], swap[axis]
    return transpose(apply(kind, transpose(logits, swap)), swap, name=name or type(kind).__name__)


def crelu(features: Any, name: str | None = None, axis: int = -1) -> Tensor:
    """relu(x) and relu(-x), concatenated (Shang et al. 2016).

    Args:
        features: a numeric tensor.
        axis: the axis they are concatenated on.
        name: name of the operation.

    Returns:
        Tensor: twice as large along the axis.

    Raises:
        GraphError: the dtype is not numeric, or there is no such axis.
    """
    x = convert_to_tensor(features)
    return relu(concat([x, negative(x)], axis), name=name or "CRelu")


def swish(features: Any, name: str | None = None) -> Tensor:
    """x * sigmoid(x) (Ramachandran et al. 2017).

    Args:
        features: a floating tensor.
        name: name of the operation.

    Returns:
        Tensor: of its shape and dtype.

    Raises:
        GraphError: the dtype is not floating.
    """
    x = convert_to_tensor(features)
    return multiply(x, sigmoid(x), name=name or "swish")


def zero_fraction(value: Any, name: str | None = None) -> Tensor:
    """The fraction of entries that are 0, a float32 scalar.

    Args:
        value: a numeric tensor.
        name: name of the operation.
    """
    value = convert_to_tensor(value)
    zero = convert_to_tensor(0, value.dtype)
    return reduce_mean(cast(equal(value, zero), float32), name=name or "zero_fraction")


def embedding_lookup(
    params: Any,
    ids: Any,
    partition_strategy: str = "mod",
    name: str | None = None,
    validate_indices: bool = True,
    max_norm: float | None = None,
) -> Tensor:
    """The rows of params that ids name.

    Args:
        params: a tensor or variable [rows, ...].
        ids: an integer tensor.
        partition_strategy: accepted for TensorFlow 1; params are in one piece.
        validate_indices: accepted for TensorFlow 1; indices are always checked.
        max_norm: only None.
        name: name of the operation.

    Returns:
        Tensor: of shape ids.shape + params.shape[1:].

    Raises:
        GraphError: params are several tensors, or max_norm is given.
        InvalidArgumentError: while running, for an id out of range.
    """
    if isinstance(params, list | tuple) and isinstance(params[0], TensorLike):
        if len(params) > 1:
            raise GraphError(f"embedding_lookup: {len(params)} partitions; dt.concat(params, 0) is one")
        params = params[0]
    if max_norm is not None:
        raise GraphError("embedding_lookup: max_norm is not known; dt.clip_by_norm the result")
    return gather(params, ids, name=name or "embedding_lookup")


def bias_add(value: Any, bias: Any, data_format: str | None = None, name: str | None = None) -> Tensor:
    """value + bias, one bias for each channel.

    Args:
        value: a tensor of rank >= 2.
        bias: a vector as long as the channels.
        data_format: NHWC or None for channels on the last axis, NCHW for axis 1.
        name: name of the operation.

    Returns:
        Tensor: of the shape of value.

    Raises:
        GraphError: bias is not a vector of this length, or value has fewer than two axes.
    """
    value = convert_to_tensor(value)
    bias = bias if isinstance(bias, TensorLike) else convert_to_tensor(bias, value.dtype)
    bias = convert_to_tensor(bias)
    shape, length = value.spec.shape, bias.spec.shape
    if data_format not in (None, "NHWC", "NCHW", "N...C", "NC..."):
        raise GraphError(f"data_format {data_format}: NHWC and NCHW are known")
    first = data_format in ("NCHW", "NC...")
    if shape is not None and len(shape) < 2:
        raise GraphError(f"bias_add: {value.name} {shape_text(shape)} has less than two axes")
    if not compatible(length, (None,)) or (
        shape is not None and length is not None and not compatible(length, (shape[1 if first else -1],))
    ):
        raise GraphError(
            f"bias_add: the bias {shape_text(length)} is not one for each channel of {shape_text(shape)}"
        )
    if first:
        if shape is None:
            raise GraphError(f"bias_add: the rank of {value.name} is not known")
        bias = reshape(bias, [-1] + [1] * (len(shape) - 2))
    return add(value, bias, name=name or "BiasAdd")


def xw_plus_b(x: Any, weights: Any, biases: Any, name: str | None = None) -> Tensor:
    """x @ weights + biases.

    Args:
        x: [n, in].
        weights: [in, out].
        biases: [out].
        name: name of the operation.

    Returns:
        Tensor: [n, out].

    Raises:
        GraphError: dtypes or sizes do not agree.
    """
    return bias_add(matmul(x, weights), biases, name=name or "xw_plus_b")


def relu_layer(x: Any, weights: Any, biases: Any, name: str | None = None) -> Tensor:
    """relu(x @ weights + biases).

    Args:
        x: [n, in].
        weights: [in, out].
        biases: [out].
        name: name of the operation.

    Returns:
        Tensor: [n, out].

    Raises:
        GraphError: dtypes or sizes do not agree.
    """
    return relu(xw_plus_b(x, weights, biases), name=name or "relu_layer")


def l2_loss(t: Any, name: str | None = None) -> Tensor:
    """Half the sum of the squares of all entries, a scalar.

    Args:
        t: a floating tensor.
        name: name of the operation.

    Raises:
        GraphError: the dtype is not floating.
    """
    return multiply(reduce_sum(square(t)), 0.5, name=name or "L2Loss")
