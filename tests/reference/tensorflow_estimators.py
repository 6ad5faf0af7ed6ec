"""What TensorFlow's estimators come to: writes tensorflow_estimators.json.

    python tests/reference/tensorflow_estimators.py     (made with TensorFlow 2.15, tf.compat.v1)

`values(tf, folder)` asks any module of TensorFlow 1's names, so the test asks dtrain the same. Models begin
at zeros, and batches come in the order of the data, so that there is nothing random.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("tensorflow_estimators.json")


def table() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """50 examples with numbers, words and classes of 3."""
    random = np.random.default_rng(2)
    x = random.standard_normal((50, 3)).astype(np.float32)
    age = random.integers(0, 60, 50).astype(np.float32)
    word = random.choice(["red", "green", "blue", "odd"], 50).astype(object)
    code = random.integers(0, 4, 50)
    label = ((x[:, 0] + (age > 30) + (word == "red")) > 0.7).astype(np.int32) + (code == 3)
    return {"x": x, "age": age, "word": word, "code": code}, label.astype(np.int32)


def columns(tf: Any) -> list[Any]:
    fc = tf.feature_column
    age = fc.numeric_column("age")
    return [
        fc.numeric_column("x", shape=[3], normalizer_fn=lambda v: v * 2.0),
        fc.bucketized_column(age, [10, 20, 40.5]),
        fc.categorical_column_with_vocabulary_list("word", ["red", "green", "blue"], num_oov_buckets=0),
        fc.categorical_column_with_identity("code", 4),
    ]


def layer(tf: Any) -> list[list[float]]:
    """What input_layer makes of the first five rows."""
    fc = tf.feature_column
    features, _ = table()
    with tf.Graph().as_default():
        given = {key: tf.constant(value[:5]) for key, value in features.items()}
        parts = columns(tf)
        wrapped = [parts[0], parts[1], fc.indicator_column(parts[2]), fc.indicator_column(parts[3])]
        made = fc.input_layer(given, wrapped)
        with tf.Session() as session:
            session.run([tf.global_variables_initializer(), tf.tables_initializer()])
            return session.run(made).astype(float).tolist()


def model_fn(tf: Any) -> Any:
    """A model function with a metric, whose weights begin at zeros."""

    def model(features: Any, labels: Any, mode: str, params: Any) -> Any:
        weights = tf.get_variable("weights", [3, 3], initializer=tf.zeros_initializer())
        logits = tf.matmul(features["x"], weights)
        found = tf.argmax(logits, 1)
        if mode == tf.estimator.ModeKeys.PREDICT:
            return tf.estimator.EstimatorSpec(
                mode, predictions={"class": found, "share": tf.nn.softmax(logits)}
            )
        loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
        step = tf.train.GradientDescentOptimizer(params["rate"]).minimize(loss, tf.train.get_global_step())
        measured = {"accuracy": tf.metrics.accuracy(labels, found)}
        return tf.estimator.EstimatorSpec(mode, None, loss, step, measured)

    return model


def values(tf: Any, folder: str) -> dict[str, Any]:
    """Metrics and predictions by estimator."""
    features, labels = table()
    two = (labels > 0).astype(np.int32)
    number = features["x"].sum(1) * 2 + 1

    def fed(y: Any, epochs: Any) -> Any:
        return tf.estimator.inputs.numpy_input_fn(features, y, batch_size=8, num_epochs=epochs, shuffle=False)

    est = tf.estimator
    quiet = est.RunConfig(save_summary_steps=None, log_step_count_steps=None)

    def sgd() -> Any:
        return tf.train.GradientDescentOptimizer(0.001)

    every = {
        "classes": (est.LinearClassifier(columns(tf), f"{folder}/a", n_classes=3, config=quiet), labels),
        "two": (est.LinearClassifier(columns(tf), f"{folder}/b", config=quiet), two),
        "numbers": (est.LinearRegressor(columns(tf)[:2], f"{folder}/c", optimizer=sgd, config=quiet), number),
        "own": (est.Estimator(model_fn(tf), f"{folder}/d", quiet, {"rate": 0.2}), labels),
    }
    found: dict[str, Any] = {"layer": layer(tf)}
    for name, (estimator, y) in every.items():
        estimator.train(fed(y, None), steps=20)
        metrics = estimator.evaluate(fed(y, 1))
        rows = list(estimator.predict(fed(None, 1)))[:3]
        if "predictions" in rows[0]:
            predictions = [row["predictions"] for row in rows]
        else:
            predictions = [row["share" if name == "own" else "probabilities"] for row in rows]
        found[name] = {
            "metrics": {k: float(v) for k, v in metrics.items()},
            "predictions": np.array(predictions, float).tolist(),
        }
    return found


if __name__ == "__main__":
    import tensorflow.compat.v1 as tensorflow

    tensorflow.disable_v2_behavior()
    with tempfile.TemporaryDirectory() as place:
        FILE.write_text(json.dumps(values(tensorflow, place), indent=1) + "\n")
    sys.stderr.write(f"{os.fspath(FILE)} is written\n")
