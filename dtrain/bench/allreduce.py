"""How long the ranks take to sum an array, by its size: as training does it, and by MPI's allreduce."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.bench import table
from dtrain.comm.base import Communicator

#: Bytes on each rank; the mlp's gradients are 1,077,288.
SIZES = (4, 4 << 10, 64 << 10, 1 << 20, 16 << 20)
#: Seconds for each, and how often it is done at least and at most.
BUDGET, LEAST, MOST = 0.2, 5, 1000


def measure(comm: Communicator) -> dict[str, Any]:
    """Medians of the slowest rank's seconds."""
    found = []
    for nbytes in SIZES if comm.size > 1 else ():
        values = np.ones(nbytes // 4, np.float32)
        facts: dict[str, Any] = {"bytes": nbytes, "mpi": _median(comm, lambda v=values: comm.allreduce(v))}
        bucket = comm.bucket(nbytes)
        if bucket is not None:
            own, out = (memory.view(np.float32) for memory in bucket)
            facts["bucket"] = _median(comm, comm.reducer(own, out))
        found.append(facts)
    return {"ranks": comm.size, "average": comm.averaging, "sums": found}


def _median(comm: Communicator, call: Callable[[], Any]) -> float:
    """Seconds of a call, the same number of calls on every rank."""

    def seconds(times: int) -> float:
        taken = []
        for _ in range(times):
            begun = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)

    seconds(LEAST)
    slowest = comm.allreduce(np.array([seconds(LEAST)]), "max")[0]
    times = int(np.clip(BUDGET / slowest, LEAST, MOST))
    return float(comm.allreduce(np.array([seconds(times)]), "max")[0])


def text(facts: dict[str, Any]) -> list[str]:
    if not facts["sums"]:
        return ["summing over ranks: one rank has nothing to sum; start it with mpirun -n N dtrain bench"]
    rows = []
    for of in facts["sums"]:
        row = [f"  {of['bytes']:,} bytes"]
        for way in ("bucket", "mpi"):
            if way in of:
                row += [f"{of[way] * 1e6:.1f}", f"{of['bytes'] / of[way] / 1e9:.2f}"]
            else:
                row += ["", ""]
        rows.append(row)
    head = ["  on each rank", f"{facts['average']}, us", "GB/s", "MPI's allreduce, us", "GB/s"]
    return [f"summing over {facts['ranks']} ranks", *table(head, rows)]
