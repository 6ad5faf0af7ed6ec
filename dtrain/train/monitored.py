"""A session that initializes or restores itself, calls hooks, saves, and stops when it is asked to.

    hooks = [dt.train.StopAtStepHook(last_step=1000)]
    with dt.train.MonitoredTrainingSession(checkpoint_dir="runs/a", hooks=hooks) as session:
        while not session.should_stop():
            session.run(train_op)

Started again, it continues from the newest checkpoint, random numbers included. With a checkpoint_dir
SIGTERM, SIGUSR1 and Ctrl-C save first. On several ranks every rank has the same hooks and makes the same
runs.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import SavedAndStopped, UsageError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import get_default_graph
from dtrain.ops.state import global_variables, global_variables_initializer
from dtrain.ops.variables import local_variables, local_variables_initializer
from dtrain.runtime.config import RunMetadata
from dtrain.runtime.session import Session
from dtrain.train.hooks import (
    CheckpointSaverHook,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
    StepCounterHook,
    SummarySaverHook,
)
from dtrain.train.preempt import StopRequest
from dtrain.train.saver import Saver, latest_checkpoint, saved_about
from dtrain.train.step_counter import get_global_step


class Scaffold:
    """What a monitored session starts with: how its variables are initialized and saved.

    By default all variables, and what is in the collection TABLE_INITIALIZERS, such as initializers of
    iterators.

    Args:
        init_op: the operation that initializes variables.
        init_feed_dict: feeds of init_op.
        init_fn: called as init_fn(scaffold, session) after init_op, where no checkpoint is restored.
        local_init_op: the operation that initializes local variables.
        summary_op: by default all summaries of the graph.
        saver: by default a Saver of all variables.
        ready_op, ready_for_local_init_op, copy_from_scaffold: only None.

    Raises:
        UsageError: an argument is not supported.
    """

    def __init__(
        self,
        init_op: Any = None,
        init_feed_dict: Mapping[Any, Any] | None = None,
        init_fn: Any = None,
        ready_op: None = None,
        ready_for_local_init_op: None = None,
        local_init_op: Any = None,
        summary_op: Any = None,
        saver: Saver | None = None,
        copy_from_scaffold: None = None,
    ) -> None:
        refused = {
            "ready_op": ready_op,
            "ready_for_local_init_op": ready_for_local_init_op,
            "copy_from_scaffold": copy_from_scaffold,
        }
        if given := ", ".join(name for name, value in refused.items() if value is not None):
            raise UsageError(f"Scaffold: {given} is not supported: every rank initializes its own.")
        self.init_op, self.init_feed_dict, self.init_fn = init_op, init_feed_dict, init_fn
        self.local_init_op, self.summary_op, self.saver = local_init_op, summary_op, saver

    def finalize(self) -> Scaffold:
        """Make what was not given, of the default graph as it is now."""
        if self.saver is None and global_variables():
            self.saver = Saver()
        return self


class ChiefSessionCreator:
    """Makes the session of a MonitoredSession, restored from a checkpoint where there is one.

    Args:
        scaffold: a Scaffold; by default one of all variables.
        master: only ''.
        config: a ConfigProto.
        checkpoint_dir: the folder whose newest checkpoint is restored, or
        checkpoint_filename_with_path: the checkpoint that is restored.
    """

    def __init__(
        self,
        scaffold: Scaffold | None = None,
        master: str = "",
        config: Any = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_filename_with_path: str | None = None,
    ) -> None:
        self.scaffold = scaffold or Scaffold()
        self._master, self._config = master, config
        self._folder = None if checkpoint_dir is None else os.fspath(checkpoint_dir)
        self._path = checkpoint_filename_with_path

    def create_session(self) -> Session:
        """A session whose variables have their values. Collective."""
        given = self.scaffold.finalize()
        graph = get_default_graph()
        initialize, local = given.init_op, given.local_init_op
        if initialize is None and global_variables():
            initialize = global_variables_initializer()
        if local is None and local_variables():
            local = local_variables_initializer()
        session = Session(self._master, graph, self._config)
        if not (given.saver is not None and restore(session, given.saver, self._folder, self._path)):
            if initialize is not None:
                session.run(initialize, given.init_feed_dict)
            if given.init_fn is not None:
                given.init_fn(given, session)
        if local is not None:
            session.run(local)
        if given.local_init_op is None and (tables := graph.get_collection(GraphKeys.TABLE_INITIALIZERS)):
            session.run(tables)
        return session


class _Coordinator:
    """What after_create_session is given: a request to stop."""

    def __init__(self) -> None:
        self._stops = False

    def request_stop(self, ex: Any = None) -> None:
        self._stops = True

    def should_stop(self) -> bool:
        return self._stops


class _StepContext(NamedTuple):
    """What run_step_fn gives its function."""

    session: Session
    run_with_hooks: Callable[..., Any]
    request_stop: Callable[[], None]


class MonitoredSession:
    """A session with hooks: run calls before_run and after_run of each hook.

    Use it in a `with` block, which ends the hooks; OutOfRangeError and StopIteration end the block normally.

    Args:
        session_creator: by default a ChiefSessionCreator.
        hooks: SessionRunHooks.
        stop_grace_period_secs: accepted for TensorFlow 1; without effect.
    """

    def __init__(
        self,
        session_creator: ChiefSessionCreator | None = None,
        hooks: Sequence[SessionRunHook] | None = None,
        stop_grace_period_secs: int = 120,
    ) -> None:
        self._hooks = list(hooks or ())
        for hook in self._hooks:
            if not isinstance(hook, SessionRunHook):
                raise UsageError(f"MonitoredSession: {hook!r} is no hook: give objects of SessionRunHook.")
        for hook in self._hooks:
            hook.begin()
        self._step = get_global_step()
        self._session: Session | None = (session_creator or ChiefSessionCreator()).create_session()
        self._coordinator = _Coordinator()
        self._savers = [h for h in self._hooks if isinstance(h, CheckpointSaverHook)]
        #: Where there is a place to save to, what asks to stop.
        self._request = StopRequest(self._session.comm) if self._savers else None
        if self._request is not None:
            self._request.__enter__()
        self._entered = self._session.as_default()
        self._entered.__enter__()
        for hook in self._hooks:
            hook.after_create_session(self._session, self._coordinator)

    @property
    def graph(self) -> Any:
        return self._open.graph

    @property
    def _open(self) -> Session:
        if self._session is None:
            raise UsageError("this monitored session is closed.")
        return self._session

    def run(
        self,
        fetches: Any,
        feed_dict: Mapping[Any, Any] | None = None,
        options: Any = None,
        run_metadata: Any = None,
    ) -> Any:
        """Session.run, with the hooks around it.

        Raises, on every rank:
            SavedAndStopped: a rank was asked to stop, and the session is saved.
        """
        session = self._open
        context = SessionRunContext(SessionRunArgs(fetches, feed_dict, options), session)
        asked: list[Any] = []
        feeds = dict(feed_dict or {})
        for hook in self._hooks:
            wanted = hook.before_run(context)
            asked.append(None)
            if wanted is not None:
                wanted = SessionRunArgs(*wanted) if isinstance(wanted, tuple) else SessionRunArgs(wanted)
                asked[-1] = wanted.fetches
                options = wanted.options or options
                if both := feeds.keys() & (wanted.feed_dict or {}).keys():
                    raise UsageError(f"{type(hook).__name__} feeds {both}, which the run feeds already.")
                feeds |= wanted.feed_dict or {}
        if options is not None and run_metadata is None:
            run_metadata = RunMetadata()
        wanted_by_hooks = {i: a for i, a in enumerate(asked) if a is not None}
        step = None if self._step is None else int(session.run(self._step))
        session.comm.board.step(-1 if step is None else step + 1)
        results, given = session.run([fetches, wanted_by_hooks], feeds, options, run_metadata)
        for i, hook in enumerate(self._hooks):
            hook.after_run(context, SessionRunValues(given.get(i), options, run_metadata))
        if context.stop_requested:
            self._coordinator.request_stop()
        self._agree(session)
        return results

    def run_step_fn(self, step_fn: Any) -> Any:
        """step_fn(context), whose context.session.run calls no hooks, and run_with_hooks does."""
        result = step_fn(_StepContext(self._open, self.run, self._coordinator.request_stop))
        self._agree(self._open)
        return result

    def _agree(self, session: Session) -> None:
        """Stop on every rank where a hook of one asks for it; save and end where a signal of one does."""
        signal = self._request is not None and self._request.name != ""
        asked = np.array([self._coordinator.should_stop(), signal], np.uint8)
        if session.comm.size > 1:
            asked = session.comm.allreduce(asked, "max")
        if asked[0]:
            self._coordinator.request_stop()
        if self._request is None or not asked[1]:
            return
        reason = self._request.reason()
        at = int(session.run(self._step))
        for saver in self._savers:
            saver.save(session, at)
        raise SavedAndStopped(
            f"by {reason} at step {at}, and saved. Resume it with: `python "
            f"{shlex.quote(os.path.abspath(sys.argv[0]))}`"
        ).on_every_rank()

    def should_stop(self) -> bool:
        """Whether a hook has asked for the end, or the session is closed."""
        return self._session is None or self._coordinator.should_stop()

    def close(self) -> None:
        """End the hooks, and close the session."""
        self._close(True)

    def _close(self, well: bool) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            if well:
                for hook in self._hooks:
                    hook.end(session)
        finally:
            self._entered.__exit__(None, None, None)
            if self._request is not None:
                self._request.__exit__(None, None, None)
            session.comm.board.step(-1)
            session.close()

    def __enter__(self) -> MonitoredSession:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        done = kind is None or issubclass(kind, StopIteration) or kind.__name__ == "OutOfRangeError"
        self._close(done)
        return done and kind is not None


class SingularMonitoredSession(MonitoredSession):
    """A MonitoredSession given by its parts; raw_session() returns the session itself.

    Args:
        hooks: SessionRunHooks.
        scaffold: a Scaffold; by default one of all variables.
        master: only ''.
        config: a ConfigProto.
        checkpoint_dir: the folder whose newest checkpoint is restored, or
        checkpoint_filename_with_path: the checkpoint that is restored.
        stop_grace_period_secs: accepted for TensorFlow 1; without effect.
    """

    def __init__(
        self,
        hooks: Sequence[SessionRunHook] | None = None,
        scaffold: Scaffold | None = None,
        master: str = "",
        config: Any = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        stop_grace_period_secs: int = 120,
        checkpoint_filename_with_path: str | None = None,
    ) -> None:
        creator = ChiefSessionCreator(scaffold, master, config, checkpoint_dir, checkpoint_filename_with_path)
        super().__init__(creator, hooks)

    def raw_session(self) -> Session:
        return self._open


def MonitoredTrainingSession(
    master: str = "",
    is_chief: bool = True,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    scaffold: Scaffold | None = None,
    hooks: Sequence[SessionRunHook] | None = None,
    chief_only_hooks: Sequence[SessionRunHook] | None = None,
    save_checkpoint_secs: float | None = 600,
    save_summaries_steps: int | None = 100,
    save_summaries_secs: float | None = None,
    config: Any = None,
    stop_grace_period_secs: int = 120,
    log_step_count_steps: int | None = 100,
    max_wait_secs: int = 7200,
    save_checkpoint_steps: int | None = None,
    summary_dir: str | os.PathLike[str] | None = None,
) -> MonitoredSession:
    """A MonitoredSession that saves checkpoints, writes summaries and counts steps in a folder.

    Args:
        master: only ''.
        is_chief, stop_grace_period_secs, max_wait_secs: accepted for TensorFlow 1; without effect.
        checkpoint_dir: where checkpoints are saved and restored; None saves nothing.
        scaffold: a Scaffold; by default one of all variables.
        hooks: SessionRunHooks.
        chief_only_hooks: also run on every rank, since fetches are collective; rank 0 writes and prints.
        save_checkpoint_secs, save_checkpoint_steps: seconds or steps between two checkpoints; None for never.
        save_summaries_steps, save_summaries_secs: steps or seconds between two writes of the graph's
            summaries; None for never.
        config: a ConfigProto.
        log_step_count_steps: steps between two lines of global_step/sec; None for never.
        summary_dir: the folder of the summaries; by default checkpoint_dir.

    Returns:
        MonitoredSession: to be used in a `with` block.
    """
    scaffold = scaffold or Scaffold()
    everyone = [*(hooks or ()), *(chief_only_hooks or ())]
    folder = checkpoint_dir if summary_dir is None else summary_dir
    if checkpoint_dir is not None:
        if log_step_count_steps:
            everyone.append(StepCounterHook(log_step_count_steps, output_dir=folder))
        if save_summaries_steps or save_summaries_secs:
            steps = None if save_summaries_secs else save_summaries_steps
            everyone.append(SummarySaverHook(steps, save_summaries_secs, folder, scaffold=scaffold))
        if save_checkpoint_secs or save_checkpoint_steps:
            seconds = None if save_checkpoint_steps else save_checkpoint_secs
            saver = CheckpointSaverHook(checkpoint_dir, seconds, save_checkpoint_steps, scaffold=scaffold)
            everyone.append(saver)
    return MonitoredSession(ChiefSessionCreator(scaffold, master, config, checkpoint_dir), everyone)


# -- saving ----------------------------------------------------------------------------------------------
def save(session: Session, saver: Saver | None, path: str, step: int) -> None:
    """Save the variables under a path and step; with them what the next random numbers follow from."""
    (saver or Saver()).save(session, path, global_step=step, about=json.dumps(session.random_state))


def restore(session: Session, saver: Saver, folder: str | None, path: str | None = None) -> bool:
    """Restore a session from a path, or from the newest checkpoint of a folder. Collective.

    Returns whether there was one: what rank 0 sees.

    Raises:
        CheckpointError: it cannot be read, or does not fit.
    """
    comm = session.comm
    found = path or (latest_checkpoint(folder) if folder is not None else None)
    if not found:
        return False
    saver.restore(session, found)
    random = ""
    with comm.together():
        if comm.rank == 0:
            random = saved_about(found)
    random = comm.broadcast_text(random)
    if random:  # the file has their digest
        session.random_state = json.loads(random)
    return True
