"""Sums that begin early give what those behind the backward pass give, and fail as they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import mpi
from dtrain.comm.mpi import MPICommunicator
from dtrain.comm.single import SingleCommunicator
from dtrain.errors import NumericError
from dtrain.native import compiler
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend
from dtrain.runtime.profile import ASIDE, WAITING
from dtrain.train.profile import StepProfiler

pytestmark = pytest.mark.mpi

ROWS, WIDE = 17, 33


@pytest.fixture(scope="module")
def early() -> Iterator[MPICommunicator]:
    yield MPICommunicator("mpi", "on")


@pytest.fixture(scope="module")
def plain() -> Iterator[MPICommunicator]:
    yield MPICommunicator("mpi")


class Other:
    """Something else with some of its attributes replaced."""

    def __init__(self, real: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def on_nodes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MPICommunicator]:
    """Makes a communicator of these ranks as if there were two to a node."""
    real = mpi.load_mpi()
    world = Other(real.COMM_WORLD, Split_type=lambda *_: real.COMM_WORLD.Split(real.COMM_WORLD.rank // 2))
    monkeypatch.setattr(mpi, "load_mpi", lambda: Other(real, COMM_WORLD=world))
    return MPICommunicator


class Training:
    """An MLP of three layers with Adam; images: [ROWS, WIDE], alike on all ranks."""

    def __init__(self, comm: MPICommunicator, kernels: str = "numpy") -> None:
        self.comm = comm
        graph = dt.Graph()
        graph.seed = 1
        with graph.as_default():
            self.x = dt.placeholder("float32", [None, WIDE])
            self.y = dt.placeholder("int32", [None])
            self.scale = dt.placeholder("float32", [])
            self.last = dt.placeholder("float32", [])  # what the last layer's inputs are multiplied by
            h = self.x
            for width in (40, 31, 5):
                w = dt.Variable(dt.random_normal([h.shape[1].value, width], stddev=0.3))
                h = h if width == 40 else dt.nn.relu(h) * (self.last if width == 5 else 1.0)
                h = dt.matmul(h, w) + dt.Variable(dt.zeros([width]))
            self.weights = w
            losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=self.y, logits=h * self.scale)
            self.loss = dt.reduce_mean(losses)
            self.train = dt.train.AdamOptimizer(0.05).minimize(self.loss)
            self.variables = dt.global_variables()
            initialize = dt.global_variables_initializer()
        checks = dt.ConfigProto(check_numerics=True)
        self.session = dt.Session(graph=graph, comm=comm, device=Backend(kernels), config=checks)
        self.session.run(initialize)

    def feed(self, step: int, scale: float, last: float) -> dict[dt.Tensor, object]:
        rng = np.random.default_rng(step)
        rows = slice(*shard_bounds(ROWS, self.comm.rank, self.comm.size))
        images, labels = rng.standard_normal((ROWS, WIDE)).astype("f"), rng.integers(0, 5, ROWS).astype("i4")
        shards = {self.x: dt.Shard(images[rows], ROWS), self.y: dt.Shard(labels[rows], ROWS)}
        return {**shards, self.scale: scale, self.last: last}

    def step(self, step: int, scale: float = 1.0, last: float = 1.0) -> float:
        return self.session.run([self.loss, self.train], self.feed(step, scale, last))[0]

    def values(self) -> list[np.ndarray]:
        return self.session.run(self.variables)

    def begins(self) -> int:
        return sum(n.type == "BeginAllReduce" for n in [*self.session.plans.values()][-1].nodes)


@pytest.mark.parametrize("kernels", ["numpy", "c"])
def test_training_is_the_same(early: MPICommunicator, plain: MPICommunicator, kernels: str) -> None:
    if kernels == "c" and not compiler.command():
        pytest.skip("there is no C compiler")
    runs = [Training(comm, kernels) for comm in (early, plain)]
    losses = [[run.step(k) for k in range(12)] for run in runs]
    assert [run.begins() for run in runs] == [2, 0]
    assert losses[1][-1] < losses[1][0]
    for ours, theirs in zip(*(run.values() for run in runs), strict=True):
        if early.size == 2:  # there is one order of adding up
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("room", [1 << 40, 1000])
def test_nodes_of_several_ranks(
    on_nodes: Callable[..., MPICommunicator],
    plain: MPICommunicator,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each sums what its ranks have, in memory that they share, and the sums go on over the network.

    Where there is no room for such memory all ranks sum at once.
    """
    if plain.size % 2:
        pytest.skip("nodes of different sizes share no sums")
    comm = on_nodes("shared", "on")
    assert (comm.nodes, comm.local_size) == (plain.size // 2, 2)
    monkeypatch.setattr(mpi, "room", lambda: room)
    runs = [Training(comm), Training(plain)]
    for k in range(8):
        if k % comm.size == comm.rank:
            time.sleep(0.005)
        ours, theirs = (run.step(k) for run in runs)
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert runs[0].begins() == (2 if comm.nodes > 1 else 0)
    for ours, theirs in zip(*(run.values() for run in runs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_training_is_that_of_one_process(early: MPICommunicator) -> None:
    run = Training(early)
    for k in range(6):
        run.step(k)
    alone = Training(SingleCommunicator())  # type: ignore[arg-type]
    for k in range(6):
        alone.step(k)
    for ours, theirs in zip(run.values(), alone.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_whoever_is_late(early: MPICommunicator, plain: MPICommunicator) -> None:
    run, other = Training(early), Training(plain)
    for k in range(2 * early.size):
        if k % early.size == early.rank:
            time.sleep(0.01)
        assert run.step(k) == pytest.approx(other.step(k), abs=1e-5)


@pytest.mark.parametrize("alone", [False, True])
def test_a_bad_number_in_an_early_bucket_stops_the_step(early: MPICommunicator, alone: bool) -> None:
    """In all buckets, or in the first alone: weights of 0 hold back what overflows in their own gradient."""
    run = Training(early)
    run.step(0)
    if alone:
        run.session.set_value(run.weights, np.zeros((31, 5), np.float32))
    before = run.values()
    with pytest.raises(NumericError):
        run.step(1, *((1e3, 3e37) if alone else (float("nan"), 1.0)))
    plan = [*run.session.plans.values()][-1]
    assert plan is not None
    (stop,) = (node for node in plan.nodes if node.type == "StopIfBad")
    verdicts = sorted(float(plan._arrays[t]) for t in stop.inputs)
    assert [verdict > 0 for verdict in verdicts] == [not alone, not alone, True]
    for was, now in zip(before, run.values(), strict=True):
        np.testing.assert_array_equal(was, now)
    assert np.isfinite(run.step(1))


def test_what_is_beside_other_work_is_in_the_profile(early: MPICommunicator, tmp_path: Path) -> None:
    folder = Path(early.broadcast_text(str(tmp_path)))
    run = Training(early)
    step = StepProfiler(run.session, run.step, (2, 5), folder)
    for k in range(6):
        step(k)
    facts = step.finish()
    parts = sum(np.array(each) for each in facts["parts_ms"].values())
    aside, hidden = np.array(facts["aside_ms"]), np.array(facts["hidden_ms"])
    assert (aside > 0).all() and (hidden >= 0).all() and (hidden <= aside + 1e-3).all()
    assert float(np.mean(parts)) == pytest.approx(facts["step_ms"])  # of which those sums are no part
    if early.rank == 0:
        text = Path(facts["trace"]).read_text()
        assert text.count(f'"cat":"{ASIDE}"') == 3 * 2 * early.size
        assert f'"cat":"{WAITING}"' in text


def test_what_was_measured_is_alike_on_all_ranks(early: MPICommunicator, plain: MPICommunicator) -> None:
    assert plain.link is None and early.link is not None
    everyones = early.allgather(np.array([early.link], np.float64))
    assert (everyones == everyones[0]).all()
    latency, bandwidth, flops, hidden, forced = early.link
    assert latency > 0 and bandwidth > 0 and flops > 0 and 0 <= hidden <= 1 and forced
    assert "MB/s" in early.averaging


def test_one_node_that_shares_its_memory_is_left_as_it_is(comm: MPICommunicator) -> None:
    for overlap, said in (("auto", ""), ("on", "; no sum begins early (a node's ranks sum in memory)")):
        made = MPICommunicator("auto", overlap)
        assert (
            made.link is None and made.averaging == f"shared memory{', on cores far apart' * made.far}{said}"
        )
    assert MPICommunicator("mpi", "auto").link is None
    assert comm.link is None
