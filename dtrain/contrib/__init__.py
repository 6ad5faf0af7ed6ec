"""What TensorFlow 1 kept under tf.contrib, as far as dtrain has it."""

from dtrain.compat import module_getattr
from dtrain.contrib import layers

__all__ = ["layers"]

__getattr__ = module_getattr("tf.contrib")
