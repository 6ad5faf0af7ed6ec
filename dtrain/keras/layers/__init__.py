"""The layers that a model is made of; each can also be called on a tensor of a graph: Dense(10)(x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtrain.keras.layers import advanced_activations, convolutional, core, noise, pooling, recurrent
from dtrain.keras.layers import convolutional_recurrent as _convolutional_recurrent
from dtrain.keras.layers import embeddings as _embeddings
from dtrain.keras.layers import local as _local
from dtrain.keras.layers import merge as _merge
from dtrain.keras.layers import old as _old
from dtrain.keras.layers import preprocessing as _preprocessing
from dtrain.keras.layers import volumes as _volumes
from dtrain.keras.layers import wrappers as _wrappers
from dtrain.keras.layers.base import Layer
from dtrain.keras.layers.inputs import Input, InputLayer, InputSpec
from dtrain.keras.layers.normalization import BatchNormalization, LayerNormalization
from dtrain.keras.names import Names
from dtrain.names import module_getattr

if TYPE_CHECKING:  # what globals() gets below, for type checkers and editors
    from dtrain.keras.layers.advanced_activations import *  # noqa: F403
    from dtrain.keras.layers.convolutional import *  # noqa: F403
    from dtrain.keras.layers.convolutional_recurrent import *  # noqa: F403
    from dtrain.keras.layers.core import *  # noqa: F403
    from dtrain.keras.layers.embeddings import *  # noqa: F403
    from dtrain.keras.layers.merge import *  # noqa: F403
    from dtrain.keras.layers.noise import *  # noqa: F403
    from dtrain.keras.layers.old import *  # noqa: F403
    from dtrain.keras.layers.pooling import *  # noqa: F403
    from dtrain.keras.layers.preprocessing import *  # noqa: F403
    from dtrain.keras.layers.recurrent import *  # noqa: F403
    from dtrain.keras.layers.wrappers import *  # noqa: F403

_MODULES = (
    advanced_activations,
    convolutional,
    core,
    _merge,
    noise,
    pooling,
    recurrent,
    _convolutional_recurrent,
    _embeddings,
    _local,
    _old,
    _preprocessing,
    _volumes,
    _wrappers,
)
_ALL = {name: getattr(module, name) for module in _MODULES for name in module.__all__}
globals().update(_ALL)

#: Other names of layers, of Keras 1 and of later ones.
_ALSO = {
    "AtrousConv1D": "Conv1D",
    "AtrousConv2D": "Conv2D",
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "AvgPool1D": "AveragePooling1D",
    "AvgPool2D": "AveragePooling2D",
    "AvgPool3D": "AveragePooling3D",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution2DTranspose": "Conv2DTranspose",
    "Convolution3D": "Conv3D",
    "Deconv2D": "Conv2DTranspose",
    "Convolution3DTranspose": "Conv3DTranspose",
    "Deconv3D": "Conv3DTranspose",
    "Deconvolution2D": "Conv2DTranspose",
    "Deconvolution3D": "Conv3DTranspose",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "GlobalAvgPool1D": "GlobalAveragePooling1D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GlobalAvgPool3D": "GlobalAveragePooling3D",
    "GlobalMaxPool1D": "GlobalMaxPooling1D",
    "GlobalMaxPool2D": "GlobalMaxPooling2D",
    "GlobalMaxPool3D": "GlobalMaxPooling3D",
    "MaxPool1D": "MaxPooling1D",
    "MaxPool2D": "MaxPooling2D",
    "MaxPool3D": "MaxPooling3D",
    "SeparableConvolution1D": "SeparableConv1D",
    "SeparableConvolution2D": "SeparableConv2D",
}
globals().update({old: globals()[new] for old, new in _ALSO.items()})

__all__ = [
    "BatchNormalization",
    "Input",
    "InputLayer",
    "InputSpec",
    "Layer",
    "LayerNormalization",
    *_ALL,
    *_ALSO,
]

__getattr__ = module_getattr("tf.keras.layers")

_NAMES = Names(
    "layer", {n: globals()[n] for n in __all__ if n[0].isupper() and n not in ("Input", "InputSpec", "Layer")}
)


def deserialize(config: Any) -> Any:
    """The layer that {"class_name", "config"} stands for; raises UsageError for a class that is not known."""
    if config.get("class_name") in ("Model", "Sequential"):
        from dtrain.keras import models

        return getattr(models, config["class_name"]).from_config(config["config"])
    return _NAMES.get(config)
