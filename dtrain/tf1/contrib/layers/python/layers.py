"""tensorflow.contrib.layers.python.layers is tf.contrib.layers."""

import sys

sys.modules[__name__] = sys.modules["dtrain.tf1.contrib.layers"]
