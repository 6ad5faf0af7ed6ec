"""What has to be seen on a real GPU, which `pytest -m gpu` runs: every op, training, windows, failure, ranks.

With `PYTHONPATH=$PWD/tests/standin` it runs without one, and shows that the tests themselves are sound.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
import dtrain.ops.warp  # which only keras imports
from dtrain.errors import EnvironmentProblem, NumericError
from dtrain.ops.base import REGISTRY, apply
from dtrain.runtime.backend import Backend, make_backend
from dtrain.runtime.feeds import Window
from dtrain.train.loss_scale import DynamicLossScale, MixedPrecisionLossScaleOptimizer

# a cold cache of kernels: ranks make a context each, and NVRTC takes seconds for a step
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
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
            assert device is not gpu or all(plan._windows for plan in session.plans.values())
    for ours, numpys in zip(*found, strict=True):
        if numpys.dtype.kind == "f":
            np.testing.assert_allclose(ours, numpys, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(ours, numpys)


class Training:
    """A small network with dropout over examples that lie on the device.

    loss_scale: what a dynamic one begins at; 0 is none.
    """

    def __init__(self, device: Backend, optimizer: str, keep: float = 1.0, loss_scale: float = 0) -> None:
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
            made = getattr(dt.train, optimizer)(0.05)
            if loss_scale:
                made = MixedPrecisionLossScaleOptimizer(made, DynamicLossScale(loss_scale, 4))
            with dt.control_dependencies([made.minimize(self.loss)]):
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
        loop = partial(run.session.make_callable(run.fetches, run.feeds).several, until=run.stop)
        for low in range(0, 40, 10):
            loop(Window(batches(40)[low : low + 10], ROWS), 1.0)
    runs[2].steps(batches(40))
    for values in zip(*(run.values() for run in runs), strict=True):
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_array_equal(values[0], values[2])


def test_a_loss_scale_falls_and_grows_in_windows_as_in_single_steps(gpu: Backend) -> None:
    """In float16, from so large a scale that float32 overflows as well, and again wherever it has grown."""
    device = make_backend("gpu", local_rank=0, precision="float16")
    window, single = (Training(device, "AdamOptimizer", 0.5, 2.0**126) for _ in range(2))
    loop = partial(window.session.make_callable(window.fetches, window.feeds).several, until=window.stop)
    taken = [loop(Window(batches(40)[low : low + 10], ROWS), 1.0) for low in range(0, 40, 10)]
    losses = single.steps(batches(40))
    assert [float(loss) for part in taken for loss, *_ in part] == losses
    for a, b in zip(window.values(), single.values(), strict=True):
        np.testing.assert_array_equal(a, b)
    (scale,) = (v for v in single.variables if v.op.name == "current_loss_scale")
    assert 1 < single.session.run(scale) < 2.0**126
    np.testing.assert_allclose(losses, Training(gpu, "AdamOptimizer", 0.5).steps(batches(40)), rtol=5e-2)


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


def losses(
    mpirun: Callable[..., Any], ranks: int, folder: Path, *options: str, **environment: str
) -> tuple[list[float], str]:
    """Of each epoch, of a run on the data in folder; and how its GPUs sum."""
    run = folder / f"run{len(list(folder.iterdir()))}"
    common = [
        "--dataset",
        str(folder / "data"),
        "--epochs",
        "2",
        "--batch-size",
        "50",
        "--log-format",
        "json",
    ]
    done = mpirun(
        ranks,
        ["train", *common, "--device", "gpu", "--run-dir", str(run), *options],
        env=ENVIRONMENT | environment,
    )
    assert done.rc == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [e["loss"] for e in events if e["event"] == "epoch"], events[0]["averaging"]


FIRST = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
_ALONE: list[tuple[Path, list[float]]] = []


@pytest.fixture
def alone(
    gpu: Backend,
    tmp_path_factory: pytest.TempPathFactory,
    mpirun: Callable[..., Any],
    write_set: Callable[..., Path],
) -> tuple[Path, list[float]]:
    """A folder with data, and the losses of one rank there on the first GPU; found once."""
    if not _ALONE:
        folder = tmp_path_factory.mktemp("ranks")
        write_set(folder / "data", 510, 90)
        _ALONE.append((folder, losses(mpirun, 1, folder, CUDA_VISIBLE_DEVICES=FIRST)[0]))
    return _ALONE[0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_the_gpu_train_as_one(
    gpu: Backend, ranks: int, mpirun: Callable[..., Any], alone: tuple[Path, list[float]]
) -> None:
    folder, expected = alone
    shared, way = losses(mpirun, ranks, folder, "--share-gpu", CUDA_VISIBLE_DEVICES=FIRST)
    assert "ranks share a GPU" in way
    np.testing.assert_allclose(shared, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("ranks", "overlap", "streams"),
    [
        (2, "--overlap", "late"),
        (2, "--no-overlap", "early"),
        (3, "--overlap", "early"),
        (3, "--no-overlap", "late"),
    ],
)
def test_gpus_of_several_ranks_sum_by_nccl(
    gpu: Backend,
    ranks: int,
    overlap: str,
    streams: str,
    mpirun: Callable[..., Any],
    alone: tuple[Path, list[float]],
) -> None:
    """All gradients at once, or those that are there early beside the rest of the backward pass."""
    count = gpu.xp.cuda.runtime.getDeviceCount()
    if count < ranks:
        pytest.skip(f"there are {count} GPUs, and NCCL wants one for each of {ranks} ranks")
    folder, expected = alone
    several, way = losses(mpirun, ranks, folder, overlap, STANDIN_STREAMS=streams)
    assert way.startswith("NCCL") and ("a sum takes" in way) == (overlap == "--overlap")
    np.testing.assert_allclose(several, expected, rtol=1e-4)
