"""Who is missing while the ranks meet: MPI_Init waits for ever for a rank that has ended before it.

A launcher sees a rank that is killed or fails; one that ends with 0 looks well to it. The others are the
launcher's processes on this node, so a rank counts them while it waits.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dtrain.comm import launcher, monitor

#: Seconds between two looks, and those for which a rank has to be missing: a launcher starts one after the
#: other.
LOOK, PATIENCE = 0.5, 1.5


@contextmanager
def until_all_are_here() -> Iterator[None]:
    """End this process where another rank of its node, for which the block waits, has ended before it."""
    started, size = launcher.detect(), launcher.local_size()
    here = threading.Event()
    if started and size > 1 and os.path.isdir("/proc/self"):
        threading.Thread(target=_watch, args=(started.local_rank, size, here), daemon=True).start()
    yield
    here.set()


def _watch(variable: str, size: int, here: threading.Event) -> None:
    missed = 0.0
    while not here.wait(LOOK):
        present = present_ranks(variable)
        missing = sorted(set(range(size)) - present)
        missed = missed + LOOK if missing else 0.0
        # the first of those that are there speaks; the launcher ends the others with it
        if missed >= PATIENCE and launcher.local_rank() == min(present, default=0) and not here.is_set():
            print(
                f"dtrain: error: local rank {missing[0]} of the {size} on {socket.gethostname()} has ended "
                "before it joined the others, which would wait for it for ever. Every rank has to run the "
                "same program.",
                file=sys.stderr,
                flush=True,
            )
            os._exit(monitor.LOST)


def present_ranks(variable: str) -> set[int]:
    """Local ranks, by this variable, of the processes that have the same parent as this one."""
    parent, start, found = str(os.getppid()), f"{variable}=".encode(), set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, other, *_ = file.read().rpartition(")")[2].split()
            if other != parent or state in "ZX":
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                values = [v[len(start) :] for v in file.read().split(b"\0") if v.startswith(start)]
        except OSError:
            continue
        found.update(int(v) for v in values if v.isdigit())
    return found
