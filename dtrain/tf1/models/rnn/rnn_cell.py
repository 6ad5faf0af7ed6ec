"""tf.nn.rnn_cell under the path that it had before TensorFlow 1.0."""

from dtrain.tf1.nn.rnn_cell import *  # noqa: F403
from dtrain.tf1.nn.rnn_cell import __all__ as __all__
