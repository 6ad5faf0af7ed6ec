"""Clipping: of values, of a tensor's norm, and of the norm of several tensors together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Tensor, TensorLike
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.logic import where
from dtrain.ops.math import add_n, greater, maximum, minimum, multiply, sqrt, square
from dtrain.ops.reduce import reduce_sum


def clip_by_value(t: Any, clip_value_min: Any, clip_value_max: Any, name: str | None = None) -> Tensor:
    """t with what is below the least value raised to it, and what is above the greatest lowered."""
    t = convert_to_tensor(t)
    return maximum(minimum(t, clip_value_max), clip_value_min, name=name or "clip_by_value")


def clip_by_norm(t: Any, clip_norm: Any, axes: Any = None, name: str | None = None) -> Tensor:
    """t scaled down to have at most this Euclidean norm, over all its entries or those along axes."""
    t = convert_to_tensor(t)
    squares = reduce_sum(square(t), axes, keepdims=True)
    # the root's slope at 0 is infinite; what is NaN stays so
    rooted = greater(squares, 0)
    norm = where(rooted, sqrt(where(rooted, squares, 1)), squares)
    return multiply(t, clip_norm / maximum(norm, clip_norm), name=name or "clip_by_norm")


def global_norm(t_list: Sequence[Any], name: str | None = None) -> Tensor:
    """The Euclidean norm of all entries of several tensors; None among them counts nothing."""
    return sqrt(add_n([reduce_sum(square(t)) for t in _given(t_list)]), name=name or "global_norm")


def clip_by_global_norm(
    t_list: Sequence[Any], clip_norm: Any, use_norm: Any = None, name: str | None = None
) -> tuple[list[Tensor | None], Tensor]:
    """Tensors scaled down together to have at most this global norm, and the norm that they had.

    use_norm: the norm, where it is known already. On several ranks the norm is that of the whole gradient.
    Where the norm is infinite or NaN all of them become NaN, as from TensorFlow 1.14 on.
    """
    tensors = [None if t is None else convert_to_tensor(t) for t in _as_list(t_list)]
    norm = global_norm(tensors, name) if use_norm is None else convert_to_tensor(use_norm)
    scale = clip_norm / maximum(norm, clip_norm) + (norm - norm)  # the difference is 0, or NaN
    clipped = [None if t is None else multiply(t, scale, name=name or "clip_by_global_norm") for t in tensors]
    return clipped, norm


def _as_list(t_list: Any) -> list[Any]:
    if isinstance(t_list, TensorLike):
        raise GraphError("a global norm is that of a list of tensors; put this one into a list.")
    return list(t_list)


def _given(t_list: Any) -> list[Any]:
    given = [t for t in _as_list(t_list) if t is not None]
    if not given:
        raise GraphError("a global norm needs one tensor or more, not only None.")
    return given
