"""Losses: cross entropies, each with its gradient made in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import compatible, shape_text
from dtrain.ops.array import ReshapeLike, expand_dims, reshape, stop_gradient, transpose
from dtrain.ops.base import (
    LOSS,
    Array,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    by_rows,
    convert_to_tensor,
    place_rows,
    register,
    same_shape,
)
from dtrain.ops.elementwise import Elementwise, floating
from dtrain.ops.functions import log1p
from dtrain.ops.math import abs, add, cast, exp, maximum, negative, sigmoid
from dtrain.ops.nn import LogSoftmax, Softmax, softplus
from dtrain.ops.placement import Placement
from dtrain.ops.reduce import reduce_sum
from dtrain.ops.state import is_learned


class _CrossEntropy(Op):
    """Outputs: the loss of each row, and its gradient to the logits, made in the same pass over them."""

    category = LOSS

    def grad(self, node: Operation, dloss: Tensor | None, dgrad: Tensor | None) -> Sequence[Tensor | None]:
        logits, labels = node.inputs
        dlogits = dlabels = None
        if dloss is not None:
            dlogits = expand_dims(dloss, -1) * node.outputs[1]
            dlabels = self.labels_grad(node, dloss)
        if dgrad is not None:  # second order: the Jacobian of softmax times what flows into the gradient
            p = apply(Softmax(), logits)
            along = dgrad - reduce_sum(p * dgrad, -1, keepdims=True)
            second = p * along * self.mass(labels)
            dlogits = second if dlogits is None else dlogits + second
            if labels.dtype.is_floating:
                dlabels = -along if dlabels is None else dlabels - along
        return [dlogits, dlabels]

    def mass(self, labels: Tensor) -> Any:
        """The sum of each row's label probabilities."""
        return 1.0

    def labels_grad(self, node: Operation, dloss: Tensor) -> Tensor | None:
        return None

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return place_rows(placements, node)


def _floating(specs: Sequence[Spec]) -> Sequence[Spec]:
    """Logits and labels, the logits being floats."""
    if not specs[0].dtype.is_floating:
        raise GraphError(f"logits are {specs[0].dtype.name}, not floats; cast them")
    return specs


@register
class SoftmaxCrossEntropy(_CrossEntropy):
    """-sum(labels * log_softmax(logits)) of each row; labels are probabilities."""

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        logits, labels = _floating(specs)
        if logits.dtype != labels.dtype:
            raise GraphError(
                f"logits are {logits.dtype.name} and labels {labels.dtype.name}; cast the labels"
            )
        shape = same_shape(logits, labels, "logits and labels")
        if shape is not None and len(shape) != 2:
            raise GraphError(f"logits {shape_text(shape)} are not [examples, classes]")
        rows = None if shape is None else shape[:1]
        return [Spec(rows, logits.dtype), Spec(shape, logits.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, (logits, labels), (loss, dlogits) = env.xp, ins, outs
        if not logits.size:
            return partial(loss.fill, 0)  # of no classes, or of no rows
        row = env.scratch((logits.shape[0], 1), logits.dtype)
        mass = env.scratch((logits.shape[0], 1), logits.dtype)
        work = env.scratch(logits.shape, logits.dtype)
        loss_column = loss[:, None]

        def kernel() -> None:
            xp.max(logits, axis=1, keepdims=True, out=row)
            xp.subtract(logits, row, dlogits)
            xp.multiply(dlogits, labels, work)
            xp.sum(work, axis=1, out=loss)
            xp.exp(dlogits, dlogits)
            xp.sum(dlogits, axis=1, keepdims=True, out=row)
            xp.sum(labels, axis=1, keepdims=True, out=mass)
            xp.divide(mass, row, work[:, :1])
            xp.multiply(dlogits, work[:, :1], dlogits)
            xp.subtract(dlogits, labels, dlogits)
            xp.log(row, row)
            xp.multiply(row, mass, row)
            xp.subtract(row, loss_column, loss_column)

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return by_rows(code, "dense_cross_entropy", *ins, *outs)

    def mass(self, labels: Tensor) -> Any:
        return reduce_sum(labels, -1, keepdims=True)

    def labels_grad(self, node: Operation, dloss: Tensor) -> Tensor | None:
        return negative(apply(LogSoftmax(), node.inputs[0])) * expand_dims(dloss, -1)

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (3, 4), (3, 4), low=0.1, high=1.0)]


@register
class SparseSoftmaxCrossEntropy(_CrossEntropy):
    """-log_softmax(logits)[label] of each row; labels are class numbers."""

    tells = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        logits, labels = _floating(specs)
        if not labels.dtype.is_integer:
            raise GraphError(
                f"labels are {labels.dtype.name}, not integers; for one-hot labels use the other form"
            )
        if logits.shape is not None and len(logits.shape) != 2:
            raise GraphError(f"logits {shape_text(logits.shape)} are not [examples, classes]")
        if logits.shape is not None and not compatible(labels.shape, logits.shape[:1]):
            raise GraphError(
                f"labels {shape_text(labels.shape)} are not one for each of {shape_text(logits.shape)}"
            )
        return [Spec(labels.shape, logits.dtype), logits]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, (logits, labels), (loss, dlogits) = env.xp, ins, outs
        rows, classes = logits.shape
        row = env.scratch((rows, 1), logits.dtype)
        picked = env.scratch((rows,), logits.dtype)
        place = env.scratch((rows,), np.dtype(np.intp))
        starts = xp.arange(rows, dtype=np.intp) * classes
        flat, row_flat = dlogits.reshape(-1), row.reshape(-1)
        unsigned = labels.view(f"u{labels.itemsize}")

        def kernel() -> None:
            if env.on_host and rows and unsigned.max() >= classes:
                raise InvalidArgumentError(
                    f"a label is {labels[unsigned >= classes][0]}, "
                    f"but the logits have the classes 0..{classes - 1}."
                )
            xp.add(starts, labels, place, casting="unsafe")
            xp.max(logits, axis=1, keepdims=True, out=row)
            xp.subtract(logits, row, dlogits)
            xp.take(flat, place, out=picked, **clip)
            xp.exp(dlogits, dlogits)
            xp.sum(dlogits, axis=1, keepdims=True, out=row)
            xp.divide(dlogits, row, dlogits)
            xp.log(row, row)
            xp.subtract(row_flat, picked, loss)
            xp.take(flat, place, out=picked, **clip)
            xp.subtract(picked, 1, picked)
            flat[place] = picked

        clip = {"mode": "clip"} if env.on_host else {}
        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        logits, labels = ins
        return by_rows(code, "sparse_cross_entropy", logits, labels, labels.itemsize, *outs)

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (3, 4), np.array([3, 0, 2], np.int32))]


@register
class SigmoidCrossEntropy(Elementwise):
    """max(x, 0) - x * z + log(1 + exp(-|x|)) of logits x and labels z: no large x overflows or cancels."""

    arity = 2
    takes = staticmethod(floating)
    category = LOSS

    def rule(self, x: Tensor, z: Tensor) -> Tensor:
        # exact where both of the first terms are large, so that the small one counts
        return (maximum(x, 0) - x * z) + log1p(exp(-abs(x)))

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x, z = node.inputs
        return [dy * (sigmoid(x) - z), -dy * x]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def softmax_cross_entropy_with_logits(
    _sentinel: Any = None,
    labels: Any = None,
    logits: Any = None,
    dim: int = -1,
    name: str | None = None,
    axis: int | None = None,
) -> Tensor:
    """Softmax cross entropy of each example; no gradient flows into labels, as in TensorFlow 1.

    Args:
        labels: probabilities [..., classes].
        logits: a floating tensor of the same shape.
        dim: the older name of axis.
        axis: the axis of the classes; by default the last.
        _sentinel: makes the others keyword arguments; by position, as before TensorFlow 1.0, they are logits
            and labels.
        name: name of the operation.

    Returns:
        Tensor: the shape of logits without the axis.

    Raises:
        GraphError: an argument is missing, or the order is not clear, or the shapes differ.
    """
    labels, logits = _named(_sentinel, labels, logits)
    return softmax_cross_entropy_with_logits_v2(
        labels=stop_gradient(labels), logits=logits, axis=dim if axis is None else axis, name=name
    )


def softmax_cross_entropy_with_logits_v2(
    _sentinel: Any = None,
    labels: Any = None,
    logits: Any = None,
    axis: int | None = None,
    name: str | None = None,
    dim: int | None = None,
) -> Tensor:
    """Softmax cross entropy of each example; gradients flow into labels too.

    Args:
        labels: probabilities [..., classes], cast to the dtype of logits.
        logits: a floating tensor of the same shape.
        axis: the axis of the classes; by default the last.
        dim: the older name of axis.
        _sentinel: makes the others keyword arguments; by position, as before TensorFlow 1.0, they are logits
            and labels.
        name: name of the operation.

    Returns:
        Tensor: the shape of logits without the axis.

    Raises:
        GraphError: an argument is missing, or the order is not clear, or the shapes differ.
    """
    labels, logits = _named(_sentinel, labels, logits)
    labels, logits = _as_logits(labels, logits)
    axis = -1 if axis is None and dim is None else dim if axis is None else axis
    rank = logits.shape.ndims
    if axis not in (-1, (rank or 0) - 1):
        if rank is None or not -rank <= axis < rank:
            raise GraphError(f"axis {axis} is not one of {logits.name} {shape_text(logits.spec.shape)}")
        order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
        logits, labels = transpose(logits, order), transpose(labels, order)
    if rank in (None, 2):
        return apply(SoftmaxCrossEntropy(), logits, labels, name=name)
    same_shape(logits.spec, labels.spec, "logits and labels")
    loss = apply(SoftmaxCrossEntropy(), _as_rows(logits), _as_rows(labels))
    # the sum is never computed: only its shape is asked for
    return apply(ReshapeLike(), loss, reduce_sum(logits, -1), name=name)


def sparse_softmax_cross_entropy_with_logits(
    _sentinel: Any = None, labels: Any = None, logits: Any = None, name: str | None = None
) -> Tensor:
    """Softmax cross entropy of each example, labels being class numbers.

    Args:
        labels: an integer tensor [...].
        logits: a floating tensor [..., classes].
        _sentinel: makes the others keyword arguments; by position, as before TensorFlow 1.0, they are logits
            and labels.
        name: name of the operation.

    Returns:
        Tensor: [...], of the dtype of logits.

    Raises:
        GraphError: an argument is missing, or the order is not clear, or the shapes do not fit.
        InvalidArgumentError: while running, for a label that is no class.

    Example:
        >>> loss = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=[0, 1], logits=dt.zeros([2, 10]))
        >>> loss.shape.as_list()
        [2]
    """
    labels, logits = _named(_sentinel, labels, logits)
    logits, labels = convert_to_tensor(logits), convert_to_tensor(labels)
    rank = logits.shape.ndims
    if rank in (None, 2):
        return apply(SparseSoftmaxCrossEntropy(), logits, labels, name=name)
    if rank and not compatible(labels.spec.shape, logits.spec.shape[:-1]):
        raise GraphError(
            f"labels {shape_text(labels.spec.shape)} are not one for each of {shape_text(logits.spec.shape)}"
        )
    loss = apply(SparseSoftmaxCrossEntropy(), _as_rows(logits), reshape(labels, [-1]))
    return apply(ReshapeLike(), loss, labels, name=name)


def _as_logits(labels: Any, logits: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors, the labels cast to the dtype of the logits: one-hot rows are often integers."""
    logits = convert_to_tensor(logits)
    labels = labels if isinstance(labels, TensorLike) else convert_to_tensor(labels, logits.dtype)
    return cast(labels, logits.dtype), logits


def _as_rows(x: Tensor) -> Tensor:
    """[..., classes] as [examples, classes]."""
    shape = x.spec.shape
    if not shape or shape[-1] is None:
        raise GraphError(
            f"{x.name} {shape_text(shape)}: the number of classes along its last axis is not known"
        )
    return reshape(x, [-1, shape[-1]])


def _named(first: Any, labels: Any, logits: Any) -> tuple[Any, Any]:
    """Labels and logits, which are given by name.

    By position they are (logits, labels), as before TensorFlow 1.0, which refuses it; unless it is the second
    that is computed of variables, and not the first.

    Raises:
        GraphError: one is missing, or they are in another order.
    """
    if first is not None and (labels is None) != (logits is None):
        second = logits if labels is None else labels
        if is_learned(first) or not is_learned(second):
            return second, first
    if first is not None or labels is None or logits is None:
        raise GraphError("give both by name: softmax_cross_entropy_with_logits(labels=..., logits=...)")
    return labels, logits


def sigmoid_cross_entropy_with_logits(
    _sentinel: Any = None, labels: Any = None, logits: Any = None, name: str | None = None
) -> Tensor:
    """Cross entropy of each entry, for classes that do not exclude one another; computed stably.

    Args:
        labels: probabilities, of the shape of logits and cast to their dtype.
        logits: a floating tensor.
        _sentinel: makes the others keyword arguments; by position, as before TensorFlow 1.0, they are logits
            and labels.
        name: name of the operation.

    Returns:
        Tensor: of the shape of logits.

    Raises:
        GraphError: an argument is missing, or the order is not clear, or the shapes differ.
    """
    labels, logits = _named(_sentinel, labels, logits)
    labels, logits = _as_logits(labels, logits)
    same_shape(logits.spec, labels.spec, "logits and labels")
    return apply(SigmoidCrossEntropy(), logits, labels, name=name or "logistic_loss")


def weighted_cross_entropy_with_logits(
    labels: Any = None,
    logits: Any = None,
    pos_weight: Any = None,
    name: str | None = None,
    targets: Any = None,
) -> Tensor:
    """sigmoid_cross_entropy_with_logits with the loss of positive labels multiplied by pos_weight.

    Args:
        labels: probabilities, of the shape of logits.
        logits: a floating tensor.
        pos_weight: a number or a tensor that broadcasts to logits.
        targets: the older name of labels.
        name: name of the operation.

    Returns:
        Tensor: of the shape of logits.

    Raises:
        GraphError: an argument is missing, or the shapes differ.
    """
    labels, logits = _as_logits(targets if labels is None else labels, logits)
    same_shape(logits.spec, labels.spec, "logits and labels")
    weight = 1 + (pos_weight - 1) * labels
    return add((1 - labels) * logits, weight * softplus(-logits), name=name or "logistic_loss")
