"""Streams, graphs, pinned memory and the runtime."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from cupy import _device
from cupy._device import counts, give, settle


class Device:
    def __init__(self, number: int = 0) -> None:
        self.id = number

    def use(self) -> None:
        pass


class Graph:
    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        self.calls = calls

    def launch(self, stream: Any = None) -> None:
        counts["graphs"] += 1
        give(lambda: [call() for call in self.calls])


class Stream:
    ptr = 4711

    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking

    def use(self) -> Stream:
        global _current
        _current = self
        return self

    def synchronize(self) -> None:
        counts["waits"] += 1
        settle()

    def begin_capture(self) -> None:
        assert self.non_blocking, "the legacy stream cannot be captured"
        _device.captured = []

    def end_capture(self) -> Graph:
        calls, _device.captured = _device.captured, None
        assert calls is not None
        counts["captured"] += 1
        return Graph(calls)


_current = Stream()


def get_current_stream() -> Stream:
    return _current


def alloc_pinned_memory(nbytes: int) -> Any:
    if _device.captured is not None:
        raise _device.CaptureError("memory is allocated while a stream is capturing")
    return (ctypes.c_char * nbytes)()


def _memcpy(to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
    counts["up" if kind == 1 else "down"] += nbytes
    give(lambda: ctypes.memmove(to, source, nbytes))


runtime = SimpleNamespace(
    getDeviceCount=lambda: 1,
    getDevice=lambda: 0,
    deviceGetPCIBusId=lambda device: "0000:01:00.0",
    memGetInfo=lambda: (7 << 30, 8 << 30),
    getDeviceProperties=lambda number: {
        "name": b"a stand-in",
        "totalGlobalMem": 8 << 30,
        "major": 9,
        "minor": 0,
    },
    memcpyAsync=_memcpy,
    memcpyHostToDevice=1,
    memcpyDeviceToHost=2,
)
runtime.__name__ = "cupy.cuda.runtime"
sys.modules["cupy.cuda.runtime"] = runtime  # type: ignore[assignment]
assert np is not None
