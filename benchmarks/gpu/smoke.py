"""A first look at dtrain on a real GPU: a JSON line for each question, in a minute; none stops the others.

    python benchmarks/gpu/smoke.py [--steps 512] [QUESTION ...]

With tests/standin in PYTHONPATH it runs without a GPU, to try the script itself (--steps 16). README.md here
says what each answer decides, and what else only hardware can tell.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dtrain as dt
from dtrain.cuda import gpus
from dtrain.cuda.blas import WORKSPACE
from dtrain.cuda.epilogue import Epilogues, mask_bytes
from dtrain.runtime.backend import make_backend
from dtrain.runtime.feeds import Window

STEPS = 512
LIBRARIES = ("libcublas", "libnvrtc", "libnccl", "libcuda")


def versions() -> dict[str, Any]:
    """What is installed, and which libraries were loaded."""
    from cupy_backends.cuda.libs import nvrtc

    cupy = gpus.load()
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    with open("/proc/self/maps") as maps:
        loaded = {Path(line.split()[-1]).name for line in maps if ".so" in line}
    return {
        "cupy": cupy.__version__,
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "nvrtc": list(nvrtc.getVersion()),
        "gpu": properties["name"].decode(),
        "capability": 10 * properties["major"] + properties["minor"],
        "identity": gpus.identity(0),
        "libraries": sorted(
            n for n in loaded if n.startswith(("libcublas", "libnvrtc", "libnccl", "libcuda"))
        ),
        "numpy": np.__version__,
    }


def probe() -> dict[str, Any]:
    """Whether the GPU can be used: a kernel, a product and a sum, as before it is taken."""
    return {"problem": gpus.problem(0), "threads": threading.active_count()}


def denormals() -> dict[str, Any]:
    """The bits of C: log of a denormal, and halves of one."""
    x = np.array([1e-39, 1e-44], np.float32)
    with dt.Graph().as_default() as graph:
        given = dt.placeholder("float32", [2])
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
        logs, halves = session.run([dt.log(given), given * 0.5], {given: x})
    kept = bool((halves == x * np.float32(0.5)).all())
    return {"kept": kept, "logs": logs.tolist(), "right": np.log(x.astype(float)).tolist()}


def pinned_and_device_memory() -> dict[str, Any]:
    """GB/s of a copy up and down, and what a capture of it is."""
    backend = make_backend("gpu", 0)
    nbytes = 256 << 20
    host, device = backend.pinned(nbytes), backend.block(nbytes)
    found = {}
    ways = {"up": partial(backend.upload, host, device), "down": partial(backend.download, device, host)}
    for name, copy in ways.items():
        copy()
        backend.synchronize()
        begun = time.perf_counter()
        copy()
        backend.synchronize()
        found[f"gb_a_second_{name}"] = nbytes / (time.perf_counter() - begun) / 1e9
    return found


def mlp(precision: str = "float32", batch: int = 100) -> dict[str, Any]:
    """The first step, then windows of several lengths, then the graphs alone."""
    device = make_backend("gpu", 0, precision=precision)
    random = np.random.default_rng(0)
    with dt.Graph().as_default() as graph:
        graph.seed = 0
        indices = dt.placeholder("int32", [None])
        pixels = dt.constant(random.integers(0, 256, (60_000, 784), np.uint8))
        classes = dt.constant(random.integers(0, 10, 60_000).astype(np.int32))
        x = dt.cast(dt.gather(pixels, indices), "float32") * (1 / 255)
        for n, m in ((784, 256), (256, 256), (256, 10)):
            w = dt.Variable(dt.truncated_normal([n, m], stddev=0.05))
            x = dt.matmul(x, w) + dt.Variable(dt.zeros([m]))
            x = dt.nn.relu(x) if m == 256 else x
        labels = dt.gather(classes, indices)
        each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=x)
        loss = dt.reduce_mean(each)
        stop = loss * 0.0
        step = dt.train.AdamOptimizer(0.001).minimize(loss)
        session = dt.Session(graph=graph, comm=None, device=device)
        session.run(dt.global_variables_initializer())
    several = partial(session.make_callable([loss, stop, step], [indices]).several, until=stop)

    def window(steps: int) -> tuple[float, list[Any]]:
        rows = random.integers(0, 60_000, (steps, batch)).astype(np.int32)
        begun = time.perf_counter()
        taken = several(Window(rows, batch))
        return time.perf_counter() - begun, taken

    found: dict[str, Any] = {"precision": precision, "batch": batch, "seconds_of_the_first": window(1)[0]}
    window(2 * 16 + 1)
    plan = [*session.plans.values()][-1]
    program = plan._steps
    found |= {"launches": plan.launches, "segments": len(program.segments), "many": bool(program._many)}
    for steps in (1, 25, STEPS):
        found[f"us_a_step_of_{steps}"] = 1e6 * min(window(steps)[0] for _ in range(5)) / steps
    found["losses"] = [float(r[0]) for r in window(3)[1]]
    for name, calls, steps in (("one", program._calls, 1), ("sixteen", program._many, 16)):
        device.synchronize()
        begun = time.perf_counter()
        for _ in range(STEPS // steps):
            for call in calls or ():
                call()
        queued = time.perf_counter() - begun
        device.synchronize()
        found[f"us_a_step_in_graphs_of_{name}"] = 1e6 * (time.perf_counter() - begun) / STEPS
        found[f"us_a_launch_of_{name}"] = 1e6 * queued / (STEPS // steps)
    return found


def mlp_tf32() -> dict[str, Any]:
    return mlp("tf32")


def mlp_1000() -> dict[str, Any]:
    return mlp(batch=1000)


def mlp_8192() -> dict[str, Any]:
    return mlp(batch=8192)


def products() -> dict[str, Any]:
    """Microseconds of each product of the MLP at 100, by itself in a graph of 200."""
    shapes = {
        "f1": (100, 784, 256, 0, 0),
        "f2": (100, 256, 256, 0, 0),
        "f3": (100, 256, 10, 0, 0),
        "w3": (256, 100, 10, 1, 0),
        "x3": (100, 10, 256, 0, 1),
        "w2": (256, 100, 256, 1, 0),
        "x2": (100, 256, 256, 0, 1),
        "w1": (784, 100, 256, 1, 0),
    }
    found = {}
    for precision in ("float32", "tf32"):
        device = make_backend("gpu", 0, precision=precision)
        for name, (m, k, n, across_a, across_b) in shapes.items():
            left, right = ((k, m) if across_a else (m, k)), ((n, k) if across_b else (k, n))
            a, b = (device.from_host(np.random.rand(*s).astype(np.float32)) for s in (left, right))
            out = device.block(4 * m * n).view(np.float32).reshape(m, n)
            call = device.blas.product(a, b, out, bool(across_a), bool(across_b))
            assert call is not None
            found[f"{precision} {name}"] = timed(device, call)
    return found


def epilogues() -> dict[str, Any]:
    """Of each product of the MLP at 100 that ends with bias, ReLU or its gradient: whether cuBLASLt has one
    kernel for it, and its microseconds in a graph of 200, beside the product alone (see products).
    """
    device = make_backend("gpu", 0)
    made = device.epilogues
    found: dict[str, Any] = {"used": made is not None}
    if made is None:  # then a warning has said why
        made = Epilogues(gpus.cublas(), device.stream.ptr, device.block(WORKSPACE), "float32")
    shapes = {
        "f1": ("relu and mask", 100, 784, 256, 0),
        "f2": ("relu and mask", 100, 256, 256, 0),
        "f3": ("bias", 100, 256, 10, 0),
        "x3": ("gate and sums", 100, 10, 256, 1),
        "x2": ("gate and sums", 100, 256, 256, 1),
    }
    for name, (end, m, k, n, across) in shapes.items():
        sizes = ((m, k), (n, k) if across else (k, n), (n,))
        a, b, vector = (device.from_host(np.random.rand(*size).astype(np.float32)) for size in sizes)
        out = device.block(4 * m * n).view(np.float32).reshape(m, n)
        mask = None if end == "bias" else device.block(mask_bytes(m, n))
        call = made.product(a, b, out, False, bool(across), end, vector, mask)
        found[name] = None if call is None else timed(device, call)
    return found


def timed(device: Any, call: Callable[[], Any]) -> float:
    """Microseconds of a call, in a graph of 200."""
    call()
    graph = device.capture(lambda: [call() for _ in range(200)])
    graph.launch(device.stream)
    device.synchronize()
    begun = time.perf_counter()
    graph.launch(device.stream)
    device.synchronize()
    return 1e6 * (time.perf_counter() - begun) / 200


def nccl_alone() -> dict[str, Any]:
    """CuPy's calls of NCCL with one rank: a sum on a forked stream in a graph, and an abort beside it.

    Of one rank NCCL makes a copy, so it says nothing of peers.
    """
    from dtrain.comm import nccl

    library, device = nccl.load(), make_backend("gpu", 0)
    cuda = device.xp.cuda
    ring = library.NcclCommunicator(1, library.get_unique_id(), 0)
    side = cuda.Stream(non_blocking=True)
    ready, done = (cuda.Event(disable_timing=True) for _ in range(2))
    x, y = device.from_host(np.arange(1000, dtype=np.float32)), device.block(4000).view(np.float32)

    def both() -> None:
        ready.record(device.stream)
        side.wait_event(ready)
        ring.allReduce(x.data.ptr, y.data.ptr, 1000, library.NCCL_FLOAT32, library.NCCL_SUM, side.ptr)
        done.record(side)
        device.stream.wait_event(done)

    both()
    device.synchronize()
    graph = device.capture(both)
    for _ in range(10):
        graph.launch(device.stream)
    device.synchronize()
    ring.check_async_error()
    right = bool((device.to_host(y) == np.arange(1000)).all())
    over = threading.Event()
    threading.Thread(target=lambda: (ring.abort(), over.set()), daemon=True).start()
    ended = over.wait(3)
    version = nccl.version_text(library.get_version())
    return {"nccl": version, "right": right, "abort_ends_beside_a_graph": ended}


QUESTIONS: list[Callable[[], dict[str, Any]]] = [
    *(versions, probe, denormals, pinned_and_device_memory, mlp, mlp_tf32, mlp_1000, mlp_8192, products),
    epilogues,
    nccl_alone,
]


def ask(question: Callable[[], dict[str, Any]]) -> None:
    begun = time.perf_counter()
    try:
        facts = question()
    except BaseException as error:
        where = traceback.format_exc().splitlines()[-3:]
        facts = {"FAILED": f"{type(error).__name__}: {error}"[:600], "at": where}
    facts = {k: round(v, 3) if isinstance(v, float) else v for k, v in facts.items()}
    seconds = round(time.perf_counter() - begun, 3)
    print(json.dumps({"question": question.__name__, "seconds": seconds, **facts}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("questions", nargs="*", help=" ".join(each.__name__ for each in QUESTIONS))
    parser.add_argument("--steps", type=int, default=STEPS, help="in the longest window")
    options = parser.parse_args()
    STEPS = options.steps
    for each in QUESTIONS:
        if not options.questions or each.__name__ in options.questions:
            ask(each)
    sys.stdout.flush()
    os._exit(0)  # NCCL's abort may still wait
