"""Helpers around training programs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.graph.graph import set_random_seed as set_graph_seed
from dtrain.keras.names import custom_object_scope
from dtrain.names import module_getattr

__all__ = ["Sequence", "custom_object_scope", "normalize", "set_random_seed", "to_categorical"]

__getattr__ = module_getattr("tf.keras.utils")


class Sequence:
    """Base of batches that fit, evaluate and predict take by number; as in Keras 2.

    __getitem__(index) gives a batch, (x, y) or (x, y, sample_weight); __len__() how many there are. On
    several ranks each asks for all of them, and they have to be the same: what is drawn is seeded alike.
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def on_epoch_end(self) -> None:
        """After each epoch."""


def to_categorical(y: Any, num_classes: int | None = None, dtype: Any = "float32") -> np.ndarray:
    """Class numbers [...] or [..., 1] as rows with a single 1, [..., num_classes]; by default the largest +
    1.

    Raises:
        UsageError: a number is no class.
    """
    given = np.asarray(y)
    numbers = given.astype(np.int64)
    if given.ndim > 1 and given.shape[-1] == 1:
        numbers = numbers[..., 0]
    classes = int(numbers.max(initial=-1)) + 1 if num_classes is None else int(num_classes)
    wrong = (numbers < 0) | (numbers >= classes) | (numbers != given.reshape(numbers.shape))
    if wrong.any():
        raise UsageError(
            f"to_categorical: {given.reshape(numbers.shape)[wrong][0]} is no class of 0 to {classes - 1}: "
            "give whole numbers from 0 up, and num_classes above the largest."
        )
    return np.eye(classes, dtype=dtype)[numbers]


def normalize(x: Any, axis: int = -1, order: int = 2) -> np.ndarray:
    """An array over its norm along an axis."""
    x = np.asarray(x)
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


def set_random_seed(seed: int) -> None:
    """Seed Python's and NumPy's generators and dtrain's, which models made after this take theirs from."""
    random.seed(seed)
    np.random.seed(seed)
    set_graph_seed(seed)
