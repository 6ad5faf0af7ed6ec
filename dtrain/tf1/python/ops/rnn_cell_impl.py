"""tf.nn.rnn_cell under the path that TensorFlow's own module had later."""

from dtrain.tf1.nn.rnn_cell import *  # noqa: F403
from dtrain.tf1.nn.rnn_cell import __all__ as __all__
