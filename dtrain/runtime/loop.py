"""Several steps in one call: of a plan whose kernels are all C, nothing but kernels runs between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.ops.check import NotFinite
from dtrain.runtime.session import Session, Shard


class Window:
    """This rank's rows of several global batches of one size, to feed one a step.

    rows: array whose axis 0 counts the steps and axis 1 the rows of a batch that a Shard would have.
    total: number of entries of each batch over all ranks.
    """

    __slots__ = ("rows", "total")

    def __init__(self, rows: np.ndarray, total: int) -> None:
        self.rows, self.total = rows, total

    def __len__(self) -> int:
        return len(self.rows)

    def shard(self, step: int) -> Shard:
        """What a step is fed."""
        return Shard(self.rows[step], self.total)


class Loop:
    """A function like that of Session.make_callable which takes a step for each batch of a Window.

    Its first argument is the Window, the others are fed alike in all steps. It ends behind a step in which
    `until`, one of the fetches, is not 0. Returns the values of the fetches of each step that it took. On
    several ranks all give windows of the same length.

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
        until: Any,
        step: Callable[..., Any] | None = None,
    ) -> None:
        self._session = session
        self._step = step or session.make_callable(fetches, feed_list)
        self._until = list(fetches).index(until)
        self._feeds = len(feed_list)

    def __call__(self, window: Window, *values: Any) -> list[list[Any]]:
        # the first step is one as any other: it compiles, and looks at what it is fed
        results = [self._step(window.shard(0), *values)]
        plan = self._session.latest
        fetched = [i for i, value in enumerate(results[0]) if value is not None]
        until = fetched.index(self._until)
        if len(window) > 1 and self._session.profiler is None and plan is not None and plan.repeats(until):
            if not results[0][self._until]:
                rows = [window.rows[1:], *[None] * (self._feeds - 1)]
                try:
                    everything = plan.run_steps(len(window) - 1, rows, until)
                except NotFinite as stopped:
                    raise self._session.not_finite(plan, stopped.values) from None
                self._session.count_updates(plan, len(everything[0]))
                for taken in zip(*everything, strict=True):
                    result = [None] * len(results[0])
                    for i, value in zip(fetched, taken, strict=True):
                        result[i] = value
                    results.append(result)
            return results
        for k in range(1, len(window)):
            if results[-1][self._until]:
                break
            results.append(self._step(window.shard(k), *values))
        return results
