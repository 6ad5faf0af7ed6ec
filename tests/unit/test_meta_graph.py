"""Graphs in files: meta graphs, frozen graphs, saved models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as tf
from dtrain.errors import CheckpointError, GraphError, InvalidArgumentError, UsageError

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
Y = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]


@pytest.fixture(autouse=True)
def graph() -> Any:
    with tf.Graph().as_default() as graph:
        yield graph


def model() -> tuple[Any, Any]:
    """A network with sizes from shapes, slices, random numbers, a branch, a loop and a training step."""
    x = tf.placeholder(tf.float32, [None, 4], name="x")
    y = tf.placeholder(tf.float32, [None, 3], name="y")
    keep = tf.placeholder_with_default(1.0, [], name="keep")
    with tf.variable_scope("layer"):
        w = tf.get_variable("w", [4, 3], initializer=tf.random_normal_initializer(seed=1))
        b = tf.Variable(tf.zeros([3]), name="b")
    hidden = tf.nn.dropout(tf.matmul(x, w) + b, keep)
    flat = tf.reshape(hidden, tf.stack([tf.shape(x)[0], 3]))[:, ::-1]
    big = tf.cond(tf.shape(x)[0] > 3, lambda: flat * 2.0, lambda: flat)
    times = tf.while_loop(lambda i, v: i < 3, lambda i, v: [i + 1, v * 1.5], [tf.constant(0), big])[1]
    logits = tf.identity(times, name="logits")
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(logits=logits, labels=y), name="loss")
    step = tf.train.get_or_create_global_step()
    train = tf.train.AdamOptimizer(0.1).minimize(loss, global_step=step)
    for name, value in (
        ("train_op", train),
        ("logits", logits),
        ("rate", 0.1),
        ("what", "a net"),
        ("no", object()),
    ):
        tf.add_to_collection(name, value)
    return loss, train


def test_a_meta_graph_is_the_graph(tmp_path: Path) -> None:
    loss, train = model()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(max_to_keep=1)
        saver.save(session, str(tmp_path / "old"))
        path = saver.save(session, str(tmp_path / "net"), global_step=0)
        feeds = {"x:0": X, "y:0": Y}
        losses = [session.run([loss, train], feeds)[0] for _ in range(3)]
        count = len(session.graph.operations)
    assert {p.name for p in tmp_path.iterdir()} == {"net-0.safetensors", "net-0.meta", "checkpoint"}
    with tf.Graph().as_default() as graph, tf.Session() as session:
        saver = tf.train.import_meta_graph(path + ".meta")
        saver.restore(session, path)
        assert len(graph.operations) == count
        assert [v.op.name for v in tf.trainable_variables()] == ["layer/w", "layer/b"]
        assert tf.train.get_global_step().eval() == 0
        assert tf.get_collection("rate") == [0.1] and tf.get_collection("what") == ["a net"]
        assert graph.get_tensor_by_name("x:0").shape.as_list() == [None, 4]
        (train,) = tf.get_collection("train_op")
        again = [session.run(["loss:0", train], feeds)[0] for _ in range(3)]
        np.testing.assert_array_equal(again, losses)
        more = tf.reduce_sum(tf.get_collection("logits")[0])  # the graph goes on
        grad = tf.gradients(more, tf.trainable_variables())[1]
        np.testing.assert_allclose(session.run(grad, feeds), [5 * 2 * 1.5**3] * 3, rtol=1e-5)
        with pytest.raises(GraphError, match="has an operation 'x' already"):
            tf.train.import_meta_graph(path + ".meta")
        other = tf.train.import_meta_graph(path + ".meta", import_scope="two")
        other.restore(session, path)
        one = session.run("two/loss:0", {"two/x:0": X, "two/y:0": Y})
        np.testing.assert_allclose(one, losses[0], rtol=1e-6)


def test_what_only_python_has_is_left_out(tmp_path: Path) -> None:
    x = tf.placeholder(tf.float32, [2], name="x")
    tf.identity(tf.py_func(lambda a: a, [x], tf.float32), name="by_python")
    tf.add(x, tf.Variable([1.0, 2.0], name="v"), name="by_graph")
    tf.train.export_meta_graph(tmp_path / "a.meta")
    with tf.Graph().as_default() as graph:
        with pytest.warns(UserWarning, match=r"2 operations are not imported: PyFunc needs a Function"):
            tf.train.import_meta_graph(tmp_path / "a.meta")
        graph.get_operation_by_name("by_graph")
        with pytest.raises(KeyError):
            graph.get_operation_by_name("by_python")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.meta").write_bytes(b"\n\x05hello")
    with pytest.raises(InvalidArgumentError, match="no meta graph that dtrain wrote"):
        tf.train.import_meta_graph(tmp_path / "a.meta")
    with pytest.raises(CheckpointError, match="cannot be read"):
        tf.train.import_meta_graph(tmp_path / "b.meta")
    for text in (
        b"",
        b"[]",
        b'{"format": "dtrain graph 1"}',
        b'{"format": "dtrain graph 1", "nodes": [[1]]}',
    ):
        with pytest.raises(InvalidArgumentError, match="no graph that dtrain wrote"):
            tf.GraphDef().ParseFromString(text)
    with pytest.raises(GraphError, match="no op 'Evil'"):
        tf.import_graph_def(tf.GraphDef([tf.NodeDef("a", "Evil", [], {})]))


def test_a_frozen_graph(tmp_path: Path) -> None:
    model()
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        expected = session.run("logits:0", {"x:0": X})
        frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, ["logits"])
    assert not {"VariableOp", "ApplyAdam"} & {node.op for node in frozen.node}
    (tmp_path / "net.pb").write_bytes(frozen.SerializeToString())
    with tf.Graph().as_default(), tf.Session() as session:
        definition = tf.GraphDef()
        definition.ParseFromString((tmp_path / "net.pb").read_bytes())
        given = tf.constant(X)
        logits, loss = tf.import_graph_def(definition, {"x": given}, ["logits:0", "logits"])
        assert logits.name == "import/logits:0" and loss is logits.op
        np.testing.assert_allclose(session.run(logits), expected, rtol=1e-6)
    with pytest.raises(GraphError, match="nothing is not in the graph"):
        tf.graph_util.extract_sub_graph(frozen, ["nothing"])


def test_a_saved_model(tmp_path: Path) -> None:
    model()
    saved = tf.saved_model
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        expected = session.run("logits:0", {"x:0": X})
        tensors = [session.graph.get_tensor_by_name(name) for name in ("x:0", "logits:0")]
        saved.simple_save(session, tmp_path / "1", {"image": tensors[0]}, {"scores": tensors[1]})
        with pytest.raises(UsageError, match="holds a model already"):
            saved.builder.SavedModelBuilder(tmp_path / "1")
    with tf.Graph().as_default(), tf.Session() as session:
        with pytest.raises(UsageError, match="has the tags"):
            saved.loader.load(session, [saved.tag_constants.TRAINING], tmp_path / "1")
        meta = saved.loader.load(session, [saved.tag_constants.SERVING], tmp_path / "1")
        found = meta.signature_def[saved.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
        names = found.inputs["image"].name, found.outputs["scores"].name
        np.testing.assert_array_equal(session.run(names[1], {names[0]: X}), expected)
        assert found.inputs["image"].tensor_shape.as_list() == [None, 4]
    with pytest.raises(CheckpointError, match="does not exist"):
        saved.loader.load(tf.Session(), ["serve"], tmp_path / "2")
