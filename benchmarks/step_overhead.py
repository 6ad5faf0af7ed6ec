"""What a training step costs beside its arithmetic, on the MLP with Adam at a batch of 100.

    python benchmarks/step_overhead.py [--steps 2000]

Prints, as medians in microseconds: the whole step; what is left of it when every kernel does nothing
(feeding, calling and fetching, all in Python); and the same graph at sizes of 2, where the calls into NumPy
cost and the arithmetic does not. The three are measured in turn, step by step, so that a noisy machine
disturbs all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(variable, None)

import numpy as np  # noqa: E402 - the BLAS reads its variables when it is loaded

import dtrain as dt  # noqa: E402
from dtrain.info import lines  # noqa: E402


def training_step(
    inputs: int, hidden: int, classes: int, batch: int
) -> tuple[dt.Session, Callable[[], object]]:
    """A session and one step of the network on fixed random examples, gathered from uint8."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(batch, 1000), inputs), np.uint8)
    labels = rng.integers(0, classes, len(images)).astype(np.int32)
    graph = dt.Graph()
    graph.seed = 0
    with graph.as_default():
        indices = dt.placeholder("int32", [None])
        x = dt.cast(dt.gather(dt.constant(images), indices), "float32") * (1 / 255)
        for units, activation in ((hidden, dt.nn.relu), (hidden, dt.nn.relu), (classes, dt.identity)):
            kernel = dt.Variable(dt.truncated_normal([x.shape[1], units], stddev=0.1))
            x = activation(dt.matmul(x, kernel) + dt.Variable(dt.zeros([units])))
        y = dt.gather(dt.constant(labels), indices)
        loss = dt.reduce_mean(dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=x))
        right = dt.equal(dt.cast(dt.argmax(x, 1), "int32"), y)
        accuracy = dt.reduce_mean(dt.cast(right, "float32"))
        minimize = dt.train.AdamOptimizer().minimize(loss)
        initialize = dt.global_variables_initializer()
    session = dt.Session(graph=graph, comm=None)
    session.run(initialize)
    run = session.make_callable([loss, accuracy, minimize], [indices])
    chosen = rng.permutation(len(images))[:batch].astype(np.int32)
    shard = dt.Shard(chosen, batch)
    return session, lambda: run(shard)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps

    whole_session, whole = training_step(784, 256, 10, 100)
    empty_session, empty = training_step(784, 256, 10, 100)
    _, tiny = training_step(2, 2, 2, 2)
    for step in (whole, empty, tiny):
        step()
    plan = list(empty_session.plans.values())[-1]
    kernels = len(plan.kernels)
    plan.kernels[:] = [lambda: None] * kernels

    times: dict[str, list[float]] = {"whole step": [], "Python alone": [], "sizes of 2": []}
    for _ in range(steps):
        for name, step in zip(times, (whole, empty, tiny), strict=True):
            begun = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - begun) * 1e6)
    print("\n".join(lines()))
    print(f"kernels     {kernels}")
    for name, values in times.items():
        low, median, high = (float(np.percentile(values, q)) for q in (10, 50, 90))
        print(f"{name:<12}{median:8.1f} us   (10 % {low:.1f}, 90 % {high:.1f})")
    assert statistics.median(times["Python alone"]) < statistics.median(times["whole step"])
    whole_session.close()


if __name__ == "__main__":
    main()
