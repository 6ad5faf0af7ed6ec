"""A task's own arrays as a data set: the training examples, and behind them those of the test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
    parts = [[_named(value, name) for value in part] for part in (data if split else [data])]
    if len(parts) > 2 or len({len(part) for part in parts}) > 1:
        raise UsageError(f"--task {name}: give a weight for each example, or for none.")
    counts = []
    for part in parts:
        lengths = [len(a) for arrays in part for a in arrays.values()]
        counts.append(lengths[0])
        if len({*lengths}) > 1:
            raise UsageError(f"--task {name}: data has {' and '.join(map(str, lengths))} examples.")
    digest = hashlib.sha256()
    whole = []
    for of_parts in zip(*parts, strict=True):
        if any(arrays.keys() != of_parts[0].keys() for arrays in of_parts):
            said = " and ".join(", ".join(arrays) or "one array" for arrays in of_parts)
            raise UsageError(f"--task {name}: data to train and to test on have other names: {said}.")
        whole.append({key: _joined([arrays[key] for arrays in of_parts], name) for key in of_parts[0]})
        for key, a in whole[-1].items():
            digest.update(f"{key}{a.dtype.name}{a.shape}\n".encode() + a.tobytes())
    digest.update(str(counts).encode())
    x, y, *weights = (arrays.get("", arrays) for arrays in whole)
    return Dataset(
        "the task's arrays",
        x,
        y,
        range(counts[0]),
        range(counts[0], sum(counts)),
        name,
        digest.hexdigest(),
        weights=weights[0].astype(np.float32).reshape(sum(counts)) if weights else None,
    )


def _named(value: Any, name: str) -> dict[str, np.ndarray]:
    """Arrays by name; one alone has none."""
    if not isinstance(value, Mapping):
        return {"": _array(value, name)}
    if not value or not all(isinstance(key, str) and key for key in value):
        raise UsageError(f"--task {name}: data has arrays called {[*value]}: give each a name, a string.")
    return {key: _array(a, name) for key, a in value.items()}


def _joined(arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
    if any(a.shape[1:] != arrays[0].shape[1:] or a.dtype != arrays[0].dtype for a in arrays):
        said = " and ".join(f"{a.dtype.name}{a.shape}" for a in arrays)
        raise UsageError(f"--task {name}: data to train and to test on are not alike: {said}.")
    return np.concatenate(arrays) if len(arrays) > 1 else np.array(arrays[0])


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
