"""`dtrain info`: what this machine offers, in the block that one pastes into a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import dtrain
from dtrain import machine
from dtrain.comm import launcher
from dtrain.comm.threads import usable_cores


def lines() -> list[str]:
    """One fact a line; nothing here starts MPI."""
    return [
        f"dtrain      {dtrain.__version__}",
        f"python      {platform.python_version()} ({sys.executable})",
        f"platform    {platform.platform()}",
        f"processor   {machine.processor()}",
        f"cores       {_cores()}",
        f"numpy       {metadata.version('numpy')}",
        f"blas        {machine.blas_text()}",
        *(f"WARNING     {warning}" for warning in machine.held_back()),
        f"kernels     {_kernels()}",
        f"mpi4py      {_mpi()}",
        f"launcher    {_launcher()}",
        f"gpu         {_gpu()}",
        f"data        {_data()}",
    ]


def environment() -> dict[str, str]:
    """What a run's speed depends on, for its record; nothing of the user's own, such as paths."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": machine.processor(),
        "cores": _cores(),
        "numpy": metadata.version("numpy"),
        "blas": "; ".join([machine.blas_text(), *machine.held_back()]),
    }


def _cores() -> str:
    return f"{len(usable_cores())} usable of {os.cpu_count() or 1}"


def _kernels() -> str:
    from dtrain.native import compiler

    return (
        f"C by {' '.join(compiler.command())}, kept in {compiler.folder()}" if compiler.command() else "NumPy"
    )


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
