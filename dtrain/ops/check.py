"""A step whose loss or gradients hold a NaN or an infinity stops before it changes anything.

Each rank looks at its own terms of the gradients, before they are summed: one pass over what the update reads
next. What it finds is a number that travels in the gradients' bucket, so all ranks stop in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.graph.graph import Spec
from dtrain.ops.base import REDUCTION, Array, Env, Kernel, Op, register

#: Under this name a graph keeps its dynamic loss scales (see train/loss_scale.py), by the operation's name.
LOSS_SCALES = "loss_scales"

#: Under this name it keeps what it has gradients of.
LOSSES = "losses"


class NotFinite(Exception):
    """What StopIfBad raises; the session says where the number comes from, or lowers a loss scale.

    values, results: what that step was fed, and what each step before it gave, where it is one of several in
    a call.
    """

    def __init__(self, values: Sequence[Any] = (), results: Sequence[list[Any]] = ()) -> None:
        super().__init__()
        self.values, self.results = values, list(results)


def largest(dtype: np.dtype, ranks: int) -> float:
    """What a term may be at most: `ranks` of them add up to a finite number."""
    return float(np.finfo(dtype).max) / ranks


def is_bad(xp: Any, array: Array, limit: float) -> Array:
    """Of each entry, whether it is NaN, infinite, or above the limit."""
    return ~(xp.abs(array) <= limit)


def _entries(ins: Sequence[Array], ranks: int) -> list[tuple[Array, float]]:
    """The arrays to look at, and what their entries may be at most; an array of several inputs once.

    Each by itself and not the memory that they lie in: what is between two arrays is nobody's.
    """
    arrays = {id(a): a for a in ins if a.size}
    return [(a, largest(a.dtype, ranks)) for a in arrays.values()]


@register
class HasBad(Op):
    """1 where an entry of an input is NaN, infinite or so large that the ranks' sum may be; else 0.

    Each rank looks at what it has of the inputs, so the output is PARTIAL where one is not whole: the number
    of ranks that found one. Of the first input's dtype.

    summed_up: whether the ranks' terms are added up; if not, a number may be as large as numbers are.
    """

    summed_up: bool = True
    category = REDUCTION

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), specs[0].dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        xp, out = env.xp, outs[0]
        entries = _entries(ins, env.comm.size if self.summed_up else 1)
        flat = [a.reshape(-1) for a, _ in entries if _plain(a)]
        rest = [(a, limit) for a, limit in entries if not _plain(a)]

        def kernel() -> None:
            # squares add up to a finite number only where every entry is small; a BLAS reads fastest
            quick = env.on_host and all(np.isfinite(np.dot(a, a)) for a in flat)
            some = 0
            for a, limit in rest if quick else entries:
                some = some + is_bad(xp, a, limit).any()
            out[...] = some > 0

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        entries, out = _entries(ins, code.comm.size if self.summed_up else 1), outs[0]
        if not all(_plain(a) and a.dtype.char in "fd" for a in (out, *(a for a, _ in entries))):
            return None
        calls: list[Any] = []
        for dtype, limit in dict.fromkeys((a.dtype, limit) for a, limit in entries):
            same = [a for a, most in entries if (a.dtype, most) == (dtype, limit)]
            calls += code.has_bad(same, limit, out, more=bool(calls))
        return calls or None


@register
class ProductBound(Op):
    """What no entry of a.T @ b exceeds: no finite number where one may be none.

    HasBad looks at it in place of a product that is computed later, in parts (see passes/share).
    """

    category = REDUCTION

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec((), specs[0].dtype)]

    def kernel(self, xp: Any, *ins: Array, out: Array) -> None:
        a, b = ins
        out[...] = xp.abs(a).max() * xp.abs(b).max() * len(a)

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        a, b = ins
        return code.call("product_bound", a, a.size, b, b.size, float(len(a)), outs[0])


def _plain(array: Array) -> bool:
    return bool(array.flags.c_contiguous) and array.dtype.itemsize > 2


@register
class StopIfBad(Op):
    """Raises NotFinite unless every input is 0. It has no output: what must not happen then waits for it."""

    stateful = True
    category = REDUCTION

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return []

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        def kernel() -> None:
            if not all(float(a) == 0 for a in ins):
                raise NotFinite

        return kernel

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        names = {"f": "stop_if_bad_float", "d": "stop_if_bad_double"}
        calls = [code.call(names[a.dtype.char], a) for a in ins if a.dtype.char in names]
        return calls if len(calls) == len(ins) else None
