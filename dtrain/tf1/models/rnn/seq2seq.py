"""tf.contrib.legacy_seq2seq under the path that it had before TensorFlow 1.0."""

from dtrain.tf1.contrib.legacy_seq2seq import *  # noqa: F403
from dtrain.tf1.contrib.legacy_seq2seq import __all__ as __all__
