"""What a case gives, as named arrays, and how far two runs of it may be apart.

A run on other ranks or with other kernels adds up in another order. So it differs by roundings, and how far a
network carries a rounding depends on the network. Hence two looks:

1. Each array against that of one process with NumPy kernels: an entry may differ by LOOSE roundings of the
   array's largest. A sum of n terms errs by up to n roundings, by some sqrt(n) as a rule; the sums here have
   some 1,000 terms at most, and a handful of steps adds some of its own. Nearly all cases pass.
2. A case that does not is judged by itself. The same program in float64 is the truth, and NUDGES float32 runs
   of one process with NumPy kernels, each with inputs and first weights moved to neighbouring numbers, show
   how far a rounding is carried: at a kink of ReLU, or in Adam's quotient of gradients that are 0 but for
   rounding, that may be all the way. A run may be FACTOR times as far from the truth as the farthest of them.
3. One that fails this, too, is run again with noise: what each kernel makes moves as well (noise.py). For in
   NumPy a sum may cancel to 0 however its inputs have moved, where another order leaves a rounding of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LOOSE = 64
NUDGES = 8
FACTOR = 4

Arrays = Mapping[str, np.ndarray]


def named(found: Any, name: str = "") -> dict[str, np.ndarray]:
    """Nested dicts, lists and numbers as arrays by their paths; Python's floats come of float32."""
    if isinstance(found, Mapping):
        parts = list(found.items())
    elif isinstance(found, Sequence):
        parts = list(enumerate(found))
    else:
        return (
            {} if found is None else {name: np.asarray(found, np.float32 if type(found) is float else None)}
        )
    return {k: v for key, part in parts for k, v in named(part, f"{name}/{key}").items()}


def digest(arrays: Arrays) -> str:
    """A text that is the same where all bits are."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def not_finite(arrays: Arrays) -> str:
    """The first array with a NaN or an infinity, '' if there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")


def size(array: np.ndarray) -> float:
    """Its largest entry."""
    return float(np.abs(array.astype(np.float64)).max(initial=0))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two entries; infinite where only one is a number."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(np.where(np.isfinite(apart), apart, np.inf).max(initial=0))


def due(array: np.ndarray) -> float:
    """What the first look allows."""
    rounding = np.finfo(array.dtype).eps / 2 if array.dtype.kind == "f" else 0.0
    return LOOSE * float(rounding) * size(array)


def differences(found: Arrays, alone: Arrays) -> dict[str, str]:
    """The first look: of each array that does not pass, what is wrong with it."""
    wrong = {name: "only one of the two has it" for name in {*found} ^ {*alone}}
    for name in (name for name in alone if name in found):
        a, b = found[name], alone[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            wrong[name] = f"{a.dtype}{a.shape}, alone {b.dtype}{b.shape}"
        elif distance(a, b) > due(b):
            wrong[name] = f"differs by {distance(a, b):.3g} of {size(b):.3g}"
    return wrong


def verdict(found: Arrays, exact: Arrays, nudged: Sequence[Arrays]) -> tuple[dict[str, str], float]:
    """The second look: of each array that does not pass what is wrong; the largest share allowed."""
    wrong = {name: "only one of the two has it" for name in {*found} ^ {*exact}}
    largest = 0.0
    for name in (name for name in found if name in exact):
        a, right = found[name], exact[name]
        if a.shape != right.shape:
            wrong[name] = f"{a.shape}, in float64 {right.shape}"
            continue
        most = FACTOR * max(distance(run[name], right) for run in nudged) + due(a)
        if not distance(a, right) <= most:
            wrong[name] = (
                f"{distance(a, right):.3g} of {size(right):.3g} from float64, roundings make {most:.2g}"
            )
        largest = max(largest, most / max(size(right), 1e-2))
    return wrong, largest
