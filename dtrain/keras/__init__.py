"""dt.keras: Model, Sequential, layers, compile / fit / evaluate / predict and callbacks, under Keras's names.

Formulas and defaults are those of Keras 3; tests/reference holds values that Keras 3.15 gave, with which the
tests compare. docs/tensorflow1.md says what differs on purpose. Its modules are imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dtrain.keras import old_paths
from dtrain.names import module_getattr

if TYPE_CHECKING:  # what __getattr__ gives, for type checkers and editors
    from dtrain.keras import (
        activations,
        backend,
        callbacks,
        constraints,
        datasets,
        initializers,
        layers,
        losses,
        metrics,
        models,
        optimizers,
        preprocessing,
        regularizers,
        utils,
        wrappers,
    )
    from dtrain.keras.layers import Input
    from dtrain.keras.models import Model, Sequential

__all__ = [
    "Input",
    "Model",
    "Sequential",
    "activations",
    "backend",
    "callbacks",
    "constraints",
    "datasets",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "preprocessing",
    "regularizers",
    "utils",
    "wrappers",
]

#: Of the Keras whose names there are: programs print it, or choose words by it.
__version__ = "2.2.4"

#: Where the names that are no modules come from.
_FROM = {"Input": "layers", "Model": "models", "Sequential": "models"}
old_paths.install()
_missing = module_getattr("tf.keras")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        return _missing(name)
    module = importlib.import_module(f"dtrain.keras.{_FROM.get(name, name)}")
    value = getattr(module, name) if name in _FROM else module
    globals()[name] = value
    return value
