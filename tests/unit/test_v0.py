"""Names and orders of arguments that TensorFlow had before 1.0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dtrain as tf
from dtrain.errors import GraphError, UsageError


def run(x: tf.Tensor | list[tf.Tensor]) -> np.ndarray:
    return np.asarray(tf.Session(comm=None).run(x))


def test_former_names_and_orders() -> None:
    a, b = np.arange(6.0, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    assert run(tf.pack([a, b])).shape == (2, 2, 3)
    assert [v.tolist() for v in run(tf.unpack(tf.constant(a)))] == a.tolist()
    np.testing.assert_array_equal(run(tf.batch_matmul(a, b, adj_y=True)), a @ b.T)
    np.testing.assert_array_equal(run(tf.inv(tf.constant([2.0, 4.0]))), [0.5, 0.25])
    np.testing.assert_array_equal(run(tf.concat(1, [a, b])), np.concatenate([a, b], 1))
    np.testing.assert_array_equal(run(tf.split(1, 3, tf.constant(a))), np.split(a, 3, 1))
    with pytest.raises(GraphError, match=r"give concat\(values, axis\)"):
        tf.concat(1, 2)


def test_former_summaries(tmp_path: Path) -> None:
    loss = tf.scalar_summary("loss", tf.constant(3.0))
    tf.histogram_summary("values", tf.constant([1.0, 2.0]))
    tf.image_summary("images", tf.zeros([2, 4, 4, 1]), max_images=1)
    assert tf.merge_summary([loss]) is not None
    merged = tf.merge_all_summaries()
    with tf.Session(comm=None) as session:
        writer = tf.train.SummaryWriter(str(tmp_path), graph_def=session.graph_def)
        writer.add_summary(session.run(merged), 1)
        writer.close()
    (file,) = tmp_path.iterdir()
    text = file.read_bytes()
    assert b"loss" in text and b"values" in text and b"images/image" in text and b"MergeSummary" in text
    with pytest.raises(UsageError, match="one tag"):
        tf.scalar_summary(["a", "b"], tf.constant([1.0, 2.0]))


def test_logits_and_labels_by_position_are_in_that_order() -> None:
    x = tf.placeholder("float32", [None, 3])
    logits = tf.matmul(x, tf.Variable(tf.ones([3, 4]) * np.arange(4, dtype=np.float32)))
    rows, ones = np.ones((2, 3), np.float32), np.eye(4, dtype=np.float32)[[1, 3]]
    labels, classes = tf.constant(ones), tf.constant([1, 3])
    pairs = (
        (tf.nn.softmax_cross_entropy_with_logits, labels),
        (tf.nn.sigmoid_cross_entropy_with_logits, labels),
        (tf.nn.sparse_softmax_cross_entropy_with_logits, classes),
    )
    with tf.Session(comm=None) as session:
        session.run(tf.global_variables_initializer())
        for loss, right in pairs:
            named = loss(labels=right, logits=logits)
            np.testing.assert_array_equal(*session.run([loss(logits, right), named], {x: rows}))
            with pytest.raises(GraphError, match="give both by name"):
                loss(right, logits)
