"""NCCL's calls, over MPI: a sum is made when its stream comes to it, on every rank.

There where STANDIN_GPUS says how many GPUs a node has. STANDIN_NCCL=refuse: it joins no ranks. A sum that is
captured on some ranks and not on others ends in an error, where NCCL would wait for ever. So does one outside
a graph while one inside is under way, or the other way round, where NCCL has been told that there is none.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from cupy import _device

available = "STANDIN_GPUS" in os.environ
NCCL_SUM = 0
NCCL_INT32, NCCL_INT64, NCCL_FLOAT32, NCCL_FLOAT64 = 2, 4, 7, 8
_TYPES = {NCCL_INT32: "i4", NCCL_INT64: "i8", NCCL_FLOAT32: "f4", NCCL_FLOAT64: "f8"}


#: Sums that are under way, outside graphs and inside.
under_way = {False: 0, True: 0}


class NcclError(RuntimeError):
    pass


def _begin(inside: bool) -> None:
    if os.environ.get("NCCL_GRAPH_MIXING_SUPPORT") == "0" and under_way[not inside]:
        raise NcclError("a sum in a graph and one outside are under way at once")
    under_way[inside] += 1


def get_version() -> int:
    return 22703


def get_unique_id() -> bytes:
    return b"u" * 128


class NcclCommunicator:
    def __init__(self, size: int, unique: bytes, rank: int) -> None:
        from mpi4py import MPI

        assert unique == b"u" * 128
        if os.environ.get("STANDIN_NCCL") == "refuse":
            raise NcclError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")
        self._mpi = MPI
        self._comm = MPI.COMM_WORLD.Dup()
        assert (self._comm.size, self._comm.rank) == (size, rank)

    def check_async_error(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def allReduce(self, source: int, out: int, count: int, dtype: int, op: int, stream: Any) -> None:
        assert op == NCCL_SUM
        given, result = (self._array(at, count, _TYPES[dtype]) for at in (source, out))

        inside = _device.captured is not None
        captured = np.array([inside])

        def total() -> None:
            under_way[inside] -= 1
            uniform = np.empty(self._comm.size, bool)
            self._comm.Allgather(captured, uniform)
            if (uniform != captured).any():
                raise NcclError("a sum is captured on some ranks only")
            terms = given.copy()
            result.fill(np.nan if dtype in (NCCL_FLOAT32, NCCL_FLOAT64) else -1)  # as it may be meanwhile
            self._comm.Allreduce(terms, result, op=self._mpi.SUM)

        if inside:
            total.begins = lambda: _begin(True)  # type: ignore[attr-defined]
        else:
            _begin(False)
        _device.counts["sums"] += 1
        _device.give(total, stream)

    @staticmethod
    def _array(at: int, count: int, dtype: str) -> np.ndarray:
        memory = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(at)
        return np.frombuffer(memory, dtype, count)
