"""dt.keras: so far its data sets."""

from dtrain.compat import module_getattr
from dtrain.keras import datasets

__all__ = ["datasets"]

__getattr__ = module_getattr("tf.keras")
