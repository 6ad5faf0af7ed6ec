"""The one place of dt.keras that knows ranks: what is printed, written, read and decided is rank 0's."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.data.ahead import sampled
from dtrain.errors import CheckpointError, DamagedError, EnvironmentProblem, UsageError
from dtrain.files import write_atomically
from dtrain.runtime.batch import checksum
from dtrain.train import checkpoint
from dtrain.train.checkpoint import open_values, write_values


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

    def _touches(self, path: Path, work: Callable[[Path], object]) -> None:
        if self._speaks:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                work(path)
            except OSError as error:
                raise EnvironmentProblem(
                    f"{path} cannot be written: {error.strerror or error}. Give another path."
                ) from None

    def saves(self, path: str | os.PathLike[str], values: Mapping[str, np.ndarray], about: str) -> None:
        """Write a file of values and a text beside them; raises EnvironmentProblem where that cannot be."""
        self._touches(Path(path), lambda p: write_values(p, values, about))

    def reads(self, path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], str]:
        """What saves() wrote, on every rank; of a run directory the newest values, and no text.

        Raises:
            CheckpointError: it cannot be read.
        """
        values, about = dict[str, np.ndarray](), ""
        with self._comm.together():
            if self._speaks and os.path.isdir(path):
                values = checkpoint.load(Path(path)).values
            elif self._speaks:
                try:
                    with open_values(Path(path).resolve() if os.path.islink(path) else Path(path)) as file:
                        values, about = {name: file.read(name) for name in file.specs}, file.about
                except DamagedError as error:
                    raise CheckpointError(f"{error} Give a file that save() wrote.") from None
        kinds = [(name, value.dtype.name, value.shape) for name, value in values.items()]
        about, kinds = self._comm.broadcast_data([about, kinds])
        for name, dtype, shape in kinds:
            value = values.setdefault(name, np.empty(shape, dtype))
            self._comm.broadcast(value.reshape(-1).view(np.uint8))  # MPI knows bytes, not every dtype
        return values, about

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
        sums = self._comm.allgather(np.array([[_sum(a) for a in arrays.values()]], np.int64))
        for name, column in zip(arrays, sums.T, strict=True):
            if (column != column[0]).any():
                raise UsageError(
                    f"{what}: {name} is not the same on rank {int(np.argmax(column != column[0]))} as on "
                    "rank 0: give every rank the same, all of an array and not a slice, since each computes "
                    "its part of a batch; where it is drawn or shuffled, by a generator with the same seed: "
                    "np.random's is, np.random.default_rng() needs a seed."
                ).on_every_rank()


def _sum(array: np.ndarray) -> int:
    """A number that differs where arrays differ; of large ones some rows and how many there are count."""
    return checksum(sampled(array)) + (len(array) if array.ndim else 0)
