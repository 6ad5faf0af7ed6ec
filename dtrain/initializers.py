"""Initializers under TensorFlow 1's names: `dt.initializers.zeros()`, `dt.initializers.he_normal()`."""

from dtrain.names import module_getattr
from dtrain.ops.initializers import Constant as constant
from dtrain.ops.initializers import Identity as identity
from dtrain.ops.initializers import (
    Initializer,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    lecun_normal,
    lecun_uniform,
)
from dtrain.ops.initializers import Ones as ones
from dtrain.ops.initializers import RandomNormal as random_normal
from dtrain.ops.initializers import RandomUniform as random_uniform
from dtrain.ops.initializers import TruncatedNormal as truncated_normal
from dtrain.ops.initializers import VarianceScaling as variance_scaling
from dtrain.ops.initializers import Zeros as zeros
from dtrain.ops.state import global_variables_initializer as global_variables
from dtrain.ops.state import variables_initializer as variables
from dtrain.ops.variables import local_variables_initializer as local_variables

__all__ = [
    "Initializer",
    "constant",
    "global_variables",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "local_variables",
    "ones",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variables",
    "variance_scaling",
    "zeros",
]

__getattr__ = module_getattr("tf.initializers")
