"""Summing among the ranks of one node through memory that they share: no message, and no copy.

A bucket has an input for each rank and one output for all. Each rank's kernels write its input; at the sum
each rank adds up its own slice of all the inputs, straight from its neighbours' memory, into that slice of
the output; then all read the output. Two barriers make it right: nobody adds before all have written, and
nobody reads before all have added. The next sum cannot overwrite an output that is still read, since its
first barrier comes after every rank's reading.

Waiting ranks hand their core over, which MPI's own waiting does not: with more ranks than cores that is most
of the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.comm.board import TAG_BITS, Board
from dtrain.comm.monitor import TAG, shared_files, unlink
from dtrain.errors import UsageError
from dtrain.poison import poison

#: Bytes between what different ranks write: no two share a cache line, nor a pair that is fetched together.
LINE = 128

#: Looks at a neighbour's word before a rank that has a core of its own hands it over.
SPINS = 2_000
#: Seconds that a wait in C lasts before Python may see to signals.
PATIENCE = 0.05

_hand_over: Callable[[], Any] = getattr(os, "sched_yield", lambda: None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def padded(nbytes: int) -> int:
    """nbytes rounded up to whole lines."""
    return -(-nbytes // LINE) * LINE


def part(n: int, itemsize: int, rank: int, size: int) -> tuple[int, int]:
    """Half-open range of rank's share of n entries, in whole lines: no two ranks write to one."""
    step = LINE // itemsize
    lines = -(-n // step)
    return min(lines * rank // size * step, n), min(lines * (rank + 1) // size * step, n)


def add_up(terms: Sequence[np.ndarray], out: np.ndarray) -> None:
    """out = the terms, two or more, from the first to the last."""
    np.add(terms[0], terms[1], out=out)
    for term in terms[2:]:
        np.add(out, term, out=out)


def room(folder: str = "/dev/shm") -> int:
    """Bytes free where shared memory comes from; enough, where that cannot be asked."""
    try:
        stat = os.statvfs(folder)
    except (OSError, AttributeError):
        return 1 << 62
    return stat.f_bavail * stat.f_frsize


def forget_files() -> None:
    """Unlink the files of the shared memory that this process has mapped; the memory stays as it is.

    MPI libraries unlink them when they finalize, so a killed job leaves megabytes in /dev/shm for ever. Every
    rank of the node must have mapped them before.
    """
    unlink(shared_files(os.getpid()))


class SharedMemory:
    """A window of MPI's shared memory on one node; collective over its ranks, each giving its own size.

    segments: every rank's bytes; what they hold is defined only where they are to be zeroed.
    nbytes: of rank 0's. free: whether this rank is done with it.
    """

    free = False

    def __init__(self, mpi: Any, node: Any, nbytes: int, zeroed: bool = False) -> None:
        self._window = mpi.Win.Allocate_shared(padded(nbytes), 1, comm=node)
        self._window.Lock_all()  # sync() is only allowed in an access epoch
        buffers = (self._window.Shared_query(rank)[0] for rank in range(node.size))
        self.segments = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
        self.segments[node.rank].fill(0)  # so each rank's pages are near it
        if not zeroed:
            poison(self.segments[node.rank])
        self.nbytes = self.segments[0].size
        self.sync: Callable[[], None] = self._window.Sync
        node.Barrier()

    def holds(self, array: np.ndarray) -> bool:
        """Whether an array lies in rank 0's bytes."""
        return bool(np.may_share_memory(self.segments[0], array))

    def end(self) -> None:
        """Give the memory back to the system; collective."""
        self.segments.clear()
        self._window.Unlock_all()
        self._window.Free()


class SharedBarrier:
    """A barrier among the ranks of a node: each counts up its own word and waits until the others' follow.

    The low bits of a word say what the barrier is for, so that ranks in different calls find that out before
    they exchange anything, at no cost.

    board: where both say that this rank waits.
    words: what the same barrier in C (native/kernels.c) is called with; both count on the same words.
    """

    def __init__(self, mpi: Any, node: Any, clock: np.ndarray, board: Board) -> None:
        self._board = board
        self.memory = SharedMemory(mpi, node, LINE, zeroed=True)
        segments = list(self.memory.segments)
        words = [segment[:8].data.cast("q") for segment in segments]
        self._mine = words.pop(node.rank)
        self._others = words
        mine = segments.pop(node.rank)
        others = np.array([s.ctypes.data for s in segments], np.uintp)
        spins = SPINS if node.size <= _cores() else 0
        self.words = (
            *(mine, others, len(segments), board.waits, spins, PATIENCE, clock, board.arrivals),
            board.tag,
        )

    def __call__(self, kind: int = 0) -> None:
        """kind: of the collective that the ranks meet for, an index of monitor.KINDS.

        Raises:
            UsageError: another rank is here for something else.
        """
        here = ((self._mine[0] >> TAG_BITS) + 1) << TAG_BITS | self._board.row[TAG] ^ kind
        self._board.enter(kind)
        self.memory.sync()
        self._mine[0] = here
        for word in self._others:
            while (there := word[0]) >> TAG_BITS < here >> TAG_BITS:
                _hand_over()
            # who has continued has seen this rank's word, and is further
            if there >> TAG_BITS == here >> TAG_BITS and there != here:
                raise UsageError(self._board.different_calls())
        self.memory.sync()
        self._board.leave()

    def end(self) -> None:
        """Give the memory back to the system; collective."""
        self._mine.release()
        for word in self._others:
            word.release()
        self.memory.end()


#: What each rank's part of a bucket begins at a multiple of: see ops/memory.STAGGER.
PAGE = 4096


class SharedBucket:
    """Memory for one bucket on one node.

    input: this rank's bytes to sum. output: the sum's, the same memory on all ranks of the node.
    free: whether this rank is done with it.
    """

    free = False

    def __init__(self, mpi: Any, node: Any, nbytes: int) -> None:
        # the output lies after rank 0's input
        self.nbytes = nbytes
        whole = -(-nbytes // PAGE) * PAGE
        self.memory = SharedMemory(mpi, node, whole * (2 if node.rank == 0 else 1))
        self._inputs = [segment[:nbytes] for segment in self.memory.segments]
        self.input = self._inputs[node.rank]
        self.output = self.memory.segments[0][whole : whole + nbytes]

    def holds(self, array: np.ndarray) -> bool:
        """Whether an array lies in this rank's input."""
        return bool(np.may_share_memory(self.input, array))

    def terms(
        self, source: np.ndarray, shapes: Sequence[tuple[int, ...]] | None = None
    ) -> list[np.ndarray] | None:
        """What each rank has where this one has `source`; None where that is not in its input.

        shapes: each rank's, where they differ.
        """
        start = source.ctypes.data - self.input.ctypes.data
        if not 0 <= start <= start + source.nbytes <= self.input.size:
            return None
        return [
            np.ndarray(shape, source.dtype, whole, start)
            for whole, shape in zip(self._inputs, shapes or [source.shape] * len(self._inputs), strict=True)
        ]

    def end(self) -> None:
        """Give the memory back to the system; collective."""
        self._inputs.clear()
        self.memory.end()
