"""The k largest entries of each row: which they are, and whether a class is among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import bool_, int32, int64
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import as_static, compatible, shape_text
from dtrain.ops.array import expand_dims
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
    in_order,
    register,
)
from dtrain.ops.late import static_int
from dtrain.ops.logic import is_finite, logical_and, where
from dtrain.ops.math import cast, equal, greater, less
from dtrain.ops.placement import Placement, Sharded
from dtrain.ops.reduce import reduce_all, reduce_max, reduce_sum


class _Rows(Op):
    """Ops along the last axis, where the others, sharded or not, are independent rows."""

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        first = placements[0]
        if isinstance(first, Sharded) and first.axis < len(node.inputs[0].spec.shape or ()) - 1:
            return [first] * len(placements), first
        return None


@register
class TopK(_Rows):
    """Outputs: the k largest entries along the last axis, largest first, and where they are (int32).

    Among equal entries the one before comes first.
    """

    k: int

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x = specs[0]
        if x.dtype.is_bool:
            raise GraphError("it is not defined on bool; cast it")
        if x.shape is None:
            return [x, Spec(None, int32)]
        if not x.shape or (x.shape[-1] is not None and x.shape[-1] < self.k) or self.k < 0:
            raise GraphError(f"{shape_text(x.shape)} has not {self.k} entries along its last axis")
        shape = (*x.shape[:-1], self.k)
        return [Spec(shape, x.dtype), Spec(shape, int32)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, (values, indices) = env.xp, ins[0], outs

        def kernel() -> None:
            # read backwards, a stable sort puts the first of equal entries last
            order = xp.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., : self.k]
            xp.subtract(x.shape[-1] - 1, order, out=indices, casting="unsafe")
            values[...] = xp.take_along_axis(x, indices, -1)

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return by_rows(code, "top_k", ins[0], self.k, *outs)

    def grad(self, node: Operation, dy: Tensor | None, _: Tensor | None) -> Sequence[Tensor | None]:
        return [None if dy is None else apply(TopKGrad(), dy, node.outputs[1], node.inputs[0])]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(2), (3, 4)), Example(cls(3), (2, 2, 5)), Example(cls(1), (3,))]


@register
class TopKGrad(_Rows):
    """Zeros in the shape of the third input, but dy at the places that the second gives for each row."""

    shape_only = (2,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[2].shape, specs[0].dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        (dy, indices, _), dx = ins, outs[0]

        def kernel() -> None:
            dx.fill(0)
            env.xp.put_along_axis(dx, indices, dy, -1)

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (dy, indices, _), dx = ins, outs[0]
        rows, columns = math.prod(dx.shape[:-1]), dx.shape[-1]
        put = code.kernel("put", dx.dtype, dy.size, dx, rows, columns, indices, dy.shape[-1], dy)
        return in_order(code.move(dx, 0), put)

    def grad(self, node: Operation, g: Tensor) -> Sequence[Tensor | None]:
        return [apply(TopKPick(), g, node.inputs[1]), None, None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 2), np.array([[3, 0], [1, 2]], np.int32), (2, 4))]


@register
class TopKPick(_Rows):
    """The entries of each row at the places that the second input gives."""

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def kernel(self, xp: Any, x: Array, indices: Array, *, out: Array) -> None:
        out[...] = xp.take_along_axis(x, indices, -1)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (x, indices), out = ins, outs[0]
        rows, columns = math.prod(x.shape[:-1]), x.shape[-1]
        return code.kernel("pick", x.dtype, out.size, x, rows, columns, indices, out.shape[-1], out)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(TopKGrad(), dy, node.inputs[1], node.inputs[0]), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 4), np.array([[3, 0], [1, 2]], np.int32))]


@register
class InTopK(Op):
    """Whether fewer than k classes have a larger prediction than the target; not if one is not finite."""

    k: int
    no_gradient = "its result is boolean"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        predictions, targets = specs
        if not predictions.dtype.is_floating or not targets.dtype.is_integer:
            raise GraphError(
                f"predictions are {predictions.dtype.name} and targets {targets.dtype.name}: give "
                "floats, and class numbers"
            )
        if predictions.shape is not None and len(predictions.shape) != 2:
            raise GraphError(f"predictions {shape_text(predictions.shape)} are not [examples, classes]")
        rows = None if predictions.shape is None else predictions.shape[:1]
        if not compatible(targets.shape, (None,) if rows is None else rows):
            raise GraphError(
                f"targets {shape_text(targets.shape)} are not one for each of {shape_text(predictions.shape)}"
            )
        return [Spec(targets.shape if rows is None else rows, bool_)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        predictions, targets = inputs
        classes = np.arange(as_static((predictions.spec.shape or ())[1:])[0])
        is_target = equal(expand_dims(cast(targets, int64), 1), classes)
        # of a target that is no class it is not finite, so that it is in no top k
        of_target = reduce_max(where(is_target, predictions, -np.inf), 1, keepdims=True)
        larger = reduce_sum(cast(greater(predictions, of_target), int64), 1)
        finite = logical_and(is_finite(of_target), is_finite(predictions))
        return logical_and(less(larger, self.k), reduce_all(finite, 1))

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(2), (5, 4), np.array([3, 0, 2, 7, -1], np.int32))]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def top_k(input: Any, k: Any = 1, sorted: bool = True, name: str | None = None) -> tuple[Tensor, Tensor]:
    """The k largest entries along the last axis, largest first.

    Among equal entries the first comes first; a NaN comes before all numbers. Gradients flow to the values.

    Args:
        input: a numeric tensor [..., n].
        k: how many, at most n.
        sorted: accepted for TensorFlow 1; the result is always sorted.
        name: name of the operation.

    Returns:
        tuple: values [..., k] and int32 indices [..., k].

    Raises:
        GraphError: there are fewer than k.
    """
    node = apply(TopK(static_int(k, "top_k")), convert_to_tensor(input), name=name or "TopKV2").op
    return node.outputs[0], node.outputs[1]


def in_top_k(predictions: Any, targets: Any, k: int, name: str | None = None) -> Tensor:
    """For each example, whether its class is among the k largest predictions.

    Classes that tie with the k-th are all among them. An example with a prediction that is not finite has
    none.

    Args:
        predictions: a floating tensor [examples, classes].
        targets: class numbers [examples]; one out of range is in no top k.
        k: an int.
        name: name of the operation.

    Returns:
        Tensor: bool [examples].

    Raises:
        GraphError: the shapes do not fit.
    """
    return apply(InTopK(int(k)), predictions, targets, name=name)
