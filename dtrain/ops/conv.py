"""Two-dimensional convolution, and its two gradients, which are convolutions again.

Each is a few large matrix products over a column matrix (the windows of the images, written out as rows), in
pieces that stay in the cache: next to the products, writing out the windows costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import Dims, as_static, compatible, shape_text, size_of
from dtrain.ops.array import transpose, zeros
from dtrain.ops.base import (
    MATRIX,
    Array,
    Env,
    Example,
    Kernel,
    Op,
    Placed,
    apply,
    convert_to_tensor,
    in_order,
    in_turn,
    plain,
    register,
)
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded
from dtrain.ops.window import (
    Axis,
    Padded,
    channels_last,
    columns_of,
    contiguous,
    each_entry,
    images,
    padding_of,
    place_windows,
    stacks,
    two,
    window_count,
)


class _Convolution(Op):
    """What the three have in common: x [n, h, w, in], filter [kh, kw, in, out], y [n, oh, ow, out]."""

    strides: tuple[int, int]
    padding: str
    dilations: tuple[int, int]
    category = MATRIX

    def check(self, x: Spec, f: Spec, y: Spec | None = None) -> Dims:
        """The shape of y; raises GraphError where the three do not fit."""
        for spec in (f, y):
            if spec is not None and spec.dtype != x.dtype:
                raise GraphError(f"dtypes {x.dtype.name} and {spec.dtype.name} differ; cast one of them")
        if not x.dtype.is_floating:
            raise GraphError(f"it is not defined on {x.dtype.name}; cast it")
        n, height, width, channels = images(x.shape, "the images")
        kh, kw, inputs, outputs = images(f.shape, "the filter")
        if channels is not None and inputs is not None and channels != inputs:
            raise GraphError(
                f"the images {shape_text(x.shape)} have {channels} channels, but the filter "
                f"{shape_text(f.shape)} is for {inputs}"
            )
        shape = (
            n,
            window_count(height, kh, self.strides[0], self.dilations[0], self.padding),
            window_count(width, kw, self.strides[1], self.dilations[1], self.padding),
            outputs,
        )
        if y is not None and not compatible(shape, y.shape):
            raise GraphError(
                f"a convolution of {shape_text(x.shape)} by {shape_text(f.shape)} is {shape_text(shape)}, "
                f"not {shape_text(y.shape)}"
            )
        return shape

    def flops(self, ins: Sequence[Spec], outs: Sequence[Spec]) -> int:
        filter, y = self.filter_and_result(ins[0].shape, ins[1].shape, outs[0].shape)
        return 2 * size_of(y) * size_of(as_static(filter)[:3])

    def filter_and_result(self, a: Dims, b: Dims, out: Dims) -> tuple[Dims, Dims]:
        """The shapes of the filter and of y, which are among those of both inputs and the output."""
        raise NotImplementedError

    def axes(self, x: tuple[int, ...], f: tuple[int, ...]) -> tuple[Axis, Axis]:
        """How the windows of a filter of shape f lie on images of shape x."""
        down, across = (
            place_windows(x[1 + i], f[i], self.strides[i], self.dilations[i], self.padding) for i in (0, 1)
        )
        return down, across

    def like(self, kind: type[Any], *inputs: Tensor) -> Tensor:
        """Another of the three, over the same windows."""
        return apply(kind(self.strides, self.padding, self.dilations), *inputs)


#: Strides, padding, dilations; shapes of images, filter and result: one of each kind for the op tests.
_EXAMPLES = (
    (((1, 1), "SAME", (1, 1)), (2, 4, 3, 2), (3, 2, 2, 3), (2, 4, 3, 3)),
    (((2, 3), "VALID", (1, 1)), (3, 5, 6, 1), (2, 3, 1, 2), (3, 2, 2, 2)),
)
_DILATED = (((1, 1), "SAME", (2, 1)), (2, 4, 3, 1), (2, 3, 1, 2), (2, 4, 3, 2))


@register
class Conv2D(_Convolution):
    """y[n, i, j, o]: the sum over a, b, c of filter[a, b, c, o] * x[n, i*stride + a*dilation, ..., c]."""

    strides: tuple[int, int]
    padding: str
    dilations: tuple[int, int]

    def filter_and_result(self, a: Dims, b: Dims, out: Dims) -> tuple[Dims, Dims]:
        return b, out

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(self.check(*specs), specs[0].dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        (x, f), y = ins, outs[0]
        return in_turn(_products(env, x, f, *self.axes(x.shape, f.shape), y))

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (x, f), y = ins, outs[0]
        axes = self.axes(x.shape, f.shape)
        windows = code.windows(x.shape, x.dtype, *axes)
        made = windows.convolve(x, f, y) if windows and plain(x, f) else None
        return _chains(code, x, f, *axes, y) if made is None and code.bitwise is not None else made

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x, f = node.inputs
        return [self.like(Conv2DBackpropInput, dy, f, x), self.like(Conv2DBackpropFilter, x, dy, f)]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if placements[0] == Sharded(0):
            return [Sharded(0), REPLICATED], Sharded(0)
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), x, f) for how, x, f, _ in (*_EXAMPLES, _DILATED)]


@register
class Conv2DBackpropInput(_Convolution):
    """The gradient to the images, of dy and the filter; the third input has the images' shape."""

    strides: tuple[int, int]
    padding: str
    dilations: tuple[int, int]
    shape_only = (2,)

    def filter_and_result(self, a: Dims, b: Dims, out: Dims) -> tuple[Dims, Dims]:
        return b, a

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        dy, f, x = specs
        self.check(x, f, dy)
        return [x]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        (dy, f, _), dx = ins, outs[0]
        down, across = self.axes(dx.shape, f.shape)
        if self.strides == (1, 1):  # a convolution of dy with the filter turned round
            turned = env.xp.empty((*f.shape[:2], f.shape[3], f.shape[2]), f.dtype)
            turn = partial(env.xp.copyto, turned, f[::-1, ::-1].transpose(0, 1, 3, 2))
            axes = down.turned(dx.shape[1]), across.turned(dx.shape[2])
            return in_turn([turn, *_products(env, dy, turned, *axes, dx)])
        return in_turn(_scattered_products(env, dy, f, down, across, dx))

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (dy, f, _), dx = ins, outs[0]
        axes = self.axes(dx.shape, f.shape)
        windows = code.windows(dx.shape, dx.dtype, *axes)
        made = windows.to_images(dy, f, dx) if windows and plain(dy, f) else None
        return (
            _chains_to_images(code, dy, f, *axes, dx) if made is None and code.bitwise is not None else made
        )

    def grad(self, node: Operation, g: Tensor) -> Sequence[Tensor | None]:
        dy, f, _ = node.inputs
        return [self.like(Conv2D, g, f), self.like(Conv2DBackpropFilter, g, dy, f), None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if placements[0] == Sharded(0):
            return [Sharded(0), REPLICATED, placements[2]], Sharded(0)
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), y, f, x) for how, x, f, y in _EXAMPLES]


@register
class Conv2DBackpropFilter(_Convolution):
    """The gradient to the filter, of the images and dy; the third input has the filter's shape."""

    strides: tuple[int, int]
    padding: str
    dilations: tuple[int, int]
    shape_only = (2,)

    def filter_and_result(self, a: Dims, b: Dims, out: Dims) -> tuple[Dims, Dims]:
        return out, b

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        x, dy, f = specs
        self.check(x, f, dy)
        return [f]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        (x, dy, _), df = ins, outs[0]
        xp, calls = env.xp, list[Kernel]()
        dy = contiguous(env, dy, calls)
        total = df.reshape(-1, df.shape[3])
        pieces = columns_of(env, x, *self.axes(x.shape, df.shape))
        term = env.scratch(total.shape, total.dtype) if len(pieces) > 1 else None
        if not pieces:
            calls.append(partial(df.fill, 0))
        for k, piece in enumerate(pieces):
            flows = dy[piece.examples, piece.rows].reshape(-1, df.shape[3])
            calls += piece.calls
            calls.append(partial(xp.matmul, piece.matrix.T, flows, term if k else total))
            if k:
                calls.append(partial(xp.add, total, term, total))
        return in_turn(calls)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        (x, dy, _), df = ins, outs[0]
        axes = self.axes(x.shape, df.shape)
        windows = code.windows(x.shape, x.dtype, *axes)
        made = windows.to_filter(x, dy, df) if windows and plain(x, dy) else None
        return (
            _chains_to_filter(code, x, dy, *axes, df) if made is None and code.bitwise is not None else made
        )

    def grad(self, node: Operation, g: Tensor) -> Sequence[Tensor | None]:
        x, dy, _ = node.inputs
        return [self.like(Conv2DBackpropInput, dy, g, x), self.like(Conv2D, x, g), None]

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if Sharded(0) in placements[:2]:
            return [Sharded(0), Sharded(0), placements[2]], PARTIAL
        return None

    def place_parts(self, node: Operation, ranks: int) -> Placed:
        channels, results = (t.spec.shape[3] for t in node.inputs[:2])  # type: ignore[index]
        if channels >= ranks:  # type: ignore[operator]
            return [Sharded(3), REPLICATED, REPLICATED], Sharded(2)
        return ([REPLICATED, Sharded(3), REPLICATED], Sharded(3)) if results >= ranks else None  # type: ignore[operator]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(*how), x, y, f) for how, x, f, y in _EXAMPLES]


def _products(env: Env, x: Array, f: Array, down: Axis, across: Axis, y: Array) -> list[Kernel]:
    """Calls that convolve: the column matrix times the filter as a matrix."""
    calls: list[Kernel] = []
    matrix = contiguous(env, f, calls).reshape(-1, f.shape[3])
    for piece in columns_of(env, x, down, across):
        out = y[piece.examples, piece.rows].reshape(-1, f.shape[3])
        calls += piece.calls
        calls.append(partial(env.xp.matmul, piece.matrix, matrix, out))
    return calls


def _scattered_products(env: Env, dy: Array, f: Array, down: Axis, across: Axis, dx: Array) -> list[Kernel]:
    """Calls that add, to the input under each entry of the filter, dy times that entry; for any stride."""
    xp, calls = env.xp, list[Kernel]()
    dy = contiguous(env, dy, calls)
    f = contiguous(env, f, calls)
    results = down.count * across.count
    parts = list(stacks(len(dx), results * f.shape[2] * dx.dtype.itemsize))
    stack = parts[0].stop if parts else 0
    padded = Padded(env, dx, stack, down, across, 0) if down.padded or across.padded else None
    memory = env.scratch((stack * results, f.shape[2]), dx.dtype)
    for examples in parts:
        count = examples.stop - examples.start
        flows = dy[examples].reshape(count * results, f.shape[3])
        term = memory[: count * results]
        target = dx[examples] if padded is None else padded.array[:count]
        calls.append(partial(target.fill, 0))
        for i, j, under in each_entry(down, across):
            calls.append(partial(xp.matmul, flows, f[i, j].T, term))
            place = under(target)
            calls.append(partial(xp.add, place, term.reshape(place.shape), place))
        if padded is not None:
            calls.append(partial(xp.copyto, dx[examples], padded.inside[:count]))
    return calls


# -- in C, where the bits are to be those of any number of ranks ----------------------------------------
def _chains(code: Any, x: Array, f: Array, down: Axis, across: Axis, y: Array) -> Any:
    """Calls that convolve as _products does, each result being a sum over its window from first to last."""
    if not plain(x, f):
        return None
    matrix, calls = f.reshape(-1, f.shape[3]), []
    for piece in columns_of(code.bitwise, x, down, across, partial(_moved, code)):
        out = y[piece.examples, piece.rows].reshape(-1, f.shape[3])
        calls += [*piece.calls, code.chain(piece.matrix, matrix, out)]
    return in_order(*calls)


def _chains_to_images(code: Any, dy: Array, f: Array, down: Axis, across: Axis, dx: Array) -> Any:
    """Calls that convolve dy, zeros between its entries where windows are apart, by the filter turned."""
    if not plain(dy, f):
        return None
    env, calls = code.bitwise, []
    turned = env.xp.empty((*f.shape[:2], f.shape[3], f.shape[2]), f.dtype)
    calls.append(code.move(turned, f[::-1, ::-1].transpose(0, 1, 3, 2)))
    spread = [(axis.count - 1) * axis.stride + 1 for axis in (down, across)]
    if (down.stride, across.stride) != (1, 1):
        apart = env.xp.zeros((len(dy), *spread, dy.shape[3]), dy.dtype)
        calls.append(code.move(apart[:, :: down.stride, :: across.stride], dy))
        dy = apart
    axes = [
        axis._replace(count=count, stride=1).turned(entries)
        for axis, count, entries in zip((down, across), spread, dx.shape[1:3], strict=True)
    ]
    return in_order(*calls, _chains(code, dy, turned, axes[0], axes[1], dx))


def _chains_to_filter(code: Any, x: Array, dy: Array, down: Axis, across: Axis, df: Array) -> Any:
    """Calls that make each entry of the filter's gradient a sum over all windows from first to last."""
    if not plain(x, dy):
        return None
    total, calls = df.reshape(-1, df.shape[3]), []
    for k, piece in enumerate(columns_of(code.bitwise, x, down, across, partial(_moved, code))):
        flows = dy[piece.examples, piece.rows].reshape(-1, df.shape[3])
        calls += [*piece.calls, code.chain(piece.matrix, flows, total, across_a=True, more=k > 0)]
    return in_order(*calls) if calls else code.move(df, 0.0)


def _moved(code: Any, out: Array, x: Array) -> list[Any]:
    return [code.move(out, x)]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def conv2d(
    input: Any,
    filter: Any = None,
    strides: Any = None,
    padding: Any = None,
    use_cudnn_on_gpu: bool = True,
    data_format: str = "NHWC",
    dilations: Any = (1, 1, 1, 1),
    name: str | None = None,
    filters: Any = None,
) -> Tensor:
    """Convolution of images with a filter (a cross-correlation, as in TensorFlow).

    Args:
        input: floating images [n, height, width, in].
        filter: [height, width, in, out], of the same dtype.
        strides: [1, down, across, 1], or one or two ints.
        padding: SAME (output sizes are input sizes / strides, rounded up) or VALID (only whole windows).
        use_cudnn_on_gpu: accepted for TensorFlow 1; without effect.
        data_format: NHWC, or NCHW for [n, in, height, width], which is transposed before and after.
        dilations: distances between entries of the filter, given as strides are.
        filters: TensorFlow 2's name of filter.
        name: name of the operation.

    Returns:
        Tensor: [n, height', width', out], of the dtype of input.

    Raises:
        GraphError: shapes or dtypes do not fit, or padding or data_format is none of these.

    Example:
        >>> images, filters = dt.zeros([8, 28, 28, 1]), dt.zeros([5, 5, 1, 32])
        >>> dt.nn.conv2d(images, filters, [1, 2, 2, 1], "SAME").shape.as_list()
        [8, 14, 14, 32]
    """
    if data_format == "NCHW":
        moved = channels_last(strides), padding, True, "NHWC", channels_last(dilations), name
        return _as_nhwc(input, lambda x: conv2d(x, filter, *moved, filters=filters))
    kind = Conv2D(*_how(strides, padding, dilations, data_format))
    return apply(kind, input, filter if filters is None else filters, name=name)


def conv2d_backprop_input(
    input_sizes: Any,
    filter: Any = None,
    out_backprop: Any = None,
    strides: Any = None,
    padding: Any = None,
    use_cudnn_on_gpu: bool = True,
    data_format: str = "NHWC",
    dilations: Any = (1, 1, 1, 1),
    name: str | None = None,
) -> Tensor:
    """The gradient of conv2d with respect to its input.

    Args:
        input_sizes: the input's shape, [n, height, width, in].
        filter: [height, width, in, out].
        out_backprop: the gradient of the output of conv2d.
        strides, padding, data_format, dilations: as for conv2d.
        use_cudnn_on_gpu: accepted for TensorFlow 1; without effect.
        name: name of the operation.

    Returns:
        Tensor: of shape input_sizes.

    Raises:
        GraphError: the shapes do not fit.
    """
    kind = Conv2DBackpropInput(*_how(strides, padding, dilations, data_format))
    dy = convert_to_tensor(out_backprop)
    return apply(kind, dy, filter, _of_shape(input_sizes, dy), name=name)


def conv2d_backprop_filter(
    input: Any,
    filter_sizes: Any = None,
    out_backprop: Any = None,
    strides: Any = None,
    padding: Any = None,
    use_cudnn_on_gpu: bool = True,
    data_format: str = "NHWC",
    dilations: Any = (1, 1, 1, 1),
    name: str | None = None,
) -> Tensor:
    """The gradient of conv2d with respect to its filter.

    Args:
        input: images [n, height, width, in].
        filter_sizes: the filter's shape, ints [height, width, in, out].
        out_backprop: the gradient of the output of conv2d.
        strides, padding, data_format, dilations: as for conv2d.
        use_cudnn_on_gpu: accepted for TensorFlow 1; without effect.
        name: name of the operation.

    Returns:
        Tensor: of shape filter_sizes.

    Raises:
        GraphError: the shapes do not fit.
    """
    kind = Conv2DBackpropFilter(*_how(strides, padding, dilations, data_format))
    dy = convert_to_tensor(out_backprop)
    return apply(kind, input, dy, _of_shape(filter_sizes, dy), name=name)


def conv2d_transpose(
    value: Any,
    filter: Any,
    output_shape: Any,
    strides: Any,
    padding: Any = "SAME",
    data_format: str = "NHWC",
    name: str | None = None,
) -> Tensor:
    """The transpose (gradient) of conv2d, used to make images larger.

    Args:
        value: images [n, height, width, in].
        filter: [height, width, out, in].
        output_shape: [n, height', width', out], of which conv2d would make the shape of value.
        strides, padding, data_format: as for conv2d.
        name: name of the operation.

    Returns:
        Tensor: of shape output_shape.

    Raises:
        GraphError: the shapes do not fit.
    """
    if data_format == "NCHW":
        to, by = channels_last(_sizes(output_shape)), channels_last(strides)
        return _as_nhwc(value, lambda x: conv2d_transpose(x, filter, to, by, padding, name=name))
    return conv2d_backprop_input(
        output_shape,
        filter,
        value,
        strides,
        padding,
        data_format=data_format,
        name=name or "conv2d_transpose",
    )


def atrous_conv2d(value: Any, filters: Any, rate: int, padding: Any, name: str | None = None) -> Tensor:
    """Convolution at stride 1 with a dilated filter: its entries are `rate` apart.

    Args:
        value: images [n, height, width, in].
        filters: [height, width, in, out].
        rate: the dilation, an int >= 1.
        padding: SAME or VALID.
        name: name of the operation.

    Returns:
        Tensor: [n, height', width', out].

    Raises:
        GraphError: the shapes do not fit.
    """
    return conv2d(value, filters, 1, padding, dilations=rate, name=name or "atrous_conv2d")


def _as_nhwc(images: Any, op: Callable[[Tensor], Tensor]) -> Tensor:
    """op of images whose channels stand after the examples."""
    return transpose(op(transpose(images, [0, 2, 3, 1])), [0, 3, 1, 2])


def _sizes(shape: Any) -> Any:
    """A shape as a list of its sizes."""
    return [shape[i] for i in range(4)] if isinstance(shape, TensorLike) else shape


def _how(
    strides: Any, padding: Any, dilations: Any, data_format: str | None
) -> tuple[tuple[int, int], str, tuple[int, int]]:
    if strides is None:
        raise GraphError("strides are missing: [1, 1, 1, 1] moves the windows one by one")
    return two(strides, "strides", data_format), padding_of(padding), two(dilations, "dilations", data_format)


def _of_shape(sizes: Any, like: Tensor) -> Tensor:
    """A tensor that only stands for its shape: nothing of it is computed."""
    return zeros(sizes, like.dtype)
