"""The layers that a model is made of; each can also be called on a tensor of a graph: Dense(10)(x)."""

from __future__ import annotations

from typing import Any

from dtrain.compat import module_getattr
from dtrain.keras.layers.base import Input, InputLayer, Layer
from dtrain.keras.layers.core import Activation, Dense, Dropout, Flatten, Reshape
from dtrain.keras.layers.images import AveragePooling2D, Conv2D, GlobalAveragePooling2D, MaxPooling2D
from dtrain.keras.layers.normalization import BatchNormalization
from dtrain.keras.layers.preprocessing import (
    CenterCrop,
    Normalization,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Rescaling,
)
from dtrain.keras.names import Names

__all__ = [
    "Activation",
    "AveragePooling2D",
    "BatchNormalization",
    "CenterCrop",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "Input",
    "InputLayer",
    "Layer",
    "MaxPooling2D",
    "Normalization",
    "RandomCrop",
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "Rescaling",
    "Reshape",
]

__getattr__ = module_getattr("tf.keras.layers")

_NAMES = Names("layer", {n: globals()[n] for n in __all__ if n not in ("Input", "Layer")})


def deserialize(config: Any) -> Any:
    """The layer that {"class_name", "config"} stands for; raises UsageError for a class that is not known."""
    return _NAMES.get(config)
