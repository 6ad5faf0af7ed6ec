"""Plugins of TensorBoard that need a file of their own."""

from dtrain.names import module_getattr

__all__: list[str] = []

__getattr__ = module_getattr("tf.contrib.tensorboard.plugins")
