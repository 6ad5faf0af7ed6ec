"""tf.data, whose data sets are in dtrain/tf1/dataset.py; here is what came later."""

from dtrain.names import module_getattr

__getattr__ = module_getattr("tf.data")
