"""Continuing without ranks that die.

Each collective of an elastic communicator succeeds on all survivors or fails on all, a step that fails
changes nothing (Session), and each rank has all parameters. So after a death the survivors stand at one step
with the same state: none of it has to be sent, and that step is done again, whole, by those that are left.
"""

from __future__ import annotations

import time
from types import TracebackType

import numpy as np

from dtrain.errors import RanksLost
from dtrain.runtime.session import Session
from dtrain.train.observer import Observer
from dtrain.train.saving import Checkpoints
from dtrain.train.state import Progress


class Survivors:
    """`with survivors:` ends early where ranks die in it; those left are then ready to continue from `at`.

    Args:
        at: how far the run has come; it has to be right wherever a collective may fail.
        least: ranks that may be left; with fewer the run is saved and ends.

    Raises:
        RanksLost: on all survivors, which are fewer.
    """

    def __init__(
        self,
        session: Session,
        at: Progress,
        least: int,
        checkpoints: Checkpoints,
        report: Observer,
    ) -> None:
        self._session, self._at, self._least = session, at, least
        self._checkpoints, self._report = checkpoints, report
        self._launched = session.comm.size
        self._untold: list[str] = []

    def __enter__(self) -> None:
        if self._session.comm.elastic:
            self._session.comm.board.elastic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, RanksLost):
            return False
        begun = time.perf_counter()
        while not self._recovered(begun):
            pass
        return True

    def _recovered(self, begun: float) -> bool:
        """Whether those left have met; False where more have died meanwhile."""
        comm, at = self._session.comm, self._at
        self._untold += comm.shrink()
        self._session.forget_plans()
        try:
            steps = comm.allgather(np.array([at.step]))
            assert (steps == at.step).all(), f"the survivors are not at one step: {steps}"
            self._report.lost(
                lost=list(self._untold),
                ranks=comm.size,
                epoch=at.epoch,
                iteration=at.iteration,
                step=at.step,
                seconds=time.perf_counter() - begun,
            )
            self._untold.clear()
            self._checkpoints.save(at)  # rank 0 may have died over the one before
            if comm.size < self._least:
                self._checkpoints.finish()
        except RanksLost:
            return False
        if comm.size < self._least:
            raise too_few(comm.size, self._launched, self._least, at)
        return True


def too_few(left: int, launched: int, least: int, at: Progress) -> RanksLost:
    """What ends the survivors, once they have saved the run."""
    return RanksLost(
        f"{left} of {launched} ranks {'is' if left == 1 else 'are'} left, and --min-ranks is {least}: saved "
        f"in epoch {at.epoch} after iteration {at.iteration}."
    ).on_every_rank()
