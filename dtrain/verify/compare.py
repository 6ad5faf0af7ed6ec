"""Two records of a training side by side: the first difference, and how far values are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Where two records part.

    step: counted from 1; 0 after the last. what: operation, variable, loss, metric or test. name: of it.
    before: whether a single operation showed it before the step was taken.
    """

    step: int
    what: str
    name: str
    before: bool = False


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Difference | None:
    """Where two records part first; None where all digests are the same."""
    for (name, _, a), (also, _, b) in zip(one["ops"], other["ops"], strict=False):
        if (name, a) != (also, b):
            return Difference(1, "operation", name, before=True)
    for number, (a, b) in enumerate(zip(one["steps"], other["steps"], strict=False), 1):
        for name, value in a["variables"].items():
            if value != b["variables"].get(name):
                return Difference(number, "variable", name)
        if a["loss"] != b["loss"]:
            return Difference(number, "loss", "loss")
        if a["sums"] != b["sums"]:
            return Difference(number, "metric", "the metrics' sums")
    if len(one["ops"]) != len(other["ops"]) or len(one["steps"]) != len(other["steps"]):
        return Difference(0, "operation", "the number of operations or steps")
    for name, value in one["tested"].items():
        if value != other["tested"].get(name):
            return Difference(0, "test", name)
    return None


def arrays(file: Path) -> dict[str, np.ndarray]:
    """What a record kept, by name."""
    with np.load(file, allow_pickle=False) as kept:
        return {str(name): kept[str(i)] for i, name in enumerate(kept["names"])}


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many numbers of their dtype lie between the entries of two float arrays, and one more."""
    word = np.dtype(f"i{a.itemsize}")

    def place(x: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(x).view(word).astype(object if a.itemsize == 8 else np.int64)
        return np.where(bits < 0, np.iinfo(word).min - bits, bits)

    return np.abs(place(a) - place(b))


def bits_differ(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes()


def entry(a: np.ndarray, b: np.ndarray) -> str:
    """The first entry that differs, in words: where, both values, and how far apart they are."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{a.shape} against {b.dtype}{b.shape}"
    a, b = (np.atleast_1d(np.ascontiguousarray(x)) for x in (a, b))
    size = a.itemsize
    apart = (a.reshape(-1).view(np.uint8) != b.reshape(-1).view(np.uint8)).reshape(-1, size).any(1)
    first = int(np.argmax(apart))
    at = tuple(map(int, np.unravel_index(first, a.shape)))
    p, q = a.reshape(-1)[first], b.reshape(-1)[first]
    far = (
        f", {int(ulps(a.reshape(-1)[[first]], b.reshape(-1)[[first]])[0]):,} ULP"
        if a.dtype.kind == "f"
        else ""
    )
    return f"entry {at}: {p!s} against {q!s}{far} ({int(apart.sum()):,} of {a.size:,} entries differ)"


def drift(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> tuple[int, float]:
    """Over all parameters the most ULPs between two entries, and the norm of the difference over the norm."""
    most, square, whole = 0, 0.0, 0.0
    for name, a in one.items():
        b = other[name]
        if a.dtype.kind == "f" and a.size:
            most = max(most, int(ulps(a, b).max()))
            square += float(np.sum((a.astype(np.float64) - b) ** 2))
            whole += float(np.sum(a.astype(np.float64) ** 2))
    return most, (square / whole) ** 0.5 if whole else 0.0
