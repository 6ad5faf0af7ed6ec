"""The one place of dt.keras that knows ranks: what is printed, written, read and decided is rank 0's."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import CheckpointError, EnvironmentProblem, UsageError
from dtrain.runtime.batch import checksum
from dtrain.train.checkpoint import write_atomically


class RankZero:
    """Speaks, writes, reads and decides for all ranks.

    What only says or writes takes no other rank, so that a program may have it done on rank 0 alone; an error
    there ends all. Every method that gives the ranks something is collective.
    """

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._speaks = comm.rank == 0

    def says(self, text: str, end: str = "\n", by: Callable[[str], object] | None = None) -> None:
        """Print a line, or hand it to another function than print."""
        if self._speaks and by is not None:
            by(text)
        elif self._speaks:
            sys.stdout.write(text + end)
            sys.stdout.flush()

    def warns(self, text: str) -> None:
        """Warn of something in the call of a user's program, once."""
        if self._speaks:
            warnings.warn(text, stacklevel=4)

    def writes(self, path: str | os.PathLike[str], data: bytes) -> None:
        """Put a file in place of one of this name, whole or not at all; its folder is made.

        Raises:
            EnvironmentProblem: it cannot be written.
        """
        self._touches(Path(path), lambda p: write_atomically(p, data))

    def appends(self, path: str | os.PathLike[str], text: str) -> None:
        """Add text to a file; raises EnvironmentProblem where that cannot be."""

        def append(path: Path) -> None:
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(text)

        self._touches(Path(path), append)

    def _touches(self, path: Path, work: Callable[[Path], None]) -> None:
        if self._speaks:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                work(path)
            except OSError as error:
                raise EnvironmentProblem(
                    f"{path} cannot be written: {error.strerror or error}. Give another path."
                ) from None

    def reads(self, path: str | os.PathLike[str]) -> bytes:
        """A file's content, on every rank; raises CheckpointError where it cannot be read."""
        data = b""
        with self._comm.together():
            if self._speaks:
                try:
                    data = Path(path).read_bytes()
                except OSError as error:
                    raise CheckpointError(
                        f"{path} cannot be read: {error.strerror or error}. Give the path that save() was "
                        "given."
                    ) from None
        length = self._comm.broadcast(np.array([len(data)], np.int64))
        buffer = np.empty(int(length[0]), np.uint8)
        if self._speaks:
            buffer[:] = np.frombuffer(data, np.uint8)
        return self._comm.broadcast(buffer).tobytes() if buffer.size else b""

    def finds(self, path: str | os.PathLike[str]) -> bool:
        """Whether there is a file with something in it: what rank 0 sees, and False on the others."""
        return self._speaks and os.path.isfile(path) and os.path.getsize(path) > 0

    def decides(self, values: Sequence[float]) -> list[float]:
        """Rank 0's numbers, on every rank: a decision made of them is the same on all."""
        return [float(v) for v in self._comm.broadcast(np.array(values, np.float64))] if len(values) else []

    def agrees(self, what: str, arrays: dict[str, np.ndarray]) -> None:
        """Raise on every rank where an array is not the same on all, naming it."""
        if self._comm.size == 1:
            return
        sums = self._comm.allgather(np.array([[checksum(a) for a in arrays.values()]], np.int64))
        for name, column in zip(arrays, sums.T, strict=True):
            if (column != column[0]).any():
                error = UsageError(
                    f"{what}: {name} is not the same on rank {int(np.argmax(column != column[0]))} as on "
                    "rank 0: give every rank the same, all of an array and not a slice, since each computes "
                    "its part of a batch; where it is drawn or shuffled, by a generator seeded alike: "
                    "np.random's is, np.random.default_rng() needs a seed."
                )
                error.agreed = True
                raise error
