"""tf.contrib.opt: Nadam and AdaMax, which dtrain.train has."""

from dtrain.names import module_getattr
from dtrain.train.optimizers import AdaMaxOptimizer, NadamOptimizer

__all__ = ["AdaMaxOptimizer", "NadamOptimizer"]

__getattr__ = module_getattr("tf.contrib.opt")
