"""Arrays that fit, evaluate and predict are given: checked, and as the graph takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.dtypes import ALL
from dtrain.graph.graph import TensorLike

if TYPE_CHECKING:
    from dtrain.keras.models import Sequential

_KNOWN = {d.numpy for d in ALL}


class Examples:
    """Arrays of one length, by the names x, y and sample_weight, whole and alike on every rank.

    x: float32, or the integers that were given, which the graph converts row by row. y: as the loss takes it.
    count: how many examples there are. split: how many of them, from the start, are not held back for
    testing. lent: the arrays on the session's device.
    """

    def __init__(self, arrays: dict[str, np.ndarray], lent: dict[str, Any], split: int) -> None:
        self.arrays, self.lent, self.split = arrays, lent, split
        self.count = len(arrays["x"])

    @property
    def rows(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """What a graph has to know of them: the name, shape and dtype of each array's rows."""
        return tuple((name, a.shape[1:], a.dtype.name) for name, a in self.arrays.items())


def examples(
    model: Sequential,
    what: str,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    labelled: bool = True,
    validation_split: float = 0.0,
) -> Examples:
    """Checked examples for a model; collective. what: the method they are for, for messages.

    validation_split: the share at the end that is held back for testing, which class_weight does not weigh.

    Raises, on every rank:
        UsageError: an array is missing, does not fit another, the model or its loss, or differs among ranks.
    """
    with model.comm.together():
        arrays, split = checked(model, what, x, y, sample_weight, class_weight, labelled, validation_split)
    model.rank_zero.agrees(what, arrays | (_rate(model) if labelled else {}))
    return lent(model, arrays, split)


def checked(
    model: Sequential,
    what: str,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    labelled: bool = True,
    validation_split: float = 0.0,
) -> tuple[dict[str, np.ndarray], int]:
    """This rank's arrays by name, and how many examples are left to train on; builds the model.

    Raises:
        UsageError: as examples does, but for what differs among ranks.
    """
    arrays = {"x": inputs(what, x, model.build_shape)}
    split = _split(len(arrays["x"]), validation_split)
    model.build(arrays["x"].shape[1:])
    if labelled:
        y = as_array(what, "y", y)
        _alike(what, "x", arrays["x"], "y", y)
        compiled = model.check_compiled(what)
        layer, _, output = model.last_output()
        arrays["y"] = compiled.loss.labels(y, output, layer, f"{what}: y")
        weights = _weights(what, arrays["y"], sample_weight, class_weight, split)
        if weights is not None:
            arrays["sample_weight"] = weights
    return arrays, split


def lent(model: Sequential, arrays: dict[str, np.ndarray], split: int) -> Examples:
    """Checked arrays, on the model's device."""
    backend = model.session.backend
    with model.session.lock:  # of the device
        return Examples(
            arrays, {k: backend.from_host(np.ascontiguousarray(a)) for k, a in arrays.items()}, split
        )


def _rate(model: Sequential) -> dict[str, np.ndarray]:
    return {"optimizer.learning_rate": np.asarray(float(model.optimizer.learning_rate))}


def agrees_on_rate(model: Sequential, what: str) -> None:
    """Raise on every rank where the learning rate is not the same on all. Collective."""
    model.rank_zero.agrees(what, _rate(model))


def _split(examples: int, share: float) -> int:
    """How many examples are left to train on, as Keras rounds."""
    split = int(examples * (1 - share))
    if split == 0:
        raise UsageError(f"fit: validation_split={share} leaves none of {examples} to train on.")
    return split


def as_array(what: str, name: str, value: Any) -> np.ndarray:
    """Anything like an array, with at least one axis; raises UsageError for what is not."""
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], np.ndarray):
        value = value[0]  # Keras's list of inputs
    if value is None:
        raise UsageError(f"{what}: {name} is missing: give an array of examples.")
    if isinstance(value, TensorLike) or hasattr(value, "__next__"):
        kind = "a tensor" if isinstance(value, TensorLike) else "a generator"
        raise UsageError(f"{what}: {name} is {kind}, and an array is needed: collect its values with numpy.")
    try:
        array = np.asarray(value)
    except ValueError:
        raise UsageError(f"{what}: {name} is ragged: every example needs the same shape.") from None
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{what}: {name} has dtype {array.dtype}, and numbers are needed.")
    if array.ndim == 0 or not len(array):
        raise UsageError(f"{what}: {name} has no examples: its first axis counts them.")
    return array


def inputs(what: str, x: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """x, fit for a first layer that takes examples of this shape (None: any)."""
    array = as_array(what, "x", x)
    if shape is not None and array.shape[1:] != shape:
        same = int(np.prod(array.shape[1:])) == int(np.prod(shape))
        target = ", ".join(map(str, (-1, *shape)))
        fix = f"x.reshape({target}) makes it so" if same else "give the first layer that input_shape"
        raise UsageError(
            f"{what}: x has examples of shape {array.shape[1:]}, and the model takes {shape}: {fix}."
        )
    if array.dtype.kind == "f" or array.dtype not in _KNOWN:
        return array.astype(np.float32, copy=False)
    return array.view(np.uint8) if array.dtype == bool else array


def _alike(what: str, a: str, first: np.ndarray, b: str, second: np.ndarray) -> None:
    if len(first) != len(second):
        raise UsageError(
            f"{what}: {a} has {len(first):,} examples and {b} has {len(second):,}: give one entry of {b} for "
            "each."
        )


def _weights(
    what: str, y: np.ndarray, sample_weight: Any, class_weight: Mapping[int, float] | None, split: int
) -> np.ndarray | None:
    """The weight of each example, float32 [n]; None where all are 1. Classes weigh the first `split`."""
    found = None
    if sample_weight is not None:
        found = as_array(what, "sample_weight", sample_weight).astype(np.float32)
        if found.shape[1:] == (1,):
            found = found[:, 0]
        if found.ndim != 1:
            raise UsageError(
                f"{what}: sample_weight has shape {found.shape}: give one number for each example."
            )
        _alike(what, "x", y, "sample_weight", found)
    if class_weight is not None:
        if not isinstance(class_weight, Mapping):
            raise UsageError(
                f"{what}: class_weight={class_weight!r}: give a dict of each class's weight, such as "
                "{0: 1.0, 1: 2.5}."
            )
        wide = y.ndim > 1 and y.shape[-1] > 1
        classes = np.rint(y.argmax(-1) if wide else y.reshape(len(y), -1)[:, 0]).astype(np.int64).ravel()
        if len(classes) != len(y):
            raise UsageError(
                f"{what}: class_weight needs one class for each example, and y has shape {y.shape}."
            )
        present, where = np.unique(classes[:split], return_inverse=True)
        table = np.array([class_weight.get(int(c), 1.0) for c in present], np.float32)
        found = np.ones(len(y), np.float32) if found is None else found.copy()
        found[:split] *= table[where]
    if found is not None and not (np.isfinite(found).all() and (found >= 0).all()):
        raise UsageError(f"{what}: a weight is negative or not finite: give numbers from 0 up.")
    return found
