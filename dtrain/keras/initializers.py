"""Initializers with Keras's defaults: what makes a layer's first weights, of a shape and a dtype."""

from __future__ import annotations

from typing import Any

from dtrain.graph.dtypes import float32
from dtrain.keras.names import Names
from dtrain.names import module_getattr
from dtrain.ops import initializers as ops
from dtrain.ops.initializers import (
    Constant,
    Identity,
    Initializer,
    Ones,
    VarianceScaling,
    Zeros,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    lecun_normal,
    lecun_uniform,
)

__all__ = [
    "Constant",
    "Identity",
    "Initializer",
    "Ones",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "constant",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "uniform",
    "zeros",
]

__getattr__ = module_getattr("tf.keras.initializers")


class RandomNormal(ops.RandomNormal):
    """Normal, by default with a standard deviation of 0.05."""

    def __init__(
        self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None, dtype: Any = float32
    ) -> None:
        super().__init__(mean, stddev, seed, dtype)


class TruncatedNormal(ops.TruncatedNormal):
    """Normal, cut off at two standard deviations, by default of 0.05."""

    def __init__(
        self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None, dtype: Any = float32
    ) -> None:
        super().__init__(mean, stddev, seed, dtype)


class RandomUniform(ops.RandomUniform):
    """Uniform, by default from -0.05 to 0.05."""

    def __init__(
        self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None, dtype: Any = float32
    ) -> None:
        super().__init__(minval, maxval, seed, dtype)


zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
normal = random_normal = RandomNormal
uniform = random_uniform = RandomUniform
truncated_normal = TruncatedNormal

_NAMES = Names("initializer", {n: globals()[n] for n in __all__ if n not in ("Initializer", "get")})


def get(identifier: Any) -> Any:
    """The initializer of a name, or the function of (shape, dtype) itself; raises UsageError for others."""
    return _NAMES.get(identifier)
