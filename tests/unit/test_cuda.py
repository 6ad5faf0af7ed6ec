"""The step on a GPU: kernels in CUDA, run as C++ on the stand-in for CuPy in tests/standin.

They prove arithmetic, bounds, order, what crosses the bus and what is captured; nothing of a real GPU.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain import comm as communicators
from dtrain.cli import main
from dtrain.comm import launcher
from dtrain.comm.nccl import DeviceSums
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.cuda import code, nvrtc
from dtrain.errors import EnvironmentProblem, InvalidArgumentError, NumericError, UsageError
from dtrain.keras import optimizers
from dtrain.runtime.backend import Backend, make_backend
from dtrain.runtime.feeds import Window
from dtrain.task.trainer import make_devices
from dtrain.train import checkpoint
from dtrain.train.loss_scale import DynamicLossScale, MixedPrecisionLossScaleOptimizer

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="the stand-in compiles CUDA sources with g++")


def network(
    optimizer: Any, device: Backend, dropout: bool = False, config: Any = None, weight: float = 1.0
) -> tuple[Any, ...]:
    """A session on a small network over uint8 examples: what a step fetches, its feed, and the parameters.

    optimizer: one, or what makes one in the graph. weight: of the loss, in the backward pass.
    """
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
        step = (optimizer() if callable(optimizer) else optimizer).minimize(loss * weight)
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


def test_an_update_may_have_several_rates(cupy: Any) -> None:
    """Keras's Nadam takes three numbers of its schedule."""
    found = []
    for device in (Backend("numpy"), make_backend("gpu", 0)):
        dt.reset_default_graph()
        w = dt.Variable(np.linspace(-1, 1, 7, dtype=np.float32))
        step = optimizers.Nadam().make(0.1).minimize(dt.reduce_sum(dt.square(w - 0.3)))
        session = dt.Session(comm=None, device=device)
        session.run(dt.global_variables_initializer())
        for _ in range(5):
            session.run(step)
        found.append(session.run(w))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("name", ["GradientDescentOptimizer", "AdamOptimizer"])
@pytest.mark.parametrize("model", [network, convolutional])
def test_steps_are_those_of_the_cpu(cupy: Any, model: Any, name: str, dropout: bool) -> None:
    found = []
    for device in (Backend("numpy"), make_backend("gpu", 0)):
        session, fetches, feeds, variables = model(getattr(dt.train, name)(0.01), device, dropout)
        step = session.make_callable(fetches, feeds)
        losses = [step(rows)[0] for rows in batches(40)]  # test_gpu.py takes a hundred
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
    steps = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
    crossing = []
    for length in (9, 9, 5, 8):
        before = cupy.counts.copy()
        steps(Window(batches(length), 21))
        crossing.append(cupy.counts - before)
    assert all(c["allocations"] == c["captured"] == c["launches"] == c["products"] == 0 for c in crossing[1:])
    assert [c["graphs"] for c in crossing[1:]] == [9, 5, 8]
    # a step's feed is 21 numbers; the rest goes once a call of the plan
    per_step = (crossing[1]["up"] - crossing[2]["up"]) / 4
    assert per_step <= 21 * 4 + 16 and [c["waits"] for c in crossing] == [
        2,
        1,
        1,
        1,
    ]  # the first kernels, alone
    single = reference[0].make_callable(reference[1], reference[2])
    for length in (9, 9, 5, 8):
        for rows in batches(length):
            single(rows)
    for a, b in zip(session.run(variables), reference[0].run(reference[3]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("streams", ["late", "early"])
def test_gradients_of_weights_are_computed_beside_the_backward_pass(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, streams: str
) -> None:
    """Layers of one width, so that memory is wanted again while the other stream may still read it.

    All numbers are small integers, so float32 rounds nothing, whatever the processor and its BLAS.
    """
    monkeypatch.setenv("STANDIN_STREAMS", streams)
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (4, 9, 16)).astype(np.float32)
    begin = [np.where(rng.random((16, 16)) < 0.2, rng.choice([-1, 1], (16, 16)), 0) for _ in range(6)]
    found = []
    for device in (Backend("numpy"), make_backend("gpu", 0)):
        with dt.Graph().as_default() as graph:
            graph.seed = 5
            h = given = dt.placeholder("float32", [9, 16])
            weights = [dt.Variable(w.astype(np.float32)) for w in begin]
            for w in weights:
                h = dt.nn.relu(dt.matmul(h, w))
            step = dt.train.GradientDescentOptimizer(0.5).minimize(dt.reduce_sum(dt.square(h)))
            session = dt.Session(graph=graph, comm=None, device=device)
            for rows in x:
                session.run(dt.global_variables_initializer())
                session.run(step, {given: rows})
                plan = [*session.plans.values()][-1]
                found.append(session.run(weights))
    # the last gradient has nothing beside it
    assert sum(hasattr(call, "alone") for call in plan._steps._parts[1]) == 2 * 5
    for rows, *both in zip(x, found[:4], found[4:], strict=True):
        h = [rows.astype(np.float64)]
        for w in begin:
            h.append(np.maximum(h[-1] @ w, 0))
        dh, expected = 2 * h[-1], []
        for w, before, after in zip(reversed(begin), h[-2::-1], h[:0:-1], strict=True):
            dh = dh * (after > 0)
            expected.append(w - 0.5 * before.T @ dh)
            dh = dh @ w.T
        assert max(np.abs(w).max() for w in expected) < 2**22 and all(
            (w != v).any() for w, v in zip(expected, reversed(begin), strict=True)
        )
        for values in both:
            for w, right in zip(values, reversed(expected), strict=True):
                np.testing.assert_array_equal(w, right)


def test_a_product_on_the_other_stream_is_waited_for_before_what_it_reads_is_written(cupy: Any) -> None:
    """d(w v)/dv reads w, which another optimizer's update writes before that gradient is read.

    The update is not so small that what is small together is waited for before it.
    """
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    found = []
    for device in (Backend("numpy"), make_backend("gpu", 0)):
        with dt.Graph().as_default() as graph:
            graph.seed = 5
            given = dt.placeholder("float32", [9, 64])
            w, v = (dt.Variable(dt.truncated_normal([64, 64], stddev=0.1)) for _ in range(2))
            product = dt.matmul(w, v)
            (dv,) = dt.gradients(dt.reduce_sum(dt.square(dt.matmul(given, product))), [v])
            # another product comes behind dv, and its update before dv is read
            with dt.control_dependencies([dv]):
                dw = dt.matmul(given, given * 0.1, transpose_a=True)
            first = dt.train.GradientDescentOptimizer(0.01).apply_gradients([(dw, w)])
            with dt.control_dependencies([first]):
                second = dt.train.GradientDescentOptimizer(0.01).apply_gradients([(dv, v)])
            session = dt.Session(graph=graph, comm=None, device=device)
            session.run(dt.global_variables_initializer())
            for _ in range(4):
                session.run(second, {given: x})
            found.append(session.run([w, v]))
    for ours, numpys in zip(*found, strict=True):
        np.testing.assert_allclose(ours, numpys, rtol=1e-4, atol=1e-5)


def test_small_kernels_together_are_those_alone_to_the_bit(cupy: Any) -> None:
    launches, values = [], []
    for alone in (False, True):
        session, fetches, feeds, variables = network(
            dt.train.AdamOptimizer(0.01), make_backend("gpu", 0), True
        )
        step = session.make_callable(fetches, feeds)
        first, *rows = batches(5)
        step(first)
        plan = [*session.plans.values()][-1]
        before = cupy.counts["launches"]
        for row in rows:
            plan.run([row], plan.kernels if alone else None)
            if row is rows[0]:  # the next are graphs
                launches.append(cupy.counts["launches"] - before)
        values.append([session.random_state, *session.run(variables)])
    for together, single in zip(*values, strict=True):
        np.testing.assert_array_equal(together, single)
    assert launches[0] < 0.6 * launches[1] and plan.launches == launches[0] + 5  # products


def test_more_small_kernels_than_one_launch_has_arguments_for(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[str] = []
    entry = code.entry

    def kept(*group: Any) -> tuple[str, str]:
        symbol, source = entry(*group)
        sources.append(source)
        return symbol, source

    monkeypatch.setattr(code, "entry", kept)
    x = np.arange(1, 4, dtype=np.float32)
    with dt.Graph().as_default() as graph:
        given = dt.placeholder("float32", [3])
        sums = [dt.reduce_sum(given * float(k)) for k in range(150)]  # each a kernel
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
        before = cupy.counts["launches"]
        found = session.run(sums, {given: x})
    np.testing.assert_allclose(found, 6.0 * np.arange(150), rtol=1e-6)
    assert 150 * 8 / 512 < cupy.counts["launches"] - before < 10
    words = [source.split("{")[0].count(",") + 1 for source in sources]
    assert 400 < max(words) <= 512


def test_a_window_ends_where_a_step_says_so(cupy: Any) -> None:
    session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    reference = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    rows = batches(8)
    rows[4, 2] = 89
    results = session.make_callable(fetches, feeds).several(Window(rows, 21), until=fetches[1])
    assert [r[1] for r in results] == [0, 0, 0, 0, 1]
    single = reference[0].make_callable(reference[1], reference[2])
    for row in rows[:5]:
        single(row)
    for a, b in zip(session.run(variables), reference[0].run(reference[3]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_number_out_of_range_changes_nothing_and_is_named(cupy: Any) -> None:
    session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    steps = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
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
    steps = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
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
    ("precision", "least", "most"),
    [("float32", 0, 1e-5), ("tf32", 2e-4, 1e-2), ("bfloat16", 4e-3, 8e-2), ("float16", 2e-4, 1e-2)],
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


@pytest.mark.parametrize(
    ("precision", "tiny", "large"),
    [("tf32", 2.0**-30, 2.0**16), ("bfloat16", 2.0**-30, 2.0**16), ("float16", 0, np.inf)],
)
def test_float16_has_fewer_exponents(cupy: Any, precision: str, tiny: float, large: float) -> None:
    with dt.Graph().as_default() as graph:
        left, right = dt.placeholder("float32", [1, 1]), dt.placeholder("float32", [1, 1])
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0, precision=precision))
        step = session.make_callable(dt.matmul(left, right), [left, right])
    found = [float(step([[x]], [[1.0]])[0, 0]) for x in (2.0**-30, 2.0**-24, 2.0**15, 2.0**16)]
    assert found == [tiny, 2.0**-24, 2.0**15, large]


#: So light a loss that its gradients are below float16's numbers, at a rate that makes up for it.
LIGHT = 2.0**-24


def light(scale: Any) -> Any:
    """What makes gradient descent on it, with or without a loss scale."""

    def make() -> Any:
        plain = dt.train.GradientDescentOptimizer(0.2 / LIGHT)
        return plain if scale is None else MixedPrecisionLossScaleOptimizer(plain, scale)

    return make


def test_float16_learns_with_a_loss_scale_what_it_does_not_without(cupy: Any) -> None:
    losses, changes = {}, {}
    for precision, scale in (("float32", None), ("float16", "dynamic"), ("float16", None)):
        device = make_backend("gpu", 0, precision=precision)
        session, fetches, feeds, variables = network(light(scale), device, weight=LIGHT)
        before = session.run(variables)
        step = session.make_callable(fetches, feeds)
        rows = batches(100)
        first = step(rows[0])
        after = session.run(variables)
        changes[precision, scale] = [a - b for a, b in zip(after, before, strict=True)]
        losses[precision, scale] = [float(loss) for loss, *_ in (first, *(step(row) for row in rows[1:]))]
    wanted, scaled, bare = changes.values()
    for w, s, b in zip(wanted, scaled, bare, strict=True):
        assert np.abs(w).max() > 1e-3
        np.testing.assert_allclose(s, w, atol=5e-3 * np.abs(w).max())
        assert b.ndim == 1 or not b.any()  # no product of gradients is left of it
    full, scaled, bare = (np.mean(of[-10:]) for of in losses.values())
    assert scaled == pytest.approx(full, rel=1e-2)
    assert full < 0.9 * bare


def test_a_window_in_which_the_scale_falls_is_its_steps_to_the_bit(cupy: Any) -> None:
    """The scale doubles every other step, so it overflows somewhere in the windows; no batch is lost."""
    device = make_backend("gpu", 0, precision="float16")

    def make() -> Any:
        return MixedPrecisionLossScaleOptimizer(dt.train.AdamOptimizer(0.01), DynamicLossScale(2.0**12, 2))

    session, fetches, feeds, _ = network(make, device, True)
    single = network(make, device, True)
    plain = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0), True)
    steps = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
    step = single[0].make_callable(single[1], single[2])
    rows = batches(40)
    taken = [steps(Window(rows[at : at + 20], 21)) for at in (0, 20)]
    assert [len(part) for part in taken] == [20, 20]
    scales, found = [], []
    (scale,) = (v for v in single[0].graph.get_collection("variables") if v.op.name == "current_loss_scale")
    for row in rows:
        found.append(float(step(row)[0]))
        scales.append(float(single[0].run(scale)))
    assert [float(loss) for part in taken for loss, *_ in part] == found
    assert any(b < 2 * a for a, b in zip(scales[1::2], scales[3::2], strict=False))  # it fell
    everything = session.graph.get_collection("variables"), single[0].graph.get_collection("variables")
    for a, b in zip(session.run(everything[0]), single[0].run(everything[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert session.random_state == single[0].random_state
    exact = plain[0].make_callable(plain[1], plain[2])
    np.testing.assert_allclose(found, [float(exact(row)[0]) for row in rows], rtol=2e-2)
    # and what follows is a graph a step, as without a scale
    before = cupy.counts.copy()
    steps(Window(rows[:1], 21))
    crossing = cupy.counts - before
    assert crossing["graphs"] >= 1 and crossing["launches"] == crossing["products"] == 0


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
    apart, together = Node(["01:00.0 a", "41:00.0 b"]), Node(["01:00.0 a", "41:00.0 b", "01:00.0 a"])
    instances = Node(["01:00.0 a", "01:00.0 b"])
    assert DeviceSums(apart, cupy, "01:00.0 a").name.startswith("staged through the host (no NCCL")
    assert "MIG" in DeviceSums(instances, cupy, "01:00.0 a").name
    with pytest.raises(
        EnvironmentProblem, match=r"rank 0 on n1 and rank 2 on n1 have one GPU, 01:00.0\..*--share-gpu"
    ):
        DeviceSums(together, cupy, "01:00.0 a")
    sums = DeviceSums(together, cupy, "01:00.0 a", share=True)
    assert sums.name == "staged through the host (ranks share a GPU)"


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
    beyond = rank >= count > 1
    with pytest.warns(match="local rank 3 has no GPU of its own") if beyond else nullcontext():
        assert make_backend("auto", rank).on_host == beyond


def test_the_gpu_is_taken_before_mpi_begins(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An MPI that knows CUDA begins on the GPU in use; what is wrong with it is told when ranks have met."""
    order: list[Any] = []

    def world(*_: Any) -> Any:
        order.append("MPI")
        raise UsageError("enough")

    def use(self: Any) -> None:
        if order[-1:] != [self.id]:  # a probe takes it, too
            order.append(self.id)

    monkeypatch.setattr(cupy.cuda.Device, "use", use)
    monkeypatch.setattr(communicators, "world", world)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 2)
    monkeypatch.setattr(launcher, "local_rank", lambda: 1)
    with pytest.raises(UsageError):
        dt.Session(device="gpu")
    assert main(["train", "--device", "gpu"]) == 2
    assert order == [1, "MPI"] * 2
    monkeypatch.setattr(launcher, "local_rank", lambda: 2)
    assert main(["train", "--device", "gpu"]) == 2 and order[4:] == ["MPI"]


def test_threads_and_sessions_keep_to_the_stream_of_their_backend(cupy: Any) -> None:
    """Each thread has a current stream, and the backend made last has set it."""
    made = [network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0)) for _ in range(2)]
    steps = [session.make_callable(fetches, feeds) for session, fetches, feeds, _ in made]
    rows = batches(6)
    losses: list[list[float]] = [[], []]
    for row in rows:
        losses[0].append(steps[0](row)[0])
        thread = threading.Thread(target=lambda row=row: losses[1].append(steps[1](row)[0]))
        thread.start()
        thread.join(10)
    assert losses[0] == losses[1] and losses[0][-1] != losses[0][0]


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


@pytest.mark.parametrize(
    "options",
    [[], ["--precision", "bfloat16"], ["--precision", "float16"], ["--model", "cnn", "--epochs", "1"]],
)
def test_the_command_trains_on_a_gpu(
    cupy: Any,
    options: list[str],
    tmp_path: Path,
    write_set: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_set(tmp_path / "data", 110, 30)
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
            assert header["kernels"].endswith(options[1] if "--precision" in options else "float32")
    assert losses[0] == pytest.approx(losses[1], rel=0.02 if "bfloat16" in options else 1e-3)


def test_a_run_in_float16_goes_on_with_its_loss_scale(
    cupy: Any, tmp_path: Path, write_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_set(tmp_path / "data", 110, 30)
    new = ["train", "--dataset", str(data), "--batch-size", "50", "--no-tensorboard", "--device", "gpu"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    scaled = [*new, "--precision", "float16"]
    assert main([*scaled, "--epochs", "3", "--run-dir", str(whole)]) == 0
    assert main([*scaled, "--epochs", "1", "--run-dir", str(parts)]) == 0
    assert main(["train", "--resume", str(parts), "--epochs", "3", "--no-tensorboard"]) == 0
    (a, b) = (checkpoint.load(run, lambda manifest, specs: list(specs)).values for run in (whole, parts))
    assert a.keys() == b.keys() and a["current_loss_scale"] == 2**15 and a["good_steps"] == 3 * 3
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)
    capsys.readouterr()
    assert main(["train", "--resume", str(parts), "--epochs", "4", "--device", "cpu"]) != 0
    said = capsys.readouterr().err
    assert "with a loss scale and would continue without one; --precision float16 has it" in said
    plain = tmp_path / "plain"
    assert main([*new, "--epochs", "1", "--run-dir", str(plain)]) == 0
    assert main(["train", "--resume", str(plain), "--epochs", "2", "--precision", "float16"]) != 0
    assert "without a loss scale and would continue with one" in capsys.readouterr().err


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


@pytest.mark.skipif(not shutil.which("nvcc"), reason="NVIDIA's compiler is not installed")
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_nvidias_compiler_takes_what_a_run_launches(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    sources: list[str] = []
    load = nvrtc.load

    def kept(cupy: Any, source: str, device: int) -> Any:
        sources.append(source)
        return load(cupy, source, device)

    monkeypatch.setattr(nvrtc, "load", kept)
    data = write_set(tmp_path / "data", 110, 30)
    run = ["train", "--dataset", str(data), "--epochs", "1", "--batch-size", "50", "--no-tensorboard"]
    assert main([*run, "--model", model, "--device", "gpu", "--run-dir", str(tmp_path / "run")]) == 0
    assert sources
    # NVRTC declares these itself
    text = "#include <cfloat>\n#include <cmath>\n#include <cstdint>\n" + max(sources, key=len)
    (tmp_path / "kernels.cu").write_text(text)
    command = ["nvcc", "--fmad=false", "-arch=sm_80", "--ptx", "-o", tmp_path / "kernels.ptx"]
    done = subprocess.run([*command, tmp_path / "kernels.cu"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[:2000]
    ptx = (tmp_path / "kernels.ptx").read_text()
    assert ptx.count(".visible .entry") == len(re.findall(r'extern "C" __global__', text))
