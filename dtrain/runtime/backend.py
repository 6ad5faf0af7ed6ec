"""The device that a rank computes on: NumPy on its CPU, or CuPy on its GPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dtrain.comm import launcher
from dtrain.errors import EnvironmentProblem, UsageError

#: How kernels on the host are made.
KERNELS = ("auto", "c", "numpy")


class Backend:
    """The array module and the ways on and off the device.

    xp: numpy or cupy. on_host: whether its arrays are the host's. name: what the report calls the device.
    kernels: on the host, c, numpy, or auto, which is c for steps that are worth it where there is a compiler;
    by default what DTRAIN_KERNELS says.
    """

    xp: Any = np
    on_host = True
    name = "cpu"

    def __init__(self, kernels: str = "") -> None:
        self.kernels = kernels or os.environ.get("DTRAIN_KERNELS", "auto")
        if self.kernels not in KERNELS:
            raise UsageError(f"kernels {self.kernels}: choose one of {', '.join(KERNELS)}.")

    def block(self, nbytes: int) -> Any:
        """A zeroed block of bytes, aligned to 64, to place tensors in."""
        raw = np.zeros(nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        # a copy-free slice whose .base chain ends at `raw`; both are flat bytes
        return raw[start : start + nbytes]

    def from_host(self, array: np.ndarray) -> Any:
        """The array on the device; on the host itself, the very same."""
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """The array on the host; for a host array, the very same."""
        return array

    def synchronize(self) -> None:
        """Return when the device has done what it was given; kernels on the host have when they return."""


class CupyBackend(Backend):
    """One GPU, chosen by the rank on its node."""

    on_host = False

    def __init__(self, cupy: Any, device: int) -> None:
        super().__init__("numpy")
        self.xp = cupy
        cupy.cuda.Device(device).use()
        properties = cupy.cuda.runtime.getDeviceProperties(device)
        self.name = f"gpu {device} ({properties['name'].decode()})"

    def block(self, nbytes: int) -> Any:
        return self.xp.zeros(nbytes, self.xp.uint8)  # CuPy aligns to 512

    def from_host(self, array: np.ndarray) -> Any:
        return self.xp.asarray(array)

    def to_host(self, array: Any) -> np.ndarray:
        return self.xp.asnumpy(array)

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()


def make_backend(device: str = "cpu", local_rank: int | None = None, kernels: str = "") -> Backend:
    """The backend for --device: cpu, gpu, or auto (a GPU where there is one for this rank).

    Raises:
        EnvironmentProblem: gpu was asked for and CuPy, a GPU, or one for every rank of the node is missing.
    """
    if device == "cpu":
        return Backend(kernels)
    rank = launcher.local_rank() if local_rank is None else local_rank
    if "DTRAIN_OWN_GPU" in os.environ:  # launch/bind: this rank sees no GPU but its own
        rank = 0
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy missing, its libraries missing, no driver, no GPU: all mean no GPU
        if device == "auto":
            return Backend(kernels)
        why = "CuPy is not installed" if isinstance(error, ImportError) else str(error)
        raise EnvironmentProblem(
            f"--device gpu: no GPU can be used here ({why}). Install CuPy for your CUDA (pip install "
            "'dtrain[gpu]'), check `nvidia-smi`, or train with --device cpu."
        ) from None
    if rank >= count:
        if device == "auto":
            return Backend(kernels)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        raise EnvironmentProblem(
            f"--device gpu: local rank {rank} has no GPU of its own, the node shows {count}{seen}. Start at "
            f"most {count} ranks a node, or train with --device cpu."
        )
    return CupyBackend(cupy, rank)
