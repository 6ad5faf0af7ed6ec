"""`import dtrain.compat.v1 as tf` is `import dtrain as tf`: the names here are TensorFlow 1's."""

import sys

sys.modules[__name__] = sys.modules["dtrain"]
