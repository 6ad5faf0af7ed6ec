"""Several steps in one call: of a plan whose kernels are all C, nothing but kernels runs between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.ops.check import NotFinite
from dtrain.runtime.session import Session, Shard


class Window:
    """This rank's rows of several global batches of one size, to feed one a step.

    rows: array whose axis 0 counts the steps and axis 1 the rows of a batch that a Shard would have; all rows
        where there are fewer than ranks.
    total: number of entries of each batch over all ranks.
    """

    __slots__ = ("rows", "total")

    def __init__(self, rows: np.ndarray, total: int) -> None:
        self.rows, self.total = rows, total

    def __len__(self) -> int:
        return len(self.rows)

    def feed(self, step: int) -> Any:
        """What a step is fed: the whole batch where this rank has it, as then all do."""
        rows = self.rows[step]
        return rows if len(rows) == self.total else Shard(rows, self.total)


class Loop:
    """A function like that of Session.make_callable which takes a step for each batch of a Window.

    Its first argument is the Window, the others are fed alike in all steps. It ends behind a step in which
    `until`, one of the fetches where it is given, is not 0. Returns the values of the fetches of each step
    that it took. On several ranks all give windows of the same length.

    Args:
        fetches: tensors and operations.
        feed_list: what the arguments are fed to.
        step: takes a single step, as session.make_callable(fetches, feed_list) does, which it is by default.
    """

    def __init__(
        self,
        session: Session,
        fetches: Sequence[Any],
        feed_list: Sequence[Any],
        until: Any = None,
        step: Callable[..., Any] | None = None,
    ) -> None:
        self._session = session
        self._step = step or session.make_callable(fetches, feed_list)
        self._until = None if until is None else list(fetches).index(until)
        self._feeds = len(feed_list)

    def __call__(self, window: Window, *values: Any) -> list[list[Any]]:
        results: list[list[Any]] = []
        while len(results) < len(window) and not self._ends(results):
            with self._session.lock:  # the next steps go on from the plan, and the feeds, of the first
                # which is one as any other: it compiles, and looks at what it is fed
                results.append(self._step(window.feed(len(results)), *values))
                if len(results) < len(window) and not self._ends(results):
                    results += self._several(window.rows[len(results) :], results[0])
        return results

    def _ends(self, results: list[list[Any]]) -> bool:
        """Whether the last step so far is one to end behind."""
        return bool(results and self._until is not None and results[-1][self._until])

    def _several(self, rows: np.ndarray, like: list[Any]) -> list[list[Any]]:
        """Results of the next steps in one call, none where that cannot be; they may end before the rows.

        rows: of the steps. like: the results of one.
        """
        plan = self._session.latest
        fetched = [i for i, value in enumerate(like) if value is not None]
        until = None if self._until is None else fetched.index(self._until)
        # a step in the middle of a call cannot be undone
        if self._session.profiler is not None or plan is None or plan.early or not plan.repeats(until):
            return []
        with plan:
            try:
                taken = plan.run_steps(len(rows), [rows, *[None] * (self._feeds - 1)], until)
            except NotFinite as stopped:  # the session takes that step by itself
                self._session.lower_scales(plan, stopped.values)
                taken = stopped.results
        self._session.count_updates(plan, len(taken[0]))
        results = []
        for one in zip(*taken, strict=True):
            result: list[Any] = [None] * len(like)
            for i, value in zip(fetched, one, strict=True):
                result[i] = value
            results.append(result)
        return results
