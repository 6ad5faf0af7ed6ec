"""The engine: epochs of steps, each epoch followed by a test, and what happens around them, written once.

`dtrain train` and a Keras model's fit drive it. They differ in the network, which takes the steps, and in who
follows the run (see observer.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np

from dtrain import info, machine
from dtrain.comm.base import Communicator
from dtrain.errors import SavedAndStopped
from dtrain.runtime.feeds import Shard, Window
from dtrain.runtime.session import Session
from dtrain.train.observer import Observer
from dtrain.train.preempt import StopRequest
from dtrain.train.saving import Checkpoints
from dtrain.train.state import Progress


class Network(Protocol):
    """What an engine trains."""

    def step(self, window: Window, vote: Shard | None) -> list[tuple[float, Sequence[Any], bool]]:
        """Take a step for each batch of the window; collective.

        vote: whether this rank was asked to stop; a step after which a rank has been is the last of them.
        Returns of each step its mean loss, the metrics' sums over its examples, and whether to stop.
        """

    def results(self, loss: float, sums: Sequence[Any], examples: int) -> dict[str, float]:
        """The mean loss and each metric by its name, of sums over so many examples."""


class Engine:
    """A run from where it is to its last epoch.

    Args:
        network: takes the steps.
        source: the batches of the epoch in work, from where the run is in it, several in a window: as many as
            a call may take, which the source asks. An epoch without any ends the run.
        epochs: the number of the last.
        at: how far the run has come; it counts on, and is right whenever a collective may fail.
        events: who follows.
        test: what follows an epoch: the loss and metrics of the test by name, {} where there was none.
        tested: what that test is of: test, or validation, by which the best epoch is chosen.
        final: the test that follows the last epoch; its loss and metrics by name.
        patience: epochs without a better validation loss that end the run; 0 for no such end.
        pace: how many steps a call takes, of how many the one before took.
        checkpoints, request: where the run is saved, and what may ask it to stop; None for neither.
        resume: what resumes a run that was stopped, for its message.
        survivors: ends what is within where ranks die that the others can continue without.

    """

    def __init__(
        self,
        comm: Communicator,
        network: Network,
        source: Callable[[Progress, Callable[[], int]], Generator[Window]],
        epochs: int,
        at: Progress,
        events: Observer,
        test: Callable[[], dict[str, float]],
        pace: Callable[[int], int],
        checkpoints: Checkpoints | None = None,
        request: StopRequest | None = None,
        survivors: AbstractContextManager[Any] | None = None,
        resume: str = "",
        tested: str = "test",
        final: Callable[[], dict[str, float]] | None = None,
        patience: int = 0,
    ) -> None:
        self._comm, self._network, self._source = comm, network, source
        self._epochs, self._at, self._events, self._test, self._pace = epochs, at, events, test, pace
        self._checkpoints, self._request = checkpoints, request
        self._taken = 0  # steps of the last call
        self._survivors, self._resume = survivors or nullcontext(), resume
        self._tested, self._final, self._patience = tested, final, patience
        #: What the final test has found.
        self.found: dict[str, float] = {}
        events.follow(network.results)

    def run(self) -> None:
        """Train.

        Raises, on every rank:
            SavedAndStopped: a rank was asked to stop, and the run is saved.
        """
        while self._at.epoch <= self._epochs and not (self._events.stops or self.early):
            # where ranks die, this ends, and those left continue from `at`
            with self._survivors, closing(self._source(self._at, self._steps)) as windows:
                first = list(islice(windows, 1))
                if not first and not self._at.iteration:
                    break
                self._epoch(chain(first, windows))
        if self._checkpoints is not None:
            with self._survivors:
                self._checkpoints.finish()
        while self._final is not None and not self.found:
            self._comm.board.doing("evaluation")
            with self._survivors:
                self.found = self._final()
        self._comm.board.doing("")
        self._comm.board.step(-1)

    @property
    def early(self) -> bool:
        """Whether the validation has not been better for too long."""
        return 0 < self._patience <= self._at.stale

    def _epoch(self, windows: Iterable[Window]) -> None:
        comm, at, events = self._comm, self._at, self._events
        began, already = at.step, at.examples
        events.epoch_begin(at.epoch)
        begun, waited = time.perf_counter(), comm.seconds
        comm.board.doing("training")
        for window in windows:
            if self._checkpoints and self._checkpoints.due(at) and at.step > began:
                self._checkpoints.save(at)
            comm.board.step(at.step + 1)
            events.batch_begin(at.iteration, window.total)
            taken = self._network.step(window, self._request.vote() if self._request else None)
            for loss, sums, _ in taken:
                at.add(loss, sums, window.total)
                events.iteration(at.epoch, at.iteration, loss, sums, window.total)
            self._taken = len(taken)
            if taken[-1][2]:
                self._save_and_stop()
            events.batch_end(at)
            if events.stops:
                break
        seconds = time.perf_counter() - begun
        fraction = None  # what GPUs wait for one another by themselves nobody measures
        if comm.device_sums is None or not comm.device_sums.by_nccl:
            fraction = _mean_over_ranks((comm.seconds - waited) / seconds, comm)
        comm.board.doing("evaluation")
        tested = self._test()
        facts = {
            "epoch": at.epoch,
            **self._network.results(at.loss_sum, at.sums, at.examples),
            **{f"{self._tested}_{name}": value for name, value in tested.items()},
            "seconds": seconds,
            "images_per_second": (at.examples - already) / seconds,
            "communication_fraction": fraction,
        }
        at.finish_epoch(tested, self._tested == "validation")
        events.epoch(**facts)
        if self._checkpoints is not None:
            comm.board.doing("saving")
            self._checkpoints.save(at)

    def _steps(self) -> int:
        """How many the next call takes: not beyond a checkpoint."""
        steps = self._pace(self._taken)
        return min(steps, self._checkpoints.ahead(self._at)) if self._checkpoints else steps

    def _save_and_stop(self) -> None:
        assert self._checkpoints is not None and self._request is not None
        self._checkpoints.save(self._at)
        self._checkpoints.finish()
        signal, at = self._request.reason(), self._at
        raise SavedAndStopped(
            f"by {signal} in epoch {at.epoch} after iteration {at.iteration}, and saved. Resume it with: "
            f"{self._resume}"
        ).on_every_rank()


def about_ranks(session: Session, devices: Sequence[str]) -> dict[str, Any]:
    """What of a run's header is of its ranks: software, devices, nodes. Collective."""
    comm = session.comm
    return {
        "version": info.__version__,
        "mpi": comm.library,
        "blas": machine.blas_text(),
        "averaging": comm.averaging,
        "bitwise": session.bitwise,
        "kernels": session.kernels,
        "ranks": comm.size,
        "nodes": comm.nodes,
        "devices": list(devices),
        "hosts": list(comm.hosts),
        "environment": info.environment() if comm.rank == 0 else {},
    }


def _mean_over_ranks(value: float, comm: Communicator) -> float:
    """The average of one number over the ranks."""
    return float(comm.allreduce(np.array([value]))[0] / comm.size)
