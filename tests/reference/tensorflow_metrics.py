"""What TensorFlow's metrics give batch by batch: writes tensorflow_metrics.json.

    python tests/reference/tensorflow_metrics.py     (made with TensorFlow 2.15, tf.compat.v1)

`values(tf)` asks any module of TensorFlow 1's names, so the test asks dtrain the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("tensorflow_metrics.json")


def batches() -> list[dict[str, np.ndarray]]:
    """Three batches of 7, 7 and 3 examples: numbers, classes of 4, scores of each, and weights."""
    random = np.random.default_rng(5)
    every = []
    for n in (7, 7, 3):
        scores = random.random((n, 4)).astype(np.float32)
        every.append(
            {
                "x": random.random(n).astype(np.float32),
                "y": random.random(n).astype(np.float32),
                "truth": random.integers(0, 2, n).astype(bool),
                "classes": random.integers(0, 4, n).astype(np.int64),
                "scores": scores,
                "weights": random.integers(0, 3, n).astype(np.float32),
            }
        )
    return every


def metrics(m: Any, p: dict[str, Any], tf: Any) -> dict[str, Any]:
    """(value, update_op) by name, of placeholders p."""
    found = tf.argmax(p["scores"], 1)
    said = p["x"] > 0.4
    two = {}
    for kind, weights in (("", None), (" weighted", p["weights"])):
        of_numbers = {"labels": p["y"], "predictions": p["x"], "weights": weights}
        of_truth = {"labels": p["truth"], "predictions": said, "weights": weights}
        two |= {
            "mean" + kind: m.mean(p["x"], weights),
            "accuracy" + kind: m.accuracy(p["classes"], found, weights),
            "mae" + kind: m.mean_absolute_error(**of_numbers),
            "mse" + kind: m.mean_squared_error(**of_numbers),
            "rmse" + kind: m.root_mean_squared_error(**of_numbers),
            "below" + kind: m.percentage_below(p["x"], 0.5, weights),
            "per class" + kind: m.mean_per_class_accuracy(p["classes"], found, 4, weights),
            "tp" + kind: m.true_positives(**of_truth),
            "tn" + kind: m.true_negatives(**of_truth),
            "fp" + kind: m.false_positives(**of_truth),
            "fn" + kind: m.false_negatives(**of_truth),
            "precision" + kind: m.precision(**of_truth),
            "recall" + kind: m.recall(**of_truth),
            "auc" + kind: m.auc(p["truth"], p["x"], weights),
            "auc pr" + kind: m.auc(p["truth"], p["x"], weights, curve="PR", num_thresholds=20),
            "auc min" + kind: m.auc(p["truth"], p["x"], weights, summation_method="minoring"),
            "top 2" + kind: m.recall_at_k(p["classes"], p["scores"], 2, weights=weights),
        }
    two["column"] = m.accuracy(p["classes"], tf.expand_dims(found, 1))
    two["tensor"] = m.mean_tensor(tf.reduce_sum(p["scores"], 0))
    return two


def values(tf: Any, session: Any = None) -> dict[str, Any]:
    """The numbers before any batch, what each update gave, and the numbers at the end; names of variables."""
    graph = tf.Graph()
    with graph.as_default():
        data = batches()
        p = {k: tf.placeholder(v.dtype, [None, *v.shape[1:]]) for k, v in data[0].items()}
        two = metrics(tf.metrics, p, tf)
        names = [v.name for v in tf.local_variables()]
        with session(graph) if session else tf.Session(graph=graph) as sess:
            sess.run(tf.local_variables_initializer())
            value, update = ({k: v[i] for k, v in two.items()} for i in (0, 1))
            steps = [sess.run(value)]
            steps += [sess.run(update, {p[k]: v for k, v in batch.items()}) for batch in data]
            steps.append(sess.run(value))
    return {
        "variables": names,
        "steps": [{k: np.asarray(v, np.float64).tolist() for k, v in step.items()} for step in steps],
    }


if __name__ == "__main__":
    import tensorflow.compat.v1 as tensorflow

    tensorflow.disable_v2_behavior()
    FILE.write_text(json.dumps(values(tensorflow), indent=1) + "\n")
