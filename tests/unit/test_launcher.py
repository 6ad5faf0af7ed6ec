"""What the launchers' variables mean, and which MPI libraries can join which launcher."""

from __future__ import annotations

import pytest

from dtrain.comm import launcher
from dtrain.comm.mpi import check_family, check_size, library_family, library_name
from dtrain.errors import EnvironmentProblem

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "4", "PMI_FD": "9", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
PALS = {"PALS_RANKID": "2", "PMI_SIZE": "4", "PMI_RANK": "2", "PALS_LOCAL_RANKID": "1"}
SRUN = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
JSRUN = {
    "JSM_NAMESPACE_RANK": "2",
    "JSM_NAMESPACE_SIZE": "4",
    "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_LOCAL_SIZE": "2",
}
FLUX = {"FLUX_TASK_RANK": "2", "FLUX_JOB_SIZE": "4", "FLUX_TASK_LOCAL_ID": "1"}
FLUX |= {"PMI_FD": "9", "PMI_RANK": "2", "PMI_SIZE": "4"}
SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}

MPICH_VERSION = "MPICH Version:      5.0.2\nMPICH Release date: today"
OPEN_MPI_VERSION = "Open MPI v5.0.11, package: Open MPI user@host"


@pytest.mark.parametrize(
    "environ", [OPEN_MPI, HYDRA, PALS, SRUN, SRUN | {"PMI_RANK": "2", "PMI_SIZE": "4"}, JSRUN, FLUX]
)
def test_every_launcher_is_understood(environ: dict[str, str]) -> None:
    assert (launcher.rank(environ), launcher.size(environ), launcher.local_rank(environ)) == (2, 4, 1)


def test_mpirun_inside_a_batch_job_goes_before_slurm() -> None:
    assert launcher.rank(SBATCH | {"SLURM_STEP_NUM_TASKS": "1"} | OPEN_MPI) == 2
    assert launcher.local_rank(SBATCH | HYDRA) == 1
    in_flux = {"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "1", "FLUX_TASK_LOCAL_ID": "0"}
    assert (launcher.rank(in_flux | HYDRA), launcher.size(in_flux | HYDRA)) == (2, 4)


@pytest.mark.parametrize("environ", [{}, SBATCH, {"PMI_RANK": "1"}])
def test_not_launched(environ: dict[str, str]) -> None:
    assert launcher.detect(environ) is None
    assert (launcher.rank(environ), launcher.size(environ), launcher.local_rank(environ)) == (0, 1, 0)


def test_library_names() -> None:
    assert library_name(MPICH_VERSION) == "MPICH 5.0.2"
    assert library_name(OPEN_MPI_VERSION) == "Open MPI v5.0.11"
    assert library_name("Intel(R) MPI Library 2021.19 for Linux* OS") == "Intel(R) MPI Library 2021.19"
    assert library_family("Intel(R) MPI Library 2021.19") == "MPICH"
    assert library_family("Something else 1.0") == ""


def test_a_library_that_cannot_join_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match=r"Open MPI's mpirun .* MPICH 5\.0\.2, which cannot join"):
        check_family(launcher.detect(OPEN_MPI), MPICH_VERSION)
    with pytest.raises(EnvironmentProblem, match=r"MPICH's mpirun .* Open MPI v5\.0\.11, which cannot join"):
        check_family(launcher.detect(HYDRA), OPEN_MPI_VERSION)
    check_family(launcher.detect(HYDRA), MPICH_VERSION)
    check_family(launcher.detect(OPEN_MPI), OPEN_MPI_VERSION)
    check_family(launcher.detect(SRUN), OPEN_MPI_VERSION)
    check_family(launcher.detect(FLUX), OPEN_MPI_VERSION)
    check_family(launcher.detect(JSRUN), "IBM Spectrum MPI 10.4")
    check_family(launcher.detect(HYDRA), "Something else 1.0")
    check_family(None, MPICH_VERSION)


def test_singletons_are_refused() -> None:
    with pytest.raises(EnvironmentProblem, match="started 4 ranks, but MPI sees 1"):
        check_size(launcher.detect(SRUN), 4, 1, OPEN_MPI_VERSION)
    check_size(launcher.detect(SRUN), 4, 4, OPEN_MPI_VERSION)
