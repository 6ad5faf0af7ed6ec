"""Arithmetic, logic, reductions, clipping and products by TensorFlow 1's names and by Python's operators."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.ops.placement import shard_bounds

few = settings(max_examples=25, derandomize=True, deadline=None)


def run(fetches: Any, feeds: dict[Any, Any] | None = None) -> Any:
    return dt.Session(comm=None).run(fetches, feeds)


def same(tensor: Any, right: Any, feeds: dict[Any, Any] | None = None, tolerance: float = 0) -> None:
    """The tensor's value, shape and dtype are those of a NumPy array."""
    value = np.asarray(run(tensor, feeds))
    right = np.asarray(right)
    assert (value.shape, value.dtype) == (right.shape, right.dtype)
    np.testing.assert_allclose(value, right, rtol=tolerance, atol=tolerance)


# -- operators ---------------------------------------------------------------------------------------------
NUMBERS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


@pytest.mark.parametrize("dtype", ["int32", "int8", "float32", "float64"])
@pytest.mark.parametrize("name", NUMBERS)
def test_operators_on_both_sides_are_those_of_numpy(name: str, dtype: str) -> None:
    function = NUMBERS[name]
    x, y = np.array([[-7, -2], [3, 7]], dtype), np.array([3, -2], dtype)
    a, b = dt.constant(x), dt.constant(y)
    for left, right, result in (
        (a, b, function(x, y)),
        (a, y, function(x, y)),
        (x, b, function(x, y)),
        (a, 3, function(x, x.dtype.type(3))),
        (7, b, function(y.dtype.type(7), y)),
    ):
        same(function(left, right), result)


@pytest.mark.parametrize("function", [operator.truediv, dt.divide, dt.truediv])
@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        ("int32", "float64"),
        ("int64", "float64"),
        ("int8", "float32"),
        ("uint8", "float32"),
        ("float32", "float32"),
    ],
)
def test_true_division_makes_floats(function: Any, dtype: str, result: str) -> None:
    x, y = np.array([7, 1], dtype), np.array([2, 3], dtype)
    same(function(dt.constant(x), dt.constant(y)), x.astype(result) / y.astype(result))
    same(1 / dt.constant(y), np.array(1, result) / y.astype(result))


def test_division_as_python_2_divides() -> None:
    same(dt.div([7, -7], 2), np.array([3, -4], np.int32))
    same(dt.div(dt.constant([7.0]), 2), np.array([3.5], np.float32))


@pytest.mark.parametrize("function", [dt.floordiv, dt.mod, dt.div])
def test_an_integer_divided_by_zero_is_an_error(function: Any) -> None:
    y = dt.placeholder(dt.int32, [None])
    same(function(dt.constant([7]), y), run(function(7, y), {y: [2]}), {y: [2]})
    with pytest.raises(InvalidArgumentError, match="division by zero"):
        run(function(7, y), {y: [2, 0]})
    with pytest.raises(InvalidArgumentError, match="division by zero"):
        run(function(7, [0]))


def test_floats_have_no_such_errors() -> None:
    x = dt.placeholder(dt.float32, [None])
    with np.errstate(all="raise"):
        values = run([1 / x, dt.log(x), dt.sqrt(x - 1), x // 0.0, x**-1.0], {x: [0.0]})
    assert [str(v[0]) for v in values] == ["inf", "-inf", "nan", "nan", "inf"]


def test_powers() -> None:
    same(dt.constant([2, -3]) ** 3, np.array([8, -27], np.int32))
    same(2.0 ** dt.constant([3.0, -1.0]), np.array([8, 0.5], np.float32))
    y = dt.placeholder(dt.int32, [])
    with pytest.raises(InvalidArgumentError, match="negative integer powers"):
        run(2**y, {y: -1})
    same(2**y, np.int32(8), {y: 3})


def test_the_gradient_of_a_power_is_finite_where_its_logarithm_is_not() -> None:
    x, y = dt.constant([0.0, -2.0, 3.0]), dt.constant([2.0, 3.0, 2.0])
    dx, dy = dt.gradients(x**y, [x, y])
    same(dx, np.array([0, 12, 6], np.float32), tolerance=1e-6)
    same(dy, np.array([0, 0, 9 * np.log(3)], np.float32), tolerance=1e-6)


def test_logic_by_operators_and_by_name() -> None:
    x, y = np.array([[True], [False]]), np.array([True, False])
    a, b = dt.constant(x), dt.constant(y)
    for tensor, right in (
        (a & b, x & y),
        (a | b, x | y),
        (a ^ b, x ^ y),
        (~a, ~x),
        (True & b, y),
        (False | b, y),
        (True ^ b, ~y),
        (dt.logical_and(x, y), x & y),
        (dt.logical_or(x, y), x | y),
        (dt.logical_xor(x, y), x ^ y),
        (dt.logical_not(x), ~x),
    ):
        same(tensor, right)
    for build in (lambda: dt.constant(1) & 1, lambda: ~dt.constant(1.0)):
        with pytest.raises(GraphError, match="not defined on"):
            build()


def test_what_kind_of_number_it_is() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    same(dt.is_nan(x), np.isnan(x))
    same(dt.is_inf(x), np.isinf(x))
    same(dt.is_finite(x), np.isfinite(x))


def test_older_and_other_names() -> None:
    assert (dt.sub, dt.mul, dt.neg) == (dt.subtract, dt.multiply, dt.negative)
    assert (dt.mod, dt.floor_div, dt.select) == (dt.floormod, dt.floordiv, dt.where)
    x = dt.constant([1.9, -1.9])
    assert [run(f(x)).dtype.name for f in (dt.to_float, dt.to_double)] == ["float32", "float64"]
    same(dt.to_int32(x), np.array([1, -1], np.int32))
    same(dt.to_int64(x), np.array([1, -1]))
    same(dt.squared_difference([1.0, 2.0], [3.0]), np.array([4, 1], np.float32))


# -- functions ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_is_to_the_even_half(dtype: str) -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4], dtype)
    same(dt.round(x), np.array([-2, -2, 0, 0, 2, 2, 2], dtype))
    same(dt.floor(x), np.floor(x))
    same(dt.ceil(x), np.ceil(x))
    same(dt.round([3, -4]), np.array([3, -4], np.int32))


def test_small_numbers_keep_their_digits() -> None:
    x = np.array([1e-12, -1e-15])
    same(dt.expm1(x), x, tolerance=1e-20)
    same(dt.log1p(x), x, tolerance=1e-20)


def test_the_remainder_has_the_slopes_of_its_pieces() -> None:
    x, y = dt.constant([7.0, -7.0]), dt.constant([3.0, 3.0])
    dx, dy = dt.gradients(x % y, [x, y])
    same(dx, np.array([1, 1], np.float32))
    same(dy, np.array([-2, 3], np.float32))
    assert dt.gradients(x // y, [x, y]) == [None, None]


def test_add_n_adds_tensors_of_one_shape() -> None:
    x = dt.placeholder(dt.float32, [None, 2])
    total = dt.add_n([x, np.ones((1, 2), np.float32), x], name="all")
    assert total.op.name == "all"
    same(total, np.array([[3, 5]], np.float32), {x: [[1, 2]]})
    same(dt.gradients(total, x)[0], np.array([[2, 2]], np.float32), {x: [[1, 2]]})
    same(dt.add_n([dt.constant(3)]), np.int32(3))
    for wrong in ([], [dt.zeros([2]), dt.zeros([3])], dt.zeros([2])):
        with pytest.raises(GraphError, match="add_n"):
            dt.add_n(wrong)


# -- where ---------------------------------------------------------------------------------------------------
@few
@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3))
def test_where_broadcasts_and_so_do_its_gradients(shapes: Any) -> None:
    dt.reset_default_graph()
    generator = np.random.default_rng(1)
    c, x, y = (generator.uniform(-1, 1, s) for s in shapes.input_shapes)
    c = np.asarray(c > 0)
    if c.ndim == 1 and max(np.ndim(x), np.ndim(y)) > 1:
        return  # rows: the test below
    a, b = dt.placeholder(dt.float64, x.shape), dt.placeholder(dt.float64, y.shape)
    feeds = {a: x, b: y}
    chosen = dt.where(c, a, b)
    same(chosen, np.where(c, x, y), feeds)
    total = dt.reduce_sum(chosen)
    for gradient, value, on in zip(dt.gradients(total, [a, b]), (x, y), (c, ~c), strict=True):
        spread = np.broadcast_to(on, np.broadcast_shapes(*shapes.input_shapes)).astype(float)
        same(gradient, _summed(spread, np.shape(value)), feeds, 1e-12)


def _summed(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array summed over what broadcasting to it from a shape repeated."""
    lead = array.ndim - len(shape)
    axes = [lead + i for i, n in enumerate(shape) if n != array.shape[lead + i]]
    return array.sum((*range(lead), *axes)).reshape(shape)


@pytest.mark.parametrize("known", [True, False])
def test_a_condition_of_rank_1_picks_rows(known: bool) -> None:
    c, x = np.array([True, False]), np.arange(4.0).reshape(2, 2)
    condition = dt.constant(c) if known else dt.placeholder(dt.bool, [None])
    same(dt.where(condition, x, -x), np.array([[0.0, 1], [-2, -3]]), {} if known else {condition: c})
    same(dt.where(c, [1, 2], [3, 4]), np.array([1, 4], np.int32))


def test_where_keeps_what_is_not_chosen_out_of_the_gradient() -> None:
    x = dt.constant([0.0, 4.0])
    safe = dt.where(x > 0, dt.sqrt(dt.where(x > 0, x, dt.ones_like(x))), dt.zeros_like(x))
    same(dt.gradients(safe, x)[0], np.array([0, 0.25], np.float32))


def test_where_takes_a_condition_and_both_or_neither() -> None:
    for build, message in (
        (lambda: dt.where([1, 0], 1.0, 2.0), "not bool"),
        (lambda: dt.where([True], 1.0), "both"),
        (lambda: dt.where([True], dt.constant(1), dt.constant(2.0)), "differ"),
    ):
        with pytest.raises(GraphError, match=message):
            build()


# -- clipping ------------------------------------------------------------------------------------------------
def test_values_are_clipped_to_a_range() -> None:
    x = dt.constant([-3.0, 0.5, 3.0])
    clipped = dt.clip_by_value(x, -1.0, 2)
    same(clipped, np.array([-1, 0.5, 2], np.float32))
    same(dt.gradients(clipped, x)[0], np.array([0, 1, 0], np.float32))
    same(dt.clip_by_value([5, -5], -1, 1), np.array([1, -1], np.int32))


def test_norms_are_clipped_where_they_are_larger() -> None:
    x = np.array([[3.0, 4.0], [0.3, 0.4]])
    same(dt.clip_by_norm(x, 1.0, 1), np.array([[0.6, 0.8], [0.3, 0.4]]), tolerance=1e-12)
    same(dt.clip_by_norm(x, 10.0), x, tolerance=1e-12)
    zeros = dt.zeros([2])
    same(dt.gradients(dt.clip_by_norm(zeros, 1.0), zeros)[0], np.ones(2, np.float32))


def test_global_norms() -> None:
    x, y = np.array([3.0, 0.0]), np.array([[4.0]])
    clipped, norm = dt.clip_by_global_norm([x, None, y], 1.0)
    assert clipped[1] is None
    same(norm, 5.0, tolerance=1e-12)
    same(clipped[0], x / 5, tolerance=1e-12)
    same(clipped[2], y / 5, tolerance=1e-12)
    same(dt.clip_by_global_norm([x], 10.0)[0][0], x, tolerance=1e-12)
    same(dt.clip_by_global_norm([x], 2.0, dt.constant(4.0, dt.float64))[0][0], x / 2, tolerance=1e-12)
    for wrong in ([None], dt.zeros([2])):
        with pytest.raises(GraphError, match="global norm"):
            dt.global_norm(wrong)


@pytest.mark.parametrize("size", [2, 5])
def test_clipping_by_the_global_norm_is_that_of_the_whole_batch(
    size: int, on_threads: Callable[..., list[Any]]
) -> None:
    x, w = dt.placeholder(dt.float64, [None, 3]), dt.Variable(np.ones((3, 2)))
    loss = dt.reduce_mean(dt.square(dt.matmul(x, w)))
    fetches = dt.clip_by_global_norm(dt.gradients(loss, [w]), 0.5)
    value, graph, start = np.random.default_rng(1).uniform(-1, 1, (7, 3)), x.graph, w.initializer

    def values(comm: Any, feed: Any) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        session.run(start)
        return session.run(fetches, {x: feed})

    (expected,), norm = values(None, value)

    def rank(comm: Communicator) -> Any:
        low, high = shard_bounds(7, comm.rank, comm.size)
        return values(comm, dt.Shard(value[low:high], 7))

    for (clipped,), length in on_threads(size, rank):
        np.testing.assert_allclose(clipped, expected, rtol=1e-12)
        np.testing.assert_allclose(length, norm, rtol=1e-12)


# -- reductions ------------------------------------------------------------------------------------------
@few
@given(st.data())
def test_reductions_are_those_of_numpy(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3))
    axes = data.draw(st.none() | st.sets(st.integers(0, len(shape) - 1)) if shape else st.none())
    axis = None if axes is None else tuple(sorted(axes))
    keep = data.draw(st.booleans())
    x = np.random.default_rng(2).uniform(-2, 2, shape)
    fed = dt.placeholder(dt.float64, [None] * x.ndim)
    for ours, numpys in (
        (dt.reduce_min, np.min),
        (dt.reduce_max, np.max),
        (dt.reduce_prod, np.prod),
        (dt.reduce_sum, np.sum),
        (dt.reduce_mean, np.mean),
        (dt.reduce_logsumexp, lambda x, axis, keepdims: np.log(np.exp(x).sum(axis, keepdims=keepdims))),
    ):
        same(ours(fed, axis, keep), numpys(x, axis=axis, keepdims=keep), {fed: x}, 1e-12)
    same(dt.reduce_all(fed > 0, axis, keep), (x > 0).all(axis, keepdims=keep), {fed: x})
    same(dt.reduce_any(fed > 0, axis, keep), (x > 0).any(axis, keepdims=keep), {fed: x})
    same(dt.count_nonzero(fed > 0, axis, keep), np.count_nonzero(x > 0, axis, keepdims=keep), {fed: x})


def test_reductions_of_nothing() -> None:
    x = np.zeros((0, 2))
    same(dt.reduce_prod(x, 0), np.ones(2))
    same(dt.reduce_all(x > 0), np.True_)
    same(dt.reduce_any(x > 0, 0), np.zeros(2, bool))


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_the_gradient_of_a_product_is_that_of_the_others_also_with_zeros(zeros: int) -> None:
    x = np.array([[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]])
    x[0, :zeros] = 0
    t = dt.constant(x)
    (gradient,) = dt.gradients(dt.reduce_prod(t, 1), t)
    right = [[np.prod(np.delete(row, i)) for i in range(3)] for row in x]
    same(gradient, np.array(right), tolerance=1e-12)


def test_logsumexp_does_not_overflow() -> None:
    x = dt.constant([[1000.0, 1000.0], [-np.inf, -np.inf], [np.inf, 0.0]])
    value = dt.reduce_logsumexp(x, 1)
    same(value, np.array([1000 + np.log(2), -np.inf, np.inf], np.float32), tolerance=1e-6)
    same(dt.gradients(value, x)[0][:1], np.array([[0.5, 0.5]], np.float32))


def test_positions_of_extremes() -> None:
    x = np.array([[3.0, 1.0, 1.0], [0.0, 4.0, 0.0]])
    same(dt.argmin(x, 1), np.array([1, 0]))
    same(dt.arg_max(x, 0), np.array([0, 1, 0]))
    same(dt.arg_min(x, dimension=1), np.array([1, 0]))
    same(dt.argmax(x, axis=1, output_type=dt.int32), np.array([0, 1], np.int32))
    with pytest.raises(GraphError, match="no entries"):
        dt.argmax(np.zeros((0, 2)))


@few
@given(st.data())
def test_cumsum_is_that_of_numpy_each_way(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    exclusive, reverse = data.draw(st.booleans()), data.draw(st.booleans())
    x = (
        np.random.default_rng(0)
        .integers(-5, 5, shape)
        .astype(data.draw(st.sampled_from(["int8", "float32"])))
    )
    right = np.flip(x, axis) if reverse else x
    right = np.cumsum(right, axis, dtype=x.dtype) - (right if exclusive else 0)
    same(dt.cumsum(x, axis, exclusive, reverse), np.flip(right, axis) if reverse else right)


# -- products ------------------------------------------------------------------------------------------------
@few
@given(st.data())
def test_products_of_many_matrices(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, min_side=0, max_side=3))
    m, k, n = data.draw(st.tuples(*[st.integers(0, 3)] * 3))
    ta, tb = data.draw(st.booleans()), data.draw(st.booleans())
    generator = np.random.default_rng(1)
    batches = list(shapes.input_shapes)
    a = generator.uniform(-1, 1, (*batches[0], *((k, m) if ta else (m, k))))
    b = generator.uniform(-1, 1, (*batches[1], *((n, k) if tb else (k, n))))
    x, y = dt.placeholder(dt.float64, a.shape), dt.placeholder(dt.float64, b.shape)
    product = dt.matmul(x, y, ta, tb)
    right = (a.swapaxes(-1, -2) if ta else a) @ (b.swapaxes(-1, -2) if tb else b)
    same(product, right, {x: a, y: b}, 1e-12)
    assert product.shape == right.shape
    # d sum(ab) / da is what sum's gradient does with ones
    ones = np.ones(right.shape)
    whole = ones @ (b if tb else b.swapaxes(-1, -2))
    whole = whole.swapaxes(-1, -2) if ta else whole
    same(dt.gradients(product, x)[0], _summed(whole, a.shape), {x: a, y: b}, 1e-12)


def test_products_that_do_not_fit() -> None:
    for a, b, message in (
        ((2, 2, 3), (2, 2, 3), "inner sizes 3 and 2"),
        ((2, 2, 3), (3, 3, 2), "do not broadcast"),
        ((3,), (2, 3, 2), "not a matrix"),
    ):
        with pytest.raises(GraphError, match=message):
            dt.matmul(np.zeros(a), np.zeros(b))
    assert dt.matmul(np.zeros((5, 2, 3)), np.zeros((5, 3, 4)), name="scores").op.name == "scores"
