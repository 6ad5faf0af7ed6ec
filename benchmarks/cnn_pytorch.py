"""How long a step of the cnn model takes, on two ranks of dtrain and on two threads of PyTorch.

    python benchmarks/cnn_pytorch.py --torch PYTHON [--rounds 5] [--steps 60]

Run it where dtrain is installed with MPI; --torch names the Python of an environment that has PyTorch. Both
train the same network on the same random images with Adam and a global batch of 100. They take turns, each
for `--steps` steps in a process of its own, so that what else the machine does strikes both; the medians and
quartiles over all steps of all rounds are printed. PyTorch runs with channels first, and last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BATCH = 100
WARM_UP = 5


def images() -> tuple:
    """Images [BATCH, 784] in 0..1 and class numbers."""
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.random((BATCH, 784), np.float32), generator.integers(0, 10, BATCH)


def timed(step: Callable[[], object], steps: int) -> list[float]:
    """Seconds of each of `steps` calls, after some that do not count."""
    seconds = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def with_dtrain(steps: int) -> list[float]:
    """On all ranks together."""
    import numpy as np

    import dtrain as dt
    from dtrain import comm as communicators
    from dtrain.ops.placement import shard_bounds
    from dtrain.task.models import cnn

    comm = communicators.world()
    low, high = shard_bounds(BATCH, comm.rank, comm.size)
    pixels, classes = images()
    x, labels = dt.placeholder("float32", [None, 784]), dt.placeholder("int32", [None])
    training = dt.placeholder("float32", [])
    logits = cnn(x, training, (28, 28), 10)
    losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    loss = dt.reduce_mean(losses)
    minimize = dt.train.AdamOptimizer(0.001).minimize(loss)
    session = dt.Session(comm=comm)
    session.run(dt.global_variables_initializer())
    step = session.make_callable([loss, minimize], [x, labels, training])
    shard = dt.Shard(pixels[low:high], BATCH), dt.Shard(classes[low:high].astype(np.int32), BATCH)
    seconds = timed(lambda: step(*shard, np.float32(1)), steps)
    return seconds if comm.rank == 0 else []


def with_torch(steps: int, channels_last: bool, threads: int = 2) -> list[float]:
    """The same network in the order it is usually written: convolution, bias, ReLU, pooling."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 1024),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(1024, 10),
    )
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 0.001)
    pixels, classes = images()
    x, labels = torch.from_numpy(pixels), torch.from_numpy(classes)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return timed(step, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--part", help="used by the script itself: one contestant, as JSON on stdout")
    arguments = parser.parse_args()
    if arguments.part:
        found = {
            "dtrain": with_dtrain,
            "torch": lambda steps: with_torch(steps, False),
            "torch channels last": lambda steps: with_torch(steps, True),
        }[arguments.part](arguments.steps)
        if found:
            print(json.dumps(found))
        return
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    contestants = {"dtrain": [mpirun, "-n", "2", sys.executable]}
    if arguments.torch:
        contestants |= {name: [arguments.torch] for name in ("torch", "torch channels last")}
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # two ranks share two cores
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, command in contestants.items():
            options = ["--part", name, "--steps", str(arguments.steps)]
            out = subprocess.check_output([*command, __file__, *options], env=environment, text=True)
            seconds[name] += json.loads(out.splitlines()[-1])
    for name, all_of_it in seconds.items():
        low, median, high = statistics.quantiles([1000 * s for s in all_of_it], n=4)
        print(f"{name:20s} {median:7.1f} ms a step (quartiles {low:.1f} and {high:.1f})")


if __name__ == "__main__":
    main()
