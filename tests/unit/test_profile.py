"""`--profile`: what is recorded of which steps, on one clock, and that recording changes no result."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.config import TrainConfig
from dtrain.errors import UsageError
from dtrain.ops.base import ELEMENTWISE, LOSS, MATRIX, MOVING, REDUCTION, REGISTRY
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.profile import OTHER, PARTS, UPDATE, WAITING, Recorder, align
from dtrain.train import profile
from dtrain.train.profile import StepProfiler, summary_text

OnThreads = Callable[..., list[Any]]

#: Batches of the small training below: the second size makes a plan of its own.
TOTALS = (11, 11, 11, 5, 11, 11)
INPUTS, CLASSES = 7, 3


def small_step(comm: Communicator) -> tuple[dt.Session, Any, Callable[[int], Any], list[dt.Variable]]:
    """A session on one layer, its step, what feeds the k-th batch to a step, and the variables."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((11, INPUTS)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 11).astype(np.int32)
    graph = dt.Graph()
    with graph.as_default():
        x, y = dt.placeholder("float32", [None, INPUTS]), dt.placeholder("int32", [None])
        w, b = dt.Variable(dt.ones([INPUTS, CLASSES]), name="w"), dt.Variable(dt.zeros([CLASSES]), name="b")
        losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=dt.matmul(x, w) + b)
        loss = dt.reduce_mean(losses)
        minimize = dt.train.AdamOptimizer(0.1).minimize(loss)
        initialize = dt.global_variables_initializer()
    session = dt.Session(graph=graph, comm=comm)
    session.run(initialize)
    step = session.make_callable([loss, minimize], [x, y])

    def feeds(k: int) -> list[dt.Shard]:
        low, high = shard_bounds(TOTALS[k], comm.rank, comm.size)
        return [dt.Shard(images[low:high], TOTALS[k]), dt.Shard(labels[low:high], TOTALS[k])]

    return session, step, feeds, [w, b]


def record(comm: Communicator, window: tuple[int, int], run_dir: Path, slow: int = -1) -> dict[str, Any]:
    """Train the small network with some steps recorded; results, facts, and the plan of the last step."""
    session, step, feeds, variables = small_step(comm)
    recorded = StepProfiler(session, step, window, run_dir)
    losses = []
    for k in range(len(TOTALS)):
        if comm.rank == slow:
            time.sleep(0.01)
        losses.append(recorded(*feeds(k))[0])
    facts = recorded.finish()
    assert session.profiler is None
    return {
        "losses": losses,
        "values": list(session.get_values(variables).values()),
        "facts": facts,
        "plans": [plan for plan in session.plans.values() if any(n.type == "MatMul" for n in plan.nodes)],
    }


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["traceEvents"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_timeline_holds_every_kernel_of_every_recorded_step(
    ranks: int, on_threads: OnThreads, tmp_path: Path
) -> None:
    done = on_threads(ranks, lambda comm: record(comm, (1, 5), tmp_path))
    events = read(tmp_path / "trace.json")
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in events} == set(range(ranks))
    tracks: dict[Any, list[dict[str, Any]]] = {}
    for event in spans:
        tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    for track in tracks.values():
        for before, after in pairwise(track):
            # in µs of three decimals, which a double does not hold exactly
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-3, (before, after)
    for rank, result in enumerate(done):
        steps = [event["name"] for event in tracks[rank, 0]]
        assert steps == ["step 1", "step 2", "step 3", "step 4"]
        found = Counter(e["name"] for e in spans if e["pid"] == rank and "op" in e["args"])
        # three steps of 11 examples and one of 5, whose plans have the same operations
        assert len(result["plans"]) == 2
        for plan in result["plans"]:
            nodes = Counter(node.name for node in plan.kernel_nodes)
            copies = {name: n - 1 for name, n in nodes.items() if n > 1}
            wanted = Counter(dict.fromkeys(nodes, 4))
            wanted.update({f"copy for {name}": 4 * n for name, n in copies.items()})
            assert found == wanted


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_kernel_tells_its_shapes_on_this_rank_and_a_bucket_its_bytes(
    ranks: int, on_threads: OnThreads, tmp_path: Path
) -> None:
    on_threads(ranks, lambda comm: record(comm, (0, 2), tmp_path))
    events = [event for event in read(tmp_path / "trace.json") if event["ph"] == "X"]
    for rank in range(ranks):
        own = [event for event in events if event["pid"] == rank]
        low, high = shard_bounds(11, rank, ranks)
        product = next(event for event in own if event["name"] == "MatMul")
        assert product["cat"] == MATRIX and product["args"]["op"] == "MatMul"
        assert product["args"]["inputs"] == f"float32[{high - low},{INPUTS}] float32[{INPUTS},{CLASSES}]"
        assert "test_profile.py" in product["args"]["line"]
        sums = [event for event in own if event["cat"] == MOVING]
        # one bucket a step: the gradients of w and b, the loss, and whether one is bad
        assert [e["args"]["bytes"] for e in sums] == [4 * (INPUTS * CLASSES + CLASSES + 2)] * 2
        waits = [e for e in own if e["cat"] == WAITING and e["args"]["for"] == sums[0]["name"]]
        assert len(waits) == 2 and all(
            abs(wait["ts"] + wait["dur"] - moving["ts"]) < 1e-2
            for wait, moving in zip(waits, sums, strict=True)
        )
        assert [e["cat"] for e in own if e["args"].get("op") == "ApplyAdam"] == [UPDATE] * 2


@pytest.mark.parametrize("ranks", [1, 3])
def test_recording_changes_no_bit(ranks: int, on_threads: OnThreads, tmp_path: Path) -> None:
    def plain(comm: Communicator) -> tuple[list[Any], list[Any]]:
        session, step, feeds, variables = small_step(comm)
        losses = [step(*feeds(k))[0] for k in range(len(TOTALS))]
        return losses, list(session.get_values(variables).values())

    recorded = on_threads(ranks, lambda comm: record(comm, (0, 6), tmp_path))
    for (losses, values), other in zip(on_threads(ranks, plain), recorded, strict=True):
        assert losses == other["losses"]
        for a, b in zip(values, other["values"], strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_parts_add_up_to_the_step(ranks: int, on_threads: OnThreads, tmp_path: Path) -> None:
    facts = on_threads(ranks, lambda comm: record(comm, (2, 5), tmp_path))[0]["facts"]
    spans = [e for e in read(tmp_path / "trace.json") if e["ph"] == "X"]
    assert facts["first"] == 2 and facts["steps"] == 3 and set(facts["parts_ms"]) == set(PARTS)
    for rank in range(ranks):
        own = [e for e in spans if e["pid"] == rank]
        steps = sum(e["dur"] for e in own if e["tid"] == 0)
        parts = {name: each[rank] for name, each in facts["parts_ms"].items()}
        assert sum(parts.values()) == pytest.approx(steps / 3 / 1000)
        for name in set(PARTS) - {OTHER, WAITING}:  # one before the first step is none of its own
            assert parts[name] == pytest.approx(sum(e["dur"] for e in own if e["cat"] == name) / 3 / 1000)
        assert all(value >= 0 for value in parts.values())
        assert (parts[MOVING] > 0) == (ranks > 1)


def test_a_slow_rank_is_named(on_threads: OnThreads, tmp_path: Path) -> None:
    facts = on_threads(3, lambda comm: record(comm, (1, 6), tmp_path, slow=1))[0]["facts"]
    assert facts["slowest"] == 1 and facts["work_ms"][1] >= 10
    assert "rank 1 on n1 is slow: it works " in summary_text(facts)
    assert facts["parts_ms"][WAITING][0] > 5 and facts["parts_ms"][WAITING][2] > 5
    assert facts["parts_ms"][OTHER][1] >= 10, "the sleep is between two steps"


def test_what_runs_between_two_steps_is_in_neither(tmp_path: Path) -> None:
    comm = dt.comm.SingleCommunicator()
    session, step, feeds, variables = small_step(comm)
    recorded = StepProfiler(session, step, (0, 4), tmp_path)
    for k in range(4):
        recorded(*feeds(0))
        if k == 1:  # a test, say
            session.run(variables)
            time.sleep(0.02)
        if k == 2:
            time.sleep(0.02)
    steps = [e["dur"] for e in read(tmp_path / "trace.json") if e["ph"] == "X" and e["tid"] == 0]
    assert steps[2] < 20_000 < steps[3]


def test_a_window_that_the_run_does_not_fill(tmp_path: Path) -> None:
    comm = dt.comm.SingleCommunicator()
    assert record(comm, (4, 100), tmp_path)["facts"]["steps"] == 2
    assert record(comm, (6, 100), tmp_path)["facts"]["steps"] == 0
    assert "step" in summary_text(record(comm, (6, 100), tmp_path)["facts"])


def test_a_big_trace_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "BIG", 1000)
    facts = record(dt.comm.SingleCommunicator(), (0, 2), tmp_path)["facts"]
    assert facts["trace"] == str(tmp_path / "trace.json.gz")
    assert json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]


# -- clocks ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [2, 4])
def test_clocks_are_compared_within_the_error_that_is_said(ranks: int, on_threads: OnThreads) -> None:
    ahead = [0, -7_000_000_123, 1_000_000_000_456, 2_000_000_000][:ranks]
    found = on_threads(ranks, lambda c: align(c, lambda: time.perf_counter_ns() + ahead[c.rank]))
    for (offset, error), true in zip(found, ahead, strict=True):
        assert abs(offset - true) <= error < 50_000_000


def test_clocks_of_one_node_are_left_alone(on_threads: OnThreads) -> None:
    assert [offset for offset, _ in on_threads(3, align)] == [0, 0, 0]


def test_the_shortest_round_trip_counts(on_threads: OnThreads) -> None:
    """Rank 1's answers are late but once: only that round trip tells its clock well."""

    def body(comm: Communicator) -> tuple[int, int]:
        reads = iter(range(1000))

        def clock() -> int:
            now = time.perf_counter_ns()
            if comm.rank == 1 and next(reads) % 2 == 1 and len(seen) != 10:
                time.sleep(0.002)  # behind the reading: a whole trip that looks late
            seen.append(0) if comm.rank == 1 else None
            return now + comm.rank * 10**10

        seen: list[int] = []
        return align(comm, clock)

    (_, _), (offset, error) = on_threads(2, body)
    assert abs(offset - 10**10) <= error < 2_000_000


def test_ranks_whose_clocks_differ_come_out_on_one(on_threads: OnThreads, tmp_path: Path) -> None:
    """All ranks leave a sum at about the same time, whatever their clocks say."""

    def body(comm: Communicator) -> None:
        clock = lambda: time.perf_counter_ns() + 10**12 * comm.rank  # noqa: E731
        session, step, feeds, _ = small_step(comm)
        recorded = StepProfiler(session, step, (1, 4), tmp_path, clock)
        for k in range(4):
            recorded(*feeds(k))

    on_threads(3, body)
    sums = [e for e in read(tmp_path / "trace.json") if e.get("cat") == MOVING]
    for k in range(3):
        begins = [[e for e in sums if e["pid"] == rank][k]["ts"] for rank in range(3)]
        assert max(begins) - min(begins) < 50_000
    about = json.loads((tmp_path / "trace.json").read_text())["otherData"]["clock_ahead_ns"]
    assert [round(ns / 1e12) for ns in about] == [0, 1, 2]


# -- the option ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["5", "a:b", ":", "3:", "-1:5", "1:2:3", "7:7", "9:2"])
def test_windows_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(UsageError, match=f"--profile {text}: .*such as 10:30"):
        TrainConfig(profile=text)


def test_a_window() -> None:
    assert TrainConfig(profile="3:17").profile_window() == (3, 17)


def test_recorders_cost_nothing_when_there_is_none(tmp_path: Path) -> None:
    session, step, feeds, _ = small_step(dt.comm.SingleCommunicator())
    assert session.profiler is None
    recorder = session.profiler = Recorder(session.comm)
    step(*feeds(0))
    count = len(recorder.events)
    session.profiler = None
    step(*feeds(0))
    assert len(recorder.events) == count > 10


def test_each_op_says_what_its_time_counts_as() -> None:
    """By itself, and not by the file that it stands in."""
    said: dict[str, set[str]] = {}
    for name, kind in REGISTRY.items():
        said.setdefault(kind.category, set()).add(name)
    del said[""]
    assert said == {
        MATRIX: {
            *("MatMul", "BatchMatMul", "Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput"),
            *("Joined", "RowsOfProduct"),
        },
        LOSS: {"SigmoidCrossEntropy", "SoftmaxCrossEntropy", "SparseSoftmaxCrossEntropy"},
        REDUCTION: {
            *("All", "Any", "ArgMax", "ArgMin", "Cumsum", "HasBad", "Max", "Mean", "Min", "Prod"),
            *("ProductBound", "StopIfBad", "Sum"),
        },
        MOVING: {"AllGather", "AllReduce", "BeginAllReduce", "NodeBarrier", "SumTerms", "TakeShard"},
        ELEMENTWISE: {"Fused", "JoinedRows"},
    }
    assert set(said) < set(PARTS)
