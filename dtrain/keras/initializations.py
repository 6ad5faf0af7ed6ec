"""Keras 1's initializations: functions of a shape that give a variable, which a layer may keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.keras import initializers
from dtrain.keras.layers.base import Weight

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


def get(identifier: Any) -> Any:
    """The function of (shape, name) that a name stands for, or that is given.

    Args:
        identifier: a name, such as 'glorot_uniform', or a function.

    Raises:
        UsageError: there is none of this name.
    """
    return _named(identifier) if isinstance(identifier, str) else identifier


def _named(kind: Any) -> Any:
    def function(shape: Sequence[int], name: Any = None, dim_ordering: Any = None) -> Any:
        return _variable(initializers.get(kind), shape, name)

    return function


def _variable(make: Any, shape: Sequence[int], name: str | None) -> Weight:
    return Weight(lambda: make(tuple(int(n) for n in shape), "float32"), name=name)


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
    function = _named(kind)
    function.__name__ = function.__qualname__ = name
    said = "shape: sizes.\n    name: of the variable.\n    dim_ordering: changes nothing."
    function.__doc__ = f"{_SAID[kind]}\n\nArgs:\n    {said}\n"
    return function


glorot_normal, glorot_uniform = (_function(n, n) for n in ("glorot_normal", "glorot_uniform"))
he_normal, he_uniform, lecun_uniform = (_function(n, n) for n in ("he_normal", "he_uniform", "lecun_uniform"))
one, zero = _function("ones", "one"), _function("zeros", "zero")


def normal(shape: Sequence[int], scale: float = 0.05, name: Any = None, dim_ordering: Any = None) -> Any:
    """Normal with mean 0.

    Args:
        shape: sizes.
        scale: the standard deviation.
        name: of the variable.
        dim_ordering: changes nothing.
    """
    return _variable(initializers.RandomNormal(0.0, scale), shape, name)


def uniform(shape: Sequence[int], scale: float = 0.05, name: Any = None, dim_ordering: Any = None) -> Any:
    """Uniform from -scale to scale.

    Args:
        shape: sizes.
        scale: the bound.
        name: of the variable.
        dim_ordering: changes nothing.
    """
    return _variable(initializers.RandomUniform(-scale, scale), shape, name)


def orthogonal(shape: Sequence[int], scale: float = 1.1, name: Any = None, dim_ordering: Any = None) -> Any:
    """Matrices with orthonormal rows or columns, times scale.

    Args:
        shape: sizes.
        scale: a factor.
        name: of the variable.
        dim_ordering: changes nothing.
    """
    return _variable(initializers.Orthogonal(scale), shape, name)


def identity(shape: Sequence[int], scale: float = 1, name: Any = None, dim_ordering: Any = None) -> Any:
    """A matrix with scale on its diagonal.

    Args:
        shape: sizes.
        scale: a factor.
        name: of the variable.
        dim_ordering: changes nothing.
    """
    return _variable(initializers.Identity(scale), shape, name)
