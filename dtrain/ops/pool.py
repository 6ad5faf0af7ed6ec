"""Pooling: the largest entry, or the mean, of windows that slide over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import int32, uint8
from dtrain.graph.graph import Operation, Spec, Tensor
from dtrain.graph.shape import Dims, compatible, shape_text
from dtrain.ops.array import transpose
from dtrain.ops.base import (
    Array,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    bits,
    in_turn,
    place_rows,
    plain,
    register,
)
from dtrain.ops.placement import Placement, Sharded
from dtrain.ops.window import (
    Axis,
    Padded,
    channels_last,
    each_entry,
    images,
    padding_of,
    place_windows,
    stacks,
    two,
    window_count,
)


class _Pooling(Op):
    """Loops over the entries of a window, all windows at once, a stack of images that fits the cache."""

    ksize: tuple[int, int]
    strides: tuple[int, int]
    padding: str

    def pooled(self, x: Spec) -> Dims:
        """The shape of the result."""
        if not x.dtype.is_floating:
            raise GraphError(f"it is not defined on {x.dtype.name}; cast it")
        n, height, width, channels = images(x.shape, "the images")
        return (
            n,
            window_count(height, self.ksize[0], self.strides[0], 1, self.padding),
            window_count(width, self.ksize[1], self.strides[1], 1, self.padding),
            channels,
        )

    def check(self, y: Spec, x: Spec) -> None:
        if not compatible(self.pooled(x), y.shape):
            raise GraphError(f"{shape_text(y.shape)} is not what {shape_text(x.shape)} is pooled to")

    @property
    def index_type(self) -> Any:
        """The dtype of a position in the window."""
        return uint8 if self.ksize[0] * self.ksize[1] <= 256 else int32

    def axes(self, x: tuple[int, ...]) -> tuple[Axis, Axis]:
        down, across = (
            place_windows(x[1 + i], self.ksize[i], self.strides[i], 1, self.padding) for i in (0, 1)
        )
        return down, across

    def by_stacks(
        self,
        env: Env,
        x: Array,
        border: float,
        work: Callable[[slice, Array, list[tuple[int, Callable[[Array], Array]]]], list[Kernel]],
        backward: bool = False,
    ) -> Kernel:
        """The calls of work(examples, padded images, entries) for each stack, with x copied in or out.

        The memory of `padded` is shared by the stacks, and is x itself where there is no padding.
        """
        down, across = self.axes(x.shape)
        entries = [(i * across.size + j, under) for i, j, under in each_entry(down, across)]
        parts = list(stacks(len(x), x[:1].nbytes))
        padded = None
        if parts and (down.padded or across.padded):
            padded = Padded(env, x, parts[0].stop, down, across, border)
        calls: list[Kernel] = []
        for examples in parts:
            count = examples.stop - examples.start
            if padded is None:
                calls += work(examples, x[examples], entries)
                continue
            inside = padded.inside[:count]
            copy = partial(env.xp.copyto, *((x[examples], inside) if backward else (inside, x[examples])))
            found = work(examples, padded.array[:count], entries)
            calls += [*found, copy] if backward else [copy, *found]
        return in_turn(calls)

    def scatter(
        self,
        env: Env,
        dx: Array,
        flow: Callable[[slice, int, Array], list[Kernel]],
    ) -> Kernel:
        """Fill dx with what flow(examples, entry, out) writes for each entry of the windows, added up."""
        down, across = self.axes(dx.shape)
        tiles = self.ksize == self.strides and all(
            self.strides[i] * axis.count == dx.shape[1 + i] + axis.before + axis.after
            for i, axis in enumerate((down, across))
        )
        apart = self.ksize[0] <= self.strides[0] and self.ksize[1] <= self.strides[1]
        biggest = next(stacks(len(dx), dx[:1].nbytes), slice(0, 0)).stop
        memory = None
        if not apart:
            memory = env.scratch((biggest, down.count, across.count, dx.shape[3]), dx.dtype)

        def work(examples: slice, padded: Array, entries: list[Any]) -> list[Kernel]:
            calls: list[Kernel] = [] if tiles else [partial(padded.fill, 0)]
            for entry, under in entries:
                place = under(padded)
                if memory is None:
                    calls += flow(examples, entry, place)
                else:
                    term = memory[: len(place)]
                    calls += flow(examples, entry, term)
                    calls.append(partial(env.xp.add, place, term, place))
            return calls

        return self.by_stacks(env, dx, 0, work, backward=True)

    def pool(self, code: Any, symbol: str, images: Array, x: Array, out: Array, *positions: Array) -> Any:
        """A call of the kernel that makes out of x; images: what of both the windows lie on."""
        if not plain(x, *positions):
            return None
        windows = code.windows(images.shape, images.dtype, *self.axes(images.shape))
        return windows and windows.pool(symbol, x, out, *positions)

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if isinstance(placements[0], Sharded):
            return place_rows([placements[0]] * len(placements), node)
        return None


#: Window, strides, padding; shapes of images and result: overlapping and padded, tiling, and with gaps.
_EXAMPLES = (
    (((3, 2), (2, 1), "SAME"), (2, 4, 3, 2), (2, 2, 3, 2)),
    (((2, 2), (2, 2), "VALID"), (3, 4, 5, 1), (3, 2, 2, 1)),
)
_GAPS = (((1, 2), (2, 3), "SAME"), (2, 5, 4, 1), (2, 3, 2, 1))


@register
class MaxPool(_Pooling):
    """Outputs: the largest entry of each window, and its position in it (the first, where several)."""

    ksize: tuple[int, int]
    strides: tuple[int, int]
    padding: str

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        shape = self.pooled(specs[0])
        return [Spec(shape, specs[0].dtype), Spec(shape, self.index_type)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, (y, position) = env.xp, ins[0], outs
        larger = env.scratch(y.shape, np.dtype(bool))
        here = env.scratch(y.shape, position.dtype)

        def work(examples: slice, padded: Array, entries: list[Any]) -> list[Kernel]:
            best, at, mask = y[examples], position[examples], larger[examples]
            calls: list[Kernel] = [partial(at.fill, 0)]
            for entry, under in entries:
                if entry == 0:
                    calls.append(partial(xp.copyto, best, under(padded)))
                    continue
                calls.append(partial(xp.greater, under(padded), best, mask))
                calls.append(partial(xp.maximum, best, under(padded), out=best))
                # entries come in rising order, so the latest larger one is the largest number
                calls.append(partial(xp.multiply, mask, position.dtype.type(entry), here[examples]))
                calls.append(partial(xp.maximum, at, here[examples], out=at))
            return calls

        return self.by_stacks(env, x, -np.inf, work)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        x, (y, position) = ins[0], outs
        return self.pool(code, "max_pool", x, x, y, position)

    def grad(self, node: Operation, dy: Tensor | None, _: Tensor | None) -> Sequence[Tensor | None]:
        if dy is None:
            return [None]
        kind = MaxPoolGrad(self.ksize, self.strides, self.padding)
        return [apply(kind, dy, node.outputs[1], node.inputs[0])]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), x) for how, x, _ in (*_EXAMPLES, _GAPS)]


@register
class MaxPoolGrad(_Pooling):
    """dy at the position of each window's largest entry; the third input has the images' shape."""

    ksize: tuple[int, int]
    strides: tuple[int, int]
    padding: str
    shape_only = (2,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        dy, _, x = specs
        self.check(dy, x)
        return [Spec(x.shape, dy.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, (dy, position, _) = env.xp, ins
        here = env.scratch(dy.shape, np.dtype(bool))

        def flow(examples: slice, entry: int, out: Array) -> list[Kernel]:
            mask = here[examples]
            return [
                partial(xp.equal, position[examples], entry, mask),
                partial(xp.multiply, bits(dy[examples]), mask, bits(out)),
            ]

        return self.scatter(env, outs[0], flow)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (dy, position, _), dx = ins, outs[0]
        return self.pool(code, "max_pool_grad", dx, dy, dx, position)

    def grad(self, node: Operation, g: Tensor) -> Sequence[Tensor | None]:
        kind = MaxPoolPick(self.ksize, self.strides, self.padding)
        return [apply(kind, g, node.inputs[1]), None, None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), y, _positions(how[0], y), x) for how, x, y in _EXAMPLES]


@register
class MaxPoolPick(_Pooling):
    """The entry of each window at a given position: the transpose of MaxPoolGrad."""

    ksize: tuple[int, int]
    strides: tuple[int, int]
    padding: str

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        g, position = specs
        self.check(position, g)
        return [Spec(self.pooled(g), g.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, (g, position), out = env.xp, ins, outs[0]
        here = env.scratch(out.shape, np.dtype(bool))

        def work(examples: slice, padded: Array, entries: list[Any]) -> list[Kernel]:
            calls: list[Kernel] = [partial(out[examples].fill, 0)]
            for entry, under in entries:
                mask = here[examples]
                calls.append(partial(xp.equal, position[examples], entry, mask))
                calls.append(partial(xp.copyto, out[examples], under(padded), where=mask))
            return calls

        return self.by_stacks(env, g, 0, work)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (g, position), out = ins, outs[0]
        return self.pool(code, "max_pool_pick", g, g, out, position)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        g, position = node.inputs
        return [apply(MaxPoolGrad(self.ksize, self.strides, self.padding), dy, position, g), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), x, _positions(how[0], y)) for how, x, y in _EXAMPLES]


def _positions(ksize: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Some positions in windows, for the examples."""
    return (np.arange(np.prod(shape)) * 5 % (ksize[0] * ksize[1])).astype(np.uint8).reshape(shape)


class _Averaging(_Pooling):
    """Means over the part of each window that lies within the image, as in TensorFlow."""

    def weights(self, env: Env, x: tuple[int, ...], dtype: np.dtype) -> Any:
        """1 / the entries of each window: a number, or an array [rows, columns, 1]."""
        down, across = self.axes(x)
        if not (down.padded or across.padded):
            return env.xp.asarray(1 / (self.ksize[0] * self.ksize[1]), dtype)
        inside = []
        for axis, n in ((down, x[1]), (across, x[2])):
            first = np.arange(axis.count) * axis.stride - axis.before
            inside.append(np.minimum(first + axis.size, n) - np.maximum(first, 0))
        return env.xp.asarray(1 / np.multiply.outer(*inside)[..., None], dtype)


@register
class AvgPool(_Averaging):
    """The mean of each window."""

    ksize: tuple[int, int]
    strides: tuple[int, int]
    padding: str

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(self.pooled(specs[0]), specs[0].dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, x, out = env.xp, ins[0], outs[0]
        weights = self.weights(env, x.shape, x.dtype)

        def work(examples: slice, padded: Array, entries: list[Any]) -> list[Kernel]:
            mean = out[examples]
            calls: list[Kernel] = [partial(xp.copyto, mean, entries[0][1](padded))]
            calls += [partial(xp.add, mean, under(padded), mean) for _, under in entries[1:]]
            return [*calls, partial(xp.multiply, mean, weights, mean)]

        return self.by_stacks(env, x, 0, work)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return self.pool(code, "avg_pool", ins[0], ins[0], outs[0])

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [apply(AvgPoolGrad(self.ksize, self.strides, self.padding), dy, node.inputs[0])]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), x) for how, x, _ in (*_EXAMPLES, _GAPS)]


@register
class AvgPoolGrad(_Averaging):
    """dy spread evenly over each window; the second input has the images' shape."""

    ksize: tuple[int, int]
    strides: tuple[int, int]
    padding: str
    shape_only = (1,)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        dy, x = specs
        self.check(dy, x)
        return [Spec(x.shape, dy.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        dy, dx = ins[0], outs[0]
        weights = self.weights(env, dx.shape, dx.dtype)

        def flow(examples: slice, entry: int, out: Array) -> list[Kernel]:
            return [partial(env.xp.multiply, dy[examples], weights, out)]

        return self.scatter(env, dx, flow)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        return self.pool(code, "avg_pool_grad", outs[0], ins[0], outs[0])

    def grad(self, node: Operation, g: Tensor) -> Sequence[Tensor | None]:
        return [apply(AvgPool(self.ksize, self.strides, self.padding), g), None]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), y, x) for how, x, y in (*_EXAMPLES, _GAPS)]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def max_pool(
    value: Any,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str = "NHWC",
    name: str | None = None,
) -> Tensor:
    """The largest entry of each window of images.

    Padding is never the largest. Among equal entries the gradient goes to the first.

    Args:
        value: images [n, height, width, channels].
        ksize: size of the window: [1, down, across, 1], or one or two ints.
        strides: distance of the windows, given as ksize is.
        padding: SAME or VALID, as for conv2d.
        data_format: NHWC, or NCHW for [n, channels, height, width].
        name: name of the operation.

    Returns:
        Tensor: [n, height', width', channels].

    Raises:
        GraphError: no window fits, or an argument is none of these.

    Example:
        >>> dt.nn.max_pool(dt.zeros([8, 28, 28, 32]), 2, 2, "SAME").shape.as_list()
        [8, 14, 14, 32]
    """
    if data_format == "NCHW":
        moved = channels_last(ksize), channels_last(strides), padding, "NHWC", name
        return transpose(max_pool(transpose(value, [0, 2, 3, 1]), *moved), [0, 3, 1, 2])
    return apply(MaxPool(*_how(ksize, strides, padding, data_format)), value, name=name)


def avg_pool(
    value: Any,
    ksize: Any,
    strides: Any,
    padding: Any,
    data_format: str = "NHWC",
    name: str | None = None,
) -> Tensor:
    """The mean of each window of images, padding not counted.

    Args:
        value: floating images [n, height, width, channels].
        ksize: size of the window: [1, down, across, 1], or one or two ints.
        strides: distance of the windows, given as ksize is.
        padding: SAME or VALID, as for conv2d.
        data_format: NHWC, or NCHW for [n, channels, height, width].
        name: name of the operation.

    Returns:
        Tensor: [n, height', width', channels].

    Raises:
        GraphError: no window fits, or an argument is none of these.
    """
    if data_format == "NCHW":
        moved = channels_last(ksize), channels_last(strides), padding, "NHWC", name
        return transpose(avg_pool(transpose(value, [0, 2, 3, 1]), *moved), [0, 3, 1, 2])
    return apply(AvgPool(*_how(ksize, strides, padding, data_format)), value, name=name)


def _how(
    ksize: Any, strides: Any, padding: Any, data_format: str | None
) -> tuple[tuple[int, int], tuple[int, int], str]:
    return two(ksize, "ksize", data_format), two(strides, "strides", data_format), padding_of(padding)
