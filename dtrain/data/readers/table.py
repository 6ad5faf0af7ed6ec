"""Which columns of a table are the target."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from dtrain.data.readers.source import Label
from dtrain.errors import DataError, UsageError


def choose(path: Path, header: Sequence[str], label: Label) -> tuple[list[int], list[int]]:
    """Indices of the columns of examples, and of those of the target.

    Raises:
        UsageError: --label names none, or one that is not there. DataError: no column is left.
    """
    shown = ", ".join(header[:8]) + (f" ... ({len(header)} columns)" if len(header) > 8 else "")
    if not label.columns:
        raise UsageError(f"{path}: say which column is the target: --label COLUMN, one of {shown}.")
    for name in label.columns:
        if name not in header:
            near = difflib.get_close_matches(name, header, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {shown}."
            raise UsageError(f"--label {name}: {path} has no such column; {hint}")
    y = [header.index(name) for name in label.columns]
    x = [index for index in range(len(header)) if index not in y]
    if not x:
        raise DataError(f"{path}: holds no columns but those of the target.")
    return x, y
