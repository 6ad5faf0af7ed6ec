"""tf.contrib.slim: contrib's layers, arguments by scope, losses, and a training loop."""

from dtrain.names import module_getattr
from dtrain.tf1.contrib import framework, layers, losses, metrics
from dtrain.tf1.contrib.framework import *  # noqa: F403
from dtrain.tf1.contrib.layers import *  # noqa: F403
from dtrain.tf1.contrib.slim import learning, model_analyzer, utils
from dtrain.tf1.contrib.slim.learning import create_train_op

__all__ = [
    *framework.__all__,
    *layers.__all__,
    "create_train_op",
    "layers",
    "learning",
    "losses",
    "metrics",
    "model_analyzer",
    "utils",
]

__getattr__ = module_getattr("tf.contrib.slim")
