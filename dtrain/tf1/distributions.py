"""tf.distributions: what networks with random layers, such as autoencoders, take of it.

Formulas of Kingma & Welling (2014) and Bishop (2006). A sample of Normal and Uniform has a gradient to its
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from dtrain.errors import GraphError, NotSupportedError
from dtrain.graph.dtypes import as_dtype, int32
from dtrain.graph.graph import Tensor, TensorLike
from dtrain.names import module_getattr
from dtrain.ops.array import reshape, transpose
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.functions import erf
from dtrain.ops.join import concat
from dtrain.ops.late import shape
from dtrain.ops.logic import where
from dtrain.ops.loss import sigmoid_cross_entropy_with_logits, sparse_softmax_cross_entropy_with_logits
from dtrain.ops.math import cast, exp, less, log, sigmoid, square
from dtrain.ops.nn import log_softmax, softplus
from dtrain.ops.random import random_normal, random_uniform
from dtrain.ops.reduce import argmax, reduce_sum
from dtrain.ops.sampling import multinomial

__all__ = [
    "Bernoulli",
    "Categorical",
    "Distribution",
    "MultivariateNormalDiag",
    "Normal",
    "Uniform",
    "kl_divergence",
]

__getattr__ = module_getattr("tf.distributions")

_KL: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}


def _float(value: Any) -> Tensor:
    return convert_to_tensor(value) if isinstance(value, TensorLike) else convert_to_tensor(value, "float32")


class Distribution:
    """Random values: sample, log_prob and prob of values, mean, variance, stddev, entropy."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _like(self) -> Tensor:
        """A tensor of the shape of one sample."""
        raise NotImplementedError

    def _draw(self, sizes: Tensor, seed: int | None) -> Tensor:
        raise NotImplementedError

    def log_prob(self, value: Any, name: str = "log_prob") -> Tensor:
        raise NotImplementedError

    def sample(self, sample_shape: Any = (), seed: int | None = None, name: str = "sample") -> Tensor:
        """Values, [*sample_shape, ...]: as many of each as sample_shape says."""
        like = self._like()
        if isinstance(sample_shape, TensorLike):
            front = reshape(sample_shape, [-1])
        else:
            many = sample_shape if isinstance(sample_shape, Sequence) else [sample_shape]
            if not many:
                return self._draw(shape(like), seed)
            front = convert_to_tensor([int(n) for n in many], int32)
        return self._draw(concat([front, shape(like)], 0), seed)

    def prob(self, value: Any, name: str = "prob") -> Tensor:
        """The probability, or its density."""
        return exp(self.log_prob(value))

    def mean(self, name: str = "mean") -> Tensor:
        raise NotImplementedError

    def variance(self, name: str = "variance") -> Tensor:
        raise NotImplementedError

    def stddev(self, name: str = "stddev") -> Tensor:
        return self.variance() ** 0.5

    def kl_divergence(self, other: Any, name: str = "kl_divergence") -> Tensor:
        """kl_divergence(self, other)."""
        return kl_divergence(self, other)


class Normal(Distribution):
    """A normal distribution for each pair of loc, the mean, and scale, the standard deviation."""

    def __init__(
        self,
        loc: Any,
        scale: Any,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "Normal",
    ) -> None:
        super().__init__(name)
        self.loc, self.scale = _float(loc), _float(scale)

    def _like(self) -> Tensor:
        return self.loc + self.scale

    def _draw(self, sizes: Tensor, seed: int | None) -> Tensor:
        return self.loc + self.scale * random_normal(sizes, seed=seed)

    def log_prob(self, value: Any, name: str = "log_prob") -> Tensor:
        """-((value - loc) / scale)**2 / 2 - log(scale) - log(2 pi) / 2"""
        return -0.5 * square((value - self.loc) / self.scale) - log(self.scale) - 0.5 * math.log(2 * math.pi)

    def cdf(self, value: Any, name: str = "cdf") -> Tensor:
        """The probability of less."""
        return 0.5 * (1.0 + erf((value - self.loc) / (self.scale * math.sqrt(2.0))))

    def mean(self, name: str = "mean") -> Tensor:
        return self.loc + self.scale * 0.0

    mode = mean

    def variance(self, name: str = "variance") -> Tensor:
        return square(self.stddev())

    def stddev(self, name: str = "stddev") -> Tensor:
        return self.scale + self.loc * 0.0

    def entropy(self, name: str = "entropy") -> Tensor:
        return 0.5 + 0.5 * math.log(2 * math.pi) + log(self.stddev())


class MultivariateNormalDiag(Normal):
    """Vectors along the last axis whose entries are normal, each by itself; by default loc is 0, scale 1."""

    def __init__(
        self,
        loc: Any = None,
        scale_diag: Any = None,
        scale_identity_multiplier: Any = None,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "MultivariateNormalDiag",
    ) -> None:
        if loc is None and scale_diag is None:
            raise GraphError("MultivariateNormalDiag: give loc, scale_diag or both: they say the size.")
        if scale_identity_multiplier is not None:
            raise GraphError("MultivariateNormalDiag: write scale_identity_multiplier into scale_diag.")
        like = _float(scale_diag if loc is None else loc)
        loc = like * 0.0 if loc is None else loc
        super().__init__(loc, like * 0.0 + 1.0 if scale_diag is None else scale_diag, name=name)

    def log_prob(self, value: Any, name: str = "log_prob") -> Tensor:
        """The sum over the entries of a vector."""
        return reduce_sum(super().log_prob(value), -1)

    def entropy(self, name: str = "entropy") -> Tensor:
        return reduce_sum(super().entropy(), -1)


class Uniform(Distribution):
    """Numbers from low up to high."""

    def __init__(
        self,
        low: Any = 0.0,
        high: Any = 1.0,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "Uniform",
    ) -> None:
        super().__init__(name)
        self.low, self.high = _float(low), _float(high)

    def _like(self) -> Tensor:
        return self.low + self.high

    def _draw(self, sizes: Tensor, seed: int | None) -> Tensor:
        return self.low + (self.high - self.low) * random_uniform(sizes, seed=seed)

    def log_prob(self, value: Any, name: str = "log_prob") -> Tensor:
        """Minus infinity outside."""
        value = _float(value)
        outside = cast(less(value, self.low), "float32") + cast(value >= self.high, "float32")
        density = value * 0.0 - log(self.high - self.low)
        return where(outside > 0.0, density * 0.0 - math.inf, density)

    def mean(self, name: str = "mean") -> Tensor:
        return (self.low + self.high) / 2.0

    def variance(self, name: str = "variance") -> Tensor:
        return square(self.high - self.low) / 12.0

    def entropy(self, name: str = "entropy") -> Tensor:
        return log(self.high - self.low)


class Bernoulli(Distribution):
    """1 with a probability, or with sigmoid(logits), else 0."""

    def __init__(
        self,
        logits: Any = None,
        probs: Any = None,
        dtype: Any = int32,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "Bernoulli",
    ) -> None:
        super().__init__(name)
        if (logits is None) == (probs is None):
            raise GraphError("Bernoulli: give one of logits and probs.")
        self.probs = sigmoid(_float(logits)) if probs is None else _float(probs)
        self.logits = log(self.probs) - log(1.0 - self.probs) if logits is None else _float(logits)
        self.dtype = as_dtype(dtype)

    def _like(self) -> Tensor:
        return self.probs

    def _draw(self, sizes: Tensor, seed: int | None) -> Tensor:
        return cast(less(random_uniform(sizes, seed=seed), self.probs), self.dtype)

    def log_prob(self, value: Any, name: str = "log_prob") -> Tensor:
        """value * log(probs) + (1 - value) * log(1 - probs)"""
        value = cast(convert_to_tensor(value), self.logits.dtype) + self.logits * 0.0
        return -sigmoid_cross_entropy_with_logits(labels=value, logits=self.logits + value * 0.0)

    def mean(self, name: str = "mean") -> Tensor:
        return self.probs

    def mode(self, name: str = "mode") -> Tensor:
        return cast(self.probs > 0.5, self.dtype)

    def variance(self, name: str = "variance") -> Tensor:
        return self.probs * (1.0 - self.probs)

    def entropy(self, name: str = "entropy") -> Tensor:
        return softplus(self.logits) - self.logits * self.probs


class Categorical(Distribution):
    """A class, with the probabilities along the last axis, or with softmax(logits)."""

    def __init__(
        self,
        logits: Any = None,
        probs: Any = None,
        dtype: Any = int32,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "Categorical",
    ) -> None:
        super().__init__(name)
        if (logits is None) == (probs is None):
            raise GraphError("Categorical: give one of logits and probs.")
        self.logits = log(_float(probs)) if logits is None else _float(logits)
        self.probs = exp(log_softmax(self.logits)) if probs is None else _float(probs)
        self.dtype = as_dtype(dtype)

    def sample(self, sample_shape: Any = (), seed: int | None = None, name: str = "sample") -> Tensor:
        """Classes, [*sample_shape, ...]; sample_shape is numbers."""
        many = [int(n) for n in (sample_shape if isinstance(sample_shape, Sequence) else [sample_shape])]
        classes = int(self.logits.shape[-1])
        rows = reshape(self.logits, [-1, classes])
        drawn = transpose(multinomial(rows, math.prod(many), seed=seed), [1, 0])
        front = convert_to_tensor(many, int32) if many else None
        sizes = shape(self.logits)[:-1]
        return cast(reshape(drawn, sizes if front is None else concat([front, sizes], 0)), self.dtype)

    def log_prob(self, value: Any, name: str = "log_prob") -> Tensor:
        """The logarithm of a class's probability."""
        return -sparse_softmax_cross_entropy_with_logits(labels=convert_to_tensor(value), logits=self.logits)

    def mode(self, name: str = "mode") -> Tensor:
        return cast(argmax(self.logits, -1), self.dtype)

    def mean(self, name: str = "mean") -> Tensor:
        raise NotSupportedError("Categorical has no mean: classes are names.")

    def entropy(self, name: str = "entropy") -> Tensor:
        return -reduce_sum(self.probs * log_softmax(self.logits), -1)


# -- how far apart -----------------------------------------------------------------------------------------
def _normals(a: Normal, b: Normal) -> Tensor:
    ratio = square(a.scale / b.scale)
    return 0.5 * (square((a.loc - b.loc) / b.scale) + ratio - 1.0 - log(ratio))


def _vectors(a: Normal, b: Normal) -> Tensor:
    return reduce_sum(_normals(a, b), -1)


def _coins(a: Bernoulli, b: Bernoulli) -> Tensor:
    return (1.0 - a.probs) * (softplus(b.logits) - softplus(a.logits)) + a.probs * (
        softplus(-b.logits) - softplus(-a.logits)
    )


def _classes(a: Categorical, b: Categorical) -> Tensor:
    return reduce_sum(a.probs * (log_softmax(a.logits) - log_softmax(b.logits)), -1)


_KL |= {
    (Normal, Normal): _normals,
    (MultivariateNormalDiag, MultivariateNormalDiag): _vectors,
    (Bernoulli, Bernoulli): _coins,
    (Categorical, Categorical): _classes,
}


def kl_divergence(
    distribution_a: Any, distribution_b: Any, allow_nan_stats: bool = True, name: str | None = None
) -> Tensor:
    """Kullback and Leibler's divergence of two distributions of one kind.

    Raises:
        NotSupportedError: of these kinds it has no formula here.
    """
    kinds = type(distribution_a), type(distribution_b)
    if kinds not in _KL:
        raise NotSupportedError(f"kl_divergence: none of {kinds[0].__name__} and {kinds[1].__name__}.")
    return _KL[kinds](distribution_a, distribution_b)
