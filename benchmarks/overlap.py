"""What a sum over a slow link gains by beginning before the backward pass ends, and by which way.

    mpirun -n 4 --hosts ... python benchmarks/overlap.py [LAYERS WIDTH ROWS TIMES]

A model of a step without dtrain: for each layer the two products of a backward pass, and a gradient to sum.
One rank a node works, the others sleep. Each way takes its turn; medians.
"""

from __future__ import annotations

import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI  # asks for MPI_THREAD_MULTIPLE, which the helper needs


def main(layers: int = 6, width: int = 512, rows: int = 200, times: int = 7) -> None:
    everyone = MPI.COMM_WORLD
    names = everyone.allgather(MPI.Get_processor_name())
    node = everyone.Split(names.index(names[everyone.rank]))
    nodes = everyone.Split(node.rank)
    if node.rank == 0:
        measure(nodes, layers, width, rows, times)
    over = everyone.Ibarrier()
    while not over.Test():
        time.sleep(0.02)


def measure(nodes: MPI.Intracomm, layers: int, width: int, rows: int, times: int) -> None:
    comm = nodes.Dup()
    x = np.random.default_rng(0).random((rows, width), np.float32)
    weights, dx = x[:1].repeat(width, 0) / width, np.empty_like(x)
    flat = np.zeros((layers, width, width), np.float32)
    work: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def total(gradient: np.ndarray) -> None:
        comm.Allreduce(MPI.IN_PLACE, gradient)

    def backward(then: Callable[[int], object] = lambda k: None) -> None:
        for k in range(layers):
            np.matmul(x.T, x, out=flat[k])
            np.matmul(x, weights, out=dx)
            then(k)

    def helper() -> None:
        while (gradient := work.get()) is not None:
            total(gradient)
            done.put(None)

    def one_bucket() -> None:
        backward()
        total(flat)

    def begun_early() -> None:
        begun: list[MPI.Request] = []

        def then(k: int) -> None:
            begun.append(comm.Iallreduce(MPI.IN_PLACE, flat[k]))
            MPI.Request.Testall(begun)

        backward(then)
        MPI.Request.Waitall(begun)

    def by_a_thread() -> None:
        backward(lambda k: work.put(flat[k]))
        for _ in range(layers):
            done.get()

    thread = threading.Thread(target=helper)
    thread.start()
    ways = {
        "products alone": backward,
        "sum alone": lambda: total(flat),
        "one bucket behind them": one_bucket,
        "a bucket a layer, each waited for": lambda: backward(lambda k: total(flat[k])),
        "a bucket a layer, Iallreduce and Testall between": begun_early,
        "a bucket a layer, a thread sums": by_a_thread,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(times + 1):
        for name, way in ways.items():
            nodes.Barrier()
            begun = time.perf_counter()
            way()
            nodes.Barrier()
            if i:
                seconds[name].append(time.perf_counter() - begun)
    work.put(None)
    thread.join()
    if nodes.rank == 0:
        size = flat.nbytes / 1e6
        print(
            f"{nodes.size} nodes, {layers} layers of {width} x {width} at {rows} rows: {size:.1f} MB a step"
        )
        for name, values in seconds.items():
            print(f"  {statistics.median(values) * 1e3:8.1f} ms (least {min(values) * 1e3:.1f})  {name}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
