"""Optimizer updates: one op for all variables of a dtype, one pass over their memory.

Variables, gradients and slots of a step lie one behind the other (see runtime/memory), so the arrays of an
update coalesce into one flat run, which is worked on in pieces that stay in the cache. Where the ranks of a
node share the variables, each works on its part of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from dtrain.errors import GraphError
from dtrain.graph.graph import Spec
from dtrain.graph.shape import compatible
from dtrain.ops.base import Array, Env, Example, Kernel, Op, register
from dtrain.ops.memory import coalesce

#: Elements of a piece: five float32 arrays of it (parameter, gradient, two slots, scratch) fit in 1 MiB L2.
PIECE = 32768


class Part(NamedTuple):
    """A gradient of which this rank has entries low..high-1 only, counted flat, and updates just these."""

    array: Array
    low: int
    high: int


class _Update(Op):
    """Inputs: count variables, count gradients, count of each slot, then the learning rate (a scalar)."""

    count: int
    slots: ClassVar[int] = 0
    scratches: ClassVar[int] = 1
    stateful = True
    in_parts = True
    no_gradient = "it writes"

    @property
    def writes(self) -> tuple[int, ...]:
        n = self.count
        return (*range(n), *range(2 * n, (2 + self.slots) * n))

    @property
    def packs(self) -> range:
        """Inputs that are best made one behind the other in memory: the gradients."""
        return range(self.count, 2 * self.count)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        n = self.count
        assert len(specs) == (2 + self.slots) * n + 1
        for i in range(n):
            variable, gradient = specs[i], specs[n + i]
            if gradient.dtype != variable.dtype or not compatible(gradient.shape, variable.shape):
                raise GraphError(f"a gradient {gradient} for a variable {variable}")
        return []

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        n = self.count
        rate = ins[-1]
        groups = [ins[i * n : (i + 1) * n] for i in range(2 + self.slots)]
        pieces = []
        for run in coalesce(groups):
            low, high = 0, run[0].size
            if env.on_host and env.comm.is_shared(run[0]):
                low, high = env.comm.part(high, run[0].itemsize)
            step = PIECE if env.on_host else max(high, 1)
            pieces += [[a[at : min(at + step, high)] for a in run] for at in range(low, high, step)]
        longest = max((p[0].size for p in pieces), default=0)
        scratch = [env.scratch((longest,), ins[0].dtype) for _ in range(self.scratches)]
        calls = [(*piece, rate, *(s[: piece[0].size] for s in scratch)) for piece in pieces]
        xp, update = env.xp, self.update

        def kernel() -> None:
            for call in calls:
                update(xp, *call)

        return kernel

    def update(self, xp: Any, *arrays: Array) -> None:
        """One piece: variable, gradient, slots, learning rate, scratch arrays; all flat but the rate."""
        raise NotImplementedError

    #: What update does to one entry, in C: p, g, slots s0, s1 ..., rate (rate_[k] where it is several
    #: numbers), all of type {T}; '' if only NumPy.
    c: ClassVar[str] = ""

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        """A gradient may be several arrays, one for each rank of the node, whose sum it is; or a Part."""
        n, rate = self.count, ins[-1]
        groups = [ins[i * n : (i + 1) * n] for i in range(2 + self.slots)]
        type = {"f": "float", "d": "double"}.get(rate.dtype.char)
        if not self.c or type is None or not all(_plain(a, rate) for group in groups for a in group):
            return None
        summed = [k for k in range(n) if not isinstance(groups[1][k], Part)]
        terms = [g if isinstance(g, tuple) else (g,) for g in (groups[1][k] for k in summed)]
        columns = [[group[k] for k in summed] for group in groups]
        columns[1:2] = [list(term) for term in zip(*terms, strict=True)]
        runs = []
        for run in coalesce(columns):
            low, high = code.share(run[0])
            runs.append([a[low:high] for a in run])
        for k in range(n):
            if isinstance(part := groups[1][k], Part):
                arrays = [group[k] if group is not groups[1] else part.array for group in groups]
                runs.append([a.reshape(-1)[part.low : part.high] for a in arrays])
        text = self.c.format(T=type, self=self)
        return [call for run in runs for call in code.update(text, type, self.slots, rate, run)]

    @classmethod
    def examples(cls) -> list[Example]:
        return []


def _plain(a: Any, rate: Array) -> bool:
    """Whether an update in C can walk along a variable, slot or gradient (or all its terms)."""
    arrays = (
        a if isinstance(a, tuple) and not isinstance(a, Part) else (a.array if isinstance(a, Part) else a,)
    )
    return all(x.dtype == rate.dtype and x.flags.c_contiguous for x in arrays)


@register
class ApplyGradientDescent(_Update):
    """variable -= rate * gradient."""

    count: int
    c = "p = p - g * rate;"

    def update(self, xp: Any, variable: Array, gradient: Array, rate: Array, work: Array) -> None:
        xp.multiply(gradient, rate, work)
        xp.subtract(variable, work, variable)


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

    @property
    def c(self) -> str:  # type: ignore[override]
        step = "(s0 * ({T}){self.momentum} + g)" if self.nesterov else "s0"
        return f"s0 = s0 * ({{T}}){{self.momentum}} + g; p = p - {step} * rate;"

    def update(
        self, xp: Any, variable: Array, gradient: Array, accum: Array, rate: Array, work: Array
    ) -> None:
        xp.multiply(accum, self.momentum, accum)
        xp.add(accum, gradient, accum)
        if self.nesterov:
            xp.multiply(accum, self.momentum, work)
            xp.add(work, gradient, work)
            xp.multiply(work, rate, work)
        else:
            xp.multiply(accum, rate, work)
        xp.subtract(variable, work, variable)


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

    @property
    def c(self) -> str:  # type: ignore[override]
        step = f"p - step + s0 * ({{T}}){self.momentum}" if self.nesterov else "p + s0"
        return f"const {{T}} step = g * rate; s0 = s0 * ({{T}}){self.momentum} - step; p = {step};"

    def update(
        self, xp: Any, variable: Array, gradient: Array, velocity: Array, rate: Array, work: Array
    ) -> None:
        xp.multiply(gradient, rate, work)
        xp.multiply(velocity, self.momentum, velocity)
        xp.subtract(velocity, work, velocity)
        if self.nesterov:
            xp.subtract(variable, work, variable)
            xp.multiply(velocity, self.momentum, work)
            xp.add(variable, work, variable)
        else:
            xp.add(variable, velocity, variable)


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

    @property
    def c(self) -> str:  # type: ignore[override]
        return (
            f"s0 = s0 * ({{T}}){self.beta1} + g * ({{T}}){1 - self.beta1};"
            f"s1 = s1 * ({{T}}){self.beta2} + g * g * ({{T}}){1 - self.beta2};"
            f"p = p - s0 / (dt_sqrt(s1) + ({{T}}){self.epsilon}) * rate;"
        )

    def update(
        self, xp: Any, variable: Array, gradient: Array, m: Array, v: Array, rate: Array, work: Array
    ) -> None:
        xp.multiply(gradient, 1 - self.beta1, work)
        xp.multiply(m, self.beta1, m)
        xp.add(m, work, m)
        xp.square(gradient, work)
        xp.multiply(work, 1 - self.beta2, work)
        xp.multiply(v, self.beta2, v)
        xp.add(v, work, v)
        xp.sqrt(v, work)
        xp.add(work, self.epsilon, work)
        xp.divide(m, work, work)
        xp.multiply(work, rate, work)
        xp.subtract(variable, work, variable)
