"""The GPUs of this machine as dtrain can use them: CuPy, and a probe of a GPU before it is taken.

That CuPy counts GPUs says little: of CUDA's libraries it needs none for that.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.cuda import nvrtc
from dtrain.cuda.blas import Blas
from dtrain.errors import EnvironmentProblem
from dtrain.hints import pip_install
from dtrain.native import compiler

#: CuPy's first version that finds CUDA's libraries among Python's packages, and gives NCCL's id as bytes.
OLDEST = 14
#: What load() says where there is none.
MISSING = "CuPy is not installed"
_PROBE = 'extern "C" __global__ void __launch_bounds__(4) probe(float *x) { x[threadIdx.x] *= 2.0f; }'


def load() -> Any:
    """CuPy.

    Raises:
        EnvironmentProblem: it is not there, or not to be used; the message says why, and not what to do.
    """
    if importlib.util.find_spec("cupy") is None:
        raise EnvironmentProblem(MISSING)
    # as launch/bind counts GPUs, not the fastest first
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    _find_room()
    try:
        import cupy
    except Exception as error:
        raise EnvironmentProblem(f"CuPy cannot be imported: {_first(error)}") from None
    found = re.match(r"\d+", cupy.__version__)
    if found and int(found[0]) < OLDEST:
        raise EnvironmentProblem(f"CuPy is {cupy.__version__}, and dtrain wants {OLDEST} or newer")
    return cupy


def _find_room() -> None:
    """Name a folder that can be written for what CuPy compiles: without one it cannot be imported."""
    if "CUPY_CACHE_DIR" in os.environ:
        return
    usual = Path(os.path.expanduser("~"), ".cupy", "kernel_cache")
    try:
        usual.mkdir(parents=True, exist_ok=True)
        writable = os.access(usual, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        os.environ["CUPY_CACHE_DIR"] = str(compiler.folder() / "cupy")


def cublas() -> ctypes.CDLL:
    """The cuBLAS that CuPy uses, of several in the process.

    Raises:
        ImportError, OSError, AttributeError: there is none.
    """
    from cupy_backends.cuda.libs import cublas as binding

    binding.getVersion  # noqa: B018  # the name of the module alone may load nothing
    # what CuPy's extension is linked to is found through the extension itself
    library = ctypes.CDLL(binding.__file__)
    library.cublasGemmEx  # noqa: B018
    return library


def count() -> int:
    """How many GPUs CuPy sees.

    Raises:
        EnvironmentProblem: none, or CuPy cannot be used; the message says why.
    """
    cupy = load()
    try:
        found = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # its libraries missing, no driver, no GPU
        raise EnvironmentProblem(f"CuPy {cupy.__version__} sees none ({_first(error)})") from None
    if not found:
        raise EnvironmentProblem(f"CuPy {cupy.__version__} sees none")
    return found


@cache
def problem(gpu: int) -> str:
    """Why a GPU, by its number, cannot be used; '' where a kernel, a product and a sum come out right on it.

    It is the GPU of this thread then.
    """
    cupy = load()
    part = "it cannot be taken"
    try:
        cupy.cuda.Device(gpu).use()
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.use()
        x, y = cupy.asarray(np.array([[1, 2], [3, 4]], np.float32)), cupy.zeros((2, 2), np.float32)
        workspace = cupy.zeros(1 << 20, np.uint8)
        part = "NVRTC compiles no kernel"
        kernel = nvrtc.load(cupy, _PROBE, gpu).get_function("probe")
        part = "a kernel cannot be launched"
        kernel((1, 1, 1), (4, 1, 1), (x,))
        stream.synchronize()
        part = "cuBLAS cannot be used"
        product = Blas(cublas(), stream.ptr, workspace, "float32").product(x, x, y, False, False)
        assert product is not None
        product()
        stream.synchronize()
        part = "CuPy's own kernels cannot be compiled"
        total = float(y.sum())
    except Exception as error:
        return f"{part} ({_first(error)})"
    # what 2, 4, 6, 8 give, multiplied by themselves
    return "" if total == 216 else f"a product on it is wrong: its sum is {total}, and not 216"


def advice() -> str:
    """What to do where no GPU can be used."""
    with suppress(EnvironmentProblem):
        load()
        try:
            count()
        except EnvironmentProblem:
            return "Check the driver with `nvidia-smi`, and CUDA_VISIBLE_DEVICES"
    return (
        f"Install CuPy with CUDA's libraries ({pip_install(f'dtrain[{_extra()}]')}; dtrain[gpu] is for CUDA "
        "12, dtrain[gpu13] for 13), and check `nvidia-smi`"
    )


def _extra() -> str:
    """The extra that fits the CuPy that is there: two do not go together."""
    try:
        metadata.version("cupy-cuda13x")
    except metadata.PackageNotFoundError:
        return "gpu"
    return "gpu13"


def present() -> int:
    """How many GPUs this machine's driver has, with or without CuPy."""
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0


def expected() -> bool:
    """Whether a user may expect that a GPU is used: there is one, or CuPy."""
    return bool(present()) or importlib.util.find_spec("cupy") is not None


def identity(gpu: int) -> str:
    """What distinguishes a GPU from its node's others, whatever a rank sees: its bus and its id, which
    instances of one GPU (MIG) have each."""
    runtime = load().cuda.runtime
    return f"{runtime.deviceGetPCIBusId(gpu)} {runtime.getDeviceProperties(gpu).get('uuid', b'').hex()}"


def _first(error: BaseException) -> str:
    """An error in a line."""
    lines = [*filter(None, (line.strip() for line in str(error).splitlines()))]
    return (lines or [type(error).__name__])[0][:200]
