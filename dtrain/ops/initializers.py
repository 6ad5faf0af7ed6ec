"""Initializers: what makes a variable's first value, called with its shape and dtype."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, as_dtype, float32
from dtrain.graph.graph import Tensor
from dtrain.graph.shape import as_dims, is_static, shape_text, size_of
from dtrain.ops import array, random
from dtrain.ops.base import constant

#: Standard deviation of a normal distribution cut off at two of its own.
TRUNCATED = 0.87962566103423978


class Initializer:
    """A function from (shape, dtype) to a tensor. A seed makes random ones reproducible, as any random op's.

    Raises, when called:
        GraphError: the shape has unknown sizes, or does not fit.
    """

    def __init__(self, dtype: Any = float32) -> None:
        self.dtype = as_dtype(dtype)

    def __call__(self, shape: Any, dtype: Any = None, partition_info: None = None) -> Tensor:
        dims = as_dims(shape)
        if not is_static(dims):
            raise GraphError(f"{type(self).__name__}: the shape {shape_text(dims)} has unknown sizes.")
        return self.make(dims, self.dtype if dtype is None else as_dtype(dtype))

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        """The tensor, for sizes that are known."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Its arguments, with dtypes by name."""
        return {k: v.name if isinstance(v, DType) else v for k, v in vars(self).items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Initializer:
        return cls(**config)


def _floating(initializer: Initializer, dtype: DType) -> None:
    if not dtype.is_floating:
        raise GraphError(
            f"{type(initializer).__name__} makes floating values, and {dtype.name} is asked for."
        )


class Zeros(Initializer):
    """An initializer: zeros.

    Args:
        dtype: by default float32.

    Raises:
        GraphError: when called, if the shape has unknown sizes.
    """

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        return array.zeros(shape, dtype)


class Ones(Initializer):
    """An initializer: ones.

    Args:
        dtype: by default float32.

    Raises:
        GraphError: when called, if the shape has unknown sizes.
    """

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        return array.ones(shape, dtype)


class Constant(Initializer):
    """An initializer: given values, in row-major order; the last is repeated to fill the shape.

    Args:
        value: a number, an array or lists.
        dtype: by default float32.
        verify_shape: whether value must have the shape asked for.

    Raises:
        GraphError: when called, if there are more values than the shape holds, or verify_shape is set and the
            shapes differ.
    """

    def __init__(self, value: Any = 0, dtype: Any = float32, verify_shape: bool = False) -> None:
        super().__init__(dtype)
        self.value = value
        self.verify_shape = verify_shape

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        values = np.asarray(self.value)
        if self.verify_shape and values.shape != shape:
            raise GraphError(f"Constant: the value has the shape {values.shape}, not {shape_text(shape)}.")
        if values.size > size_of(shape) or (values.size == 0 and size_of(shape)):
            raise GraphError(f"Constant: {values.size} values do not fit the shape {shape_text(shape)}.")
        return constant(values.tolist() if values.dtype.kind in "fiub" else values, dtype, shape)


class RandomNormal(Initializer):
    """An initializer: normally distributed values.

    Args:
        mean: a number.
        stddev: the standard deviation.
        seed: makes the values reproducible; see set_random_seed.
        dtype: a floating type.

    Raises:
        GraphError: when called, if the shape has unknown sizes or the dtype is not floating.
    """

    def __init__(
        self, mean: float = 0.0, stddev: float = 1.0, seed: int | None = None, dtype: Any = float32
    ) -> None:
        super().__init__(dtype)
        self.mean, self.stddev, self.seed = mean, stddev, seed

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        _floating(self, dtype)
        return random.random_normal(shape, self.mean, self.stddev, dtype, self.seed)


class TruncatedNormal(RandomNormal):
    """An initializer: normally distributed values within two standard deviations of the mean.

    Args:
        mean: a number.
        stddev: the standard deviation before values are cut off.
        seed: makes the values reproducible; see set_random_seed.
        dtype: a floating type.

    Raises:
        GraphError: when called, if the shape has unknown sizes or the dtype is not floating.
    """

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        _floating(self, dtype)
        return random.truncated_normal(shape, self.mean, self.stddev, dtype, self.seed)


class RandomUniform(Initializer):
    """An initializer: uniformly distributed values in [minval, maxval).

    Args:
        minval: a number.
        maxval: by default 1 for floating types; required for integers.
        seed: makes the values reproducible; see set_random_seed.
        dtype: by default float32.

    Raises:
        GraphError: when called, if the shape has unknown sizes, or maxval is missing for integers.
    """

    def __init__(
        self, minval: float = 0, maxval: float | None = None, seed: int | None = None, dtype: Any = float32
    ) -> None:
        super().__init__(dtype)
        self.minval, self.maxval, self.seed = minval, maxval, seed

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        return random.random_uniform(shape, self.minval, self.maxval, dtype, self.seed)


class VarianceScaling(Initializer):
    """An initializer: random values of variance scale / n, so that signals keep their size through a layer.

    Args:
        scale: a number > 0.
        mode: n is the number of inputs (fan_in) of one unit, of outputs (fan_out), or their mean (fan_avg).
        distribution: "truncated_normal", also called "normal", "untruncated_normal" or "uniform".
        seed: makes the values reproducible; see set_random_seed.
        dtype: a floating type.

    Raises:
        GraphError: scale is not positive, or mode or distribution is not one of these.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
        dtype: Any = float32,
    ) -> None:
        super().__init__(dtype)
        if scale <= 0:
            raise GraphError(f"VarianceScaling: scale is {scale}, and has to be positive.")
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise GraphError(f"VarianceScaling: mode {mode!r} is none of fan_in, fan_out, fan_avg.")
        if distribution not in ("normal", "truncated_normal", "untruncated_normal", "uniform"):
            raise GraphError(
                f"VarianceScaling: distribution {distribution!r} is none of normal, truncated_normal, "
                "untruncated_normal, uniform."
            )
        self.scale, self.mode, self.distribution, self.seed = scale, mode, distribution, seed

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        _floating(self, dtype)
        fan_in, fan_out = fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, n)
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return random.random_uniform(shape, -limit, limit, dtype, self.seed)
        if self.distribution == "untruncated_normal":
            return random.random_normal(shape, 0.0, math.sqrt(variance), dtype, self.seed)
        return random.truncated_normal(shape, 0.0, math.sqrt(variance) / TRUNCATED, dtype, self.seed)


class Identity(Initializer):
    """`gain` on the diagonal of a matrix."""

    def __init__(self, gain: float = 1.0, dtype: Any = float32) -> None:
        super().__init__(dtype)
        self.gain = gain

    def make(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        if len(shape) != 2:
            raise GraphError(f"Identity makes matrices, and the shape {shape_text(shape)} is asked for.")
        return constant(np.eye(*shape, dtype=dtype.numpy) * np.asarray(self.gain, dtype.numpy))


def fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Inputs and outputs of one unit: of a vector its length, of a kernel [..., in, out] per window."""
    if len(shape) < 2:
        n = float(shape[0]) if shape else 1.0
        return n, n
    window = size_of(shape[:-2])
    return float(shape[-2] * window), float(shape[-1] * window)


def _scaled(
    name: str, scale: float, mode: str, distribution: str, source: str
) -> Callable[..., VarianceScaling]:
    def make(seed: int | None = None, dtype: Any = float32) -> VarianceScaling:
        return VarianceScaling(scale, mode, distribution, seed, dtype)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = (
        f"An initializer ({source}): VarianceScaling({scale}, {mode!r}, {distribution!r}).\n\n"
        "Args:\n    seed: makes the values reproducible; see set_random_seed.\n    dtype: a floating type.\n"
    )
    return make


glorot_uniform = _scaled("glorot_uniform", 1.0, "fan_avg", "uniform", "Glorot & Bengio 2010")
glorot_normal = _scaled("glorot_normal", 1.0, "fan_avg", "truncated_normal", "Glorot & Bengio 2010")
he_uniform = _scaled("he_uniform", 2.0, "fan_in", "uniform", "He et al. 2015")
he_normal = _scaled("he_normal", 2.0, "fan_in", "truncated_normal", "He et al. 2015")
lecun_uniform = _scaled("lecun_uniform", 1.0, "fan_in", "uniform", "LeCun et al. 1998")
lecun_normal = _scaled("lecun_normal", 1.0, "fan_in", "truncated_normal", "LeCun et al. 1998")
