"""What sums among the ranks take, measured at the start: passes/overlap.py says which begin early by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dtrain.comm.base import Communicator

#: Each figure is the least of so many tries, on the rank that took longest.
TRIES = 5
#: Seconds of a try that is one of few: there is then no noise to speak of, and five would hold up a start.
SLOW = 0.1
#: Sums of nothing that one try makes.
SHORT = 5
#: Products that may be computed beside one sum.
MOST = 100


class Link(NamedTuple):
    """What sums among the ranks take, as measured at the start and agreed on.

    latency: seconds of a sum of nothing. bandwidth: bytes a second of a long one. flops: operations a second
    of a rank's matrix products. hidden: the part of a sum that costs nothing beside products, 0 to 1. forced:
    whether sums begin early even where that is not expected to pay.
    """

    latency: float
    bandwidth: float
    flops: float
    hidden: float
    forced: bool

    def seconds(self, nbytes: float) -> float:
        """What a sum takes."""
        return self.latency + nbytes / self.bandwidth

    def __str__(self) -> str:
        figures = f"{self.latency * 1e3:.2g} ms and {self.bandwidth / 1e6:.0f} MB/s"
        return f"a sum takes {figures}, {self.hidden:.0%} of it beside products"


class Probe(NamedTuple):
    """Calls that return when what they do is done: sums of few bytes and of nbytes, products of `flops`
    operations each, so many; and a long sum beside so many products.
    """

    short: Callable[[int], Any]
    long: Callable[[int], Any]
    nbytes: int
    products: Callable[[int], Any]
    flops: float
    both: Callable[[int], Any]


def measure(comm: Communicator, probe: Probe, forced: bool) -> Link | None:
    """Measure a link; None where a sum of nothing is slow, unless forced. Collective."""

    def least(call: Callable[[int], Any], times: int, tries: int = TRIES) -> float:
        found = np.inf
        for number in range(tries):
            comm.barrier()
            begun = time.perf_counter()
            call(times)
            found = min(found, time.perf_counter() - begun)
            if number == 0 and (slowest := _slowest(comm, found)) > SLOW:
                return slowest
        return _slowest(comm, found)

    before = comm.seconds
    if least(probe.short, 1, 1) > SLOW and not forced:
        comm.seconds = before
        return None
    latency, moving, one = least(probe.short, SHORT) / SHORT, least(probe.long, 1), least(probe.products, 1)
    times = min(max(round(moving / one), 1), MOST)
    working = least(probe.products, times)
    saved = (moving + working - least(probe.both, times)) / min(moving, working)
    comm.seconds = before  # it is no part of what training waits
    bandwidth = probe.nbytes / max(moving - latency, 1e-6)
    return Link(latency, bandwidth, probe.flops / one, min(max(saved, 0.0), 1.0), forced)


def _slowest(comm: Communicator, seconds: float) -> float:
    return float(comm.allreduce(np.array([seconds]), "max")[0])
