"""Ops that move or repeat values without computing any: identity, reshape, transpose, gather, fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType, as_dtype, float32
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import as_dims, is_static, shape_text, size_of
from dtrain.ops.base import (
    Array,
    Const,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    Value,
    apply,
    convert_to_tensor,
    place_rows,
    register,
    to_array,
)
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded


@register
class Identity(Op):
    """A copy: what a fetch or a control dependency can hold on to."""

    inplace = (0,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(env.xp.copyto, outs[0], ins[0])

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return None if node.control_inputs else inputs[0]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return placements, placements[0]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 3))]


@register
class StopGradient(Identity):
    no_gradient = "stopping the gradient is what it is for"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [None]


@register
class Reshape(Op):
    """The same values in row-major order under another shape; one size may be -1."""

    shape: tuple[int, ...]
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x = specs[0]
        known = [d for d in self.shape if d != -1]
        if len(self.shape) - len(known) > 1 or any(d < 0 for d in known):
            raise GraphError(f"{list(self.shape)} is not a shape to reshape to: at most one size may be -1")
        count = size_of(tuple(known))
        if not is_static(x.shape):
            return [Spec(tuple(None if d == -1 else d for d in self.shape), x.dtype)]
        total = size_of(x.shape)
        open_size = len(known) < len(self.shape)
        if (not open_size and total != count) or (open_size and (count == 0 or total % count)):
            raise GraphError(f"{total} values do not fill the shape {list(self.shape)}")
        return [Spec(tuple(total // count if d == -1 else d for d in self.shape), x.dtype)]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReshapeLike(), dy, node.inputs[0])]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        shape = self.infer(inputs[0].spec)[0].shape
        if shape == inputs[0].spec.shape:
            return inputs[0]
        return None if shape == self.shape else apply(Reshape(shape), inputs[0])  # type: ignore[arg-type]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        before, after = node.inputs[0].spec.shape, node.outputs[0].spec.shape
        rows_stay = bool(before) and bool(after) and before[0] == after[0]  # type: ignore[index]
        if placements[0] == PARTIAL or (placements[0] == Sharded(0) and rows_stay):
            return placements, placements[0]
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((4, -1)), (2, 6)), Example(cls((6,)), (2, 3))]


@register
class ReshapeLike(Op):
    """x in the shape of the second input: a reshape's gradient."""

    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return reshape(inputs[0], inputs[1].spec.shape)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReshapeLike(), dy, node.inputs[0]), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 6), (3, 4))]


@register
class ExpandDims(Op):
    """A size-1 axis more."""

    axis: int
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if shape is None:
            return [specs[0]]
        rank = len(shape) + 1
        if not -rank <= self.axis < rank:
            raise GraphError(f"axis {self.axis} is not one of a result of rank {rank}")
        at = self.axis % rank
        return [Spec((*shape[:at], 1, *shape[at:]), specs[0].dtype)]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(ReshapeLike(), dy, node.inputs[0])]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        shape = node.outputs[0].spec.shape
        assert shape is not None
        if isinstance(placement, Sharded):
            at = self.axis % len(shape)
            return placements, Sharded(placement.axis + (at <= placement.axis))
        return placements, placement

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(0), (2, 3)), Example(cls(-1), (2, 3))]


@register
class Transpose(Op):
    """Axes in another order."""

    perm: tuple[int, ...]
    is_view = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = specs[0].shape
        if shape is None:
            return [Spec((None,) * len(self.perm), specs[0].dtype)]
        if sorted(self.perm) != list(range(len(shape))):
            raise GraphError(f"perm {list(self.perm)} is no order of the axes of {shape_text(shape)}")
        return [Spec(tuple(shape[p] for p in self.perm), specs[0].dtype)]

    def view(self, env: Env, x: Array, shape: tuple[int, ...]) -> Array:
        return x.transpose(self.perm)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(Transpose(tuple(int(i) for i in np.argsort(self.perm))), dy)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        placement = placements[0]
        if isinstance(placement, Sharded):
            return placements, Sharded(self.perm.index(placement.axis))
        return placements, placement

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((1, 0)), (2, 3)), Example(cls((2, 0, 1)), (2, 3, 4))]


@register
class Fill(Op):
    """One number everywhere; kept as an op so that large zeros take no memory in the graph."""

    shape: tuple[int, ...]
    dtype: DType
    value: float

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(self.shape, self.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(outs[0].fill, self.value)

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((2, 3), float32, 1.5))]


@register
class BroadcastLike(Op):
    """dy over the axes that a reduction of the second input summed away: a sum's gradient."""

    axes: tuple[int, ...]
    keepdims: bool
    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def kernel(self, xp: Any, dy: Array, like: Array, *, out: Array) -> None:
        xp.copyto(out, dy if self.keepdims else xp.expand_dims(dy, self.axes))

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        dy = ins[0] if self.keepdims else env.xp.expand_dims(ins[0], self.axes)
        return partial(env.xp.copyto, outs[0], dy)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        from dtrain.ops.reduce import Sum

        return [apply(Sum(self.axes, self.keepdims), dy), None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        like = placements[1]
        if not isinstance(like, Sharded):
            return None
        if like.axis in self.axes:
            return [REPLICATED, like], like
        own = like.axis if self.keepdims else like.axis - sum(a < like.axis for a in self.axes)
        return [Sharded(own), like], like

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((0,), False), (3,), (2, 3)), Example(cls((0, 1), True), (1, 1), (2, 3))]


@register
class SumLike(Op):
    """dy summed over the axes along which the second input was broadcast: broadcasting's gradient."""

    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[1].shape, specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        from dtrain.ops.reduce import Sum

        dy, like = inputs
        wide, narrow = dy.spec.shape, like.spec.shape
        assert wide is not None and narrow is not None
        padded = (1,) * (len(wide) - len(narrow)) + narrow
        axes = tuple(i for i, (w, n) in enumerate(zip(wide, padded, strict=True)) if w != n)
        lost = tuple(range(len(wide) - len(narrow)))
        if axes == lost:  # nothing is kept as a size-1 axis, so no reshape is needed
            return apply(Sum(axes, False), dy) if axes else dy
        return reshape(apply(Sum(axes, True), dy) if axes else dy, narrow)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        from dtrain.ops.math import add

        return [add(dy, apply(ZerosLike(), node.inputs[0])), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 3), (3,)), Example(cls(), (4, 2, 3), (2, 1)), Example(cls(), (2, 3), ())]


@register
class ZerosLike(Op):
    """Zeros in the shape of the input."""

    shape_only = (0,)
    no_gradient = "it is constant"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [specs[0]]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        spec = inputs[0].spec
        return apply(Fill(spec.shape, spec.dtype, 0.0))  # type: ignore[arg-type]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (2, 3))]


@register
class CountLike(Op):
    """How many entries of the input lie along some axes, over all ranks: what a mean divides by."""

    axes: tuple[int, ...]
    shape_only = (0,)
    no_gradient = "it is a count"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), specs[0].dtype)]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        spec = inputs[0].spec
        assert spec.shape is not None
        count = size_of(tuple(spec.shape[a] for a in self.axes))
        return apply(Const(Value(np.array(count, spec.dtype.numpy))))

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls((0,)), (2, 3))]


def _index_check(env: Env, indices: Array, n: int, what: str) -> Callable[[], None]:
    """A call that raises for an index outside 0..n-1: one pass, since negative ones are huge unsigned."""
    unsigned = indices.view(f"u{indices.itemsize}")

    def check() -> None:
        if unsigned.size and unsigned.max() >= n:
            bad = indices[unsigned >= n].flat[0]
            raise InvalidArgumentError(f"{what} {bad} is not in 0..{n - 1}.")

    return check if env.on_host else lambda: None


@register
class Gather(Op):
    """Rows of the first input (axis 0) picked by an integer tensor."""

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        params, indices = specs
        if not indices.dtype.is_integer:
            raise GraphError("the indices are not integers")
        if params.shape == ():
            raise GraphError("a scalar has no rows to gather")
        if params.shape is None or indices.shape is None:
            return [Spec(None, params.dtype)]
        return [Spec((*indices.shape, *params.shape[1:]), params.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        params, indices = ins
        check = _index_check(env, indices, params.shape[0], "gather: the index")
        # "clip", since NumPy gathers into a copy of `out` under its default mode; indices were checked
        take = partial(env.xp.take, params, indices, 0, outs[0], **({"mode": "clip"} if env.on_host else {}))

        def kernel() -> None:
            check()
            take()

        return kernel

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        params, indices = node.inputs
        return [apply(ScatterAddLike(), dy, indices, params), None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if isinstance(placements[1], Sharded):
            return [REPLICATED, placements[1]], placements[1]
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [
            Example(cls(), (5, 3), np.array([4, 0, 0, 2], np.int32)),
            Example(cls(), (4,), np.array([[1], [3]])),
        ]


@register
class ScatterAddLike(Op):
    """Zeros like the third input, with each row of dy added at its index: gather's gradient."""

    shape_only = (2,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[2].shape, specs[0].dtype)]

    def kernel(self, xp: Any, dy: Array, indices: Array, like: Array, *, out: Array) -> None:
        out.fill(0)
        xp.add.at(out, indices, dy)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(Gather(), dy, node.inputs[1]), None, None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if placements[1] == Sharded(0):
            return [Sharded(0), Sharded(0), placements[2]], PARTIAL
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), (4, 3), np.array([4, 0, 0, 2], np.int32), (5, 3))]


@register
class OneHot(Op):
    """1 at each index along a new last axis of `depth`, 0 elsewhere (all 0 where it is out of range)."""

    depth: int
    dtype: DType
    no_gradient = "its input is an index"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if not specs[0].dtype.is_integer:
            raise GraphError("the indices are not integers")
        shape = specs[0].shape
        return [Spec(None if shape is None else (*shape, self.depth), self.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp = env.xp
        columns = xp.arange(self.depth)
        if self.depth - 1 <= np.iinfo(ins[0].dtype).max:  # else it would wrap
            columns = columns.astype(ins[0].dtype)
        mask = env.scratch(outs[0].shape, np.dtype(bool))
        column = ins[0][..., None]

        def kernel() -> None:
            xp.equal(column, columns, mask)
            xp.copyto(outs[0], mask)

        return kernel

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return place_rows(placements, node)

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(4, float32), np.array([3, 0, 7], np.int32))]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def identity(x: Any, name: str | None = None) -> Tensor:
    """x itself, as a node of its own."""
    return apply(Identity(), x, name=name)


def stop_gradient(x: Any, name: str | None = None) -> Tensor:
    """x, constant to gradients."""
    return apply(StopGradient(), x, name=name)


def reshape(x: Any, shape: Any, name: str | None = None) -> Tensor:
    """x under another shape; one size may be -1."""
    sizes = [shape] if isinstance(shape, Integral) else list(shape)
    if any(s is None for s in sizes):
        raise GraphError(f"reshape to {sizes}: write -1 for the size that follows from the others.")
    return apply(Reshape(tuple(int(s) for s in sizes)), x, name=name)


def expand_dims(x: Any, axis: int, name: str | None = None) -> Tensor:
    """x with a size-1 axis put in before `axis` (negative counts from the end)."""
    return apply(ExpandDims(int(axis)), x, name=name)


def transpose(x: Any, perm: Sequence[int] | None = None, name: str | None = None) -> Tensor:
    """x with its axes in the order of perm, by default reversed."""
    x = convert_to_tensor(x)
    if perm is None:
        perm = range(len(x.shape))[::-1]
    return apply(Transpose(tuple(int(p) for p in perm)), x, name=name)


def gather(params: Any, indices: Any, name: str | None = None) -> Tensor:
    """params[indices] along axis 0: shape indices.shape + params.shape[1:]."""
    return apply(Gather(), params, indices, name=name)


def one_hot(indices: Any, depth: int, dtype: Any = float32, name: str | None = None) -> Tensor:
    """Indicator rows: shape indices.shape + [depth]."""
    return apply(OneHot(int(depth), as_dtype(dtype)), indices, name=name)


def fill(shape: Any, value: Any, dtype: Any = None, name: str | None = None) -> Tensor:
    """A tensor of one value; dtype by default that of the value (float32, int32)."""
    dims = as_dims(shape)
    if not is_static(dims):
        raise GraphError(f"the shape to fill, {shape_text(dims)}, has unknown sizes")
    kind = as_dtype(to_array(value, None).dtype if dtype is None else dtype)
    return apply(Fill(dims, kind, value), name=name)  # type: ignore[arg-type]


def zeros(shape: Any, dtype: Any = float32, name: str | None = None) -> Tensor:
    """All zeros."""
    return fill(shape, 0, dtype, name or "zeros")


def ones(shape: Any, dtype: Any = float32, name: str | None = None) -> Tensor:
    """All ones."""
    return fill(shape, 1, dtype, name or "ones")


def zeros_like(x: Any, name: str | None = None) -> Tensor:
    """Zeros in the shape and dtype of x."""
    return apply(ZerosLike(), x, name=name)
