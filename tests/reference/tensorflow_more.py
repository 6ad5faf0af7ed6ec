"""What TensorFlow 1 gives of rarer functions: writes tensorflow_more.json.

    python tests/reference/tensorflow_more.py     (made with TensorFlow 2.15, tf.compat.v1)

`calls(tf)` asks any module of TensorFlow 1's names, so the test asks dtrain the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("tensorflow_more.json")


def calls(tf: Any) -> dict[str, Any]:
    """Tensors by what they are."""
    rng = np.random.RandomState(4)

    def array(*shape: int) -> Any:
        return tf.constant(rng.normal(size=shape).astype(np.float32))

    x, filter_, y, labels = array(2, 7, 6, 3), array(3, 2, 3), array(4, 5), array(4, 5)
    ones, pads = [1, 1, 1, 1], [[0, 0], [2, 1], [0, 3], [1, 0]]
    found = {f"pad {mode}": tf.pad(x, pads, mode) for mode in ("REFLECT", "SYMMETRIC", "CONSTANT")}
    im, batch = tf.image, tf.abs(x)
    found |= {
        "bicubic": im.resize_images(batch, [3, 4], 2),
        "bicubic up": im.resize_images(batch, [9, 13], im.ResizeMethod.BICUBIC),
        "bicubic corners": im.resize_bicubic(batch, [8, 3], align_corners=True),
        "area": im.resize_images(batch[0], [2, 4], im.ResizeMethod.AREA),
        "area uneven": im.resize_area(batch, [3, 5]),
        "area up": im.resize_images(batch, [9, 8], 3),
    }
    for padding in ("SAME", "VALID"):
        by = [1, 2, 2, 1]
        found[f"patches {padding}"] = tf.extract_image_patches(x, [1, 3, 2, 1], by, ones, padding)
        found[f"patches apart {padding}"] = tf.extract_image_patches(
            x, [1, 2, 2, 1], ones, [1, 2, 1, 1], padding
        )
        values, places = tf.nn.max_pool_with_argmax(x, [1, 3, 2, 1], by, padding)
        found |= {f"maxima {padding}": values, f"places {padding}": places}
        found[f"dilation {padding}"] = tf.nn.dilation2d(x, filter_, by, ones, padding)
        found[f"erosion {padding}"] = tf.nn.erosion2d(x, filter_, ones, ones, padding)
    loss = tf.losses.mean_pairwise_squared_error
    found |= {
        "pairs": loss(labels, y),
        "pairs weighed": loss(labels, y, weights=2.0),
        "pairs weighed each": loss(labels, y, weights=[[1.0], [0.0], [2.0], [1.0]]),
        "linear cosine": tf.stack(
            [tf.train.linear_cosine_decay(0.1, n, 10, 0.5, 0.1, 0.01) for n in (0, 3, 10, 12)]
        ),
    }
    d = tf.distributions
    a, b = d.Normal(y, 0.5 + tf.abs(labels)), d.Normal(0.3, 2.0)
    coins, other = d.Bernoulli(logits=y), d.Bernoulli(probs=tf.sigmoid(labels))
    classes, others = d.Categorical(logits=y), d.Categorical(probs=tf.nn.softmax(labels))
    flat = d.Uniform(-1.0, 1.0 + tf.abs(y))
    for name, it in (("normal", a), ("coins", other), ("uniform", flat)):
        found |= {
            f"{name} mean": it.mean(),
            f"{name} variance": it.variance(),
            f"{name} entropy": it.entropy(),
        }
    found |= {
        "normal log_prob": a.log_prob(labels * 2),
        "normal prob": b.prob(y),
        "normal cdf": a.cdf(labels),
        "normal kl": d.kl_divergence(a, b),
        "coins log_prob": coins.log_prob(tf.cast(labels > 0, tf.int32)),
        "coins kl": d.kl_divergence(coins, other),
        "coins mode": coins.mode(),
        "classes log_prob": classes.log_prob([1, 4, 0, 2]),
        "classes kl": d.kl_divergence(classes, others),
        "classes entropy": classes.entropy(),
        "classes mode": others.mode(),
        "uniform log_prob": flat.log_prob(labels),
    }
    return found


def main() -> None:
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        values = session.run(calls(tf))
    text = {name: np.asarray(value).tolist() for name, value in values.items()}
    FILE.write_text(
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in text.items()) + "\n}\n"
    )


if __name__ == "__main__":
    main()
