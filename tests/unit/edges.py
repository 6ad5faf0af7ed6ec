"""Numbers that show where two kernels differ: the edges of each dtype, and 100,000 others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.errors import GraphError
from dtrain.graph.graph import Spec
from dtrain.native import loops
from dtrain.ops.base import REGISTRY
from dtrain.ops.elementwise import Chosen, Elementwise
from dtrain.ops.math import Cast

#: Units in the last place by which C may miss what is exact, in float32: the most that 70 million of 2**32
#: numbers show is 1.01, 0.83, 1.30 and 2.37. All other ops have NumPy's bits.
MISSED = {"Exp": 1.1, "Log": 1.0, "Tanh": 1.4, "Sigmoid": 2.5}
#: And by which it may differ from NumPy, in float32 and float64: NumPy's own functions miss by up to 4.
ULPS = dict.fromkeys(MISSED, 6)

MANY = 100_000


def numbers(dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges of a dtype; and MANY others of every size: any bits, near 0, whole ones."""
    random = np.random.default_rng(seed)
    if dtype == "bool":
        return np.array([True, False]), random.integers(0, 2, MANY).astype(bool)
    if dtype.startswith("float"):
        info = np.finfo(dtype)
        word = np.dtype(f"u{info.bits // 8}")
        near = [0.0, 0.5, 0.625, 1.0, 1.5, 2.5, 6.0, 17.0, 88.0, 88.8, 104.0, 2.0**24, 2.0**31, 2.0**63]
        edges = [*near, np.inf, info.max, info.tiny, info.smallest_subnormal, info.tiny / 2]
        any_bits = random.integers(0, np.iinfo(word).max, MANY // 4, word, endpoint=True).view(dtype)
        others = [random.uniform(-20, 20, MANY // 4), random.integers(-50, 50, MANY // 4)]
        others += [random.standard_normal(MANY - 3 * (MANY // 4))]
        parts = [any_bits, *(part.astype(dtype) for part in others)]
        return np.array([*edges, *(-e for e in edges), np.nan], dtype), np.concatenate(parts)
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    edges = {0, 1, 2, 3, 7, most, most - 1, least, least + 1, *([-1, -2, -7] if least else [])}
    any_bits = random.integers(least, most, MANY // 2, dtype, endpoint=True)
    small = random.integers(max(least, -50), 50, MANY - MANY // 2).astype(dtype)
    return np.array(sorted(edges), dtype), np.concatenate([any_bits, small])


def many(dtypes: Sequence[str]) -> list[np.ndarray]:
    """MANY rows of inputs: every combination of edges, and others."""
    random = np.random.default_rng(4)
    edges, others = zip(*(numbers(d, i) for i, d in enumerate(dtypes)), strict=True)
    grid = [axis.ravel() for axis in np.meshgrid(*edges, indexing="ij")]
    return [
        np.concatenate([e, random.permutation(o)])[: max(MANY, len(e))]
        for e, o in zip(grid, others, strict=True)
    ]


def tiny(x: np.ndarray) -> np.ndarray:
    """Where there is a number below the normal ones that is not 0."""
    return (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny) if x.dtype.kind == "f" else np.zeros(x.shape, bool)


def assert_same_bits(name: str, found: np.ndarray, right: np.ndarray, fuzzy: np.ndarray) -> None:
    """Alike to the sign of a zero; fuzzy: where a tiny number counts as itself or as 0, in the result too."""
    if found.dtype.kind != "f":
        wrong = (found != right) & ~fuzzy
    else:
        least = np.finfo(found.dtype).tiny
        nothing = fuzzy & (np.abs(found) <= least) & (np.abs(right) <= least)
        alike = (found == right) & (np.signbit(found) == np.signbit(right))
        wrong = ~(alike | nothing | (np.isnan(found) & np.isnan(right)))
    assert not wrong.any(), (name, np.flatnonzero(wrong)[:5], found[wrong][:5], right[wrong][:5])


def elementwise_ops(dtype: str) -> Iterator[tuple[str, Any, list[np.ndarray]]]:
    """(name, op, inputs) of each elementwise op that takes a dtype, for each of its examples' attributes."""
    for name, kind in sorted(REGISTRY.items()):
        if not issubclass(kind, Elementwise):
            continue
        ops = {example.op for example in kind.examples()}
        if name == "Cast":
            ops = {Cast(dt.as_dtype(to)) for to in loops.TYPES}
        for op in sorted(ops, key=repr):
            inputs = many([*["bool"] * issubclass(kind, Chosen), *[dtype] * kind.arity][: kind.arity])
            if name == "Cast" and dtype.startswith("float") and op.to.is_integer:
                # what does not fit is what the processor makes of it
                least, most = np.iinfo(op.to.numpy).min, float(np.iinfo(op.to.numpy).max)
                inputs = [np.where((inputs[0] >= least) & (inputs[0] < most), inputs[0], 1).astype(dtype)]
            if name in MISSED:  # of float64 the C library's, which may look at a tiny number's bits
                inputs = [np.where(tiny(a), 0, a).astype(a.dtype) for a in inputs]
            try:
                op.infer(*(Spec(a.shape, dt.as_dtype(a.dtype)) for a in inputs))
            except GraphError:
                continue
            yield name, op, inputs


def assert_near(name: str, found: np.ndarray, right: np.ndarray, ulps: float) -> None:
    """Within so many units in the last place of the first's dtype; NaN and infinities alike."""
    info = np.finfo(found.dtype)
    with np.errstate(all="ignore"):
        rounded = right.astype(found.dtype)
    fine = np.isfinite(rounded) & (np.abs(right) >= info.tiny)
    unit = 2.0 ** (np.floor(np.log2(np.abs(right[fine]))) - info.nmant)
    error = np.abs(found[fine].astype("float64") - right[fine]) / unit
    assert error.max() <= ulps, (name, error.max(), found[fine][error.argmax()], right[fine][error.argmax()])
    small = np.isfinite(rounded) & ~fine
    assert (np.abs(found[small]) <= info.tiny).all(), name
    np.testing.assert_array_equal(found[~np.isfinite(rounded)], rounded[~np.isfinite(rounded)])
