"""Logic: and, or, not, xor; what kind of number a number is; where."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Tensor, TensorLike
from dtrain.ops.array import reshape
from dtrain.ops.base import Array, Env, Example, Kernel, apply, bits, constant, convert_to_tensor, register
from dtrain.ops.elementwise import Chosen, Elementwise, floating, words
from dtrain.ops.late import known_value, shape
from dtrain.ops.math import _overload, _pair


class _Logical(Elementwise):
    takes = staticmethod(lambda dtype: dtype.is_bool)
    no_gradient = "its result is boolean"

    @classmethod
    def examples(cls) -> list[Example]:
        x, y = np.array([[True], [False]]), np.array([True, False, True])
        return [Example(cls(), *(x, y)[: cls.arity]), Example(cls(), *(y, y[:1])[: cls.arity])]


@register
class LogicalAnd(_Logical):
    """Whether x and y are both true"""

    c = "{0} && {1}"
    ufunc, arity = "logical_and", 2


@register
class LogicalOr(_Logical):
    """Whether x or y is true, or both"""

    c = "{0} || {1}"
    ufunc, arity = "logical_or", 2


@register
class LogicalXor(_Logical):
    """Whether one is true and the other is not"""

    c = "!{0} != !{1}"
    ufunc, arity = "logical_xor", 2


@register
class LogicalNot(_Logical):
    """Whether x is false"""

    c = "!{0}"
    ufunc = "logical_not"


class _Kind(Elementwise):
    takes = staticmethod(floating)
    result = "bool"
    inplace = ()
    no_gradient = "its result is boolean"


@register
class IsNan(_Kind):
    """Whether x is not a number (NaN)"""

    c = "{0} != {0}"
    ufunc = "isnan"


@register
class IsInf(_Kind):
    """Whether x is infinite"""

    c = "{0} == {0} && {0} - {0} != 0"
    ufunc = "isinf"


@register
class IsFinite(_Kind):
    """Whether x is finite: neither infinite nor NaN"""

    c = "{0} - {0} == 0"
    ufunc = "isfinite"


@register
class Gate(Chosen):
    """The second input where the first is true, else 0, even where it is infinite or NaN."""

    c = "{0} ? {1} : 0"
    arity = 2
    inplace = (1,)

    def kernel(self, xp: Any, condition: Array, x: Array, *, out: Array) -> None:
        xp.multiply(bits(x), condition, bits(out))

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(self.kernel, env.xp, *ins, out=outs[0])

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [None, gate(node.inputs[0], dy)]

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(), _CONDITION, (2, 3)), Example(cls(), _CONDITION[:, :1], (4, 1, 3))]


@register
class Select(Chosen):
    """The second input where the first is true, the third elsewhere; all three broadcast."""

    c = "{0} ? {1} : {2}"
    arity = 3
    inplace = (2,)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, (condition, x, y), out = env.xp, ins, outs[0]
        chosen, other = env.scratch(out.shape, bits(out).dtype), env.scratch(condition.shape, condition.dtype)

        def kernel() -> None:
            xp.multiply(bits(x), condition, chosen)
            xp.logical_not(condition, other)
            xp.multiply(bits(y), other, bits(out))
            xp.add(bits(out), chosen, bits(out))

        return kernel

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        condition = node.inputs[0]
        return [None, gate(condition, dy), gate(logical_not(condition), dy)]

    @classmethod
    def examples(cls) -> list[Example]:
        c = _CONDITION
        return [
            Example(cls(), c, (2, 3), (2, 3)),
            Example(cls(), c[:, :1], (2, 3), ()),
            Example(cls(), c, (1, 3), (4, 2, 1)),
        ]


_CONDITION = np.array([[True, False, True], [False, False, True]])


def gate(condition: Tensor, x: Tensor) -> Tensor:
    """x where the condition is true, else 0; the two broadcast."""
    return apply(Gate(), condition, x)


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
logical_and, logical_or = words(LogicalAnd, "logical_and"), words(LogicalOr, "logical_or")
logical_not = words(LogicalNot, "logical_not")
is_nan, is_inf, is_finite = words(IsNan, "is_nan"), words(IsInf, "is_inf"), words(IsFinite, "is_finite")
_xor = words(LogicalXor, "logical_xor")


def logical_xor(x: Any, y: Any, name: str = "LogicalXor") -> Tensor:
    """Whether exactly one of x and y is true, element by element.

    Args:
        x: a bool tensor.
        y: a bool tensor whose shape broadcasts to x's.
        name: name of the operation.

    Returns:
        Tensor: bool, of the broadcast shape.

    Raises:
        GraphError: a dtype is not bool, or the shapes do not agree.
    """
    return _xor(x, y, name)


def where(condition: Any, x: Any = None, y: Any = None, name: str | None = None) -> Tensor:
    """x where the condition is true, y elsewhere; or the positions where it is true.

    Args:
        condition: a bool tensor. One of rank 1 picks whole rows of x and y of higher rank; beyond TensorFlow
            1 the three may broadcast otherwise.
        x: a tensor or array.
        y: of the dtype of x. Without x and y the condition must be a constant.
        name: name of the operation.

    Returns:
        Tensor: of the dtype of x; or the positions, int64 [number, rank].

    Raises:
        GraphError: only one of x and y is given, or neither and the condition is no constant.

    Example:
        >>> dt.Session().run(dt.where([True, False], [1.0, 2.0], [-1.0, -2.0]))
        array([ 1., -2.], dtype=float32)
    """
    condition = convert_to_tensor(condition)
    if (x is None) != (y is None):
        raise GraphError("where takes x and y both, or neither.")
    if x is None:
        known = known_value(condition)
        if known is None or known.dtype == object:
            raise GraphError(
                "where(condition) without x and y takes a constant: a plan has fixed shapes, and how many "
                "entries of a computed condition are true is not known before. where(condition, x, y) keeps "
                "the shape."
            )
        return constant(np.argwhere(known), dtype="int64", name=name or "Where")
    x, y = _pair(x, y)
    ranks = [None if t.spec.shape is None else len(t.spec.shape) for t in (condition, x, y)]
    if ranks[0] == 1 and None not in ranks[1:] and max(ranks[1:]) > 1:  # type: ignore[type-var, operator]  # none is None
        condition = _as_rows(condition, max(ranks[1:]))  # type: ignore[type-var, arg-type]  # none is None
    return apply(Select(), condition, x, y, name=name)


def _as_rows(condition: Tensor, rank: int) -> Tensor:
    return reshape(condition, [shape(condition)[0], *[1] * (rank - 1)])


select = where

for _symbol, _function in (("and", logical_and), ("or", logical_or), ("xor", logical_xor)):
    _overload(_symbol, _function)
TensorLike.__invert__ = lambda self: logical_not(self)  # type: ignore[method-assign]  # filled in here
