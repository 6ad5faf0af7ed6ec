"""Models: what programs import, and functions that make them."""

from __future__ import annotations

from typing import Any

from dtrain.keras.model import Model
from dtrain.keras.saving import load_model, model_from_json, model_from_yaml
from dtrain.keras.sequential import Sequential
from dtrain.keras.utils import slice_arrays
from dtrain.names import module_getattr

__all__ = [
    "Model",
    "Sequential",
    "clone_model",
    "load_model",
    "model_from_json",
    "model_from_yaml",
    "save_model",
    "slice_X",
]

slice_X = _slice_arrays = slice_arrays  # where Keras 1 had it, and Keras 2 to itself

__getattr__ = module_getattr("tf.keras.models")


def clone_model(model: Model) -> Any:
    """A model with the same layers and new weights."""
    if isinstance(model, Sequential):
        config = {**model.get_config(), "input_shape": None}
        return Sequential.from_config(config, comm=model.comm)
    return type(model).from_config(model.get_config())


def save_model(model: Model, filepath: Any, overwrite: bool = True, include_optimizer: bool = True) -> None:
    """model.save(filepath)."""
    model.save(filepath, overwrite, include_optimizer)
