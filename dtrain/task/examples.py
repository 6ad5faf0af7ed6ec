"""A task's own arrays as a data set, and those of its test as another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from dtrain.data.ahead import sampled
from dtrain.data.dataset import CLASSES, LABELS, NUMBERS, Dataset
from dtrain.data.order import WHOLE_BYTES
from dtrain.errors import UsageError
from dtrain.graph.dtypes import ALL

#: Whole numbers up to here may be classes.
MOST_CLASSES = 1 << 16
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
    sets = [_set(part, name) for part in parts]
    if len(sets) == 1:
        return sets[0]
    for of_parts in zip(*parts, strict=True):
        _refuse_unlike(name, *of_parts)
    return sets[0].with_part("test", sets[1])


def _set(part: Sequence[dict[str, np.ndarray]], name: str) -> Dataset:
    """One part's x, y and weights, as they are."""
    lengths = [len(a) for arrays in part for a in arrays.values()]
    if len({*lengths}) > 1:
        raise UsageError(f"--task {name}: data has {' and '.join(map(str, lengths))} examples.")
    digest = hashlib.sha256()
    for arrays in part:
        for key, a in arrays.items():
            digest.update(f"{key}{a.dtype.name}{a.shape}\n".encode())
            digest.update(sampled(a).reshape(-1).view(np.uint8).data)
    x, y, *weights = (cast(Any, arrays.get("", arrays)) for arrays in part)
    kind, classes = _kind(y)
    return Dataset(
        name="the task's arrays",
        source=name,
        digest=digest.hexdigest(),
        x=x,
        y=y,
        train=range(lengths[0]),
        kind=kind,
        classes=classes,
        weights=weights[0].astype(np.float32).reshape(lengths[0]) if weights else None,
    )


def _kind(y: Any) -> tuple[str, tuple[str, ...]]:
    """What targets are by their looks: a class each, several labels, or else numbers; see Task."""
    if isinstance(y, Mapping):
        return NUMBERS, ()
    if y.ndim == 2 and y.shape[1] > 1 and y.dtype in (np.uint8, np.bool_) and y.max() <= 1:
        return LABELS, tuple(map(str, range(y.shape[1])))
    if y.ndim == 1 and y.dtype.kind in "iu" and 0 <= y.min() <= y.max() < MOST_CLASSES:
        return CLASSES, tuple(map(str, range(int(y.max()) + 1)))
    return NUMBERS, ()


def _refuse_unlike(name: str, train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> None:
    if train.keys() != test.keys():
        said = " and ".join(", ".join(arrays) or "one array" for arrays in (train, test))
        raise UsageError(f"--task {name}: data to train and to test on have other names: {said}.")
    for a, b in zip(train.values(), test.values(), strict=True):
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            said = " and ".join(f"{a.dtype.name}{a.shape}" for a in (a, b))
            raise UsageError(f"--task {name}: data to train and to test on differ: {said}.")


def _named(value: Any, name: str) -> dict[str, np.ndarray]:
    """Arrays by name; one alone has none."""
    if not isinstance(value, Mapping):
        return {"": _array(value, name)}
    if not value or not all(isinstance(key, str) and key for key in value):
        raise UsageError(f"--task {name}: data has arrays called {[*value]}: give each a name, a string.")
    return {key: _array(a, name) for key, a in value.items()}


def _array(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise UsageError(f"--task {name}: data is ragged: every example needs the same shape.") from None
    if array.ndim == 0 or not len(array) or array.dtype.kind not in "fiub":
        raise UsageError(f"--task {name}: data holds {value!r}: give arrays of numbers, by examples.")
    if array.nbytes > WHOLE_BYTES:  # used as it lies; of float64 the graph converts what is read
        if array.dtype not in _KNOWN or not array.flags.c_contiguous:
            how = "" if array.flags.c_contiguous else ", not C-contiguous"
            raise UsageError(
                f"--task {name}: data holds {array.nbytes:,} bytes of {array.dtype}{how}, too many to copy: "
                "give a C-contiguous array of float32, float64, uint8, int32 or int64."
            )
    elif array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    elif array.dtype not in _KNOWN:
        array = array.astype(np.int64)
    # a view, since the set's arrays may not be written to, and the program's may
    return np.ascontiguousarray(array).view()
