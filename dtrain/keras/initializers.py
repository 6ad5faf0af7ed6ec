"""Initializers with Keras's defaults: what makes a layer's first weights, of a shape and a dtype."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

from dtrain.graph.dtypes import float32
from dtrain.keras.names import Names, as_data
from dtrain.names import module_getattr
from dtrain.ops import initializers as ops
from dtrain.ops import random
from dtrain.ops.array import reshape, transpose
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
from dtrain.ops.linalg import matmul
from dtrain.ops.state import Variable

__all__ = [
    "Constant",
    "Identity",
    "Initializer",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "constant",
    "deserialize",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "one",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "serialize",
    "truncated_normal",
    "uniform",
    "zero",
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


class Orthogonal(Initializer):
    """Matrices with orthonormal rows or columns, whichever are fewer, times gain.

    What is drawn is a normal matrix; it becomes the orthogonal one nearest to it by Newton's iteration
    X <- X (3 - X'X) / 2 (Björck & Bowie 1971), so it is distributed evenly.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None, dtype: Any = float32) -> None:
        super().__init__(dtype)
        self.gain, self.seed = float(gain), seed

    def make(self, shape: tuple[int, ...], dtype: Any) -> Any:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        flat = (min(rows, columns), max(rows, columns))
        x = random.random_normal(flat, dtype=dtype, seed=self.seed)
        x = x / (math.sqrt(flat[0]) + math.sqrt(flat[1]))  # its norm is then about 1
        for _ in range(12 + 3 * flat[0].bit_length()):
            x = 1.5 * x - 0.5 * matmul(matmul(x, x, transpose_b=True), x)
        return reshape(self.gain * (x if rows <= columns else transpose(x)), shape)


orthogonal = Orthogonal
zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
zero, one = Zeros, Ones
normal = random_normal = RandomNormal
uniform = random_uniform = RandomUniform
truncated_normal = TruncatedNormal

_NAMES = Names(
    "initializer",
    {n: globals()[n] for n in __all__ if n not in ("Initializer", "get", "deserialize", "serialize")},
)


def get(identifier: Any) -> Any:
    """The initializer of a name, or the function of (shape, dtype) itself, or one of a shape, as in Keras 1.

    Raises:
        UsageError: there is none of this name.
    """
    found = _NAMES.get(identifier)
    return _of_shape(found) if inspect.isroutine(found) or isinstance(found, functools.partial) else found


def _of_shape(function: Any) -> Any:
    """A function of (shape, dtype) of one that may be of a shape alone; of a variable, its first value."""
    try:
        takes = inspect.signature(function)
        takes.bind(())
        alone = "dtype" not in takes.parameters
    except (TypeError, ValueError):
        alone = False
    if not alone:
        return function

    @functools.wraps(function)
    def made(shape: Any, dtype: Any = None) -> Any:
        value = function(shape)
        return value.initial_value if isinstance(value, Variable) else value

    return made


deserialize, serialize = get, as_data
