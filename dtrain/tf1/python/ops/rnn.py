"""Recurrent nets of tf.nn under the path of TensorFlow's own module."""

from dtrain.tf1.recurrent import *  # noqa: F403
from dtrain.tf1.recurrent import __all__ as __all__
