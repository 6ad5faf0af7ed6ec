"""Recording under MPI: the barrier before a sum, the clocks of one node, and results as without."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm.mpi import MPICommunicator
from dtrain.native import compiler
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend
from dtrain.runtime.profile import MOVING, UPDATE, WAITING, align
from dtrain.train.profile import StepProfiler

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("share", [True, False])
def test_a_barrier_holds_everyone(share: bool) -> None:
    comm = MPICommunicator("shared" if share else "mpi")
    for late in range(comm.size):
        begun = comm.broadcast(np.array([time.perf_counter()]))[0]
        if comm.rank == late:
            time.sleep(0.02)
        before = comm.seconds
        comm.barrier()
        assert time.perf_counter() - begun >= 0.02
        assert comm.rank == late or comm.seconds > before


def test_clocks_of_one_node_are_left_alone(comm: MPICommunicator) -> None:
    offset, error = align(comm)
    assert offset == 0
    assert error < 20_000_000


@pytest.mark.parametrize("kernels", ["numpy", "c"])
@pytest.mark.parametrize("share", [True, False])
def test_training_is_recorded_and_the_same(share: bool, kernels: str, tmp_path: Path) -> None:
    if kernels == "c" and not compiler.command():
        pytest.skip("there is no C compiler")
    comm = MPICommunicator("shared" if share else "mpi")
    folder = Path(comm.broadcast_text(str(tmp_path)))
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((30, 19)).astype("f"), rng.integers(0, 5, 30).astype(np.int32)
    x, y = dt.placeholder("float32", [None, 19]), dt.placeholder("int32", [None])
    weights = dt.Variable(dt.ones([19, 5]))
    losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=dt.matmul(x, weights))
    loss = dt.reduce_mean(losses)
    minimize = dt.train.AdamOptimizer(0.1).minimize(loss)
    initialize = dt.global_variables_initializer()
    rows = slice(*shard_bounds(30, comm.rank, comm.size))
    results = []
    for recorded in (False, True):
        session = dt.Session(comm=comm, device=Backend(kernels))
        session.run(initialize)
        step = session.make_callable([loss, minimize], [x, y])
        if recorded:
            step = profiler = StepProfiler(session, step, (2, 8), folder)
        losses = [step(dt.Shard(images[rows], 30), dt.Shard(labels[rows], 30))[0] for _ in range(10)]
        results.append((losses, session.run(weights).tobytes()))
    assert results[0] == results[1]
    facts = profiler.finish()
    assert len(facts["work_ms"]) == comm.size
    if comm.rank == 0:
        events = json.loads((folder / "trace.json").read_text())["traceEvents"]
        for rank in range(comm.size):
            own = [e for e in events if e["pid"] == rank and e["ph"] == "X"]
            updates = [e for e in own if e["args"].get("op") == "ApplyAdam"]
            # the bucket's bytes once, with the loss and the verdict of the check; in C the update of shared
            # parameters adds up the gradients itself, and these two are left
            apart = [4, 4] if kernels == "c" and share else [4 * (19 * 5 + 2)]
            assert [e["args"]["bytes"] for e in own if e["cat"] == MOVING] == apart * 6
            assert sum(e["args"].get("bytes", 0) for e in own) == 4 * (19 * 5 + 2) * 6
            assert len(updates) == 6 and {e["cat"] for e in updates} == {UPDATE}
            # where ranks share parameters, an update ends in a barrier, which is kept apart
            waits = [e for e in own if e["cat"] == WAITING and e["args"]["for"] == updates[0]["name"]]
            assert len(waits) == (6 if share and comm.size > 1 else 0)
            # nobody has a sum before the last has come to it
            sums = [e for e in own if e["cat"] == MOVING][:: len(apart)]
            for other in range(comm.size):
                waits = [e for e in events if e["pid"] == other and e.get("cat") == WAITING]
                came = [e["ts"] for e in waits if e["args"]["for"] == "AllReduce"]
                assert all(e["ts"] + e["dur"] >= begin for e, begin in zip(sums, came, strict=True))
    comm.barrier()
