"""What a real machine does to the GPU path, each provoked on the stand-in: libraries that are missing, an
old CuPy, a home that cannot be written, threads, denormals, captures that fail.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_cuda import batches, network

import dtrain as dt
from dtrain import info
from dtrain.cli import main
from dtrain.comm import nccl
from dtrain.cuda import code, gpus, nvrtc
from dtrain.errors import EnvironmentProblem, NumericError
from dtrain.native import compiler
from dtrain.ops.math import Cast
from dtrain.runtime.backend import make_backend
from dtrain.runtime.feeds import Window

ROOT = Path(__file__).parents[2]
PATH = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'standin'}"


# -- what a GPU needs besides a GPU ----------------------------------------------------------------------
def no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where CuPy is installed without CUDA's libraries: it counts GPUs all the same."""
    from cupy_backends.cuda.libs import nvrtc as binding

    def missing(*_: Any) -> None:
        raise RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12": none was found\n and more')

    monkeypatch.setattr(binding, "getVersion", missing)


def no_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("libcublasLt.so.12: cannot open shared object file")

    monkeypatch.setattr(gpus, "cublas", missing)


def no_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    def missing(*_: Any) -> None:
        raise RuntimeError("Failed to find CUDA headers.")

    monkeypatch.setattr(cupy.ndarray, "sum", missing)


def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_PROBE", gpus._PROBE.replace("2.0f", "3.0f"))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (no_nvrtc, r"NVRTC compiles no kernel \(Failure finding .*none was found\)"),
        (no_cublas, r"cuBLAS cannot be used \(libcublasLt"),
        (no_headers, r"CuPy's own kernels cannot be compiled \(Failed to find CUDA headers"),
        (wrong, r"a product on it is wrong: its sum is 486.0"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_not_taken(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., None], said: str
) -> None:
    broken(monkeypatch)
    cure = r"\. Install CuPy with CUDA's libraries \(.* -m pip install 'dtrain\[gpu"
    with pytest.raises(
        EnvironmentProblem, match=f"^--device gpu: no GPU can be used here: GPU 0: {said}.*{cure}"
    ):
        make_backend("gpu", 0)
    with pytest.warns(match=f"^--device auto takes the CPU: no GPU can be used here: GPU 0: {said}.*{cure}"):
        assert make_backend("auto", 0).on_host
    facts = info.gpu()
    assert re.search(said, facts["problem"]) and facts["present"] == 1 and not facts["buses"]
    (line,) = (line for line in info.lines() if line.startswith("gpu "))
    assert re.search(f"none can be used: GPU 0: {said}.*{cure}", line)


def test_a_run_says_in_its_header_why_it_takes_the_cpu(
    cupy: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    write_set: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_nvrtc(monkeypatch)
    data = write_set(tmp_path / "data", 110, 30)
    run = ["train", "--dataset", str(data), "--epochs", "1", "--no-tensorboard", "--log-format", "json"]
    assert main([*run, "--device", "auto", "--run-dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    header = json.loads(said.out.splitlines()[0])
    assert header["devices"] == ["cpu"]
    assert "--device auto takes the CPU: no GPU can be used here: GPU 0: NVRTC" in header["warning"]
    assert main([*run, "--device", "gpu", "--run-dir", str(tmp_path / "other")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dtrain: error: --device gpu: no GPU can be used here: GPU 0: NVRTC")


def test_a_cupy_that_sees_no_gpu_is_not_blamed(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver: it is insufficient")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", none)
    said = r"CuPy 14.2.0 sees none \(cudaErrorInsuff.*\)\. Check the driver with `nvidia-smi`"
    with pytest.raises(EnvironmentProblem, match=said):
        make_backend("gpu", 0)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    with pytest.warns(match=r"no GPU can be used here: CuPy 14.2.0 sees none\. Check the driver"):
        make_backend("auto", 0)


def test_without_cupy_and_a_driver_auto_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> int:
        raise EnvironmentProblem(gpus.MISSING)

    monkeypatch.setattr(gpus, "count", missing)
    monkeypatch.setattr(gpus, "expected", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_backend("auto", 0).why == ""
    monkeypatch.setattr(gpus, "expected", lambda: True)  # a driver that has GPUs
    with pytest.warns(match="no GPU can be used here: CuPy is not installed"):
        make_backend("auto", 0)


def test_a_cupy_that_is_too_old_is_refused(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 14 it finds no libraries among Python's packages, and NCCL's id is a tuple."""
    monkeypatch.setattr(cupy, "__version__", "13.6.0")
    with pytest.raises(EnvironmentProblem, match=r"CuPy is 13\.6\.0, and dtrain wants 14 or newer"):
        make_backend("gpu", 0)


def test_a_home_that_cannot_be_written_hides_no_gpu(tmp_path: Path) -> None:
    """CuPy makes a folder there when it is imported."""
    program = "from dtrain.runtime.backend import make_backend; print(make_backend('auto', 0).name)"
    environment = {k: v for k, v in os.environ.items() if k not in ("CUPY_CACHE_DIR", "XDG_CACHE_HOME")}
    environment |= {
        "HOME": "/dev/null",
        "PYTHONPATH": PATH,
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout) == (0, "gpu 0 (a stand-in)\n"), done.stderr


def test_gpus_are_counted_as_the_bus_has_them(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """launch/bind counts them so, and CUDA by itself the fastest first."""
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    gpus.load()
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")  # its user knows better
    gpus.load()
    assert os.environ["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_a_real_cupy_makes_way_for_the_stand_in(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """One that the process has imported, as a run with --device auto does, is there again behind the test."""
    for name in ("cupy", "cupy.cuda", "cupy_backends"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert hasattr(request.getfixturevalue("cupy"), "check_memory")


# -- NVRTC -----------------------------------------------------------------------------------------------
def test_denormals_are_kept_as_in_c(cupy: Any) -> None:
    """CuPy's own compiler makes them 0, and so log(p) of a p that has become tiny -inf."""
    from cupy_backends.cuda.libs import nvrtc as binding

    x = np.array([1e-39, 1e-44, 1e-45], np.float32)
    with dt.Graph().as_default() as graph:
        given = dt.placeholder("float32", [3])
        results = [dt.log(given), given * 0.5, dt.exp(given * 0 - 95.0)]
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
        logs, halves, small = session.run(results, {given: x})
    np.testing.assert_allclose(logs, np.log(x.astype(np.float64)), rtol=1e-6)
    np.testing.assert_array_equal(halves, x * np.float32(0.5))
    np.testing.assert_allclose(small, np.exp(-95.0), rtol=1e-3)
    assert (small > 0).all()
    assert not any("ftz" in option for _, options in binding.compiled for option in options)


def test_the_stand_in_flushes_denormals_where_it_is_told_to(cupy: Any) -> None:
    from cupy_backends.cuda.libs import nvrtc as binding

    source = 'extern "C" __global__ void __launch_bounds__(1) halve(float *x) { x[0] *= 0.5f; }'
    for options, right in (((), np.float32(5e-40)), (("-ftz=true",), 0)):
        program = binding.createProgram(source, "x.cu", (), ())
        binding.compileProgram(program, ("--fmad=false", *options))
        module = cupy.cuda.Module()
        module.load(binding.getCUBIN(program))
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.use()
        x = cupy.asarray(np.array([1e-39], np.float32))
        module.get_function("halve")((1, 1, 1), (1, 1, 1), (x,))
        assert x.get()[0] == right


def test_one_process_compiles_and_the_others_find_it(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that come meanwhile wait; a file that was cut off is made anew."""
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    monkeypatch.setattr(nvrtc, "folder", lambda: tmp_path)
    made: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def compile(binding: Any, source: str, target: str) -> bytes:
        made.append(target)
        begun.set()
        assert go.wait(20)
        return b"machine code"

    monkeypatch.setattr(nvrtc, "_compile", compile)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(nvrtc.compiled("x", 90))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert made == ["sm_90"] and found == [b"machine code"] * 3
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"machine")
    assert nvrtc.compiled("x", 90) == b"machine code" and len(made) == 2


def test_a_gpu_that_nvrtc_does_not_know_gets_what_the_driver_compiles(cupy: Any) -> None:
    assert [nvrtc.target_of(c, (75, 80, 90)) for c in (75, 86, 90, 103)] == [
        *("sm_75", "compute_80", "sm_90", "compute_90")
    ]
    with pytest.raises(EnvironmentProblem, match=r"knows GPUs of compute capability 7\.5 and newer.*7\.0"):
        nvrtc.target_of(70, (75, 80, 90))


# -- captures, threads, what is left behind ----------------------------------------------------------------
def test_a_capture_that_fails_anywhere_is_none_everywhere(cupy: Any) -> None:
    """A sum is in a graph on all ranks or on none: here another rank has failed."""
    session, fetches, feeds, _ = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    step = session.make_callable(fetches, feeds)
    rows = batches(5)
    step(rows[0])
    plan = [*session.plans.values()][-1]
    asked: list[bool] = []
    plan._steps._agree = lambda done: asked.append(done) or False
    before = cupy.counts.copy()
    for row in rows[1:]:
        step(row)
    assert asked == [True]  # once a plan
    assert (cupy.counts - before)["graphs"] == 0 and (cupy.counts - before)["launches"] > 4


def test_sixteen_steps_are_one_graph_and_the_same_to_the_bit(cupy: Any) -> None:
    found = []
    for one in (False, True):
        session, fetches, feeds, variables = network(
            dt.train.AdamOptimizer(0.01), make_backend("gpu", 0), True
        )
        step = session.make_callable(fetches, feeds)
        rows = batches(90)
        before = cupy.counts.copy()
        losses = []
        if one:
            losses = [float(step(row)[0]) for row in rows]
        else:
            for low in (0, 45):
                losses += [
                    float(r[0]) for r in step.several(Window(rows[low : low + 45], 21), until=fetches[1])
                ]
            # the first launches kernels; then 2 * 16 + 12, and 2 * 16 + 13
            assert (cupy.counts - before)["graphs"] == 2 + 12 + 2 + 13
            assert (cupy.counts - before)["captured"] == 2
        found.append([losses, *session.run(variables)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_graph_of_sixteen_steps_ends_where_one_says_so(cupy: Any) -> None:
    session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    single = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    rows = batches(60)
    rows[40, 3] = 89
    taken = session.make_callable(fetches, feeds).several(Window(rows, 21), until=fetches[1])
    step = single[0].make_callable(single[1], single[2])
    assert [float(r[0]) for r in taken] == [float(step(row)[0]) for row in rows[:41]]
    for a, b in zip(session.run(variables), single[0].run(single[3]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_update_looks_at_the_verdict_itself(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a kernel of one thread before it; one that is bad changes nothing."""
    sources: list[str] = []
    entry = code.entry

    def kept(*group: Any) -> tuple[str, str]:
        sources.append(entry(*group)[1])
        return entry(*group)

    monkeypatch.setattr(code, "entry", kept)
    with dt.Graph().as_default() as graph:
        x = dt.placeholder("float32", [9000])
        w = dt.Variable(np.ones(9000, np.float32))
        step = dt.train.GradientDescentOptimizer(0.5).minimize(dt.reduce_sum(w * x))
        config = dt.ConfigProto(check_numerics=True)
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0), config=config)
        session.run(dt.global_variables_initializer())
    good = np.arange(9000, dtype=np.float32) % 7
    bad = good.copy()
    bad[4321] = np.nan
    for _ in range(4):
        session.run(step, {x: good})
    with pytest.raises(NumericError):
        session.run(step, {x: bad})
    np.testing.assert_array_equal(session.run(w), 1 - 2 * good)
    assert any("stop_if_bad_float(launched(" in text and "update_" in text for text in sources)


def test_a_new_thread_works_where_its_session_does(cupy: Any) -> None:
    """One that has not said so works on GPU 0 and a stream that waits for no other: the stand-in refuses."""
    session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    names = [v.op.name for v in variables]
    calls: list[Callable[[], Any]] = [
        lambda: session.run(fetches, {feeds[0]: batches(1)[0]}),
        lambda: session.get_values(variables),
        lambda: session.snapshot(variables),
        lambda: session.set_value(variables[1], np.ones(33, np.float32)),
        lambda: session.variables.kept(names, session.draws)(),
        session.check_replicas,
    ]
    for call in calls:
        errors: list[BaseException] = []

        def work(call: Any = call, errors: Any = errors) -> None:
            try:
                call()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
        assert not errors, errors
    assert (session.run(variables[1]) == 1).all()


def test_handles_of_cublas_end_with_their_backend(cupy: Any) -> None:
    from cupy_backends.cuda.libs import cublas

    before = cublas.handles()
    backends = [make_backend("gpu", 0) for _ in range(3)]
    assert cublas.handles() == before + 3 + 1 or cublas.handles() == before + 3  # and perhaps the probe's
    del backends
    gc.collect()
    assert cublas.handles() <= before


def test_pinned_memory_that_is_not_to_be_had_is_told(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = make_backend("gpu", 0)

    def none(*_: Any) -> None:
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", none)
    with pytest.raises(EnvironmentProblem, match="no memory for 5,000 bytes to be pinned on the host"):
        device.pinned(5_000)


def test_a_large_array_goes_up_in_pieces(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through one pinned buffer: what is pinned stays so."""
    backend = make_backend("gpu", 0)
    monkeypatch.setattr(type(backend), "PIECE", 1 << 10)
    monkeypatch.setattr(cupy, "asarray", None)
    pinned: list[int] = []
    alloc = cupy.cuda.alloc_pinned_memory
    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", lambda n: pinned.append(n) or alloc(n))
    images = np.random.default_rng(0).integers(0, 256, (7, 333, 3), np.uint8)
    for array in (images, images.swapaxes(0, 1), images.astype(np.float64)):
        found = backend.to_host(backend.from_host(array))
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    assert pinned == [1 << 10]


def test_a_communicator_of_nccl_is_never_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would wait for graphs that hold its sums."""
    from test_nccl import GPU, Two, fakes

    cupy, library = fakes([])
    monkeypatch.setattr(nccl, "load", lambda: library)
    sums = nccl.DeviceSums(Two(), cupy, GPU)
    ring = weakref.ref(sums._ring)
    sums._lost = "over"  # ends the watch
    del sums
    gc.collect()
    assert ring() is not None


def test_floats_that_no_integer_can_hold_become_what_they_do_in_c(cupy: Any) -> None:
    """By itself a GPU makes them the nearest integer, and NaN 0."""
    x = np.array([3e9, -3e9, 1e30, np.nan, np.inf, -7.9, 7.9, 2147483520.0, -2147483648.0], np.float32)
    for to in ("int32", "int64"):
        with np.errstate(invalid="ignore"), dt.Graph().as_default() as graph:
            given = dt.placeholder("float32", [9])
            y = dt.cast(given, to)
            found = [
                dt.Session(graph=graph, comm=None, device=device).run(y, {given: x})
                for device in (make_backend("gpu", 0), make_backend("cpu", kernels="numpy"))
            ]
        np.testing.assert_array_equal(*found)
        text = Cast(dt.as_dtype(to)).expression(["x"], [dt.float32], f"{to}_t", cuda=True)
        assert text == f"({to}_t)whole<{to}_t>(x)"


class Alone:
    """What the stand-in for NCCL asks MPI, of one rank."""

    size = 1

    def Allgather(self, given: np.ndarray, found: np.ndarray) -> None:
        found[...] = given

    def Allreduce(self, given: np.ndarray, found: np.ndarray, op: Any) -> None:
        found[...] = given


def test_sums_in_a_graph_and_outside_are_never_under_way_at_once(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NCCL is told; the stand-in ends where one would wait for the other."""
    from cupy import _nccl

    monkeypatch.setenv("NCCL_GRAPH_MIXING_SUPPORT", "0")
    backend = make_backend("gpu", 0)
    ring = object.__new__(_nccl.NcclCommunicator)  # without MPI
    ring._comm, ring._mpi = Alone(), SimpleNamespace(SUM=None)
    x = cupy.zeros(4, np.float32)

    def sum() -> None:
        ring.allReduce(x.data.ptr, x.data.ptr, 4, _nccl.NCCL_FLOAT32, _nccl.NCCL_SUM, backend.stream.ptr)

    graph = backend.capture(sum)
    graph.launch(backend.stream)
    graph.launch(backend.stream)  # one behind the other is no harm
    with pytest.raises(_nccl.NcclError, match="under way at once"):
        sum()
    backend.synchronize()
    sum()
    with pytest.raises(_nccl.NcclError, match="under way at once"):
        graph.launch(backend.stream)
    backend.synchronize()


# -- several ranks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"STANDIN_CAPTURE_FAILS": "1"}, "NCCL 2.27.3"),
        ({"STANDIN_NCCL": "refuse"}, "staged through the host (NCCL"),
    ],
)
def test_ranks_go_on_together_where_a_capture_or_nccl_fails(
    mpirun: Callable[..., Any],
    tmp_path: Path,
    write_set: Callable[..., Path],
    environment: dict[str, str],
    way: str,
) -> None:
    data = write_set(tmp_path / "data", 110, 30)
    common = ["train", "--dataset", str(data), "--epochs", "2", "--batch-size", "10", "--log-format", "json"]
    common += ["--no-tensorboard", "--device", "gpu"]
    losses = []
    for ranks, more in ((1, {}), (2, environment)):
        environ = {"PYTHONPATH": PATH, "STANDIN_GPUS": "2"} | more
        done = mpirun(ranks, [*common, "--run-dir", str(tmp_path / f"run{ranks}")], env=environ, deadline=50)
        assert done.rc == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        losses.append([e["loss"] for e in events if e["event"] == "epoch"])
    assert events[0]["averaging"].startswith(way)
    assert ("cannot be captured" in done.stderr) == ("STANDIN_CAPTURE_FAILS" in environment)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
