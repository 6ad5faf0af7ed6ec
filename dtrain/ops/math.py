"""Elementwise arithmetic, comparison and the common functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dtrain.graph.dtypes import DType, as_dtype, float32, float64
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.ops.base import (
    Array,
    Elementwise,
    Env,
    Example,
    Kernel,
    apply,
    convert_to_tensor,
    floating,
    register,
)


# -- two inputs ------------------------------------------------------------------------------------------
@register
class Add(Elementwise):
    ufunc, arity, linear = "add", 2, "sum"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy, dy]


@register
class Sub(Elementwise):
    ufunc, arity, linear = "subtract", 2, "sum"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy, -dy]


@register
class Mul(Elementwise):
    ufunc, arity, linear = "multiply", 2, "scale"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x, y = node.inputs
        return [dy * y, dy * x]


@register
class RealDiv(Elementwise):
    ufunc, arity, linear = "divide", 2, "scale"
    takes = staticmethod(floating)
    domain = (0.5, 2.0)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x, y = node.inputs
        return [dy / y, -dy * x / square(y)]


@register
class Pow(Elementwise):
    ufunc, arity = "power", 2
    takes = staticmethod(floating)
    domain = (0.5, 2.0)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x, y = node.inputs
        return [dy * y * pow(x, y - 1), dy * node.outputs[0] * log(x)]


class _Extreme(Elementwise):
    """Maximum or minimum; where both are equal the gradient goes to the first, as in TensorFlow 1."""

    arity = 2

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        x, y = node.inputs
        first = cast(self.first(x, y), dy.dtype)
        return [dy * first, dy * (1 - first)]

    def first(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


@register
class Maximum(_Extreme):
    ufunc = "maximum"

    def first(self, x: Tensor, y: Tensor) -> Tensor:
        return greater_equal(x, y)


@register
class Minimum(_Extreme):
    ufunc = "minimum"

    def first(self, x: Tensor, y: Tensor) -> Tensor:
        return less_equal(x, y)


class _Comparison(Elementwise):
    arity, result = 2, "bool"
    inplace = ()
    no_gradient = "its result is boolean"


@register
class Equal(_Comparison):
    ufunc = "equal"
    takes = staticmethod(lambda dtype: True)


@register
class NotEqual(_Comparison):
    ufunc = "not_equal"
    takes = staticmethod(lambda dtype: True)


@register
class Less(_Comparison):
    ufunc = "less"


@register
class LessEqual(_Comparison):
    ufunc = "less_equal"


@register
class Greater(_Comparison):
    ufunc = "greater"


@register
class GreaterEqual(_Comparison):
    ufunc = "greater_equal"


# -- one input -------------------------------------------------------------------------------------------
@register
class Neg(Elementwise):
    ufunc, linear = "negative", "sum"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [-dy]


@register
class Abs(Elementwise):
    ufunc = "abs"
    domain = (0.1, 2.0)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy * sign(node.inputs[0])]


@register
class Sign(Elementwise):
    ufunc = "sign"
    no_gradient = "it is constant between its steps"


@register
class Exp(Elementwise):
    ufunc = "exp"
    takes = staticmethod(floating)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy * node.outputs[0]]


@register
class Log(Elementwise):
    ufunc = "log"
    takes = staticmethod(floating)
    domain = (0.5, 2.0)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy / node.inputs[0]]


@register
class Sqrt(Elementwise):
    ufunc = "sqrt"
    takes = staticmethod(floating)
    domain = (0.5, 2.0)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy * 0.5 / node.outputs[0]]


@register
class Square(Elementwise):
    ufunc = "square"

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy * 2 * node.inputs[0]]


@register
class Tanh(Elementwise):
    ufunc = "tanh"
    takes = staticmethod(floating)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        return [dy * (1 - square(node.outputs[0]))]


@register
class Sigmoid(Elementwise):
    """1 / (1 + exp(-x)), through tanh so that no large x overflows."""

    takes = staticmethod(floating)
    inplace = (0,)

    def kernel(self, xp: Any, x: Array, *, out: Array) -> None:
        xp.multiply(x, 0.5, out)
        xp.tanh(out, out)
        xp.multiply(out, 0.5, out)
        xp.add(out, 0.5, out)

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        y = node.outputs[0]
        return [dy * y * (1 - y)]


@register
class Cast(Elementwise):
    """Another dtype, as NumPy casts: towards zero from floats to integers."""

    to: DType
    inplace = ()
    takes = staticmethod(lambda dtype: True)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(specs[0].shape, self.to)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        return partial(env.xp.copyto, outs[0], ins[0], casting="unsafe")

    def grad(self, node: Operation, dy: Tensor) -> Sequence[Tensor | None]:
        source = node.inputs[0].dtype
        return [cast(dy, source) if source.is_floating else None]

    def lower(self, node: Operation, inputs: Sequence[Tensor]) -> Tensor | None:
        return inputs[0] if inputs[0].dtype == self.to else None

    @classmethod
    def examples(cls) -> list[Example]:
        return [Example(cls(float64), (3, 4)), Example(cls(float32), (2, 3))]


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def _binary(kind: type[Elementwise]) -> Callable[..., Tensor]:
    def function(x: Any, y: Any, name: str | None = None) -> Tensor:
        if not isinstance(x, TensorLike) and not isinstance(y, TensorLike):
            x = convert_to_tensor(x)
        return apply(kind(), x, y, name=name)

    function.__name__ = kind.__name__
    function.__doc__ = (
        f"{kind.__doc__ or kind.__name__}, element by element, with broadcasting; dtypes must agree."
    )
    return function


def _unary(kind: type[Elementwise]) -> Callable[..., Tensor]:
    def function(x: Any, name: str | None = None) -> Tensor:
        return apply(kind(), x, name=name)

    function.__name__ = kind.__name__
    function.__doc__ = f"{kind.__doc__ or kind.__name__}, element by element."
    return function


add, subtract, multiply, pow = _binary(Add), _binary(Sub), _binary(Mul), _binary(Pow)
maximum, minimum = _binary(Maximum), _binary(Minimum)
equal, not_equal = _binary(Equal), _binary(NotEqual)
less, less_equal = _binary(Less), _binary(LessEqual)
greater, greater_equal = _binary(Greater), _binary(GreaterEqual)
negative, abs, sign = _unary(Neg), _unary(Abs), _unary(Sign)
exp, log, sqrt, square = _unary(Exp), _unary(Log), _unary(Sqrt), _unary(Square)
tanh, sigmoid = _unary(Tanh), _unary(Sigmoid)


def divide(x: Any, y: Any, name: str | None = None) -> Tensor:
    """x / y as Python divides: integers become float64 first."""
    if not isinstance(x, TensorLike):
        x = convert_to_tensor(x, y.dtype if isinstance(y, TensorLike) else None)
    x = convert_to_tensor(x)
    y = convert_to_tensor(y) if isinstance(y, TensorLike) else convert_to_tensor(y, x.dtype)
    if x.dtype.is_integer and y.dtype.is_integer:
        x, y = cast(x, float64), cast(y, float64)
    return apply(RealDiv(), x, y, name=name)


def cast(x: Any, dtype: Any, name: str | None = None) -> Tensor:
    """x as another dtype; gradients pass between floating types and stop elsewhere."""
    return apply(Cast(as_dtype(dtype)), x, name=name)


def _overload(symbol: str, function: Callable[..., Tensor], reverse: bool = True) -> None:
    setattr(TensorLike, f"__{symbol}__", lambda self, other: function(self, other))
    if reverse:
        setattr(TensorLike, f"__r{symbol}__", lambda self, other: function(other, self))


for _symbol, _function in (
    ("add", add),
    ("sub", subtract),
    ("mul", multiply),
    ("truediv", divide),
    ("pow", pow),
):
    _overload(_symbol, _function)
# == keeps meaning identity, as in TensorFlow 1: tensors are keys of feed_dict
for _symbol, _function in (("lt", less), ("le", less_equal), ("gt", greater), ("ge", greater_equal)):
    _overload(_symbol, _function, reverse=False)
TensorLike.__neg__ = lambda self: negative(self)  # type: ignore[method-assign]
TensorLike.__abs__ = lambda self: abs(self)  # type: ignore[method-assign]
