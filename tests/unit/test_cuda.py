"""The step on a GPU: kernels in CUDA, run as C++ on the stand-in for CuPy in tests/standin.

They prove arithmetic, bounds, order, what crosses the bus and what is captured; nothing of a real GPU.
"""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.cli import main
from dtrain.comm.nccl import DeviceSums
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.errors import EnvironmentProblem, InvalidArgumentError, NumericError
from dtrain.runtime.backend import Backend, make_backend
from dtrain.runtime.loop import Loop, Window
from dtrain.train.trainer import make_devices

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="the stand-in compiles CUDA sources with g++")


def network(optimizer: Any, device: Backend, dropout: bool = False, config: Any = None) -> tuple[Any, ...]:
    """A session on a small network over uint8 examples: what a step fetches, its feed, and the parameters."""
    with dt.Graph().as_default() as graph:
        graph.seed = 5
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (90, 49), np.uint8)
        classes = generator.integers(0, 10, 90).astype(np.int32)
        indices = dt.placeholder("int32", [None])
        x = dt.cast(dt.gather(dt.constant(pixels), indices), "float32") * (1 / 255)
        w1, b1 = dt.Variable(dt.truncated_normal([49, 33], stddev=0.1)), dt.Variable(dt.zeros([33]))
        w2, b2 = dt.Variable(dt.truncated_normal([33, 10], stddev=0.1)), dt.Variable(dt.zeros([10]))
        hidden = dt.nn.relu(dt.matmul(x, w1) + b1)
        if dropout:
            hidden = dt.nn.dropout(hidden, 0.5)
        labels = dt.gather(dt.constant(classes), indices)
        logits = dt.matmul(hidden, w2) + b2
        loss = dt.reduce_mean(dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        step = optimizer.minimize(loss)
        stop = dt.reduce_sum(dt.cast(dt.equal(indices, 89), "float32"))
        session = dt.Session(graph=graph, comm=None, device=device, config=config)
        session.run(dt.global_variables_initializer())
    return session, [loss, stop, step], [indices], [w1, b1, w2, b2]


def convolutional(optimizer: Any, device: Backend, dropout: bool = False) -> tuple[Any, ...]:
    """The like of `network`, with convolutions and pooling of several kinds, and labels that are one hot."""
    with dt.Graph().as_default() as graph:
        graph.seed = 5
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (90, 7, 6, 1), np.uint8)
        classes = generator.integers(0, 10, 90).astype(np.int32)
        indices = dt.placeholder("int32", [None])
        x = dt.cast(dt.gather(dt.constant(pixels), indices), "float32") * (1 / 255)
        shapes = [(3, 3, 1, 4), (2, 3, 4, 5), (1, 1, 5, 6)]
        filters = [dt.Variable(dt.truncated_normal(s, stddev=0.3)) for s in shapes]
        x = dt.nn.relu(dt.nn.max_pool(dt.nn.conv2d(x, filters[0], 1, "SAME"), 2, 2, "SAME"))
        x = dt.nn.elu(dt.nn.conv2d(x, filters[1], 1, "SAME", dilations=2))
        x = dt.nn.avg_pool(dt.nn.softplus(dt.nn.conv2d(x, filters[2], 1, "VALID")), 2, 1, "VALID")
        x = dt.concat([dt.sin(x), dt.pow(x, 2.0), dt.where(x > 0.7, x, -x)], 3)
        x = dt.reshape(dt.transpose(x, [0, 3, 1, 2]), [-1, 18 * 3 * 2])
        if dropout:
            x = dt.nn.dropout(x, 0.5)
        dense = dt.Variable(dt.truncated_normal([108, 10], stddev=0.1))
        labels = dt.one_hot(dt.gather(dt.constant(classes), indices), 10)
        logits = dt.matmul(x, dense)
        penalty = dt.reduce_max(dt.abs(dense)) + dt.reduce_mean(dt.nn.softmax(logits) ** 2.0)
        losses = dt.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = dt.reduce_mean(losses) + 0.1 * penalty
        step = optimizer.minimize(loss)
        stop = dt.reduce_sum(dt.cast(dt.equal(indices, 89), "float32"))
        session = dt.Session(graph=graph, comm=None, device=device)
        session.run(dt.global_variables_initializer())
    return session, [loss, stop, step], [indices], [*filters, dense]


def batches(steps: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 89, (steps, 21)).astype(np.int32)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("name", ["GradientDescentOptimizer", "AdamOptimizer"])
@pytest.mark.parametrize("model", [network, convolutional])
def test_a_hundred_steps_are_those_of_the_cpu(cupy: Any, model: Any, name: str, dropout: bool) -> None:
    found = []
    for device in (Backend("numpy"), make_backend("gpu", 0)):
        session, fetches, feeds, variables = model(getattr(dt.train, name)(0.01), device, dropout)
        step = session.make_callable(fetches, feeds)
        losses = [step(rows)[0] for rows in batches(100)]
        found.append((losses, session.run(variables), session.random_state))
    (losses, values, state), (gpu_losses, gpu_values, gpu_state) = found
    np.testing.assert_allclose(gpu_losses, losses, rtol=1e-4)
    for a, b in zip(gpu_values, values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert gpu_state == state


@pytest.mark.parametrize("model", [network, convolutional])
def test_a_window_is_one_graph_a_step_and_nothing_crosses(cupy: Any, model: Any) -> None:
    session, fetches, feeds, variables = model(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0), True)
    reference = model(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0), True)
    steps = Loop(session, fetches, feeds, fetches[1])
    crossing = []
    for length in (9, 9, 5, 8):
        before = cupy.counts.copy()
        steps(Window(batches(length), 21))
        crossing.append(cupy.counts - before)
    assert all(c["allocations"] == c["captured"] == c["launches"] == c["products"] == 0 for c in crossing[1:])
    assert [c["graphs"] for c in crossing[1:]] == [9, 5, 8]
    # a step's feed is 21 numbers; the rest goes once a call of the plan, of which there are two
    per_step = (crossing[1]["up"] - crossing[2]["up"]) / 4
    assert per_step <= 21 * 4 + 16 and all(c["waits"] == 2 for c in crossing)
    single = reference[0].make_callable(reference[1], reference[2])
    for length in (9, 9, 5, 8):
        for rows in batches(length):
            single(rows)
    for a, b in zip(session.run(variables), reference[0].run(reference[3]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_window_ends_where_a_step_says_so(cupy: Any) -> None:
    session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    reference = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    rows = batches(8)
    rows[4, 2] = 89
    results = Loop(session, fetches, feeds, fetches[1])(Window(rows, 21))
    assert [r[1] for r in results] == [0, 0, 0, 0, 1]
    single = reference[0].make_callable(reference[1], reference[2])
    for row in rows[:5]:
        single(row)
    for a, b in zip(session.run(variables), reference[0].run(reference[3]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_number_out_of_range_changes_nothing_and_is_named(cupy: Any) -> None:
    session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    steps = Loop(session, fetches, feeds, fetches[1])
    steps(Window(batches(3), 21))
    before = session.run(variables)
    rows = batches(3)
    rows[0, 20] = 90
    with pytest.raises(InvalidArgumentError, match=r"90 is not in 0\.\.89"):
        steps(Window(rows, 21))
    for a, b in zip(session.run(variables), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_that_is_not_finite_changes_nothing_and_is_traced(cupy: Any) -> None:
    config = dt.ConfigProto(check_numerics=True)
    optimizer = dt.train.GradientDescentOptimizer(1e30)
    session, fetches, feeds, variables = network(optimizer, make_backend("gpu", 0), config=config)
    steps = Loop(session, fetches, feeds, fetches[1])
    with pytest.raises(NumericError, match="Nothing was updated"):
        steps(Window(batches(6), 21))
    assert all(np.isfinite(v).all() for v in session.run(variables))


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (5000, 3), (3, 5000), (20001,), (4, 5, 6)])
def test_sums_are_those_of_numpy(cupy: Any, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with dt.Graph().as_default() as graph:
        given = dt.placeholder("float32", shape)
        twice = given * 2 + 1
        axes = [None, *range(len(shape)), *([(0, 2)] if len(shape) == 3 else [])]
        fetches = [twice, *(dt.reduce_sum(twice, axis) for axis in axes)]
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
        whole, *sums = session.run(fetches, {given: x})
    wanted = x * np.float32(2) + 1
    np.testing.assert_array_equal(whole, wanted)
    for axis, found in zip(axes, sums, strict=True):
        np.testing.assert_allclose(found, wanted.sum(axis, dtype=np.float64), rtol=1e-5, atol=1e-2)


def test_an_op_without_a_kernel_of_its_own_runs_between_graphs_and_is_named_once(cupy: Any) -> None:
    """What draws random numbers, but for dropout, is the host's."""
    found = []
    for device in (make_backend("gpu", 0), Backend("numpy")):
        with dt.Graph().as_default() as graph:
            graph.seed = 7
            v = dt.Variable(dt.zeros([3]))
            loss = dt.reduce_sum(dt.sin(v + dt.random_uniform([3])))
            step = dt.train.GradientDescentOptimizer(0.5).minimize(loss)
            session = dt.Session(graph=graph, comm=None, device=device)
            session.run(dt.global_variables_initializer())
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                losses = [session.run([loss, step])[0] for _ in range(3)]
            assert [str(w.message).count("RandomUniform") for w in said] == [1] * (not device.on_host)
            found.append((losses, session.run(v)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("float32", 0, 1e-5), ("tf32", 2e-4, 1e-2), ("bfloat16", 4e-3, 8e-2)]
)
def test_operands_of_products_are_rounded_as_asked(
    cupy: Any, precision: str, least: float, most: float
) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 30, 30)).astype(np.float32)
    with dt.Graph().as_default() as graph:
        left, right = dt.placeholder("float32", [30, 30]), dt.placeholder("float32", [30, 30])
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0, precision=precision))
        found = session.run(dt.matmul(left, right, transpose_b=True), {left: a, right: b})
    error = np.abs(found - a.astype(np.float64) @ b.T.astype(np.float64)).max()
    assert least < error < most


class Node(SingleCommunicator):
    """A rank of several on one node whose GPUs have these bus ids."""

    def __init__(self, buses: list[str]) -> None:
        super().__init__()
        self.buses, self.size, self.hosts = buses, len(buses), ("n1",) * len(buses)

    def gather_text(self, text: str) -> list[str]:
        return [f"0 {bus}" for bus in self.buses]

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        return np.repeat(array, self.size, 0)


def test_ranks_share_a_gpu_only_where_that_is_asked_for(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(cupy.cuda.runtime, "deviceGetPCIBusId", lambda device: "01:00.0", raising=False)
    apart, together = Node(["01:00.0", "41:00.0"]), Node(["01:00.0", "41:00.0", "01:00.0"])
    assert DeviceSums(apart, cupy).name.startswith("staged through the host (no NCCL")
    with pytest.raises(
        EnvironmentProblem, match=r"rank 0 on n1 and rank 2 on n1 have one GPU, 01:00.0\..*--share-gpu"
    ):
        DeviceSums(together, cupy)
    assert DeviceSums(together, cupy, share=True).name == "staged through the host (ranks share a GPU)"


@pytest.mark.parametrize(
    ("count", "rank", "share", "device"),
    [(2, 1, False, 1), (2, 3, True, 1), (1, 3, False, 0), (1, 3, True, 0)],
)
def test_the_gpu_of_a_local_rank(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, count: int, rank: int, share: bool, device: int
) -> None:
    """One that is shown alone is taken by all: a scheduler may show each another; DeviceSums looks."""
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: count)
    assert make_backend("gpu", rank, share=share).name.startswith(f"gpu {device} ")
    assert make_backend("auto", rank).on_host == (rank >= count > 1)


def test_fewer_gpus_than_ranks_are_told(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 2)
    with pytest.raises(
        EnvironmentProblem, match=r"local rank 2 has no GPU of its own, the node shows 2.*--share-gpu"
    ):
        make_backend("gpu", 2)


def test_memory_that_the_device_has_not_is_told(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = make_backend("gpu", 0)

    def none(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(cupy, "zeros", none)
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (1_000, 8_000), raising=False)
    with pytest.raises(EnvironmentProblem, match="no memory for 5,000 bytes: 1,000 of 8,000 are free"):
        device.block(5_000)


@pytest.mark.parametrize("options", [[], ["--precision", "bfloat16"], ["--model", "cnn"]])
def test_the_command_trains_on_a_gpu(
    cupy: Any,
    options: list[str],
    tmp_path: Path,
    write_set: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_set(tmp_path / "data", 310, 70)
    small = ["--dataset", str(data), "--epochs", "2", "--batch-size", "50", "--no-tensorboard"]
    losses = []
    for device in ("gpu", "cpu"):
        run = ["train", *small, *options, "--device", device, "--run-dir", str(tmp_path / device)]
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main([*run, "--log-format", "json"]) == 0
        said = capsys.readouterr()
        assert "these ops have no kernels in CUDA" not in said.err
        events = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
        losses.append(next(e["loss"] for e in events if e["event"] == "epoch"))
        if device == "gpu":
            header = next(e for e in events if e["event"] == "header")
            assert header["devices"] == ["gpu 0 (a stand-in)"]
            assert header["kernels"].endswith("bfloat16" if "bfloat16" in options else "float32")
    assert losses[0] == pytest.approx(losses[1], rel=0.02 if "bfloat16" in options else 1e-3)


def test_auto_takes_gpus_for_all_ranks_or_for_none(
    cupy: Any, on_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ranks of a node that each see one GPU have it each, or all see the same and leave it."""
    config = TrainConfig(device="auto")
    made = on_threads(3, lambda comm: make_devices(config, comm))
    assert [(backend.on_host, devices) for backend, devices in made] == [(True, ["cpu"] * 3)] * 3
    numbers = itertools.count()
    monkeypatch.setattr(cupy.cuda.runtime, "deviceGetPCIBusId", lambda device: f"bus{next(numbers)}")
    made = on_threads(3, lambda comm: make_devices(config, comm))  # a scheduler shows each its own
    assert [(b.on_host, devices) for b, devices in made] == [(False, ["gpu 0 (a stand-in)"] * 3)] * 3
    (alone,) = on_threads(1, lambda comm: make_devices(config, comm))
    assert not alone[0].on_host and alone[1] == ["gpu 0 (a stand-in)"]


def test_kinds_of_devices_that_differ_between_ranks_are_refused(
    cupy: Any, on_threads: Callable[..., list[Any]]
) -> None:
    def rank(comm: Any) -> None:
        with dt.Graph().as_default() as graph:
            value = dt.placeholder("float32", []) + 1.0
            session = dt.Session(graph=graph, comm=comm, device="gpu" if comm.rank else "cpu")
            with pytest.raises(
                EnvironmentProblem, match="rank 0 on n0 computes on its CPU and rank 1 on n1 on a"
            ):
                session.run(value, {value.op.inputs[0]: 2.0})

    on_threads(2, rank)


def test_what_was_drawn_on_a_device_is_drawn_again(cupy: Any) -> None:
    """random_state, set back on a session that has run, is that of every operation."""
    still = dt.train.GradientDescentOptimizer(0.0)
    session, fetches, feeds, _ = network(still, make_backend("gpu", 0), True)
    step = session.make_callable(fetches, feeds)
    rows = batches(1)[0]
    first = [float(step(rows)[0]) for _ in range(3)]
    state = session.random_state
    then = [float(step(rows)[0]) for _ in range(4)]
    assert len({*first, *then}) == 7  # each step has a mask of its own
    session.random_state = state
    assert [float(step(rows)[0]) for _ in range(4)] == then
