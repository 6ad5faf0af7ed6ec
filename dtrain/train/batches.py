"""Which examples of an order belong to which batch and rank: a pure function, with no state to lose.

Rows of a large set in mapped files are asked for ahead of the batches that use them (data/ahead.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.data.ahead import Ahead
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.feeds import Shard, Window


class Order(Protocol):
    """Rows in the order that they are used in: an array of them, or what gives a part of them as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def batches(order: Order, batch_size: int, comm: Communicator) -> Iterator[Shard]:
    """This rank's share of each global batch; the last one is shorter where batch_size does not divide."""
    with Ahead(order, comm) as ahead:
        for start in range(0, len(order), batch_size):
            total = min(batch_size, len(order) - start)
            low, high = shard_bounds(total, comm.rank, comm.size)
            ahead.at(start)
            yield Shard(order[start + low : start + high], total)


def windows(
    order: Order, batch_size: int, comm: Communicator, steps: Callable[[], int], start: int = 0
) -> Generator[Window]:
    """batches, several in one Window: as many as steps() says, and as are of one size.

    A batch of fewer examples than ranks each rank has whole: it could not be split among all.
    start: how many of the rows were used before.
    """
    with Ahead(order, comm) as ahead:
        while start < len(order):
            total = min(batch_size, len(order) - start)
            count = min(steps(), (len(order) - start) // total)
            low, high = shard_bounds(total, comm.rank, comm.size) if total >= comm.size else (0, total)
            rows = order[start : start + count * total].reshape(count, total)
            ahead.at(start)
            yield Window(rows[:, low:high], total)
            start += count * total


class Pace:
    """How many steps a call takes: as many as take some hundredths of a second, the same on all ranks.

    Between two calls a rank sees to signals, and says how far it is. Called before each; one step each until
    enough were measured. A step by itself may take a device several times as long as one among others, so
    some calls of several are measured, too. Where ranks may die each is alone in its call: those before it
    in one would be done.
    """

    SECONDS, MOST, LOOKS, MORE = 0.03, 1000, 8, 4

    def __init__(self, comm: Communicator, most: int = 0) -> None:
        self._comm, self._most = comm, most or self.MOST
        self._times: list[float] = []  # of a step, in each call that was measured
        self._begun = 0.0
        self._steps = 1
        self._fixed = most == 1 or comm.elastic

    def __call__(self, taken: int) -> int:
        """taken: the steps of the call before."""
        if self._fixed:
            return self._steps
        now, before = time.perf_counter(), self._begun
        self._begun = now
        if before and taken:
            self._times.append((now - before) / taken)
            if len(self._times) >= self.LOOKS:
                more = self._times[self.LOOKS :]  # the least: between two calls may be a test, or a save
                own = min([float(np.median(self._times[: self.LOOKS])), *more])
                each = self._comm.broadcast(np.array([own]))[0]
                self._steps = int(np.clip(self.SECONDS / each, 1, self._most))
            self._fixed = len(self._times) == self.LOOKS + self.MORE
        return self._steps


def iterations(examples: range, batch_size: int) -> int:
    """Batches of one epoch."""
    return -(-len(examples) // batch_size)


def shard_sizes(examples: range, batch_size: int, ranks: int) -> list[int]:
    """How many examples each rank works on in an epoch."""
    sizes = np.zeros(ranks, np.int64)
    for total, count in (
        (batch_size, len(examples) // batch_size),
        (len(examples) % batch_size, 1),
    ):
        for rank in range(ranks):
            low, high = shard_bounds(total, rank, ranks)
            sizes[rank] += (high - low) * count
    return [int(s) for s in sizes]
