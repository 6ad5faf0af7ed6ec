"""What `dtrain doctor` knows: each rank's own facts, and what the ranks find out together.

Facts are plain values, so that a check of them is a function that a test can call with any.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import dtrain
from dtrain import info, machine
from dtrain.bench import allreduce
from dtrain.comm import launcher, shared
from dtrain.comm.base import Communicator
from dtrain.comm.nccl import gpu_aware
from dtrain.comm.threads import VARIABLES, usable_cores
from dtrain.data import cache_folder, content
from dtrain.errors import DataError, UsageError
from dtrain.files import write_atomically
from dtrain.native import compiler
from dtrain.runtime.profile import align

#: Bytes of the sums that are measured: one number, the mlp's gradients, and enough to fill a link.
SIZES = (4, 1 << 20, 16 << 20)
#: Seconds that a file which rank 0 wrote may take to be seen on another node: file servers cache names.
PATIENCE = 3.0


@dataclass
class Rank:
    """What one rank says of itself.

    cores: those it may run on. node_cores: those of its machine. quota: cores' worth of time that a container
    allows, 0 where there is no limit. blas: what it is. threads: of the BLAS; threads_set_by: the user's
    VARIABLE=value, '' without. held_back: variables that slow it, a sentence each. compiler: its name, ''
    without one. versions: name -> version. gpu: what info.gpu() says. data: the folder it reads; content: its
    digest, '' where it was not read; data_problem: why it cannot be. shared_memory: free bytes.
    sees_run_dir: whether it sees what rank 0 wrote there.
    """

    rank: int = 0
    host: str = "n0"
    local_rank: int = 0
    cores: list[int] = field(default_factory=lambda: [0])
    node_cores: int = 1
    quota: float = 0.0
    blas: str = ""
    threads: int = 1
    threads_set_by: str = ""
    held_back: list[str] = field(default_factory=list)
    compiler: str = "cc"
    versions: dict[str, str] = field(default_factory=dict)
    gpu: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    content: str = ""
    data_problem: str = ""
    shared_memory: int = 1 << 40
    sees_run_dir: bool = True


@dataclass
class Facts:
    """All that is known.

    ranks: those that found one another, in order. launcher, family: what started them, and the MPI libraries
    that it can start, '' for none and any. launched: how many it says; tasks: how many Slurm's job has, None
    outside. problem: why the ranks could not join. library: of MPI, '' without. no_mpi: why there is none.
    mpirun, mpirun_family: the one that a user would type, asked only where nothing was launched.
    averaging: how dtrain sums. sums: medians by size, as bench.allreduce has them. sum_is_right: whether a
    sum had the right value. gpu_aware: whether MPI takes memory of GPUs, None where it does not say.
    ahead_ns, clock_error_ns: each rank's time of day against rank 0's. ulfm: whether a rank's death can be
    survived. run_dir: the folder; run_dir_problem: why it cannot be used; rename_ms: how long a file took to
    be written, synced and renamed there. free: bytes free there, None where unknown.
    """

    ranks: list[Rank]
    launcher: str = ""
    family: str = ""
    launched: int = 1
    tasks: int | None = None
    problem: str = ""
    library: str = ""
    no_mpi: str = ""
    mpirun: str = ""
    mpirun_family: str = ""
    averaging: str = "none"
    sums: list[dict[str, Any]] = field(default_factory=list)
    sum_is_right: bool = True
    gpu_aware: bool | None = None
    ahead_ns: list[int] = field(default_factory=lambda: [0])
    clock_error_ns: list[int] = field(default_factory=lambda: [0])
    ulfm: bool = False
    run_dir: str = "runs"
    run_dir_problem: str = ""
    rename_ms: float = 0.0
    free: int | None = None

    @property
    def nodes(self) -> dict[str, list[Rank]]:
        """The ranks of each host."""
        found: dict[str, list[Rank]] = {}
        for rank in self.ranks:
            found.setdefault(rank.host, []).append(rank)
        return found


def gather(comm: Communicator, run_dir: str, dataset: str, problem: str = "") -> Facts:
    """Ask this machine, and the ranks of comm together. Collective.

    run_dir: need not exist; what is made to try it is removed again. dataset: a folder, or auto.
    problem: why comm holds this process alone although others were started with it.
    """
    started = launcher.detect()
    mine = about_this_rank(comm)
    read_data(comm, mine, dataset)
    run = try_run_dir(comm, mine, Path(run_dir))
    everyone = [Rank(**json.loads(text)) for text in comm.gather_text(json.dumps(asdict(mine)))]
    library, no_mpi = mpi_library()
    mpirun = ("", "") if started or comm.rank else find_mpirun()
    tasks = os.environ.get("SLURM_NTASKS", "")
    clocks = [list(pair) for pair in zip(*_clocks(comm), strict=True)]
    return Facts(
        everyone,
        launcher=started.name if started else "",
        family=started.family if started else "",
        launched=launcher.size(),
        tasks=int(tasks) if tasks.isdigit() else None,
        problem=problem,
        library=library,
        no_mpi=no_mpi,
        mpirun=mpirun[0],
        mpirun_family=mpirun[1],
        averaging=comm.averaging,
        sums=allreduce.measure(comm, SIZES)["sums"],
        sum_is_right=_sums_rightly(comm),
        gpu_aware=gpu_aware(),
        ahead_ns=clocks[0],
        clock_error_ns=clocks[1],
        ulfm=ulfm(os.environ, library),
        **run,
    )


# -- each rank for itself --------------------------------------------------------------------------------
def about_this_rank(comm: Communicator) -> Rank:
    chosen = next((name for name in VARIABLES if name in os.environ), "")
    return Rank(
        rank=comm.rank,
        host=comm.hosts[comm.rank],
        local_rank=comm.local_rank,
        cores=sorted(usable_cores()),
        node_cores=os.cpu_count() or 1,
        quota=quota(),
        blas=machine.blas_text(),
        threads=max((library["num_threads"] for library in machine.blas()), default=1),
        threads_set_by=f"{chosen}={os.environ[chosen]}" if chosen else "",
        held_back=machine.held_back(),
        compiler=compiler.name() if compiler.command() else "",
        versions=versions(),
        gpu=info.gpu(),
        shared_memory=shared.room(),
    )


def versions() -> dict[str, str]:
    """What has to be the same on all ranks; dtrain by its files, which a node may have an old copy of."""
    digest = hashlib.sha256()
    folder = Path(dtrain.__file__).parent
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".c", ".h"):
            digest.update(path.read_bytes())
    found = {
        "dtrain": f"{dtrain.__version__} ({digest.hexdigest()[:8]})",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    if importlib.util.find_spec("mpi4py"):
        found["mpi4py"] = metadata.version("mpi4py")
    if library := mpi_library()[0]:
        found["MPI"] = library
    return found | {"processor": machine.processor()}


def mpi_library() -> tuple[str, str]:
    """Name and version of the MPI that mpi4py runs on, or why there is none."""
    said = info.mpi()
    return (said[1], "") if said[0] else ("", said[1])


def find_mpirun() -> tuple[str, str]:
    """The mpirun that a user would start here, and the family of MPI that it is of; '' for each unknown."""
    beside = Path(sys.executable).with_name("mpirun")
    path = (
        os.environ.get("DTRAIN_MPIRUN") or shutil.which("mpirun") or (str(beside) if beside.exists() else "")
    )
    if not path:
        return "", ""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return path, ""
    return path, mpirun_family(done.stdout)


def mpirun_family(said: str) -> str:
    """The family of MPI of which `mpirun --version` says this."""
    if "Open MPI" in said or "OpenRTE" in said or "PRRTE" in said:
        return "Open MPI"
    return "MPICH" if "HYDRA" in said or "Intel(R) MPI" in said else ""


def quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that this process's control groups (version 2) allow it; 0 for no limit."""
    try:
        inside = next(line[3:].strip() for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return 0.0
    least = 0.0
    group = root / inside.strip("/")
    for folder in (group, *group.parents):
        if folder == root.parent:
            break
        try:
            allowed, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if allowed != "max":
            cores = int(allowed) / int(period)
            least = min(least, cores) if least else cores
    return least


def ulfm(environ: Mapping[str, str], library: str) -> bool:
    """Whether MPI lets ranks outlive another: Open MPI under `mpirun --with-ft ulfm`."""
    told = environ.get("OMPI_MCA_mpi_ft_enable", "").lower()
    return library.startswith("Open MPI") and told in ("1", "true")


# -- the ranks together ----------------------------------------------------------------------------------
def read_data(comm: Communicator, mine: Rank, dataset: str) -> None:
    """Read the data set where this rank would, once for each folder of a node."""
    folder = Path(os.environ.get("DTRAIN_DATA") or cache_folder()) if dataset == "auto" else Path(dataset)
    mine.data = str(folder)
    places = comm.gather_text(f"{mine.host}\0{folder.resolve()}")
    first = places.index(places[comm.rank])
    if first == comm.rank:
        try:
            absent = dataset == "auto" and "DTRAIN_DATA" not in os.environ and not folder.is_dir()
            if not absent:
                mine.content = content(folder, "mnist" if dataset == "auto" else "")
        except (DataError, UsageError) as error:
            mine.data_problem = str(error)
    found = comm.gather_text(json.dumps([mine.content, mine.data_problem]))
    mine.content, mine.data_problem = json.loads(found[first])


def try_run_dir(comm: Communicator, mine: Rank, folder: Path) -> dict[str, Any]:
    """Write a file as checkpoints are written, and look from every rank whether it is there."""
    name = comm.broadcast_text(f".dtrain-doctor-{os.getpid()}-{time.time_ns()}")
    probe = folder / name / "probe"
    problem, taken, free = "", 0.0, None
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if comm.rank == 0:
        try:
            probe.parent.mkdir(parents=True)
            begun = time.perf_counter()
            write_atomically(probe, name.encode())
            taken = time.perf_counter() - begun
            free = shutil.disk_usage(folder).free
        except OSError as error:
            problem = f"{error.strerror or error} ({error.filename or probe})"
    problem, taken, free = comm.broadcast_data([problem, taken, free])
    if not problem:
        mine.sees_run_dir = _appears(probe, name)
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(probe.parent, ignore_errors=True)
        for path in made:  # the innermost first
            try:
                path.rmdir()
            except OSError:
                break
    return {
        "run_dir": str(folder),
        "run_dir_problem": problem,
        "rename_ms": taken * 1e3,
        "free": free,
    }


def _appears(probe: Path, content: str) -> bool:
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return probe.read_bytes() == content.encode()
        except OSError:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.1)


def _clocks(comm: Communicator) -> list[tuple[int, int]]:
    """Of each rank: by how many ns its time of day is ahead of rank 0's, and the error of that."""
    mine = np.array([align(comm, time.time_ns)], np.int64)
    return [(int(ahead), int(error)) for ahead, error in comm.allgather(mine)]


def _sums_rightly(comm: Communicator) -> bool:
    """Whether every rank's part arrives in the sum of all, for each entry its own."""
    values = np.arange(1009, dtype=np.float64) * (comm.rank + 1)
    comm.allreduce(values)
    right = np.arange(1009) * (comm.size * (comm.size + 1) / 2)
    return bool(comm.allreduce(np.array([np.array_equal(values, right)], np.int8), "min")[0])
