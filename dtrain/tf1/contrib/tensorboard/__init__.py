"""tf.contrib.tensorboard: the projector's configuration."""

from dtrain.names import module_getattr

__all__: list[str] = []

__getattr__ = module_getattr("tf.contrib.tensorboard")
