"""A task's own arrays as a data set: the training examples, and behind them those of the test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.dtypes import ALL
from dtrain.train.data import Dataset

_KNOWN = {d.numpy for d in ALL if not d.is_string}


def examples_of(data: Any, name: str) -> Dataset:
    """The set of Task(data=...); name: what messages call the task.

    Raises:
        UsageError: it is not (x, y) or ((x, y), (x_test, y_test)), or its arrays do not fit one another.
    """
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise UsageError(f"--task {name}: data is (x, y), or ((x, y), (x_test, y_test)).")
    split = all(isinstance(part, Sequence) and len(part) in (2, 3) for part in data)
    parts = [[_array(a, name) for a in part] for part in (data if split else [data])]
    counts = []
    for part in parts:
        counts.append(len(part[0]))
        if any(len(a) != len(part[0]) for a in part):
            raise UsageError(f"--task {name}: data has {' and '.join(str(len(a)) for a in part)} examples.")
    if len(parts) > 2 or len({len(part) for part in parts}) > 1:
        raise UsageError(f"--task {name}: give a weight for each example, or for none.")
    whole = []
    for arrays in zip(*parts, strict=True):
        if any(a.shape[1:] != arrays[0].shape[1:] or a.dtype != arrays[0].dtype for a in arrays):
            said = " and ".join(f"{a.dtype.name}{a.shape}" for a in arrays)
            raise UsageError(f"--task {name}: data to train and to test on are not alike: {said}.")
        whole.append(np.concatenate(arrays) if len(arrays) > 1 else np.array(arrays[0]))
    digest = hashlib.sha256()
    for a in whole:
        digest.update(f"{a.dtype.name}{a.shape}\n".encode() + a.tobytes())
    digest.update(str(counts).encode())
    weights = whole[2].astype(np.float32).reshape(len(whole[0])) if len(whole) > 2 else None
    test = range(counts[0], sum(counts))
    return Dataset(
        "the task's arrays",
        whole[0],
        whole[1],
        range(counts[0]),
        test,
        name,
        digest.hexdigest(),
        weights=weights,
    )


def _array(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise UsageError(f"--task {name}: data is ragged: every example needs the same shape.") from None
    if array.ndim == 0 or not len(array) or array.dtype.kind not in "fiub":
        raise UsageError(f"--task {name}: data holds {value!r}: give arrays of numbers, by examples.")
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    return array if array.dtype in _KNOWN else array.astype(np.int64)
