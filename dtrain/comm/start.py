"""Ranks that this process starts: an mpirun of their own, by `dtrain bench scaling` and `dt.launch`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from dtrain.comm.threads import VARIABLES
from dtrain.errors import EnvironmentProblem
from dtrain.hints import pip_install

#: Beginnings of variables in which a launcher says which rank a process is: not for an mpirun that we start.
LAUNCHERS_OWN = (
    "PMI",
    "OMPI_COMM_WORLD",
    "OMPI_UNIVERSE",
    "PMIX_",
    "PRTE_LAUNCHED",
    "HYDRA",
    "MPI_LOCAL",
    "PALS_",
)


def mpirun(who: str, otherwise: str = "") -> str:
    """The mpirun of this environment: named, beside its Python, or on the path.

    who: what starts it, and otherwise what can be done without one, for the message.

    Raises:
        EnvironmentProblem: there is none.
    """
    beside = Path(sys.executable).with_name("mpirun")
    found = os.environ.get("DTRAIN_MPIRUN") or (str(beside) if beside.exists() else shutil.which("mpirun"))
    if not found:
        raise EnvironmentProblem(
            f"{who} starts mpirun, and there is none: {pip_install('dtrain[mpi]')}, or name one in "
            f"DTRAIN_MPIRUN{otherwise}."
        )
    return found


def environment(threads: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """That of the ranks: as many BLAS threads as asked for, and nothing of a launcher's that started us."""
    kept = {name: value for name, value in environ.items() if not name.startswith(LAUNCHERS_OWN)}
    kept |= dict.fromkeys(VARIABLES, str(threads))
    kept.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")  # Open MPI's word for it
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        kept |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return kept
