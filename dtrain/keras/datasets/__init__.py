"""dt.keras.datasets: data sets as Keras hands them out."""

from dtrain.compat import module_getattr
from dtrain.keras.datasets import boston_housing, fashion_mnist, mnist

__all__ = ["boston_housing", "fashion_mnist", "mnist"]

__getattr__ = module_getattr("tf.keras.datasets")
