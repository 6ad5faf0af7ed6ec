"""What a step on the GPU is made of: kernels, launches, bytes over the bus, and the time in which none runs.

    python inside.py BATCH...

Takes windows of steps of W as the trainer does, in one process. Bytes are counted where dtrain asks for
them; the share of the step in which no kernel runs is from CUPTI, through torch.profiler, where PyTorch is
installed. Prints a JSON line a batch.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.data import load
from dtrain.runtime.backend import make_backend
from dtrain.runtime.feeds import Window
from dtrain.task.network import TRAINING, build
from dtrain.task.trainer import make_optimizer

STEPS, WARM_UP = 100, 3


def measure(batch: int, backend: Any) -> dict[str, Any]:
    data = load("mnist", dt.comm.world())
    graph = dt.Graph()
    graph.seed = 0
    with graph.as_default():
        network = build("mlp", data)
        minimize = make_optimizer("adam", 0.001).minimize(network.loss)
        initialize = dt.global_variables_initializer()
    session = dt.Session(graph=graph, device=backend)
    session.run(initialize)
    network.lend(session)
    fetches = [network.loss, *network.sums, network.stopping, minimize]
    feeds = [network.indices, network.training, network.stop]
    steps = partial(session.make_callable(fetches, feeds).several, until=network.stopping)
    rows = np.random.default_rng(0).integers(0, 60_000, (STEPS + 1, batch)).astype(np.int32)
    vote = dt.Shard(np.zeros(1, np.float32), 1)

    def window() -> float:
        begun = time.perf_counter()
        steps(Window(rows, batch), TRAINING, vote)
        return time.perf_counter() - begun

    for _ in range(WARM_UP):
        window()
    moved = {"up": 0, "down": 0}

    def counted(way: str, move: Any, size: int) -> Any:
        def call(source: Any, out: Any) -> None:
            moved[way] += (source, out)[size].nbytes
            move(source, out)

        return call

    backend.upload = counted("up", backend.upload, 0)
    backend.download = counted("down", backend.download, 1)
    seconds = min(window() for _ in range(5))
    windows = 5 * (STEPS + 1)
    del backend.upload, backend.download
    facts = {
        "batch": batch,
        "us_a_step": 1e6 * seconds / (STEPS + 1),
        "kernels": [*session.plans.values()][-1].launches,
        "bytes_up_a_step": moved["up"] / windows,
        "bytes_down_a_step": moved["down"] / windows,
    }
    return facts | profiled(window)


def profiled(window: Any) -> dict[str, Any]:
    """Kernels, launches and idle time a step, as CUPTI has them."""
    try:
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        return {"cupti": "PyTorch is not installed here, so CUPTI was not asked"}
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        seconds = window()
    kernels = [e for e in recorded.events() if str(e.device_type).endswith("CUDA")]
    calls = [e for e in recorded.events() if e.name.startswith(("cudaLaunch", "cudaGraphLaunch", "cuLaunch"))]
    busy = end = 0.0  # several may run at once
    for begun, ended in sorted((e.time_range.start, e.time_range.end) for e in kernels):
        busy += max(ended - max(begun, end), 0.0)
        end = max(end, ended)
    return {
        "kernels_a_step": len(kernels) / (STEPS + 1),
        "launches_a_step": len(calls) / (STEPS + 1),
        "share_without_kernels": 1 - busy / (1e6 * seconds),
    }


if __name__ == "__main__":
    device = make_backend("gpu")
    for size in map(int, sys.argv[1:]):
        print(json.dumps(measure(size, device)), flush=True)
