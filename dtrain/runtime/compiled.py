"""Taking a step: what Session.make_callable returns, for one step or several in a call.

Of a plan whose kernels are all C or CUDA, nothing but kernels runs between the steps of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from dtrain.errors import RanksLost
from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.graph_def import DECIDERS
from dtrain.ops.check import NotFinite
from dtrain.ops.sources import SOURCES
from dtrain.ops.state import VariableOp
from dtrain.passes.prune import needed_by
from dtrain.runtime.collection import paused
from dtrain.runtime.feeds import Shard, Window, accept, as_fed, check_alike
from dtrain.runtime.plan import Plan
from dtrain.runtime.taking import Taking

if TYPE_CHECKING:
    from dtrain.runtime.session import Session

#: Fetches that the name of a call has, at most.
MOST_NAMED = 3
#: What runs of so many fetches take is remembered.
MOST_TAKINGS = 256


class CompiledStep:
    """Fetches of a session as a function of the feeds' values, which takes a step; collective as Session.run.

    Its plans, one for each set of shapes that it is fed, are kept by the session, for others of the same
    fetches and feeds.

    Args:
        fetches: tensors, variables, operations or names, or lists, tuples and dicts of them.
        feed_list: what the values are fed to, in their order.

    Attributes:
        keeps: the session, where it is to live as long as this does; a session's own steps leave it None.
    """

    keeps: Session | None = None

    def __init__(self, session: Session, fetches: Any, feed_list: Sequence[Any] = ()) -> None:
        self._of, self._given = ref(session), (fetches, feed_list)
        leaves: list[Any] = []
        self._rebuild = _flatten(fetches, leaves)
        self._elements = elements = [session.element(leaf) for leaf in leaves]
        self._tensors = tuple(e for e in elements if isinstance(e, Tensor))
        self._targets = tuple(e for e in elements if isinstance(e, Operation))
        self._given_feeds = self._feeds = tuple(session.feed_tensor(feed) for feed in feed_list)
        #: What is fed besides: the next elements of the graph's data sets and queues.
        self._taking: Taking | None = None
        if SOURCES in session.graph.kept:
            key = (self._tensors, self._targets, self._feeds)
            if key not in session.takings:
                if len(session.takings) >= MOST_TAKINGS:
                    session.takings.clear()
                needed = needed_by(self._tensors, self._targets, self._feeds)
                session.takings[key] = Taking(session.graph, needed, self._feeds)
            if taking := session.takings[key]:
                self._taking, self._feeds = taking, (*self._feeds, *taking.tensors)
                self._tensors = (*self._tensors, *taking.fetched)
        place = {t: i for i, t in enumerate(self._tensors)}
        self._places = [place[e] if isinstance(e, Tensor) else None for e in elements]
        variables = [t.op.name for t in self._tensors if isinstance(t.op.kind, VariableOp)]
        #: Names of the variables, where they are all that is fetched: each rank can read them by itself.
        self._reads = variables if len(variables) == len(elements) and not self._feeds else None

    @property
    def _session(self) -> Session:
        session = self._of()
        assert session is not None
        return session

    def __call__(self, *values: Any) -> Any:
        """The fetches of a step, in their structure, with None for operations.

        values: of each feed: an array, a Shard or a Batch.
        """
        session = self._session
        session.check_open()
        if self._reads is not None and session.profiler is None:
            return self._result(session.variables.read(self._reads))
        if not session.comm.is_its_thread:
            if any(isinstance(value, Shard) for value in values):
                session.comm.check_thread()  # the other rows are other ranks'
            return session.reader().make_callable(*self._given)(*values)
        taking = self._taking
        if taking is None:
            return self._result(self._take(values)[0])
        feeds = dict(zip(self._given_feeds, values, strict=True))
        results = self._take((*values, *taking.values(session, feeds)))[0]
        if taking.fetched:
            taking.put(session, results[-len(taking.fetched) :])
        return self._result(results)

    def several(self, window: Window, *values: Any, until: Any = None) -> list[Any]:
        """Take a step for each batch of a window; what a call would return, of each step taken.

        On several ranks all give windows of the same length.

        Args:
            window: what the first feed is given, a batch in each step.
            values: of the other feeds, the same in all steps.
            until: one of the fetches, a number; a step in which it is not 0 is the last.
        """
        session = self._session
        session.check_open()
        session.comm.check_thread()
        window = Window(as_fed(self._feeds[0], window.rows), window.total)
        last = None if until is None else self._tensors.index(session.element(until))
        number = session.comm.board.number  # of the step, where other ranks see it
        begun, taken = int(number[0]), list[list[Any]]()
        while len(taken) < len(window) and not (taken and last is not None and taken[-1][last]):
            first = len(taken)
            number[0] = begun + first
            taken += self._take((window.feed(first), *values), window.rows[first:], last)
        return [self._result(results) for results in taken]

    def _result(self, results: Sequence[Any]) -> Any:
        """What the tensors gave, in the structure of the fetches."""
        return self._rebuild([None if p is None else results[p] for p in self._places])

    def _take(
        self, values: Sequence[Any], rows: np.ndarray | None = None, until: int | None = None
    ) -> list[list[Any]]:
        """Take a step, or several, and return what the tensors gave in each.

        rows: what the first feed is given in this step and the next ones, if more than one may be taken.
        until: which of the tensors ends the call where it is not 0.
        """
        session = self._session
        arrays, specs = accept(session.comm, self._feeds, values)  # may run the caller's code: not locked
        deciders = session.graph.kept.get(DECIDERS)
        if deciders:  # a plan is for their values
            specs = tuple(
                (*spec, array.item()) if feed in deciders and array.ndim == 0 else spec
                for feed, array, spec in zip(self._feeds, arrays, specs, strict=True)
            )
        key = (self._tensors, self._targets, self._feeds, specs)
        with session.lock:
            session.backend.use()  # this thread may be new
            plan = session.plan(key, partial(self._plan, specs))
            session.variables.require(plan.required)
            try:
                with plan:
                    if session.comm.size > 1:
                        plan.runs += 1
                        # the first run, the second, the fourth, ...: cheap, and soon enough to notice data
                        # that each rank shuffles for itself
                        if not plan.runs & (plan.runs - 1):
                            check_alike(session.comm, self._feeds, values)
                    taken = self._run(plan, arrays, rows, until)
            except NotFinite:
                taken = [self._take_anyway(plan, self._plan(specs, look=False), arrays)]
            session.variables.initialized.update(plan.assigned)
            with suppress(RanksLost):  # the steps are done: the next collective reports it
                session.count_updates(len(taken) * plan.updates)
        return taken

    def _plan(self, specs: Sequence[Any], look: bool = True) -> Plan:
        """A new plan for feeds of these shapes and placements. Collective; see Session.make_plan."""
        names = ", ".join(e.name for e in self._elements[:MOST_NAMED])
        name = f"Session.run({names}{', ...' * (len(self._elements) > MOST_NAMED)})"
        with self._session.comm.call(name), paused():
            return self._session.make_plan(self._tensors, self._targets, self._feeds, specs, name, look=look)

    def _run(
        self,
        plan: Plan,
        values: Sequence[np.ndarray],
        rows: np.ndarray | None = None,
        until: int | None = None,
    ) -> list[list[Any]]:
        """_take with a plan; what its check stops is taken again with a lower loss scale.

        Raises:
            NotFinite: of a plan that warns, which has changed nothing.
        """
        session = self._session
        undone = [*plan.early, *plan.torn] if session.comm.elastic else plan.early
        # a step among others can be neither undone nor recorded
        alone = rows is None or len(rows) == 1 or bool(undone) or session.profiler is not None
        if rows is not None and not alone and plan.repeats(until):
            try:
                return plan.run_steps(rows, values, until)
            except NotFinite as stopped:
                session.numerics.lower_scales(plan, stopped.values)
                if stopped.results:
                    return stopped.results
        run = plan.run if session.profiler is None else partial(session.profiler.run, plan)
        if not (session.comm.elastic or plan.step.checked):
            return [run(values)]
        while True:
            undo = session.variables.kept(undone, session.draws)
            try:
                return [run(values)]
            except RanksLost:
                undo()
                raise
            except NotFinite:
                undo()
                session.numerics.lower_scales(plan, values)
                if plan.warns:
                    raise

    def _take_anyway(self, plan: Plan, plain: Plan, values: Sequence[np.ndarray]) -> list[Any]:
        """A step that the check of `plan` has stopped, by `plain`, which has none. Collective."""
        session = self._session

        def take() -> list[Any]:
            with plain:
                return self._run(plain, values)[0]

        results = session.numerics.take_anyway(plan, values, take, session.updates + 1)
        if not session.numerics.looks:
            session.forget_plans()
        return results


def _flatten(structure: Any, leaves: list[Any]) -> Callable[[list[Any]], Any]:
    """Collect the leaves of nested lists, tuples and dicts; returns what puts values back in their places."""
    if isinstance(structure, dict):
        parts = {key: _flatten(value, leaves) for key, value in structure.items()}
        return lambda values: {key: part(values) for key, part in parts.items()}
    if isinstance(structure, list | tuple):
        if type(structure) is list and not any(isinstance(value, dict | list | tuple) for value in structure):
            first, behind = len(leaves), len(leaves) + len(structure)
            leaves.extend(structure)
            return lambda values: values[first:behind]
        items = [_flatten(value, leaves) for value in structure]
        if hasattr(structure, "_fields"):
            return lambda values: type(structure)(*(item(values) for item in items))
        return lambda values: type(structure)(item(values) for item in items)
    position = len(leaves)
    leaves.append(structure)
    return lambda values: values[position]
