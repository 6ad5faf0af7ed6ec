"""`--profile`: a few steps of a run as a timeline of all ranks, and a table of where their time went."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.errors import EnvironmentProblem
from dtrain.files import write_atomically
from dtrain.ops.base import MOVING
from dtrain.runtime import profile
from dtrain.runtime.profile import ASIDE, HIDDEN, OTHER, PARTS, STEPS, WAITING, Clock, Recorder
from dtrain.runtime.session import Session

#: Bytes from which the trace is compressed; Perfetto and Chrome open it either way.
BIG = 8 << 20
#: A rank is called slow whose own work takes longer than the others' on average by this share of a step.
SLOW = 0.1
#: Kernels that the summary names.
LONGEST = 10


class StepProfiler:
    """The function of a training step, recording some of its calls. Called like the function; collective.

    A step lasts from the end of the one before to its own, so that what happens between counts; where another
    plan ran between (a test after an epoch), from its own call. The recorded steps do as ever; each kernel
    takes about a microsecond longer.

    Args:
        step: takes a step: what session.make_callable returned, or its several() for windows of one.
        window: the numbers, from 0, of the first step to record and of the one after the last.
        run_dir: gets trace.json, or trace.json.gz, once the last step is recorded.
        clock: nanoseconds; the same clock for all ranks of a node.
    """

    def __init__(
        self,
        session: Session,
        step: Callable[..., Any],
        window: tuple[int, int],
        run_dir: Path,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self._session, self._step, self._run_dir, self._clock = session, step, run_dir, clock
        self._first, self._last = window
        self._done = 0
        self._recorder = Recorder(session.comm, clock)
        self._ahead = self._error = 0
        self._events, self._end = 0, 0  # records so far, and the end of the last step
        self._spans: list[tuple[int, int]] = []  # of the recorded steps
        self._facts: dict[str, Any] | None = None
        if self._first == 0:
            self._begin()

    def __call__(self, *values: Any, **named: Any) -> Any:
        records = self._first <= self._done < self._last
        if records:
            events = self._recorder.events
            begin = self._clock() if len(events) != self._events else self._end
        results = self._step(*values, **named)
        if records:
            self._end = self._clock()
            self._spans.append((begin, self._end))
            events.append((STEPS, f"step {self._done}", "step", begin, self._end, {}))
            self._events = len(events)
        self._done += 1
        if self._done == self._first:
            self._begin()
        elif self._done == self._last:
            self.finish()
        return results

    def _begin(self) -> None:
        comm = self._session.comm
        self._ahead, self._error = profile.align(comm, self._clock)
        self._session.profiler = self._recorder = Recorder(comm, self._clock)
        self._events = 0
        self._end = self._clock()

    def finish(self) -> dict[str, Any]:
        """End the recording if that has not happened, and return the facts of its summary; collective."""
        if self._facts is None:
            self._session.profiler = None
            self._facts = {**self._summary(), "trace": str(self._write())}
            self._recorder.events.clear()
        return self._facts

    def _write(self) -> Path:
        """Write all ranks' events into one file, on rank 0."""
        comm = self._session.comm
        start = np.array([self._spans[0][0] - self._ahead if self._spans else 0], np.int64)
        base = int(comm.broadcast(start)[0])
        own = profile.to_json(self._recorder.trace(base + self._ahead))
        texts = []
        for rank in range(comm.size):
            text = comm.broadcast_text(own if comm.rank == rank else "", rank)
            if comm.rank == 0:
                texts.append(text)
        clocks = comm.allgather(np.array([[self._ahead, self._error]], np.int64)).tolist()
        path = self._run_dir / "trace.json"
        with comm.together():
            if comm.rank == 0:
                ahead, error = zip(*clocks, strict=True)
                about = json.dumps({"clock_ahead_ns": ahead, "error_ns": error})
                head = f'{{"displayTimeUnit":"ms","otherData":{about},"traceEvents":[\n'
                data = (head + ",\n".join(texts) + "\n]}\n").encode()
                if len(data) > BIG:
                    path, data = path.with_name("trace.json.gz"), gzip.compress(data, 6)
                try:
                    write_atomically(path, data)
                except OSError as error:
                    raise EnvironmentProblem(f"the trace {path} cannot be written: {error}.") from None
        return Path(comm.broadcast_text(str(path)))

    def _summary(self) -> dict[str, Any]:
        """Time a step of each part and rank, in ms; the parts of a rank add up to its step."""
        comm, count = self._session.comm, len(self._spans)
        spent = dict.fromkeys((*PARTS, ASIDE, HIDDEN), 0)
        kernels: dict[tuple[str, str], list[Any]] = {}
        spans = iter(self._spans)
        span = next(spans, (0, 0))
        for _, name, part, begin, end, about in self._recorder.events:
            if part == "step":  # after all that belongs to it
                spent[OTHER] += span[1] - span[0]
                span = next(spans, (0, 0))
                continue
            taken = end - max(begin, span[0])
            if taken <= 0 or begin >= span[1]:  # of a plan that ran between two steps
                continue
            spent[part] += taken
            if part == ASIDE:
                spent[HIDDEN] += round(about["hidden_us"] * 1000)
                continue
            spent[OTHER] -= taken
            entry = kernels.setdefault((name, part), [about, 0])
            entry[1] += taken
        ns = comm.allgather(np.array([[*spent.values()]], np.int64))
        *columns, aside, hidden = (ns / 1e6 / max(count, 1)).T
        ms = np.array(columns).T
        longest = sorted(kernels.items(), key=lambda item: -item[1][1])
        work = ms.sum(1) - ms[:, [PARTS.index(WAITING), PARTS.index(MOVING)]].sum(1)
        slow = int(work.argmax())
        others = float(np.delete(work, slow).mean()) if comm.size > 1 else 0.0
        return {
            "first": self._first,
            "steps": count,
            "step_ms": float(ms.sum(1).mean()),
            "parts_ms": {part: column.tolist() for part, column in zip(PARTS, ms.T, strict=True)},
            "aside_ms": aside.tolist(),
            "hidden_ms": hidden.tolist(),
            "hosts": list(comm.hosts),
            "slowest": slow if comm.size > 1 and work[slow] - others > SLOW * ms.sum(1).mean() else None,
            "work_ms": work.tolist(),
            "kernels": [
                {
                    "name": name,
                    "part": part,
                    "shapes": about.get("inputs", ""),
                    "ms": ns / 1e6 / max(count, 1),
                }
                for (name, part), (about, ns) in longest
                if "op" in about
            ][:LONGEST],
        }


def summary_text(facts: dict[str, Any]) -> str:
    """The facts as a table: for each part the mean over the ranks, its share, and the extremes."""
    ranks = len(facts["hosts"])
    total = facts["step_ms"]
    last = facts["first"] + facts["steps"]
    lines = [
        f"profile of steps {facts['first']}:{last}, {'1 rank' if ranks == 1 else f'mean of {ranks} ranks'}"
        + (": ms a step, share, least and most of a rank" if ranks > 1 else ": ms a step, share")
    ]
    for part, each in facts["parts_ms"].items():
        mean = sum(each) / ranks
        if not any(each):
            continue
        line = f"  {part:<26} {mean:8.3f}  {mean / total if total else 0:6.1%}"
        if ranks > 1:
            low, high = each.index(min(each)), each.index(max(each))
            line += f"  {each[low]:8.3f} (rank {low})  {each[high]:8.3f} (rank {high})"
        lines.append(line)
    lines.append(f"  {'a step':<26} {total:8.3f}  {1:6.1%}")
    if any(facts["aside_ms"]):
        aside, hidden = (sum(facts[name]) / ranks for name in ("aside_ms", "hidden_ms"))
        lines.append(f"  {ASIDE:<26} {aside:8.3f}: sums that began early, in no part above")
        lines.append(f"  {'':<26} {hidden:8.3f} of it hidden behind kernels")
    if ranks > 1:
        lines.append(f"  {_who_is_slow(facts)}")
    lines.append(f"  timeline {facts['trace']}: open it at https://ui.perfetto.dev or chrome://tracing")
    return "\n".join(lines)


def _who_is_slow(facts: dict[str, Any]) -> str:
    work, slow = facts["work_ms"], facts["slowest"]
    if slow is None:
        return f"no rank is slow: each works {min(work):.3f} to {max(work):.3f} ms a step"
    others = (sum(work) - work[slow]) / (len(work) - 1)
    return (
        f"rank {slow} on {facts['hosts'][slow]} is slow: it works {work[slow]:.3f} ms a step, "
        f"the others {others:.3f} ms"
    )
