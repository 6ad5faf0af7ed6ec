"""What a session's time went into: the kernels of its plans one by one, on one clock for all ranks.

A `Recorder` set as `session.profiler` runs each plan kernel by kernel and notes when each began and ended.
Waiting is kept apart from moving: all ranks meet before each sum, and that barrier is the waiting. Moving
lasts from there until this rank has the sum.

Chrome's trace event format is described in "Trace Event Format" (Google, 2016); Perfetto reads it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import UsageError
from dtrain.graph.graph import Operation
from dtrain.ops.array import Move
from dtrain.ops.base import ELEMENTWISE, LOSS, MATRIX, MOVING, REDUCTION
from dtrain.ops.placement import local_shape
from dtrain.passes.step import Step
from dtrain.runtime.plan import Plan

#: What a summary distinguishes, in its order. Parts of a step add up to it: OTHER is what no event covers.
MEMORY, UPDATE = "gather, pool and other ops", "update"
WAITING = "communication: waiting"
DATA, OTHER = "feeding and fetching", "Python and other"
#: What runs beside these, so that it is no part of a step: sums that began early.
ASIDE = "communication: beside other work"
#: The part of it for which this rank did not wait.
HIDDEN = "hidden"
PARTS = (MATRIX, ELEMENTWISE, REDUCTION, LOSS, MEMORY, UPDATE, MOVING, WAITING, DATA, OTHER)

#: Round trips from which align() takes the shortest.
ROUNDS = 40

#: Tracks of a rank in the trace.
STEPS, KERNELS, COMMUNICATION, BESIDE = 0, 1, 2, 3

Clock = Callable[[], int]


def part_of(node: Operation) -> str:
    """The part of a step's time that an operation's kernels belong to."""
    if node.kind.writes:
        return UPDATE
    return node.kind.category or (ELEMENTWISE if node.kind.elementwise else MEMORY)


def align(comm: Communicator, clock: Clock = time.perf_counter_ns) -> tuple[int, int]:
    """By how many ns this rank's clock is ahead of rank 0's, and by how much that may be wrong. Collective.

    All ranks read their clocks between two barriers, and rank 0 before and after both: the readings fall into
    rank 0's round trip, so its middle is right to half of that. The shortest of ROUNDS trips counts. Clocks
    that agree within the error, as those of one node do, are left as they are.
    """
    best = np.full(comm.size, np.iinfo(np.int64).max)
    ahead = np.zeros(comm.size, np.int64)
    for _ in range(ROUNDS):
        left = clock()
        comm.barrier()
        readings = comm.allgather(np.array([clock()], np.int64))
        trip = np.array([left, clock()], np.int64)
        left, back = comm.broadcast(trip).tolist()
        if back - left < best[0]:
            best[:] = back - left
            ahead = readings - (left + back) // 2
    error = int(best[comm.rank] + 1) // 2
    offset = int(ahead[comm.rank])
    return (0 if comm.rank == 0 or abs(offset) <= error else offset), error


class Recorder:
    """Runs plans kernel by kernel and keeps when each began and ended.

    On several ranks all of them record the same runs.

    events: (track, name, part, begin, end, arguments) in ns of this rank's clock, in order on each track.
    """

    def __init__(self, comm: Communicator, clock: Clock = time.perf_counter_ns) -> None:
        self.comm = comm
        self.clock = clock
        self.events: list[tuple[int, str, str, int, int, dict[str, Any]]] = []
        self._labels: dict[Plan, list[tuple[str, str, dict[str, Any], bool]]] = {}
        self._communicated = comm.seconds  # up to the end of the last run

    def run(self, plan: Plan, values: Sequence[Any]) -> list[Any]:
        """plan.run(values), recorded."""
        labels = self._labels.get(plan)
        if labels is None:
            labels = self._labels[plan] = _labels(plan, self.comm)
        clock, add = self.clock, self.events.append
        first = last = 0
        recorded = len(self.events)

        def kernels() -> None:
            nonlocal first, last
            comm, synchronize, waited = self.comm, plan.backend.synchronize, 0.0
            synchronize()  # feeds may still be on their way to the device
            first = last = clock()
            for kernel, (name, part, about, meets) in zip(plan.kernels, labels, strict=True):
                begin = clock()
                if meets:
                    comm.barrier()
                    end = clock()
                    add((COMMUNICATION, "wait", WAITING, begin, end, {"for": name}))
                    begin = end
                else:
                    waited = comm.seconds
                kernel()
                synchronize()
                last = clock()
                if part == WAITING:
                    add((COMMUNICATION, "wait", WAITING, begin, last, {"for": name}))
                    continue
                if part == MOVING:
                    add((COMMUNICATION, name, MOVING, begin, last, about))
                    continue
                end = last
                if not meets and comm.seconds > waited:
                    # a write to memory that ranks share is done when all have written their parts
                    end = max(begin, last - round((comm.seconds - waited) * 1e9))
                    add((COMMUNICATION, "wait", WAITING, end, last, {"for": name}))
                add((KERNELS, name, part, begin, end, about))

        start = clock()
        between = round((self.comm.seconds - self._communicated) * 1e9)
        if between > 0:  # such as comparing the feeds of all ranks
            add((COMMUNICATION, "wait", WAITING, start - between, start, {"for": "collectives between runs"}))
        try:
            results = plan.run(values, [kernels])
            end = clock()
        finally:  # a step that is not finite may be taken again
            self._communicated = self.comm.seconds
        stood = [(b, e) for track, _, _, b, e, _ in self.events[recorded:] if track == COMMUNICATION]
        for begin, done, nbytes in self.comm.aside:
            if begin >= start:
                seen = sum(max(0, min(done, e) - max(begin, b)) for b, e in stood)
                about = {"bytes": nbytes, "hidden_us": (done - begin - seen) / 1000}
                add((BESIDE, "sum that began early", ASIDE, begin, done, about))
        # these two are appended out of order; trace() sorts
        add((KERNELS, "feed", DATA, start, first, {"arrays": len(values)}))
        add((KERNELS, "fetch", DATA, last, end, {"arrays": len(results)}))
        return results

    def trace(self, base: int = 0) -> list[dict[str, Any]]:
        """The events in Chrome's format: pid is the rank, tid the track, times in µs from base (ns)."""
        rank = self.comm.rank
        where = f"rank {rank} on {self.comm.hosts[rank]}"
        trace: list[dict[str, Any]] = [
            {"ph": "M", "pid": rank, "tid": 0, "name": "process_name", "args": {"name": where}},
            {"ph": "M", "pid": rank, "tid": 0, "name": "process_sort_index", "args": {"sort_index": rank}},
        ]
        for track, name in enumerate(("steps", "kernels", "communication", "beside other work")):
            about = {"name": "thread_name", "args": {"name": name}}
            trace.append({"ph": "M", "pid": rank, "tid": track, **about})
        for track, name, part, begin, end, about in sorted(self.events, key=lambda e: (e[3], e[4])):
            trace.append(
                {
                    "ph": "X",
                    "pid": rank,
                    "tid": track,
                    "name": name,
                    "cat": part,
                    "ts": (begin - base) / 1000,
                    "dur": (end - begin) / 1000,
                    "args": about,
                }
            )
        return trace


def _labels(plan: Plan, comm: Communicator) -> list[tuple[str, str, dict[str, Any], bool]]:
    """Of each kernel: its name, part, what is said of it, and whether all ranks meet before it."""
    labels = []
    nodes = plan.kernel_nodes
    for i, node in enumerate(nodes):
        part = part_of(node)
        about: dict[str, Any] = {"op": node.type, "inputs": _shapes(node.inputs, plan.step, comm)}
        if node.outputs:
            about["outputs"] = _shapes(node.outputs, plan.step, comm)
        if node.source:
            about["line"] = node.source
        symbol, begins = plan.kernel_symbols[i], node.type == "BeginAllReduce"
        if symbol == "meet":
            labels.append((node.name, WAITING, about, False))
            continue
        # of a node in NumPy the last kernel is the op itself; those before it copy its inputs into place
        copies = symbol == "move" if symbol else i + 1 < len(nodes) and nodes[i + 1] is node
        copies = copies and not isinstance(node.kind, Move)
        moved = [node.inputs[k] for k in node.kind.summed] or (node.outputs if part == MOVING else [])
        if part == MOVING and copies:
            part = MEMORY
        elif moved:
            about["bytes"] = sum(_nbytes(t, plan.step, comm) for t in moved)
        name = f"copy for {node.name}" if copies else node.name
        labels.append((name, part, about, part == MOVING and comm.size > 1 and not symbol and not begins))
    return labels


def _local(tensor: Any, step: Step, comm: Communicator) -> tuple[int, ...]:
    return local_shape(tensor.spec.shape, step.placements[tensor], comm.rank, comm.size)


def _shapes(tensors: Sequence[Any], step: Step, comm: Communicator) -> str:
    """'float32[50,784] float32[784,256]', as this rank holds them."""
    return " ".join(
        f"{t.dtype.name}[{','.join(map(str, _local(t, step, comm)))}]"
        for t in tensors
        if t in step.placements
    )


def _nbytes(tensor: Any, step: Step, comm: Communicator) -> int:
    return int(np.prod(_local(tensor, step, comm), dtype=np.int64)) * tensor.dtype.numpy.itemsize


def to_json(trace: Sequence[dict[str, Any]]) -> str:
    """Events as JSON text, one a line, without the brackets around them."""
    return ",\n".join(json.dumps(event, separators=(",", ":")) for event in trace)


class Timeline:
    """The kernels of the runs that step_stats, a RunMetadata's, has recorded.

    Raises:
        UsageError: nothing was recorded.
    """

    def __init__(self, step_stats: Recorder | None) -> None:
        if step_stats is None:
            raise UsageError(
                "Timeline: nothing was traced. Run with "
                "options=RunOptions(trace_level=RunOptions.FULL_TRACE), run_metadata=metadata."
            )
        self._recorder = step_stats

    def generate_chrome_trace_format(self, show_dataflow: bool = True, show_memory: bool = False) -> str:
        """JSON text that chrome://tracing and Perfetto open; the two arguments change nothing."""
        base = min((begin for _, _, _, begin, _, _ in self._recorder.events), default=0)
        return f'{{"traceEvents":[\n{to_json(self._recorder.trace(base))}\n]}}\n'
