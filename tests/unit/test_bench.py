"""`dtrain bench`: it measures what it says, on one rank and on several; the figures are the machine's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from dtrain.bench import allreduce, epoch, matmul, step, workload
from dtrain.cli import main
from dtrain.comm import Communicator


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little work: 300 examples, odd batches, a few steps; ranks that are threads share the cores."""
    monkeypatch.setattr(workload, "EXAMPLES", 300)
    monkeypatch.setattr(epoch, "EXAMPLES", 300)
    monkeypatch.setattr(epoch, "BATCHES", (70, 150))
    for part in (matmul, step):
        monkeypatch.setattr(part, "BATCHES", (35, 70))
    for name, value in (("LARGE", 65), ("BUDGET", 1e-4)):
        monkeypatch.setattr(matmul, name, value)
    for name, value in (("SIZES", (4, 4096)), ("BUDGET", 1e-3)):
        monkeypatch.setattr(allreduce, name, value)
    for name, value in (("WARM_UP", 2), ("STEPS", 3)):
        monkeypatch.setattr(step, name, value)
    with threadpool_limits(1):
        yield


def test_all_parts_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    out = capsys.readouterr().out
    for words in ("dtrain ", "processor ", "blas ", "ranks       1", "matrix products, float32"):
        assert f"\n{words}" in f"\n{out}", words
    assert "gradient to weights 1" in out and "784 x 35 x 256" in out
    assert "SparseSoftmaxCrossEntropy" in out and "the step" in out
    assert "one rank has nothing to sum" in out
    assert "an epoch of the mlp with Adam on 1 rank" in out


def test_one_part_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "epoch", "--log-format", "json"]) == 0
    header, steps, epochs = map(json.loads, capsys.readouterr().out.splitlines())
    assert (header["event"], steps["event"], epochs["event"]) == ("header", "step", "epoch")
    assert header["ranks"] == 1 and header["numpy"] == np.__version__
    assert [(e["batch"], e["steps"]) for e in epochs["epochs"]] == [(70, 5), (150, 2)]
    for of in steps["batches"]:
        calls = {k["kind"]: k["calls"] for k in of["kernels"]}
        assert calls["MatMul"] == 8 and calls["ApplyAdam"] == 1
        times = [k["microseconds"] for k in of["kernels"]]
        assert min(times) > 0 and times == sorted(times, reverse=True)


def test_the_products_are_those_of_the_layers() -> None:
    """Two for each weight and row forward, as many for each gradient; none to the images."""
    made = matmul.products(7)
    assert all(a[1] == b[0] for _, a, b in made) and len({name for name, _, _ in made}) == len(made) == 8
    weights = 784 * 256, 256 * 256, 256 * 10
    wanted = 2 * 7 * (3 * sum(weights) - weights[0])
    assert sum(2 * a[0] * a[1] * b[1] for _, a, b in made) == wanted


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True)])
def test_a_rate_is_that_of_the_product(flips: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, out = matmul._pair((5, 7), (7, 3), *flips)
    seconds, rate = matmul._rate((a, b, out))
    np.testing.assert_allclose(out, np.einsum("ij,jk->ik", a, b), rtol=1e-5)
    assert rate == pytest.approx(2 * 5 * 7 * 3 / seconds / 1e9)
    assert matmul._rate(matmul._pair((0, 7), (7, 3), *flips)) == (0.0, 0.0)


@pytest.mark.parametrize("size", [3])
@pytest.mark.parametrize("part", [matmul, step, allreduce, epoch])
def test_the_ranks_keep_step(part: Any, size: int, on_threads: Callable[..., list[Any]]) -> None:
    """ThreadCommunicator fails where one rank is in another collective than the others."""
    for facts in on_threads(size, part.measure):
        assert part.text(json.loads(json.dumps(facts)))


def test_watching_a_step_changes_nothing() -> None:
    from dtrain.comm import SingleCommunicator

    work = workload.Workload(SingleCommunicator())
    step._breakdown(work, 70)
    plain = list(work.plan().kernels)
    assert not any("timed" in kernel.__qualname__ for kernel in plain if hasattr(kernel, "__qualname__"))
    other = workload.Workload(SingleCommunicator())
    shards = list(other.batches(70))
    steps = [*shards[:2], *(shards[i % 5] for i in range(3) for _ in range(2))]
    for shard in steps:
        other.step(shard)
    for name, values in work._session.variables.arrays.items():
        np.testing.assert_array_equal(values, other._session.variables.arrays[name])


def test_ranks_under_mpirun(mpirun: Callable[..., Any]) -> None:
    done = mpirun(2, ["bench", "allreduce", "--log-format", "json"])
    assert done.rc == 0, done.stderr
    header, sums = map(json.loads, done.stdout.splitlines())
    assert header["ranks"] == sums["ranks"] == 2
    assert [of["bytes"] for of in sums["sums"]] == [4, 4096, 65536, 1 << 20, 1 << 24]
    for of in sums["sums"]:
        assert of["mpi"] > 0 and of.get("bucket", 1) > 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["bench", "matmull"], "dtrain bench matmull: choose among matmul, step, allreduce, epoch (did you"),
        (["bench", "--log-format", "xml"], "--log-format xml: choose one of text, json"),
    ],
)
def test_mistakes(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert words in capsys.readouterr().err


def test_a_sum_takes_the_slowest_ranks_time(on_threads: Callable[..., list[Any]]) -> None:
    import time

    def body(comm: Communicator) -> float:
        return allreduce._median(comm, lambda: time.sleep(0.004 * comm.rank))

    assert min(on_threads(2, body)) >= 0.004
