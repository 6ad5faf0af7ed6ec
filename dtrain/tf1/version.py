"""tf.version: of TensorFlow, whose names these are."""

from dtrain.names import module_getattr
from dtrain.tf1.v1 import COMPILER_VERSION, GIT_VERSION, VERSION

__all__ = ["COMPILER_VERSION", "GIT_VERSION", "VERSION"]

__getattr__ = module_getattr("tf.version")
