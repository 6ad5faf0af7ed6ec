"""A hash of whole numbers, for what is drawn by number."""

from __future__ import annotations

import numpy as np


def mixed(numbers: np.ndarray, key: int) -> np.ndarray:
    """A hash of whole numbers, uint64: the finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    z = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
