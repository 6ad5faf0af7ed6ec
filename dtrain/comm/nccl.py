"""Summing between GPUs: by NCCL, by an MPI that takes their memory, or staged through pinned host memory.

Which it is, is asked of the libraries and agreed on by all ranks; nothing is assumed of their names.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import EnvironmentProblem, RanksLost


def gpu_aware() -> bool | None:
    """Whether the MPI of this process takes memory of NVIDIA GPUs; None where it does not say."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized() or mpi.Is_finalized():
        return None  # MPICH ends a process that asks it then
    try:
        with open("/proc/self/maps") as maps:
            names = {line.split(maxsplit=5)[5].strip() for line in maps if "/libmpi" in line}
        asked = (getattr(ctypes.CDLL(name), "MPIX_Query_cuda_support", None) for name in names)
        return next((bool(ask()) for ask in asked if ask), None)
    except OSError:  # not Linux
        return None


def join(comm: Communicator, backend: Any) -> None:
    """Settle, once for a communicator, how its GPUs sum. Collective: every rank has one, the backend's."""
    if comm.size > 1 and comm.device_sums is None:
        comm.device_sums = DeviceSums(comm, backend.xp, backend.share)
        comm.averaging = comm.device_sums.name


class DeviceSums:
    """How the ranks' GPUs sum. Making one is collective: every rank has a GPU, and calls it.

    xp: CuPy. share: whether ranks may have one GPU. name: the way that was chosen, and why not a faster one,
    for the report.

    Raises:
        EnvironmentProblem: on all ranks, where some share a GPU that should not.
    """

    def __init__(self, comm: Communicator, xp: Any, share: bool = False) -> None:
        self._comm, self._xp = comm, xp
        self._nccl: Any = None
        bus = xp.cuda.runtime.deviceGetPCIBusId(xp.cuda.runtime.getDevice())
        places = comm.gather_text(f"{comm.node[0]} {bus}")
        twice = next((r for r, place in enumerate(places) if place in places[:r]), None)
        if twice is not None and not share:
            first = places.index(places[twice])
            error = EnvironmentProblem(
                f"--device gpu: {comm.name(first)} and {comm.name(twice)} have one GPU, "
                f"{places[twice].split()[1]}. "
                "Start as many ranks a node as it has GPUs, each bound to its own (launch/bind, or the "
                "scheduler), let them share "
                "(--share-gpu, or DTRAIN_SHARE_GPU=on), or "
                "compute on CPUs (--device cpu)."
            )
            error.agreed = True
            raise error
        nccl = _load()
        found = comm.allgather(np.array([[nccl is not None, gpu_aware() is True]]))
        has = [bool(column.all()) for column in found.T]
        self._aware = False
        if twice is not None:
            self.name = "staged through the host (ranks share a GPU)"
        elif has[0] and not comm.elastic:
            self._join(nccl)
            self.name = f"NCCL {version_text(nccl.get_version())}"
        elif has[1]:
            self._aware = True
            self.name = "GPU-aware MPI"
        else:
            why = "--elastic" if has[0] else "no NCCL, and an MPI that does not say it takes memory of GPUs"
            self.name = f"staged through the host ({why})"

    def _join(self, nccl: Any) -> None:
        comm = self._comm
        unique = np.zeros(128, np.uint8)
        if comm.rank == 0:
            unique[:] = np.frombuffer(nccl.get_unique_id(), np.uint8)
        comm.broadcast(unique)
        self._nccl = nccl
        self._ring = nccl.NcclCommunicator(comm.size, unique.tobytes(), comm.rank)
        self._stream = self._xp.cuda.Stream(non_blocking=True)

    def reducer(self, source: Any, out: Any) -> Callable[[], Any]:
        """A call that sums flat source over all ranks into out, which may be the same memory.

        Its attribute `capturable`: whether a CUDA graph may hold it.
        """
        if self._nccl is not None:
            call, capturable = self._by_nccl(source, out), True
        else:
            call, capturable = (self._by_mpi if self._aware else self._staged)(source, out), False
        call.capturable = capturable  # type: ignore[attr-defined]
        return call

    def _by_nccl(self, source: Any, out: Any) -> Callable[[], Any]:
        cuda, ring, stream, nccl = self._xp.cuda, self._ring, self._stream, self._nccl
        ready, done = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)
        dtype = getattr(nccl, f"NCCL_{source.dtype.name.upper()}")

        def kernel() -> None:
            try:
                ring.check_async_error()
                computing = cuda.get_current_stream()
                ready.record(computing)
                stream.wait_event(ready)
                ring.allReduce(source.data.ptr, out.data.ptr, source.size, dtype, nccl.NCCL_SUM, stream.ptr)
                done.record(stream)
                computing.wait_event(done)
            except nccl.NcclError as error:
                ring.abort()
                raise RanksLost(f"NCCL lost another rank in a sum of gradients: {error}.") from None

        return kernel

    def _by_mpi(self, source: Any, out: Any) -> Callable[[], Any]:
        xp, comm = self._xp, self._comm

        def kernel() -> None:
            if source.data.ptr != out.data.ptr:
                xp.copyto(out, source)
            xp.cuda.get_current_stream().synchronize()  # MPI knows no streams
            comm.allreduce(out)

        return kernel

    def _staged(self, source: Any, out: Any) -> Callable[[], Any]:
        comm = self._comm
        host = np.frombuffer(self._xp.cuda.alloc_pinned_memory(source.nbytes), source.dtype, source.size)

        def kernel() -> None:
            source.get(out=host)  # waits for the stream that computes it
            out.set(comm.allreduce(host))

        return kernel


def version_text(number: int) -> str:
    """'2.32.3' for NCCL's 23203; before 2.9 it counted 2.8.4 as 2804."""
    major, rest = divmod(number, 10_000 if number >= 10_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _load() -> Any:
    """CuPy's NCCL, or None where it or its library is missing."""
    try:
        from cupy.cuda import nccl
    except Exception:
        return None
    return nccl if getattr(nccl, "available", True) else None
