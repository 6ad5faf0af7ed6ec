"""How near the matrix products of a step come to what a core can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from dtrain.bench import table
from dtrain.bench.workload import BATCHES
from dtrain.comm.base import Communicator
from dtrain.ops.placement import shard_bounds

LAYERS = (784, 256, 256, 10)
#: Rows and columns of the product whose rate counts as the peak.
LARGE = 1536
#: Seconds for each product.
BUDGET = 0.06


def products(rows: int) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    """The products of a step of the mlp on `rows` examples: what for, and the shapes of both sides."""
    found = []
    layers = list(pairwise(LAYERS))
    for i, (inputs, units) in enumerate(layers, 1):
        found.append((f"layer {i}", (rows, inputs), (inputs, units)))
    for i, (inputs, units) in reversed(list(enumerate(layers, 1))):
        found.append((f"gradient to weights {i}", (inputs, rows), (rows, units)))
        if i > 1:
            found.append((f"gradient to inputs {i}", (rows, units), (units, inputs)))
    return found


def measure(comm: Communicator) -> dict[str, Any]:
    """Each rank at once, on its share of the batch; rates are in GFLOP/s, of rank 0."""
    comm.barrier()
    peak = _rate(_pair((LARGE, LARGE), (LARGE, LARGE), False, False), min)[1]
    found = []
    for batch in BATCHES:
        low, high = shard_bounds(batch, comm.rank, comm.size)
        for name, a, b in products(high - low):
            comm.barrier()
            # as a step has them: what a gradient takes from the way forward lies transposed in memory
            seconds, rate = _rate(_pair(a, b, "weights" in name, "inputs" in name))
            found.append(
                {
                    "batch": batch,
                    "product": name,
                    "shape": [*a, b[1]],
                    "microseconds": seconds * 1e6,
                    "gflops": rate,
                    "of_peak": rate / peak,
                }
            )
    return {"peak_gflops": peak, "products": found}


def _pair(a: tuple[int, int], b: tuple[int, int], flip_a: bool, flip_b: bool) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    left = random.random(a[::-1] if flip_a else a, np.float32)
    right = random.random(b[::-1] if flip_b else b, np.float32)
    return left.T if flip_a else left, right.T if flip_b else right, np.empty((a[0], b[1]), np.float32)


def _rate(
    arrays: tuple[np.ndarray, ...], typical: Callable[[list[float]], float] = statistics.median
) -> tuple[float, float]:
    """Seconds that a product typically takes, and its rate in GFLOP/s."""
    a, b, out = arrays
    if out.size == 0 or a.size == 0:  # a rank without examples
        return 0.0, 0.0
    seconds: list[float] = []
    np.matmul(a, b, out=out)
    end = time.perf_counter() + BUDGET
    while len(seconds) < 5 or time.perf_counter() < end:
        begun = time.perf_counter()
        np.matmul(a, b, out=out)
        seconds.append(time.perf_counter() - begun)
    result = typical(seconds)
    return result, 2e-9 * a.shape[0] * a.shape[1] * b.shape[1] / result


def text(facts: dict[str, Any]) -> list[str]:
    lines = [f"matrix products, float32; the peak is that of {LARGE} x {LARGE} x {LARGE}, "]
    lines[0] += f"{facts['peak_gflops']:.0f} GFLOP/s a rank"
    for batch in sorted({p["batch"] for p in facts["products"]}):
        mine = [p for p in facts["products"] if p["batch"] == batch]
        rows = [
            [
                p["product"],
                " x ".join(map(str, p["shape"])),
                f"{p['microseconds']:.0f}",
                f"{p['gflops']:.0f}",
                f"{p['of_peak']:.0%}",
            ]
            for p in mine
        ]
        rows.append(["all of a step", "", f"{sum(p['microseconds'] for p in mine):.0f}", "", ""])
        lines += table([f"  global batch {batch:,}", "shape", "us", "GFLOP/s", "of peak"], _indented(rows))
    return lines


def _indented(rows: list[list[str]]) -> list[list[str]]:
    return [["  " + first, *rest] for first, *rest in rows]
