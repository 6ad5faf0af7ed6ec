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
    """A tensor with its entries limited to clip_value_min..clip_value_max.

    Args:
        t: a numeric tensor.
        clip_value_min: the least value, which broadcasts to t.
        clip_value_max: the largest value, which broadcasts to t.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: dtypes or shapes do not agree.

    Example:
        >>> dt.Session().run(dt.clip_by_value([-2.0, 0.5, 2.0], 0.0, 1.0))
        array([0. , 0.5, 1. ], dtype=float32)
    """
    t = convert_to_tensor(t)
    return maximum(minimum(t, clip_value_max), clip_value_min, name=name or "clip_by_value")


def clip_by_norm(t: Any, clip_norm: Any, axes: Any = None, name: str | None = None) -> Tensor:
    """A tensor scaled down so that its Euclidean norm is at most clip_norm.

    Args:
        t: a floating tensor.
        clip_norm: the largest norm, a number or a scalar tensor.
        axes: axes that one norm is taken over; by default all.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of the input.

    Raises:
        GraphError: the dtype is not floating, or there is no such axis.
    """
    t = convert_to_tensor(t)
    squares = reduce_sum(square(t), axes, keepdims=True)
    # the root's slope at 0 is infinite; what is NaN stays so
    rooted = greater(squares, 0)
    norm = where(rooted, sqrt(where(rooted, squares, 1)), squares)
    return multiply(t, clip_norm / maximum(norm, clip_norm), name=name or "clip_by_norm")


def global_norm(t_list: Sequence[Any], name: str | None = None) -> Tensor:
    """The Euclidean norm of all entries of several tensors together, a scalar.

    Args:
        t_list: floating tensors; None among them is skipped.
        name: name of the operation.

    Returns:
        Tensor: a scalar.

    Raises:
        GraphError: a tensor is not floating.
    """
    return sqrt(add_n([reduce_sum(square(t)) for t in _given(t_list)]), name=name or "global_norm")


def clip_by_global_norm(
    t_list: Sequence[Any], clip_norm: Any, use_norm: Any = None, name: str | None = None
) -> tuple[list[Tensor | None], Tensor]:
    """Tensors scaled down together so that their global norm is at most clip_norm (Pascanu et al. 2013).

    On several ranks the norm of gradients is that of the whole batch. Where the norm is infinite or NaN all
    results are NaN, as from TensorFlow 1.14 on.

    Args:
        t_list: floating tensors; a None stays None.
        clip_norm: the largest norm, a number or a scalar tensor.
        use_norm: the global norm, if it is known already.
        name: name of the operation.

    Returns:
        tuple: the list of tensors, and their norm before.

    Raises:
        GraphError: a tensor is not floating.
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
