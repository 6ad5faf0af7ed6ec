"""Optimizer updates: one op for all variables of a dtype, one pass over their memory.

Variables, gradients and slots of a step lie one after the other (see runtime/memory), so the arrays of an
update coalesce into one flat run, which is worked on in pieces that stay in the cache. Where the ranks of a
node share the variables, each works on its part of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

from dtrain.errors import GraphError
from dtrain.graph.dtypes import DType, as_dtype
from dtrain.graph.graph import Spec, Tensor
from dtrain.graph.shape import compatible
from dtrain.ops.base import Array, Env, Kernel, Op, register
from dtrain.ops.body import Again, Rule, kernels
from dtrain.ops.math import sqrt, square
from dtrain.ops.memory import coalesce
from dtrain.ops.placement import REPLICATED, Placement, Sharded, shard_bounds

#: Elements of a piece: five float32 arrays of it (parameter, gradient, two slots, scratch) fit in 1 MiB L2.
PIECE = 32768


class _Update(Op):
    """Inputs: count variables, count gradients, count of each slot, then the learning rate (a scalar).

    terms: numbers of the gradients that are terms of a sum, a rank each, which the update adds up (see
    NodeBarrier). rows: of those that are sharded along axis 0, of which each rank updates its rows. The
    rest are whole.
    """

    count: int
    terms: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    slots: ClassVar[int] = 0
    rates: ClassVar[int] = 1
    stateful = True
    in_parts = True
    no_gradient = "it writes"

    def rule(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        """(parameter, gradient, *slots, *rates): what becomes of one entry of the parameter and of each slot.

        Arithmetic on scalar tensors, of elementwise ops alone; NumPy, C and CUDA follow from it.
        """
        raise NotImplementedError

    @property
    def writes(self) -> tuple[int, ...]:
        n = self.count
        return (*range(n), *range(2 * n, (2 + self.slots) * n))

    @property
    def packs(self) -> range:
        """Inputs that are best made one after the other in memory: the gradients."""
        return range(self.count, 2 * self.count)

    @property
    def summed(self) -> Sequence[int]:
        return [self.count + k for k in self.terms]

    def by_rows(
        self, placements: Sequence[Placement], inputs: Sequence[Tensor]
    ) -> tuple[_Update, list[Placement]]:
        """The same update where each rank has rows of some gradients, and what its inputs then are to be."""
        walked = {t.dtype.name for t in inputs} in ({"float32"}, {"float64"})  # as C does, in one dtype
        rows = tuple(k for k, i in enumerate(self.packs) if walked and placements[i] == Sharded(0))
        wanted: list[Placement] = [REPLICATED] * len(placements)
        for k in rows:
            wanted[self.count + k] = Sharded(0)
        return type(self)(**vars(self) | {"rows": rows}), wanted

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        n = self.count
        assert len(specs) == (2 + self.slots) * n + 1
        for i in range(n):
            variable, gradient = specs[i], specs[n + i]
            if gradient.dtype != variable.dtype or not compatible(gradient.shape, variable.shape):
                raise GraphError(f"a gradient {gradient} for a variable {variable}")
        return []

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        n, rate = self.count, ins[-1]
        rule = _traced(self, as_dtype(ins[0].dtype))
        rates = [rate] if self.rates == 1 else [rate[k, ...] for k in range(self.rates)]
        groups = [ins[i * n : (i + 1) * n] for i in range(2 + self.slots)]
        pieces = []
        for run in coalesce(groups):
            low, high = 0, run[0].size
            if env.on_host and env.comm.is_shared(run[0]):
                low, high = env.comm.part(high, run[0].itemsize)
            step = PIECE if env.on_host else max(high, 1)
            pieces += [[a[at : min(at + step, high)] for a in run] for at in range(low, high, step)]
        made: list[Kernel] = []
        again = Again(env)
        for piece in sorted(pieces, key=lambda arrays: -arrays[0].size):
            again.begin()
            written = [piece[0], *piece[2:]]
            made += kernels(again, rule.body, rule.results, [*piece, *rates, *rule.constants], written)

        def kernel() -> None:
            for each in made:
                each()

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        n, rate, comm = self.count, ins[-1], code.comm
        groups = [ins[i * n : (i + 1) * n] for i in range(2 + self.slots)]
        type = {"f": "float", "d": "double"}.get(rate.dtype.char)
        if type is None or not all(_plain(a, rate) for group in groups for a in group):
            return None
        runs = []
        whole = sorted({*range(n)}.difference(self.terms, self.rows))
        for chosen in (whole, self.terms):
            columns: list[Any] = [[group[k] for k in chosen] for group in groups]
            if chosen is self.terms:
                columns[1:2] = zip(*(comm.terms(g) for g in columns[1]), strict=True)
            for run in coalesce(columns):
                low, high = code.share(run[0])
                runs.append([a[low:high] for a in run])
        for k in self.rows:
            low, high = shard_bounds(len(groups[0][k]), comm.rank, comm.size)
            p, g, *slots = (group[k] for group in groups)
            runs.append([a.reshape(-1) for a in (p[low:high], g, *(s[low:high] for s in slots))])
        rule = _traced(self, as_dtype(rate.dtype))
        written = ["p", *(f"s{k}" for k in range(self.slots))]
        rates = ["rate"] if self.rates == 1 else [f"rate_[{k}]" for k in range(self.rates)]
        text = rule.text(["p", "g", *written[1:], *rates], code.cuda)
        text += "".join(f"\n{x} = x{value};" for x, value in zip(written, rule.results, strict=True))
        return [call for run in runs for call in code.update(text, type, self.slots, rate, run)]


@cache
def _traced(kind: _Update, dtype: DType) -> Rule:
    return Rule(kind.rule, [dtype] * (2 + kind.slots + kind.rates))


def _plain(a: Array, rate: Array) -> bool:
    """Whether an update in C can walk along a variable, slot or gradient."""
    return bool(a.dtype == rate.dtype and a.flags.c_contiguous)


@register
class ApplyGradientDescent(_Update):
    """variable -= rate * gradient."""

    count: int

    def rule(self, p: Tensor, g: Tensor, rate: Tensor) -> Tensor:
        return p - g * rate


@register
class ApplyMomentum(_Update):
    """accumulator = momentum * accumulator + gradient; variable -= rate * accumulator.

    With Nesterov's form (Sutskever et al. 2013, as TensorFlow 1 writes it) variable -= rate * (gradient +
    momentum * accumulator).
    """

    count: int
    momentum: float
    nesterov: bool
    slots = 1

    def rule(self, p: Tensor, g: Tensor, accum: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        accum = accum * self.momentum + g
        step = accum * self.momentum + g if self.nesterov else accum
        return p - step * rate, accum


@register
class ApplyVelocity(_Update):
    """velocity = momentum * velocity - rate * gradient; variable += velocity, as Keras writes momentum.

    A learning rate that changes does not scale the steps before it, as it does in ApplyMomentum. In
    Nesterov's form variable += momentum * velocity - rate * gradient.
    """

    count: int
    momentum: float
    nesterov: bool
    slots = 1

    def rule(self, p: Tensor, g: Tensor, velocity: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        step = g * rate
        velocity = velocity * self.momentum - step
        return p - step + velocity * self.momentum if self.nesterov else p + velocity, velocity


@register
class ApplyAdam(_Update):
    """Adam (Kingma & Ba 2015) in the form before its section 2.1: rate comes with both bias corrections.

    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; variable -= rate m / (sqrt(v) + epsilon).
    """

    count: int
    beta1: float
    beta2: float
    epsilon: float
    slots = 2

    def rule(self, p: Tensor, g: Tensor, m: Tensor, v: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        m = m * self.beta1 + g * (1 - self.beta1)
        v = v * self.beta2 + square(g) * (1 - self.beta2)
        return p - m / (sqrt(v) + self.epsilon) * rate, m, v
