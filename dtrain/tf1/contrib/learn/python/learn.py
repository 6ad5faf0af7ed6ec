"""tensorflow.contrib.learn.python.learn is tf.contrib.learn."""

import sys

from dtrain.tf1.contrib import learn

sys.modules[__name__] = learn
