"""Hooks of a monitored session, under TensorFlow 1's names: what happens around each of its runs.

On several ranks every hook runs on every rank, so that all fetch the same; rank 0 prints and writes. What
follows from a clock is rank 0's, on all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import NumericError, UsageError
from dtrain.train.step_counter import get_global_step


class SessionRunArgs(NamedTuple):
    """What a hook adds to a run.

    Args:
        fetches: tensors or operations in any structure.
        feed_dict: feeds.
        options: RunOptions.
    """

    fetches: Any
    feed_dict: Mapping[Any, Any] | None = None
    options: Any = None


class SessionRunValues(NamedTuple):
    """The results of a hook's SessionRunArgs.

    Args:
        results: values in the structure of fetches.
        options: the RunOptions.
        run_metadata: the RunMetadata.
    """

    results: Any
    options: Any = None
    run_metadata: Any = None


class SessionRunContext:
    """A run, as hooks see it; request_stop() makes it the last one.

    Args:
        original_args: SessionRunArgs of the caller.
        session: the session that runs.
    """

    def __init__(self, original_args: SessionRunArgs, session: Any) -> None:
        self.original_args, self.session, self.stop_requested = original_args, session, False

    def request_stop(self) -> None:
        self.stop_requested = True


class SessionRunHook:
    """Base of the hooks of MonitoredSession: each method may be left out."""

    def begin(self) -> None:
        """Before the session is made: the graph may still be added to."""

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Once, when variables have their values; coord: has request_stop and should_stop."""

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        """What to fetch and feed besides."""
        return None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """After each run, with what before_run asked for."""

    def end(self, session: Any) -> None:
        """At the end, where no error is the reason."""


class SecondOrStepTimer:
    """Says when something is due: every so many steps, or seconds by rank 0's clock.

    should_trigger_for_step is collective where it counts seconds.

    Args:
        every_secs: seconds, or
        every_steps: steps.
    """

    def __init__(self, every_secs: float | None = None, every_steps: int | None = None) -> None:
        if (every_secs is None) == (every_steps is None):
            raise UsageError("SecondOrStepTimer: give every_secs or every_steps, and not both.")
        self._secs, self._steps = every_secs, every_steps
        self._last: tuple[float, int] | None = None

    def should_trigger_for_step(self, step: int, comm: Any = None) -> bool:
        """Whether it is due at this step; the first time it is."""
        if self._last is None:
            return True
        if step == self._last[1]:
            return False
        if self._steps is not None:
            return step >= self._last[1] + self._steps
        due = time.monotonic() >= self._last[0] + (self._secs or 0)
        return due if comm is None else bool(comm.broadcast(np.array([due], np.uint8))[0])

    def update_last_triggered_step(self, step: int) -> tuple[float | None, int | None]:
        """It was done at this step; returns seconds and steps since the time before."""
        now, before = time.monotonic(), self._last
        self._last = now, step
        return (None, None) if before is None else (now - before[0], step - before[1])

    def last_triggered_step(self) -> int | None:
        return None if self._last is None else self._last[1]


class _AtSteps(SessionRunHook):
    """Base of those that follow the global step."""

    def begin(self) -> None:
        self._step = get_global_step()
        if self._step is None:
            raise UsageError(
                f"{type(self).__name__}: the graph has no global step: call "
                "dt.train.get_or_create_global_step(), and give it to minimize(..., global_step=...)."
            )

    def after_create_session(self, session: Any, coord: Any) -> None:
        self._session = session
        self._begun = int(session.run(self._step))

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        return SessionRunArgs(self._step)


class StopAtStepHook(_AtSteps):
    """Stops the loop after a number of steps.

    Args:
        num_steps: steps of this session, or
        last_step: the global step.
    """

    def __init__(self, num_steps: int | None = None, last_step: int | None = None) -> None:
        if (num_steps is None) == (last_step is None):
            raise UsageError("StopAtStepHook: give num_steps or last_step, and not both.")
        self._count, self._last = num_steps, last_step

    def after_create_session(self, session: Any, coord: Any) -> None:
        super().after_create_session(session, coord)
        if self._last is None:
            assert self._count is not None
            self._last = self._begun + self._count
        if self._begun >= self._last:
            coord.request_stop()

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        assert self._last is not None
        if int(run_context.session.run(self._step)) >= self._last:  # a read of this rank's memory
            run_context.request_stop()


class CheckpointSaverHook(_AtSteps):
    """Saves a checkpoint at the beginning, every so many seconds or steps, and at the end.

    Args:
        checkpoint_dir: the folder.
        save_secs: seconds between two checkpoints, or
        save_steps: steps between them.
        saver: a Saver; by default the scaffold's, or one of all variables.
        checkpoint_basename: how the files' names start.
        scaffold: a Scaffold, whose saver is used.
        listeners: objects with begin, before_save, after_save and end, as TensorFlow's
            CheckpointSaverListener has them.
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str],
        save_secs: float | None = None,
        save_steps: int | None = None,
        saver: Any = None,
        checkpoint_basename: str = "model.ckpt",
        scaffold: Any = None,
        listeners: Sequence[Any] | None = None,
    ) -> None:
        self._path = os.path.join(os.fspath(checkpoint_dir), checkpoint_basename)
        self._timer = SecondOrStepTimer(save_secs, save_steps)
        self._saver = saver or (scaffold.saver if scaffold is not None else None)
        self._listeners = list(listeners or ())

    def begin(self) -> None:
        super().begin()
        for listener in self._listeners:
            listener.begin()

    def after_create_session(self, session: Any, coord: Any) -> None:
        super().after_create_session(session, coord)
        self.save(session, self._begun)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        session = run_context.session
        step = int(session.run(self._step))
        if self._timer.should_trigger_for_step(step, session.comm):
            self.save(session, step)

    def end(self, session: Any) -> None:
        step = int(session.run(self._step))
        if step != self._timer.last_triggered_step():
            self.save(session, step)
        for listener in self._listeners:
            listener.end(session, step)

    def save(self, session: Any, step: int) -> None:
        """Save the variables, and what the next random numbers follow from."""
        from dtrain.train.monitored import save

        self._timer.update_last_triggered_step(step)
        for listener in self._listeners:
            listener.before_save(session, step)
        save(session, self._saver, self._path, step)
        for listener in self._listeners:
            listener.after_save(session, step)


class LoggingTensorHook(SessionRunHook):
    """Prints tensors every so many runs or seconds, on rank 0.

    Args:
        tensors: a list of tensors or their names, or a dict of them by the names that are printed.
        every_n_iter: runs between two lines, or
        every_n_secs: seconds between them.
        at_end: whether to print at the end, too.
        formatter: a function that makes the text of {name: value}.

    Raises:
        UsageError: none of the three says when to print.
    """

    def __init__(
        self,
        tensors: Any,
        every_n_iter: int | None = None,
        every_n_secs: float | None = None,
        at_end: bool = False,
        formatter: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        if not isinstance(tensors, Mapping):
            tensors = {getattr(t, "name", t): t for t in tensors}
        # a name of an operation stands for its first output
        tensors = {
            name: f"{t}:0" if isinstance(t, str) and ":" not in t else t for name, t in tensors.items()
        }
        self._tensors, self._formatter, self._at_end = dict(tensors), formatter, at_end
        self._timer = None
        if every_n_iter is not None or every_n_secs is not None:
            self._timer = SecondOrStepTimer(every_n_secs, every_n_iter)
        elif not at_end:
            raise UsageError("LoggingTensorHook: give every_n_iter, every_n_secs or at_end=True.")
        self._runs = 0

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        comm = run_context.session.comm
        self._due = self._timer is not None and self._timer.should_trigger_for_step(self._runs, comm)
        return SessionRunArgs(self._tensors) if self._due else None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        if self._due and self._timer is not None:
            seconds, _ = self._timer.update_last_triggered_step(self._runs)
            self._print(run_values.results, seconds, run_context.session)
        self._runs += 1

    def end(self, session: Any) -> None:
        if self._at_end:
            self._print(session.run(self._tensors), None, session)

    def _print(self, values: dict[str, Any], seconds: float | None, session: Any) -> None:
        if session.comm.rank:
            return
        text = ", ".join(f"{name} = {value}" for name, value in values.items())
        if self._formatter is not None:
            text = self._formatter(values)
        elif seconds is not None:
            text += f" ({seconds:.3f} sec)"
        print(text, flush=True)


class _WritesSummaries(_AtSteps):
    """Base of those that write summaries: by a writer that is given, or one of a folder."""

    _writer: Any
    _folder: Any

    def open(self, session: Any) -> Any:
        """The writer; None where there is no place to write to."""
        if self._writer is None and self._folder is not None:
            from dtrain.summary import FileWriter

            self._writer = FileWriter(os.fspath(self._folder), session.graph, comm=None)
        return self._writer

    def end(self, session: Any) -> None:
        if self._writer is not None:
            self._writer.flush()


class StepCounterHook(_WritesSummaries):
    """Writes global steps per second as the summary `global_step/sec`, on rank 0.

    Args:
        every_n_steps: steps between two values, or
        every_n_secs: seconds between them.
        output_dir: the folder of the summaries.
        summary_writer: a FileWriter, instead of output_dir.
    """

    def __init__(
        self,
        every_n_steps: int | None = 100,
        every_n_secs: float | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        summary_writer: Any = None,
    ) -> None:
        self._timer = SecondOrStepTimer(every_n_secs, None if every_n_secs is not None else every_n_steps)
        self._folder, self._writer = output_dir, summary_writer

    def after_create_session(self, session: Any, coord: Any) -> None:
        super().after_create_session(session, coord)
        self._timer.update_last_triggered_step(self._begun)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        from dtrain.ops import summary_proto

        session = run_context.session
        step = int(session.run(self._step))
        if not self._timer.should_trigger_for_step(step, session.comm):
            return
        seconds, steps = self._timer.update_last_triggered_step(step)
        if session.comm.rank or not seconds or steps is None:
            return
        print(f"global_step/sec: {steps / seconds:g}", flush=True)
        if (writer := self.open(session)) is not None:
            writer.add_summary(summary_proto.scalar("global_step/sec", steps / seconds), step)


class SummarySaverHook(_WritesSummaries):
    """Writes summaries every so many steps or seconds, on rank 0.

    Args:
        save_steps: steps between two, or
        save_secs: seconds between them.
        output_dir: the folder.
        summary_writer: a FileWriter, instead of output_dir.
        scaffold: a Scaffold, whose summary_op is used.
        summary_op: by default all summaries of the graph.
    """

    def __init__(
        self,
        save_steps: int | None = None,
        save_secs: float | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        summary_writer: Any = None,
        scaffold: Any = None,
        summary_op: Any = None,
    ) -> None:
        self._timer = SecondOrStepTimer(save_secs, save_steps)
        self._folder, self._writer = output_dir, summary_writer
        self._op = summary_op if summary_op is not None else getattr(scaffold, "summary_op", None)

    def begin(self) -> None:
        from dtrain.ops.summary import merge_all

        super().begin()
        self._op = merge_all() if self._op is None else self._op

    def after_create_session(self, session: Any, coord: Any) -> None:
        super().after_create_session(session, coord)
        if session.comm.rank == 0:
            self.open(session)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        session = run_context.session
        self._at = int(session.run(self._step)) + 1
        self._due = self._op is not None and self._timer.should_trigger_for_step(self._at, session.comm)
        return SessionRunArgs(self._op) if self._due else None

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        if self._due:
            self._timer.update_last_triggered_step(self._at)
            if self._writer is not None:
                self._writer.add_summary(run_values.results, int(run_context.session.run(self._step)))


class NanTensorHook(SessionRunHook):
    """Ends the loop when a loss is NaN.

    Args:
        loss_tensor: a scalar tensor.
        fail_on_nan_loss: whether to raise NanLossDuringTrainingError; False stops the loop.
    """

    def __init__(self, loss_tensor: Any, fail_on_nan_loss: bool = True) -> None:
        self._loss, self._fails = loss_tensor, fail_on_nan_loss

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        return SessionRunArgs(self._loss)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        if np.isnan(run_values.results).any():  # a fetched value is the same on all ranks
            if self._fails:
                raise NanLossDuringTrainingError(f"the loss {self._loss.name} is NaN.").on_every_rank()
            if run_context.session.comm.rank == 0:
                print(f"the loss {self._loss.name} is NaN: training stops", flush=True)
            run_context.request_stop()


class NanLossDuringTrainingError(NumericError, RuntimeError):
    """A loss became NaN; raised by NanTensorHook."""


class FinalOpsHook(SessionRunHook):
    """Runs tensors or operations at the end; final_ops_values holds the values.

    Args:
        final_ops: fetches of any structure.
        final_ops_feed_dict: feeds of this run.
    """

    def __init__(self, final_ops: Any, final_ops_feed_dict: Mapping[Any, Any] | None = None) -> None:
        self._ops, self._feeds = final_ops, final_ops_feed_dict
        self.final_ops_values: Any = None

    def end(self, session: Any) -> None:
        if self._ops is not None:
            self.final_ops_values = session.run(self._ops, self._feeds)


class FeedFnHook(SessionRunHook):
    """Feeds at each run what a function returns.

    Args:
        feed_fn: a function of no arguments that returns a feed_dict.
    """

    def __init__(self, feed_fn: Callable[[], Mapping[Any, Any]]) -> None:
        self.feed_fn = feed_fn

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        return SessionRunArgs(None, self.feed_fn())


class ProfilerHook(_AtSteps):
    """Records a run as `timeline-<step>.json` every so many steps or seconds, on rank 0.

    Chrome's chrome://tracing and https://ui.perfetto.dev open the files.

    Args:
        save_steps: steps between two records, or
        save_secs: seconds between them.
        output_dir: the folder.
        show_dataflow, show_memory: accepted for TensorFlow 1; without effect.
    """

    def __init__(
        self,
        save_steps: int | None = None,
        save_secs: float | None = None,
        output_dir: str | os.PathLike[str] = "",
        show_dataflow: bool = True,
        show_memory: bool = False,
    ) -> None:
        self._timer, self._folder = SecondOrStepTimer(save_secs, save_steps), Path(output_dir)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs | None:
        from dtrain.runtime.config import RunOptions

        session = run_context.session
        self._at = int(session.run(self._step))
        last = self._timer.last_triggered_step()
        if last is None:  # the first run compiles
            self._timer.update_last_triggered_step(self._at)
        self._due = last is not None and self._timer.should_trigger_for_step(self._at, session.comm)
        options = RunOptions(trace_level=RunOptions.FULL_TRACE) if self._due else None
        return SessionRunArgs(self._step, None, options)

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        if not self._due:
            return
        self._timer.update_last_triggered_step(self._at)
        if run_context.session.comm.rank == 0:
            from dtrain.files import write_atomically
            from dtrain.runtime.profile import Timeline

            text = Timeline(run_values.run_metadata.step_stats).generate_chrome_trace_format()
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / f"timeline-{self._at}.json", text.encode())
