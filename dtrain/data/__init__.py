"""tf.data: data sets that feed a session (dtrain/tf1/dataset.py)."""

from dtrain.names import module_getattr

__getattr__ = module_getattr("tf.data")
