"""dt.keras.datasets: data sets as Keras hands them out."""

from dtrain.keras.datasets import mnist
from dtrain.names import module_getattr

__all__ = ["mnist"]

__getattr__ = module_getattr("tf.keras.datasets")
