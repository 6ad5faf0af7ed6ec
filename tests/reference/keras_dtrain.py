"""dtrain as keras_cases.py wants it, and how its answers are compared with Keras's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from keras_cases import CASES, MODULES, flat

import dtrain as dt
from dtrain import keras
from dtrain.comm import Communicator

#: What Keras answered, by the name of a case; under '' the versions that were asked.
KERAS: dict[str, Any] = json.loads(Path(__file__).with_name("keras_values.json").read_text())


class Ours(SimpleNamespace):
    """dt.keras under the names of keras_cases.py; models are trained by the ranks of comm."""

    def __init__(self, comm: Communicator | None) -> None:
        super().__init__(**{name: getattr(keras, name) for name in MODULES}, comm=comm)

    constant = staticmethod(lambda array: dt.constant(np.asarray(array)))
    leaky_relu = staticmethod(lambda x, slope, limit: keras.activations.relu(x, alpha=slope, max_value=limit))

    def model(self, layers: Any) -> Any:
        return keras.Sequential(layers, comm=self.comm)

    def functional(self, inputs: Any, outputs: Any) -> Any:
        return keras.Model(inputs, outputs, comm=self.comm)

    @staticmethod
    def value(f: Any, *arrays: Any) -> Any:
        return dt.Session(comm=None).run(f(*(dt.constant(np.asarray(a)) for a in arrays)))

    @staticmethod
    def slope(f: Any, array: Any) -> Any:
        x = dt.constant(array)
        return dt.Session(comm=None).run(dt.gradients(dt.reduce_sum(f(x)), x)[0])

    @staticmethod
    def draw(initializer: Any, shape: tuple[int, ...]) -> Any:
        dt.set_random_seed(5)
        return dt.Session(comm=None).run(initializer(shape, "float32")).astype(np.float64)


def ask(name: str, comm: Communicator | None = None) -> Any:
    """What dtrain answers to a case."""
    dt.reset_default_graph()
    dt.set_random_seed(1)
    with np.errstate(all="ignore"):
        return CASES[name](Ours(comm))


def differences(name: str, found: Any) -> Iterator[str]:
    """Where an answer is not Keras's, but for the rounding of float32: in one step, or in some dozen."""
    trained = name.startswith(
        ("fit/", "models/", "merge/", "layers2/", "callbacks/", "optimizers/", "frozen/")
    )
    rtol, atol = (5e-5, 5e-6) if trained else (1e-5, 1e-6)
    ours, theirs = dict(flat(found)), dict(flat(KERAS[name]))
    for path in sorted({*ours, *theirs}):
        a, b = ours.get(path), theirs.get(path)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            if a.shape != b.shape or not np.allclose(a, b, rtol, atol, equal_nan=True):
                yield f"{path}: {a.tolist()}, and Keras gave {b.tolist()}"
        elif a != b:
            yield f"{path}: {a}, and Keras gave {b}"
