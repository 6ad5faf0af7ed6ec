"""Keras 1's initializations: functions of a shape that give the first values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.keras import initializers

__all__ = [
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_uniform",
    "normal",
    "one",
    "orthogonal",
    "uniform",
    "zero",
]

get = initializers.get

#: The functions take a name, which weights have by their layers, and dim_ordering, which shapes have anyway.
_SAID = {
    "glorot_normal": "Normal, cut off, with a variance of 2 over the sum of inputs and outputs.",
    "glorot_uniform": "Uniform, with a variance of 2 over the sum of inputs and outputs.",
    "he_normal": "Normal, cut off, with a variance of 2 over the inputs.",
    "he_uniform": "Uniform, with a variance of 2 over the inputs.",
    "lecun_uniform": "Uniform, with a variance of 1 over the inputs.",
    "ones": "Ones.",
    "zeros": "Zeros.",
}


def _function(kind: str, name: str) -> Any:
    def function(shape: Sequence[int], name: Any = None, dim_ordering: Any = None) -> Any:
        return initializers.get(kind)(tuple(shape), "float32")

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{_SAID[kind]}\n\nArgs:\n    shape: sizes. name, dim_ordering: change nothing.\n"
    return function


glorot_normal, glorot_uniform = (_function(n, n) for n in ("glorot_normal", "glorot_uniform"))
he_normal, he_uniform, lecun_uniform = (_function(n, n) for n in ("he_normal", "he_uniform", "lecun_uniform"))
one, zero = _function("ones", "one"), _function("zeros", "zero")


def normal(shape: Sequence[int], scale: float = 0.05, name: Any = None, dim_ordering: Any = None) -> Any:
    """Normal with mean 0.

    Args:
        shape: sizes.
        scale: the standard deviation.
        name, dim_ordering: change nothing.
    """
    return initializers.RandomNormal(0.0, scale)(tuple(shape), "float32")


def uniform(shape: Sequence[int], scale: float = 0.05, name: Any = None, dim_ordering: Any = None) -> Any:
    """Uniform from -scale to scale.

    Args:
        shape: sizes.
        scale: the bound.
        name, dim_ordering: change nothing.
    """
    return initializers.RandomUniform(-scale, scale)(tuple(shape), "float32")


def orthogonal(shape: Sequence[int], scale: float = 1.1, name: Any = None, dim_ordering: Any = None) -> Any:
    """Matrices with orthonormal rows or columns, times scale.

    Args:
        shape: sizes.
        scale: a factor.
        name, dim_ordering: change nothing.
    """
    return initializers.Orthogonal(scale)(tuple(shape), "float32")


def identity(shape: Sequence[int], scale: float = 1, name: Any = None, dim_ordering: Any = None) -> Any:
    """A matrix with scale on its diagonal.

    Args:
        shape: sizes.
        scale: a factor.
        name, dim_ordering: change nothing.
    """
    return initializers.Identity(scale)(tuple(shape), "float32")
