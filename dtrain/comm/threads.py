"""How many BLAS threads a rank takes: its share of the cores, unless the user says otherwise.

A BLAS starts a thread for each core that its process may use, in every rank: two ranks on two cores then ran
33 times too slow. Its threads wait for one another several times in a product, by giving their core away
(sched_yield): where another process wants that core it has it for a whole time slice, and a product of 0.1 ms
takes 5. So a process that is alone in its job does not take the cores on which others compute at its start.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dtrain.comm import launcher

if TYPE_CHECKING:
    from dtrain.comm.base import Communicator

#: Variables by which a user says how many threads the BLAS takes.
VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def none_at_first() -> Iterator[None]:
    """Within, a BLAS that is loaded starts no threads in one of several ranks; limit() starts its share.

    Idle ones spin for a while: each of 2 ranks on 2 cores took 140 ms to import NumPy, without them 76.
    """
    if launcher.size() == 1 or any(name in os.environ for name in VARIABLES):
        yield
        return
    os.environ[VARIABLES[0]] = "1"
    try:
        yield
    finally:
        del os.environ[VARIABLES[0]]


def usable_cores() -> set[int]:
    """The cores that this process may run on; the machine may have more."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS binds no process


def others_running(looks: int = 3, pause: float = 0.002) -> int:
    """Threads of other processes that run or wait for a core: the fewest of some looks; 0 but on Linux."""
    fewest = _others()
    for _ in range(looks - 1):
        if fewest:
            time.sleep(pause)
            fewest = min(fewest, _others())
    return fewest


def _others() -> int:
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        # a BLAS that has just been loaded has threads that spin
        states = (file.read_text().rpartition(")")[2] for file in Path("/proc/self/task").glob("*/stat"))
        return max(0, running - sum(state.split()[0] == "R" for state in states))
    except (OSError, ValueError, IndexError):
        return 0


def share(cores: list[set[int]], rank: int) -> int:
    """Threads for one of a node's ranks, which run on `cores`: each is divided among those who have it."""
    parts = sum(1 / sum(core in others for others in cores) for core in cores[rank])
    return max(1, int(parts + 1e-9))


def crowd(cores: list[set[int]], threads: list[int]) -> str:
    """What to say where ranks of one node have several threads and more of them than cores; else ''."""
    available = len(set.union(*cores))
    if max(threads) == 1 or sum(threads) <= available:
        return ""
    return (
        f"{sum(threads)} BLAS threads of {len(threads)} {'rank' if len(threads) == 1 else 'ranks'} share "
        f"{available} {'core' if available == 1 else 'cores'}, which is slower than one thread a core"
    )


def limit(comm: Communicator) -> None:
    """Keep this rank's BLAS to its share of the cores it may use; collective.

    The ranks of a node share the cores that they may all use; those that the launcher bound to cores of their
    own keep them. A user's own *_NUM_THREADS wins, on the rank that has it, with a warning where a node then
    has more threads than cores. One process alone takes the cores that are free now.
    """
    chosen = next((name for name in VARIABLES if name in os.environ), None)
    mine = usable_cores()
    if comm.size == 1 and chosen is None:
        if len(mine) > 1 and (others := others_running()):
            from threadpoolctl import threadpool_limits

            threadpool_limits(max(1, len(mine) - others), "blas")
        return  # the BLAS takes the cores of this process by itself
    from threadpoolctl import threadpool_info, threadpool_limits

    everyone = [set(map(int, text.split())) for text in comm.gather_text(" ".join(map(str, mine)))]
    ranks = comm.node
    if chosen is None:
        threadpool_limits(share([everyone[rank] for rank in ranks], ranks.index(comm.rank)))
    taken = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    threads = [int(text) for text in comm.gather_text(str(taken))]
    if comm.rank == 0:
        crowded = crowd([everyone[rank] for rank in ranks], [threads[rank] for rank in ranks])
        if chosen and crowded:
            print(
                f"dtrain: WARNING: {crowded}: {chosen}={os.environ[chosen]} says so; unset it, and each rank "
                "takes its share.",
                file=sys.stderr,
                flush=True,
            )
