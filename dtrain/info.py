"""`dtrain info`: what this machine offers, in the block that one pastes into a bug report."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dtrain import __version__ as __version__
from dtrain import machine
from dtrain.comm import launcher, threads
from dtrain.comm.threads import usable_cores
from dtrain.cuda import gpus
from dtrain.errors import EnvironmentProblem
from dtrain.files import cache_folder
from dtrain.hints import pip_install

#: How the names of variables begin that change what a run does.
STEERING: tuple[str, ...]
STEERING = ("CUDA_VISIBLE", "DTRAIN_", "FI_PROVIDER", "MPI4PY_", "MPICH_", "NCCL_", "OMPI_MCA_", "OPENBLAS_")
STEERING += ("PRTE_MCA_", "UCX_")


def lines() -> list[str]:
    """One fact a line; nothing here starts MPI."""
    return [
        f"dtrain      {__version__}{' at ' + at if (at := commit()) else ''}",
        f"python      {platform.python_version()} ({sys.executable})",
        f"platform    {platform.platform()}",
        f"processor   {machine.processor()}",
        f"cores       {_cores()}",
        f"numpy       {np.__version__}",
        f"blas        {machine.blas_text()}",
        *(f"WARNING     {warning}" for warning in machine.held_back()),
        f"kernels     {_kernels()}",
        f"mpi4py      {_mpi()}",
        f"launcher    {_launcher()}",
        f"gpu         {_gpu()}",
        f"data        {_data()}",
        f"variables   {_variables()}",
    ]


def environment() -> dict[str, str]:
    """What a run's speed depends on, for its record; nothing of the user's own, such as paths."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": machine.processor(),
        "cores": _cores(),
        "numpy": np.__version__,
        "blas": "; ".join([machine.blas_text(), *machine.held_back()]),
    }


def commit() -> str:
    """The commit of the checkout that dtrain runs from, '-dirty' where files differ; '' where it is none."""
    import subprocess  # a start has no use for it

    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # a site-packages folder may lie within somebody else's checkout
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _variables() -> str:
    """The variables that change what a run does, as they are set."""
    names = [n for n in sorted(os.environ) if n.startswith(STEERING) or n in (*threads.VARIABLES, "CC")]
    return " ".join(f"{name}={os.environ[name]}" for name in names) or "none that matter"


def _cores() -> str:
    return f"{len(usable_cores())} usable of {os.cpu_count() or 1}"


def _kernels() -> str:
    from dtrain.native import compiler

    return (
        f"C by {' '.join(compiler.command())}, kept in {compiler.folder()}" if compiler.command() else "NumPy"
    )


def mpi() -> tuple[str, str]:
    """mpi4py's version and the MPI library it runs on; or '' and why it cannot be used."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return "", str(error)
    from dtrain.comm.mpi import library_name

    return mpi4py.__version__, library_name(MPI.Get_library_version())


def _mpi() -> str:
    version, said = mpi()
    if not version:
        return f"not usable ({said}); one process works without, several need {pip_install('dtrain[mpi]')}"
    return f"{version}, {said}"


def _launcher() -> str:
    started = launcher.detect()
    return f"{started.name}, {launcher.size()} ranks" if started else "none"


def gpu() -> dict[str, Any]:
    """The GPUs that this process sees, and what it could use them with.

    cupy, nccl: versions, '' without. names, buses: of each GPU, in CuPy's order; none where they cannot be
    used: problem says why, and advice what to do. present: how many there are, with or without CuPy.
    """
    facts: dict[str, Any] = {"cupy": "", "nccl": "", "names": [], "buses": [], "present": gpus.present()}
    facts["advice"] = gpus.advice()
    try:
        cupy = gpus.load()
        facts["cupy"] = cupy.__version__
        count = gpus.count()
        facts["present"] = max(facts["present"], count)
        rank = launcher.local_rank()
        own = rank if rank < count else 0
        if problem := gpus.problem(own):
            return facts | {"problem": f"GPU {own}: {problem}"}
    except EnvironmentProblem as error:
        return facts | {"problem": str(error)}
    runtime: Any = cupy.cuda.runtime
    for i in range(count):
        facts["names"].append(runtime.getDeviceProperties(i)["name"].decode())
        facts["buses"].append(runtime.deviceGetPCIBusId(i))
    facts["driver"] = str(runtime.driverGetVersion())
    from dtrain.comm import nccl

    library = nccl.load()
    facts["nccl"] = nccl.version_text(library.get_version()) if library else ""
    return facts | {"problem": ""}


def _gpu() -> str:
    facts = gpu()
    if facts["problem"]:
        return f"none can be used: {facts['problem']}. {facts['advice']}"
    nccl = f", NCCL {facts['nccl']}" if facts["nccl"] else ""
    return f"CuPy {facts['cupy']}, CUDA driver {facts['driver']}{nccl}: {', '.join(facts['names'])}"


def _data() -> str:
    chosen = os.environ.get("DTRAIN_DATA")
    return f"DTRAIN_DATA={chosen}" if chosen else f"DTRAIN_DATA is not set; the cache is {cache_folder()}"
