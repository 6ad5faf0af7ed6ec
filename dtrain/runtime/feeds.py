"""What a session is fed: whole arrays, this rank's rows of a batch, and the rows of several steps."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Tensor, TensorLike, built
from dtrain.graph.shape import compatible, shape_text
from dtrain.ops.base import to_array
from dtrain.ops.placement import REPLICATED, Placement, Sharded, shard_bounds
from dtrain.runtime.batch import Batch, checksum


class Shard:
    """This rank's rows of a global batch, to feed for a placeholder of the whole batch.

    Args:
        rows: array whose axis 0 holds entries shard_bounds(total, rank, size) of the batch; may be empty.
        total: number of entries of the batch over all ranks.
    """

    __slots__ = ("rows", "total")

    def __init__(self, rows: Any, total: int) -> None:
        self.rows = np.asarray(rows)
        self.total = int(total)


class Window:
    """This rank's rows of several global batches of one size, to feed one a step.

    rows: array whose axis 0 counts the steps and axis 1 the rows of a batch that a Shard would have; all rows
        where there are fewer than ranks.
    total: number of entries of each batch over all ranks.
    """

    __slots__ = ("rows", "total")

    def __init__(self, rows: np.ndarray, total: int) -> None:
        self.rows, self.total = rows, total

    def __len__(self) -> int:
        return len(self.rows)

    def feed(self, step: int) -> Any:
        """What a step is fed: the whole batch where this rank has it, as then all do."""
        rows = self.rows[step]
        return rows if len(rows) == self.total else Shard(rows, self.total)


def accept(
    comm: Communicator, feeds: Sequence[Tensor], values: Sequence[Any]
) -> tuple[list[np.ndarray], tuple[Any, ...]]:
    """This rank's array of each feed, and (global shape, placement) of each: what a plan is for.

    Raises:
        InvalidArgumentError: a value does not fit its feed.
    """
    if len(values) != len(feeds):
        raise InvalidArgumentError(f"{len(values)} values for {len(feeds)} feeds: give one for each.")
    arrays, specs = [], []
    for tensor, value in zip(feeds, values, strict=True):
        if isinstance(value, Batch) and value.ndim and comm.size > 1:
            low, high = shard_bounds(len(value), comm.rank, comm.size)
            value = Shard(value[low:high], len(value))
        if isinstance(value, Shard):
            array, shape, placement = _accept_shard(comm, tensor, value)
        else:
            array = as_fed(tensor, value)
            shape, placement = array.shape, REPLICATED
        if not compatible(shape, tensor.spec.shape):
            raise InvalidArgumentError(
                f"Cannot feed value of shape {shape} for Tensor '{tensor.name}', which has shape "
                f"'{shape_text(tensor.spec.shape)}'{built(tensor.op)}."
            )
        arrays.append(array)
        specs.append((shape, placement))
    return arrays, tuple(specs)


def _accept_shard(
    comm: Communicator, tensor: Tensor, shard: Shard
) -> tuple[np.ndarray, tuple[int, ...], Placement]:
    array = as_fed(tensor, shard.rows)
    if array.ndim == 0:
        raise InvalidArgumentError(
            f"Cannot feed a Shard of a scalar for Tensor '{tensor.name}': it has no rows."
        )
    low, high = shard_bounds(shard.total, comm.rank, comm.size)
    if array.shape[0] != high - low:
        raise InvalidArgumentError(
            f"Cannot feed {array.shape[0]} rows for Tensor '{tensor.name}': of a global batch of "
            f"{shard.total} rank {comm.rank} of {comm.size} holds rows {low} to {high}."
        )
    return array, (shard.total, *array.shape[1:]), Sharded(0)


def as_fed(tensor: Tensor, value: Any) -> np.ndarray:
    """A value as an array of the tensor's dtype, of any shape.

    Raises:
        InvalidArgumentError: it cannot be one.
    """
    wanted = tensor.dtype.numpy
    if tensor.dtype.is_string:
        try:
            return to_array(value, tensor.dtype)
        except GraphError:
            raise InvalidArgumentError(f"Cannot feed {value!r} for '{tensor.name}': it is no text.") from None
    if isinstance(value, np.ndarray) and value.dtype == wanted:
        return value
    if isinstance(value, TensorLike):
        raise InvalidArgumentError(
            f"Cannot feed the tensor {value!r} for '{tensor.name}': feed an array, a number or a list."
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise InvalidArgumentError(f"Cannot feed a ragged list for Tensor '{tensor.name}'.") from None
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(wanted)
    if array.dtype == object and all(isinstance(v, numbers.Real) for v in array.flat):
        # as of a table whose columns are of several dtypes
        array = np.array(array.ravel().tolist()).reshape(array.shape)
    if not _fits(array, tensor.dtype, value):
        raise InvalidArgumentError(
            f"Cannot feed value of dtype {array.dtype} for Tensor '{tensor.name}', which has dtype "
            f"{tensor.dtype.name}{built(tensor.op)}: convert it with numpy.asarray(value, "
            f"numpy.{tensor.dtype.name}) if that is meant."
        )
    return array.astype(wanted)


def check_alike(comm: Communicator, feeds: Sequence[Tensor], values: Sequence[Any]) -> None:
    """Raise on every rank where a value that should be the same on all is not. Collective.

    Raises:
        InvalidArgumentError: names the feed and a rank whose value is another.
    """
    whole = [(t, v) for t, v in zip(feeds, values, strict=True) if not isinstance(v, Shard)]
    if not whole:
        return
    sums = comm.allgather(np.array([[checksum(v) for _, v in whole]], np.int64))
    for (tensor, _), column in zip(whole, sums.T, strict=True):
        if (column != column[0]).any():
            rank = int(np.argmax(column != column[0]))
            raise InvalidArgumentError(
                f"the value fed for Tensor '{tensor.name}' is not the same on rank {rank} as on rank 0: "
                "feed next_batch's arrays, or this rank's rows as dt.Shard(rows, total), or draw the "
                "random numbers that it was made with the same on all ranks: np.random's and random's are, "
                "where no rank draws more than another; np.random.default_rng() needs a seed. A set of texts "
                "has another order in each process: sort it, or start all with PYTHONHASHSEED=0."
            ).on_every_rank()


def _fits(array: np.ndarray, dtype: DType, value: Any) -> bool:
    """Whether an array can be fed for a dtype, as in TensorFlow 1: floats lose their fractions for integers,
    and numbers that are not 0 are True.

    What lies beyond an integer dtype, or is no number at all, does not fit; nor, for a bool, a Python number
    that is neither 0 nor 1. value: what the array was made of.
    """
    if array.dtype.kind not in "fiub" or dtype.is_string:
        return False
    if dtype.is_integer and array.size and array.dtype.kind != "b":
        low, high = np.trunc(array.min()), np.trunc(array.max())  # a NaN is both
        bounds = np.iinfo(dtype.numpy)
        if not (int(bounds.min) <= low and high < int(bounds.max) + 1):
            return False
    return not dtype.is_bool or not isinstance(value, int) or value in (0, 1)
