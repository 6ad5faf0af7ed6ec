"""Layers that disturb a batch while training; what they draw is that of the global batch."""

from __future__ import annotations

from typing import Any

from dtrain.errors import UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras.layers.base import Layer
from dtrain.keras.names import other_layers
from dtrain.ops.late import shape
from dtrain.ops.math import cast, greater_equal
from dtrain.ops.random import random_normal, random_uniform

__all__ = ["AlphaDropout", "GaussianDropout", "GaussianNoise"]

#: The value that selu goes to on the left, which AlphaDropout puts in the place of what is dropped.
SATURATED = -1.6732632423543772 * 1.0507009873554805


class _Noise(Layer):
    any_size, supports_masking = True, True

    def call(self, x: Tensor, training: Any = False) -> Tensor:
        if training is False:
            return x
        disturbed = self.disturbed(x)
        return disturbed if training is True else x + (disturbed - x) * training

    def disturbed(self, x: Tensor) -> Tensor:
        """x with noise."""
        raise NotImplementedError


class GaussianNoise(_Noise):
    """x plus normal noise of mean 0, in training.

    Args:
        stddev: the standard deviation.
        seed: makes the noise different from that of other layers.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("stddev", "seed")

    def __init__(self, stddev: float, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if stddev < 0:
            raise UsageError(f"{self.name}: stddev={stddev}: give a number from 0 up.")
        self.stddev, self.seed = float(stddev), seed

    def disturbed(self, x: Tensor) -> Tensor:
        return x + random_normal(shape(x), 0.0, self.stddev, seed=self.seed)


class _OfRate(_Noise):
    arguments = ("rate", "seed")

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= rate < 1:
            raise UsageError(f"{self.name}: rate={rate}: give a share from 0 to less than 1.")
        if noise_shape is not None:
            raise UsageError(f"{self.name}: noise_shape is not supported.")
        self.rate, self.seed = float(rate), seed


class GaussianDropout(_OfRate):
    """x times normal noise of mean 1 and variance rate / (1 - rate), in training.

    Args:
        rate: the probability that dropout of the same strength would have.
        noise_shape: shape of the noise; 1 where entries share it.
        seed: makes the noise different from that of other layers.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    def disturbed(self, x: Tensor) -> Tensor:
        return x * random_normal(shape(x), 1.0, (self.rate / (1 - self.rate)) ** 0.5, seed=self.seed)


class AlphaDropout(_OfRate):
    """Dropout that keeps mean and variance, for selu (Klambauer et al. 2017).

    Args:
        rate: the probability that an entry is set to where selu ends on the left, in training.
        noise_shape: shape of the mask; 1 where entries are dropped together.
        seed: makes the mask different from those of other layers.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    def disturbed(self, x: Tensor) -> Tensor:
        if self.rate == 0:
            return x
        kept = cast(greater_equal(random_uniform(shape(x), seed=self.seed), self.rate), x.dtype)
        a = ((1 - self.rate) * (1 + self.rate * SATURATED**2)) ** -0.5
        b = -a * SATURATED * self.rate
        return (x * kept + SATURATED * (1 - kept)) * a + b


__getattr__ = other_layers
