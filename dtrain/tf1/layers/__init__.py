"""tf.layers: layers as functions, which make their variables with get_variable, and as classes.

    h = tf.layers.dense(x, 128, activation=tf.nn.relu, name="hidden")   # hidden/kernel, hidden/bias
    h = tf.layers.batch_normalization(h, training=is_training)

On several ranks a layer is what it is on one: the batch is the whole batch.
"""

from dtrain.names import module_getattr
from dtrain.tf1.layers.base import Layer
from dtrain.tf1.layers.convolutional import (
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    SeparableConv2D,
    conv1d,
    conv2d,
    conv2d_transpose,
    conv3d,
    conv3d_transpose,
    separable_conv2d,
)
from dtrain.tf1.layers.core import Dense, Dropout, Flatten, dense, dropout, flatten
from dtrain.tf1.layers.normalization import BatchNormalization, batch_normalization
from dtrain.tf1.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    AveragePooling3D,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
    average_pooling1d,
    average_pooling2d,
    average_pooling3d,
    max_pooling1d,
    max_pooling2d,
    max_pooling3d,
)

__all__ = [
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "BatchNormalization",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Dense",
    "Dropout",
    "Flatten",
    "Layer",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "SeparableConv2D",
    "average_pooling1d",
    "average_pooling2d",
    "average_pooling3d",
    "batch_normalization",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "conv3d_transpose",
    "dense",
    "dropout",
    "flatten",
    "max_pooling1d",
    "max_pooling2d",
    "max_pooling3d",
    "separable_conv2d",
]

__getattr__ = module_getattr("tf.layers")
