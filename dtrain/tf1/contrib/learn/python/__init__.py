"""tensorflow.contrib.learn.python, whose `learn` is tf.contrib.learn."""

from dtrain.names import module_getattr

__getattr__ = module_getattr("tf.contrib.learn.python")
