"""Initializers that only older programs use: orthogonal and uniform_unit_scaling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, float32
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import size_of
from dtrain.ops.array import reshape
from dtrain.ops.host import py_func
from dtrain.ops.initializers import Initializer
from dtrain.ops.random import random_normal, random_uniform

__all__ = [
    "orthogonal",
    "orthogonal_initializer",
    "uniform_unit_scaling",
    "uniform_unit_scaling_initializer",
]


class orthogonal(Initializer):
    """Orthogonal rows or columns (Saxe et al. 2014), times gain; all axes but the last are rows.

    Raises, when called:
        GraphError: the shape has less than two axes.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None, dtype: Any = float32) -> None:
        super().__init__(dtype)
        self.gain, self.seed = gain, seed

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        if len(shape) < 2:
            raise GraphError(f"orthogonal makes matrices, and the shape {list(shape)} is asked for.")
        rows, columns = size_of(shape[:-1]), shape[-1]
        gain = self.gain

        def turned(a: np.ndarray) -> np.ndarray:
            q, r = np.linalg.qr(a)
            q = q * np.sign(np.diag(r))
            return np.ascontiguousarray((gain * (q.T if rows < columns else q)).astype(a.dtype))

        drawn = random_normal((max(rows, columns), min(rows, columns)), dtype=dtype, seed=self.seed)
        made = py_func(turned, [drawn], dtype, name="orthogonal")
        made.set_shape((rows, columns))
        return reshape(made, shape)


class uniform_unit_scaling(Initializer):
    """Uniform within factor * sqrt(3 / inputs), which keeps the scale of inputs (Sussillo & Abbott 2014)."""

    def __init__(self, factor: float = 1.0, seed: int | None = None, dtype: Any = float32) -> None:
        super().__init__(dtype)
        self.factor, self.seed = factor, seed

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        limit = math.sqrt(3 / max(1, size_of(shape[:-1]))) * self.factor
        return random_uniform(shape, -limit, limit, dtype, self.seed)


orthogonal_initializer, uniform_unit_scaling_initializer = orthogonal, uniform_unit_scaling
