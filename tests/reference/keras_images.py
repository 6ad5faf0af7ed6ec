"""Writes keras_images.json, where keras and jax are installed: what Keras 3's layers for images give.

    python tests/reference/keras_images.py

Where a layer draws, both ends of what it draws from are the same number, so that nothing is random; no place
is in the middle between two pixels, of which `nearest` may take either.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

VALUES = Path(__file__).with_name("keras_images.json")
#: Images [n, height, width, channels], of sizes that differ.
IMAGES = (np.arange(2 * 5 * 4 * 1) * 37 % 41 / 8 - 2).astype(np.float32).reshape(2, 5, 4, 1)

_FILLS = ("constant", "reflect", "nearest", "wrap")
_WAYS = [{"fill_mode": f, "interpolation": i} for f in _FILLS for i in ("bilinear", "nearest")]
#: Each the layer's name and its arguments.
CASES: list[tuple[str, dict[str, Any]]] = [
    *(
        ("RandomTranslation", {"height_factor": (0.33, 0.33), "width_factor": (-0.45, -0.45), **w})
        for w in _WAYS
    ),
    *(("RandomRotation", {"factor": (0.13, 0.13), **way}) for way in _WAYS),
    *(("RandomZoom", {"height_factor": (0.4, 0.4), "width_factor": (-0.3, -0.3), **way}) for way in _WAYS),
    ("RandomZoom", {"height_factor": (-0.3, -0.3)}),
    ("RandomRotation", {"factor": (-0.4, -0.4), "fill_mode": "constant", "fill_value": 7.0}),
    ("Rescaling", {"scale": 2.0, "offset": 0.5}),
    ("CenterCrop", {"height": 3, "width": 2}),
    ("CenterCrop", {"height": 4, "width": 3}),
    ("Normalization", {"mean": [1.0], "variance": [4.0]}),
    ("Normalization", {"axis": None, "mean": 0.5, "variance": 2.0, "invert": True}),
]


def main() -> None:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    found = []
    for name, arguments in CASES:
        y = np.asarray(getattr(keras.layers, name)(**arguments)(IMAGES, training=True))
        found.append([list(y.shape), [float(f"{v:.7g}") for v in y.ravel()]])
    lines = ",\n".join(json.dumps(case) for case in found)
    VALUES.write_text(f'{{"keras": "{keras.__version__}", "values": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
