"""Words of old programs whose values TensorFlow cannot give: random ones, host calls, errors, rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain as tf
from dtrain.comm import Communicator
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.ops.placement import shard_bounds


def run(x: Any, feeds: Any = None) -> Any:
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    return session.run(x, feeds)


# -- random ----------------------------------------------------------------------------------------------
def test_numbers_from_tensors_make_random_ones() -> None:
    tf.set_random_seed(1)
    n = tf.constant(16.0)
    for x, mean, deviation in (
        (tf.random_normal([5000], stddev=1 / tf.sqrt(n)), 0, 0.25),
        (tf.random_normal([tf.Dimension(5000)], mean=np.float64(2), stddev=np.float64(0.5)), 2, 0.5),
        (tf.Variable(tf.truncated_normal([5000], stddev=tf.div(1.0, tf.sqrt(n)))), 0, 0.25 * 0.8796),
        (tf.random_uniform([5000], -tf.sqrt(n), tf.sqrt(n)), 0, 8 / np.sqrt(12)),
        (
            tf.get_variable("v", [5000], initializer=tf.random_normal_initializer(stddev=1 / tf.sqrt(n))),
            0,
            0.25,
        ),
    ):
        value = run(x)
        assert abs(value.mean() - mean) < 5 * deviation / 70 and abs(value.std() / deviation - 1) < 0.05


def test_classes_are_drawn_by_their_odds() -> None:
    tf.set_random_seed(2)
    odds = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        drawn = run(tf.multinomial(np.log(odds).astype("float32"), 4000))
    assert drawn.dtype == np.int64 and drawn.shape == (2, 4000)
    shares = [np.bincount(row, minlength=3) / 4000 for row in drawn]
    np.testing.assert_allclose(shares, odds, atol=0.03)


def test_candidates_follow_their_law() -> None:
    tf.set_random_seed(3)
    true = tf.constant([[0], [3]], "int64")
    sampled, of_true, of_sampled = run(tf.nn.log_uniform_candidate_sampler(true, 1, 20000, False, 6))
    law = np.log((np.arange(6) + 2) / (np.arange(6) + 1)) / np.log(7)
    np.testing.assert_allclose(np.bincount(sampled, minlength=6) / 20000, law, atol=0.01)
    np.testing.assert_allclose(of_true[:, 0] / 20000, law[[0, 3]], rtol=1e-5)
    np.testing.assert_allclose(of_sampled / 20000, law[sampled], rtol=1e-5)
    for _ in range(3):
        sampled, of_true, _ = run(tf.nn.uniform_candidate_sampler(true, 1, 5, True, 6))
        assert len(set(sampled.tolist())) == 5 and (of_true < 1).all()
    with pytest.raises(GraphError, match="7 different classes of 6"):
        tf.nn.uniform_candidate_sampler(true, 1, 7, True, 6)


def test_a_crop_is_a_part_and_moves() -> None:
    tf.set_random_seed(4)
    x = np.arange(42).reshape(6, 7)
    session, crop = tf.Session(), tf.random_crop(x, [2, 7])
    starts = set()
    for _ in range(20):
        part = session.run(crop)
        row = part[0, 0] // 7
        np.testing.assert_array_equal(part, x[row : row + 2])
        starts.add(int(row))
    assert len(starts) > 2 and starts <= set(range(5))
    with pytest.raises(GraphError, match="more than the shape"):
        tf.random_crop(x, [7, 7])


def test_an_orthogonal_matrix() -> None:
    for shape in ([3, 5], [2, 3, 4]):
        w = run(tf.get_variable(f"w{len(shape)}", shape, initializer=tf.orthogonal_initializer(2.0)))
        m = w.reshape(-1, shape[-1])
        product = m @ m.T if len(m) < m.shape[1] else m.T @ m
        np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)
    u = run(tf.get_variable("u", [300, 9], initializer=tf.uniform_unit_scaling_initializer()))
    assert 0.095 < np.abs(u).max() <= 0.1


# -- host calls ------------------------------------------------------------------------------------------
def test_python_in_a_step() -> None:
    x = tf.placeholder(tf.float32, [None, 2])
    doubled = tf.py_func(lambda a: 2 * a, [x], tf.float32)
    total, count = tf.py_func(lambda a: (a.sum(), np.int64(a.size)), [doubled], [tf.float32, tf.int64])
    total.set_shape([])
    count.set_shape([])
    value = run([doubled, total + 1, count], {x: np.ones((3, 2))})
    np.testing.assert_array_equal(value[0], 2 * np.ones((3, 2)))
    assert value[1:] == [13.0, 6]
    wrong = tf.py_func(lambda a: a.sum(), [x], tf.float32)
    with pytest.raises(InvalidArgumentError, match=r"gives float32\[\] where float32\[3, 2\] is expected"):
        run(wrong, {x: np.ones((3, 2))})


def test_python_gets_whole_arrays_on_all_ranks(on_threads: Any) -> None:
    def body(comm: Communicator) -> Any:
        with tf.Graph().as_default():
            x = tf.placeholder(tf.float32, [None])
            y = tf.py_func(lambda a: np.cumsum(a, dtype="float32"), [x], tf.float32)
            low, high = shard_bounds(7, comm.rank, comm.size)
            rows = tf.Shard(np.arange(7, dtype="float32")[low:high], 7)
            return tf.Session(comm=comm).run(y + 1, {x: rows})

    for size in (2, 3):
        for found in on_threads(size, body):
            np.testing.assert_array_equal(found, np.cumsum(np.arange(7)) + 1)


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    x = tf.Print(
        tf.constant([1.0, 2, 3, 4]), [tf.constant([1.5, 2, 3, 4]), tf.constant("a")], "see: ", first_n=1
    )
    session = tf.Session()
    assert session.run(x).tolist() == [1, 2, 3, 4] and session.run(x).tolist() == [1, 2, 3, 4]
    session.run(tf.print("m", tf.constant([[1, 2], [3, 4]]), "end"))
    assert capsys.readouterr().err == "see: [1.5 2 3...][a]\nm [[1 2]\n [3 4]] end\n"


def test_assertions() -> None:
    x = tf.placeholder(tf.float32, [None])
    checks = {
        tf.assert_positive(x): [1, -1],
        tf.assert_less(x, [3.0, 3.0]): [1, 3],
        tf.assert_equal(x, [1.0, 2.0], message="not the same"): [1, 1],
        tf.Assert(tf.reduce_all(x > 0), ["x is", x]): [0, 1],
    }
    session = tf.Session()
    for check, bad in checks.items():
        with tf.control_dependencies([check]):
            y = tf.identity(x)
        assert session.run(y, {x: [1, 2]}).tolist() == [1, 2]
        with pytest.raises(InvalidArgumentError, match="assertion failed: "):
            session.run(y, {x: bad})
    with pytest.raises(InvalidArgumentError, match=r"assertion failed: x is \[0 1\]"):
        session.run(check, {x: [0, 1]})
    for wrong in (lambda: tf.assert_rank(x, 2), lambda: tf.assert_integer(x), lambda: tf.assert_scalar(x)):
        with pytest.raises(GraphError):
            wrong()
    tf.assert_rank_at_least(x, 1), tf.assert_type(x, tf.float32), tf.assert_rank_in(x, [1, 2])


# -- variables -------------------------------------------------------------------------------------------
def test_rows_of_a_variable_are_written() -> None:
    v = tf.Variable(np.arange(8, dtype="float32").reshape(4, 2))
    session = tf.Session()
    for write, right in (
        (tf.scatter_update(v, [1, 3], [[9.0, 9], [8, 8]]), [[0, 1], [9, 9], [4, 5], [8, 8]]),
        (tf.scatter_add(v, [0, 0], [[1.0, 1], [2, 2]]), [[3, 4], [2, 3], [4, 5], [6, 7]]),
        (tf.scatter_sub(v, 2, [1.0, 1.0]), [[0, 1], [2, 3], [3, 4], [6, 7]]),
    ):
        session.run(tf.global_variables_initializer())
        assert session.run(write).tolist() == right and session.run(v).tolist() == right


def test_a_template_shares_its_variables() -> None:
    linear = tf.make_template("linear", lambda x, n: tf.layers.dense(x, n, name="in"), n=2)
    a, b = linear(tf.ones([1, 3])), linear(tf.zeros([4, 3]))
    assert [v.op.name for v in tf.global_variables()] == ["linear/in/kernel", "linear/in/bias"]
    assert (a.shape.as_list(), b.shape.as_list()) == ([1, 2], [4, 2]) and linear.name == "linear"
    other = tf.make_template("linear", lambda x: tf.layers.dense(x, 2))
    other(tf.ones([1, 3]))
    assert other.variables[0].op.name == "linear_1/dense/kernel"


def test_averages_of_what_cannot_be() -> None:
    average = tf.train.ExponentialMovingAverage(0.9)
    v = tf.Variable(1.0)
    average.apply([v])
    for wrong, text in (
        (v, "has a moving average already"),
        (tf.Variable(1), "is int32, and averages are of floats"),
        (tf.placeholder(tf.float32, [None]), "which is to be fixed"),
    ):
        with pytest.raises(GraphError, match=text):
            average.apply([wrong])
    assert tf.moving_average_variables() == [v] and average.average(tf.Variable(2.0)) is None


# -- channels first --------------------------------------------------------------------------------------
def test_channels_first_are_channels_last_turned() -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype("float32")
    f = np.random.default_rng(1).normal(size=(3, 2, 3, 4)).astype("float32")
    turned = x.transpose(0, 3, 1, 2)
    pairs = (
        (
            tf.nn.conv2d(turned, f, [1, 1, 2, 1], "SAME", data_format="NCHW"),
            tf.nn.conv2d(x, f, [1, 2, 1, 1], "SAME"),
        ),
        (
            tf.nn.max_pool(turned, [1, 1, 2, 3], [1, 1, 2, 1], "SAME", data_format="NCHW"),
            tf.nn.max_pool(x, [1, 2, 3, 1], [1, 2, 1, 1], "SAME"),
        ),
        (
            tf.layers.conv2d(
                turned, 2, 3, data_format="channels_first", name="c", kernel_initializer=tf.ones_initializer()
            ),
            tf.layers.conv2d(x, 2, 3, name="c", reuse=True),
        ),
        (
            tf.layers.average_pooling2d(turned, 2, 2, data_format="channels_first"),
            tf.layers.average_pooling2d(x, 2, 2),
        ),
    )
    for first, last in pairs:
        a, b = run([first, last])
        np.testing.assert_allclose(a, b.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
