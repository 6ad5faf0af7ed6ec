"""What TensorFlow 1 gives of text, sparse tensors and volumes: writes tensorflow_composites.json.

    python tests/reference/tensorflow_composites.py     (made with TensorFlow 2.15, tf.compat.v1)

`calls(tf)` asks any module of TensorFlow 1's names, so the test asks dtrain the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("tensorflow_composites.json")


def calls(tf: Any) -> dict[str, Any]:
    """Tensors by what they are."""
    rng = np.random.RandomState(5)

    def array(*shape: int) -> Any:
        return tf.constant(rng.normal(size=shape).astype(np.float32))

    x, numbers, volumes = array(3, 5), rng.randint(0, 9, (2, 6)).astype(np.int32), array(2, 3, 4, 3, 2)
    found: dict[str, Any] = {}
    how = (
        ((3, 2, 3), (2, 2, 1), "SAME", (5, 8, 3)),
        ((3, 3, 2), (2, 1, 2), "VALID", (7, 6, 6)),
        ((1, 2, 2), (3, 2, 2), "SAME", (8, 7, 5)),
        ((2, 2, 2), (3, 1, 1), "VALID", (8, 5, 4)),
    )
    for kernel, by, padding, to in how:
        f = array(*kernel, 2, 2)
        y = tf.nn.conv3d_transpose(volumes, f, [2, *to, 2], [1, *by, 1], padding)
        label = f"volumes {kernel} {by} {padding}"
        found |= {label: y, f"{label} gradient": tf.gradients(tf.reduce_sum(y * y), f)[0]}
    found["sequences"] = tf.nn.conv1d_transpose(x[:, :, None], array(3, 4, 1), [3, 10, 4], 2, "SAME")
    for number in (3.14159, 1e-7, 123456.789, -2.5):
        for i, named in enumerate(
            (
                {},
                {"precision": 2},
                {"scientific": True},
                {"shortest": True},
                {"width": 12, "fill": "0"},
                {"scientific": True, "precision": 3, "width": 14, "fill": "-"},
            )
        ):
            found[f"{number} as text {i}"] = tf.as_string(tf.constant(number), **named)
    parts, text = tf.string_split(["a b  c", "", "d,e f"], " "), ["hello", "world"]
    found |= {
        "integers as text": tf.as_string(numbers, width=3, fill="0"),
        "truths as text": tf.as_string([True, False]),
        "join": tf.string_join([["a", "bc"], "x", ["d", "e"]], "-"),
        "join rows": tf.reduce_join([["a", "b"], ["c", "d"]], 1, separator="+"),
        "join columns": tf.reduce_join([["a", "b"], ["c", "d"]], 0, keep_dims=True),
        "join all": tf.reduce_join([["a", "b"], ["c", "d"]]),
        "parts": parts.values,
        "places of parts": parts.indices,
        "shape of parts": parts.dense_shape,
        "parts at several": tf.string_split(["a,b;c", "x"], ",;").values,
        "characters": tf.string_split(["abc"], "").values,
        "parts with empty ones": tf.string_split(["a  b"], " ", skip_empty=False).values,
        "part": tf.substr(text, 1, 3),
        "parts of each": tf.substr(text, [-3, 1], [2, 9]),
        "length": tf.strings.length(["abc", "", "ä"]),
        "characters' number": tf.strings.length(["ä"], unit="UTF8_CHAR"),
        "lower": tf.strings.lower(["ABc"]),
        "upper": tf.strings.upper(["ABc"]),
        "strip": tf.strings.strip([" a "]),
        "replaced": tf.strings.regex_replace(["aab"], "a", "x"),
        "replaced once": tf.strings.regex_replace(["aab"], "a", "x", replace_global=False),
        "matches": tf.strings.regex_full_match(["aab", "ba"], "a+b"),
    }
    at, values = np.array([[0, 1], [1, 0], [1, 3]]), np.array([1, 2, -3], np.float32)
    s = tf.SparseTensor(at, values, [3, 4])
    found |= {
        "dense": tf.sparse_tensor_to_dense(s, 7.0),
        "product": tf.sparse_tensor_dense_matmul(s, tf.transpose(x)[:4]),
        "product transposed": tf.sparse_tensor_dense_matmul(s, x, adjoint_a=True),
        "sum": tf.sparse_reduce_sum(s, 1),
        "sum kept": tf.sparse_reduce_sum(s, 0, keepdims=True),
        "maximum": tf.sparse_reduce_max(tf.SparseTensor(at, -values, [3, 4]), 1),
        "sum with dense": tf.sparse_add(s, tf.ones([3, 4])),
    }
    of, table = [[0, 0], [0, 2], [1, 0], [2, 1]], array(5, 3)
    ids = tf.SparseTensor(of, tf.constant([1, 3, 0, 2], tf.int64), [3, 3])
    weights = tf.SparseTensor(of, [1.0, 3.0, 0.5, 2.0], [3, 3])
    for combiner in ("sum", "mean", "sqrtn"):
        for w, label in ((None, ""), (weights, " weighed")):
            found[f"rows {combiner}{label}"] = tf.nn.embedding_lookup_sparse(table, ids, w, combiner=combiner)
    for what, label in ((x, "x"), (numbers, "numbers")):
        for direction in ("ASCENDING", "DESCENDING"):
            for axis in (0, -1):
                key = f"{label} {direction} {axis}"
                found |= {
                    f"sort {key}": tf.sort(what, axis, direction),
                    f"argsort {key}": tf.argsort(what, axis, direction, stable=True),
                }
    b = tf.constant([0.0, 3.0])
    images = array(2, 4, 4, 3)
    norm = [images[0, 0, 0], tf.square(images[0, 0, 1]), images[0, 0, 2], images[0, 1, 2], 1e-3]
    found |= {
        "roll": tf.roll(x, 2, 1),
        "roll both": tf.manip.roll(x, [-1, 7], [0, 1]),
        "gather": tf.batch_gather(x, [[0, 1], [4, 4], [2, 0]]),
        "saturate": tf.saturate_cast([300.0, -5.0, 7.6], tf.uint8),
        "saturate integers": tf.saturate_cast([300, -5, 7], tf.int8),
        "saturate large": tf.saturate_cast([1e20, -1e20], tf.int32),
        "polynomial": tf.math.polyval([1.0, 2.0, 3.0], x),
        "product no nan": tf.math.multiply_no_nan([np.inf, 2.0], [0.0, 3.0]),
        "reciprocal no nan": tf.math.reciprocal_no_nan([0.0, 2.0]),
        "xlogy": tf.math.xlogy([0.0, 2.0], b),
        "xlogy gradient": tf.gradients(tf.math.xlogy([0.0, 2.0], b), b)[0],
        "xdivy": tf.math.xdivy([0.0, 2.0], b),
        "variance": tf.math.reduce_variance(x, 1),
        "std": tf.math.reduce_std(x),
        "length of rows": tf.math.reduce_euclidean_norm(x, 0, keepdims=True),
        "silu": tf.nn.silu(x),
        "poisson": tf.nn.log_poisson_loss([0.5, 1.0, 3.0], [0.1, 0.2, 0.3]),
        "poisson full": tf.nn.log_poisson_loss([0.5, 1.0, 3.0], [0.1, 0.2, 0.3], compute_full_loss=True),
        "global norm": tf.nn.batch_norm_with_global_normalization(images, *norm, True),
        "global norm unscaled": tf.nn.batch_norm_with_global_normalization(images, *norm, False),
        "depthwise": tf.nn.depthwise_conv2d_native(images, array(2, 2, 3, 2), [1, 1, 1, 1], "SAME"),
        "mean of two": tf.nn.avg_pool1d(x[:, :, None], 2, 2, "SAME"),
        "maximum of three": tf.nn.max_pool1d(x[:, :, None], 3, 1, "VALID"),
        "where": tf.where_v2(tf.constant([[True], [False], [True]]), x, 1.0),
        "switch": tf.switch_case(tf.constant(1), {0: lambda: tf.constant(5), 1: lambda: tf.constant(7)}),
        "switch out of range": tf.switch_case(
            tf.constant(9), [lambda: tf.constant(5), lambda: tf.constant(7)]
        ),
    }
    return found


def as_text(value: Any) -> Any:
    """A value as what JSON holds."""
    if isinstance(value, bytes):
        return value.decode()
    return [as_text(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        values = session.run(calls(tf))
    text = {name: as_text(np.asarray(value).tolist()) for name, value in values.items()}
    FILE.write_text(
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in text.items()) + "\n}\n"
    )


if __name__ == "__main__":
    main()
