"""dt.keras.datasets: data sets as Keras hands them out."""

from dtrain.compat import module_getattr
from dtrain.keras.datasets import mnist

__all__ = ["mnist"]

__getattr__ = module_getattr("tf.keras.datasets")
