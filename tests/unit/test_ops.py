"""Every op: what it computes, its gradient, its shapes, and that N ranks compute what one does.

The ops are found in REGISTRY, their inputs in their own examples(); a new op is tested once it is registered.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dtrain as dt
import dtrain.ops.arrays  # which only tf1 imports
import dtrain.ops.lend  # which only keras imports
import dtrain.ops.warp
from dtrain.comm import Communicator
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.graph import Spec
from dtrain.graph.shape import compatible
from dtrain.ops import host, proximal, sampling  # noqa: F401  # which load on first use
from dtrain.ops.base import REGISTRY, Example, Op, apply
from dtrain.ops.elementwise import Chosen, Elementwise
from dtrain.ops.evaluate import evaluate
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded, shard_bounds
from dtrain.passes import FeedSpec, compile_step
from dtrain.passes.order import schedule
from dtrain.runtime.backend import Backend
from dtrain.runtime.layout import PlanEnv
from dtrain.runtime.plan import Plan

few = settings(max_examples=25, derandomize=True, deadline=None)

#: Ops that make no sense on inputs alone, each with what tests it instead.
WITHOUT_EXAMPLES = {
    "Placeholder": "a feed: test_session",
    "Feed": "a feed: test_session",
    "VariableOp": "memory: test_session",
    "Assign": "writes a variable: test_session",
    "AssignAdd": "writes a variable: test_session",
    "AssignSub": "writes a variable: test_session",
    "BeginAllReduce": "communicates: tests/mpi/test_overlap",
    "Taken": "a feed: test_tf_data",
    "Start": "computes nothing: test_tf_data",
    "Put": "computes nothing: test_tf_data",
    "PythonOp": "is in no plan: test_tf_data, test_image",
    "NoOp": "computes nothing: test_session",
    "InitializedValue": "reads a variable: test_variables",
    "IsVariableInitialized": "reads no value: test_variables",
    "ReportUninitialized": "reads no value: test_variables",
    "ScalarSummary": "a record: test_summary",
    "HistogramSummary": "a record: test_summary",
    "ImageSummary": "a record: test_summary",
    "TextSummary": "a record: test_summary",
    "MergeSummary": "a record: test_summary",
    "Argument": "stands for a value: test_recurrent",
    "Cond": "holds other ops: test_recurrent",
    "Loop": "holds other ops: test_recurrent",
    "While": "holds other ops: test_recurrent",
    "ArrayNew": "a list: test_recurrent",
    "ArrayRead": "a list: test_recurrent",
    "ArraySize": "a list: test_recurrent",
    "ArrayWrite": "a list: test_recurrent",
    "SoMany": "a check: test_recurrent",
    "Late": "another op once its attributes are known: test_ops_array",
    "DropoutMask": "random: test_dropout",
    "RowUniform": "random: test_augment",
    "JoinedRows": "its rows are no input: test_cuda_together",
    "LentRows": "its rows are no input: test_keras_training",
    "MeanOfShard": "its value depends on the ranks: test_keras_layers",
    "RandomNormal": "random: test_session",
    "TruncatedNormal": "random: test_session",
    "RandomShuffle": "random: test_ops_array",
    "RandomUniform": "random: test_session",
    "RandomIntegers": "random: test_values",
    "AllReduce": "communication: test_passes",
    "AllGather": "communication: test_passes",
    "TakeShard": "communication: test_passes",
    "NodeBarrier": "communication: mpi/test_share",
    "SumTerms": "communication: mpi/test_share",
    "ProductBound": "of what is computed later: mpi/test_numerics",
    "RowsOfProduct": "reads other ranks' memory: mpi/test_share",
    "HasBad": "a verdict on gradients: mpi/test_numerics",
    "StopIfBad": "computes nothing: mpi/test_numerics",
    "ApplyGradientDescent": "writes variables: test_optimizers",
    "ApplyMomentum": "writes variables: test_optimizers",
    "ApplyAdam": "writes variables: test_optimizers",
    "ApplyAdagrad": "writes variables: test_adaptive_optimizers",
    "ApplyAdadelta": "writes variables: test_adaptive_optimizers",
    "ApplyRMSProp": "writes variables: test_adaptive_optimizers",
    "ApplyCenteredRMSProp": "writes variables: test_adaptive_optimizers",
    "ApplyAdaMax": "writes variables: test_adaptive_optimizers",
    "ApplyNadam": "writes variables: test_adaptive_optimizers",
    "ApplyScheduledNadam": "writes variables: test_keras_reference",
    "ApplyVelocity": "writes variables: test_keras_reference",
    "ApplyAdagradDA": "writes variables: test_reference_ops",
    "ApplyFtrl": "writes variables: test_reference_ops",
    "ApplyProximalAdagrad": "writes variables: test_reference_ops",
    "ApplyProximalGradientDescent": "writes variables: test_reference_ops",
    "HostCall": "a Python function: test_tf1_words",
    "SampleClasses": "random: test_tf1_words",
}

EXAMPLES = [
    pytest.param(example, id=f"{name}-{i}")
    for name, kind in sorted(REGISTRY.items())
    for i, example in enumerate(kind.examples())
]


def test_every_op_has_examples_or_a_reason_to_have_none() -> None:
    assert {name for name, kind in REGISTRY.items() if not kind.examples()} == set(WITHOUT_EXAMPLES)


def test_every_op_of_the_ops_folder_is_registered() -> None:
    kinds, todo = set(), [Op]
    while todo:
        subclasses = todo.pop().__subclasses__()
        kinds |= set(subclasses)
        todo += subclasses
    public = {k for k in kinds if not k.__name__.startswith("_") and k.__module__.startswith("dtrain.")}
    assert {k.__name__ for k in public} - {"Elementwise", "Chosen", "Move", "Subgraph"} == set(REGISTRY)


# -- trying one op ---------------------------------------------------------------------------------------
def inputs_of(example: Example, dtype: Any = np.float64) -> list[np.ndarray]:
    """Arrays for an example: random where it gives a shape."""
    generator = np.random.default_rng(7)
    arrays = []
    for given_ in example.inputs:
        array = generator.uniform(example.low, example.high, given_) if isinstance(given_, tuple) else given_
        array = np.asarray(array)
        arrays.append(array.astype(dtype) if array.dtype.kind == "f" else array)
    return arrays


def node_on(op: Op, arrays: Sequence[np.ndarray], shapes: Callable[[np.ndarray], Any] = np.shape) -> Any:
    """The op in the default graph on placeholders: (node, placeholders)."""
    feeds = [dt.placeholder(a.dtype, shapes(a)) for a in arrays]
    return apply(op, *feeds).op, feeds


def run(fetches: Any, feeds: Sequence[dt.Tensor] = (), arrays: Sequence[Any] = ()) -> Any:
    return dt.Session(comm=None).run(fetches, dict(zip(feeds, arrays, strict=True)))


def differences(
    function: Callable[[Sequence[np.ndarray]], float], arrays: Sequence[np.ndarray], at: int, h: float
) -> np.ndarray:
    """Central finite differences of a function of arrays to its at-th one."""
    result = np.zeros(arrays[at].shape)
    for index in np.ndindex(result.shape):
        values = []
        for step in (h, -h):
            moved = [a.copy() for a in arrays]
            moved[at][index] += step
            values.append(function(moved))
        result[index] = (values[0] - values[1]) / (2 * h)
    return result


def assert_gradients(
    ys: Sequence[dt.Tensor], feeds: Sequence[dt.Tensor], arrays: Sequence[np.ndarray], wrt: Sequence[int]
) -> list[dt.Tensor | None]:
    """Compare dt.gradients of random combinations of ys with finite differences; returns the gradients."""
    generator = np.random.default_rng(11)
    weights = [generator.uniform(-1, 1, run(y, feeds, arrays).shape).astype(y.dtype.numpy) for y in ys]
    found = dt.gradients(list(ys), [feeds[i] for i in wrt], grad_ys=[dt.constant(w) for w in weights])
    session = dt.Session(comm=None)
    evaluate_ys = session.make_callable(list(ys), feeds)

    def total(values: Sequence[np.ndarray]) -> float:
        return sum(
            float((w * y).sum(dtype=float)) for w, y in zip(weights, evaluate_ys(*values), strict=True)
        )

    rounded = any(y.dtype == "float32" for y in ys)  # the output of a cast: linear, and exact to 1e-7 only
    h, tolerance = (0.25, 1e-5) if rounded else (1e-5, 1e-6)
    for i, gradient in zip(wrt, found, strict=True):
        expected = differences(total, arrays, i, h)
        if gradient is None:
            assert not np.abs(expected).max(initial=0) > 0, f"input {i} has a gradient, but got None"
            continue
        value = session.run(gradient, dict(zip(feeds, arrays, strict=True)))
        assert (value.shape, value.dtype) == (arrays[i].shape, arrays[i].dtype)
        np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
    return found


# -- all ops, by their examples --------------------------------------------------------------------------
@pytest.mark.parametrize("example", EXAMPLES)
def test_gradients_are_those_of_finite_differences(example: Example) -> None:
    arrays = inputs_of(example)
    node, feeds = node_on(example.op, arrays)
    ys = [y for y in node.outputs if y.dtype.is_floating]
    wrt = [i for i, f in enumerate(feeds) if f.dtype.is_floating]
    if example.op.no_gradient:
        assert len(example.op.no_gradient) > 8
        assert dt.gradients(ys, [feeds[i] for i in wrt]) == [None] * len(wrt) if ys and wrt else True
    elif ys and wrt:
        found = assert_gradients(ys, feeds, arrays, wrt)
        for i, gradient in zip(wrt, found, strict=True):
            if i in example.op.shape_only:
                assert gradient is None


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_output_alone_has_its_gradient(example: Example) -> None:
    arrays = inputs_of(example)
    node, feeds = node_on(example.op, arrays)
    wrt = [i for i, f in enumerate(feeds) if f.dtype.is_floating]
    if len(node.outputs) > 1 and not example.op.no_gradient:
        for y in (y for y in node.outputs if y.dtype.is_floating):
            assert_gradients([y], feeds, arrays, wrt)


@pytest.mark.parametrize("example", EXAMPLES)
def test_shapes_and_dtypes_are_those_that_run(example: Example) -> None:
    arrays = inputs_of(example)
    known = [lambda a: a.shape, lambda a: (None,) * a.ndim, lambda a: None]
    for shapes in known:
        node, feeds = node_on(example.op, arrays, shapes)
        for output, value in zip(node.outputs, run(list(node.outputs), feeds, arrays), strict=True):
            assert output.dtype == value.dtype
            assert compatible(output.spec.shape, value.shape)
            if shapes is known[0]:
                assert output.spec.shape == value.shape


@pytest.mark.parametrize("example", EXAMPLES)
def test_float32_agrees_with_float64(example: Example) -> None:
    results = []
    for dtype in (np.float32, np.float64):
        arrays = inputs_of(example, dtype)
        node, feeds = node_on(example.op, arrays)
        results.append(run(list(node.outputs), feeds, arrays))
        if np.float32 in {a.dtype.type for a in arrays} and not isinstance(example.op, REGISTRY["Cast"]):
            assert all(v.dtype != np.float64 for v in results[0])
    for single, double in zip(*results, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("example", EXAMPLES)
def test_folding_computes_what_a_run_does(example: Example) -> None:
    arrays = inputs_of(example)
    node, feeds = node_on(example.op, arrays)
    if arrays:
        for ours, theirs in zip(
            evaluate(example.op, arrays), run(list(node.outputs), feeds, arrays), strict=True
        ):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_array_equal(ours, theirs)


def placements_of(array: np.ndarray) -> list[Placement]:
    every: list[Placement] = [REPLICATED, *(Sharded(a) for a in range(array.ndim))]
    return [*every, PARTIAL] if array.dtype.kind == "f" else every


def local_part(array: np.ndarray, placement: Placement, rank: int, size: int) -> np.ndarray:
    """What a rank holds of an array; a term of a sum is random on all ranks but the last."""
    if isinstance(placement, Sharded):
        low, high = shard_bounds(array.shape[placement.axis], rank, size)
        return array.take(range(low, high), placement.axis)
    if placement == PARTIAL:
        terms = [np.random.default_rng(r).uniform(-1, 1, array.shape) for r in range(size - 1)]
        return (*terms, array - sum(terms))[rank]
    return array


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("example", EXAMPLES)
def test_several_ranks_compute_what_one_does_wherever_the_inputs_lie(
    example: Example, size: int, on_threads: Callable[..., list[Any]]
) -> None:
    arrays = inputs_of(example)
    node, feeds = node_on(example.op, arrays)
    expected = run(list(node.outputs), feeds, arrays)
    cases = list(itertools.product(*map(placements_of, arrays)))
    steps = []  # what a step is does not depend on the rank
    for case in cases:
        specs = [FeedSpec(f, a.shape, p) for f, a, p in zip(feeds, arrays, case, strict=True)]
        steps.append(compile_step(node.outputs, (), specs, size))

    def rank(comm: Communicator) -> list[Any]:
        results = []
        for case, step in zip(cases, steps, strict=True):
            plan = Plan(step, schedule(step), {}, Backend(), PlanEnv(Backend(), comm, None))  # type: ignore[arg-type]
            locals_ = [local_part(a, p, comm.rank, size) for a, p in zip(arrays, case, strict=True)]
            results.append(plan.run(locals_))
        return results

    for results in on_threads(size, rank):
        for case, values in zip(cases, results, strict=True):
            for value, whole in zip(values, expected, strict=True):
                assert value.shape == whole.shape, case
                np.testing.assert_allclose(value, whole, rtol=1e-6, atol=1e-12, err_msg=str(case))


# -- second order ----------------------------------------------------------------------------------------
def _sparse(logits: dt.Tensor) -> dt.Tensor:
    return dt.nn.sparse_softmax_cross_entropy_with_logits(labels=[3, 0, 2], logits=logits)


SECOND_ORDER: dict[str, tuple[Callable[..., dt.Tensor], list[tuple[int, ...]]]] = {
    "relu": (lambda x: dt.nn.relu(x - 1.0) * x, [(3, 4)]),
    "divide": (dt.divide, [(3, 4), (4,)]),
    "multiply": (dt.multiply, [(3, 1), (4,)]),
    "pow": (dt.pow, [(3, 4), (3, 4)]),
    "matmul": (dt.matmul, [(3, 4), (4, 2)]),
    "softmax": (dt.nn.softmax, [(3, 4)]),
    "log_softmax": (dt.nn.log_softmax, [(3, 4)]),
    "reduce_max": (lambda x: dt.square(dt.reduce_max(x, 1)), [(3, 4)]),
    "reduce_mean": (lambda x: dt.square(dt.reduce_mean(x, 0)), [(3, 4)]),
    "sigmoid cross entropy": (
        lambda x, z: dt.nn.sigmoid_cross_entropy_with_logits(labels=z, logits=x),
        [(3, 4), (3, 4)],
    ),
    "conv2d": (lambda x, f: dt.nn.conv2d(x, f, [1, 2, 1, 1], "SAME"), [(2, 3, 3, 2), (2, 3, 2, 2)]),
    "max_pool": (lambda x: 0.1 * dt.square(dt.nn.max_pool(x, 2, 1, "SAME")), [(2, 3, 3, 2)]),
    "avg_pool": (lambda x: 0.1 * dt.square(dt.nn.avg_pool(x, 2, 1, "SAME")), [(2, 3, 3, 2)]),
    "gather": (lambda x: dt.square(dt.gather(x, [2, 0, 2])), [(3, 4)]),
    "reshape": (lambda x: dt.square(dt.reshape(dt.transpose(x), [2, -1])), [(3, 4)]),
    "cross entropy": (
        lambda x, y: dt.nn.softmax_cross_entropy_with_logits_v2(labels=y, logits=x),
        [(3, 4), (3, 4)],
    ),
    "sparse cross entropy": (_sparse, [(3, 4)]),
}


UNARY = [
    pytest.param(example.op, id=f"{name}-{i}")
    for name, kind in sorted(REGISTRY.items())
    if issubclass(kind, Elementwise) and kind.arity == 1 and not kind.no_gradient and name != "Cast"
    for i, example in enumerate(kind.examples())
]


@pytest.mark.parametrize("op", UNARY)
def test_second_derivatives_are_those_of_finite_differences(op: Elementwise) -> None:
    low, high = op.domain
    at = low + (high - low) * np.array([0.1, 0.3, 0.55, 0.9])
    node, (x,) = node_on(op, [at])
    (first,) = dt.gradients(node.outputs[0], x)
    (second,) = dt.gradients(first, x)
    run_first = dt.Session(comm=None).make_callable(first, [x])
    expected = (run_first(at + 1e-5) - run_first(at - 1e-5)) / 2e-5
    value = 0 * at if second is None else run(second, [x], [at])
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_gradients_of_gradients_are_those_of_finite_differences(name: str) -> None:
    function, shapes = SECOND_ORDER[name]
    generator = np.random.default_rng(3)
    arrays = [generator.uniform(0.6, 2, shape) for shape in shapes]
    feeds = [dt.placeholder(dt.float64, shape) for shape in shapes]
    first = dt.gradients(function(*feeds), feeds, name="first")
    # exp keeps what flows into the gradients from being constant, as in the training of a penalty
    assert_gradients([dt.exp(g) for g in first if g is not None], feeds, arrays, range(len(feeds)))


def test_second_order_of_a_mean_cross_entropy_through_a_layer() -> None:
    generator = np.random.default_rng(5)
    arrays = [generator.uniform(-1, 1, (4, 3)), generator.uniform(-1, 1, (5,))]
    w, b = dt.placeholder(dt.float64, (4, 3)), dt.placeholder(dt.float64, (5,))
    x, v = generator.uniform(-1, 1, (5, 4)), generator.uniform(-1, 1, (3, 5))
    logits = dt.matmul(dt.tanh(dt.matmul(x, w)), v) + b
    losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=[4, 0, 1, 1, 3], logits=logits)
    penalty = sum(dt.reduce_sum(dt.square(g)) for g in dt.gradients(dt.reduce_mean(losses), [w, b]))
    assert_gradients([penalty], [w, b], arrays, [0, 1])


# -- forward, against NumPy ------------------------------------------------------------------------------
def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _scatter(op: Any, dy: np.ndarray, indices: np.ndarray, like: np.ndarray) -> np.ndarray:
    out = np.zeros(like.shape)
    axis = op.axis % like.ndim
    lead = (slice(None),) * axis
    for i, index in np.ndenumerate(indices):
        out[(*lead, index)] += dy[(*lead, *i)]
    return out


def _sum_like(op: Any, dy: np.ndarray, like: np.ndarray) -> np.ndarray:
    out = np.zeros(like.shape)
    positions = np.broadcast_to(np.arange(like.size).reshape(like.shape), dy.shape)
    for index, position in np.ndenumerate(positions):
        out.flat[position] += dy[index]
    return out


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    p = _softmax(logits)
    return [-(labels * np.log(p)).sum(1), p * labels.sum(1, keepdims=True) - labels]


def _broadcast_like(op: Any, dy: np.ndarray, like: np.ndarray) -> np.ndarray:
    whole = op.keepdims or op.axes is None
    return np.broadcast_to(dy if whole else np.expand_dims(dy, op.axes), like.shape)


def _cumsum(op: Any, x: np.ndarray) -> np.ndarray:
    x = np.flip(x, op.axis) if op.reverse else x
    sums = np.cumsum(x, op.axis) - (x if op.exclusive else 0)
    return np.flip(sums, op.axis) if op.reverse else sums


def _split(op: Any, x: np.ndarray) -> list[np.ndarray]:
    if op.sizes is None:
        return np.split(x, op.count, op.axis)
    rest = x.shape[op.axis] - sum(s for s in op.sizes if s > 0)
    return np.split(x, np.cumsum([rest if s < 0 else s for s in op.sizes])[:-1], op.axis)


def _numpy_index(op: Any) -> tuple[Any, ...]:
    def entry(e: Any) -> Any:
        if type(e).__name__ == "Span":
            return slice(*e)
        return slice(e.begin, None if e.size < 0 else e.begin + e.size) if type(e).__name__ == "Run" else e

    return tuple(entry(e) for e in op.entries)


def _scatter_slice(op: Any, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    out = np.zeros(x.shape)
    out[_numpy_index(op)] = dy
    return out


def _scatter_nd(dy: np.ndarray, indices: np.ndarray, like: np.ndarray) -> np.ndarray:
    out = np.zeros(like.shape)
    for at in np.ndindex(indices.shape[:-1]):
        out[tuple(indices[at])] += dy[at]
    return out


def _fused(x: np.ndarray, b: np.ndarray, s: np.ndarray) -> dict[int, np.ndarray]:
    y = np.maximum(x + b, 0)
    return {4: y, 5: y * s, 6: (y * s).sum(0)}


#: What each op computes: a function of the op and its input arrays.
REFERENCES: dict[str, Callable[..., Any]] = {
    "All": lambda op, x: x.min(op.axes, keepdims=op.keepdims),
    "Any": lambda op, x: x.max(op.axes, keepdims=op.keepdims),
    "Joined": lambda op, a, b, bias: np.maximum(a @ b + bias, 0),
    "Fused": lambda op, x, b, s: [_fused(x, b, s)[value] for value in op.results],
    "ArgMin": lambda op, x: np.argmax(-x, op.axis),
    "BatchMatMul": lambda op, a, b: np.einsum(
        f"...{'ki' if op.transpose_a else 'ik'},...{'jk' if op.transpose_b else 'kj'}->...ij", a, b
    ),
    "BroadcastTo": lambda op, x: np.broadcast_to(x, op.shape),
    "Concat": lambda op, *xs: np.concatenate(xs, op.axis),
    "ConcatPart": lambda op, dy, *xs: np.split(dy, np.cumsum([x.shape[op.axis] for x in xs]), op.axis)[
        op.index
    ],
    "Cumsum": lambda op, x: _cumsum(op, x),
    "FlatIndex": lambda op, x: np.ravel_multi_index(tuple(np.moveaxis(x, -1, 0)), op.shape),
    "FloorDiv": lambda op, x, y: np.floor(x / y),
    "FloorMod": lambda op, x, y: x - y * np.floor(x / y),
    "Gate": lambda op, c, x: np.where(c, x, 0),
    "GatherNd": lambda op, x, i: np.array([x[tuple(p)] for p in i.reshape(-1, i.shape[-1])]).reshape(
        (*i.shape[:-1], *x.shape[i.shape[-1] :])
    ),
    "IsFinite": lambda op, x: np.abs(x) < np.inf,
    "IsInf": lambda op, x: np.abs(x) == np.inf,
    "IsNan": lambda op, x: x != x,
    "LogicalAnd": lambda op, x, y: x & y,
    "LogicalNot": lambda op, x: ~x,
    "LogicalOr": lambda op, x, y: x | y,
    "LogicalXor": lambda op, x, y: x ^ y,
    "Min": lambda op, x: x.min(op.axes, keepdims=op.keepdims),
    "Pad": lambda op, x: np.pad(x, op.paddings, constant_values=op.value) if x.ndim else x,
    "Prod": lambda op, x: x.prod(op.axes, keepdims=op.keepdims),
    "Range": lambda op: np.arange(op.start, op.limit, op.delta),
    "Reciprocal": lambda op, x: 1 / x,
    "Rint": lambda op, x: np.round(x),
    "Rsqrt": lambda op, x: 1 / x**0.5,
    "ScatterNdAddLike": lambda op, dy, i, like: _scatter_nd(dy, i, like),
    "Select": lambda op, c, x, y: np.where(c, x, y),
    "Shape": lambda op, x: np.array(x.shape),
    "Split": lambda op, x: _split(op, x),
    "Squeeze": lambda op, x: x.squeeze(op.axes),
    "StridedSlice": lambda op, x: x[_numpy_index(op)],
    "StridedSliceGrad": lambda op, dy, x: _scatter_slice(op, dy, x),
    "Tile": lambda op, x: np.tile(x, op.multiples),
    "TileGrad": lambda op, dy, x: sum(
        dy[tuple(np.s_[a * n : (a + 1) * n] for a, n in zip(at, x.shape, strict=True))]
        for at in np.ndindex(op.multiples)
    ),
    "Unpad": lambda op, x: x[tuple(np.s_[a : n - b] for (a, b), n in zip(op.paddings, x.shape, strict=True))],
    "Abs": lambda op, x: np.abs(x),
    "Add": lambda op, x, y: x + y,
    "ArgMax": lambda op, x: np.argmax(x, op.axis),
    "BroadcastLike": _broadcast_like,
    "Cast": lambda op, x: x.astype(op.to.numpy),
    "Const": lambda op: op.value.array,
    "CountLike": lambda op, x: np.sum(np.ones(x.shape), op.axes).max(),
    "Elu": lambda op, x: op.scale * np.where(x > 0, x, op.alpha * (np.exp(x) - 1)),
    "Equal": lambda op, x, y: x == y,
    "ExpandDims": lambda op, x: np.expand_dims(x, op.axis),
    "Fill": lambda op: np.full(op.shape, op.value),
    "Gather": lambda op, x, i: np.take(x, i, op.axis),
    "Greater": lambda op, x, y: x > y,
    "GreaterEqual": lambda op, x, y: x >= y,
    "Identity": lambda op, x: x,
    "PlaceholderWithDefault": lambda op, x: x,
    "InTopK": lambda op, x, i: np.array(
        [0 <= t < len(r) and (r > r[t]).sum() < op.k for r, t in zip(x, i, strict=True)]
    ),
    "LeakyRelu": lambda op, x: np.where(x > 0, x, op.alpha * x),
    "Less": lambda op, x, y: x < y,
    "LessEqual": lambda op, x, y: x <= y,
    "LogSoftmax": lambda op, x: np.log(_softmax(x)),
    "MatMul": lambda op, a, b: (a.T if op.transpose_a else a) @ (b.T if op.transpose_b else b),
    "Max": lambda op, x: x.max(op.axes, keepdims=op.keepdims),
    "Maximum": lambda op, x, y: np.where(x > y, x, y),
    "Mean": lambda op, x: x.mean(op.axes, keepdims=op.keepdims),
    "Minimum": lambda op, x, y: np.where(x < y, x, y),
    "Mul": lambda op, x, y: x * y,
    "Neg": lambda op, x: -x,
    "NotEqual": lambda op, x, y: x != y,
    "OneHot": lambda op, i: np.stack(
        [np.where(i == k, op.on, op.off) for k in range(op.depth)], op.axis
    ).astype(float),
    "RealDiv": lambda op, x, y: x / y,
    "Relu": lambda op, x: np.where(x > 0, x, 0),
    "ReluGrad": lambda op, dy, y: np.where(y > 0, dy, 0),
    "Relu6": lambda op, x: np.clip(x, 0, 6),
    "Reshape": lambda op, x: x.reshape(op.shape),
    "ReshapeLike": lambda op, x, like: x.reshape(like.shape),
    "ScatterAddLike": _scatter,
    "Sigmoid": lambda op, x: 1 / (1 + np.exp(-x)),
    "SigmoidCrossEntropy": lambda op, x, z: np.log(1 + np.exp(x)) - x * z,
    "Sign": lambda op, x: (x > 0) * 1.0 - (x < 0),
    "Softmax": lambda op, x: _softmax(x),
    "SoftmaxCrossEntropy": lambda op, x, y: _cross_entropy(x, y),
    "Softplus": lambda op, x: np.log(1 + np.exp(x)),
    "Softsign": lambda op, x: x / (1 + np.abs(x)),
    "SparseSoftmaxCrossEntropy": lambda op, x, i: _cross_entropy(x, np.eye(x.shape[1])[i]),
    "Square": lambda op, x: x * x,
    "StopGradient": lambda op, x: x,
    "Sub": lambda op, x, y: x - y,
    "Sum": lambda op, x: x.sum(op.axes, keepdims=op.keepdims),
    "SumLike": _sum_like,
    "TopK": lambda op, x: [np.sort(x)[..., ::-1][..., : op.k], np.argsort(-x)[..., : op.k]],
    "TopKGrad": lambda op, dy, i, x: np.array(
        [
            [sum(d for d, at in zip(*row, strict=True) if at == j) for j in range(4)]
            for row in zip(dy, i, strict=True)
        ]
    ),
    "TopKPick": lambda op, x, i: np.array([r[at] for r, at in zip(x, i, strict=True)]),
    "Transpose": lambda op, x: np.transpose(x, op.perm),
    "ZerosLike": lambda op, x: np.zeros(x.shape),
}


#: Ops whose references are loops, with the file that compares with them.
LOOPS = {
    **dict.fromkeys(("Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput"), "test_conv"),
    **dict.fromkeys(("AvgPool", "AvgPoolGrad", "MaxPool", "MaxPoolGrad", "MaxPoolPick"), "test_pool"),
    "Warp": "test_augment",
}


def reference(name: str) -> Callable[..., Any] | None:
    """What an op computes: see REFERENCES; or Python's own function of that name, number by number."""
    if name in REFERENCES or not hasattr(math, name.lower()):
        return REFERENCES.get(name)
    one_by_one = np.vectorize(getattr(math, name.lower()), otypes=[float])
    return lambda op, *xs: one_by_one(*np.broadcast_arrays(*xs))


def test_every_op_with_examples_has_a_reference() -> None:
    without = {name for name in REGISTRY if reference(name) is None}
    assert without == {*LOOPS, *WITHOUT_EXAMPLES}
    assert not {*REFERENCES} - {*REGISTRY}


def assert_is_reference(op: Op, arrays: Sequence[np.ndarray]) -> None:
    node, feeds = node_on(op, arrays)
    expected = reference(type(op).__name__)(op, *arrays)  # type: ignore[misc]
    expected = expected if isinstance(expected, list) else [expected]
    tolerance = 1e-6 if any(t.dtype == "float32" for t in node.outputs) else 1e-12
    for value, right in zip(run(list(node.outputs), feeds, arrays), expected, strict=True):
        assert value.shape == np.shape(right)
        np.testing.assert_allclose(value, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("example", EXAMPLES)
def test_forward_is_the_reference_on_the_examples(example: Example) -> None:
    if type(example.op).__name__ not in LOOPS:
        assert_is_reference(example.op, inputs_of(example))


ELEMENTWISE = sorted(
    name
    for name, kind in REGISTRY.items()
    if kind.elementwise and name not in ("Cast", "LeakyRelu", "ReluGrad")
)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_ops_broadcast_as_numpy_does(name: str) -> None:
    kind: Any = REGISTRY[name]

    @few
    @given(
        hnp.mutually_broadcastable_shapes(num_shapes=kind.arity, max_dims=3, min_side=0, max_side=3),
        st.integers(0, 2**32 - 1),
    )
    def check(shapes: Any, seed: int) -> None:
        dt.reset_default_graph()
        generator = np.random.default_rng(seed)
        arrays = [np.asarray(generator.uniform(*kind.domain, shape)) for shape in shapes.input_shapes]
        if name.startswith("Logical"):
            arrays = [a > 0 for a in arrays]
        if issubclass(kind, Chosen):
            arrays[0] = arrays[0] > 0
        assert_is_reference(kind(), arrays)

    check()


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Maximum", "Minimum", "Equal", "Less", "GreaterEqual"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float16", "float32"])
def test_arithmetic_keeps_its_dtype(name: str, dtype: str) -> None:
    x, y = np.array([[3], [1]], dtype), np.array([1, 2, 3], dtype)
    node, feeds = node_on(REGISTRY[name](), [x, y])
    value = run(node.outputs[0], feeds, [x, y])
    right = reference(name)(None, x, y)  # type: ignore[misc]
    assert value.dtype == (right.dtype if right.dtype.kind == "b" else dtype)
    np.testing.assert_array_equal(value, right)


@pytest.mark.parametrize("name", ["Sum", "Mean", "Max"])
def test_reductions_over_all_axes_of_odd_and_empty_shapes(name: str) -> None:
    @few
    @given(st.data())
    def check(data: st.DataObject) -> None:
        dt.reset_default_graph()
        smallest = 0 if name == "Sum" else 1  # the largest, or the mean, of nothing is not defined
        shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=smallest, max_side=3))
        count = len(shape)
        axes = data.draw(st.none() | st.sets(st.integers(0, count - 1)) if count else st.none())
        op = REGISTRY[name](None if axes is None else tuple(sorted(axes)), data.draw(st.booleans()))  # type: ignore[call-arg]
        assert_is_reference(op, [np.random.default_rng(1).uniform(-2, 2, shape)])

    check()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float16", "float32"])
def test_sums_and_maxima_keep_their_dtype(dtype: str) -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], dtype)
    total, most = run([dt.reduce_sum(x, 0), dt.reduce_max(x, 1)])
    assert total.dtype == most.dtype == dtype
    assert (total.tolist(), most.tolist()) == ([5, 7, 9], [3, 6])


@few
@given(
    st.tuples(*[st.integers(0, 4)] * 3), st.booleans(), st.booleans(), st.sampled_from(["float32", "int32"])
)
def test_products_of_odd_and_empty_matrices(
    sizes: tuple[int, ...], transpose_a: bool, transpose_b: bool, dtype: str
) -> None:
    dt.reset_default_graph()
    m, k, n = sizes
    generator = np.random.default_rng(2)
    a = generator.integers(-4, 5, (k, m) if transpose_a else (m, k)).astype(dtype)
    b = generator.integers(-4, 5, (n, k) if transpose_b else (k, n)).astype(dtype)
    value = run(dt.matmul(a, b, transpose_a, transpose_b))
    right = np.zeros((m, n), dtype)
    for i, j in np.ndindex(m, n):
        for l_ in range(k):
            right[i, j] += (a[l_, i] if transpose_a else a[i, l_]) * (b[j, l_] if transpose_b else b[l_, j])
    assert value.dtype == dtype
    np.testing.assert_array_equal(value, right)


@few
@given(st.data())
def test_gather_and_its_gradient_at_repeated_and_no_indices(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    at = data.draw(hnp.arrays(np.int32, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
                              elements=st.integers(0, shape[0] - 1)))  # fmt: skip
    x = np.random.default_rng(4).uniform(-1, 1, shape)
    params = dt.placeholder(dt.float64, shape)
    rows = dt.gather(params, at)
    (gradient,) = dt.gradients(rows, params)
    value, slope = run([rows, gradient], [params], [x])
    np.testing.assert_array_equal(value, x[at])
    np.testing.assert_array_equal(slope, _scatter(REGISTRY["ScatterAddLike"](), np.ones(value.shape), at, x))


@few
@given(st.integers(0, 5), st.integers(1, 6), st.sampled_from(["int8", "uint8", "int32", "int64"]))
def test_cross_entropies_of_odd_and_empty_batches(rows: int, classes: int, dtype: str) -> None:
    dt.reset_default_graph()
    generator = np.random.default_rng(rows * 10 + classes)
    logits = generator.uniform(-3, 3, (rows, classes))
    labels = generator.integers(0, classes, rows).astype(dtype)
    assert_is_reference(REGISTRY["SparseSoftmaxCrossEntropy"](), [logits, labels])
    assert_is_reference(REGISTRY["SoftmaxCrossEntropy"](), [logits, generator.uniform(0, 1, logits.shape)])
    assert_is_reference(REGISTRY["Softmax"](), [logits])
    assert_is_reference(REGISTRY["LogSoftmax"](), [logits])


# -- where numbers are large, special or wrong -----------------------------------------------------------
def test_nothing_overflows_where_the_result_does_not() -> None:
    huge = np.array([[1000.0, -1000.0, 0.0]], np.float32)
    losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=[0], logits=huge)
    dense = dt.nn.softmax_cross_entropy_with_logits(labels=np.array([[0, 1, 0]], np.float32), logits=huge)
    found = run([dt.sigmoid(huge), dt.nn.softmax(huge), dt.nn.log_softmax(huge), losses, dense])
    expected = [[[1, 0, 0.5]], [[1, 0, 0]], [[0, -2000, -1000]], [0], [2000]]
    for value, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, np.array(right, np.float32))


def test_a_cast_truncates_towards_zero() -> None:
    assert run(dt.cast(np.array([1.9, -1.9, 0.0]), "int32")).tolist() == [1, -1, 0]
    assert run(dt.cast(np.array([1.5, 0.0]), "bool")).tolist() == [True, False]
    assert run(dt.cast([True, False], "float32")).tolist() == [1.0, 0.0]


def test_gradients_do_not_pass_a_cast_to_integers() -> None:
    x = dt.placeholder(dt.float32, [3])
    assert dt.gradients(dt.cast(dt.cast(x, "int32"), "float32"), x) == [None]


def test_equal_entries_share_the_gradient_of_their_maximum() -> None:
    x = dt.constant([[1.0, 3.0, 3.0], [5.0, 5.0, 5.0]])
    (gradient,) = dt.gradients(dt.reduce_max(x, 1), x)
    np.testing.assert_allclose(run(gradient), [[0, 1 / 2, 1 / 2], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("function", [dt.maximum, dt.minimum])
def test_the_first_of_two_equal_operands_gets_the_gradient(function: Any) -> None:
    x, y = dt.constant([1.0, 2.0]), dt.constant([1.0, 2.0])
    assert [v.tolist() for v in run(dt.gradients(function(x, y), [x, y]))] == [[1, 1], [0, 0]]


def test_a_relu_has_no_slope_at_zero() -> None:
    x = dt.constant([-1.0, 0.0, 2.0])
    assert run(dt.gradients(dt.nn.relu(x), x)[0]).tolist() == [0, 0, 1]


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_an_index_out_of_range_is_an_error(bad: int, dtype: str) -> None:
    at = dt.placeholder(dtype, [None])
    with pytest.raises(InvalidArgumentError, match=rf"{bad} is not in 0\.\.2"):
        run(dt.gather(np.ones((3, 2)), at), [at], [np.array([0, bad], dtype)])


@pytest.mark.parametrize(("bad", "dtype"), [(-1, "int32"), (4, "int64"), (-1, "int8"), (255, "uint8")])
def test_a_label_out_of_range_is_an_error(bad: int, dtype: str) -> None:
    labels = dt.placeholder(dtype, [None])
    loss = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=np.ones((2, 4)))
    with pytest.raises(InvalidArgumentError, match=rf"label is {bad}, .*0\.\.3"):
        run(loss, [labels], [np.array([0, bad], dtype)])


def test_logits_that_are_integers_are_refused() -> None:
    for labels, function in (
        ([1, 0], dt.nn.sparse_softmax_cross_entropy_with_logits),
        (np.eye(2, 3, dtype=np.int32), dt.nn.softmax_cross_entropy_with_logits_v2),
    ):
        with pytest.raises(GraphError, match="logits are int32, not floats"):
            function(labels=labels, logits=dt.constant([[1, 2, 3], [4, 5, 6]]))


def test_one_hot_of_small_integers_knows_classes_beyond_their_range() -> None:
    x = dt.constant(np.array([1, 255], np.uint8))
    value = run(dt.one_hot(x, 300))
    assert np.argwhere(value == 1).tolist() == [[0, 1], [1, 255]]
    assert run(dt.one_hot(np.array([-1, 1], np.int8), 200)).sum() == 1


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("axis", "shape"),
    [(None, ()), (1, (2, 4)), (-1, (2, 3)), ([0, -1], (3,)), (np.int64(0), (3, 4)), ((), (2, 3, 4))],
)
def test_reductions_take_axes_in_every_form(axis: Any, shape: tuple[int, ...]) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    over = axis if axis is None or isinstance(axis, int | np.integer) else tuple(axis)
    for ours, numpys in ((dt.reduce_sum, np.sum), (dt.reduce_mean, np.mean), (dt.reduce_max, np.max)):
        tensor = ours(x, axis)
        assert tensor.shape == shape
        np.testing.assert_allclose(run(tensor), numpys(x, over), rtol=1e-12)
        kept = ours(x, reduction_indices=axis, keep_dims=True)
        np.testing.assert_allclose(run(kept), numpys(x, over, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("axis", [3, -4, [0, 3]])
def test_an_axis_that_is_not_there_is_an_error(axis: Any) -> None:
    with pytest.raises(GraphError, match="is not one of an input of rank 3"):
        dt.reduce_sum(np.zeros((2, 3, 4)), axis)


def test_old_and_new_names_of_an_argument_exclude_each_other() -> None:
    with pytest.raises(GraphError, match="give one of them"):
        dt.reduce_sum(np.zeros(3), axis=0, reduction_indices=0)


def test_argmax_takes_the_first_of_equals_and_axis_0_by_default() -> None:
    x = np.array([[1.0, 5.0, 5.0], [2.0, 0.0, 5.0]])
    found = run([dt.argmax(x), dt.argmax(x, 1), dt.argmax(x, dimension=-1)])
    assert [v.tolist() for v in found] == [[1, 0, 0], [1, 2], [1, 2]]
    assert all(v.dtype == np.int64 for v in found)


def test_transpose_reverses_the_axes_by_default() -> None:
    x = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(run(dt.transpose(x)), x.T)


@pytest.mark.parametrize("shape", [[], [1], [1, 1, 1]])
def test_reshape_makes_scalars_and_back(shape: list[int]) -> None:
    constant, fed = dt.constant([[7.0]]), dt.placeholder(dt.float32, [1, 1])
    for value in run([dt.reshape(constant, shape), dt.reshape(fed, shape)], [fed], [[[7.0]]]):
        assert (np.shape(value), float(np.sum(value))) == (tuple(shape), 7.0)


@pytest.mark.parametrize("shape", [[4], [2, -1, -1], [5, -1], [-2, 3]])
def test_reshape_to_what_does_not_fit_is_an_error(shape: list[int]) -> None:
    with pytest.raises(GraphError, match="Reshape does not fit"):
        dt.reshape(np.zeros((2, 3)), shape)


@pytest.mark.parametrize("perm", [[0], [0, 0], [0, 2], [-1, 0]])
def test_an_order_that_is_none_is_an_error(perm: list[int]) -> None:
    with pytest.raises(GraphError, match="is no order of the axes"):
        dt.transpose(np.zeros((2, 3)), perm)


def test_fill_ones_and_zeros() -> None:
    made = [dt.fill([2, 1], 7), dt.fill([0], 1.5), dt.zeros([]), dt.ones([2], "int64"), dt.zeros_like([1, 2])]
    assert [t.dtype.name for t in made] == ["int32", "float32", "float32", "int64", "int32"]
    assert [np.asarray(v).tolist() for v in run(made)] == [[[7], [7]], [], 0.0, [1, 1], [0, 0]]


def test_gradients_reach_the_labels_of_the_second_form_only() -> None:
    x, y = dt.placeholder(dt.float64, [3, 4]), dt.placeholder(dt.float64, [3, 4])
    first = dt.nn.softmax_cross_entropy_with_logits(labels=y, logits=x)
    second = dt.nn.softmax_cross_entropy_with_logits_v2(labels=y, logits=x)
    assert dt.gradients(first, y) == [None]
    assert dt.gradients(second, y) != [None]


def test_labels_and_logits_in_the_wrong_order_are_refused() -> None:
    learned = dt.Variable(np.zeros((2, 3), np.float32)) * 2.0
    for loss in (
        dt.nn.softmax_cross_entropy_with_logits,
        dt.nn.softmax_cross_entropy_with_logits_v2,
        dt.nn.sparse_softmax_cross_entropy_with_logits,
    ):
        with pytest.raises(GraphError, match="by name"):
            loss(np.zeros((2, 3)), learned)


MISFITS: dict[str, Callable[[], Any]] = {
    "matrix of rank 1": lambda: dt.matmul(np.zeros(3), np.zeros((3, 2))),
    "inner sizes": lambda: dt.matmul(np.zeros((2, 3)), np.zeros((2, 3))),
    "integers through exp": lambda: dt.exp([1, 2]),
    "bools added": lambda: dt.add([True], [False]),
    "bools summed": lambda: dt.reduce_sum([True]),
    "float indices": lambda: dt.gather(np.zeros(3), [1.0]),
    "rows of a scalar": lambda: dt.gather(1.0, [0]),
    "one-hot of floats": lambda: dt.one_hot([1.0], 3),
    "softmax of a scalar": lambda: dt.nn.softmax(1.0),
    "softmax of integers": lambda: dt.nn.softmax([1, 2]),
    "logits of rank 1": lambda: dt.nn.sparse_softmax_cross_entropy_with_logits(
        labels=[1], logits=np.zeros(3)
    ),
    "labels of another length": lambda: dt.nn.sparse_softmax_cross_entropy_with_logits(
        labels=[1, 2], logits=np.zeros((3, 4))
    ),
    "float labels": lambda: dt.nn.sparse_softmax_cross_entropy_with_logits(
        labels=[1.0], logits=np.zeros((1, 4))
    ),
    "labels of another shape": lambda: dt.nn.softmax_cross_entropy_with_logits(
        labels=np.zeros((3, 4)), logits=np.zeros((3, 5))
    ),
    "expand_dims out of range": lambda: dt.expand_dims(np.zeros(3), 2),
    "argmax out of range": lambda: dt.argmax(np.zeros(3), 1),
    "fill of unknown size": lambda: dt.fill([None, 2], 1.0),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_an_error_at_its_line(name: str) -> None:
    with pytest.raises(GraphError):
        MISFITS[name]()


def test_equal_ops_are_equal_and_others_are_not() -> None:
    sums = [REGISTRY["Sum"](axes, keep) for axes in ((0,), (1,)) for keep in (False, True)]  # type: ignore[call-arg]
    again = [REGISTRY["Sum"](axes, keep) for axes in ((0,), (1,)) for keep in (False, True)]  # type: ignore[call-arg]
    assert [[a == b for b in again] for a in sums] == np.eye(4, dtype=bool).tolist()
    assert REGISTRY["Sum"]((0,), True) != REGISTRY["Max"]((0,), True)  # type: ignore[call-arg]
    assert len({REGISTRY["Add"](), REGISTRY["Add"](), REGISTRY["Sub"]()}) == 2


def test_the_inferred_spec_is_all_of_its_inputs_that_is_known() -> None:
    infer = functools.partial(REGISTRY["Add"]().infer)
    spec = lambda *shape: Spec(shape, dt.float32)  # noqa: E731
    assert infer(spec(None, 3), spec(2, 1)) == [spec(2, 3)]
    assert infer(spec(None, 1), spec(None, None)) == [spec(None, None)]
    assert infer(Spec(None, dt.float32), spec(2)) == [Spec(None, dt.float32)]
