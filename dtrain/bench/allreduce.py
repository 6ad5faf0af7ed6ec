"""How long the ranks take to sum an array, by its size: as training does it, and by MPI's allreduce.

Beside it stands what the network itself takes: two ranks exchange as many bytes, on two nodes where there
are two.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dtrain.bench import table
from dtrain.comm.base import Communicator

#: Bytes on each rank; the mlp's gradients are 1,077,288.
SIZES = (4, 4 << 10, 64 << 10, 1 << 20, 16 << 20)
#: Seconds for each, and how often it is done at least and at most.
BUDGET, LEAST, MOST = 0.2, 5, 1000


def measure(comm: Communicator, sizes: tuple[int, ...] = ()) -> dict[str, Any]:
    """Medians of the slowest rank's seconds; sizes: bytes on each rank, SIZES where none are given."""
    found = []
    pair = partners(comm.hosts)
    other = pair[1 - pair.index(comm.rank)] if comm.rank in pair else comm.rank
    for nbytes in (sizes or SIZES) if comm.size > 1 else ():
        values = np.ones(nbytes // 4, np.float32)
        facts: dict[str, Any] = {"bytes": nbytes, "mpi": _median(comm, partial(comm.allreduce, values))}
        bucket = comm.bucket(nbytes)
        if bucket is not None:
            own, out = (memory.view(np.float32) for memory in bucket)
            facts["bucket"] = _median(comm, comm.reducer(own, out))
        into = np.empty_like(values)
        facts["exchange"] = _median(comm, partial(comm.exchange, values, into, other))
        found.append(facts)
    between = "nodes" if len(set(comm.hosts)) > 1 else "ranks of one node"
    return {"ranks": comm.size, "average": comm.averaging, "between": between, "sums": found}


def partners(hosts: Sequence[str]) -> tuple[int, int]:
    """The two ranks that try the network: the first, and the first on another node, or its neighbour."""
    return 0, next((rank for rank, host in enumerate(hosts) if host != hosts[0]), len(hosts) > 1)


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
        rows.append([*row, f"{of['exchange'] * 1e6:.1f}"])
    head = ["  on each rank", f"{facts['average']}, us", "GB/s", "MPI's allreduce, us", "GB/s"]
    head.append(f"exchange between two {facts['between']}, us")
    return [f"summing over {facts['ranks']} ranks", *table(head, rows)]
