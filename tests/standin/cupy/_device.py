"""The device: what its streams have been given to do, its memory, and what was counted.

A stream does its work in order; of two streams neither waits for the other but where it is told to. Beside
the one that is waited for the others run as late as they can, or with STANDIN_STREAMS=early as early: what is
right is right in both.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

#: launches, graphs (launched), captured; bytes up and down; allocations.
counts: Counter[str] = Counter()


class Entry(NamedTuple):
    """Work of a stream: a call, an event to record, or one to wait for."""

    stream: Any
    call: Callable[[], Any] | None = None
    record: Any = None
    wait: Any = None


#: What each stream has been given and has not done.
queues: dict[Any, deque[Entry]] = {}
#: Of the stream under capture, what it and those forked from it were given; None where there is none.
captured: list[Entry] | None = None
#: The streams whose work is captured, the first is the one that began.
capturing: list[Any] = []


class _Current(threading.local):
    """What a thread uses: the number of a device, and the stream that launches go to."""

    device, stream = 0, None


current = _Current()

GUARD = 64
CANARY = 0xA5
_blocks: list[tuple[weakref.ref[np.ndarray], int, int]] = []


class CaptureError(RuntimeError):
    """cudaErrorStreamCaptureUnsupported, or one of its kin"""


class LegacyStream(RuntimeError):
    """A thread that has not said where it works: it does on GPU 0, and in no order with other streams."""


def here() -> Any:
    """The stream that the thread works on."""
    if current.stream is None:
        raise LegacyStream("this thread uses the legacy stream of GPU 0, which waits for no other")
    return current.stream


def give(call: Callable[[], Any], stream: Any = None) -> None:
    """A launch or a copy: into the graph under capture, or a stream."""
    add(Entry(here() if stream is None else stream, call))


def add(entry: Entry) -> None:
    forks = captured is not None and entry.wait is not None and entry.wait in {e.record for e in captured}
    if forks and entry.stream not in capturing:
        capturing.append(entry.stream)
    if captured is not None and entry.stream in capturing:
        captured.append(entry)
    else:
        queues.setdefault(entry.stream, deque()).append(entry)


def end_capture() -> list[Entry]:
    """What was captured; the streams that took part have all been waited for by the first."""
    global captured
    entries, streams, captured = captured, list(capturing), None
    capturing.clear()
    assert entries is not None
    failing = os.environ.get("STANDIN_CAPTURE_FAILS")
    if failing is not None and failing == os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")):
        raise CaptureError("cudaErrorMemoryAllocation: the stand-in was asked to fail on this rank")
    for stream in streams[1:]:
        last = [e for e in entries if e.stream == stream][-1]
        if last.record is None or not any(e.stream == streams[0] and e.wait == last.record for e in entries):
            raise CaptureError("cudaErrorStreamCaptureUnjoined")
    return entries


def launch(entries: Sequence[Entry], first: Any, stream: Any) -> None:
    """A graph's work: its first stream is the one that it is launched on, the others are its own."""
    events: dict[Any, Any] = {}
    begun, own = object(), object()
    add(Entry(stream, record=begun))
    for other in {e.stream for e in entries} - {first}:
        add(Entry((own, other), wait=begun))
    for e in entries:
        if e.record is not None:
            events[e.record] = object()
        add(
            Entry(
                stream if e.stream == first else (own, e.stream),
                e.call,
                events.get(e.record),
                events.get(e.wait, e.wait),
            )
        )


def settle(stream: Any = None) -> None:
    """Do what a stream has been given, the current one by default, as who waits for it sees it."""
    if captured is not None:
        raise CaptureError("operation not permitted when stream is capturing")
    stream = here() if stream is None else stream
    early = os.environ.get("STANDIN_STREAMS") == "early"
    with np.errstate(all="ignore"):  # a device does not warn
        while queues.get(stream) or (early and any(queues.values())):
            others = [s for s in queues if s != stream]
            pending = {e.record for queue in queues.values() for e in queue}
            ready = [
                s for s in (*others, stream) if queues.get(s) and queues[s][0].wait not in pending - {None}
            ]
            assert ready, "the streams wait for one another"
            # as late as can be: only where the stream itself has to wait for another
            take = ready[0] if early else stream if stream in ready else ready[0]
            entry = queues[take].popleft()
            if not queues[take]:
                del queues[take]
            if entry.call is not None:
                entry.call()


def allocate(nbytes: int) -> np.ndarray:
    if captured is not None:
        raise CaptureError("memory is allocated while a stream is capturing")
    counts["allocations"] += 1
    raw = np.full(nbytes + 2 * GUARD + 512, CANARY, np.uint8)
    start = GUARD + -(raw.ctypes.data + GUARD) % 512
    _blocks.append((weakref.ref(raw), start, nbytes))
    return raw[start : start + nbytes]


def check_memory() -> None:
    """Raise where something was written beside the memory that was given."""
    for stream in list(queues):
        settle(stream)
    for alive, start, nbytes in _blocks:
        raw = alive()
        if raw is None:
            continue
        assert (raw[:start] == CANARY).all() and (raw[start + nbytes :] == CANARY).all(), (
            "written out of bounds"
        )
