"""The device: what it has been given to do, its memory, and what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

#: launches, graphs (launched), captured; bytes up and down; allocations.
counts: Counter[str] = Counter()
#: What has been given to the device and is not done.
queue: list[Callable[[], Any]] = []
#: The list that a stream under capture writes to, None where there is none.
captured: list[Callable[[], Any]] | None = None

GUARD = 64
CANARY = 0xA5
_blocks: list[tuple[np.ndarray, int, int]] = []


class CaptureError(RuntimeError):
    """cudaErrorStreamCaptureUnsupported"""


def give(call: Callable[[], Any]) -> None:
    """A launch or a copy: into the graph under capture, or the queue."""
    if captured is not None:
        captured.append(call)
    else:
        queue.append(call)


def settle() -> None:
    """Do what has been given, as whoever waits for the device, or uses it in order, sees it."""
    if captured is not None:
        raise CaptureError("operation not permitted when stream is capturing")
    work, queue[:] = queue[:], []
    with np.errstate(all="ignore"):  # a device does not warn
        for call in work:
            call()


def allocate(nbytes: int) -> np.ndarray:
    if captured is not None:
        raise CaptureError("memory is allocated while a stream is capturing")
    counts["allocations"] += 1
    raw = np.full(nbytes + 2 * GUARD + 512, CANARY, np.uint8)
    start = GUARD + -(raw.ctypes.data + GUARD) % 512
    raw[start : start + nbytes] = 0
    _blocks.append((raw, start, nbytes))
    return raw[start : start + nbytes]


def check_memory() -> None:
    """Raise where something was written beside the memory that was given."""
    settle()
    for raw, start, nbytes in _blocks:
        assert (raw[:start] == CANARY).all() and (raw[start + nbytes :] == CANARY).all(), (
            "written out of bounds"
        )
