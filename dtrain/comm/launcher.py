"""What the launcher (mpirun, srun, PALS, jsrun, Flux) says of this process, in its variables, without MPI.

Slurm's variables come last: under mpirun inside sbatch they are set but speak of the batch step.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Launcher(NamedTuple):
    """Names of the variables that one launcher sets; '' where it sets none."""

    name: str
    family: str  # of MPI libraries that it can start; '' where any
    rank: str
    size: str
    local_rank: str
    local_size: str
    job: tuple[str, ...] = ()  # what together name the job, the same on all its nodes


LAUNCHERS = (
    Launcher(
        "jsrun",
        "Open MPI",  # Spectrum MPI descends from it
        "JSM_NAMESPACE_RANK",
        "JSM_NAMESPACE_SIZE",
        "JSM_NAMESPACE_LOCAL_RANK",
        "JSM_NAMESPACE_LOCAL_SIZE",
        ("LSB_JOBID", "JSM_NAMESPACE_ID"),
    ),
    Launcher(
        "Open MPI's mpirun",
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        ("PMIX_NAMESPACE",),
    ),
    Launcher(
        *("PALS", "MPICH", "PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
        ("PALS_APID",),
    ),
    Launcher("Flux", "", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID", "", ("FLUX_JOB_ID",)),
    Launcher("MPICH's mpirun", "MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Launcher(
        *("srun", "", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
        ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    ),
)


def detect(environ: os._Environ[str] | dict[str, str] = os.environ) -> Launcher | None:
    """The launcher that started this process, or None where nothing did."""
    for launcher in LAUNCHERS:
        # srun starts pmi2 programs with PMI_RANK set as well: those variables are srun's, not MPICH's
        if launcher.rank in environ and launcher.size in environ:
            if launcher.family == "MPICH" and "SLURM_STEP_NUM_TASKS" in environ and "PMI_FD" not in environ:
                continue
            # MPICH's own mpirun in a job of Flux; under flux run the PMI_* are Flux's
            if launcher.name == "Flux" and "MPI_LOCALRANKID" in environ:
                continue
            return launcher
    return None


def _read(field: str, default: int, environ: os._Environ[str] | dict[str, str]) -> int:
    launcher = detect(environ)
    if launcher is None:
        return default
    value = environ.get(getattr(launcher, field), "")
    return int(value) if value.isdigit() else default


def rank(environ: os._Environ[str] | dict[str, str] = os.environ) -> int:
    """This process's rank, 0 where nothing launched it."""
    return _read("rank", 0, environ)


def size(environ: os._Environ[str] | dict[str, str] = os.environ) -> int:
    """Number of ranks launched, 1 where nothing launched it."""
    return _read("size", 1, environ)


def local_size(environ: os._Environ[str] | dict[str, str] = os.environ) -> int:
    """Number of ranks on this node, 0 where the launcher does not say."""
    return _read("local_size", 0, environ)


def local_rank(environ: os._Environ[str] | dict[str, str] = os.environ) -> int:
    """Rank among those on this node, 0 where the launcher does not say."""
    return _read("local_rank", 0, environ)


def job() -> str:
    """What all ranks of this job know it by, and no other job; '' where the launcher says no such thing."""
    launcher = detect()
    if launcher is None:
        return ""
    if local_size() == size():  # one process has started them all
        try:
            with open(f"/proc/{os.getppid()}/stat") as file:
                return f"{os.getppid()} started at {file.read().rpartition(')')[2].split()[19]}"
        except (OSError, IndexError):  # not Linux
            pass
    return " ".join(filter(None, map(os.environ.get, launcher.job)))
