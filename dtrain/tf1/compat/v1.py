"""`import dtrain.compat.v1 as tf` is `import dtrain as tf`: the names here are TensorFlow 1's."""

import sys

# in `dtrain run` the module that has TensorFlow's version
_found = sys.modules.get("tensorflow")
sys.modules[__name__] = _found if getattr(_found, "__name__", "") == "dtrain" else sys.modules["dtrain"]  # type: ignore[assignment]
