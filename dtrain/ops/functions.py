"""The other functions of one number: trigonometric, hyperbolic, exact near 0, and rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.graph.graph import Operation, Tensor
from dtrain.ops.array import identity
from dtrain.ops.base import Elementwise, convert_to_tensor, floating, register
from dtrain.ops.math import _unary, exp, rsqrt, square


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

    cuda = "dt_expm1({0})"
    ufunc = "expm1"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * exp(x)  # y + 1 has no digits left where x is small


@register
class Log1p(_Function):
    """log(1 + x), exact near 0"""

    cuda = "dt_log1p({0})"
    ufunc, domain = "log1p", (-0.5, 2.0)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / (x + 1)


@register
class Sin(_Function):
    cuda = "dt_sin({0})"
    ufunc = "sin"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * cos(x)


@register
class Cos(_Function):
    cuda = "dt_cos({0})"
    ufunc = "cos"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return -dy * sin(x)


@register
class Tan(_Function):
    cuda = "dt_tan({0})"
    ufunc, domain = "tan", (-1.0, 1.0)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * (square(y) + 1)


@register
class Asin(_Function):
    cuda = "dt_asin({0})"
    ufunc, domain = "arcsin", (-0.8, 0.8)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * rsqrt(1 - square(x))


@register
class Acos(_Function):
    cuda = "dt_acos({0})"
    ufunc, domain = "arccos", (-0.8, 0.8)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return -dy * rsqrt(1 - square(x))


@register
class Atan(_Function):
    cuda = "dt_atan({0})"
    ufunc = "arctan"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / (square(x) + 1)


@register
class Sinh(_Function):
    cuda = "dt_sinh({0})"
    ufunc = "sinh"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * cosh(x)


@register
class Cosh(_Function):
    cuda = "dt_cosh({0})"
    ufunc = "cosh"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy * sinh(x)


@register
class Asinh(_Function):
    cuda = "dt_asinh({0})"
    ufunc = "arcsinh"

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / cosh(y)


@register
class Acosh(_Function):
    cuda = "dt_acosh({0})"
    ufunc, domain = "arccosh", (1.5, 3.0)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / sinh(y)


@register
class Atanh(_Function):
    cuda = "dt_atanh({0})"
    ufunc, domain = "arctanh", (-0.8, 0.8)

    def slope(self, x: Tensor, y: Tensor, dy: Tensor) -> Tensor:
        return dy / (1 - square(x))


class _Rounding(Elementwise):
    takes = staticmethod(floating)
    no_gradient = "it is constant between its steps"


@register
class Floor(_Rounding):
    c = "dt_floor({0})"
    ufunc = "floor"


@register
class Ceil(_Rounding):
    c = "dt_ceil({0})"
    ufunc = "ceil"


@register
class Rint(_Rounding):
    """The nearest integer, halves to the even one"""

    c = "dt_rint({0})"
    ufunc = "rint"


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
expm1, log1p = _unary("expm1", Expm1), _unary("log1p", Log1p)
sin, cos = _unary("sin", Sin, "The sine of x, in radians"), _unary("cos", Cos, "The cosine of x, in radians")
tan = _unary("tan", Tan, "The tangent of x, in radians")
asin = _unary("asin", Asin, "The angle in radians whose sine is x, of -1 to 1")
acos = _unary("acos", Acos, "The angle in radians whose cosine is x, of -1 to 1")
atan = _unary("atan", Atan, "The angle in radians whose tangent is x")
sinh, cosh = (
    _unary("sinh", Sinh, "The hyperbolic sine of x"),
    _unary("cosh", Cosh, "The hyperbolic cosine of x"),
)
asinh = _unary("asinh", Asinh, "The number whose hyperbolic sine is x")
acosh = _unary("acosh", Acosh, "The number, 0 or above, whose hyperbolic cosine is x, of 1 and above")
atanh = _unary("atanh", Atanh, "The number whose hyperbolic tangent is x, between -1 and 1")
floor = _unary("floor", Floor, "The largest integer that is not above x, in x's dtype")
ceil = _unary("ceil", Ceil, "The smallest integer that is not below x, in x's dtype")
rint = _unary("rint", Rint)


def round(x: Any, name: str | None = None) -> Tensor:
    """The nearest integer in x's own dtype, halves to the even one; an integer is itself."""
    x = convert_to_tensor(x)
    return identity(x, name) if x.dtype.is_integer else rint(x, name or "Round")
