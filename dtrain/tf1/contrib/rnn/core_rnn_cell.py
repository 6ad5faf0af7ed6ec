"""tf.contrib.rnn under the path that TensorFlow 1.0 had for its cells."""

from dtrain.tf1.contrib.rnn import *  # noqa: F403
from dtrain.tf1.contrib.rnn import __all__ as __all__
