"""tf.estimator.inputs: input functions of arrays and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.tf1.dataset import Dataset

__all__ = ["numpy_input_fn", "pandas_input_fn"]


def numpy_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int = 1000,
    num_threads: int = 1,
) -> Callable[[], Any]:
    """A function that gives (features, labels) of the next batch_size examples; batches go across epochs.

    x: an array, or a dict of them; y: labels, an array or a dict, or None for features alone.
    num_epochs: None never ends. shuffle: each epoch, all of it; it has to be said.
    queue_capacity and num_threads change nothing: there is no queue.
    """
    if not isinstance(shuffle, bool):
        raise UsageError("numpy_input_fn: shuffle has to be said: True for training, False for tests.")
    if not isinstance(x, np.ndarray | Mapping) or not len(x):
        raise UsageError(
            f"numpy_input_fn: x has to be an array or a dict of arrays, and is {type(x).__name__}."
        )

    def input_fn() -> Any:
        features = dict(x) if isinstance(x, Mapping) else x
        labels = dict(y) if isinstance(y, Mapping) else y
        first = next(iter(features.values())) if isinstance(features, dict) else features
        examples = Dataset.from_tensor_slices(features if labels is None else (features, labels))
        if shuffle:
            examples = examples.shuffle(max(len(first), 1))
        return examples.repeat(num_epochs).batch(batch_size).make_one_shot_iterator().get_next()

    return input_fn


def pandas_input_fn(
    x: Any,
    y: Any = None,
    batch_size: int = 128,
    num_epochs: int | None = 1,
    shuffle: bool | None = None,
    queue_capacity: int = 1000,
    num_threads: int = 1,
    target_column: str = "target",
) -> Callable[[], Any]:
    """numpy_input_fn of a DataFrame, whose columns are the features, and a Series or DataFrame of labels."""

    def column(series: Any) -> np.ndarray:
        array = series.to_numpy()
        return array.astype(object) if array.dtype.kind in "OUS" else array

    features = {str(name): column(x[name]) for name in x.columns}
    labels = y
    if y is not None:
        labels = {str(n): column(y[n]) for n in y.columns} if hasattr(y, "columns") else column(y)
    return numpy_input_fn(features, labels, batch_size, num_epochs, shuffle, queue_capacity, num_threads)
