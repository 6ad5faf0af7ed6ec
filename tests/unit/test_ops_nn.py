"""dt.nn beside convolution, pooling and dropout: activations, losses, normalisation, on odd inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import GraphError


def run(fetches: Any, feed_dict: Any = None) -> Any:
    return dt.Session(comm=None).run(fetches, feed_dict)


X = np.array([-1000.0, -20.0, -1.0, -1e-8, 0.0, 1e-8, 0.5, 6.0, 7.0, 20.0, 1000.0])

#: Each activation at X, by formulas that hold up at any x.
ACTIVATIONS: dict[str, tuple[Callable[..., dt.Tensor], np.ndarray]] = {
    "relu": (dt.nn.relu, np.where(X > 0, X, 0)),
    "relu6": (dt.nn.relu6, np.clip(X, 0, 6)),
    "leaky_relu": (dt.nn.leaky_relu, np.where(X > 0, X, 0.2 * X)),
    "steep leaky_relu": (lambda x: dt.nn.leaky_relu(x, alpha=3.0), np.where(X > 0, X, 3 * X)),
    "elu": (dt.nn.elu, np.where(X > 0, X, np.expm1(np.minimum(X, 0)))),
    "selu": (
        dt.nn.selu,
        1.0507009873554805 * np.where(X > 0, X, 1.6732632423543772 * np.expm1(np.minimum(X, 0))),
    ),
    "softplus": (dt.nn.softplus, np.logaddexp(0, X)),
    "softsign": (dt.nn.softsign, X / (1 + np.abs(X))),
    "sigmoid": (dt.nn.sigmoid, np.exp(-np.logaddexp(0, -X))),
    "tanh": (dt.nn.tanh, np.tanh(X)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_hold_up_at_any_input(name: str) -> None:
    function, expected = ACTIVATIONS[name]
    x = dt.placeholder("float64", [len(X)])
    y = function(x)
    value, slope = run([y, dt.gradients(y, x)[0]], {x: X})
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-15)
    assert np.isfinite(slope).all()
    single = function(dt.constant(X, "float32"))
    assert single.dtype == "float32"
    np.testing.assert_allclose(run(single), expected, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["relu", "relu6"])
def test_some_activations_take_integers(name: str) -> None:
    assert (
        run(getattr(dt.nn, name)(np.array([-3, 2, 9]))).tolist()
        == {"relu": [0, 2, 9], "relu6": [0, 2, 6]}[name]
    )


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_softmax_runs_over_any_axis(axis: int) -> None:
    value = np.random.default_rng(0).uniform(-3, 3, (2, 3, 4))
    x = dt.placeholder("float64", value.shape)
    powers = np.exp(value)
    right = powers / powers.sum(axis, keepdims=True)
    found = run([dt.nn.softmax(x, axis), dt.nn.softmax(x, dim=axis), dt.nn.log_softmax(x, axis)], {x: value})
    for one, reference in zip(found, (right, right, np.log(right)), strict=True):
        np.testing.assert_allclose(one, reference, rtol=1e-12)


def test_softmax_over_an_axis_that_is_not_there_is_an_error() -> None:
    for bad in ({"axis": 2}, {"axis": -3}, {"axis": 1, "dim": 1}):
        with pytest.raises(GraphError):
            dt.nn.softmax(np.zeros((2, 3)), **bad)


# -- losses ----------------------------------------------------------------------------------------------
def entropy(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return -(labels * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 3, 4)])
@pytest.mark.parametrize("known", [True, False])
def test_cross_entropies_take_logits_of_any_rank(shape: tuple[int, ...], known: bool) -> None:
    generator = np.random.default_rng(1)
    logits, labels = generator.uniform(-3, 3, shape), generator.dirichlet(np.ones(4), shape[:-1])
    classes = generator.integers(0, 4, shape[:-1]).astype(np.int32)
    open_shape = shape if known else (*(None for _ in shape[:-1]), 4)
    x, p = dt.placeholder("float64", open_shape), dt.placeholder("float64", open_shape)
    i = dt.placeholder("int32", open_shape[:-1])
    dense = dt.nn.softmax_cross_entropy_with_logits_v2(labels=p, logits=x)
    sparse = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=i, logits=x)
    fetches = [dense, sparse, *dt.gradients(dense, [x, p]), *dt.gradients(sparse, x)]
    found = run(fetches, {x: logits, p: labels, i: classes})
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    hot = np.eye(4)[classes]
    right = [
        entropy(labels, logits),
        entropy(hot, logits),
        softmax - labels,
        -np.log(softmax),
        softmax - hot,
    ]
    for one, reference in zip(found, right, strict=True):
        assert np.shape(one) == reference.shape
        np.testing.assert_allclose(one, reference, rtol=1e-10, atol=1e-12)


def test_the_classes_of_a_cross_entropy_may_lie_along_another_axis() -> None:
    generator = np.random.default_rng(2)
    logits, labels = generator.uniform(-3, 3, (4, 2, 3)), generator.uniform(0, 1, (4, 2, 3))
    right = entropy(np.moveaxis(labels, 0, -1), np.moveaxis(logits, 0, -1))
    for how in ({"dim": 0}, {"axis": -3}):
        loss = dt.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits, **how)
        np.testing.assert_allclose(run(loss), right, rtol=1e-12)


def test_ranks_share_a_cross_entropy_of_rank_3(on_threads: Callable[..., list[Any]]) -> None:
    logits = np.random.default_rng(1).uniform(-3, 3, (5, 3, 4))
    labels = np.arange(15).reshape(5, 3).astype(np.int32) % 4
    x, i = dt.placeholder("float64", [None, 3, 4]), dt.placeholder("int32", [None, 3])
    loss = dt.reduce_mean(dt.nn.sparse_softmax_cross_entropy_with_logits(labels=i, logits=x))
    fetches = [loss, dt.gradients(loss, x)[0]]
    graph = dt.get_default_graph()

    def body(comm: Any) -> Any:
        low, high = (5 * r // comm.size for r in (comm.rank, comm.rank + 1))
        feeds = {x: dt.Shard(logits[low:high], 5), i: dt.Shard(labels[low:high], 5)}
        return dt.Session(graph=graph, comm=comm).run(fetches, feeds)

    expected = run(fetches, {x: logits, i: labels})
    for found in on_threads(3, body):
        for one, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-12)


def test_sigmoid_cross_entropies_neither_overflow_nor_cancel() -> None:
    x = np.array([-1000.0, -30.0, 0.0, 30.0, 1000.0])
    for z in (0.0, 0.3, 1.0):
        labels = np.full(5, z)
        right = z * np.logaddexp(0, -x) + (1 - z) * np.logaddexp(0, x)
        for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
            logits, target = dt.constant(x, dtype), dt.constant(labels, dtype)
            loss = dt.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits)
            np.testing.assert_allclose(run(loss), right, rtol=tolerance)
            weighted = dt.nn.weighted_cross_entropy_with_logits(target, logits, 2.5)
            expected = 2.5 * z * np.logaddexp(0, -x) + (1 - z) * np.logaddexp(0, x)
            np.testing.assert_allclose(run(weighted), expected, rtol=tolerance, atol=tolerance)


def test_a_target_is_in_the_top_k_with_those_that_tie_with_it() -> None:
    nan, inf = np.nan, np.inf
    predictions = np.array(
        [[0.1, 0.5, 0.4], [2, 2, 2], [1, 2, 3], [1, 2, 3], [nan, 1, 2], [1, inf, 0], [1, 2, 3]], np.float32
    )
    targets = np.array([1, 2, 0, 3, 0, 1, -1], np.int64)
    found = run([dt.nn.in_top_k(predictions, targets, k) for k in (1, 2, 3)])
    assert [f.tolist() for f in found] == [
        [True, True, False, False, False, False, False],
        [True, True, False, False, False, False, False],
        [True, True, True, False, False, False, False],
    ]


def test_the_k_largest_come_first_and_the_first_of_equals_before() -> None:
    x = dt.placeholder("float64", [None, 5])
    values, indices = dt.nn.top_k(x, 3)
    data = [[1.0, 4, 2, 4, 0], [3, 3, 3, 3, 3]]
    found = run([values, indices, dt.gradients(values, x)[0]], {x: data})
    assert found[0].tolist() == [[4, 4, 2], [3, 3, 3]]
    assert found[1].tolist() == [[1, 3, 2], [0, 1, 2]]
    assert found[2].tolist() == [[0, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert run(dt.nn.top_k(np.array([0, 200, 100], np.uint8))[1]).tolist() == [1]
    with pytest.raises(GraphError, match="has not 6 entries"):
        dt.nn.top_k(x, 6)


# -- layers ----------------------------------------------------------------------------------------------
def test_a_bias_is_added_along_the_channels() -> None:
    value, bias = np.arange(24.0).reshape(2, 3, 4), np.array([10.0, 20, 30, 40])
    np.testing.assert_array_equal(run(dt.nn.bias_add(value, bias)), value + bias)
    first = run(dt.nn.bias_add(value, bias[:3], data_format="NCHW"))
    np.testing.assert_array_equal(first, value + bias[:3, None])
    x, b = dt.placeholder("float64", [2, 3, 4]), dt.placeholder("float64", [3])
    (gradient,) = dt.gradients(dt.nn.bias_add(x, b, "NCHW"), b)
    assert run(gradient, {x: value, b: bias[:3]}).tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("value", "bias"), [((2, 3), (2,)), ((2, 3), (1,)), ((2, 3), (2, 3)), ((3,), (3,)), ((2, 3), ())]
)
def test_a_bias_of_another_length_is_an_error(value: tuple[int, ...], bias: tuple[int, ...]) -> None:
    with pytest.raises(GraphError, match="bias_add"):
        dt.nn.bias_add(np.zeros(value), np.zeros(bias))


def test_xw_plus_b_and_l2_loss() -> None:
    x, w, b = np.ones((2, 3)), np.arange(12.0).reshape(3, 4), np.array([1.0, 0, 0, -1])
    np.testing.assert_array_equal(run(dt.nn.xw_plus_b(x, w, b)), x @ w + b)
    t = dt.constant([[1.0, 2], [3, 4]])
    loss, gradient = run([dt.nn.l2_loss(t), dt.gradients(dt.nn.l2_loss(t), t)[0]])
    assert (loss, gradient.tolist()) == (15, [[1, 2], [3, 4]])


def test_small_words() -> None:
    x = np.array([[-1.0, 2.0, 0.0]])
    np.testing.assert_array_equal(run(dt.nn.crelu(x)), [[0, 2, 0, 1, 0, 0]])
    np.testing.assert_allclose(run(dt.nn.swish(x)), x / (1 + np.exp(-x)))
    np.testing.assert_allclose(run(dt.nn.zero_fraction(x)), 1 / 3, rtol=1e-6)
    table = dt.Variable(np.arange(6.0).reshape(3, 2))
    rows = dt.nn.embedding_lookup(table, [[2], [0]])
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    assert session.run(rows).tolist() == [[[4, 5]], [[0, 1]]]
    w, b = np.eye(3), np.array([0.0, -3, 1])
    np.testing.assert_array_equal(run(dt.nn.relu_layer(x, w, b)), [[0, 0, 1]])


def test_l2_normalize_makes_lengths_one_and_leaves_zeros() -> None:
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]])
    np.testing.assert_allclose(run(dt.nn.l2_normalize(x, 1)), [[0.6, 0.8], [0, 0], [1e-3, 0]], rtol=1e-12)
    np.testing.assert_allclose(run(dt.nn.l2_normalize(x, dim=0)), x / np.sqrt((x * x).sum(0)))


@pytest.mark.parametrize(("axes", "keep"), [([0], False), ([0, 1, 2], False), ([1, 2], True), ([-1], False)])
def test_moments_are_mean_and_variance(axes: list[int], keep: bool) -> None:
    x = np.random.default_rng(3).normal(1e3, 1, (4, 3, 2, 5))
    mean, variance = run(dt.nn.moments(x, axes, keep_dims=keep))
    np.testing.assert_allclose(mean, x.mean(tuple(axes), keepdims=keep), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var(tuple(axes), keepdims=keep), rtol=1e-9)


def normalized(x: dt.Tensor, scale: dt.Tensor, offset: dt.Tensor) -> dt.Tensor:
    mean, variance = dt.nn.moments(x, [0, 1])
    return dt.nn.batch_normalization(x, mean, variance, offset, scale, 0.01)


def test_the_gradients_of_batch_normalisation_are_those_of_finite_differences() -> None:
    generator = np.random.default_rng(8)
    values = [generator.uniform(-1, 1, shape) for shape in ((4, 2, 3), (3,), (3,))]
    weights = generator.uniform(-1, 1, (4, 2, 3))
    feeds = [dt.placeholder("float64", v.shape) for v in values]
    total = dt.reduce_sum(normalized(*feeds) * weights)
    grads = dt.gradients(total, feeds)
    session = dt.Session(comm=None)
    value = session.make_callable(total, feeds)
    for at, found in enumerate(session.run(grads, dict(zip(feeds, values, strict=True)))):
        for index in np.ndindex(found.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [v.copy() for v in values]
                moved[at][index] += step
                ends.append(float(value(*moved)))
            np.testing.assert_allclose(found[index], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_normalise_over_the_whole_batch(ranks: int, on_threads: Callable[..., list[Any]]) -> None:
    value = np.random.default_rng(9).uniform(-1, 1, (7, 2, 3))
    x = dt.placeholder("float64", [None, 2, 3])
    scale, offset = dt.constant([1.0, 2, 3], "float64"), dt.constant([0.5, 0, -1], "float64")
    y = normalized(x, scale, offset)
    fetches = [y, *dt.gradients(dt.square(y) * y, [x, scale, offset])]
    graph = dt.get_default_graph()

    def body(comm: Any) -> Any:
        low, high = (7 * r // comm.size for r in (comm.rank, comm.rank + 1))
        return dt.Session(graph=graph, comm=comm).run(fetches, {x: dt.Shard(value[low:high], 7)})

    expected = run(fetches, {x: value})
    right = (value - value.mean((0, 1))) / np.sqrt(value.var((0, 1)) + 0.01) * [1, 2, 3] + [0.5, 0, -1]
    np.testing.assert_allclose(expected[0], right, rtol=1e-12)
    for found in on_threads(ranks, body):
        for one, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, reference, rtol=1e-10, atol=1e-13)


def test_fused_batch_norm_gives_its_statistics_and_takes_running_ones() -> None:
    x = np.random.default_rng(10).uniform(-1, 1, (4, 2, 3, 2))
    scale, offset = np.array([1.5, 0.5]), np.array([1.0, -1.0])
    y, mean, variance = run(dt.nn.fused_batch_norm(x, scale, offset))
    right = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 0.001) * scale + offset
    np.testing.assert_allclose(y, right, rtol=1e-10)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var((0, 1, 2), ddof=1), rtol=1e-12)
    given = run(dt.nn.fused_batch_norm(x, scale, offset, mean, variance, is_training=False)[0])
    np.testing.assert_allclose(given, (x - mean) / np.sqrt(variance + 0.001) * scale + offset, rtol=1e-10)
    with pytest.raises(GraphError, match="is_training"):
        dt.nn.fused_batch_norm(x, scale, offset, is_training=False)


MISFITS: dict[str, Callable[[], Any]] = {
    "top k of integers": lambda: dt.nn.in_top_k(np.zeros((2, 3), int), [0, 1], 1),
    "top k of rank 1": lambda: dt.nn.in_top_k(np.zeros(3), [0, 1, 2], 1),
    "targets of another length": lambda: dt.nn.in_top_k(np.zeros((2, 3)), [0, 1, 2], 1),
    "labels of another shape": lambda: dt.nn.sigmoid_cross_entropy_with_logits(
        labels=np.zeros(3), logits=np.zeros(4)
    ),
    "sparse labels of another shape": lambda: dt.nn.sparse_softmax_cross_entropy_with_logits(
        labels=np.zeros((2, 2), int), logits=np.zeros((2, 3, 4))
    ),
    "softplus of integers": lambda: dt.nn.softplus([1, 2]),
    "a loss without logits": lambda: dt.nn.sigmoid_cross_entropy_with_logits(labels=np.zeros(3)),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_an_error_at_its_line(name: str) -> None:
    with pytest.raises(GraphError):
        MISFITS[name]()
