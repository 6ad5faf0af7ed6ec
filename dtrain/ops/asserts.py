"""Assertions: operations that fail while running, or at once where all is known when the line is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import as_dtype
from dtrain.graph.graph import Operation, Tensor
from dtrain.ops import math
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.host import Assert
from dtrain.ops.late import known_value
from dtrain.ops.reduce import reduce_all
from dtrain.ops.state import no_op


def _pairs(symbol: str, name: str, compare: Callable[[Any, Any], Tensor]) -> Callable[..., Operation]:
    """assert_...: that `compare` holds for all entries of x and y."""

    def check(
        x: Any,
        y: Any,
        data: Sequence[Any] | None = None,
        summarize: int | None = None,
        message: str | None = None,
        name: str | None = None,
    ) -> Operation:
        x, y = math._pair(x, y)
        shown = data if data is not None else [message or "", f"x {symbol} y does not hold for all:", x, y]
        return Assert(reduce_all(compare(x, y)), shown, summarize, name)

    check.__name__ = check.__qualname__ = name
    check.__doc__ = f"An operation that fails unless x {symbol} y for all entries; see Assert."
    return check


def _zeros(symbol: str, name: str, pair: Callable[..., Operation]) -> Callable[..., Operation]:
    """assert_...: that `pair` holds for all entries of x and 0."""

    def check(
        x: Any,
        data: Sequence[Any] | None = None,
        summarize: int | None = None,
        message: str | None = None,
        name: str | None = None,
    ) -> Operation:
        x = convert_to_tensor(x)
        return pair(x, convert_to_tensor(0, x.dtype), data, summarize, message, name)

    check.__name__ = check.__qualname__ = name
    check.__doc__ = f"An operation that fails unless x {symbol} 0 for all entries; see Assert."
    return check


assert_equal = _pairs("==", "assert_equal", math.equal)
assert_none_equal = _pairs("!=", "assert_none_equal", math.not_equal)
assert_less = _pairs("<", "assert_less", math.less)
assert_less_equal = _pairs("<=", "assert_less_equal", math.less_equal)
assert_greater = _pairs(">", "assert_greater", math.greater)
assert_greater_equal = _pairs(">=", "assert_greater_equal", math.greater_equal)
assert_negative = _zeros("<", "assert_negative", assert_less)
assert_positive = _zeros(">", "assert_positive", assert_greater)
assert_non_negative = _zeros(">=", "assert_non_negative", assert_greater_equal)
assert_non_positive = _zeros("<=", "assert_non_positive", assert_less_equal)


# -- known when the line is written ----------------------------------------------------------------------
def assert_integer(x: Any, message: str | None = None, name: str | None = None) -> Operation:
    """Raises GraphError unless x is of integers; gives an operation that does nothing."""
    tensor = convert_to_tensor(x)
    return _static(tensor.dtype.is_integer, message, f"{tensor!r} is not of integers", name)


def assert_type(tensor: Any, tf_type: Any, message: str | None = None, name: str | None = None) -> Operation:
    """Raises GraphError unless it has this dtype; gives an operation that does nothing."""
    x, dtype = convert_to_tensor(tensor), as_dtype(tf_type)
    return _static(x.dtype == dtype, message, f"{x!r} is not {dtype.name}", name)


def assert_scalar(tensor: Any, name: str | None = None) -> Tensor:
    """The tensor. Raises GraphError where it has axes."""
    x = convert_to_tensor(tensor)
    _static(x.shape.ndims in (0, None), None, f"{x!r} is not a scalar", name)
    return x


def assert_rank(
    x: Any,
    rank: Any,
    data: Any = None,
    summarize: int | None = None,
    message: str | None = None,
    name: str | None = None,
) -> Operation:
    """Raises GraphError unless x has so many axes; gives an operation that does nothing."""
    return assert_rank_in(x, [rank], data, summarize, message, name)


def assert_rank_at_least(
    x: Any,
    rank: Any,
    data: Any = None,
    summarize: int | None = None,
    message: str | None = None,
    name: str | None = None,
) -> Operation:
    """Raises GraphError unless x has so many axes or more; gives an operation that does nothing."""
    tensor = convert_to_tensor(x)
    return _static(_rank(tensor) >= _number(rank), message, f"{tensor!r} has less than {rank} axes", name)


def assert_rank_in(
    x: Any,
    ranks: Any,
    data: Any = None,
    summarize: int | None = None,
    message: str | None = None,
    name: str | None = None,
) -> Operation:
    """Raises GraphError unless x has one of these numbers of axes; gives an operation that does nothing."""
    tensor, known = convert_to_tensor(x), [_number(r) for r in ranks]
    return _static(_rank(tensor) in known, message, f"{tensor!r} has not {known} axes", name)


def _rank(x: Tensor) -> int:
    if x.shape.ndims is None:
        raise GraphError(f"{x!r} has no known rank to be checked: set_shape says it.")
    return x.shape.ndims


def _number(value: Any) -> int:
    known = known_value(convert_to_tensor(value))
    if known is None or known.shape != ():
        raise InvalidArgumentError(f"{value!r} is no number of axes.")
    return int(known)


def _static(holds: bool, message: str | None, what: str, name: str | None) -> Operation:
    if not holds:
        raise GraphError(f"{message + ' ' if message else ''}{what}.")
    return no_op(name)


def is_non_decreasing(x: Any, name: str | None = None) -> Tensor:
    """Whether each entry is at least the one before it, in row-major order."""
    return _steps(x, math.greater_equal, name)


def is_strictly_increasing(x: Any, name: str | None = None) -> Tensor:
    """Whether each entry is more than the one before it, in row-major order."""
    return _steps(x, math.greater, name)


def _steps(x: Any, compare: Callable[[Any, Any], Tensor], name: str | None) -> Tensor:
    from dtrain.ops.array import reshape

    flat = reshape(x, [-1])
    return reduce_all(compare(flat[1:], flat[:-1]), name=name)
