"""Values in other forms than the plainest; what is right is what TensorFlow 2.21 gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import GraphError, InvalidArgumentError

LOGITS = np.array([[1, 2, 3], [0, 1, 0]], np.float32)
SOFTMAX = [1.4076059, 1.5514446]


def run(fetches: Any, feeds: Any = None) -> Any:
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    return session.run(fetches, feeds)


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float64", "bool", "float16"])
def test_one_hot_labels_of_any_dtype(dtype: str, as_tensor: bool) -> None:
    rows = np.array([[0, 1, 0], [1, 0, 0]], dtype)
    labels: Any = dt.constant(rows) if as_tensor else rows
    logits = dt.constant(LOGITS)
    for loss in (dt.nn.softmax_cross_entropy_with_logits, dt.nn.softmax_cross_entropy_with_logits_v2):
        losses = loss(labels=labels, logits=logits)
        gradient = dt.gradients(losses, logits)[0]
        found, slope = run([losses, gradient])
        np.testing.assert_allclose(found, SOFTMAX, rtol=1e-6)
        p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
        np.testing.assert_allclose(slope, p - rows.astype(np.float32), rtol=1e-5)
    assert run(dt.losses.softmax_cross_entropy(labels, logits)) == pytest.approx(1.4795253, rel=1e-6)
    assert run(dt.losses.sigmoid_cross_entropy(labels, logits)) == pytest.approx(1.1980555, rel=1e-6)
    each = dt.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    assert run(each).mean() == pytest.approx(1.1980555, rel=1e-6)
    same = dt.nn.weighted_cross_entropy_with_logits(labels=labels, logits=logits, pos_weight=1.0)
    np.testing.assert_allclose(run(same), run(each), rtol=1e-6)


def test_labels_take_the_dtype_of_the_logits() -> None:
    losses = dt.nn.softmax_cross_entropy_with_logits(
        labels=dt.constant(LOGITS), logits=dt.constant(LOGITS.astype(np.float64))
    )
    np.testing.assert_allclose(run(losses), [6.44563579, 0.55144471], rtol=1e-8)


@pytest.mark.parametrize(
    ("value", "shape", "right"),
    [
        ([1, 2], [4], [1, 2, 2, 2]),
        (np.array([1, 2]), [2, 3], [[1, 2, 2], [2, 2, 2]]),
        ([[1, 2], [3, 4]], [2, 3], [[1, 2, 3], [4, 4, 4]]),
        ([[1, 2], [3, 4]], [4], [1, 2, 3, 4]),
        ([True], [2, 1], [[True], [True]]),
        ([], [3], [0.0, 0.0, 0.0]),
        (7, [0], []),
        (["a", "b"], [3], [b"a", b"b", b"b"]),
    ],
)
def test_a_constant_repeats_its_last_value(value: Any, shape: Any, right: Any) -> None:
    assert run(dt.constant(value, shape=shape)).tolist() == right


def test_a_constant_of_too_many_values_is_told() -> None:
    for shape in ([4], [], [2, 2]):
        with pytest.raises(GraphError, match="5 values are too many"):
            dt.constant([1, 2, 3, 4, 5], shape=shape)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
@pytest.mark.parametrize(
    ("values", "mean"),
    [([1, 2], 1), ([-1, -2], -1), ([-3, -4, -4], -3), ([7, 8, 10], 8), ([100, 100, 100], 100), ([], 0)],
)
def test_the_mean_of_integers_is_rounded_towards_0(values: list[int], mean: int, dtype: str) -> None:
    if dtype != "uint8" or min(values, default=0) >= 0:
        found = run(dt.reduce_mean(dt.constant(np.array(values, dtype))))
        assert (found, found.dtype) == (mean, dtype)


def test_means_of_integers_along_an_axis_beyond_int32_and_as_a_size() -> None:
    rows = np.arange(12).reshape(3, 4) - 7
    assert run(dt.reduce_mean(rows, axis=0)).tolist() == [-3, -2, -1, 0]
    assert run(dt.reduce_mean(rows, axis=[1], keepdims=True)).tolist() == [[-5], [-1], [2]]
    assert run(dt.reduce_mean(np.full(6, 2**30, np.int32))) == 2**30
    assert run(dt.zeros([dt.reduce_mean([2, 5])])).shape == (3,)


# -- two writes of a variable ----------------------------------------------------------------------------
def test_two_writes_of_a_variable_come_in_the_graphs_order() -> None:
    """TensorFlow runs them in an order that it leaves open."""
    v = dt.Variable(1.0)
    assert run([v.assign(2.0), v.assign(3.0), v]) == [2, 3, 1]
    v = dt.Variable(1.0)
    session = dt.Session(comm=None)
    session.run(v.initializer)
    first, second = v.assign_add(2.0), v.assign(10.0)
    assert session.run([second, first]) == [10, 3]
    assert session.run(v) == 10


def test_what_follows_from_a_write_reads_before_the_next() -> None:
    v = dt.Variable(1.0)
    first = v.assign(v * 2)
    after_first = first + 100
    second = v.assign_add(1.0)
    after_second = second + 100
    assert run([after_second, after_first, v.read_value()]) == [103, 102, 1]


def test_a_step_and_a_clip_of_one_variable_in_a_run() -> None:
    w = dt.Variable([1.0, 5.0])
    step = dt.train.GradientDescentOptimizer(0.1).minimize(dt.reduce_sum(w * w))
    clip = w.assign(dt.clip_by_value(w, 0.0, 1.0))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run([step, clip])
    np.testing.assert_array_equal(session.run(w), [1, 1])


# -- random numbers --------------------------------------------------------------------------------------
@pytest.mark.parametrize("draw", [dt.random_normal, dt.truncated_normal, dt.random_uniform])
def test_random_numbers_with_tensors_for_their_bounds(draw: Any) -> None:
    dt.set_random_seed(5)
    first, second = dt.placeholder("float", [3]), dt.Variable(0.5)
    at = np.array([1, 20, 300], np.float32)
    plain = draw([4, 3], 0.0, 1.0, seed=2)
    tensor = draw([4, 3], first, second, seed=2)
    assert tensor.shape.as_list() == [4, 3]
    to_first, to_second = dt.gradients(tensor, [first, second])
    z, y, a, b = run([plain, tensor, to_first, to_second], {first: at})
    if draw is dt.random_uniform:  # from `first` to `second`
        np.testing.assert_allclose(y, z * (0.5 - at) + at, rtol=1e-5)
        np.testing.assert_allclose(a, (1 - z).sum(0), rtol=1e-5)
    else:
        np.testing.assert_allclose(y, z * 0.5 + at, rtol=1e-6)
        np.testing.assert_array_equal(a, [4, 4, 4])
    np.testing.assert_allclose(b, z.sum(), rtol=1e-4)


def test_random_numbers_with_lists_arrays_and_other_shapes() -> None:
    found = run(dt.random_normal([2, 3], mean=[0.0, 10, 20], stddev=np.zeros(())))
    assert found.tolist() == [[0, 10, 20]] * 2
    assert run(dt.random_normal([3], mean=dt.zeros([2, 3]))).shape == (2, 3)
    assert run(dt.random_uniform([100], dt.constant(0.5))).min() >= 0.5
    assert run(dt.random_normal([2], mean=[dt.constant(3.0), 4], stddev=0.0)).tolist() == [3, 4]
    n = dt.placeholder("float", [None, 2])
    assert run(dt.random_normal([dt.shape(n)[0], 3]), {n: np.zeros((5, 2))}).shape == (5, 3)
    assert run(dt.random_normal(dt.shape(n), stddev=n), {n: np.zeros((5, 2))}).tolist() == [[0, 0]] * 5
    with pytest.raises(GraphError, match="cast it"):
        dt.random_normal([2], mean=dt.constant(1))
    with pytest.raises(GraphError, match="broadcast"):
        dt.random_normal([2, 3], mean=dt.zeros([4]))


def test_random_integers_between_tensors() -> None:
    low, high = dt.placeholder("int32", []), dt.placeholder("int32", [])
    drawn = dt.random_uniform([200], low, high, "int32")
    assert set(run(drawn, {low: 3, high: 6})) == {3, 4, 5}
    with pytest.raises(InvalidArgumentError, match="minval is 6, which is not below maxval, 3"):
        run(drawn, {low: 6, high: 3})
    with pytest.raises(GraphError, match="is one number"):
        dt.random_uniform([2], [3, 5], [4, 6], "int32")


def test_weights_of_a_column_weigh_labels_of_a_row() -> None:
    logits = dt.constant([[1.0, 2], [3, 4], [0, 1]])
    for weights in ([1.0, 2, 3], [[1.0], [2], [3]]):
        loss = dt.losses.sparse_softmax_cross_entropy([0, 1, 1], logits, dt.constant(weights))
        assert run(loss) == pytest.approx(0.9598567, rel=1e-6)
    assert run(dt.losses.sparse_softmax_cross_entropy([0, 1, 1], logits, [[2.0]])) == pytest.approx(1.2931899)
