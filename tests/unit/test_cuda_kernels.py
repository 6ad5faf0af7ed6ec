"""Kernels in CUDA one by one, run as C++ by the stand-in, against NumPy: odd sizes, no rows, ties, NaN."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from edges import MISSED, assert_near, assert_same_bits, elementwise_ops, tiny

import dtrain as dt
from dtrain.errors import EnvironmentProblem, InvalidArgumentError
from dtrain.graph.graph import Spec
from dtrain.native.loops import TYPES
from dtrain.ops.base import REGISTRY, apply
from dtrain.runtime.backend import Backend, make_backend

#: Two choices, each yes or no.
BOTH = list(itertools.product([False, True], repeat=2))
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="the stand-in compiles CUDA sources with g++")


@pytest.fixture
def gpu(cupy: Any) -> Backend:
    return make_backend("gpu", 0)


def run(gpu: Backend, build: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    """What build(*placeholders) computes, all of it by kernels of dtrain's own."""
    with dt.Graph().as_default() as graph:
        feeds = [dt.placeholder(a.dtype, a.shape) for a in arrays]
        outputs = build(*feeds)
        outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
        session = dt.Session(graph=graph, comm=None, device=gpu)
        for _ in range(2):  # a kernel finds what the run before has left
            found = session.run(outputs, dict(zip(feeds, arrays, strict=True)))
        assert gpu.on_host or all(p._windows for p in session.plans.values()), "CuPy computes some of it"
    return found


def close(found: np.ndarray, right: np.ndarray, dtype: Any = np.float32) -> None:
    """Within some units in the last place of dtype of what NumPy has in float64."""
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=rtol, atol=rtol)


def softmax(x: np.ndarray) -> np.ndarray:
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


# -- rows of classes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 10, 32, 33, 300, 1025, 4100])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_rows_of_any_length(gpu: Backend, rows: int, columns: int, dtype: str) -> None:
    generator = np.random.default_rng(columns)
    x = (generator.standard_normal((rows, columns)) * 20).astype(dtype)
    t = softmax(generator.standard_normal((rows, columns))).astype(dtype)
    labels = generator.integers(0, columns, rows).astype(np.int32)

    def build(x: Any, t: Any, labels: Any) -> list[Any]:
        dense = apply(REGISTRY["SoftmaxCrossEntropy"](), x, t).op.outputs
        sparse = apply(REGISTRY["SparseSoftmaxCrossEntropy"](), x, labels).op.outputs
        over = dt.nn.softmax(x * 1.0)  # into the memory of what it is made of
        return [dt.nn.softmax(x), dt.nn.log_softmax(x), *dense, *sparse, over]

    found = run(gpu, build, x, t, labels)
    wide, t = x.astype(np.float64), t.astype(np.float64)
    p = softmax(wide) if columns and rows else wide
    top = wide.max(-1, keepdims=True)
    log = wide - top - np.log(np.exp(wide - top).sum(-1, keepdims=True))
    one = np.eye(columns)[labels]
    right = [p, log, -(t * log).sum(-1), p * t.sum(-1, keepdims=True) - t, -(one * log).sum(-1), p - one, p]
    for a, b in zip(found, right, strict=True):
        close(a, b, dtype=np.dtype(dtype).type)


def test_rows_of_more_axes_and_a_nan_in_one(gpu: Backend) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 70)).astype("f")
    x[1, 2, 66] = np.nan
    x[0, 1, 3] = -np.inf
    found = run(gpu, lambda x: [dt.nn.softmax(x), dt.nn.log_softmax(x)], x)
    right = softmax(x.astype(float))
    close(found[0], right)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found[1], np.log(right), rtol=1e-5, atol=1e-5)
    assert np.isnan(found[0][1, 2]).all() and np.isnan(found[0]).sum() == 70


@pytest.mark.parametrize("columns", [3, 40])
def test_a_label_that_is_no_class_is_named(gpu: Backend, columns: int) -> None:
    def build(x: Any, labels: Any) -> Any:
        return dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=x)

    with pytest.raises(InvalidArgumentError, match=f"a label is {columns}"):
        run(gpu, build, np.zeros((2, columns), "f"), np.array([0, columns], np.int32))


# -- element by element ----------------------------------------------------------------------------------
#: Units in the last place by which functions of a C library may differ from NumPy's, which miss by up to 4.
LIBRARY = 8


@pytest.mark.parametrize("dtype", TYPES)
def test_elementwise_ops_have_numpys_bits_at_100_000_numbers_and_edges(gpu: Backend, dtype: str) -> None:
    tried = []
    for name, op, inputs in elementwise_ops(dtype):
        dtypes = [dt.as_dtype(a.dtype) for a in inputs]
        (spec,) = op.infer(*(Spec(a.shape, d) for a, d in zip(inputs, dtypes, strict=True)))
        if op.translatable(dtypes, spec.dtype, cuda=True):
            if not dtype.startswith(("float", "bool")) and name in ("Pow", "FloorDiv", "FloorMod"):
                refused = inputs[1] < 0 if name == "Pow" else inputs[1] == 0  # an error on the host
                inputs[1] = np.where(refused, 2, inputs[1]).astype(dtype)
            rule = op.traced(dtypes)
            parts = [op] if rule is None else [part for part, _ in rule.body]
            rounded = any(type(p).__name__ in MISSED or p.cuda for p in parts)
            tried.append((op, inputs, rule is None, rounded))

    def build(*feeds: Any) -> list[Any]:
        rest = iter(feeds)
        return [apply(op, *(next(rest) for _ in inputs)) for op, inputs, *_ in tried]

    arrays = [a for _, inputs, *_ in tried for a in inputs]
    found = run(gpu, build, *arrays), run(Backend("numpy"), build, *arrays)
    for (op, inputs, alone, rounded), ours, numpys in zip(tried, *found, strict=True):
        if numpys.dtype.kind != "f" or not rounded:
            assert_same_bits(repr(op), ours, numpys, np.any([tiny(a) for a in inputs], axis=0))
        elif alone:
            assert_near(repr(op), ours, numpys, LIBRARY)
        else:
            rounding = 64 * np.finfo(dtype).eps
            np.testing.assert_allclose(ours, numpys, rtol=rounding, atol=rounding, err_msg=repr(op))
    assert len(tried) >= {"float32": 60, "float64": 60, "bool": 10}.get(dtype, 25)


def test_a_source_that_does_not_compile_is_one_sentence_with_its_op(
    gpu: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REGISTRY["Erf"], "cuda", "no_such_function({0})")
    with pytest.raises(EnvironmentProblem, match=r"the kernel of Erf 'shape': .*--device cpu"):
        run(gpu, lambda x: dt.matmul(dt.erf(x, name="shape"), x), np.ones((2, 2), "f"))


# -- reductions ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (5000, 3), (3, 5000), (20001,), (4, 5, 6), (3, 0)])
def test_reductions_over_every_axis(gpu: Backend, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).uniform(0.9, 1.1, shape)
    axes = [None, *range(len(shape)), *([(0, 2)] if len(shape) == 3 else [])]
    kinds: list[tuple[Any, Any]] = [
        (dt.reduce_prod, np.prod),
        (dt.reduce_all, np.all),
        (dt.reduce_any, np.any),
    ]
    if x.size:
        kinds += [(dt.reduce_max, np.max), (dt.reduce_min, np.min)]

    def build(x: Any) -> list[Any]:
        return [
            r(x > 1.0 if r in (dt.reduce_all, dt.reduce_any) else x, axis) for r, _ in kinds for axis in axes
        ]

    found = iter(run(gpu, build, x))
    for (_, numpys), axis in itertools.product(kinds, axes):
        value = x > 1.0 if numpys in (np.all, np.any) else x
        np.testing.assert_allclose(next(found), numpys(value, axis=axis), rtol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint8"])
def test_the_largest_and_the_smallest_of_any_kind_of_number(gpu: Backend, dtype: str) -> None:
    generator = np.random.default_rng(1)
    x = generator.integers(0, 200, (9, 500)).astype(dtype)
    if dtype != "uint8":
        x[0], x[1] = -x[0] - 1, x[1] - 300
    if dtype == "float32":
        x[3, 471], x[4], x[5] = np.nan, -np.inf, np.inf
    found = run(gpu, lambda x: [dt.reduce_max(x, 1), dt.reduce_min(x, 1), dt.reduce_prod(x, 0)], x)
    with np.errstate(all="ignore"):
        right = [x.max(1), x.min(1), x.prod(0, dtype=dtype)]  # integers wrap
    for value, expected in zip(found, right, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6 if dtype == "float32" else 0)


# -- moving values ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "bool"])
def test_values_are_moved_to_and_from_any_strides(gpu: Backend, dtype: str) -> None:
    generator = np.random.default_rng(4)
    x, y = (
        generator.integers(0, 2 if dtype == "bool" else 100, s).astype(dtype) for s in ((3, 5, 4), (3, 2, 4))
    )

    def build(x: Any, y: Any) -> list[Any]:
        turned = dt.transpose(x, [2, 0, 1])
        return [
            dt.concat([x, y], 1),
            dt.concat([turned, turned[:, ::-1, 1:3]], 2),
            *dt.split(x, [1, 3, 1], 1),
            dt.tile(x, [2, 1, 3]),
            dt.tile(turned, [1, 2, 1]),
            dt.pad(x, [[1, 0], [0, 2], [3, 1]]),
            dt.reshape(turned, [-1]),
            dt.identity(x[1:, ::2, -1]),
            apply(REGISTRY["BroadcastTo"]((2, 3, 5, 4)), x[:, :1]),
            dt.zeros_like(x),
        ]

    turned = x.transpose(2, 0, 1)
    right = [
        np.concatenate([x, y], 1),
        np.concatenate([turned, turned[:, ::-1, 1:3]], 2),
        *np.split(x, [1, 4], 1),
        np.tile(x, [2, 1, 3]),
        np.tile(turned, [1, 2, 1]),
        np.pad(x, [[1, 0], [0, 2], [3, 1]]),
        turned.reshape(-1),
        x[1:, ::2, -1],
        np.broadcast_to(x[:, :1], (2, 3, 5, 4)),
        np.zeros_like(x),
    ]
    for value, expected in zip(run(gpu, build, x, y), right, strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


def test_what_a_slice_was_taken_from_gets_its_gradient(gpu: Backend) -> None:
    x = np.random.default_rng(5).standard_normal((4, 5, 3))
    dy = np.random.default_rng(6).standard_normal((2, 5))

    def build(x: Any, dy: Any) -> Any:
        return dt.gradients(x[3:0:-2, :, 1], x, grad_ys=[dy])[0]

    right = np.zeros_like(x)
    right[3:0:-2, :, 1] = dy
    np.testing.assert_array_equal(run(gpu, build, x, dy)[0], right)


def test_ops_take_views_of_other_arrays(gpu: Backend) -> None:
    x = np.random.default_rng(7).standard_normal((4, 50, 3))

    def build(x: Any) -> list[Any]:
        return [
            dt.reduce_sum(dt.transpose(x, [2, 0, 1]) * 2, 1),
            dt.matmul(x[:, ::2, 0], x[:, 1::2, 2], transpose_b=True),
            dt.nn.softmax(dt.transpose(x, [0, 2, 1])),
            dt.argmax(x[::-1, :, 1], 1),
        ]

    right = [
        x.transpose(2, 0, 1).sum(1) * 2,
        x[:, ::2, 0] @ x[:, 1::2, 2].T,
        softmax(x.transpose(0, 2, 1)),
        x[::-1, :, 1].argmax(1),
    ]
    for value, expected in zip(run(gpu, build, x), right, strict=True):
        close(value, expected, np.float64)


# -- by indices ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_that_are_picked_and_their_gradient(gpu: Backend, axis: int, rows: int) -> None:
    """Fewer rows than indices, and more; several indices are the same, and some rows are not picked."""
    generator = np.random.default_rng(8)
    shape = [3, 5, 2]
    shape[axis] = rows
    x, at = generator.standard_normal(shape), generator.integers(1, rows, (2, 5)).astype(np.int32)
    dy = generator.standard_normal((*shape[:axis], 2, 5, *shape[axis + 1 :]))

    def build(x: Any, at: Any, dy: Any) -> list[Any]:
        y = dt.gather(x, at, axis=axis)
        return [y, dt.gradients(y, x, grad_ys=[dy])[0]]

    found, dx = run(gpu, build, x, at, dy)
    np.testing.assert_array_equal(found, np.take(x, at, axis))
    right = np.zeros_like(x)
    np.add.at(right, (*[slice(None)] * axis, at), dy)
    close(dx, right, np.float64)


def test_positions_that_are_picked_and_their_gradient(gpu: Backend) -> None:
    generator = np.random.default_rng(9)
    x = generator.standard_normal((3, 4, 2))
    at = np.array([[2, 1], [0, 3], [2, 1], [1, 0]])
    dy = generator.standard_normal((4, 2))

    def build(x: Any, at: Any, dy: Any) -> list[Any]:
        y = dt.gather_nd(x, at)
        return [y, dt.gradients(y, x, grad_ys=[dy])[0], dt.gather_nd(x, dt.concat([at, at[:, :1] * 0], 1))]

    found, dx, single = run(gpu, build, x, at, dy)
    np.testing.assert_array_equal(found, x[at[:, 0], at[:, 1]])
    right = np.zeros_like(x)
    np.add.at(right, (at[:, 0], at[:, 1]), dy)
    close(dx, right, np.float64)
    np.testing.assert_array_equal(single, x[at[:, 0], at[:, 1], 0])
    with pytest.raises(InvalidArgumentError, match=r"gather_nd: axis 1: the index 4 is not in 0\.\.3"):
        run(gpu, build, x, np.array([[0, 0], [0, 4], [0, 0], [0, 0]]), dy)


@pytest.mark.parametrize("kind", ["gather", "labels", "dropout"])
def test_what_is_bad_is_named_though_the_step_went_on(gpu: Backend, kind: str) -> None:
    """Sums and products behind it write over what nothing else reads."""
    x = np.random.default_rng(14).standard_normal((4, 3)).astype("f")

    def build(x: Any, at: Any) -> Any:
        at = at * 2
        if kind == "gather":
            y = dt.gather(x, at)
        elif kind == "labels":
            y = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=at, logits=x)
        else:
            y = dt.nn.dropout(x, dt.cast(dt.reduce_max(at), "float32"))
        for _ in range(4):
            y = dt.matmul(dt.reshape(y, [-1, 1]), dt.reshape(y, [1, -1]))[:, :2]
        return y

    words = {"gather": "the index 6 is not in", "labels": "a label is 6", "dropout": "6.0 is no probability"}
    with pytest.raises(InvalidArgumentError, match=words[kind]):
        run(gpu, build, x, np.array([0, 3, 1, 0], np.int32))


def test_the_largest_few_pass_on_what_flows_back_twice(gpu: Backend) -> None:
    generator = np.random.default_rng(11)
    x, dy, g = (
        generator.standard_normal((4, 7)),
        generator.standard_normal((4, 3)),
        generator.standard_normal((4, 7)),
    )

    def build(x: Any, dy: Any, g: Any) -> list[Any]:
        (dx,) = dt.gradients(dt.nn.top_k(x, 3)[0], x, grad_ys=[dy])
        return [dx, dt.gradients(dx, dy, grad_ys=[g])[0]]

    order = np.argsort(-x)[:, :3]
    right = np.zeros_like(x)
    np.put_along_axis(right, order, dy, -1)
    dx, back = run(gpu, build, x, dy, g)
    np.testing.assert_array_equal(dx, right)
    np.testing.assert_array_equal(back, np.take_along_axis(g, order, -1))


def test_whether_a_class_is_among_the_largest(gpu: Backend) -> None:
    x = np.array(
        [[1, 3, 3, 2], [1, 3, 3, 2], [np.nan, 1, 0, 0], [np.inf, 1, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]], "f"
    )
    targets = np.array([2, 3, 0, 0, -1, 4], np.int32)
    found = run(gpu, lambda x, t: [dt.nn.in_top_k(x, t, k) for k in (1, 2, 3)], x, targets)
    right = [[True, False, False, False, False, False]] * 2 + [[True, True, False, False, False, False]]
    np.testing.assert_array_equal(found, right)


# -- products --------------------------------------------------------------------------------------------
BATCHES: list[tuple[Sequence[int], Sequence[int]]] = [
    ((5,), (5,)), ((2, 1), (5,)), ((), (5,)), ((3, 2), ()), ((3, 1, 2), (1, 4, 2)), ((3, 1), (1, 4)),
    ((0,), (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("batch_a", "batch_b"), BATCHES)
@pytest.mark.parametrize(("across_a", "across_b"), BOTH)
def test_products_of_many_matrices(
    gpu: Backend, batch_a: Sequence[int], batch_b: Sequence[int], across_a: bool, across_b: bool
) -> None:
    generator = np.random.default_rng(12)
    a = generator.standard_normal((*batch_a, *((3, 2) if across_a else (2, 3))))
    b = generator.standard_normal((*batch_b, *((4, 3) if across_b else (3, 4))))
    (found,) = run(gpu, lambda a, b: dt.matmul(a, b, across_a, across_b), a, b)
    right = (a.swapaxes(-1, -2) if across_a else a) @ (b.swapaxes(-1, -2) if across_b else b)
    close(found, right, np.float64)


def test_products_of_nothing(gpu: Backend) -> None:
    """As of a rank that has no rows: the sum over them is 0."""
    nothing, b = np.zeros((0, 3)), np.ones((3, 4))
    found = run(
        gpu, lambda a, b: [dt.matmul(a, b), dt.matmul(a, dt.matmul(a, b), transpose_a=True)], nothing, b
    )
    assert found[0].shape == (0, 4)
    np.testing.assert_array_equal(found[1], np.zeros((3, 4)))


def test_the_mean_of_a_shard(gpu: Backend) -> None:
    x = np.random.default_rng(13).standard_normal((7, 5, 3))
    (found,) = run(gpu, lambda x: apply(REGISTRY["MeanOfShard"](), x), x)
    close(found, np.broadcast_to(x.mean((0, 1)), x.shape), np.float64)
