"""The path of tf.contrib.layers within TensorFlow: tensorflow.contrib.layers.python.layers."""

from dtrain.tf1.contrib import layers

__all__ = ["layers"]
