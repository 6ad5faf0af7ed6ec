"""What ranks do together they decide alike, whatever share of the batch each has, up to none of it.

Each rank is tried by itself: its collectives are written down and give what it brought alone. So a hundred
ranks need no hundred processes, and a difference is a failure where it would be a standstill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.comm.shared import part
from dtrain.keras.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from dtrain.native import compiler
from dtrain.runtime.backend import Backend
from dtrain.train.batches import batches, windows

pytestmark = pytest.mark.skipif(not compiler.command(), reason="NumPy's kernels are alike on all ranks")

EXAMPLES = 23


class Pretender(Communicator):
    """One of the ranks of a node, whose fellows all bring what it brings.

    calls: the collectives that it came to. batch: the rows of the batch at which it is.
    able: of each plan, whether it can take several steps in a call by itself; all: whether all ranks can.
    """

    batch = 0
    shares = True

    def __init__(self, rank: int, size: int, all: list[bool] | None = None) -> None:
        super().__init__()
        self.able: list[bool] = []
        self.all = all
        self.rank = self.local_rank = rank
        self.size = self.local_size = size
        self.node, self.hosts = tuple(range(size)), ("n0",) * size
        self.calls: list[Any] = []
        self.node_barrier = self
        nobody = np.zeros(0, np.uintp)
        board = self.board
        self.words = (self.clock, nobody, 0, board.waits, 0, 1.0, self.clock, board.arrivals, board.tag)
        self._blocks: list[np.ndarray] = []
        self._inputs: list[np.ndarray] = []

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        self.calls.append(("allreduce", op, array.shape, array.dtype))
        if op == "min":
            self.able.append(bool(array[0]))
            array[0] = self.able[-1] if self.all is None else self.all[len(self.able) - 1]

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        self.calls.append(("broadcast", root, array.dtype))

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        self.calls.append(("allgather", array.shape[1:], array.dtype))
        alike = np.concatenate([array] * self.size)
        if array.dtype == np.uint8 and self.batch:  # rows of a batch, of which others have more
            return np.concatenate([alike, np.zeros(1 << 20, np.uint8)])
        return alike

    def abort(self, exit_code: int) -> None:
        raise AssertionError

    def bucket(self, nbytes: int) -> tuple[np.ndarray, np.ndarray] | None:
        self.calls.append(("bucket", nbytes))
        self._inputs.append(np.zeros(nbytes, np.uint8))
        return self._inputs[-1], np.zeros(nbytes, np.uint8)

    def terms(self, source: np.ndarray, shapes: Any = None) -> list[np.ndarray] | None:
        inside = any(np.may_share_memory(i, source) for i in self._inputs)
        everyones = shapes or [source.shape] * self.size
        alike = (source if s == source.shape else np.zeros(s, source.dtype) for s in everyones)
        return list(alike) if inside else None

    def reducer(self, source: np.ndarray, output: np.ndarray) -> Callable[[], Any]:
        return lambda: self.calls.append(("sum", output.shape))

    def shared(self, nbytes: int) -> np.ndarray | None:
        self.calls.append(("shared", nbytes))
        self._blocks.append(np.zeros(nbytes, np.uint8))
        return self._blocks[-1]

    def is_shared(self, array: np.ndarray) -> bool:
        return any(np.may_share_memory(b, array) for b in self._blocks)

    def part(self, n: int, itemsize: int) -> tuple[int, int]:
        return part(n, itemsize, self.rank, self.size)

    def shared_write(self, kernel: Callable[[], Any], parts: bool, before: bool = True) -> Callable[[], Any]:
        def write() -> None:
            self.board.enter()
            self.calls.append(("write", before))
            kernel()

        return write


def dense_net(x: dt.Tensor) -> dt.Tensor:
    return Dense(5)(Dense(7, "relu")(Flatten()(x)))


def normed_net(x: dt.Tensor) -> dt.Tensor:
    x = BatchNormalization()(Dense(6, "tanh")(Flatten()(x)), training=True)
    return Dense(5)(Dropout(0.5)(x, True))


def local_net(x: dt.Tensor) -> dt.Tensor:
    return Dense(5)(BatchNormalization(synchronized=False)(Flatten()(x), training=True))


def images_net(x: dt.Tensor) -> dt.Tensor:
    return Dense(5)(Flatten()(MaxPooling2D(2)(Conv2D(3, 3, activation="relu")(x))))


def across_net(x: dt.Tensor) -> dt.Tensor:
    """A row lies in memory as a column does, so that a rank with one has other kernels than one with two."""
    across = dt.transpose(Dense(8)(Flatten()(x)))
    return Dense(5)(dt.transpose(dt.tanh(across)))


def trained(net: Callable[..., dt.Tensor], batch: int, comm: Pretender) -> list[Any]:
    """What a rank that trains and tests comes to: its collectives, and how many there were by each step."""
    dt.reset_default_graph()
    dt.set_random_seed(1)
    generator = np.random.default_rng(0)
    images = dt.constant(generator.uniform(0, 1, (EXAMPLES, 6, 6, 1)).astype(np.float32))
    classes = dt.constant(generator.integers(0, 5, EXAMPLES).astype(np.int32))
    indices = dt.placeholder("int32", [None])
    labels, logits = dt.gather(classes, indices), net(dt.gather(images, indices))
    each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    scale = dt.placeholder("float32", [])  # fed alike, so ranks compare it at the runs 1, 2, 4 ... of a plan
    loss = dt.reduce_mean(each) * scale
    right = dt.reduce_mean(dt.cast(dt.equal(dt.cast(dt.argmax(logits, 1), "int32"), labels), "float32"))
    updates = dt.get_collection(dt.GraphKeys.UPDATE_OPS)
    fetches = [loss, right, dt.group(dt.train.AdamOptimizer(0.001).minimize(loss), updates)]
    config = dt.ConfigProto(check_numerics=True)
    session = dt.Session(config=config, comm=comm, device=Backend("c"))
    session.run(dt.global_variables_initializer())
    steps = session.make_callable(fetches, [indices, scale]).several
    order = np.arange(EXAMPLES, dtype=np.int32)
    for window in windows(order, batch, comm, lambda: 4):
        comm.batch = window.total
        assert len(steps(window, 1.0)) == len(window)
        comm.calls.append(int(comm.board.arrivals[0]))
    for shard in batches(order, batch, comm):
        comm.batch = shard.total
        session.run([loss, logits, each], {indices: shard, scale: 1.0})
    return [*comm.calls, int(comm.board.arrivals[0])]


NETS = [dense_net, normed_net, local_net, images_net, across_net]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("size", "ranks", "sizes"),
    [
        (2, [0, 1], [1, 2, 3, 22]),
        (3, [0, 1, 2], [1, 2, 3, 22]),
        (7, [0, 3, 6], [1, 2, 3, 22]),  # the others have as many rows as one of them
        (101, [0, 50, 100], [2, 22]),  # none, one or two of them have a row, and most no part of a variable
    ],
)
def test_all_ranks_come_to_the_same_collectives(
    net: Callable[..., dt.Tensor], size: int, ranks: list[int], sizes: list[int]
) -> None:
    for batch in sizes:
        alone = [Pretender(rank, size) for rank in ranks]
        found = [trained(net, batch, comm) for comm in alone]
        able = [comm.able for comm in alone]
        if any(one != able[0] for one in able):
            together = [all(plan) for plan in zip(*able, strict=True)]
            found = [trained(net, batch, Pretender(rank, size, together)) for rank in ranks]
        for rank, calls in zip(ranks, found, strict=True):
            assert calls == found[0], f"batch {batch}, rank {rank}"


def test_a_rank_may_have_other_kernels_than_the_rest() -> None:
    """Of 3 rows on 2 ranks one has one: what the test above is for."""
    ranks = Pretender(0, 2), Pretender(1, 2)
    for comm in ranks:
        trained(across_net, 3, comm)
    assert [comm.able.count(True) for comm in ranks] == [2, 1]


def test_nodes_may_have_unlike_numbers_of_ranks(on_threads: Callable[..., list[Any]]) -> None:
    """Who compiles for a node is no reason to wait for the others more often than they do."""
    x = dt.placeholder("float32", [None, 3])
    y, graph = dt.reduce_sum(dt.tanh(x) * 2), dt.get_default_graph()

    def body(comm: Any) -> float:
        if comm.rank == 2:  # on a node of its own
            comm.local_rank, comm.local_size, comm.node, comm.nodes = 0, 1, (2,), 2
        else:
            comm.local_size, comm.node, comm.nodes = 2, (0, 1), 2
        session = dt.Session(graph=graph, comm=comm, device=Backend("c"))
        return session.run(y, {x: dt.Shard(np.ones((2, 3), np.float32), 6)})

    assert on_threads(3, body) == pytest.approx([36 * np.tanh(1)] * 3)
