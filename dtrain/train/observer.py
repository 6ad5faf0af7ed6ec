"""What may follow a run: the protocol, and several observers as if they were one.

An observer is a class in a file of its own: Report prints, TensorBoard writes event files, RankLog keeps what
each rank says, Following calls Keras's callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dtrain.errors import RanksLost

if TYPE_CHECKING:
    from dtrain.train.state import Progress


#: Of the loss's sum, the metrics' sums and their number of examples.
Results = Callable[[float, Sequence[Any], int], dict[str, float]]


class Observer:
    """Follows a run. Every method is called on every rank, in this order, and does nothing by default.

    A method may be collective if it is so on all ranks. Rank 0 writes.
    """

    #: Whether the call that is in work is the last; the same on all ranks.
    stops = False

    def follow(self, results: Results) -> None:
        """Once, before all else: what gives the mean loss and the metrics, by name, of sums over examples."""
        self.results = results

    def header(self, **facts: Any) -> None:
        """Once, before the first step: what runs where."""

    def epoch_begin(self, epoch: int) -> None:
        """Before the steps of an epoch, also where the run was resumed within it."""

    def batch_begin(self, number: int, examples: int) -> None:
        """Before each call that takes steps: the number of its first in the epoch, from 0, and its batch."""

    def iteration(self, epoch: int, iteration: int, loss: float, sums: Sequence[Any], examples: int) -> None:
        """After each step; epochs and their iterations are numbered from 1. It has to be cheap.

        loss: the mean. sums: over the step's examples, of what the metrics follow from by `results`.
        """

    def batch_end(self, at: Progress) -> None:
        """After each call that takes steps."""

    def epoch(self, **facts: Any) -> None:
        """After each epoch and its evaluation."""

    def lost(self, **facts: Any) -> None:
        """Ranks have died, the others continue: the communicator is smaller, this rank perhaps rank 0 now.

        Who writes takes over. Not collective.
        """

    def profile(self, **facts: Any) -> None:
        """Once, before done, where steps were recorded: where their time went."""

    def done(self, **facts: Any) -> None:
        """Once, after the last epoch; not where the run failed."""

    def close(self) -> None:
        """At the end, whatever it was. Not collective."""


def _to_each(event: str) -> Any:
    """The method of Observers that passes an event on."""

    def method(self: Observers, *arguments: Any, **facts: Any) -> None:
        for observer in self._observers:
            getattr(observer, event)(*arguments, **facts)

    return method


class Observers(Observer):
    """Passes each event on to several observers in their order; `with` closes them, the last one first.

    An epoch is passed on to all, also where ranks die over one of them: it is not passed on again.
    """

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        #: Those that follow each step.
        self._close = [o for o in observers if type(o).iteration is not Observer.iteration]

    @property
    def stops(self) -> bool:  # type: ignore[override]  # of all
        return any(observer.stops for observer in self._observers)

    follow, header, epoch_begin = map(_to_each, ("follow", "header", "epoch_begin"))
    batch_begin, batch_end = map(_to_each, ("batch_begin", "batch_end"))
    lost, profile, done = map(_to_each, ("lost", "profile", "done"))

    def iteration(self, epoch: int, iteration: int, loss: float, sums: Sequence[Any], examples: int) -> None:
        for observer in self._close:
            observer.iteration(epoch, iteration, loss, sums, examples)

    def epoch(self, **facts: Any) -> None:
        lost: RanksLost | None = None
        for observer in self._observers:
            try:
                observer.epoch(**facts)
            except RanksLost as error:
                lost = error
        if lost is not None:
            raise lost

    def close(self) -> None:
        with ExitStack() as stack:  # one that fails leaves the others closed
            for observer in self._observers:
                stack.callback(observer.close)

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
