"""dt.keras.wrappers: models as other libraries want them."""

from dtrain.compat import module_getattr
from dtrain.keras.wrappers import scikit_learn

__all__ = ["scikit_learn"]

__getattr__ = module_getattr("tf.keras.wrappers")
