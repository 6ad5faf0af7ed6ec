"""What TensorFlow 1 kept under tf.contrib, as far as dtrain has it."""

from dtrain.names import module_getattr

__getattr__ = module_getattr("tf.contrib")
