"""Saving a run beside its steps: rank 0 copies the state between two, and a thread writes the copy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dtrain.errors import CheckpointError
from dtrain.files import sync
from dtrain.ops.state import Variable
from dtrain.runtime.session import Session
from dtrain.train import checkpoint
from dtrain.train.state import Progress


class Checkpoints:
    """The checkpoints of a run. Entered, it leaves when the last is on the disk. Its methods are collective.

    Args:
        variables: what is saved of the session.
        every: steps between two checkpoints that are due(); 0 for none.
        keep: how many are kept, the newest, and besides them the one that validation found best.
        about: what the manifest says, given the progress.
    """

    def __init__(
        self,
        session: Session,
        variables: Sequence[Variable],
        run_dir: Path,
        every: int,
        keep: int,
        about: Callable[[Progress], Mapping[str, Any]],
    ) -> None:
        self._session, self._variables, self.run_dir = session, variables, run_dir
        self._every, self._keep, self._about = every, keep, about
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def due(self, at: Progress) -> bool:
        """Whether one is to be saved after this step."""
        return self._every > 0 and at.step % self._every == 0

    def ahead(self, at: Progress) -> int:
        """Steps to the next one that is due, or more than a run has."""
        return self._every - at.step % self._every if self._every else 1 << 30

    def save(self, at: Progress) -> None:
        """Save the session as it is now; waits until the one before is on the disk.

        Raises:
            CheckpointError: the one before could not be written.
        """
        with self._session.comm.together():
            if self._session.comm.rank == 0:
                self._wait()
                values = self._session.snapshot(self._variables)
                write = partial(self._write, at.step, at.best_step, values, self._about(at))
                self._thread = threading.Thread(target=self._catch, args=(write,), daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Return when the last is on the disk; raises as save does."""
        with self._session.comm.together():
            self._wait()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._wait()

    def _write(self, step: int, best: int, values: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        try:
            sync(self.run_dir / "metrics.jsonl")  # it names the epochs up to here
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CheckpointError(f"{self.run_dir / 'metrics.jsonl'} cannot be written: {error}.") from None
        checkpoint.save(self.run_dir, step, values, about)
        checkpoint.prune(self.run_dir, step, self._keep, best)

    def _catch(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
