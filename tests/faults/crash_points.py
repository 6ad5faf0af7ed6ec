"""A process that ends at each system call by which a checkpoint is committed: is the last one still there?

For each call of the protocol (open, write, flush, fsync, rename, unlink, mkdir) a child process saves a first
checkpoint, or a second, and ends by os._exit just before that call; a write is done by half. The parent
then loads what is there. What was written and not synced survives here; power_loss.py is about that.

    python tests/faults/crash_points.py
"""

from __future__ import annotations

import builtins
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dtrain import files
from dtrain.errors import CheckpointError
from dtrain.train import checkpoint

DIED = 77


class Counter:
    """Counts calls, and ends the process at one of them."""

    def __init__(self, end: int) -> None:
        self.left, self.seen = end, []

    def __call__(self, name: str) -> bool:
        self.seen.append(name)
        self.left -= 1
        return self.left == 0

    def before(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def tapped(*arguments: Any, **options: Any) -> Any:
            if self(name):
                os._exit(DIED)
            return call(*arguments, **options)

        return tapped

    def install(self) -> None:
        for name in ("open", "fsync", "replace", "unlink", "mkdir"):
            setattr(os, name, self.before(name, getattr(os, name)))
        files.open = lambda *args: Tapped(self, builtins.open(*args))  # type: ignore[attr-defined]  # noqa: SIM115


class Tapped:
    """A file whose writes and flushes count."""

    def __init__(self, counter: Counter, file: Any) -> None:
        if counter("open"):
            os._exit(DIED)
        self._counter, self._file = counter, file

    def write(self, data: Any) -> None:
        if self._counter("write"):
            self._file.write(memoryview(data)[: len(data) // 2])
            self._file.flush()
            os._exit(DIED)
        self._file.write(data)

    def flush(self) -> None:
        if self._counter("flush"):
            os._exit(DIED)
        self._file.flush()

    def fileno(self) -> int:
        return int(self._file.fileno())

    def __enter__(self) -> Tapped:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def save(run: Path, step: int) -> None:
    checkpoint.save(run, step, {"a": np.full(1000, step, np.float32), "b": np.array(step)}, {"about": step})
    checkpoint.prune(run, step, keep=1)


def newest(run: Path) -> int:
    """The step of the checkpoint that loads, whole; 0 for none."""
    try:
        found = checkpoint.load(run)
    except CheckpointError:
        return 0
    whole = (found.values["a"] == found.step).all() and found.values["b"] == found.manifest[
        "about"
    ] == found.step
    return found.step if whole else -1


def main() -> int:
    points, lost, later = 0, 0, 0
    for first in (True, False):
        end = 1
        while True:
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder)
                if not first:
                    save(run, 1)
                child = os.fork()
                if child == 0:
                    counter = Counter(end)
                    counter.install()
                    save(run, 2)
                    os._exit(0)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if code == 0:
                    break
                assert code == DIED, code
                found = newest(run)
                lost += found not in ((0, 2) if first else (1, 2))
                save(run, 3)  # and the run goes on
                lost += newest(run) != 3 or len(os.listdir(run / checkpoint.FOLDER)) != 2
                later += found == 2
            points, end = points + 1, end + 1
    print(f"{points} points, {lost} lost; at {later} the new checkpoint was there already")
    return int(lost > 0 or points < 40)


if __name__ == "__main__":
    sys.exit(main())
