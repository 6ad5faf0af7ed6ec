"""dt.keras.datasets: data sets as Keras hands them out."""

from dtrain.keras.datasets import boston_housing, cifar10, cifar100, fashion_mnist, mnist
from dtrain.names import module_getattr

__all__ = ["boston_housing", "cifar10", "cifar100", "fashion_mnist", "mnist"]

__getattr__ = module_getattr("tf.keras.datasets")
