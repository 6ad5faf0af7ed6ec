"""Streams, graphs, pinned memory and the runtime."""

from __future__ import annotations

import ctypes
import os
import sys
from itertools import count
from types import SimpleNamespace
from typing import Any

from cupy import _device, _nccl
from cupy._device import Entry, counts, give, settle
from cupy._raw import Module

__all__ = ["Device", "Event", "Graph", "Module", "Stream", "nccl", "runtime"]
nccl = _nccl
_numbers = count(4711)
_streams: dict[Any, Stream] = {}


class Device:
    def __init__(self, number: int = 0) -> None:
        self.id = number

    def use(self) -> None:
        _device.current.device = self.id


class Graph:
    def __init__(self, entries: list[Entry], first: int) -> None:
        self._entries, self._first = entries, first

    def launch(self, stream: Any = None) -> None:
        counts["graphs"] += 1
        for entry in self._entries:
            getattr(entry.call, "begins", lambda: None)()
        _device.launch(self._entries, self._first, get_current_stream().ptr if stream is None else stream.ptr)


class Event:
    def __init__(self, disable_timing: bool = False) -> None:
        self.token: Any = None

    def record(self, stream: Stream) -> None:
        self.token = object()
        _device.add(Entry(stream.ptr, record=self.token))


class Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking, self.ptr = non_blocking, next(_numbers)

    def use(self) -> Stream:
        _streams[self.ptr] = self
        _device.current.stream = self.ptr
        return self

    def synchronize(self) -> None:
        counts["waits"] += 1
        settle(self.ptr)

    def wait_event(self, event: Event) -> None:
        if event.token is not None:
            _device.add(Entry(self.ptr, wait=event.token))

    def begin_capture(self) -> None:
        assert self.non_blocking, "the legacy stream cannot be captured"
        _device.captured, _device.capturing[:] = [], [self.ptr]

    def end_capture(self) -> Graph:
        entries = _device.end_capture()
        counts["captured"] += 1
        return Graph(entries, self.ptr)


def get_current_stream() -> Stream:
    return _streams[_device.current.stream]


def alloc_pinned_memory(nbytes: int) -> Any:
    if _device.captured is not None:
        raise _device.CaptureError("memory is allocated while a stream is capturing")
    return (ctypes.c_char * nbytes).from_buffer(bytearray(b"\xa5" * nbytes))  # what was there before


def _memcpy(to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
    counts["up" if kind == 1 else "down"] += nbytes
    give(lambda: ctypes.memmove(to, source, nbytes), stream)


def _visible() -> int:
    """How many GPUs this process sees: of all, which STANDIN_GPUS says, those in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return int(os.environ.get("STANDIN_GPUS", "1")) if named is None else len(named.split(","))


class CUDARuntimeError(RuntimeError):
    pass


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    driverGetVersion=lambda: 13000,
    getDeviceCount=_visible,
    getDevice=lambda: _device.current.device,
    deviceGetPCIBusId=lambda device: f"0000:{device + 1:02x}:00.0",
    memGetInfo=lambda: (7 << 30, 8 << 30),
    getDeviceProperties=lambda number: {
        "name": b"a stand-in",
        "totalGlobalMem": 8 << 30,
        "major": 9,
        "minor": 0,
        "uuid": bytes([number + 1] * 16),
    },
    memcpyAsync=_memcpy,
    memcpyHostToDevice=1,
    memcpyDeviceToHost=2,
)
runtime.__name__ = "cupy.cuda.runtime"
sys.modules["cupy.cuda.runtime"] = runtime  # type: ignore[assignment]
_streams[None] = _null = Stream()
_null.ptr = None  # a thread's before it uses another
