"""The other functions of one number: trigonometric, hyperbolic, exact near 0, and rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dtrain.graph.graph import Operation, Tensor
from dtrain.ops.array import identity
from dtrain.ops.base import convert_to_tensor, register
from dtrain.ops.elementwise import Elementwise, floating, words
from dtrain.ops.math import exp, rsqrt, square


class _Function(Elementwise):
    takes = staticmethod(floating)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [self.slope(node.inputs[0], node.outputs[0], dy)]

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        """dy times the derivative at x, where the value is y."""
        raise NotImplementedError


@register
class Expm1(_Function):
    """exp(x) - 1, exact near 0"""

    cuda = "expm1{f}({0})"
    ufunc = "expm1"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * exp(x)  # y + 1 has no digits left where x is small


@register
class Log1p(_Function):
    """log(1 + x), exact near 0"""

    cuda = "log1p{f}({0})"
    ufunc, domain = "log1p", (-0.5, 2.0)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / (x + 1)


@register
class Sin(_Function):
    """The sine of x, in radians"""

    cuda = "sin{f}({0})"
    ufunc = "sin"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * cos(x)


@register
class Cos(_Function):
    """The cosine of x, in radians"""

    cuda = "cos{f}({0})"
    ufunc = "cos"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return -dy * sin(x)


@register
class Tan(_Function):
    """The tangent of x, in radians"""

    cuda = "tan{f}({0})"
    ufunc, domain = "tan", (-1.0, 1.0)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * (square(y) + 1)


@register
class Asin(_Function):
    """The angle in radians whose sine is x; NaN outside of -1..1"""

    cuda = "asin{f}({0})"
    ufunc, domain = "arcsin", (-0.8, 0.8)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * rsqrt(1 - square(x))


@register
class Acos(_Function):
    """The angle in radians whose cosine is x; NaN outside of -1..1"""

    cuda = "acos{f}({0})"
    ufunc, domain = "arccos", (-0.8, 0.8)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return -dy * rsqrt(1 - square(x))


@register
class Atan(_Function):
    """The angle in radians whose tangent is x"""

    cuda = "atan{f}({0})"
    ufunc = "arctan"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / (square(x) + 1)


@register
class Sinh(_Function):
    """The hyperbolic sine of x"""

    cuda = "sinh{f}({0})"
    ufunc = "sinh"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * cosh(x)


@register
class Cosh(_Function):
    """The hyperbolic cosine of x"""

    cuda = "cosh{f}({0})"
    ufunc = "cosh"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * sinh(x)


@register
class Asinh(_Function):
    """The number whose hyperbolic sine is x"""

    cuda = "asinh{f}({0})"
    ufunc = "arcsinh"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / cosh(y)


@register
class Acosh(_Function):
    """The number >= 0 whose hyperbolic cosine is x; NaN for x < 1"""

    cuda = "acosh{f}({0})"
    ufunc, domain = "arccosh", (1.5, 3.0)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / sinh(y)


@register
class Atanh(_Function):
    """The number whose hyperbolic tangent is x; NaN outside of -1..1"""

    cuda = "atanh{f}({0})"
    ufunc, domain = "arctanh", (-0.8, 0.8)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / (1 - square(x))


class _Rounding(Elementwise):
    takes = staticmethod(floating)
    no_gradient = "it is constant between its steps"


@register
class Floor(_Rounding):
    """The largest integer <= x, in the dtype of x"""

    c = "floor{f}({0})"
    ufunc = "floor"


@register
class Ceil(_Rounding):
    """The smallest integer >= x, in the dtype of x"""

    c = "ceil{f}({0})"
    ufunc = "ceil"


@register
class Rint(_Rounding):
    """x rounded to the nearest integer, halves to the even one, in the dtype of x"""

    c = "rint{f}({0})"
    ufunc = "rint"


@register
class Erf(_Function):
    """The error function: 2 / sqrt(pi) times the integral of exp(-t * t) from 0 to x"""

    c, cuda, scalar = "({T})erf((double){0})", "erf{f}({0})", math.erf

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * exp(-square(x)) * (2 / math.sqrt(math.pi))


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
expm1, log1p, erf = words(Expm1, "expm1"), words(Log1p, "log1p"), words(Erf, "erf")
sin, cos, tan = words(Sin, "sin"), words(Cos, "cos"), words(Tan, "tan")
asin, acos, atan = words(Asin, "asin"), words(Acos, "acos"), words(Atan, "atan")
sinh, cosh = words(Sinh, "sinh"), words(Cosh, "cosh")
asinh, acosh, atanh = words(Asinh, "asinh"), words(Acosh, "acosh"), words(Atanh, "atanh")
floor, ceil, rint = words(Floor, "floor"), words(Ceil, "ceil"), words(Rint, "rint")


def round(x: Any, name: str | None = None) -> Tensor:
    """x rounded to the nearest integer, halves to the even one.

    Args:
        x: a numeric tensor; integers are returned as they are.
        name: name of the operation.

    Returns:
        Tensor: of the shape and dtype of x.
    """
    x = convert_to_tensor(x)
    return identity(x, name) if x.dtype.is_integer else rint(x, name or "Round")
