"""How GPUs sum, with fakes of the calls of CuPy and NCCL that it makes: no figure of a device is in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dtrain.comm import SingleCommunicator, nccl
from dtrain.errors import EnvironmentProblem, RanksLost

ROOT = Path(__file__).parents[2]
GPU = "01:00 a"


class Two(SingleCommunicator):
    """Rank 0 of two that hold the same; places: where their GPUs are."""

    size, places, hosts = 2, ("0 01:00 a", "0 02:00 b"), ("n0", "n1")

    def gather_text(self, text: str) -> list[str]:
        return list(self.places) if text.endswith(GPU) else [text, text]

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        array *= 2


class Memory:
    """Flat memory of a device."""

    def __init__(self, values: list[float]) -> None:
        self.values = np.array(values, np.float32)
        self.dtype, self.size, self.nbytes = self.values.dtype, len(values), self.values.nbytes
        self.data = SimpleNamespace(ptr=self)

    def __getitem__(self, at: slice) -> Memory:
        return self

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            return self.values
        out[...] = self.values
        return out

    def set(self, array: np.ndarray) -> None:
        self.values[...] = array


class Stream:
    def __init__(self, log: list[Any], name: str) -> None:
        self.ptr, self.log = name, log

    def use(self) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        self.log.append((self.ptr, "waits", event.at))

    def synchronize(self) -> None:
        self.log.append((self.ptr, "synchronize"))


class Event:
    def __init__(self, disable_timing: bool) -> None:
        assert disable_timing

    def record(self, stream: Any) -> None:
        self.at = stream.ptr


def fakes(log: list[Any]) -> tuple[Any, Any]:
    """CuPy and NCCL, which write down what is asked of them."""
    main = Stream(log, "main")
    cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDevice=lambda: 0),
        Device=lambda number: SimpleNamespace(use=lambda: None),
        Stream=lambda non_blocking: Stream(log, "nccl"),
        Event=Event,
        get_current_stream=lambda: main,
        alloc_pinned_memory=bytearray,
    )

    class NcclError(RuntimeError):
        pass

    class Ring:
        lost = False

        def __init__(self, size: int, unique: bytes, rank: int) -> None:
            assert (size, unique, rank) == (2, b"u" * 128, 0)

        def check_async_error(self) -> None:
            if Ring.lost:
                raise NcclError("NCCL_ERROR_REMOTE_ERROR")

        def allReduce(self, source: Any, out: Any, count: int, dtype: int, op: int, stream: str) -> None:
            self.check_async_error()
            log.append((stream, "sums", count, dtype, op))
            out.values[...] = 2 * source.values

        def abort(self) -> None:
            log.append("abort")

    library = SimpleNamespace(
        NcclCommunicator=Ring,
        NcclError=NcclError,
        NCCL_FLOAT32=7,
        NCCL_SUM=0,
        get_unique_id=lambda: b"u" * 128,
        get_version=lambda: 22703,
    )
    return SimpleNamespace(
        cuda=cuda,
        copyto=lambda out, source: out.set(source.values),
        asarray=Memory,
        zeros=lambda shape, dtype: Memory([0.0] * int(np.prod(shape))),
        matmul=lambda a, b, out: None,
    ), library


def test_nccl_need_not_look_to_sums_in_and_outside_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user says of it wins."""
    for said, found in ((None, "0"), ("1", "1")):
        monkeypatch.delenv("NCCL_GRAPH_MIXING_SUPPORT", raising=False)
        if said:
            monkeypatch.setenv("NCCL_GRAPH_MIXING_SUPPORT", said)
        cupy, library = fakes([])
        monkeypatch.setattr(nccl, "load", lambda library=library: library)
        nccl.DeviceSums(Two(), cupy, GPU)
        assert os.environ["NCCL_GRAPH_MIXING_SUPPORT"] == found


def test_nccl_sums_on_a_stream_between_two_events(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    cupy, library = fakes(log)
    monkeypatch.setattr(nccl, "load", lambda: library)
    sums = nccl.DeviceSums(Two(), cupy, GPU)
    assert [entry[2] for entry in log] == [1, nccl.PROBE // 4]  # tried, with short and long sums
    log.clear()
    source, out = Memory([1, 2, 3]), Memory([0, 0, 0])
    reduce = sums.reducer(source, out)
    reduce()
    assert sums.name == "NCCL 2.27.3" and reduce.capturable  # type: ignore[attr-defined]
    assert log == [("nccl", "waits", "main"), ("nccl", "sums", 3, 7, 0), ("main", "waits", "nccl")]
    assert out.values.tolist() == [2, 4, 6]


def test_a_sum_that_is_begun_is_waited_for_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    cupy, library = fakes(log)
    monkeypatch.setattr(nccl, "load", lambda: library)
    sums = nccl.DeviceSums(Two(), cupy, GPU)
    pairs = [(Memory([1, 2, 3]), Memory([0, 0, 0])), (Memory([4]), Memory([0]))]
    log.clear()
    begin, end = sums.begun(pairs)
    assert begin.capturable and end.capturable  # type: ignore[attr-defined]
    begin()
    log.append("products")
    end()
    assert log == [
        ("nccl", "waits", "main"),
        ("nccl", "sums", 3, 7, 0),
        ("nccl", "sums", 1, 7, 0),
        "products",
        ("main", "waits", "nccl"),
    ]
    assert [out.values.tolist() for _, out in pairs] == [[2, 4, 6], [8]]


def test_a_rank_that_nccl_lost_ends_what_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is launched meanwhile, as while a captured step is replayed: the watch asks."""
    log: list[Any] = []
    cupy, library = fakes(log)
    monkeypatch.setattr(nccl, "load", lambda: library)
    monkeypatch.setattr(nccl, "LOOK", 0.01)
    sums = nccl.DeviceSums(Two(), cupy, GPU)
    sums.check()
    log.clear()
    library.NcclCommunicator.lost = True
    deadline = time.monotonic() + 5
    while "abort" not in log and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log == ["abort"]
    with pytest.raises(RanksLost, match=r"NCCL lost another rank.*REMOTE_ERROR"):
        sums.check()
    with pytest.raises(RanksLost, match=r"NCCL lost another rank.*REMOTE_ERROR"):
        sums.reducer(Memory([1]), Memory([0]))()


def test_a_dtype_that_nccl_does_not_know_goes_through_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, library = fakes([])
    monkeypatch.setattr(nccl, "load", lambda: library)
    sums = nccl.DeviceSums(Two(), cupy, GPU)
    memory = Memory([1, 2])
    memory.values, memory.dtype, memory.nbytes = memory.values.astype("i2"), np.dtype("i2"), 4
    reduce = sums.reducer(memory, memory)
    reduce()
    assert memory.values.tolist() == [2, 4] and not reduce.capturable  # type: ignore[attr-defined]


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_nccl_does_not_join_go_through_the_host(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """Where it fails here, or on another rank; its own words are told."""
    log: list[Any] = []
    cupy, library = fakes(log)
    monkeypatch.setattr(nccl, "load", lambda: library)

    def refused(*_: Any) -> None:
        raise library.NcclError("unhandled system error: /dev/shm is full")

    comm = Two()
    if rank == 0:
        library.NcclCommunicator.allReduce = refused
    else:
        whys = [["", "unhandled system error: /dev/shm is full"], list(Two.places), ["2.27.3"] * 2]
        gather = {"": whys[0], "2.27.3": whys[2]}
        monkeypatch.setattr(comm, "gather_text", lambda text: gather.get(text, whys[1]))
    sums = nccl.DeviceSums(comm, cupy, GPU)
    assert not sums.by_nccl
    deadline = time.monotonic() + 5
    while "abort" not in log and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "abort" in log  # what waits for the rank that failed ends
    assert re.fullmatch(
        rf"staged through the host \(NCCL 2.27.3 cannot join the ranks: rank {rank}.*: unhandled system "
        r"error: /dev/shm is full; NCCL_DEBUG=INFO says more\)",
        sums.name,
    )
    memory = Memory([1, 2, 3])
    sums.reducer(memory, memory)()
    assert memory.values.tolist() == [2, 4, 6]


def test_a_rank_without_a_unique_id_or_with_another_sum_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, library = fakes([])
    monkeypatch.setattr(nccl, "load", lambda: library)
    monkeypatch.setattr(library.NcclCommunicator, "allReduce", lambda *_: None)
    assert "a sum of 2 ones is 1.0" in nccl.DeviceSums(Two(), cupy, GPU).name

    def refused() -> bytes:
        raise KeyError(7)

    library.get_unique_id = refused
    assert "rank 0 on n0: 7;" in nccl.DeviceSums(Two(), cupy, GPU).name


def test_a_rank_that_waits_for_one_that_failed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL itself waits without an end."""
    cupy, library = fakes([])
    monkeypatch.setattr(nccl, "load", lambda: library)
    monkeypatch.setattr(nccl, "JOIN", 0.05)
    over = threading.Event()
    monkeypatch.setattr(library, "NcclCommunicator", lambda *_: over.wait(30))
    try:
        assert "it waits for another rank, after 0.05 s" in nccl.DeviceSums(Two(), cupy, GPU).name
    finally:
        over.set()


def test_an_error_that_cupy_has_no_word_for_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, library = fakes([])
    monkeypatch.setattr(nccl, "load", lambda: library)
    monkeypatch.setattr(nccl, "LOOK", 0.01)
    sums = nccl.DeviceSums(Two(), cupy, GPU)

    def unknown(ring: Any) -> None:
        raise KeyError(7)  # as CuPy's NcclError(7) does

    monkeypatch.setattr(library.NcclCommunicator, "check_async_error", unknown)
    deadline = time.monotonic() + 5
    while not sums._lost and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RanksLost, match="NCCL lost another rank"):
        sums.check()


def test_another_nccl_on_another_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, library = fakes([])
    monkeypatch.setattr(nccl, "load", lambda: library)
    comm = Two()

    def gather(text: str) -> list[str]:
        return list(Two.places) if text.endswith(GPU) else [text, "2.18.5"]

    monkeypatch.setattr(comm, "gather_text", gather)
    with pytest.raises(
        EnvironmentProblem, match=r"the version of NCCL: rank 0 .* has 2\.27\.3, .* has 2\.18\.5"
    ):
        nccl.DeviceSums(comm, cupy, GPU)


@pytest.mark.parametrize(
    ("overlap", "said"), [("off", ""), ("auto", "; a sum takes"), ("on", "; a sum takes")]
)
def test_what_sums_take_is_measured_where_some_may_begin_early(
    monkeypatch: pytest.MonkeyPatch, overlap: str, said: str
) -> None:
    log: list[Any] = []
    cupy, library = fakes(log)
    monkeypatch.setattr(nccl, "load", lambda: library)
    comm = Two()
    comm.overlap = overlap
    blas = SimpleNamespace(product=lambda *_: None)
    backend = SimpleNamespace(xp=cupy, share=False, identity=GPU, blas=blas, synchronize=lambda: None)
    nccl.join(comm, backend)
    link = comm.device_sums.link
    assert comm.averaging.startswith(f"NCCL 2.27.3{said}")
    assert (link is None) == (overlap == "off")
    if link is not None:
        assert link.forced == (overlap == "on") and link.latency > 0 and link.bandwidth > 0
        assert ("nccl", "sums", nccl.PROBE // 4, 7, 0) in log and ("nccl", "sums", 1, 7, 0) in log


def test_an_mpi_that_has_not_begun_is_not_asked() -> None:
    """MPICH would end the process."""
    code = "from dtrain import info; info.mpi(); from dtrain.comm import nccl; print(nccl.gpu_aware())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_ranks_that_share_a_gpu_or_have_no_nccl_go_through_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy, library = fakes([])
    comm = Two()
    for found, places, why in (
        (library, ("0 01:00 a", "0 01:00 a"), "share a GPU"),
        (None, Two.places, "no NCCL"),
    ):
        monkeypatch.setattr(nccl, "load", lambda found=found: found)
        comm.places = places
        sums = nccl.DeviceSums(comm, cupy, GPU, share=True)
        assert why in sums.name
        memory = Memory([1, 2, 3])
        reduce = sums.reducer(memory, memory)
        reduce()
        assert memory.values.tolist() == [2, 4, 6] and not reduce.capturable  # type: ignore[attr-defined]


def test_an_mpi_that_says_it_takes_gpu_memory_gets_it_after_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[Any] = []
    cupy, _ = fakes(log)
    monkeypatch.setattr(nccl, "load", lambda: None)
    monkeypatch.setattr(nccl, "gpu_aware", lambda: True)
    comm = Two()
    monkeypatch.setattr(comm, "allreduce", lambda out: log.append(("MPI", out.values.tolist())))
    sums = nccl.DeviceSums(comm, cupy, GPU)
    sums.reducer(Memory([1, 2]), Memory([0, 0]))()
    assert sums.name == "GPU-aware MPI"
    assert log == [("main", "synchronize"), ("MPI", [1, 2])]
