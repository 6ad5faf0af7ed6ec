"""tf.contrib.layers: layers with weights and biases, their initializers, regularizers, and optimize_loss."""

from dtrain.names import module_getattr
from dtrain.tf1.contrib.layers import initializers, layers, optimizers, regularizers, summaries
from dtrain.tf1.contrib.layers.initializers import *  # noqa: F403
from dtrain.tf1.contrib.layers.layers import *  # noqa: F403
from dtrain.tf1.contrib.layers.optimizers import *  # noqa: F403
from dtrain.tf1.contrib.layers.regularizers import *  # noqa: F403
from dtrain.tf1.contrib.layers.summaries import *  # noqa: F403

__all__ = [
    *initializers.__all__,
    *layers.__all__,
    *optimizers.__all__,
    *regularizers.__all__,
    *summaries.__all__,
]

__getattr__ = module_getattr("tf.contrib.layers")
