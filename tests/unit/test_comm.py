"""The bodies of tests/mpi/test_comm.py on the communicator of one rank, and on the tests' own of threads."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain
from dtrain.comm import Communicator, SingleCommunicator, software, sources, threads
from dtrain.errors import EnvironmentProblem


def _bodies() -> dict[str, Any]:
    path = Path(__file__).parents[1] / "mpi" / "test_comm.py"
    spec = importlib.util.spec_from_file_location("communicator_bodies", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BODIES


BODIES = _bodies()


@pytest.mark.parametrize("name", BODIES)
def test_one_rank(name: str) -> None:
    BODIES[name](SingleCommunicator())


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("name", BODIES)
def test_threads(name: str, size: int, on_threads: Any) -> None:
    on_threads(size, BODIES[name])


@pytest.mark.parametrize("what", ["mpi4py", "libmpi"])
def test_ranks_without_mpi_get_one_sentence(what: str, tmp_path: Path) -> None:
    """Ranks that a launcher started, where mpi4py is missing or finds no library."""
    (tmp_path / "mpi4py.py").write_text("raise ImportError('No module named mpi4py')\n")
    folders = [str(Path(dtrain.__file__).parents[1]), *([str(tmp_path)] if what == "mpi4py" else [])]
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI_", "SLURM_"))
    }
    env |= {"PMI_SIZE": "2", "PMI_RANK": "0", "PYTHONPATH": os.pathsep.join(folders[::-1])}
    done = subprocess.run(
        [sys.executable, "-m", "dtrain", "train", "--dataset", "synthetic"],
        env=env | {"MPI4PY_LIBMPI": str(tmp_path / "libmpi.so")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("dtrain: error: 2 ranks were launched, but mpi4py cannot be used (")
    assert "pip install 'dtrain[mpi]'" in done.stderr


def test_threads_notice_ranks_that_are_in_different_collectives(on_threads: Any) -> None:
    def body(comm: Communicator) -> None:
        comm.allreduce(np.zeros(3 + comm.rank))

    with pytest.raises(AssertionError, match="different collectives"):
        on_threads(2, body)


def test_an_error_of_one_thread_ends_all(on_threads: Any) -> None:
    def body(comm: Communicator) -> None:
        if comm.rank == 1:
            raise ZeroDivisionError
        comm.barrier()

    with pytest.raises(ZeroDivisionError):
        on_threads(3, body)


# -- what has to be the same on all ranks ----------------------------------------------------------------
def test_the_digest_is_of_every_file_of_the_package() -> None:
    """Ranks whose kernels differ train on different numbers, in whatever language these are."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    package = Path(dtrain.__file__).parent
    project = tomllib.loads((package.parent / "pyproject.toml").read_text())
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    for name, patterns in project["tool"]["setuptools"]["package-data"].items():
        folder = package.parent / name.replace(".", "/")
        for pattern in patterns:
            found = [path.relative_to(package).as_posix() for path in folder.glob(pattern)]
            assert found, f"package-data of {name}: there is no {pattern}"
            files.update(f for f in found if f != "py.typed")  # which computes nothing
    assert {"cuda/kernels.cu", "cuda/kernels.cuh", "native/product.c"} < files
    assert set(sources()) == files


def test_the_digest_changes_with_a_file_its_name_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(**files: str) -> str:
        paths = {}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
            paths[name] = tmp_path / name
        monkeypatch.setattr("dtrain.comm.sources", lambda: paths)
        return software()["dtrain"]

    different = [
        {"a": "x", "b": "y"},
        {"a": "x", "b": "z"},
        {"a": "xy", "b": ""},
        {"a": "x", "c": "y"},
        {"a": "x"},
    ]
    assert len({digest(**files) for files in different}) == len(different)
    assert digest(a="x", b="y") == digest(b="y", a="x")


# -- BLAS threads on a machine that others use -------------------------------------------------------------
@pytest.mark.alone
def test_a_process_alone_leaves_the_cores_to_those_who_compute() -> None:
    """Two threads of OpenBLAS on two cores with others on them took 20 times as long as one."""
    cores = len(threads.usable_cores())
    if cores == 1 or not Path("/proc/loadavg").exists():
        pytest.skip("one core, or no Linux")
    env = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
    busy = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 * cores)]
    try:
        time.sleep(0.5)
        text = (
            "import dtrain.comm; dtrain.comm.world(); from dtrain import machine; print(machine.blas_text())"
        )
        done = subprocess.run(
            [sys.executable, "-c", text], env=env, capture_output=True, text=True, timeout=30
        )
        chosen = subprocess.run(
            [sys.executable, "-c", text],
            env=env | {"OPENBLAS_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            timeout=30,
        )
    finally:
        for process in others:
            process.kill()
            process.wait()
    assert done.stdout.endswith(", 1 thread\n"), done.stdout + done.stderr
    assert chosen.stdout.endswith(", 2 threads\n"), "what the user chose is taken"


def test_own_threads_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"loadavg": "9.0 9.0 9.0 5/200 77", "stat": "7 (a b) c) R 1 1"}
    monkeypatch.setattr(Path, "read_text", lambda path: texts[path.name])
    monkeypatch.setattr(Path, "glob", lambda path, _: [path / "1" / "stat", path / "2" / "stat"])
    assert threads.others_running(pause=0) == 3
    texts["loadavg"] = "0.0 0.0 0.0 2/200 77"
    assert threads.others_running(pause=0) == 0
    texts["loadavg"] = "of another system"
    assert threads.others_running(pause=0) == 0


def test_too_little_shared_memory_is_told_before_mpich_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpi = pytest.importorskip("dtrain.comm.mpi")
    mpi.check_memory("MPICH Version: 5.0.2", str(tmp_path))
    mpi.check_memory("MPICH Version: 5.0.2", str(tmp_path / "none"))
    monkeypatch.setattr(mpi, "room", lambda folder: 500_000)
    mpi.check_memory("Open MPI v5.0.11", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"has 0\.5 MB free; it needs 25 MB: mount .*--shm-size"):
        mpi.check_memory("MPICH Version: 5.0.2", str(tmp_path))
    monkeypatch.setattr(mpi.os, "access", lambda folder, mode: False)
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        mpi.check_memory("MPICH Version: 5.0.2", str(tmp_path))
