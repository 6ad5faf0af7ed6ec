"""Summing between GPUs: by NCCL, by an MPI that takes their memory, or staged through pinned host memory.

Which it is, is asked of the libraries and agreed on by all ranks; nothing is assumed of their names.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.comm.link import Link, Probe, measure
from dtrain.errors import EnvironmentProblem, RanksLost

#: Seconds between two questions to NCCL whether it has lost a rank.
LOOK = 0.5
#: Seconds that it may take to join the ranks.
JOIN = 120.0
#: NCCL's communicators are never destroyed: that waits for ever while a graph holds a sum of theirs.
_RINGS: list[Any] = []
#: Bytes of the sum, and rows and columns of the products, that measure what sums take.
PROBE, ROWS = 16 << 20, 1024


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
        sums = comm.device_sums = DeviceSums(comm, backend.xp, backend.identity, backend.share)
        comm.averaging = sums.name
        if comm.overlap != "off" and sums.by_nccl:
            sums.prepare(backend, forced=comm.overlap == "on")
            comm.averaging += f"; {sums.link}"
        elif comm.overlap == "on":
            comm.averaging += "; no sum begins early (only NCCL's can)"


class DeviceSums:
    """How the ranks' GPUs sum. Making one is collective: every rank has a GPU, and calls it.

    xp: CuPy. gpu: the bus of the GPU, a blank, and its id (see gpus.identity). share: whether ranks may have
    one GPU. name: the way that was chosen, and why not a faster one, for the report. link: what sums take,
    where some may begin early.

    Raises:
        EnvironmentProblem: on all ranks, where some share a GPU that should not, or have another NCCL.
    """

    link: Link | None = None
    _ring: Any = None

    def __init__(self, comm: Communicator, xp: Any, gpu: str, share: bool = False) -> None:
        self._comm, self._xp = comm, xp
        self._nccl: Any = None
        places = comm.gather_text(f"{comm.node[0]} {gpu}")
        twice = next((r for r, place in enumerate(places) if place in places[:r]), None)
        if twice is not None and not share:
            first = places.index(places[twice])
            raise EnvironmentProblem(
                f"--device gpu: {comm.name(first)} and {comm.name(twice)} have one GPU, "
                f"{places[twice].split()[1]}. Start as many ranks a node as it has GPUs, each bound to its "
                "own (launch/bind, or the scheduler), let them share (--share-gpu, or DTRAIN_SHARE_GPU=on), "
                "or compute on CPUs (--device cpu)."
            ).on_every_rank()
        nccl = load()
        found = comm.allgather(np.array([[nccl is not None, gpu_aware() is True]]))
        has = [bool(column.all()) for column in found.T]
        self._aware = False
        if twice is not None:
            self.name = "staged through the host (ranks share a GPU)"
            return
        if len({tuple(place.split()[:2]) for place in places}) < comm.size:
            why = "NCCL does not join instances of one GPU (MIG)"
        elif has[0] and not comm.elastic:
            version = version_text(nccl.get_version())
            comm.agree_on("the version of NCCL", version)  # two of them may wait for each other for ever
            why = self._join(nccl)
            if not why:
                self.name = f"NCCL {version}"
                return
            why = f"NCCL {version} cannot join the ranks: {why}; NCCL_DEBUG=INFO says more"
        else:
            why = "--elastic" if has[0] else "no NCCL, and an MPI that does not say it takes memory of GPUs"
        self._aware = has[1]
        self.name = f"GPU-aware MPI ({why})" if has[0] else "GPU-aware MPI"
        if not self._aware:
            self.name = f"staged through the host ({why})"

    def _join(self, nccl: Any) -> str:
        """Let NCCL join the ranks, and sum once; why a rank cannot, '' where all can. Collective."""
        comm, why = self._comm, ""
        # a graph's sums and others are never under way at once (see Program), which NCCL would look to
        os.environ.setdefault("NCCL_GRAPH_MIXING_SUPPORT", "0")
        unique = np.zeros(129, np.uint8)  # and whether there is one
        if comm.rank == 0:
            try:
                unique[:] = *nccl.get_unique_id(), 1
            except Exception as error:
                why = _said(error)
        comm.broadcast(unique)
        if unique[128]:
            why = self._try(nccl, unique[:128].tobytes())
        whys = comm.gather_text(why)
        rank = next((r for r, said in enumerate(whys) if said), None)
        if rank is not None:
            if self._ring is not None:  # sums that wait for that rank end
                threading.Thread(target=_abort, args=(self._ring,), daemon=True).start()
            return f"{comm.name(rank)}: {whys[rank]}"
        self._nccl, self._lost = nccl, ""
        threading.Thread(target=self._watch, name="NCCL", daemon=True).start()
        return ""

    def _try(self, nccl: Any, unique: bytes) -> str:
        """Make NCCL's communicator and sum by it; why that cannot be, on this rank.

        In a thread: where another rank fails NCCL waits for it, without an end.
        """
        xp, size, rank = self._xp, self._comm.size, self._comm.rank
        device = xp.cuda.runtime.getDevice()
        said: list[str] = []

        def work() -> None:
            try:
                xp.cuda.Device(device).use()
                self._ring = ring = nccl.NcclCommunicator(size, unique, rank)
                _RINGS.append(ring)
                stream = xp.cuda.Stream(non_blocking=True)
                stream.use()
                for count in (1, PROBE // 4):  # short and long ones may take different ways
                    array = xp.asarray(np.ones(count, np.float32))
                    at = (array.data.ptr, array.data.ptr, count)
                    ring.allReduce(*at, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream.ptr)
                    total = float(array[:1].get()[0])  # waits for the stream
                    if total != size:
                        raise ArithmeticError(f"a sum of {size} ones is {total}")
                self._stream = stream
                said.append("")
            except Exception as error:
                said.append(_said(error))

        thread = threading.Thread(target=work, name="NCCL joins", daemon=True)
        thread.start()
        thread.join(JOIN)
        return said[0] if said else f"it waits for another rank, after {JOIN:g} s"

    @property
    def by_nccl(self) -> bool:
        return self._nccl is not None

    def _watch(self) -> None:
        """Ask NCCL whether it has lost a rank, since a captured step asks nobody, and waits for ever."""
        while not self._lost:
            time.sleep(LOOK)
            try:
                self._ring.check_async_error()
            except Exception as error:  # CuPy has no word for some of NCCL's, and then raises a KeyError
                self._lost = _said(error)
                # kernels that wait for the other rank end; the call itself may not, while graphs hold sums
                _abort(self._ring)

    def check(self) -> None:
        """Raise RanksLost where NCCL has lost a rank: what it has summed since is nothing."""
        if self.by_nccl and self._lost:
            raise RanksLost(f"NCCL lost another rank in a sum of gradients: {self._lost}.")

    def prepare(self, backend: Any, forced: bool) -> None:
        """Measure what sums by NCCL take. Collective."""
        cuda, stream, xp = self._xp.cuda, self._stream, self._xp
        short, long = xp.zeros(1, np.float32), xp.zeros(PROBE // 4, np.float32)
        a, out = (xp.zeros((ROWS, ROWS), np.float32) for _ in range(2))
        product = backend.blas.product(a, a, out, False, False) or partial(xp.matmul, a, a, out)

        def sums(array: Any, times: int) -> None:
            for _ in range(times):
                self._sum(array, array)
            stream.synchronize()

        def products(times: int) -> None:
            for _ in range(times):
                product()
            cuda.get_current_stream().synchronize()

        def both(times: int) -> None:
            self._sum(long, long)
            products(times)
            stream.synchronize()

        backend.synchronize()  # what is summed is there
        for call in (partial(sums, short), partial(sums, long), products, both):
            call(1)  # the first of each loads what the others find
        probe = Probe(partial(sums, short), partial(sums, long), PROBE, products, 2.0 * ROWS**3, both)
        self.link = measure(self._comm, probe, forced)

    def reducer(self, source: Any, out: Any) -> Callable[[], Any]:
        """A call that sums flat source over all ranks into out, which may be the same memory.

        Its attribute `capturable`: whether a CUDA graph may hold it.
        """
        if not self.by_nccl or self._type(source) is None:
            call = (self._by_mpi if self._aware else self._staged)(source, out)
            call.capturable = False  # type: ignore[attr-defined]  # a function has attributes
            return call
        begin, end = self.begun([(source, out)])

        def both() -> None:
            begin()
            end()

        both.capturable = True  # type: ignore[attr-defined]  # a function has attributes
        return both

    def begun(self, sums: Sequence[tuple[Any, Any]]) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Two calls, by NCCL: one begins the sums of such pairs, one has what comes then wait for them.

        Both are `capturable`.
        """
        cuda, stream = self._xp.cuda, self._stream
        ready, done = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)

        def begin() -> None:
            ready.record(cuda.get_current_stream())
            stream.wait_event(ready)
            for source, out in sums:
                self._sum(source, out)
            done.record(stream)

        def end() -> None:
            cuda.get_current_stream().wait_event(done)

        begin.capturable = end.capturable = True  # type: ignore[attr-defined]  # a function has attributes
        return begin, end

    def _type(self, array: Any) -> Any:
        """NCCL's number of a dtype; None: it has none."""
        return getattr(self._nccl, f"NCCL_{array.dtype.name.upper()}", None)

    def _sum(self, source: Any, out: Any) -> None:
        """Begin one sum, on the stream for sums."""
        nccl, at = self._nccl, (source.data.ptr, out.data.ptr, source.size)
        try:
            self._ring.allReduce(*at, self._type(source), nccl.NCCL_SUM, self._stream.ptr)
        except Exception as error:
            self._lost = self._lost or _said(error)
            self.check()

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


def _abort(ring: Any) -> None:
    with suppress(Exception):
        ring.abort()


def _said(error: BaseException) -> str:
    """An error in a line."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def version_text(number: int) -> str:
    """'2.32.3' for NCCL's 23203; before 2.9 it counted 2.8.4 as 2804."""
    major, rest = divmod(number, 10_000 if number >= 10_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def load() -> Any:
    """CuPy's NCCL, or None where it or its library is missing."""
    try:
        with warnings.catch_warnings():  # of a page of advice on each rank
            warnings.simplefilter("ignore")
            from cupy.cuda import nccl
    except Exception:
        return None
    return nccl if getattr(nccl, "available", True) else None
