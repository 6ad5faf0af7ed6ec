"""Which examples belong to which batch and rank: a pure function of (seed, epoch), with no state to lose."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.session import Shard


def epoch_order(seed: int, epoch: int, examples: range) -> np.ndarray:
    """The examples in the order that an epoch uses them, int32; the same for every number of ranks."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return (generator.permutation(len(examples)) + examples.start).astype(np.int32)


def batches(order: np.ndarray, batch_size: int, comm: Communicator) -> Iterator[Shard]:
    """This rank's share of each global batch; the last one is shorter where batch_size does not divide."""
    for start in range(0, len(order), batch_size):
        total = min(batch_size, len(order) - start)
        low, high = shard_bounds(total, comm.rank, comm.size)
        yield Shard(order[start + low : start + high], total)


def iterations(examples: range, batch_size: int) -> int:
    """Batches of one epoch."""
    return -(-len(examples) // batch_size)
