"""tf.contrib.data: functions for Dataset.apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.errors import UsageError
from dtrain.names import module_getattr
from dtrain.tf1.dataset import (
    Dataset,
    FixedLengthRecordDataset,
    Iterator,
    TextLineDataset,
    TFRecordDataset,
    unbatched,
)

__all__ = [
    "Dataset",
    "FixedLengthRecordDataset",
    "Iterator",
    "TFRecordDataset",
    "TextLineDataset",
    "batch_and_drop_remainder",
    "map_and_batch",
    "parallel_interleave",
    "prefetch_to_device",
    "shuffle_and_repeat",
    "unbatch",
]

__getattr__ = module_getattr("tf.contrib.data")

Way = Callable[[Dataset], Dataset]


def shuffle_and_repeat(buffer_size: Any, count: Any = None, seed: int | None = None) -> Way:
    """shuffle(buffer_size, seed), then repeat(count)."""
    return lambda dataset: dataset.shuffle(buffer_size, seed).repeat(count)


def map_and_batch(
    map_func: Callable[..., Any],
    batch_size: Any,
    num_parallel_batches: Any = None,
    drop_remainder: Any = False,
    num_parallel_calls: Any = None,
) -> Way:
    """map(map_func), then batch(batch_size)."""
    return lambda dataset: dataset.map(map_func).batch(batch_size, drop_remainder)


def batch_and_drop_remainder(batch_size: Any) -> Way:
    """batch(batch_size), without a last one of fewer elements."""
    return lambda dataset: dataset.batch(batch_size, True)


def unbatch() -> Way:
    """The entries of axis 0 of each element, one after another."""
    return unbatched()


def parallel_interleave(
    map_func: Callable[..., Any],
    cycle_length: Any,
    block_length: Any = 1,
    sloppy: Any = False,
    buffer_output_elements: Any = None,
    prefetch_input_elements: Any = None,
) -> Way:
    """interleave(map_func, cycle_length, block_length); sloppy, whose order is by chance, is refused."""
    if sloppy:
        raise UsageError("parallel_interleave: sloppy=True has an order by chance; leave it out.")
    return lambda dataset: dataset.interleave(map_func, cycle_length, block_length)


def prefetch_to_device(device: str, buffer_size: Any = None) -> Way:
    """prefetch: the same elements."""
    return lambda dataset: dataset.prefetch(buffer_size)
