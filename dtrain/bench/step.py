"""Where the time of a training step goes, by kind of operation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from dtrain.bench import table
from dtrain.bench.workload import BATCHES, Workload
from dtrain.comm.base import Communicator

WARM_UP, STEPS = 10, 60


def measure(comm: Communicator) -> dict[str, Any]:
    """Medians over steps, in microseconds, of rank 0: whole steps, and in turn with them their kernels."""
    work = Workload(comm)
    return {"batches": [_breakdown(work, batch) for batch in BATCHES]}


def _breakdown(work: Workload, batch: int) -> dict[str, Any]:
    # sixty batches are an epoch of the larger batch; of the smaller they are its beginning
    shards = list(work.batches(batch))[: WARM_UP + STEPS]
    for shard in shards[:WARM_UP]:
        work.step(shard)
    plan = work.plan()
    plain = plan.calls
    each = np.zeros((STEPS, len(plan.kernels)))
    whole, outside = np.zeros((2, STEPS))
    row = each[0]

    def timed(kernel: Callable[[], Any], position: int) -> Callable[[], None]:
        def run() -> None:
            begun = time.perf_counter()
            kernel()
            row[position] = time.perf_counter() - begun

        return run

    watched = [timed(kernel, position) for position, kernel in enumerate(plan.kernels)]
    for i in range(STEPS):
        shard = shards[i % len(shards)]
        begun = time.perf_counter()
        work.step(shard)
        whole[i] = time.perf_counter() - begun
        row = each[i]
        plan.calls = watched
        begun = time.perf_counter()
        work.step(shard)
        outside[i] = time.perf_counter() - begun - row.sum()
        plan.calls = plain
    kinds = [
        "waiting for ranks" if symbol == "meet" else type(node.kind).__name__
        for node, symbol in zip(plan.kernel_nodes, plan.kernel_symbols, strict=True)
    ]
    calls = Counter(kinds)
    of_kind = {
        kind: float(np.median(each[:, [k == kind for k in kinds]].sum(1)) * 1e6)
        for kind in dict.fromkeys(kinds)
    }
    return {
        "batch": batch,
        "microseconds": float(np.median(whole) * 1e6),
        "kernels": [
            {"kind": kind, "calls": calls[kind], "microseconds": value}
            for kind, value in sorted(of_kind.items(), key=lambda item: -item[1])
        ],
        "outside_microseconds": float(np.median(outside) * 1e6),
    }


def text(facts: dict[str, Any]) -> list[str]:
    lines = ["a training step of the mlp with Adam, by kind of operation"]
    for of in facts["batches"]:
        whole = of["microseconds"]
        rows = [
            [
                f"  {k['kind']}",
                str(k["calls"]),
                f"{k['microseconds']:.0f}",
                f"{k['microseconds'] / whole:.0%}",
            ]
            for k in of["kernels"]
        ]
        outside = of["outside_microseconds"]
        rows.append(["  feeding, calling, fetching", "", f"{outside:.0f}", f"{outside / whole:.0%}"])
        rows.append(["  the step", "", f"{whole:.0f}", "100%"])
        lines += table([f"  global batch {of['batch']:,}", "calls", "us", ""], rows)
    return lines
