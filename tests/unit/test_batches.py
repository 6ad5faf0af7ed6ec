"""Which rank sees which example when: every one once an epoch, the k-th batch the same for any rank count."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dtrain.comm.single import SingleCommunicator
from dtrain.data.order import epoch_order
from dtrain.ops.placement import shard_bounds
from dtrain.train.batches import batches, iterations, shard_sizes


def rank_of(rank: int, size: int) -> SingleCommunicator:
    comm = SingleCommunicator()
    comm.rank, comm.size = rank, size
    return comm


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 11])
@pytest.mark.parametrize(("examples", "batch_size"), [(range(0, 60), 10), (range(5, 108), 10), (range(3), 8)])
def test_every_example_once_and_the_kth_batch_the_same(size: int, examples: range, batch_size: int) -> None:
    order = epoch_order(3, 2, examples)
    alone = [shard.rows for shard in batches(order, batch_size, rank_of(0, 1))]
    shares = [list(batches(order, batch_size, rank_of(rank, size))) for rank in range(size)]
    assert len(alone) == iterations(examples, batch_size)
    for k, whole in enumerate(alone):
        assert {share[k].total for share in shares} == {len(whole)}
        np.testing.assert_array_equal(np.concatenate([share[k].rows for share in shares]), whole)
        lengths = [len(share[k].rows) for share in shares]
        assert max(lengths) - min(lengths) <= 1
    assert sorted(np.concatenate(alone)) == list(examples)
    assert shard_sizes(examples, batch_size, size) == [sum(len(s.rows) for s in share) for share in shares]


def test_60000_examples_on_7_ranks() -> None:
    order = epoch_order(0, 1, range(60_000))
    seen = np.concatenate([s.rows for r in range(7) for s in batches(order, 100, rank_of(r, 7))])
    np.testing.assert_array_equal(np.sort(seen), np.arange(60_000))
    assert sum(shard_sizes(range(60_000), 100, 7)) == 60_000


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(np.array_equal(a, b))

    base = epoch_order(1, 1, range(1000))
    assert same(base, epoch_order(1, 1, range(1000)))
    assert not same(base, epoch_order(1, 2, range(1000)))
    assert not same(base, epoch_order(2, 1, range(1000)))


@pytest.mark.parametrize("n", [0, 1, 5, 100])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_shards_tile(n: int, size: int) -> None:
    bounds = [shard_bounds(n, rank, size) for rank in range(size)]
    assert bounds[0][0] == 0 and bounds[-1][1] == n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
