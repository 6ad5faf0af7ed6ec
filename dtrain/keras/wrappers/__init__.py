"""dt.keras.wrappers: models as other libraries want them."""

from dtrain.keras.wrappers import scikit_learn
from dtrain.names import module_getattr

__all__ = ["scikit_learn"]

__getattr__ = module_getattr("tf.keras.wrappers")
