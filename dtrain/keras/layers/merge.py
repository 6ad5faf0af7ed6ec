"""Layers of several inputs, and the functions that make and call them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from dtrain.errors import GraphError, UsageError
from dtrain.graph.graph import Tensor
from dtrain.keras.layers.base import Layer
from dtrain.keras.layers.core import Lambda
from dtrain.keras.names import other_layers
from dtrain.ops import math
from dtrain.ops.array import expand_dims, reshape, transpose
from dtrain.ops.join import concat
from dtrain.ops.linalg import matmul
from dtrain.ops.logic import logical_and, logical_or
from dtrain.ops.math import add_n, rsqrt, square
from dtrain.ops.reduce import reduce_sum

__all__ = [
    "Add",
    "Average",
    "Concatenate",
    "Dot",
    "Maximum",
    "Minimum",
    "Multiply",
    "Subtract",
    "add",
    "average",
    "concatenate",
    "dot",
    "maximum",
    "merge",
    "minimum",
    "multiply",
    "subtract",
]


class _Merge(Layer):
    """One output of a list of inputs, entry by entry; sizes of 1 are repeated.

    Programs derive from it under this name, and define _merge_function.
    """

    any_size = True
    supports_masking = True

    def build(self, input_shape: Any) -> None:
        if not isinstance(input_shape, list) or len(input_shape) < 2:
            raise GraphError("it takes a list of at least two tensors")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        given = [m for m in mask or [] if m is not None]
        return reduce(logical_and, given) if given else None

    def call(self, x: Sequence[Tensor]) -> Tensor:
        rank = max(len(t.spec.shape or ()) for t in x)
        return self._merge_function([_with_rank(t, rank) for t in x])

    def _merge_function(self, x: list[Tensor]) -> Tensor:
        """The output of tensors of one rank."""
        raise NotImplementedError


def _with_rank(x: Tensor, rank: int) -> Tensor:
    """Keras puts axes of 1 after the batch's."""
    while len(x.spec.shape or ()) < rank:
        x = expand_dims(x, 1)
    return x


class Add(_Merge):
    """The sum of a list of inputs, element by element.

    Its arguments are Layer's: see help(dt.keras.layers.Layer).
    """

    def _merge_function(self, x: list[Tensor]) -> Tensor:
        return add_n(x) if len({t.spec.shape for t in x}) == 1 else reduce(lambda a, b: a + b, x)


class Subtract(_Merge):
    """The first of two inputs minus the second, element by element.

    Its arguments are Layer's: see help(dt.keras.layers.Layer).
    """

    def _merge_function(self, x: list[Tensor]) -> Tensor:
        if len(x) != 2:
            raise GraphError(f"it takes two tensors, and {len(x)} are given")
        return x[0] - x[1]


class Multiply(_Merge):
    """The product of a list of inputs, element by element.

    Its arguments are Layer's: see help(dt.keras.layers.Layer).
    """

    def _merge_function(self, x: list[Tensor]) -> Tensor:
        return reduce(lambda a, b: a * b, x)


class Average(_Merge):
    """The mean of a list of inputs, element by element.

    Its arguments are Layer's: see help(dt.keras.layers.Layer).
    """

    def _merge_function(self, x: list[Tensor]) -> Tensor:
        return reduce(lambda a, b: a + b, x) / float(len(x))


class Maximum(_Merge):
    """The largest of a list of inputs, element by element.

    Its arguments are Layer's: see help(dt.keras.layers.Layer).
    """

    def _merge_function(self, x: list[Tensor]) -> Tensor:
        return reduce(math.maximum, x)


class Minimum(_Merge):
    """The smallest of a list of inputs, element by element.

    Its arguments are Layer's: see help(dt.keras.layers.Layer).
    """

    def _merge_function(self, x: list[Tensor]) -> Tensor:
        return reduce(math.minimum, x)


class Concatenate(_Merge):
    """A list of inputs concatenated.

    Args:
        axis: the axis, counted with the batch's.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("axis",)

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = int(axis)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        given = [m for m in mask or [] if m is not None]
        if len(given) < len(inputs) and given:
            return None
        rank = len(inputs[0].spec.shape)
        if self.axis % rank == 1 and given:
            return concat(given, 1)
        return reduce(logical_or, given) if given else None

    def call(self, x: Sequence[Tensor]) -> Tensor:
        return concat(list(x), self.axis)


class Dot(_Merge):
    """The sum of products of two inputs along an axis of each, example by example.

    Args:
        axes: one axis for both, or two, counted with the batch's.
        normalize: whether inputs are first scaled to norm 1 along it.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).
    """

    arguments = ("axes", "normalize")

    def __init__(self, axes: Any, normalize: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.axes, self.normalize = axes, bool(normalize)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return None

    def call(self, x: Sequence[Tensor]) -> Tensor:
        if len(x) != 2:
            raise GraphError(f"it takes two tensors, and {len(x)} are given")
        axes = list(self.axes) if isinstance(self.axes, list | tuple) else [self.axes] * 2
        found = []
        for t, axis in zip(x, axes, strict=True):
            rank = len(t.spec.shape or ())
            at = axis % rank
            if at == 0:
                raise GraphError("axes are those after the batch's, from 1 on")
            if self.normalize:
                t = t * rsqrt(math.maximum(reduce_sum(square(t), at, keepdims=True), 1e-12))
            found.append((t, at, rank))
        (a, i, m), (b, j, n) = found
        if m == n == 2:
            return reduce_sum(a * b, 1, keepdims=True)
        # [batch, rest of a, summed] @ [batch, summed, rest of b]
        kept_a = [k for k in range(1, m) if k != i]
        kept_b = [k for k in range(1, n) if k != j]
        left = transpose(a, [0, *kept_a, i])
        right = transpose(b, [0, j, *kept_b])
        if m == n == 3:
            return matmul(left, right)
        sizes = [a.spec.shape[k] for k in kept_a] + [b.spec.shape[k] for k in kept_b]  # type: ignore[index]  # its rank is known
        summed = a.spec.shape[i]  # type: ignore[index]  # its rank is known
        if None in sizes or summed is None:
            raise GraphError("its inputs need known sizes")
        left = reshape(left, [-1, _count(a, kept_a), summed])
        right = reshape(right, [-1, summed, _count(b, kept_b)])
        return reshape(matmul(left, right), [-1, *sizes])


def _count(x: Tensor, axes: Sequence[int]) -> int:
    count = 1
    for axis in axes:
        count *= x.spec.shape[axis]  # type: ignore[index, operator]  # its sizes are known
    return count


# -- functions -------------------------------------------------------------------------------------------
def _function(cls: type[_Merge]) -> Callable[..., Tensor]:
    def function(inputs: Sequence[Tensor], *arguments: Any, **options: Any) -> Tensor:
        return cls(*arguments, **options)(list(inputs))

    function.__name__ = function.__qualname__ = cls.__name__.lower()
    first = (cls.__doc__ or "").split("\n")[0]
    function.__doc__ = (
        f"{first}\n\nAs a function of a list of tensors: {cls.__name__}(...)(inputs).\n\n"
        f"Args:\n    inputs: tensors.\n    arguments, options: those of {cls.__name__}.\n"
    )
    return function


add, subtract, multiply, average = (_function(c) for c in (Add, Subtract, Multiply, Average))
maximum, minimum, concatenate = (_function(c) for c in (Maximum, Minimum, Concatenate))


def dot(inputs: Sequence[Tensor], axes: Any, normalize: bool = False, **options: Any) -> Tensor:
    """The sum of products of two tensors along axes: Dot(axes, normalize)(inputs).

    Args:
        inputs: two tensors.
        axes: one axis for both, or two, counted with the batch's.
        normalize: whether inputs are first scaled to norm 1.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).

    Returns:
        Tensor: the joined tensor.
    """
    return Dot(axes, normalize, **options)(list(inputs))


def merge(
    inputs: Sequence[Tensor],
    mode: Any = "sum",
    concat_axis: int = -1,
    dot_axes: Any = -1,
    output_shape: Any = None,
    name: str | None = None,
    **options: Any,
) -> Tensor:
    """Keras 1's function that joins a list of tensors.

    Args:
        inputs: tensors.
        mode: sum, mul, concat, ave, max, dot, cos, or a function of the list.
        concat_axis: the axis of concat.
        dot_axes: the axes of dot and cos.
        output_shape: accepted for Keras 1; the output has a shape.
        name: name of the layer.
        options: arguments of Layer (name, trainable, input_shape, weights, ...); see
            help(dt.keras.layers.Layer).

    Returns:
        Tensor: the joined tensor.

    Raises:
        UsageError: mode is none of them.
    """
    named: dict[str, Any] = {} if name is None else {"name": name}
    return joining(mode, concat_axis, dot_axes, **named)(list(inputs))


def joining(mode: Any, concat_axis: int = -1, dot_axes: Any = -1, **named: Any) -> Layer:
    """The layer that joins as Keras 1's word for it says; raises UsageError for a word that is none."""
    if callable(mode):
        return Lambda(mode, **named)
    kinds: dict[str, Callable[[], Layer]] = {
        "sum": lambda: Add(**named),
        "mul": lambda: Multiply(**named),
        "concat": lambda: Concatenate(concat_axis, **named),
        "ave": lambda: Average(**named),
        "max": lambda: Maximum(**named),
        "dot": lambda: Dot(dot_axes, **named),
        "cos": lambda: Dot(dot_axes, normalize=True, **named),
    }
    if mode not in kinds:
        raise UsageError(f"merge: mode={mode!r}: give one of {', '.join(kinds)}, or a function.")
    return kinds[mode]()


__getattr__ = other_layers
