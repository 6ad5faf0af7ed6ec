"""Random tensors. Each op draws from a stream of its own, keyed by the graph's seed and the op's.

The streams are NumPy's Philox, a counter-based generator: the numbers depend on (graph seed, op seed, how
often the op ran) alone, so they are the same on every rank and on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, as_dtype, float32
from dtrain.graph.graph import Spec, Tensor, get_default_graph
from dtrain.ops.base import Array, Env, Example, Kernel, Op, apply, register
from dtrain.ops.late import Later, as_known_dims, dims_of, late


class _Random(Op):
    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    stateful = True
    draws = True
    no_gradient = "it has no inputs"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(dims_of(self.shape), self.dtype)]

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        """Numbers of self.shape; dtype is float32 or float64."""
        raise NotImplementedError

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp = env.random_stream(self.seed), env.xp
        single = self.dtype.numpy.itemsize <= 4
        drawn = np.dtype(np.float32 if single else np.float64)

        def kernel() -> None:
            values = self.draw(stream(), drawn)
            xp.copyto(outs[0], xp.asarray(values), casting="unsafe")

        return kernel

    @classmethod
    def examples(cls) -> list[Example]:
        return []


@register
class RandomNormal(_Random):
    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    mean: float
    stddev: float

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        return generator.standard_normal(self.shape, dtype) * dtype.type(self.stddev) + dtype.type(self.mean)


@register
class TruncatedNormal(RandomNormal):
    """Normal, with values more than two standard deviations from the mean drawn again."""

    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    mean: float
    stddev: float

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        values = generator.standard_normal(self.shape, dtype)
        while (far := np.abs(values) > 2).any():
            values[far] = generator.standard_normal(int(far.sum()), dtype)
        return values * dtype.type(self.stddev) + dtype.type(self.mean)


@register
class RandomUniform(_Random):
    """In [low, high); integers too."""

    shape: tuple[int | Later, ...] | Later
    dtype: DType
    seed: int
    low: float
    high: float

    def draw(self, generator: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        if self.dtype.is_integer:
            return generator.integers(int(self.low), int(self.high), self.shape)
        return generator.random(self.shape, dtype) * dtype.type(self.high - self.low) + dtype.type(self.low)


@register
class RandomShuffle(Op):
    """The rows of the input in a random order."""

    seed: int
    stateful = True
    draws = True
    no_gradient = "TensorFlow 1 has none for it; gather with shuffled indices instead"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if specs[0].shape == ():
            raise GraphError("a scalar has no rows to shuffle")
        return [specs[0]]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        stream, xp, rows = env.random_stream(self.seed), env.xp, len(ins[0])
        mode = {"mode": "clip"} if env.on_host else {}  # see Gather

        def kernel() -> None:
            xp.take(ins[0], xp.asarray(stream().permutation(rows)), 0, outs[0], **mode)

        return kernel

    @classmethod
    def examples(cls) -> list[Example]:
        return []


def _seed(seed: int | None) -> int:
    """The seed of an op; without one of its own its place in the graph, as in TensorFlow 1.

    Negative, where a seed that is given hardly is: two ops of one seed draw the same numbers.
    """
    return -1 - len(get_default_graph().operations) if seed is None else int(seed)


def _make(
    make: Callable[[Any, DType, int], Op],
    shape: Any,
    dtype: Any,
    seed: int | None,
    name: str | None,
) -> Tensor:
    dims, values = as_known_dims(shape, name or "a random tensor")
    return late(make(dims, as_dtype(dtype), _seed(seed)), (), values, name)


def random_normal(
    shape: Any,
    mean: float = 0.0,
    stddev: float = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Normally distributed values, new at every run."""
    return _make(
        lambda s, d, n: RandomNormal(s, d, n, mean, stddev), shape, dtype, seed, name or "random_normal"
    )


def truncated_normal(
    shape: Any,
    mean: float = 0.0,
    stddev: float = 1.0,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Normally distributed values within two standard deviations, new at every run."""
    return _make(
        lambda s, d, n: TruncatedNormal(s, d, n, mean, stddev), shape, dtype, seed, name or "truncated_normal"
    )


def random_uniform(
    shape: Any,
    minval: float = 0,
    maxval: float | None = None,
    dtype: Any = float32,
    seed: int | None = None,
    name: str | None = None,
) -> Tensor:
    """Uniform values in [minval, maxval), new at every run; maxval is 1 for floats; ints need it given."""
    if maxval is None:
        if as_dtype(dtype).is_integer:
            raise GraphError("random_uniform of an integer type needs maxval.")
        maxval = 1.0
    high = maxval
    return _make(
        lambda s, d, n: RandomUniform(s, d, n, minval, high), shape, dtype, seed, name or "random_uniform"
    )


def random_shuffle(value: Any, seed: int | None = None, name: str | None = None) -> Tensor:
    """The rows of a tensor in a random order, another at every run."""
    return apply(RandomShuffle(_seed(seed)), value, name=name)
