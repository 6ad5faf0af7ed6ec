"""Recurrent nets under the path that they had before TensorFlow 1.0."""

from dtrain.tf1.recurrent import *  # noqa: F403
from dtrain.tf1.recurrent import __all__ as __all__
