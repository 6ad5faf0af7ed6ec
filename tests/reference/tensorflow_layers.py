"""What TensorFlow makes of tf.layers and of contrib's layers: the cases, and what writes the values.

    python tests/reference/tensorflow_layers.py

needs TensorFlow 2 with tf_keras and tf_slim, which was tf.contrib.layers and tf.contrib.slim, and nothing
of dtrain; it writes tensorflow_layers.json beside itself. A case is a small network. It takes two steps of
gradient descent with its UPDATE_OPS; kept are the outputs before, and all variables, by name, after.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VALUES = Path(__file__).with_suffix(".json")


def wave(shape: Any, dtype: Any = None, partition_info: Any = None) -> np.ndarray:
    """An initializer without chance: a sine."""
    sizes = [int(d) for d in shape]
    return np.sin(np.arange(np.prod(sizes), dtype="float32") * 1.7 + 0.3).reshape(sizes).astype("float32") / 2


IMAGES = wave([3, 6, 5, 2]) * 3 + 0.2
ROWS = wave([5, 3]) * 2 - 0.1

Network = Callable[[Any, Any, Any], Any]
CASES: dict[str, tuple[np.ndarray, Network]] = {}


def case(data: np.ndarray) -> Callable[[Network], Network]:
    """Decorator: a network over this batch, as function(tf, slim, x)."""

    def add(network: Network) -> Network:
        CASES[network.__name__] = (data, network)
        return network

    return add


def first(tf: Any) -> Any:
    """wave as an initializer of TensorFlow's."""
    return lambda shape, dtype=None, partition_info=None: tf.constant(wave(shape))


# -- tf.layers -------------------------------------------------------------------------------------------
@case(ROWS)
def dense(tf: Any, slim: Any, x: Any) -> Any:
    h = tf.layers.dense(x, 4, tf.nn.tanh, kernel_initializer=first(tf), bias_initializer=first(tf))
    with tf.variable_scope("in"):
        h = tf.layers.dense(h, 3, kernel_initializer=first(tf), use_bias=False)
        h = tf.layers.dense(h, 2, kernel_initializer=first(tf), name="named")
    with tf.variable_scope("in", reuse=True):
        return tf.layers.dense(x, 2, name="named") + h


@case(ROWS)
def regularized(tf: Any, slim: Any, x: Any) -> Any:
    l2 = lambda w: 0.1 * tf.reduce_sum(tf.square(w))  # noqa: E731
    y = tf.layers.dense(x, 4, kernel_initializer=first(tf), kernel_regularizer=l2, bias_regularizer=l2)
    return y + tf.losses.get_regularization_loss()


@case(IMAGES)
def convolutions(tf: Any, slim: Any, x: Any) -> Any:
    h = tf.layers.conv2d(x, 4, 3, padding="same", activation=tf.nn.relu, kernel_initializer=first(tf))
    h = tf.layers.conv2d(h, 3, [2, 3], (2, 1), kernel_initializer=first(tf), bias_initializer=first(tf))
    h = tf.layers.conv2d(h, 2, 2, dilation_rate=2, padding="same", kernel_initializer=first(tf), name="wide")
    return tf.layers.max_pooling2d(h, 2, 2)


@case(IMAGES)
def transposed(tf: Any, slim: Any, x: Any) -> Any:
    h = tf.layers.conv2d_transpose(x, 4, 3, 2, "same", kernel_initializer=first(tf))
    return tf.layers.conv2d_transpose(h, 2, [2, 3], 2, "valid", kernel_initializer=first(tf))


@case(IMAGES)
def separable(tf: Any, slim: Any, x: Any) -> Any:
    y = tf.layers.separable_conv2d(
        x, 4, 3, depth_multiplier=2, depthwise_initializer=first(tf), pointwise_initializer=first(tf)
    )
    return tf.layers.average_pooling2d(y, [2, 2], 1, "same")


@case(IMAGES[:, 0])
def sequences(tf: Any, slim: Any, x: Any) -> Any:
    y = tf.layers.conv1d(x, 4, 3, padding="same", kernel_initializer=first(tf), activation=tf.nn.sigmoid)
    return tf.layers.average_pooling1d(tf.layers.max_pooling1d(y, 2, 1), 2, 2)


@case(wave([2, 4, 5, 3, 2]))
def volumes(tf: Any, slim: Any, x: Any) -> Any:
    y = tf.layers.conv3d(x, 3, [3, 2, 2], padding="same", kernel_initializer=first(tf))
    return tf.layers.conv3d(y, 2, 2, 2, kernel_initializer=first(tf))


@case(IMAGES)
def normalized_images(tf: Any, slim: Any, x: Any) -> Any:
    return tf.layers.batch_normalization(x, momentum=0.8, training=True)


@case(ROWS)
def normalized_rows(tf: Any, slim: Any, x: Any) -> Any:
    y = tf.layers.batch_normalization(x, training=True, gamma_initializer=first(tf))
    return tf.layers.batch_normalization(y, scale=False, epsilon=0.1, training=False, name="tested")


@case(IMAGES)
def normalized_along(tf: Any, slim: Any, x: Any) -> Any:
    return tf.layers.batch_normalization(x, axis=1, momentum=0.5, training=True, beta_initializer=first(tf))


@case(ROWS)
def normalized_by_a_tensor(tf: Any, slim: Any, x: Any) -> Any:
    on = tf.placeholder_with_default(True, [])
    off = tf.placeholder_with_default(False, [])
    return tf.layers.batch_normalization(tf.layers.batch_normalization(x, training=on), training=off)


# -- tf.contrib.layers -----------------------------------------------------------------------------------
@case(IMAGES)
def slim_network(tf: Any, slim: Any, x: Any) -> Any:
    with slim.arg_scope([slim.conv2d, slim.fully_connected], weights_initializer=first(tf)):
        with slim.arg_scope([slim.conv2d], stride=2, normalizer_fn=slim.batch_norm):
            h = slim.conv2d(x, 4, [3, 3], scope="first")
        h = slim.repeat(h, 2, slim.conv2d, 3, [3, 3], scope="more")
        h = slim.flatten(slim.max_pool2d(h, [2, 2]))
        h = slim.stack(h, slim.fully_connected, [4, 3], scope="full")
        return slim.fully_connected(h, 2, activation_fn=None, biases_initializer=first(tf))


@case(ROWS)
def slim_norms(tf: Any, slim: Any, x: Any) -> Any:
    h = slim.batch_norm(x, decay=0.6, scale=True, activation_fn=tf.nn.relu)
    h = slim.batch_norm(
        h, updates_collections=None, decay=0.5, is_training=tf.placeholder_with_default(True, [])
    )
    h = slim.batch_norm(h, is_training=False, center=False)
    return slim.layer_norm(h * x)


@case(IMAGES)
def slim_separable(tf: Any, slim: Any, x: Any) -> Any:
    h = slim.separable_conv2d(x, 4, [3, 3], 2, weights_initializer=first(tf))
    h = slim.separable_conv2d(h, None, 3, 1, stride=2, weights_initializer=first(tf))
    h = slim.conv2d_transpose(h, 2, 3, 2, weights_initializer=first(tf))
    return slim.avg_pool2d(slim.bias_add(h, initializer=first(tf)), 2, 1, "SAME")


@case(ROWS)
def slim_losses(tf: Any, slim: Any, x: Any) -> Any:
    with slim.arg_scope([slim.fully_connected], weights_regularizer=slim.l2_regularizer(0.1)):
        logits = slim.fully_connected(x, 3, weights_initializer=first(tf), activation_fn=None)
    labels = slim.one_hot_encoding(tf.constant([0, 2, 1, 1, 0]), 3)
    slim.losses.softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    return slim.losses.get_total_loss()


@case(ROWS)
def slim_train_op(tf: Any, slim: Any, x: Any) -> Any:
    y = slim.fully_connected(
        slim.batch_norm(x), 2, weights_initializer=first(tf), activation_fn=tf.nn.sigmoid
    )
    loss = tf.reduce_mean(tf.square(y))
    optimizer = tf.train.MomentumOptimizer(0.5, 0.9)
    return slim.learning.create_train_op(loss, optimizer, clip_gradient_norm=0.05)


@case(ROWS)
def averages(tf: Any, slim: Any, x: Any) -> Any:
    w = tf.get_variable("w", [3, 2], initializer=first(tf))
    y = tf.matmul(x, w)
    total = tf.reduce_sum(y, name="total")
    step = tf.train.get_or_create_global_step()
    trained = tf.train.GradientDescentOptimizer(0.3).minimize(tf.reduce_sum(y * y), step)
    average = tf.train.ExponentialMovingAverage(0.9, step)
    unbiased = tf.train.ExponentialMovingAverage(0.7, zero_debias=True, name="unbiased")
    with tf.control_dependencies([trained]):
        updated = [average.apply([w]), unbiased.apply([total])]
    with tf.control_dependencies(updated):
        return tf.identity(average.average(w)) + tf.identity(unbiased.average(total))


def run(
    tf: Any, slim: Any, name: str, fed: Callable[[np.ndarray], Any] = lambda a: a, session: Any = None
) -> dict[str, Any]:
    """Values of a case: `out` before, and variables by name after two steps."""
    data, network = CASES[name]
    with tf.Graph().as_default():
        x = tf.placeholder("float32", [None, *data.shape[1:]])
        y = network(tf, slim, x)
        loss = tf.reduce_mean(tf.square(y)) + 0.0 * tf.reduce_sum(x)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        step = tf.no_op()
        if tf.trainable_variables() and name not in ("slim_train_op", "averages"):
            step = tf.train.GradientDescentOptimizer(0.1).minimize(loss)
        with (session or tf.Session)() as opened:
            opened.run(tf.global_variables_initializer())
            feeds = {x: fed(data)}
            out = opened.run(y, feeds)
            for _ in range(2):
                opened.run([step, updates, *([y] if name in ("slim_train_op", "averages") else [])], feeds)
            variables = {v.op.name: opened.run(v) for v in tf.global_variables()}
    return {"out": out, **dict(sorted(variables.items()))}


def read(value: Any) -> np.ndarray:
    """An array as it was written."""
    return np.array(value["numbers"], "float64").reshape(value["shape"])


def main() -> None:
    """Write the values."""
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}
    import tensorflow

    # tf_keras has kept these, and TensorFlow looks for them where they were
    kept = "tf_keras.src.legacy_tf_layers"
    for part in ("", ".base", ".convolutional", ".core", ".normalization", ".pooling"):
        sys.modules[f"tf_keras.legacy_tf_layers{part}"] = importlib.import_module(kept + part)
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_ops

    # where tf_slim looks for them
    ops.Tensor, ops.IndexedSlices = tensorflow.Tensor, tensorflow.IndexedSlices
    control_flow_ops.cond = tensorflow.cond
    import tf_slim

    tf = tensorflow.compat.v1
    tf.disable_v2_behavior()
    values: dict[str, Any] = {"TensorFlow": tensorflow.__version__}
    for name in CASES:
        found = run(tf, tf_slim, name)
        values[name] = {
            key: {
                "shape": list(np.shape(value)),
                "numbers": [float(f"{v:.6g}") for v in np.ravel(value)],
            }
            for key, value in found.items()
        }
        print(name, *found, file=sys.stderr)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    VALUES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
