"""Seconds of an epoch of the mlp with Adam by the size of the global batch, on the ranks that there are."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from dtrain.bench import table
from dtrain.bench.workload import EXAMPLES, Workload
from dtrain.comm.base import Communicator

BATCHES = (100, 250, 1000, 4000)
WARM_UP, ROUNDS = 10, 3
#: Seconds after which no further round begins: a slow machine says less rather than later.
BUDGET = 15.0


def measure(comm: Communicator) -> dict[str, Any]:
    """Medians over epochs, the batches in turn; of rank 0, whom the others keep step with."""
    work = Workload(comm)
    for batch in BATCHES:
        for _, shard in zip(range(WARM_UP), work.batches(batch), strict=False):
            work.step(shard)
    seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    waited: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for batch in BATCHES:
            comm.barrier()
            begun, before = time.perf_counter(), comm.seconds
            for shard in work.batches(batch):
                work.step(shard)
            seconds[batch].append(time.perf_counter() - begun)
            waited[batch].append(comm.seconds - before)
        if comm.broadcast(np.array([time.perf_counter() - started]))[0] > BUDGET:
            break
    return {
        "ranks": comm.size,
        "epochs": [
            {
                "batch": batch,
                "steps": -(-EXAMPLES // batch),
                "seconds": statistics.median(seconds[batch]),
                "communication_fraction": sum(waited[batch]) / sum(seconds[batch]),
            }
            for batch in BATCHES
        ],
    }


def text(facts: dict[str, Any]) -> list[str]:
    ranks = facts["ranks"]
    rows = [
        [
            f"  {e['batch']:,}",
            str(e["steps"]),
            f"{e['seconds']:.3f}",
            f"{e['seconds'] / e['steps'] * 1e3:.2f}",
            f"{EXAMPLES / e['seconds']:,.0f}",
            f"{e['communication_fraction']:.0%}" if ranks > 1 else "",
        ]
        for e in facts["epochs"]
    ]
    head = [
        "  global batch",
        "steps",
        "s an epoch",
        "ms a step",
        "images/s",
        "communication" if ranks > 1 else "",
    ]
    return [
        f"an epoch of the mlp with Adam on {ranks} {'rank' if ranks == 1 else 'ranks'}",
        *table(head, rows),
    ]
