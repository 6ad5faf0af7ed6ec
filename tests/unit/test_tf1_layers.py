"""tf.layers and tf.contrib.layers: outputs, names and steps are those of TensorFlow, on 1 to 3 ranks.

The cases and TensorFlow's values are made by tests/reference/tensorflow_layers.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as tf
from dtrain.comm import Communicator
from dtrain.errors import GraphError
from dtrain.ops.placement import shard_bounds

FILE = Path(__file__).parents[1] / "reference" / "tensorflow_layers.py"
spec = importlib.util.spec_from_file_location("tensorflow_layers", FILE)
assert spec is not None and spec.loader is not None
reference: Any = importlib.util.module_from_spec(spec)
sys.modules["tensorflow_layers"] = reference
spec.loader.exec_module(reference)
VALUES = json.loads(reference.VALUES.read_text())


def compare(name: str, found: dict[str, Any]) -> None:
    right = {key: reference.read(value) for key, value in VALUES[name].items()}
    ours = {k.removesuffix("/momentum"): v for k, v in found.items()}
    assert list(ours) == list(right)
    for key, value in ours.items():
        assert np.shape(value) == right[key].shape, key
        np.testing.assert_allclose(value, right[key], rtol=3e-4, atol=3e-5, err_msg=key)


@pytest.mark.parametrize("name", reference.CASES)
def test_a_network_is_tensorflows(name: str) -> None:
    compare(name, reference.run(tf, tf.contrib.slim, name))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "name",
    ["dense", "convolutions", "normalized_images", "slim_network", "slim_norms", "slim_train_op", "averages"],
)
def test_ranks_give_what_one_gives(name: str, size: int, on_threads: Any) -> None:
    """Each feeds its rows: statistics are those of the whole batch."""

    def body(comm: Communicator) -> dict[str, Any]:
        def rows(data: np.ndarray) -> tf.Shard:
            low, high = shard_bounds(len(data), comm.rank, comm.size)
            return tf.Shard(data[low:high], len(data))

        return reference.run(tf, tf.contrib.slim, name, rows, lambda: tf.Session(comm=comm))

    for found in on_threads(size, body):
        compare(name, found)


# -- names and scopes ------------------------------------------------------------------------------------
def names() -> list[str]:
    return [v.op.name for v in tf.global_variables()]


def test_layers_are_named_and_shared_as_variables_are() -> None:
    x = tf.placeholder("float32", [None, 6])
    tf.layers.dense(x, 2)
    with tf.variable_scope("net"):
        tf.layers.dense(x, 2)
        y = tf.layers.dense(x, 2, name="mine")
    with tf.variable_scope("net", reuse=True):
        z = tf.layers.dense(x, 2)
    with tf.variable_scope("net"):
        tf.layers.dense(x, 2, name="mine", reuse=True)
        with pytest.raises(GraphError, match="net/mine/kernel already exists"):
            tf.layers.dense(x, 2, name="mine")
    kernels = [n for n in names() if n.endswith("kernel")]
    assert kernels == ["dense/kernel", "net/dense/kernel", "net/mine/kernel"]
    assert y.name == "net/mine/BiasAdd:0" and z.name == "net_1/dense/BiasAdd:0"


def test_a_layer_called_twice_has_one_kernel() -> None:
    layer = tf.layers.Dense(3, activation="relu", name="both")
    a, b = layer(tf.ones([2, 4])), layer.apply(tf.zeros([5, 4]))
    assert a.shape.as_list() == [2, 3] and b.shape.as_list() == [5, 3]
    assert names() == ["both/kernel", "both/bias"] and layer.count_params() == 15
    assert [v.op.name for v in layer.trainable_variables] == names() and layer.name == "both"


def test_what_is_not_trained_is_not_collected() -> None:
    x = tf.placeholder("float32", [None, 3])
    frozen = tf.layers.dense(x, 2, trainable=False)
    tf.layers.batch_normalization(frozen, training=True)
    assert [v.op.name for v in tf.trainable_variables()] == [
        "batch_normalization/gamma",
        "batch_normalization/beta",
    ]
    assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == 2


def test_a_layer_of_ones_own() -> None:
    class Scale(tf.layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.factor = self.add_variable(
                "factor", [int(input_shape[-1])], initializer=tf.ones_initializer()
            )

        def call(self, inputs: Any) -> Any:
            return inputs * self.factor

    y = Scale()(tf.constant([[2.0, 3.0]]))
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    np.testing.assert_array_equal(session.run(y), [[2, 3]])
    assert names() == ["scale/factor"]


def test_dropout_and_training_by_a_tensor() -> None:
    x, training = tf.ones([1000]), tf.placeholder(tf.bool)
    y = tf.layers.dropout(x, 0.25, training=training, seed=1)
    session = tf.Session()
    assert (session.run(y, {training: False}) == 1).all()
    kept = session.run(y, {training: True})
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)} and 0.7 < (kept > 0).mean() < 0.8


def test_moving_averages_stay_in_a_test() -> None:
    x, training = tf.placeholder("float32", [None, 2]), tf.placeholder(tf.bool, [])
    y = tf.contrib.layers.batch_norm(x, decay=0.5, is_training=training, updates_collections=None)
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    mean = tf.global_variables()[1]
    data = np.array([[1, 2], [3, 8]], "float32")
    session.run(y, {x: data, training: False})
    np.testing.assert_array_equal(session.run(mean), [0, 0])
    session.run(y, {x: data, training: True})
    np.testing.assert_allclose(session.run(mean), [1, 2.5])


def test_arguments_by_scope() -> None:
    slim = tf.contrib.slim

    @slim.add_arg_scope
    def add(x: int, y: int = 1, z: int = 10) -> int:
        """A sum."""
        return x + y + z

    with slim.arg_scope([add], y=2) as outer:
        assert add(1) == 13 and add(1, z=0) == 3
        with slim.arg_scope([add], z=20):
            assert add(1) == 23 and add(1, y=0) == 21
    assert add(1) == 12
    with slim.arg_scope(outer):
        assert add(1) == 13
    with pytest.raises(GraphError, match="is not decorated with @add_arg_scope"), slim.arg_scope([len], y=1):
        pass


def test_what_is_not_supported_is_said() -> None:
    x = tf.placeholder("float32", [None, 4])
    for call, text in (
        (lambda: tf.layers.batch_normalization(x, renorm=True), "renorm is not supported"),
        (lambda: tf.contrib.layers.batch_norm(x, batch_weights=x), "batch_weights is not supported"),
        (lambda: tf.layers.dense(tf.placeholder("float32"), 3), "has to be known"),
        (lambda: tf.layers.conv2d(tf.zeros([1, 4, 4, 1]), 2, 3, data_format="NHWC"), "channels_first"),
        (lambda: tf.layers.batch_normalization(x, fused=True), "fused=True is for images"),
    ):
        with pytest.raises(GraphError, match=text):
            call()


def test_optimize_loss_takes_a_step_and_clips() -> None:
    w = tf.get_variable("w", initializer=[3.0, 4.0])
    step = tf.train.get_or_create_global_step()
    loss = tf.contrib.layers.optimize_loss(
        tf.reduce_sum(w * w) / 2, step, 1.0, "SGD", clip_gradients=1.0, summaries=[]
    )
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    assert session.run(loss) == 12.5 and session.run(step) == 1
    np.testing.assert_allclose(session.run(w), [2.4, 3.2], rtol=1e-6)
    with pytest.raises(GraphError, match="'Nope' is none of"):
        tf.contrib.layers.optimize_loss(tf.reduce_sum(w), step, 1.0, "Nope")


def test_the_training_loop_of_slim(tmp_path: Path) -> None:
    slim = tf.contrib.slim
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")

    def train(steps: int) -> float:
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            y = slim.fully_connected(tf.constant(rows), 1, activation_fn=None)
            slim.losses.mean_squared_error(y, rows.sum(1, keepdims=True))
            op = slim.learning.create_train_op(slim.losses.get_total_loss(), tf.train.AdamOptimizer(0.1))
            return slim.learning.train(op, tmp_path / "run", number_of_steps=steps, save_summaries_secs=0)

    first = train(20)
    assert train(60) < first / 4 and tf.train.latest_checkpoint(tmp_path / "run").endswith("-60")
    with pytest.raises(GraphError, match="train_step_fn is not supported"):
        slim.learning.train(tf.constant(1.0), None, train_step_fn=len)


def test_summaries_of_layers() -> None:
    pytest.importorskip("tensorboard", reason="summaries are written with TensorBoard's library")
    layers = tf.contrib.layers
    y = layers.fully_connected(tf.ones([2, 3]), 4, outputs_collections=tf.GraphKeys.ACTIVATIONS)
    made = [*layers.summarize_activations(), *layers.summarize_tensors(tf.trainable_variables())]
    assert [t.op.type for t in made] == ["HistogramSummary"] * 3
    assert layers.summarize_tensor(tf.reduce_sum(y)).op.type == "ScalarSummary"
    embedded = layers.embed_sequence([[1, 2], [0, 1]], vocab_size=5, embed_dim=3)
    assert embedded.shape.as_list() == [2, 2, 3]
