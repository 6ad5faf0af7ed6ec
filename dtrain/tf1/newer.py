"""Functions under the names that they have in tf.math, tf.linalg and tf.random."""

from __future__ import annotations

from dtrain.ops.array import matrix_transpose as transpose
from dtrain.ops.logic import is_finite, is_inf, is_nan
from dtrain.ops.make import diag as tensor_diag
from dtrain.ops.make import diag_part as tensor_diag_part
from dtrain.ops.make import matrix_diag as diag
from dtrain.ops.make import matrix_diag_part as diag_part
from dtrain.ops.random import random_normal as normal
from dtrain.ops.random import random_shuffle as shuffle
from dtrain.ops.random import random_uniform as uniform
from dtrain.ops.sampling import multinomial as categorical
from dtrain.ops.tensors import matrix_band_part as band_part
from dtrain.ops.tensors import matrix_set_diag as set_diag

__all__ = [
    "band_part",
    "categorical",
    "diag",
    "diag_part",
    "is_finite",
    "is_inf",
    "is_nan",
    "normal",
    "set_diag",
    "shuffle",
    "tensor_diag",
    "tensor_diag_part",
    "transpose",
    "uniform",
]
