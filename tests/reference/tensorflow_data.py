"""The elements that TensorFlow's data sets give: writes tensorflow_data.json.

    python tests/reference/tensorflow_data.py     (made with TensorFlow 2.15, tf.compat.v1)

`values(tf)` asks any module of TensorFlow 1's names, so the test asks dtrain the same. What is shuffled is
not here: the random numbers are others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("tensorflow_data.json")


def datasets(tf: Any) -> dict[str, Any]:
    """Data sets by what they are."""
    D = tf.data.Dataset
    x = np.arange(22, dtype=np.float32).reshape(11, 2) / 4
    y = np.arange(11) % 3

    def steps(n: int) -> Callable[[], Any]:
        return lambda: ((np.arange(i), {"at": i}) for i in range(n))

    pairs = D.from_tensor_slices((x, y))
    records = D.from_tensor_slices({"x": x, "y": y})
    ragged = D.from_generator(steps(5), (tf.int64, {"at": tf.int32}), (tf.TensorShape([None]), {"at": []}))
    words = ["a,1,0.5", "b,2,", 'c d,3,"1.5"']
    return {
        "slices": pairs,
        "dict": records,
        "tensors": D.from_tensors((x, 3)),
        "range": D.range(2, 9, 3),
        "range down": D.range(5, 0, -2),
        "batch": pairs.batch(4),
        "batch dropped": pairs.batch(4, drop_remainder=True),
        "repeat batch": D.range(5).repeat(2).batch(4),
        "batch repeat": D.range(5).batch(4).repeat(2),
        "map": pairs.map(lambda a, b: (a * 2 + 1, tf.one_hot(b, 3))).batch(3),
        "map dict": records.map(lambda r: {"z": tf.reduce_sum(r["x"]), "y": r["y"]}).batch(5),
        "map of batches": pairs.batch(4).map(lambda a, b: (tf.reduce_sum(a, 0), tf.reduce_max(b))),
        "map captured": D.range(3).map(lambda i: tf.gather(tf.constant([5.0, 6.0, 7.0]), i)),
        "map shapes": pairs.map(
            lambda a, b: (
                tf.reshape(tf.concat([a, a], 0), [2, -1]),
                tf.transpose(tf.stack([a, a + 1])),
                tf.expand_dims(a, -1)[0],
                tf.squeeze(tf.tile(tf.expand_dims(a, 0), [1, 2])),
            )
        ).take(2),
        "map matmul": pairs.map(lambda a, b: tf.matmul([[1.0, 2.0]], tf.expand_dims(a, 1))).batch(6),
        "map shape": pairs.batch(4).map(lambda a, b: tf.shape(a)[0] * 10),
        "filter": D.range(10).filter(lambda i: tf.equal(i % 3, 1)),
        "filter pairs": pairs.filter(lambda a, b: b > 0).batch(3),
        "take skip": D.range(10).skip(3).take(5),
        "take all": D.range(4).take(-1),
        "skip all": D.range(4).skip(-1),
        "zip": D.zip((D.range(3), D.range(10, 20))).batch(2),
        "zip dict": D.zip({"a": D.range(3), "b": pairs}),
        "concatenate": D.range(3).concatenate(D.range(8, 10)),
        "shard": D.range(11).shard(3, 1),
        "cache": D.range(3).map(lambda i: i * i).cache().repeat(2),
        "generator": ragged,
        "padded": ragged.padded_batch(2, (tf.TensorShape([None]), {"at": []})),
        "padded to": ragged.padded_batch(2, ([6], {"at": []}), (np.int64(-1), {"at": 7})),
        "flat_map": D.range(4).flat_map(lambda i: D.from_tensors(i * 10).repeat(i)),
        "flat slices": D.from_tensors(x).flat_map(lambda a: D.from_tensor_slices(a)).take(3),
        "interleave": D.range(1, 6).interleave(lambda i: D.from_tensors(i).repeat(6), 2, block_length=4),
        "interleave uneven": D.range(1, 6).interleave(lambda i: D.from_tensors(i).repeat(i), 3),
        "csv": D.from_tensor_slices(words).map(lambda t: tuple(tf.decode_csv(t, [["-"], [0], [9.0]]))),
        "raw": D.from_tensors(b"\x01\x02\x03\x00").map(lambda b: tf.decode_raw(b, tf.uint8)),
    }


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
        return ["string", np.array(texts, object).reshape(array.shape).tolist()]
    return [array.dtype.name, array.tolist()]


def elements(tf: Any, session: Any, following: Any) -> list[Any]:
    found = []
    while True:
        try:
            found.append(plain(session.run(following)))
        except tf.errors.OutOfRangeError:
            return found


def shapes(dataset: Any, tf: Any) -> Any:
    """The static shapes and dtypes, as text."""
    of = tf.data.get_output_shapes(dataset)

    def told(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: told(part[key]) for key in sorted(part)}
        if isinstance(part, tuple):
            return [told(p) for p in part]
        return None if part.ndims is None else part.as_list()

    return told(of)


def values(tf: Any, session: Any) -> dict[str, Any]:
    """Elements and static shapes by name."""
    found = {}
    with tf.Graph().as_default():
        every = datasets(tf)
        ends = {}
        for name, dataset in every.items():
            ends[name] = tf.data.make_one_shot_iterator(dataset).get_next()
        with session() as sess:
            for name, following in ends.items():
                found[name] = {"shapes": shapes(every[name], tf), "elements": elements(tf, sess, following)}
    return found


if __name__ == "__main__":
    import tensorflow.compat.v1 as tensorflow

    tensorflow.disable_v2_behavior()
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}"
        for name, value in values(tensorflow, tensorflow.Session).items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
