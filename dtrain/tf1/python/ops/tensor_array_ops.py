"""TensorArray under the path of TensorFlow's own module."""

from dtrain.tf1.tensor_array import TensorArray

__all__ = ["TensorArray"]
