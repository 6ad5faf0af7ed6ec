"""Ranks as threads of one process: what N ranks compute, without MPI."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dtrain.comm import Communicator

#: Seconds after which a rank that waits for the others gives up; they never come.
PATIENCE = 20.0


class ThreadCommunicator(Communicator):
    """One thread of several. Unlike MPI it notices ranks that are not in the same collective."""

    hosts: tuple[str, ...]

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, board: list[Any]) -> None:
        super().__init__()
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = rank, size
        self.hosts = tuple(f"n{r}" for r in range(size))
        self.calls: list[tuple[Any, ...]] = []
        self._barrier, self._board = barrier, board

    def _exchange(self, tag: tuple[Any, ...], value: np.ndarray) -> list[np.ndarray]:
        self.calls.append(tag)
        self._board[self.rank] = (tag, value)
        self._barrier.wait()
        tags, values = zip(*self._board, strict=True)
        self._barrier.wait()
        assert all(t == tag for t in tags), f"the ranks are in different collectives: {tags}"
        return list(values)

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        assert array.flags.c_contiguous
        function = {"sum": np.add, "min": np.minimum, "max": np.maximum}[op]
        parts = self._exchange(("allreduce", op, array.shape, array.dtype), array.copy())
        array[...] = functools.reduce(function, parts)

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        assert array.flags.c_contiguous
        array[...] = self._exchange(("broadcast", root, array.shape, array.dtype), array.copy())[root]

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        return np.concatenate(self._exchange(("allgather", array.shape[1:], array.dtype), array.copy()))

    def abort(self, exit_code: int) -> None:
        self._barrier.abort()


def run_on_threads(size: int, body: Callable[[Communicator], Any]) -> list[Any]:
    """body(comm) on `size` ranks at once; what each returned, in rank order. Raises what the first raised."""
    barrier, board = threading.Barrier(size, timeout=PATIENCE), [None] * size
    results: list[Any] = [None] * size
    errors: dict[int, BaseException] = {}

    def rank(r: int) -> None:
        try:
            results[r] = body(ThreadCommunicator(r, size, barrier, board))
        except BaseException as error:
            errors[r] = error
            barrier.abort()

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors.values(), key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return results


@pytest.fixture(scope="session")
def on_threads() -> Callable[..., list[Any]]:
    """on_threads(size, body): body(comm) on that many ranks, which are threads."""
    return run_on_threads
