"""tf.contrib.opt: Nadam and AdaMax, which dtrain.train has, and Adam under another name."""

from dtrain.names import module_getattr
from dtrain.train.optimizers import AdaMaxOptimizer, AdamOptimizer, NadamOptimizer

__all__ = ["AdaMaxOptimizer", "LazyAdamOptimizer", "NadamOptimizer"]


class LazyAdamOptimizer(AdamOptimizer):
    """Adam: what is lazy in TensorFlow's are rows of embeddings without a gradient, and here all have one."""


__getattr__ = module_getattr("tf.contrib.opt")
