"""What TensorFlow 1's tf.image gives: writes tensorflow_image.json.

    python tests/reference/tensorflow_image.py     (made with TensorFlow 2.15, tf.compat.v1)

`values(tf)` asks any module of TensorFlow 1's names, so the test asks dtrain the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("tensorflow_image.json")


def calls(tf: Any, floats: Any, pixels: Any, batch: Any) -> dict[str, Any]:
    """Tensors by what they are: of an image of floats [5, 7, 3], of uint8 [4, 6, 3], and 2 images."""
    im = tf.image
    return {
        "bilinear": im.resize_images(floats, [3, 4]),
        "bilinear up": im.resize_images(pixels, [9, 10]),
        "bilinear corners": im.resize_images(floats, [8, 3], align_corners=True),
        "bilinear batch": im.resize_images(batch, [2, 5]),
        "nearest": im.resize_images(pixels, [7, 3], im.ResizeMethod.NEAREST_NEIGHBOR),
        "nearest corners": im.resize_images(pixels, [7, 9], 1, align_corners=True),
        "crop": im.crop_to_bounding_box(floats, 1, 2, 3, 4),
        "pad": im.pad_to_bounding_box(pixels, 1, 2, 7, 9),
        "crop or pad": im.resize_image_with_crop_or_pad(floats, 8, 4),
        "crop or pad odd": im.resize_image_with_crop_or_pad(pixels, 3, 9),
        "central": im.central_crop(floats, 0.5),
        "left right": im.flip_left_right(floats),
        "up down": im.flip_up_down(batch),
        "rot90": im.rot90(floats),
        "rot270": im.rot90(pixels, 3),
        "float to uint8": im.convert_image_dtype(floats, tf.uint8),
        "float to uint8 saturated": im.convert_image_dtype(floats * 3 - 1, tf.uint8, saturate=True),
        "uint8 to float": im.convert_image_dtype(pixels, tf.float32),
        "brightness": im.adjust_brightness(floats, 0.25),
        "brightness uint8": im.adjust_brightness(pixels, -0.25),
        "contrast": im.adjust_contrast(floats, 1.5),
        "contrast uint8": im.adjust_contrast(pixels, 0.4),
        "gamma": im.adjust_gamma(floats, 2.0, 0.5),
        "gray": im.rgb_to_grayscale(floats),
        "gray uint8": im.rgb_to_grayscale(pixels),
        "rgb": im.grayscale_to_rgb(floats[:, :, :1]),
        "hsv": im.rgb_to_hsv(floats),
        "from hsv": im.hsv_to_rgb(floats),
        "saturation": im.adjust_saturation(floats, 0.6),
        "saturation uint8": im.adjust_saturation(pixels, 1.7),
        "hue": im.adjust_hue(floats, -0.3),
        "hue uint8": im.adjust_hue(pixels, 0.4),
        "standard": im.per_image_standardization(floats),
        "standard uint8": im.per_image_standardization(pixels),
    }


def images() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [
        random.random((5, 7, 3)).astype(np.float32),
        random.integers(0, 256, (4, 6, 3)).astype(np.uint8),
        random.random((2, 4, 3, 1)).astype(np.float32),
    ]


def values(tf: Any, session: Any, known: bool = True) -> dict[str, Any]:
    """The values by name; known: whether the sizes are known while the graph is built."""
    with tf.Graph().as_default():
        given = images()
        fed = [
            tf.placeholder(
                image.dtype, image.shape if known else [None] * (image.ndim - 1) + [image.shape[-1]]
            )
            for image in given
        ]
        found = calls(tf, *fed)
        with session() as sess:
            results = sess.run(found, dict(zip(fed, given, strict=True)))
    return {
        name: {"dtype": value.dtype.name, "value": np.round(value.astype(float), 6).tolist()}
        for name, value in results.items()
    }


if __name__ == "__main__":
    import tensorflow.compat.v1 as tensorflow

    tensorflow.disable_v2_behavior()
    lines = [
        f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}"
        for name, value in values(tensorflow, tensorflow.Session).items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
