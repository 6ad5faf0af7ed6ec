"""Being asked to stop: by a scheduler (SIGTERM, SIGUSR1) or by Ctrl-C, on any rank.

A signal only sets a flag. Each step feeds it as this rank's row of a batch with one row a rank; the step's
graph sums the rows, and the sum travels in the allreduce that the gradients travel in. So all ranks read the
same answer after the same step, and asking costs no message.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.comm.failure import report
from dtrain.errors import SavedAndStopped
from dtrain.runtime.feeds import Shard

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
#: Seconds within which a second SIGINT is the same key press: the terminal and mpirun both may send it.
SAME_PRESS = 0.5


def close_ears() -> None:
    """Ignore the signals in a process that ends anyway: a launcher may pass on what each rank got already."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say_and_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A program of one process that was saved ends in a sentence and with its exit code."""
    if isinstance(error, SavedAndStopped):
        sys.exit(report(error))
    sys.__excepthook__(kind, error, trace)


class StopRequest:
    """Listens for the signals while it is entered. Ctrl-C a second time raises KeyboardInterrupt at once.

    name: the signal that this rank got, '' for none.
    """

    def __init__(self, comm: Communicator) -> None:
        self.name = ""
        self._comm = comm
        self._interrupted = 0.0
        self._before: dict[int, Any] = {}
        self._rows = [np.array([vote], np.float32) for vote in (0, 1)]

    def vote(self) -> Shard:
        """This rank's row of what a step sums: whether it was asked to stop."""
        return Shard(self._rows[self.name != ""], self._comm.size)

    def reason(self) -> str:
        """The signal that the first of the ranks got that got one. Collective."""
        return next(filter(None, self._comm.gather_text(self.name)), "")

    def __enter__(self) -> StopRequest:
        if (
            self._comm.size == 1 and sys.excepthook is sys.__excepthook__
        ):  # of several ranks see comm/failure.py
            sys.excepthook = _say_and_end
        if threading.current_thread() is threading.main_thread():  # Python allows no other to do so
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted and now - self._interrupted > SAME_PRESS:
                raise KeyboardInterrupt
            if not self._interrupted and self._comm.rank == 0:
                os.write(2, b"\ndtrain: saving after this step; Ctrl-C again stops without\n")
            self._interrupted = self._interrupted or now
        self.name = self.name or signal.Signals(number).name
