"""`dtrain info`: what this machine offers, in the block that one pastes into a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import dtrain
from dtrain.comm import launcher

#: Variables by which an environment holds OpenBLAS below what the processor can do.
BLAS_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def lines() -> list[str]:
    """One fact a line; nothing here starts MPI."""
    return [
        f"dtrain      {dtrain.__version__}",
        f"python      {platform.python_version()} ({sys.executable})",
        f"platform    {platform.platform()}",
        f"cores       {_cores()}",
        f"numpy       {metadata.version('numpy')}",
        *_blas(),
        f"mpi4py      {_mpi()}",
        f"launcher    {_launcher()}",
        f"gpu         {_gpu()}",
        f"data        {_data()}",
    ]


def environment() -> dict[str, str]:
    """What a run's speed depends on, for its record; nothing of the user's own, such as paths."""
    blas = [line.removeprefix("blas").removeprefix("WARNING").strip() for line in _blas()]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": _cores(),
        "numpy": metadata.version("numpy"),
        "blas": "; ".join(blas),
    }


def _cores() -> str:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return f"{usable} usable of {total}"


def _blas() -> list[str]:
    from threadpoolctl import threadpool_info

    result = []
    for library in threadpool_info():
        if library["user_api"] == "blas":
            kernel = library.get("architecture", "unknown kernel")
            result.append(
                f"blas        {library['internal_api']} {library['version']}, kernel {kernel}, "
                f"{library['num_threads']} threads"
            )
    for variable in BLAS_VARIABLES:
        if variable in os.environ:
            result.append(
                f"WARNING     {variable}={os.environ[variable]} is set: it may hold the BLAS at half of the "
                f"processor's speed; unset it"
            )
    return result or ["blas        not one that threadpoolctl knows"]


def _mpi() -> str:
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return f"not usable ({error}); one process works without, several need pip install 'dtrain[mpi]'"
    from dtrain.comm.mpi import library_name

    return f"{mpi4py.__version__}, {library_name(MPI.Get_library_version())}"


def _launcher() -> str:
    started = launcher.detect()
    return f"{started.name}, {launcher.size()} ranks" if started else "none"


def _gpu() -> str:
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (pip install 'dtrain[gpu]')"
    try:
        runtime: Any = cupy.cuda.runtime
        names = [runtime.getDeviceProperties(i)["name"].decode() for i in range(runtime.getDeviceCount())]
        return f"CuPy {cupy.__version__}, CUDA driver {runtime.driverGetVersion()}: {', '.join(names)}"
    except Exception as error:
        return f"CuPy {cupy.__version__}, but no GPU: {error}"


def _data() -> str:
    from dtrain.train.data import cache_folder

    chosen = os.environ.get("DTRAIN_DATA")
    return f"DTRAIN_DATA={chosen}" if chosen else f"DTRAIN_DATA is not set; the cache is {cache_folder()}"
