"""Text, sparse tensors, volumes and further names against TensorFlow's values; models that are exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_more_names import REFERENCE, reference

import dtrain as tf
from dtrain.errors import GraphError, InvalidArgumentError, NotSupportedError, UsageError
from dtrain.tf1.contrib import predictor, rnn


@pytest.fixture(autouse=True)
def graph() -> Any:
    with tf.Graph().as_default() as graph:
        yield graph


def test_values_are_tensorflows() -> None:
    wanted = json.loads((REFERENCE / "tensorflow_composites.json").read_text())
    made = reference("tensorflow_composites")
    with tf.Session() as session:
        found = session.run(made.calls(tf))
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        array = np.asarray(value)
        if array.dtype.kind in "OSb":
            assert made.as_text(array.tolist()) == wanted[name], name
        else:
            np.testing.assert_allclose(array, wanted[name], 2e-5, 1e-5, err_msg=name)


def test_volumes_of_an_unknown_batch_grow() -> None:
    x = tf.placeholder(tf.float32, [None, 2, 3, 3, 2])
    first = np.random.RandomState(0).normal(size=(3, 2, 3, 3, 2)).astype(np.float32)
    y = tf.layers.conv3d_transpose(x, 4, [3, 2, 2], strides=(2, 1, 2), name="up")
    other = tf.layers.conv3d_transpose(
        tf.transpose(x, [0, 4, 1, 2, 3]), 4, [3, 2, 2], (2, 1, 2), data_format="channels_first",
        name="up", reuse=True,
    )  # fmt: skip
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        one, two = session.run([y, other], {x: first})
        assert one.shape == (3, 5, 4, 6, 4)
        np.testing.assert_allclose(one, two.transpose(0, 2, 3, 4, 1), 1e-6, 1e-6)
    with pytest.raises(GraphError, match="a depth of 9"):
        tf.nn.conv3d_transpose(tf.zeros([1, 2, 2, 2, 1]), tf.zeros([1, 1, 1, 1, 1]), [1, 9, 2, 2, 1], [1] * 5)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_cells_of_contrib() -> None:
    """Two steps of each cell, by its paper's sums in NumPy."""
    rng = np.random.RandomState(1)
    x, h = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5))
    c = rng.normal(size=(2, 5))
    with tf.Session() as session:
        for cell in (rnn.UGRNNCell(5), rnn.GRUBlockCell(5), rnn.GRUBlockCellV2(5), rnn.NASCell(5, 3, True)):
            with tf.variable_scope(type(cell).__name__):
                nas = isinstance(cell, rnn.NASCell)
                state: Any = rnn.LSTMStateTuple(*map(tf.constant, (c, h[:, :3]))) if nas else tf.constant(h)
                outputs, last = tf.nn.static_rnn(cell, [tf.constant(x[:, 0]), tf.constant(x[:, 1])], state)
            session.run(tf.global_variables_initializer())
            v = {w.op.name.split("/", 3)[-1]: session.run(w) for w in cell.variables}
            for name in [n for n in v if "bias" in n]:  # so that they are seen
                w = next(w for w in cell.variables if w.op.name.endswith(name))
                v[name] = session.run(w.assign(rng.normal(size=v[name].shape)))
            at, memory = (h[:, :3] if nas else h), c
            for step in (x[:, 0], x[:, 1]):
                both = np.concatenate([step, at], 1)
                if isinstance(cell, rnn.UGRNNCell):
                    g, new = np.split(both @ v["kernel"] + v["bias"], 2, 1)
                    at = sigmoid(g + 1) * at + (1 - sigmoid(g + 1)) * np.tanh(new)
                elif nas:
                    i = np.split(step @ v["kernel"], 8, 1)
                    m = np.split(at @ v["recurrent_kernel"] + v["bias"], 8, 1)
                    relu = np.maximum(0, i[1] + m[1]), np.maximum(0, i[3] * m[3])
                    parts = [
                        np.tanh(sigmoid(i[0] + m[0]) * relu[0]),
                        np.tanh(sigmoid(i[2] + m[2]) + relu[1]),
                        np.tanh(np.tanh(i[4] + m[4]) * sigmoid(i[5] + m[5])),
                        sigmoid(np.tanh(i[6] + m[6]) + sigmoid(i[7] + m[7])),
                    ]
                    memory = np.tanh(parts[0] + memory) * parts[1]
                    at = np.tanh(memory * np.tanh(parts[2] + parts[3])) @ v["projection_weights"]
                else:
                    old = isinstance(cell, rnn.GRUBlockCell)
                    names = ("w_ru", "b_ru", "w_c", "b_c")
                    if not old:
                        names = ("gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias")
                    w, b, w_c, b_c = (v[name] for name in names)
                    r, u = np.split(sigmoid(both @ w + b), 2, 1)
                    new = np.tanh(np.concatenate([step, r * at], 1) @ w_c + b_c)
                    at = u * at + (1 - u) * new
            np.testing.assert_allclose(session.run(outputs[-1]), at, 1e-9)
            if nas:
                np.testing.assert_allclose(session.run(last.c), memory, 1e-9)


def test_text_is_computed_of_what_is_fed() -> None:
    x = tf.placeholder(tf.int32, [None])
    with tf.Session() as session:
        text = session.run(tf.string_join(["n", tf.as_string(x)], "="), {x: [1, 20]})
    assert text.tolist() == [b"n=1", b"n=20"]
    for wrong in ({"precision": 2}, {"fill": "ab"}, {"scientific": True, "shortest": True}):
        with pytest.raises(GraphError, match="as_string"):
            tf.as_string([1], **wrong)


def test_small_names() -> None:
    assert tf.compat.as_bytes("ä") == "ä".encode() and tf.compat.as_text(b"a") == tf.compat.as_str("a") == "a"
    assert tf.compat.as_str_any(3) == "3" and isinstance(np.int32(3), tf.compat.integral_types)
    with pytest.raises(TypeError):
        tf.compat.as_bytes(3)
    assert tf.compat.v1 is tf and tf.double is tf.float64 and tf.dtypes.as_dtype("float16") == tf.half
    assert tf.is_tensor(tf.constant(1)) and not tf.is_tensor(1)
    assert tf.get_static_value(tf.shape(tf.zeros([2, 3]))).tolist() == [2, 3]
    assert tf.get_static_value(tf.placeholder(tf.int32)) is None
    assert tf.dimension_value(tf.zeros([2]).shape[0]) == 2 and tf.SparseTensorValue(1, 2, 3).values == 2
    step = tf.train.AdamOptimizer().minimize(tf.square(tf.Variable(1.0)))
    assert step.name == "Adam" and tf.get_default_graph().get_operation_by_name("Adam") is step
    tf.train.Saver(write_version=tf.train.SaverDef.V2, sharded=True)


def test_shapes_are_ensured() -> None:
    p = tf.placeholder(tf.float32, [None, None])
    y = tf.ensure_shape(p, [None, 4])
    assert y.shape.as_list() == [None, 4]
    with tf.Session() as session:
        assert session.run(y, {p: np.ones((2, 4))}).shape == (2, 4)
        with pytest.raises(InvalidArgumentError, match="ensure_shape"):
            session.run(y, {p: np.ones((2, 5))})
    with pytest.raises(GraphError):
        tf.ensure_shape(tf.zeros([2, 3]), [2, 4])


@pytest.mark.parametrize("draw", [tf.random_normal, tf.truncated_normal])
def test_what_tensorflow_refuses(draw: Any) -> None:
    with pytest.raises(GraphError, match="floating type, and not int32"):
        draw([2], dtype=tf.int32)
    with pytest.raises(GraphError, match="int32 or int64, and not uint8"):
        tf.random_uniform([2], maxval=3, dtype=tf.uint8)
    for mask in ([True, False], [True] * 4):
        with pytest.raises(GraphError, match=r"axis 0 of .* has 3"):
            tf.boolean_mask(tf.zeros([3, 2]), mask)
    with pytest.raises(GraphError, match="is no SparseTensor"):
        tf.sparse_tensor_to_dense(tf.zeros([2]))


def model(features: Any, labels: Any, mode: str) -> Any:
    """A linear model that exports what it predicts twice."""
    y = tf.layers.dense(features["x"], 1)
    out = tf.estimator.export.RegressionOutput(y)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(
            mode,
            {"y": y, "twice": 2 * y},
            export_outputs={
                "serving_default": tf.estimator.export.PredictOutput({"y": y, "twice": 2 * y}),
                "regression": out,
            },
        )
    loss = tf.losses.mean_squared_error(labels, y)
    step = tf.train.AdamOptimizer(0.1).minimize(loss, tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=step)


def test_a_model_is_exported(tmp_path: Path) -> None:
    x = np.random.RandomState(0).normal(size=(8, 3)).astype(np.float32)
    given = tf.estimator.inputs.numpy_input_fn({"x": x}, x[:, :1], 4, None, shuffle=False)
    own = tf.estimator.Estimator(model, tmp_path / "model").train(given, steps=3)
    raw = tf.estimator.export.build_raw_serving_input_receiver_fn(
        {"x": tf.placeholder(tf.float32, [None, 3], "x")}
    )
    (tmp_path / "words").write_text("a")
    folder = own.export_savedmodel(
        str(tmp_path / "out"), raw, assets_extra={"words": str(tmp_path / "words")}
    )
    again = own.export_savedmodel(str(tmp_path / "out"), raw)
    assert folder != again and Path(folder.decode(), "assets.extra", "words").read_text() == "a"
    wanted = np.array(
        [p["y"] for p in own.predict(tf.estimator.inputs.numpy_input_fn({"x": x}, shuffle=False))]
    )
    found = predictor.from_saved_model(folder)({"x": x})
    np.testing.assert_allclose(found["y"], wanted, 1e-6)
    np.testing.assert_allclose(found["twice"], 2 * wanted, 1e-6)
    one = predictor.from_saved_model(again, "regression")
    np.testing.assert_allclose(one({"inputs": x[:2]})["outputs"], wanted[:2], 1e-6)
    with pytest.raises(UsageError, match="no input"):
        one({"y": x})
    with pytest.raises(UsageError, match="no signature"):
        predictor.from_saved_model(folder, "none")


def test_parsing_receivers_are_refused() -> None:
    with pytest.raises(NotSupportedError, match="take build_raw_serving_input_receiver_fn"):
        tf.estimator.export.build_parsing_serving_input_receiver_fn  # noqa: B018
