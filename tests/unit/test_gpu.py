"""What has to be seen on a real GPU, which `pytest -m gpu` runs: every op, training, windows, failure, ranks.

With `PYTHONPATH=$PWD/tests/standin` it runs without one, and shows that the tests themselves are sound.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import EnvironmentProblem, NumericError
from dtrain.ops.base import REGISTRY, apply
from dtrain.runtime.backend import Backend, make_backend
from dtrain.runtime.loop import Loop, Window

pytestmark = pytest.mark.gpu
EXAMPLES = [(name, i) for name, kind in sorted(REGISTRY.items()) for i in range(len(kind.examples()))]
ROWS = 21
ROOT = Path(__file__).parents[2]
#: Ranks find CuPy where this process does.
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def gpu() -> Backend:
    try:
        return make_backend("gpu", local_rank=0)
    except EnvironmentProblem as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_every_op(gpu: Backend, name: str, number: int) -> None:
    example = REGISTRY[name].examples()[number]
    random = np.random.default_rng(0)
    arrays = [
        x if isinstance(x, np.ndarray) else random.uniform(example.low, example.high, x).astype(np.float32)
        for x in example.inputs
    ]
    found = []
    for device in (gpu, Backend("numpy")):
        with dt.Graph().as_default() as graph:
            graph.seed = 3
            feeds = [dt.placeholder(a.dtype, a.shape) for a in arrays]
            outputs = list(apply(example.op, *feeds).op.outputs)
            session = dt.Session(graph=graph, device=device)
            found.append(session.run(outputs, dict(zip(feeds, arrays, strict=True))))
            assert device is not gpu or all(plan._windows for plan in session._plans.values())
    for ours, numpys in zip(*found, strict=True):
        if numpys.dtype.kind == "f":
            np.testing.assert_allclose(ours, numpys, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(ours, numpys)


class Training:
    """A small network with dropout over examples that lie on the device."""

    def __init__(self, device: Backend, optimizer: str, keep: float = 1.0) -> None:
        random = np.random.default_rng(0)
        with dt.Graph().as_default() as graph:
            graph.seed = 5
            self.indices, self.scale = dt.placeholder("int32", [None]), dt.placeholder("float32", [])
            pixels = dt.constant(random.integers(0, 256, (90, 49), np.uint8))
            classes = dt.constant(random.integers(0, 10, 90).astype(np.int32))
            x = dt.cast(dt.gather(pixels, self.indices), "float32") * (1 / 255)
            w1, b1 = dt.Variable(dt.truncated_normal([49, 33], stddev=0.1)), dt.Variable(dt.zeros([33]))
            w2 = dt.Variable(dt.truncated_normal([33, 10], stddev=0.1))
            hidden = dt.nn.dropout(dt.nn.relu(dt.matmul(x, w1) + b1), keep)
            logits = dt.matmul(hidden, w2) * self.scale
            labels = dt.gather(classes, self.indices)
            losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            self.loss = dt.reduce_mean(losses)
            self.stop = self.loss * 0.0
            counter = dt.Variable(np.float32(0), trainable=False)
            with dt.control_dependencies([getattr(dt.train, optimizer)(0.05).minimize(self.loss)]):
                self.train = dt.assign_add(counter, 1.0).op
            self.variables = dt.global_variables()
            checks = dt.ConfigProto(check_numerics=True)
            self.session = dt.Session(graph=graph, device=device, config=checks)
            self.session.run(dt.global_variables_initializer())
        self.fetches, self.feeds = [self.loss, self.stop, self.train], [self.indices, self.scale]

    def steps(self, rows: np.ndarray, scale: float = 1.0) -> list[float]:
        step = self.session.make_callable(self.fetches, self.feeds)
        return [step(row, scale)[0] for row in rows]

    def values(self) -> list[np.ndarray]:
        return self.session.run(self.variables)


def batches(steps: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 90, (steps, ROWS)).astype(np.int32)


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("optimizer", ["GradientDescentOptimizer", "AdamOptimizer"])
def test_a_hundred_steps(gpu: Backend, optimizer: str, keep: float) -> None:
    ours, numpys = (Training(device, optimizer, keep) for device in (gpu, Backend("numpy")))
    np.testing.assert_allclose(ours.steps(batches(100)), numpys.steps(batches(100)), rtol=1e-4)
    for a, b in zip(ours.values(), numpys.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_a_window_is_its_steps_to_the_bit(gpu: Backend) -> None:
    """Captured and replayed, or launched one by one; and a run repeats to the bit."""
    runs = [Training(gpu, "AdamOptimizer", 0.5) for _ in range(3)]
    for run in runs[:2]:
        loop = Loop(run.session, run.fetches, run.feeds, run.stop)
        for low in range(0, 40, 10):
            loop(Window(batches(40)[low : low + 10], ROWS), 1.0)
    runs[2].steps(batches(40))
    for values in zip(*(run.values() for run in runs), strict=True):
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_array_equal(values[0], values[2])


def test_a_bad_number_writes_nothing(gpu: Backend) -> None:
    run = Training(gpu, "AdamOptimizer")
    run.steps(batches(3))
    before = run.values()
    with pytest.raises(NumericError):
        run.steps(batches(1), scale=float("nan"))
    for was, now in zip(before, run.values(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_too_much_memory_is_told(gpu: Backend) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no memory for [\d,]+ bytes: [\d,]+ of [\d,]+ are free"):
        gpu.block(1 << 50)
    assert np.isfinite(Training(gpu, "AdamOptimizer").steps(batches(2))).all()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_the_gpu_train_as_one(
    gpu: Backend, ranks: int, mpirun: Callable[..., Any], tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    data, losses = write_set(tmp_path / "data", 510, 90), []
    for n in (1, ranks):
        options = ["--dataset", str(data), "--epochs", "2", "--batch-size", "50", "--log-format", "json"]
        options += ["--device", "gpu", "--share-gpu", "--run-dir", str(tmp_path / f"run{n}")]
        done = mpirun(n, ["train", *options], env=ENVIRONMENT)
        assert done.rc == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        losses.append([e["loss"] for e in events if e["event"] == "epoch"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_gpus_of_several_ranks_sum_by_nccl(
    gpu: Backend, mpirun: Callable[..., Any], tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    count = gpu.xp.cuda.runtime.getDeviceCount()
    if count < 2:
        pytest.skip("there is one GPU, and NCCL wants one for each rank")
    data = write_set(tmp_path / "data", 510, 90)
    options = ["--dataset", str(data), "--epochs", "1", "--device", "gpu", "--run-dir", str(tmp_path / "run")]
    done = mpirun(2, ["train", *options], env=ENVIRONMENT)
    assert done.rc == 0, done.stderr
    assert "NCCL" in done.stdout
