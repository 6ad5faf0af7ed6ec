"""What looking at numbers and replicas costs: steps of the MLP with and without, in turns, on each rank.

Prints the medians of a step, and the median over the rounds of the ratio with / without. What cannot be
turned off (a store a kernel and collective on the board, a monitor that looks twice a second) is timed by
itself.

    mpirun -n 2 python tests/faults/cost.py [--rounds 40] [--steps 50] [--kernels c]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import dtrain as dt
from dtrain import data
from dtrain.comm import world
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import make_backend
from dtrain.task import trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--kernels", default="c")
    options = parser.parse_args()
    comm = world()
    data.SYNTHETIC_TRAIN, data.SYNTHETIC_TEST = 5000, 1000
    examples = data.load("synthetic", comm)
    low, high = shard_bounds(100, comm.rank, comm.size)
    runs = {}
    for name, every, checked in (("without", 0, False), ("with", 100, True)):
        graph = dt.Graph()
        graph.seed = 0
        with graph.as_default():
            network = trainer.build("mlp", examples)
            minimize = trainer.make_optimizer("adam", 0.001).minimize(network.loss)
            initialize = dt.global_variables_initializer()
        config = dt.ConfigProto(check_numerics=checked, check_replicas_every=every)
        backend = make_backend("cpu", comm.local_rank, options.kernels)
        session = dt.Session(graph=graph, config=config, comm=comm, device=backend)
        session.run(initialize)
        network.lend(session)
        step = session.make_callable([network.loss, minimize], [network.indices, network.training])
        runs[name] = step
    times: dict[str, list[float]] = {name: [] for name in runs}
    rng = np.random.default_rng(0)
    for number in range(options.rounds + 2):
        for name in sorted(runs, reverse=bool(number % 2)):
            batches = [rng.permutation(5000)[low:high].astype(np.int32) for _ in range(options.steps)]
            comm.barrier()
            begun = time.perf_counter()
            for rows in batches:
                runs[name](dt.Shard(rows, 100), np.float32(1))
            times[name].append((time.perf_counter() - begun) / options.steps)
    with_, without = (np.array(times[name][2:]) for name in ("with", "without"))
    begun = time.perf_counter()
    for _ in range(10_000):
        comm.board.step(1)
        comm.board.enter(1)
        comm.board.leave()
    board = (time.perf_counter() - begun) / 10_000
    if comm.rank == 0:
        print(
            f"{comm.size} ranks, kernels {options.kernels}, {options.rounds} rounds of {options.steps} steps:"
        )
        print(
            f"  a step takes {1e6 * np.median(without):.0f} us without, {1e6 * np.median(with_):.0f} us with"
        )
        print(f"  median of the ratios {np.median(with_ / without):.4f}")
        print(f"  ratio of the least {with_.min() / without.min():.4f}")
        print(f"  the board: {1e6 * board:.2f} us for a step and a collective")


if __name__ == "__main__":
    main()
