"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from dtrain.errors import GraphError
from dtrain.graph.dtypes import int64
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import normalize_axes
from dtrain.ops.array import BroadcastLike, CountLike
from dtrain.ops.base import Array, Env, Example, Kernel, Op, Placed, apply, convert_to_tensor, register
from dtrain.ops.math import cast, equal
from dtrain.ops.placement import PARTIAL, Placement, Sharded


class _Reduction(Op):
    """axes None means all, also where the rank is not known yet."""

    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc: ClassVar[str] = ""

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if specs[0].dtype.is_bool:
            raise GraphError("it is not defined on bool; cast it")
        if shape is None:
            return [Spec(() if self.axes is None and not self.keepdims else None, specs[0].dtype)]
        axes = normalize_axes(self.axes, len(shape), "reduction")
        assert axes is not None
        if self.keepdims:
            dims = tuple(1 if i in axes else d for i, d in enumerate(shape))
        else:
            dims = tuple(d for i, d in enumerate(shape) if i not in axes)
        return [Spec(dims, specs[0].dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        reduce = getattr(env.xp, self.ufunc)
        return partial(reduce, ins[0], axis=self.axes, out=outs[0], keepdims=self.keepdims)

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if isinstance(placement, Sharded):
            axes = self.axes if self.axes is not None else range(len(node.inputs[0].spec.shape or ()))
            if placement.axis in axes:
                return self.place_reduced(placement)
            lost = 0 if self.keepdims else sum(a < placement.axis for a in axes)
            return placements, Sharded(placement.axis - lost)
        return None

    def place_reduced(self, placement: Sharded) -> Placed:
        """Where the sharded axis itself is reduced."""
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(None, False), (2, 3)),
            Example(cls((0,), False), (2, 3)),
            Example(cls((1,), True), (2, 3, 4)),
            Example(cls((0, 2), False), (2, 3, 4)),
        ]


@register
class Sum(_Reduction):
    axes: tuple[int, ...] | None
    keepdims: bool

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        # the method of the ufunc, since numpy.sum spends more in Python than in adding
        if env.on_host:
            return partial(env.xp.add.reduce, ins[0], self.axes, None, outs[0], self.keepdims)
        return partial(env.xp.sum, ins[0], axis=self.axes, out=outs[0], keepdims=self.keepdims)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [_spread(self, node, dy)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return (placements, PARTIAL) if placements[0] == PARTIAL else super().place(placements, node)

    def place_reduced(self, placement: Sharded) -> Placed:
        return [placement], PARTIAL


@register
class Mean(_Reduction):
    """A sum over a count; the count is that of the whole batch, however it is sharded."""

    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc = "mean"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if not specs[0].dtype.is_floating:
            raise GraphError(f"the mean of {specs[0].dtype.name} is not defined; cast it to float32")
        return super().infer(*specs)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [_spread(self, node, dy / _count(self, node.inputs[0]))]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return apply(Sum(self.axes, self.keepdims), inputs[0]) / _count(self, inputs[0])


@register
class Max(_Reduction):
    """Where several entries are largest, the gradient is shared equally among them."""

    axes: tuple[int, ...] | None
    keepdims: bool
    ufunc = "max"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x = node.inputs[0]
        largest = cast(equal(x, _spread(self, node, node.outputs[0])), dy.dtype)
        ties = apply(Sum(self.axes, self.keepdims), largest)
        return [largest * _spread(self, node, dy / ties)]


@register
class ArgMax(Op):
    """Index of the largest entry along one axis, the first where several are."""

    axis: int
    no_gradient = "its result is an index"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if shape is None:
            return [Spec(None, int64)]
        (axis,) = normalize_axes(self.axis, len(shape), "argmax") or ()
        return [Spec(shape[:axis] + shape[axis + 1 :], int64)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(ins[0].argmax, self.axis, outs[0])

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        rank = len(node.inputs[0].spec.shape or ())
        if isinstance(placement, Sharded) and placement.axis != self.axis % rank:
            return placements, Sharded(placement.axis - (self.axis % rank < placement.axis))
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(0), (2, 3)), Example(cls(-1), (2, 3))]


def _axes(op: _Reduction, x: Tensor) -> tuple[int, ...]:
    axes = normalize_axes(op.axes, x.shape.ndims, "reduction")
    if axes is None:
        raise GraphError(
            f"the gradient of a reduction of {x.name} needs its rank: "
            "give the placeholder it comes from a shape."
        )
    return axes


def _spread(op: _Reduction, node: Operation, value: Tensor) -> Tensor:
    """A reduction's result, or its gradient, over the shape of what was reduced."""
    x = node.inputs[0]
    return apply(BroadcastLike(_axes(op, x), op.keepdims), value, x)


def _count(op: _Reduction, x: Tensor) -> Tensor:
    return apply(CountLike(_axes(op, x)), x)


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def _reduction(kind: type[Any], doc: str) -> Callable[..., Tensor]:
    def function(
        input_tensor: Any,
        axis: int | Sequence[int] | None = None,
        keepdims: bool | None = None,
        name: str | None = None,
        reduction_indices: int | Sequence[int] | None = None,
        keep_dims: bool | None = None,
    ) -> Tensor:
        x = convert_to_tensor(input_tensor)
        axis = _one_of("axis", axis, "reduction_indices", reduction_indices)
        keepdims = bool(_one_of("keepdims", keepdims, "keep_dims", keep_dims))
        axes = None if axis is None else normalize_axes(axis, x.shape.ndims, name or kind.__name__)
        return apply(kind(axes, keepdims), x, name=name)

    function.__name__ = f"reduce_{kind.__name__.lower()}"
    function.__doc__ = (
        f"{doc} over `axis` (an int, several, or None for all), kept as size 1 with keepdims.\n\n"
        "    reduction_indices and keep_dims are TensorFlow 1's older names of the two."
    )
    return function


def _one_of(name: str, value: Any, old_name: str, old_value: Any) -> Any:
    if value is not None and old_value is not None:
        raise GraphError(f"{old_name} is the older name of {name}: give one of them.")
    return value if old_value is None else old_value


reduce_sum = _reduction(Sum, "Sum")
reduce_mean = _reduction(Mean, "Arithmetic mean")
reduce_max = _reduction(Max, "Largest entry")


def argmax(
    input: Any, axis: int | None = None, name: str | None = None, dimension: int | None = None
) -> Tensor:
    """Index (int64) of the largest entry along `axis`, 0 by default; `dimension` is its older name."""
    axis = _one_of("axis", axis, "dimension", dimension)
    return apply(ArgMax(0 if axis is None else int(axis)), input, name=name or "ArgMax")
