"""What an elementwise op is: arithmetic on single numbers, done on whole arrays of them.

    @register
    class Softsign(Elementwise):
        '''x / (1 + |x|)'''

        takes = staticmethod(floating)

        def rule(self, x):
            return x / (1 + abs(x))

        def grad(self, node, dy):
            return [dy / square(1 + abs(node.inputs[0]))]

Of `rule`, which is written in other elementwise ops, follow the kernels in NumPy, C and CUDA, and that it can
be fused. What is written in no others says its function on arrays and its expression in C: `ufunc` and `c`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, as_dtype
from dtrain.graph.graph import Operation, Spec, Tensor, TensorLike
from dtrain.graph.shape import Dims, broadcast
from dtrain.native.loops import TYPES
from dtrain.ops.base import Array, Env, Example, Kernel, Op, Placed, apply, convert_to_tensor, in_turn
from dtrain.ops.body import Rule, kernels
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded


class Elementwise(Op):
    """Ops over broadcast inputs of one dtype; the gradient's broadcast sum is autodiff's business."""

    elementwise = True
    inplace: ClassVar[tuple[int, ...]] = (0, 1)
    arity: ClassVar[int] = 1
    #: Result type: None is the inputs' type.
    result: ClassVar[str | None] = None
    #: The dtypes it takes: a function of DType.
    takes: ClassVar[Any] = staticmethod(lambda dtype: not dtype.is_bool)
    #: How it treats PARTIAL inputs: "sum" passes a sum of partials on, "scale" one partial times the rest.
    linear: ClassVar[str] = ""
    #: Values that its domain allows, for the tests.
    domain: ClassVar[tuple[float, float]] = (-2.0, 2.0)

    # -- it on arrays, and on one entry: either `rule`, or these ---------------------------------------
    #: Name of the function on NumPy and CuPy, called as ufunc(*inputs, out=output).
    ufunc: ClassVar[str] = ""
    #: Or, where they have none, it of one Python number.
    scalar: ClassVar[Any] = None
    #: It in C and CUDA, of {0}, {1} ...: {T} is the result's type, {f} the f that functions of float end in.
    c: ClassVar[str] = ""
    #: It in CUDA, where that differs: of functions that a C library computes one by one, NumPy is as fast.
    cuda: ClassVar[str] = ""

    def rule(self, *args: Any, **kwargs: Any) -> Tensor:
        """(*inputs): what it computes of single numbers, in other elementwise ops."""
        raise NotImplementedError

    def traced(self, dtypes: Sequence[DType]) -> Rule | None:
        """Its rule on inputs of these dtypes; None where it has none."""
        return None if type(self).rule is Elementwise.rule else _traced(self, tuple(dtypes))

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        first = specs[0]
        for spec in specs:
            if spec.dtype != first.dtype:
                raise GraphError(
                    f"dtypes {first.dtype.name} and {spec.dtype.name} differ; use cast on one of them"
                )
        if not type(self).takes(first.dtype):
            raise GraphError(f"it is not defined on {first.dtype.name}")
        return [Spec(_broadcast(specs), as_dtype(self.result) if self.result else first.dtype)]

    def expression(
        self, args: Sequence[str], dtypes: Sequence[DType], result: str, cuda: bool = False
    ) -> str | None:
        """It in C or CUDA, of inputs of these names and dtypes; result: its C type. None: it has no form."""
        if (rule := self.traced(dtypes)) is not None:
            return rule.expression(args, cuda)
        text = (self.cuda or self.c) if cuda else self.c
        return text.format(*args, T=result, f="f" if result == "float" else "") or None

    def translatable(self, dtypes: Sequence[DType], result: DType, cuda: bool) -> bool:
        """Whether it can be said in C, or CUDA, for these dtypes."""
        if not all(dtype.name in TYPES for dtype in (*dtypes, result)):
            return False
        return self.expression(["x"] * len(dtypes), dtypes, TYPES[result.name], cuda) is not None

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        body = [(self, tuple(range(len(ins))))]
        return code.loop(body, [len(ins)], [*specs, *self.infer(*specs)], ins, outs)

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        if self.ufunc:
            return partial(getattr(env.xp, self.ufunc), *ins, out=outs[0])
        if self.scalar is not None:
            return partial(_one_by_one, env, np.frompyfunc(self.scalar, self.arity, 1), ins, outs[0])
        rule = self.traced([as_dtype(a.dtype) for a in ins])
        assert rule is not None, f"{type(self).__name__} has neither a function nor a rule"
        constants = map(env.xp.asarray, rule.constants)
        return in_turn(kernels(env, rule.body, rule.results, [*ins, *constants], outs))

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        if PARTIAL in placements:
            placed = self._place_partial(placements)
            if placed is not None:
                return placed
        out = node.outputs[0].spec.shape
        assert out is not None
        axes = set()
        for placement, tensor in zip(placements, node.inputs, strict=True):
            if isinstance(placement, Sharded):
                assert tensor.spec.shape is not None
                axes.add(placement.axis + len(out) - len(tensor.spec.shape))
        if len(axes) != 1:
            return None
        axis = axes.pop()
        wanted: list[Placement] = []
        for tensor in node.inputs:
            assert tensor.spec.shape is not None
            own = axis - (len(out) - len(tensor.spec.shape))
            spans = own >= 0 and tensor.spec.shape[own] == out[axis]
            wanted.append(Sharded(own) if spans else REPLICATED)
        return wanted, Sharded(axis)

    def _place_partial(self, placements: Sequence[Placement]) -> Placed:
        if self.linear == "sum" and all(p == PARTIAL for p in placements):
            return placements, PARTIAL
        rest_replicated = all(p == REPLICATED for p in placements[1:])
        if self.linear == "scale" and placements[0] == PARTIAL and rest_replicated:
            return placements, PARTIAL
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        low, high = cls.domain
        if cls.arity == 1:
            return [Example(cls(), (3, 4), low=low, high=high)]
        shapes = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 4), (3, 1)), ((), (3,))]
        return [Example(cls(), *pair, low=low, high=high) for pair in shapes]


class Chosen(Elementwise):
    """Ops whose first input, boolean, chooses among the others, which have one dtype."""

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        condition, *values = specs
        if not condition.dtype.is_bool:
            raise GraphError(f"the condition is {condition.dtype.name}, not bool")
        if any(v.dtype != values[0].dtype for v in values):
            raise GraphError(f"{' and '.join(v.dtype.name for v in values)} differ; use cast on one of them")
        return [Spec(_broadcast(specs), values[0].dtype)]


@cache
def _traced(op: Elementwise, dtypes: tuple[DType, ...]) -> Rule:
    return Rule(op.rule, dtypes)


def _broadcast(specs: Sequence[Spec]) -> Dims:
    shape: Dims = ()
    for spec in specs:
        shape = broadcast(shape, spec.shape)
    return shape


def _one_by_one(env: Env, function: Any, ins: Sequence[Array], out: Array) -> None:
    """out = a NumPy function that gives objects."""
    made = function(*(a if env.on_host else env.xp.asnumpy(a) for a in ins))
    out[...] = env.xp.asarray(np.asarray(made, out.dtype))


def floating(dtype: DType) -> bool:
    """For Elementwise.takes: floating types only."""
    return dtype.is_floating


# -- the words of TensorFlow 1 ---------------------------------------------------------------------------
def words(kind: type[Elementwise], name: str) -> Callable[..., Tensor]:
    """The public function of an op of one or two operands; what it computes the op's docstring says."""
    on_bool, on_float = kind.takes(as_dtype("bool")), kind.takes(as_dtype("float32"))
    on_int = kind.takes(as_dtype("int32"))
    dtypes = ("of any dtype" if on_float else "bool") if on_bool else "numeric" if on_int else "floating"
    if kind.arity == 1:

        def function(x: Any, name: str | None = None) -> Tensor:
            return apply(kind(), x, name=name)

        arguments = f"    x: a tensor, array or number, {dtypes}."
        error = "the op is not defined on the dtype."
    else:

        def function(x: Any, y: Any, name: str | None = None) -> Tensor:  # type: ignore[misc]  # of two arguments
            if not isinstance(x, TensorLike) and not isinstance(y, TensorLike):
                x = convert_to_tensor(x)
            return apply(kind(), x, y, name=name)

        arguments = (
            f"    x: a tensor, array or number, {dtypes}.\n"
            "    y: of the same dtype, with a shape that broadcasts to x's."
        )
        error = "dtypes or shapes do not agree, or the op is not defined on the dtype."
    function.__name__ = function.__qualname__ = name
    shape = "the shape of x" if kind.arity == 1 else "the broadcast shape of x and y"
    function.__doc__ = (
        f"{(kind.__doc__ or '').rstrip('.')}.\n\nComputed element by element.\n\n"
        f"Args:\n{arguments}\n    name: name of the operation.\n\n"
        f"Returns:\n    Tensor: of {shape}, {'bool' if kind.result == 'bool' else 'of the same dtype'}.\n\n"
        f"Raises:\n    GraphError: {error}\n"
    )
    return function
