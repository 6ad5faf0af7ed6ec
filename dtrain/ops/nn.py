"""Activations and losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import compatible, shape_text
from dtrain.ops.array import expand_dims, one_hot, stop_gradient
from dtrain.ops.base import (
    Array,
    Elementwise,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    convert_to_tensor,
    place_rows,
    register,
    same_shape,
)
from dtrain.ops.math import exp, negative
from dtrain.ops.placement import Placement, Sharded
from dtrain.ops.reduce import reduce_sum


@register
class Relu(Elementwise):
    """max(x, 0)."""

    inplace = (0,)

    def kernel(self, xp: Any, x: Array, *, out: Array) -> None:
        xp.maximum(x, 0, out=out)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReluGrad(), dy, node.outputs[0])]


@register
class ReluGrad(Elementwise):
    """dy where y, the activation's output, is positive, else 0."""

    arity = 2
    inplace = (0,)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, (dy, y), out = env.xp, ins, outs[0]
        positive = env.scratch(y.shape, np.dtype(bool))

        def kernel() -> None:
            xp.greater(y, 0, positive)
            xp.multiply(dy, positive, out)

        return kernel

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReluGrad(), dy, node.inputs[1]), None]


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


@register
class Softmax(_Rowwise):
    """exp(x) over its sum, shifted by the largest entry so that nothing overflows."""

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, out = env.xp, ins[0], outs[0]
        row = env.scratch((*x.shape[:-1], 1), x.dtype)

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


@register
class LogSoftmax(_Rowwise):
    """log(softmax(x)) without the rounding of either."""

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, out = env.xp, ins[0], outs[0]
        row = env.scratch((*x.shape[:-1], 1), x.dtype)
        powers = env.scratch(x.shape, x.dtype)

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


class _CrossEntropy(Op):
    """Outputs: the loss of each row, and its gradient to the logits, made in the same pass over them."""

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


@register
class SoftmaxCrossEntropy(_CrossEntropy):
    """-sum(labels * log_softmax(logits)) of each row; labels are probabilities."""

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        logits, labels = specs
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

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        logits, labels = specs
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

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (3, 4), np.array([3, 0, 2], np.int32))]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def relu(features: Any, name: str | None = None) -> Tensor:
    """max(x, 0), element by element."""
    return apply(Relu(), features, name=name)


def softmax(logits: Any, axis: int = -1, name: str | None = None) -> Tensor:
    """exp(logits) over its sum along the last axis: probabilities of the classes."""
    return apply(Softmax(), _last_axis(logits, axis), name=name)


def log_softmax(logits: Any, axis: int = -1, name: str | None = None) -> Tensor:
    """log(softmax(logits)), computed stably."""
    return apply(LogSoftmax(), _last_axis(logits, axis), name=name)


def _last_axis(logits: Any, axis: int) -> Tensor:
    logits = convert_to_tensor(logits)
    if axis not in (-1, (logits.shape.ndims or 0) - 1):
        raise GraphError(
            f"softmax over axis {axis} of {logits.name}: it runs over the last axis; transpose first."
        )
    return logits


def softmax_cross_entropy_with_logits(
    _sentinel: Any = None, labels: Any = None, logits: Any = None, name: str | None = None
) -> Tensor:
    """Cross entropy of each example: labels and logits [examples, classes], result [examples].

    Gradients do not flow into labels, as in TensorFlow 1; the _v2 form lets them. Named arguments only.
    """
    _named(_sentinel, labels, logits)
    return softmax_cross_entropy_with_logits_v2(labels=stop_gradient(labels), logits=logits, name=name)


def softmax_cross_entropy_with_logits_v2(
    _sentinel: Any = None, labels: Any = None, logits: Any = None, name: str | None = None
) -> Tensor:
    """As softmax_cross_entropy_with_logits, with gradients to the labels too."""
    _named(_sentinel, labels, logits)
    logits = convert_to_tensor(logits)
    labels = convert_to_tensor(labels)
    return apply(SoftmaxCrossEntropy(), logits, labels, name=name)


def sparse_softmax_cross_entropy_with_logits(
    _sentinel: Any = None, labels: Any = None, logits: Any = None, name: str | None = None
) -> Tensor:
    """Cross entropy of each example: integer labels [examples], logits [examples, classes]; both by name."""
    _named(_sentinel, labels, logits)
    return apply(SparseSoftmaxCrossEntropy(), logits, labels, name=name)


def _named(sentinel: Any, labels: Any, logits: Any) -> None:
    if sentinel is not None or labels is None or logits is None:
        raise GraphError("give both by name: softmax_cross_entropy_with_logits(labels=..., logits=...)")


__all__ = [
    "log_softmax",
    "one_hot",
    "relu",
    "softmax",
    "softmax_cross_entropy_with_logits",
    "softmax_cross_entropy_with_logits_v2",
    "sparse_softmax_cross_entropy_with_logits",
]
