"""What a case gives, as named arrays; and how far two runs of it may be apart.

A run on other ranks or kernels adds up in another order, so it differs by roundings, and a network carries a
rounding as far as it is badly conditioned. So there are two looks:

1. Each array against one process with NumPy kernels: entries may differ by LOOSE roundings (2**-24) of the
   array's largest. Nearly all pass.
2. What does not is judged by its own case: the same program in float64 is taken for the truth, and NudgeS of
   NumPy float32 runs whose inputs are moved to neighbouring numbers say how far roundings carry there. A run
   may be FACTOR times as far from float64 as the farthest of these, and what the first look allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Roundings of the largest entry that the first look allows: a sum of 1,000 terms has as many, the square root
#: of that where they are random, and a handful of steps carries them on.
LOOSE = 64
ROUNDING = 2.0**-24
NUDGES = 12
FACTOR = 4


def named(found: Any, name: str = "") -> dict[str, np.ndarray]:
    """Nested dicts, lists and numbers as arrays by their paths."""
    if isinstance(found, Mapping):
        parts = list(found.items())
    elif isinstance(found, Sequence):
        parts = list(enumerate(found))
    else:
        return {} if found is None else {name: np.asarray(found)}
    return {k: v for key, part in parts for k, v in named(part, f"{name}/{key}").items()}


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A text that is the same where all bits are."""
    import hashlib

    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def scale(array: np.ndarray) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two entries; infinite where only one is a number."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    same = both | (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.abs(a - b)[both].max(initial=0)) if same.all() else float("inf")


def differences(found: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Of each array that the first look does not pass, what is wrong with it."""
    wrong = {}
    for name in dict.fromkeys([*alone, *found]):
        if name not in found or name not in alone:
            wrong[name] = "it is not there" if name not in found else "it is there"
            continue
        a, b = found[name], alone[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            wrong[name] = f"{a.dtype}{a.shape} for {b.dtype}{b.shape}"
            continue
        off, most = distance(a, b), LOOSE * ROUNDING * scale(b)
        if off > (most if b.dtype.kind == "f" else 0):
            wrong[name] = f"{off:.3g} of {scale(b):.3g}"
    return wrong


def verdict(
    found: Mapping[str, np.ndarray],
    exact: Mapping[str, np.ndarray],
    nudged: Sequence[Mapping[str, np.ndarray]],
) -> tuple[dict[str, str], float]:
    """The second look: of each array that does not pass what is wrong, and the largest share of its size allowed."""
    wrong, loosest = {}, 0.0
    for name, a in found.items():
        right = exact[name]
        most = FACTOR * max(distance(run[name], right) for run in nudged) + LOOSE * ROUNDING * scale(right)
        off = distance(a, right)
        if not off <= most:
            wrong[name] = f"{off:.3g} of {scale(right):.3g} from float64, where {most:.3g} is due to rounding"
        if scale(right):
            loosest = max(loosest, most / scale(right))
    return wrong, loosest
