"""What each kind of op is in ONNX, said once: elementwise ops by number, the others by a function each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from dtrain.export.frozen import COUNTS, Both
from dtrain.graph.dtypes import DType, as_dtype
from dtrain.graph.graph import Spec, Tensor
from dtrain.graph.shape import normalize_axes
from dtrain.ops import (
    array,
    conv,
    functions,
    index,
    join,
    linalg,
    logic,
    math,
    nn,
    pool,
    reduce,
    slicing,
    topk,
)
from dtrain.ops.base import Const, Feed, Op
from dtrain.ops.elementwise import Elementwise

#: Where nodes are added: see file.Writer.
Writer = Any
Sizes = Sequence[int]


class NoForm(Exception):
    """Why a node has none."""


# -- element by element ----------------------------------------------------------------------------------
def _of(*steps: tuple[Any, ...]) -> Callable[..., str]:
    """A form of several nodes: each (op, argument, ...), an argument being the number of an input or of an
    earlier step's result after them, or a constant in a list of one number."""

    def form(w: Writer, kind: Any, dtypes: Sequence[DType], *names: str) -> str:
        values = list(names)
        for op, *args in steps:
            read = [
                w.constant(np.array(a[0], dtypes[-1].numpy)) if isinstance(a, list) else values[a]
                for a in args
            ]
            values.append(w.add(op, *read))
        return values[-1]

    return form


def _cast(w: Writer, kind: math.Cast, dtypes: Sequence[DType], x: str) -> str:
    return w.cast(x, kind.to.numpy)


def _floor_div(w: Writer, kind: Any, dtypes: Sequence[DType], x: str, y: str) -> str:
    if dtypes[0].is_floating:
        return w.add("Floor", w.add("Div", x, y))
    return w.add("Div", w.add("Sub", x, w.add("Mod", x, y)), y)


def _floor_mod(w: Writer, kind: Any, dtypes: Sequence[DType], x: str, y: str) -> str:
    if not dtypes[0].is_floating:
        return w.add("Mod", x, y)
    return w.add("Sub", x, w.add("Mul", w.add("Floor", w.add("Div", x, y)), y))


def _elu(w: Writer, kind: nn.Elu, dtypes: Sequence[DType], x: str) -> str:
    if kind.scale == 1:
        return w.add("Elu", x, alpha=kind.alpha)
    return w.add("Selu", x, alpha=kind.alpha, gamma=kind.scale)


#: An op of ONNX that is the same, or a function (writer, kind, the inputs' dtypes, the inputs' names). What
#: is not here and has a rule (see ops/elementwise.py) is written as its rule.
ELEMENTWISE: dict[type[Op], str | Callable[..., str]] = {
    **{
        getattr(module, name): name
        for module, names in (
            (math, "Abs Add Equal Exp Greater Less Log Mul Neg Pow Reciprocal Sigmoid Sign Sqrt Sub Tanh"),
            (functions, "Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Floor Sin Sinh Tan"),
            (nn, "Relu Softplus Softsign"),
        )
        for name in names.split()
    },
    functions.Rint: "Round",
    functions.Expm1: _of(("Exp", 0), ("Sub", 1, [1])),
    functions.Log1p: _of(("Add", 0, [1]), ("Log", 1)),
    math.RealDiv: "Div",
    math.Maximum: "Max",
    math.Minimum: "Min",
    math.GreaterEqual: "GreaterOrEqual",
    math.LessEqual: "LessOrEqual",
    math.NotEqual: _of(("Equal", 0, 1), ("Not", 2)),
    math.Square: _of(("Mul", 0, 0)),
    math.Rsqrt: _of(("Sqrt", 0), ("Reciprocal", 1)),
    math.Cast: _cast,
    math.FloorDiv: _floor_div,
    math.FloorMod: _floor_mod,
    logic.LogicalAnd: "And",
    logic.LogicalOr: "Or",
    logic.LogicalXor: "Xor",
    logic.LogicalNot: "Not",
    logic.IsNan: "IsNaN",
    logic.IsInf: "IsInf",
    logic.IsFinite: _of(("IsNaN", 0), ("IsInf", 0), ("Or", 1, 2), ("Not", 3)),
    logic.Select: "Where",
    logic.Gate: _of(("Where", 0, 1, [0])),
    nn.Elu: _elu,
    nn.LeakyRelu: lambda w, kind, dtypes, x: w.add("LeakyRelu", x, alpha=kind.alpha),
}


def elementwise(w: Writer, kind: Elementwise, dtypes: Sequence[DType], names: Sequence[str]) -> str:
    """Write one; raises NoForm where it has none."""
    form = ELEMENTWISE.get(type(kind))
    if isinstance(form, str):
        return w.add(form, *names)
    if form is not None:
        return form(w, kind, dtypes, *names)
    rule = kind.traced(dtypes)
    if rule is None:
        raise NoForm("ONNX has no such op")
    values = [*names, *map(w.constant, rule.constants)]
    types = [*dtypes, *(as_dtype(c.dtype) for c in rule.constants)]
    for op, args in rule.body:
        read = [types[i] for i in args]
        assert isinstance(op, Elementwise)
        values.append(elementwise(w, op, read, [values[i] for i in args]))
        types.append(op.infer(*(Spec((), t) for t in read))[0].dtype)
    return values[rule.results[0]]


# -- the others ------------------------------------------------------------------------------------------
#: A function of (writer, both nodes, the inputs' names) that gives the name of the output, or those of all.
FORMS: dict[type[Op], Callable[..., Any]] = {}
#: Kinds whose attributes may differ with the number of examples.
SIZED: set[type[Op]] = {Const, Feed, array.Reshape, array.Fill, array.BroadcastTo}


def form(*kinds: type[Op]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        FORMS.update(dict.fromkeys(kinds, function))
        return function

    return enter


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tensor.spec.shape  # type: ignore[return-value]  # known in a plan


def _inner(node: Both, i: int = 0) -> tuple[int, ...]:
    """The shape of an input, of which all but the first size may not depend on the number of examples."""
    a, b = _shape(node.a.inputs[i]), _shape(node.b.inputs[i])
    if a[1:] != b[1:]:
        raise NoForm("its sizes depend on the number of examples")
    return a


def _sizes(w: Writer, a: Sizes, b: Sizes) -> str:
    """A shape as a tensor: where the two differ, a multiple of the number of examples."""
    if tuple(a) == tuple(b):
        return w.ints(a)
    return w.add(
        "Concat", *(w.ints([m]) if m == n else _multiple(w, m, n) for m, n in zip(a, b, strict=True)), axis=0
    )


def _multiple(w: Writer, a: int, b: int) -> str:
    times, rest = divmod(a, COUNTS[0])
    if rest or times * COUNTS[1] != b:
        raise NoForm("its sizes depend on the number of examples")
    return w.add("Mul", w.batch(), w.ints([times]))


@form(Const)
def _const(w: Writer, node: Both) -> str:
    a, b = node.kind.value.array, cast(Const, node.b.kind).value.array
    if a.shape == b.shape and a.tobytes() == b.tobytes():
        return w.constant(a, node.a.name)
    if a.shape == b.shape and a.dtype.kind in "fiu":  # a multiple of the number of examples, or a part of 1
        batch = w.cast(w.batch(), a.dtype) if a.ndim else w.cast(w.add("Squeeze", w.batch()), a.dtype)
        if np.allclose(a / COUNTS[0], b / COUNTS[1], rtol=1e-6, atol=0):
            return w.add("Mul", batch, w.constant((a / COUNTS[0]).astype(a.dtype)))
        if a.dtype.kind == "f" and np.allclose(a * COUNTS[0], b * COUNTS[1], rtol=1e-6, atol=0):
            return w.add("Div", w.constant((a * COUNTS[0]).astype(a.dtype)), batch)
    raise NoForm("its value depends on the number of examples")


@form(array.Fill)
def _fill(w: Writer, node: Both) -> str:
    kind, other = node.kind, cast(Any, node.b.kind)
    return w.add(
        "Expand", w.constant(np.array(kind.value, kind.dtype.numpy)), _sizes(w, kind.shape, other.shape)
    )


@form(array.Reshape)
def _reshape(w: Writer, node: Both, x: str) -> str:
    a, b = node.kind.shape, cast(Any, node.b.kind).shape
    differ = [i for i, (m, n) in enumerate(zip(a, b, strict=True)) if m != n]
    if 0 in a:
        raise NoForm("it makes an empty tensor")
    if len(differ) > 1:
        return w.add("Reshape", x, _sizes(w, a, b))
    return w.add("Reshape", x, w.ints([-1 if i in differ else n for i, n in enumerate(a)]))


@form(array.ExpandDims)
def _expand_dims(w: Writer, node: Both, x: str) -> str:
    return w.add("Unsqueeze", x, w.ints([node.kind.axis % len(_shape(node.a.outputs[0]))]))


@form(array.Squeeze)
def _squeeze(w: Writer, node: Both, x: str) -> str:
    shape, axes = _inner(node), node.kind.axes
    gone = [i for i, n in enumerate(shape) if n == 1] if axes is None else [i % len(shape) for i in axes]
    return w.add("Squeeze", x, w.ints(gone))


@form(array.Transpose)
def _transpose(w: Writer, node: Both, x: str) -> str:
    return w.add("Transpose", x, perm=node.kind.perm)


@form(array.Identity, array.StopGradient)
def _identity(w: Writer, node: Both, x: str) -> str:
    return x


@form(array.BroadcastTo)
def _broadcast_to(w: Writer, node: Both, x: str) -> str:
    return w.add("Expand", x, _sizes(w, _shape(node.a.outputs[0]), _shape(node.b.outputs[0])))


@form(array.BroadcastLike)
def _broadcast_like(w: Writer, node: Both, x: str, like: str) -> str:
    axes = node.kind.axes
    if not node.kind.keepdims and axes:
        x = w.add("Unsqueeze", x, w.ints([axis % len(_shape(node.a.inputs[1])) for axis in axes]))
    return w.add("Expand", x, _sizes(w, _shape(node.a.outputs[0]), _shape(node.b.outputs[0])))


@form(linalg.MatMul)
def _matmul(w: Writer, node: Both, x: str, y: str) -> str:
    kind = node.kind
    if kind.transpose_a or kind.transpose_b:
        return w.add("Gemm", x, y, transA=int(kind.transpose_a), transB=int(kind.transpose_b))
    return w.add("MatMul", x, y)


@form(linalg.BatchMatMul)
def _batch_matmul(w: Writer, node: Both, *names: str) -> str:
    kind, read = node.kind, list(names)
    for i, turned in enumerate((kind.transpose_a, kind.transpose_b)):
        if turned:
            axes = [*range(len(_shape(node.a.inputs[i])))]
            read[i] = w.add("Transpose", read[i], perm=[*axes[:-2], axes[-1], axes[-2]])
    return w.add("MatMul", *read)


#: Images and filters are [n, h, w, c] and [h, w, in, out] here, and [n, c, h, w] and [out, in, h, w] in ONNX.
TO_ONNX, FROM_ONNX = (0, 3, 1, 2), (0, 2, 3, 1)


def _windows(axes: Sequence[Any]) -> dict[str, Any]:
    down, across = axes
    return {
        "kernel_shape": [down.size, across.size],
        "strides": [down.stride, across.stride],
        "pads": [down.before, across.before, down.after, across.after],
    }


@form(conv.Conv2D)
def _conv(w: Writer, node: Both, x: str, f: str) -> str:
    kind = node.kind
    how = _windows(kind.axes(_inner(node), _shape(node.a.inputs[1])))
    y = w.add("Conv", w.turned(x, TO_ONNX), w.turned(f, (3, 2, 0, 1)), **how, dilations=kind.dilations)
    return w.turned(y, FROM_ONNX)


@form(conv.Conv2DBackpropInput)
def _conv_transpose(w: Writer, node: Both, dy: str, f: str, like: str) -> str:
    kind, small = node.kind, _inner(node)
    axes = kind.axes(_inner(node, 2), _shape(node.a.inputs[1]))
    more = [
        size - (axis.stride * (n - 1) + (axis.size - 1) * axis.dilation + 1 - axis.before - axis.after)
        for axis, size, n in zip(axes, _shape(node.a.inputs[2])[1:3], small[1:3], strict=True)
    ]
    how = _windows(axes) | {"output_padding": more, "dilations": kind.dilations}
    y = w.add("ConvTranspose", w.turned(dy, TO_ONNX), w.turned(f, (3, 2, 0, 1)), **how)
    return w.turned(y, FROM_ONNX)


@form(pool.MaxPool)
def _max_pool(w: Writer, node: Both, x: str) -> list[str]:
    y = w.add("MaxPool", w.turned(x, TO_ONNX), **_windows(node.kind.axes(_inner(node))))
    return [w.turned(y, FROM_ONNX)]  # without the positions, which gradients read


@form(pool.AvgPool)
def _avg_pool(w: Writer, node: Both, x: str) -> str:
    windows = _windows(node.kind.axes(_inner(node)))
    y = w.add("AveragePool", w.turned(x, TO_ONNX), **windows, count_include_pad=0)
    return w.turned(y, FROM_ONNX)


def _axes(node: Both) -> list[int]:
    return sorted(normalize_axes(node.kind.axes, len(_shape(node.a.inputs[0])), "") or ())


@form(reduce.Sum)
def _sum(w: Writer, node: Both, x: str) -> str:
    if not (axes := _axes(node)):
        return x
    return w.add("ReduceSum", x, w.ints(axes), keepdims=int(node.kind.keepdims))


@form(reduce.Max, reduce.Min, reduce.Prod)
def _extremum(w: Writer, node: Both, x: str) -> str:
    if not (axes := _axes(node)):
        return x
    return w.add(f"Reduce{type(node.kind).__name__}", x, axes=axes, keepdims=int(node.kind.keepdims))


@form(reduce.All, reduce.Any)
def _truth(w: Writer, node: Both, x: str) -> str:
    if not (axes := _axes(node)):
        return x
    op = "ReduceMin" if isinstance(node.kind, reduce.All) else "ReduceMax"
    y = w.add(op, w.cast(x, np.dtype(np.int32)), axes=axes, keepdims=int(node.kind.keepdims))
    return w.cast(y, np.dtype(bool))


@form(reduce.ArgMax, reduce.ArgMin)
def _arg(w: Writer, node: Both, x: str) -> str:
    return w.add(type(node.kind).__name__, x, axis=node.kind.axis, keepdims=0)


@form(reduce.Cumsum)
def _cumsum(w: Writer, node: Both, x: str) -> str:
    kind = node.kind
    axis = w.constant(np.array(kind.axis, np.int64))
    return w.add("CumSum", x, axis, exclusive=int(kind.exclusive), reverse=int(kind.reverse))


@form(nn.Softmax, nn.LogSoftmax)
def _softmax(w: Writer, node: Both, x: str) -> str:
    return w.add(type(node.kind).__name__, x, axis=-1)


@form(index.Gather)
def _gather(w: Writer, node: Both, x: str, indices: str) -> str:
    wide = node.a.inputs[1].dtype.name in ("int32", "int64")
    return w.add("Gather", x, indices if wide else w.cast(indices, np.dtype(np.int64)), axis=node.kind.axis)


@form(index.FlatIndex)
def _flat_index(w: Writer, node: Both, positions: str) -> str:
    steps = np.cumprod([1, *node.kind.shape[:0:-1]], dtype=np.int64)[::-1]
    scaled = w.add("Mul", w.cast(positions, np.dtype(np.int64)), w.constant(steps.copy()))
    return w.add("ReduceSum", scaled, w.ints([-1]), keepdims=0)


@form(join.Concat)
def _concat(w: Writer, node: Both, *names: str) -> str:
    return w.add("Concat", *names, axis=node.kind.axis)


@form(join.Split)
def _split(w: Writer, node: Both, x: str) -> list[str]:
    axis = node.kind.axis
    a, b = ([_shape(t)[axis] for t in n.outputs] for n in node)
    if a != b:
        raise NoForm("it splits the examples")
    return w.several("Split", len(a), x, w.ints(a), axis=axis)


@form(join.Tile)
def _tile(w: Writer, node: Both, x: str) -> str:
    return w.add("Tile", x, w.ints(node.kind.multiples))


@form(join.Pad)
def _pad(w: Writer, node: Both, x: str) -> str:
    kind, dtype = node.kind, node.a.inputs[0].dtype.numpy
    before, behind = zip(*kind.paddings, strict=True) if kind.paddings else ((), ())
    return w.add("Pad", x, w.ints([*before, *behind]), w.constant(np.array(kind.value, dtype)))


@form(join.Unpad)
def _unpad(w: Writer, node: Both, x: str) -> str:
    spans = [(i, a, -b if b else _END) for i, (a, b) in enumerate(node.kind.paddings) if a or b]
    return _slice(w, x, [(axis, begin, end, 1) for axis, begin, end in spans])


#: As far as there is something.
_END = 2**31 - 1


def _slice(w: Writer, x: str, spans: Sequence[tuple[int, int, int, int]]) -> str:
    """The entries (axis, begin, end, step) of x."""
    if not spans:
        return x
    axes, begins, ends, steps = zip(*spans, strict=True)
    return w.add("Slice", x, *(w.ints(values) for values in (begins, ends, axes, steps)))


@form(slicing.StridedSlice)
def _strided_slice(w: Writer, node: Both, x: str) -> str:
    spans, gone, new, axis, place = [], [], [], 0, 0
    for entry in slicing.written_out(node.kind.entries, len(_shape(node.a.inputs[0]))):
        if entry is None:
            new.append(place)
        elif isinstance(entry, int):
            spans.append((axis, entry, entry + 1 if entry != -1 else _END, 1))
            gone.append(axis)
        elif not entry.is_whole:
            part = entry.index()
            step = 1 if part.step is None else part.step
            begin = (0 if step > 0 else _END) if part.start is None else part.start
            end = (_END if step > 0 else -_END) if part.stop is None else part.stop
            spans.append((axis, begin, end, step))
        axis += entry is not None
        place += not isinstance(entry, int)
    y = _slice(w, x, spans)
    y = w.add("Squeeze", y, w.ints(gone)) if gone else y
    return w.add("Unsqueeze", y, w.ints(new)) if new else y


@form(topk.TopK)
def _top_k(w: Writer, node: Both, x: str) -> list[str]:
    values, indices = w.several("TopK", 2, x, w.ints([node.kind.k]))
    return [values, w.cast(indices, np.dtype(np.int32))]
