"""Summing through shared memory gives what MPI's allreduce gives, whoever is late."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import mpi
from dtrain.comm.mpi import MPICommunicator
from dtrain.native import code, compiler
from dtrain.ops.memory import aligned
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def plain() -> Iterator[MPICommunicator]:
    yield MPICommunicator("mpi")


def terms(size: int, n: int, dtype: str, seed: int) -> np.ndarray:
    """What each rank brings, the same array on all ranks; whole numbers, so that sums are exact."""
    return np.random.default_rng(seed).integers(-1000, 1000, (size, n)).astype(dtype)


def test_how_it_sums_is_said(comm: MPICommunicator, plain: MPICommunicator) -> None:
    assert comm.averaging == "shared memory" + ", on cores far apart" * comm.far
    assert plain.averaging == "MPI allreduce"
    assert plain.bucket(64) is None and comm.bucket(0) is None


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("n", [1, 2, 31, 33, 1000, 100_003])
def test_sums(comm: MPICommunicator, dtype: str, n: int) -> None:
    source, output = (part.view(dtype)[:n] for part in comm.bucket(aligned(n * 8)) or ())
    reduce = comm.reducer(source, output)
    for seed in range(5):
        all_terms = terms(comm.size, n, dtype, seed)
        source[:] = all_terms[comm.rank]
        reduce()
        np.testing.assert_array_equal(output, all_terms.sum(0))
        np.testing.assert_array_equal(source, all_terms[comm.rank])


def test_a_value_from_outside_waits_for_those_who_read_the_one_before(comm: MPICommunicator) -> None:
    with dt.Graph().as_default() as graph:
        w = dt.Variable(dt.zeros([1000]), name="w")
        session = dt.Session(graph=graph)
        session.run(w.initializer)
    assert session.comm.is_shared(session.variables.arrays["w"])
    for late in range(comm.size):
        if comm.rank == late:
            time.sleep(0.05)
        seen = session.snapshot([w])["w"]
        w.load(np.full(1000, late + 1, np.float32), session)
        assert (seen == late).all()
        assert (session.snapshot([w])["w"] == late + 1).all()


def test_both_ways_give_the_same_numbers(comm: MPICommunicator, plain: MPICommunicator) -> None:
    """To the bit where there is one order of adding up, which two ranks have; to rounding otherwise."""
    source, output = (part.view("float32")[:9_001] for part in comm.bucket(aligned(9_001 * 4)) or ())
    source[:] = np.random.default_rng(comm.rank).normal(size=9_001)
    other = source.copy()
    comm.reducer(source, output)()
    plain.allreduce(other)
    if comm.size == 2:
        np.testing.assert_array_equal(output, other)
    np.testing.assert_allclose(output, other, rtol=0, atol=comm.size * 1e-6)


@pytest.mark.parametrize(("clearly", "chosen"), [(0.0, "shared memory"), (1e9, "MPI allreduce")])
def test_a_measured_choice_is_shown_and_kept_to(
    clearly: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpi, "CLEARLY", clearly)
    comm = MPICommunicator("shared")
    comm._choose()  # as on several nodes
    assert re.fullmatch(
        rf"{chosen}(, on cores far apart)? \(1 MiB in [\d.]+ ms, .*[\d.]+ ms\)", comm.averaging
    )
    assert (comm.bucket(64) is not None) == (comm.shared(64) is not None) == (chosen == "shared memory")
    assert comm.allreduce(np.ones(3))[0] == comm.size


def test_part_of_a_bucket(comm: MPICommunicator) -> None:
    blocks = comm.bucket(1024)
    assert blocks is not None
    source, output = (part.view("float32") for part in blocks)
    all_terms = terms(comm.size, 256, "float32", 1)
    source[:] = all_terms[comm.rank]
    wanted = np.full(256, -7, np.float32)
    if comm.rank == 0:
        output[:] = wanted  # what a bucket holds before is not defined
    comm.barrier()
    comm.reducer(source[16:160], output[16:160])()
    wanted[16:160] = all_terms[:, 16:160].sum(0)
    np.testing.assert_array_equal(output, wanted)


def test_late_ranks_and_several_buckets(comm: MPICommunicator) -> None:
    """Each rank is late at other times: before a sum, and before it has read the result."""
    buckets = [comm.bucket(4 * n) for n in (16, 4096)]
    views = [[part.view("float32") for part in blocks] for blocks in buckets if blocks]
    reducers = [comm.reducer(*pair) for pair in views]
    rng = np.random.default_rng(comm.rank)
    for k in range(60):
        for (source, output), reduce in zip(views, reducers, strict=True):
            all_terms = terms(comm.size, source.size, "float32", k)
            if rng.random() < 0.2:
                time.sleep(0.002)
            source[:] = all_terms[comm.rank]
            reduce()
            if rng.random() < 0.2:
                time.sleep(0.002)
            np.testing.assert_array_equal(output, all_terms.sum(0))


def test_training_is_that_of_plain_allreduce(comm: MPICommunicator, plain: MPICommunicator) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((30, 19)).astype("f"), rng.integers(0, 5, 30).astype(np.int32)
    x, y = dt.placeholder("float32", [None, 19]), dt.placeholder("int32", [None])
    dt.set_random_seed(1)
    h = dt.nn.relu(dt.matmul(x, dt.Variable(dt.random_normal([19, 7]))) + dt.Variable(dt.zeros([7])))
    logits = dt.matmul(h, dt.Variable(dt.random_normal([7, 5])))
    loss = dt.reduce_mean(dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    # clipping needs the summed gradient before the update: a bucket whose output another kernel reads
    optimizer = dt.train.MomentumOptimizer(0.1, 0.9)
    pairs = optimizer.compute_gradients(loss)
    norm = dt.sqrt(sum(dt.reduce_sum(dt.square(g)) for g, _ in pairs))
    step = optimizer.apply_gradients([(g / dt.maximum(norm, 1.0), v) for g, v in pairs])
    results = []
    for which in (comm, plain, None):
        session = dt.Session(comm=which)
        session.run(dt.global_variables_initializer())
        for total in (30, 7, 2) * 10:
            rank, size = (which.rank, which.size) if which else (0, 1)
            rows = slice(*shard_bounds(total, rank, size))
            feeds = {x: dt.Shard(images[:total][rows], total), y: dt.Shard(labels[:total][rows], total)}
            value = session.run([loss, step], feeds)[0]
        results.append([value, *session.run(dt.trainable_variables())])
    for shared, other, alone in zip(*results, strict=True):
        np.testing.assert_allclose(shared, other, atol=2e-6)
        np.testing.assert_allclose(shared, alone, atol=5e-6)
    digest = np.concatenate([v.ravel() for v in results[0][1:]]).tobytes().hex()
    comm.agree_on("the parameters", digest[:2000])


@pytest.mark.skipif(not compiler.command(), reason="needs a C compiler")
def test_cores_that_are_far_apart_change_no_bit(
    comm: MPICommunicator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters, and what gradients of weights are made of, are then written past the caches."""
    assert len(set(comm.gather_text(str(comm.far)))) == 1
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((7, 19)).astype("f"), rng.integers(0, 5, 7).astype(np.int32)
    results, symbols = [], []
    for far in (False, True):
        monkeypatch.setattr(comm, "far", far)
        dt.reset_default_graph()
        dt.set_random_seed(1)
        at, y = dt.placeholder("int32", [None]), dt.placeholder("int32", [None])
        x = dt.gather(dt.constant(images), at)
        h = dt.nn.relu(dt.matmul(x, dt.Variable(dt.random_normal([19, 71]))) + dt.Variable(dt.zeros([71])))
        logits = dt.matmul(h, dt.Variable(dt.random_normal([71, 5])))
        loss = dt.reduce_mean(dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
        step = dt.train.AdamOptimizer(0.01).minimize(loss)
        session = dt.Session(comm=comm, device=Backend("c"))
        session.run(dt.global_variables_initializer())
        low, high = shard_bounds(7, comm.rank, comm.size)
        feeds = {at: dt.Shard(np.arange(low, high, dtype=np.int32), 7), y: dt.Shard(labels[low:high], 7)}
        values = [session.run([loss, step], feeds)[0] for _ in range(40)]
        plan = [*session.plans.values()][-1]
        symbols.append(
            [{s for s in plan.kernel_symbols if s.startswith(kind)} for kind in ("update", "loop")]
        )
        results.append([values, *session.run(dt.trainable_variables())])
    (update, loops), (update_far, loops_far) = symbols
    assert update and update_far and not update & update_far
    assert loops_far - loops or not code._product().fast  # of what is exchanged
    for near, far in zip(*results, strict=True):
        np.testing.assert_array_equal(near, far)


def test_variables_are_one_memory_and_written_once(comm: MPICommunicator) -> None:
    v = dt.Variable(dt.constant([1.0, 2.0, 3.0]), name="v")
    counter = dt.Variable(0, trainable=False, name="counter")
    add, count = v.assign_add([1.0, 0.0, -1.0]), counter.assign_add(1)
    with dt.control_dependencies([add]):
        after = dt.identity(v.value())
    session = dt.Session()
    session.run(dt.global_variables_initializer())
    for k in range(1, 20):
        if k % comm.size == comm.rank:
            time.sleep(0.001)
        before, _, _, behind = session.run([v, add, count, after])
        np.testing.assert_array_equal(before, [k, 2, 4 - k])
        np.testing.assert_array_equal(behind, [1 + k, 2, 3 - k])
    assert session.run(counter) == 19
    assert comm.is_shared(session.variables.arrays["v"]) and not comm.is_shared(
        session.variables.arrays["counter"]
    )


def test_parts_tile(comm: MPICommunicator) -> None:
    for n in (0, 1, 31, 32, 33, 269_322):
        bounds = comm.allgather(np.array([comm.part(n, 4)]))
        assert bounds[0, 0] == 0 and bounds[-1, 1] == n
        np.testing.assert_array_equal(bounds[1:, 0], bounds[:-1, 1])


def test_memory_of_plans_and_sessions_that_are_gone_is_used_again(
    comm: MPICommunicator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program whose feeds have ever new sizes, and one that makes a session for each of many models."""
    monkeypatch.setattr("dtrain.runtime.session.MAX_PLANS", 3)
    comm = MPICommunicator()  # whose memory no other test has used
    made = []
    for model in range(4):
        with dt.Graph().as_default() as graph:
            x = dt.placeholder("float32", [None, 7])
            w = dt.Variable(np.full((7, 30), model / 4, np.float32))
            loss = dt.reduce_mean(dt.square(dt.matmul(x, w) - 1.0))
            step = dt.train.MomentumOptimizer(0.01, 0.9).minimize(loss)
            session = dt.Session(graph=graph, comm=comm)
            session.run(dt.global_variables_initializer())
            right, velocity = np.full((7, 30), model / 4), np.zeros((7, 30))
            for size in range(comm.size, comm.size + 12):
                rows = np.linspace(0, 1, size * 7, dtype=np.float32).reshape(size, 7)
                low, high = shard_bounds(size, comm.rank, comm.size)
                session.run(step, {x: dt.Shard(rows[low:high], size)})
                wide = rows.astype(np.float64)
                velocity = 0.9 * velocity + wide.T @ (wide @ right - 1) * 2 / (size * 30)
                right -= 0.01 * velocity
            np.testing.assert_allclose(session.run(w), right, atol=1e-5)
            session.close()
        del session, step, loss, w, graph, x
        gc.collect()
        made.append((len(comm._buckets), len(comm._blocks)))
    if comm.node_barrier is not None:
        assert 0 < made[0][0] < 12 and made[0][1] > 0
        assert made[3] == made[0], "each model takes the memory of the one before"
