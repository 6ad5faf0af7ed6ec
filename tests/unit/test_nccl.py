"""How GPUs sum, with fakes of the calls of CuPy and NCCL that it makes: no figure of a device is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dtrain.comm import SingleCommunicator, nccl
from dtrain.errors import RanksLost

ROOT = Path(__file__).parents[2]


class Two(SingleCommunicator):
    """Rank 0 of two that hold the same; places: where their GPUs are."""

    size, places = 2, ("0 01:00", "0 02:00")

    def gather_text(self, text: str) -> list[str]:
        return list(self.places)

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        array *= 2


class Memory:
    """Flat memory of a device."""

    def __init__(self, values: list[float]) -> None:
        self.values = np.array(values, np.float32)
        self.dtype, self.size, self.nbytes = self.values.dtype, len(values), self.values.nbytes
        self.data = SimpleNamespace(ptr=self)

    def get(self, out: np.ndarray) -> None:
        out[...] = self.values

    def set(self, array: np.ndarray) -> None:
        self.values[...] = array


class Stream:
    def __init__(self, log: list[Any], name: str) -> None:
        self.ptr, self.log = name, log

    def wait_event(self, event: Any) -> None:
        self.log.append((self.ptr, "waits", event.at))

    def synchronize(self) -> None:
        self.log.append((self.ptr, "synchronize"))


class Event:
    def __init__(self, disable_timing: bool) -> None:
        assert disable_timing

    def record(self, stream: Any) -> None:
        self.at = stream.ptr


def fakes(log: list[Any]) -> tuple[Any, Any]:
    """CuPy and NCCL, which write down what is asked of them."""
    main = Stream(log, "main")
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0, deviceGetPCIBusId=lambda device: "01:00"),
        Stream=lambda non_blocking: Stream(log, "nccl"),
        Event=Event,
        get_current_stream=lambda: main,
        alloc_pinned_memory=bytearray,
    )

    class NcclError(RuntimeError):
        pass

    class Ring:
        lost = False

        def __init__(self, size: int, unique: bytes, rank: int) -> None:
            assert (size, unique, rank) == (2, b"u" * 128, 0)

        def check_async_error(self) -> None:
            if Ring.lost:
                raise NcclError("NCCL_ERROR_REMOTE_ERROR")

        def allReduce(self, source: Any, out: Any, count: int, dtype: int, op: int, stream: str) -> None:
            log.append((stream, "sums", count, dtype, op))
            out.values[...] = 2 * source.values

        def abort(self) -> None:
            log.append("abort")

    library = SimpleNamespace(
        NcclCommunicator=Ring,
        NcclError=NcclError,
        NCCL_FLOAT32=7,
        NCCL_SUM=0,
        get_unique_id=lambda: b"u" * 128,
        get_version=lambda: 22703,
    )
    return SimpleNamespace(cuda=cuda, copyto=lambda out, source: out.set(source.values)), library


def test_nccl_sums_on_a_stream_between_two_events(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    cupy, library = fakes(log)
    monkeypatch.setattr(nccl, "_load", lambda: library)
    sums = nccl.DeviceSums(Two(), cupy)
    source, out = Memory([1, 2, 3]), Memory([0, 0, 0])
    reduce = sums.reducer(source, out)
    reduce()
    assert sums.name == "NCCL 2.27.3" and reduce.capturable  # type: ignore[attr-defined]
    assert log == [("nccl", "waits", "main"), ("nccl", "sums", 3, 7, 0), ("main", "waits", "nccl")]
    assert out.values.tolist() == [2, 4, 6]
    library.NcclCommunicator.lost = True
    with pytest.raises(RanksLost, match=r"NCCL lost another rank.*REMOTE_ERROR"):
        reduce()
    assert log[-1] == "abort"


def test_an_mpi_that_has_not_begun_is_not_asked() -> None:
    """MPICH would end the process."""
    code = "from dtrain import info; info.mpi(); from dtrain.comm import nccl; print(nccl.gpu_aware())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_ranks_that_share_a_gpu_or_have_no_nccl_go_through_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, library = fakes([])
    comm = Two()
    for found, places, why in (
        (library, ("0 01:00", "0 01:00"), "share a GPU"),
        (None, Two.places, "no NCCL"),
    ):
        monkeypatch.setattr(nccl, "_load", lambda found=found: found)
        comm.places = places
        sums = nccl.DeviceSums(comm, cupy, share=True)
        assert why in sums.name
        memory = Memory([1, 2, 3])
        reduce = sums.reducer(memory, memory)
        reduce()
        assert memory.values.tolist() == [2, 4, 6] and not reduce.capturable  # type: ignore[attr-defined]


def test_an_mpi_that_says_it_takes_gpu_memory_gets_it_after_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[Any] = []
    cupy, _ = fakes(log)
    monkeypatch.setattr(nccl, "_load", lambda: None)
    monkeypatch.setattr(nccl, "gpu_aware", lambda: True)
    comm = Two()
    monkeypatch.setattr(comm, "allreduce", lambda out: log.append(("MPI", out.values.tolist())))
    sums = nccl.DeviceSums(comm, cupy)
    sums.reducer(Memory([1, 2]), Memory([0, 0]))()
    assert sums.name == "GPU-aware MPI"
    assert log == [("main", "synchronize"), ("MPI", [1, 2])]
