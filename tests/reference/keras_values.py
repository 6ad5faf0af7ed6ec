"""Writes keras_values.json: what Keras answers to keras_cases.py, where TensorFlow and Keras 3 are installed.

    python tests/reference/keras_values.py [BEGINNING ...]

Where beginnings of cases' names are given only these are asked, and those that are new.
Nothing of dtrain is imported.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))
from keras_cases import CASES, MODULES

FILE = Path(__file__).with_name("keras_values.json")


class Real(SimpleNamespace):
    """Keras as keras_cases.py wants it."""

    def __init__(self) -> None:
        super().__init__(**{name: getattr(keras, name) for name in MODULES})

    model = staticmethod(lambda layers: keras.Sequential(layers))
    functional = staticmethod(lambda inputs, outputs: keras.Model(inputs, outputs))
    constant = staticmethod(tf.constant)
    leaky_relu = staticmethod(
        lambda x, slope, limit: keras.activations.relu(x, negative_slope=slope, max_value=limit)
    )

    @staticmethod
    def value(f: Any, *arrays: np.ndarray) -> np.ndarray:
        return np.asarray(f(*map(tf.constant, arrays)))

    @staticmethod
    def slope(f: Any, array: np.ndarray) -> np.ndarray:
        x = tf.constant(array)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(f(x))
        return np.asarray(tape.gradient(y, x))

    @staticmethod
    def draw(initializer: Any, shape: tuple[int, ...]) -> np.ndarray:
        keras.utils.set_random_seed(5)
        return np.asarray(initializer(shape), np.float64)


def plain(value: Any) -> Any:
    """As JSON holds it; numbers with as many digits as a float32 has."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str | bool | int | None):
        return value
    array = np.asarray(value)
    if array.ndim:
        return [plain(v) for v in array]
    number = array.item()
    short = float(f"{number:.8g}") if isinstance(number, float) else number
    return int(short) if isinstance(short, float) and short.is_integer() and abs(short) < 1e6 else short


def main(beginnings: tuple[str, ...]) -> None:
    old = json.loads(FILE.read_text()) if beginnings else {}
    answers = {}
    for name, ask in CASES.items():
        if name in old and not name.startswith(beginnings):
            answers[name] = old[name]
            continue
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        answers[name] = plain(ask(Real()))
    about = {"tensorflow": tf.__version__, "keras": keras.__version__}
    lines = [
        f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in {"": about, **answers}.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(answers)} cases of Keras {keras.__version__}")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
