"""Sequences of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.names import module_getattr

__all__ = ["pad_sequences"]

__getattr__ = module_getattr("tf.keras.preprocessing.sequence")


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """Sequences as rows of one length, by default that of the longest.

    padding, truncating: whether `value` is put, and entries are cut off, before ('pre') or behind ('post').

    Raises:
        UsageError: padding or truncating is neither.
    """
    for name, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise UsageError(f"pad_sequences: {name}={given!r}: give 'pre' or 'post'.")
    rows = [np.asarray(s) for s in sequences]
    length = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    inner = next((row.shape[1:] for row in rows if len(row)), ())
    found = np.full((len(rows), length, *inner), value, dtype)
    for at, row in enumerate(rows):
        row = row[-length:] if truncating == "pre" else row[:length]
        if length and len(row):
            found[at, length - len(row) :] = row if padding == "pre" else 0
            if padding == "post":
                found[at, length - len(row) :] = value
                found[at, : len(row)] = row
    return found
