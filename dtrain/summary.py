"""Summaries for TensorBoard, under TensorFlow 1's names: `dt.summary.scalar("loss", loss)`.

    merged = dt.summary.merge_all()
    writer = dt.summary.FileWriter("logs", session.graph)
    writer.add_summary(session.run(merged), step)

On several ranks a summary is of the whole batch, as every fetch is, and rank 0 alone writes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dtrain.comm import Communicator, launcher
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.graph.graph import Graph
from dtrain.graph.graph_def import GraphDef, graph_def_of
from dtrain.names import module_getattr
from dtrain.ops import summary_proto
from dtrain.ops.summary import histogram, image, merge, merge_all, scalar, text

__all__ = ["FileWriter", "histogram", "image", "merge", "merge_all", "scalar", "text"]

__getattr__ = module_getattr("tf.summary")

_WORLD: Any = object()


class FileWriter:
    """Writes summaries and graphs into an event file in a folder, from a thread of its own.

    Args:
        logdir: the folder; it is made where there is none.
        graph: written at once.
        max_queue: how many events wait to be written; flush_secs: seconds after which they are.
        graph_def: instead of graph.
        filename_suffix: what the name of the file ends in.
        session: without a meaning here: a value that is added has been fetched already.
        comm: the ranks of which the first writes, by default all; None where this process writes.

    Raises:
        EnvironmentProblem: TensorBoard is not installed, or the folder cannot be written; writing that fails
            later, as on a full disk, is raised by one of the calls that follow.
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        graph: Graph | None = None,
        max_queue: int = 10,
        flush_secs: float = 120,
        graph_def: Any = None,
        filename_suffix: str | None = None,
        session: Any = None,
        *,
        comm: Communicator | None = _WORLD,
    ) -> None:
        if os.path.basename(filename_suffix or "") != (filename_suffix or ""):
            raise UsageError(
                f"FileWriter: filename_suffix is {filename_suffix!r}: no name in another folder."
            )
        rank = launcher.rank() if comm is _WORLD else comm.rank if comm is not None else 0
        self._logdir = os.fspath(logdir)
        self._options = (max_queue, flush_secs, filename_suffix or "")
        self._writes = rank == 0
        self._file: Any = None
        self._closed = False
        self._lock = threading.RLock()  # a thread may add while another closes
        self.reopen()
        if graph is not None or graph_def is not None:
            self.add_graph(graph, graph_def=graph_def)

    def reopen(self) -> None:
        """Continue in a new file after close(); open already, nothing."""
        with self._lock, self._told():
            self._closed = False
            if not self._writes or self._file is not None:
                return
            summary_proto.protos()
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._file = EventFileWriter(self._logdir, *self._options)

    def get_logdir(self) -> str:
        return self._logdir

    def add_summary(self, summary: Any, global_step: Any = None, *, wall_time: float | None = None) -> None:
        """Add what running a summary gave: bytes, or a Summary message.

        Args:
            wall_time: seconds since 1970 of which it is, by default now.

        Raises:
            UsageError: it is something else, such as the summary's tensor; or the writer is closed.
        """
        data = summary.SerializeToString() if hasattr(summary, "SerializeToString") else summary
        if not isinstance(data, bytes):
            raise UsageError(
                f"add_summary takes what session.run(summary) gives, which is bytes, and not {summary!r}."
            )
        if self._ready():
            message = summary_proto.protos().summary_pb2.Summary.FromString(data)
            self._add(global_step, wall_time, summary=message)

    def add_graph(self, graph: Any = None, global_step: Any = None, graph_def: Any = None) -> None:
        """Add a Graph, or a GraphDef by either argument, which TensorBoard shows grouped by name scopes.

        Raises:
            UsageError: it is neither, or the writer is closed.
        """
        given = graph if graph_def is None else graph_def
        if isinstance(given, Graph):
            given = graph_def_of(given.operations)
        if not isinstance(given, GraphDef):
            raise UsageError(f"add_graph takes a dt.Graph, and not {given!r}.")
        if self._ready():
            self._add(global_step, None, graph_def=summary_proto.graph(given))

    def add_run_metadata(self, run_metadata: Any, tag: str, global_step: Any = None) -> None:
        """Add what a run with a trace_level took: TensorBoard's graph shows it as the session run `tag`.

        Of a run without one it is empty. Raises UsageError where the writer is closed.
        """
        if self._ready():
            recorder = run_metadata.step_stats
            data = summary_proto.run_metadata([] if recorder is None else recorder.trace())
            tagged = summary_proto.protos().event_pb2.TaggedRunMetadata(tag=tag, run_metadata=data)
            self._add(global_step, None, tagged_run_metadata=tagged)

    def add_event(self, event: Any) -> None:
        """Add an Event message as it is."""
        with self._lock, self._told():
            if self._ready():
                self._file.add_event(event)

    def flush(self) -> None:
        """Return when everything that was added is in the file."""
        with self._lock, self._told():
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        """Flush and close; what is added after is an error."""
        with self._lock, self._told():
            self._closed = True
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _ready(self) -> bool:
        """Whether this rank writes."""
        if self._closed:
            raise UsageError("this FileWriter is closed: reopen() it first.")
        return self._writes

    def _add(self, global_step: Any, wall_time: float | None, **what: Any) -> None:
        when = time.time() if wall_time is None else wall_time
        event = summary_proto.protos().event_pb2.Event(wall_time=when, **what)
        if global_step is not None:
            event.step = int(global_step)
        self.add_event(event)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise EnvironmentProblem(f"no event file can be written in {self._logdir}: {why}.") from None
