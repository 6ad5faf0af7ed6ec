"""The device that a rank computes on: NumPy on its CPU, or CuPy on its GPU."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from dtrain import choices
from dtrain.comm import launcher
from dtrain.cuda import gpus, nvrtc
from dtrain.cuda.blas import WORKSPACE, Blas
from dtrain.cuda.code import Code as CudaCode
from dtrain.cuda.epilogue import Epilogues
from dtrain.errors import EnvironmentProblem
from dtrain.native.code import Code
from dtrain.poison import poison
from dtrain.runtime.collection import paused


class Backend:
    """The array module and the ways on and off the device.

    xp: numpy or cupy. on_host: whether its arrays are the host's. name: what the report calls the device.
    kernels: on the host, c, numpy, or auto, which is c for steps that are worth it where there is a compiler;
    by default what DTRAIN_KERNELS says.
    lock: held by whoever gives the device work; None where sessions do not come in one another's way.
    why: on the host, what stands against a GPU that its user may expect, in a sentence; '' for nothing.
    """

    xp: Any = np
    on_host = True
    name = "cpu"
    lock: Any = None
    why = ""

    def __init__(self, kernels: str = "") -> None:
        self.kernels = kernels or choices.of_environment("kernels", choices.KERNELS, "auto")
        choices.check(f"kernels {self.kernels}", self.kernels, choices.KERNELS)

    def block(self, nbytes: int) -> Any:
        """A block of bytes, aligned to 64, to place tensors in; what it holds is not defined."""
        raw = np.zeros(nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        # a copy-free slice whose .base chain ends at `raw`; both are flat bytes
        return poison(raw[start : start + nbytes])

    def from_host(self, array: np.ndarray) -> Any:
        """The array on the device; on the host itself, the very same."""
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """The array on the host; for a host array, the very same."""
        return array

    def use(self) -> None:
        """What this thread gives to the device from here on goes to this one, and its stream."""

    def synchronize(self) -> None:
        """Return when the device has done what it was given; kernels on the host have when they return."""

    def code(self, env: Any, transfers: int, bitwise: bool = False) -> Any:
        """What a plan's ops ask for kernels; transfers: how many arrays it is fed and returns."""
        return Code(env.comm, env, env if bitwise else None)


class CupyBackend(Backend):
    """One GPU, chosen by the rank on its node; one that gpus.problem has nothing against.

    precision: what the operands of float32 products are rounded to (see cuda/blas.py). share: whether other
    ranks may have the same GPU. identity: what distinguishes it from others (see gpus.identity).
    stream: where everything runs; no stream that others wait for, since it is captured.
    blas: cuBLAS on it.
    """

    on_host = False
    #: Bytes of a large array that go up at once.
    PIECE = 64 << 20

    def __init__(self, cupy: Any, device: int, precision: str = "float32", share: bool | None = None) -> None:
        super().__init__("numpy")
        choices.check(f"--precision {precision}", precision, choices.PRECISIONS)
        self.xp = cupy
        self.lock = threading.RLock()  # its sessions have one stream, and what goes to it may be captured
        self.precision, self.share = precision, _shared(share)
        self._device = cupy.cuda.Device(device)
        properties = cupy.cuda.runtime.getDeviceProperties(device)
        self.identity = gpus.identity(device)
        self.name = f"gpu {device} ({properties['name'].decode()})"
        self._device.use()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        self._workspace = self.block(WORKSPACE)
        self.blas = self._blas_on(self.stream, self._workspace)
        self._told: set[str] = set()

    def _blas_on(self, stream: Any, workspace: Any) -> Blas:
        return Blas(gpus.cublas(), stream.ptr, workspace, self.precision)

    @cached_property
    def epilogues(self) -> Epilogues | None:
        """cuBLASLt on the same stream, for products with bias and ReLU; None: it cannot be used."""
        self.use()
        try:
            made = Epilogues(gpus.cublas(), self.stream.ptr, self._workspace, self.precision)
            if made.keeps_nan(self.xp):
                return made
            why = "its ReLU makes a NaN 0, or it has none"
        except (AttributeError, EnvironmentProblem) as error:
            why = str(error)
        self.tell(f"cuBLASLt is not used ({why}), so bias and ReLU are kernels of their own after a product.")
        return None

    @cached_property
    def beside(self) -> tuple[Any, Blas]:
        """A second stream, and cuBLAS on it, for products that nothing waits for at once."""
        stream = self.xp.cuda.Stream(non_blocking=True)
        return stream, self._blas_on(stream, self.block(WORKSPACE))

    def use(self) -> None:
        # each thread has a device and a stream of its own, and another backend may have been used since
        self._device.use()
        self.stream.use()

    def block(self, nbytes: int) -> Any:
        self.use()
        with self._room_for(nbytes):
            return poison(self.xp.zeros(nbytes, self.xp.uint8))  # CuPy aligns to 512

    def from_host(self, array: np.ndarray) -> Any:
        self.use()
        with self._room_for(array.nbytes):
            if array.nbytes <= self.PIECE:
                return self.xp.asarray(array)
            # CuPy would pin as much memory of the host, rounded up to a power of two, and keep it
            out = self.xp.empty(array.shape, array.dtype)
        source, to = (a.reshape(-1).view(np.uint8) for a in (np.ascontiguousarray(array), out))
        for low in range(0, array.nbytes, self.PIECE):
            piece = source[low : low + self.PIECE]
            self.synchronize()  # the last piece has been read
            self._piece[: len(piece)] = piece
            self.upload(self._piece[: len(piece)], to[low : low + len(piece)])
        self.synchronize()
        return out

    @cached_property
    def _piece(self) -> np.ndarray:
        return self.pinned(self.PIECE)

    @contextmanager
    def _room_for(self, nbytes: int, where: str = "") -> Iterator[None]:
        """Within, memory that cannot be allocated is reported with what was asked for and what is there."""
        try:
            yield
        except (MemoryError, self.xp.cuda.runtime.CUDARuntimeError) as error:
            # of pinned memory CuPy has no error of its own
            if not isinstance(error, MemoryError) and "MemoryAllocation" not in str(error):
                raise
            free, total = self.xp.cuda.runtime.memGetInfo()
            raise EnvironmentProblem(
                f"{self.name}: no memory for {nbytes:,} bytes{where and ' ' + where}: {free:,} of {total:,} "
                "are free on the device. Take a smaller --batch-size, fewer ranks on this GPU, or see in "
                "`nvidia-smi` what else is on it."
            ) from None

    def to_host(self, array: Any) -> np.ndarray:
        self.use()
        return self.xp.asnumpy(array)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def code(self, env: Any, transfers: int, bitwise: bool = False) -> Any:
        assert not bitwise
        return CudaCode(self, env, transfers)

    def module(self, source: str) -> Any:
        """The kernels of a source; see nvrtc.load."""
        self.use()
        return nvrtc.load(self.xp, source, self._device.id)

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes on the host that the device reads and writes by itself."""
        with self._room_for(nbytes, "to be pinned on the host"):
            memory = self.xp.cuda.alloc_pinned_memory(max(nbytes, 1))
        return np.frombuffer(memory, np.uint8, nbytes)

    def upload(self, source: np.ndarray, out: Any) -> None:
        """Copy pinned bytes to the device, after what it was given before."""
        self._move(out.data.ptr, source.ctypes.data, source.nbytes, "memcpyHostToDevice")

    def download(self, source: Any, out: np.ndarray) -> None:
        """Copy from the device into pinned bytes; they are there after synchronize()."""
        self._move(out.ctypes.data, source.data.ptr, source.nbytes, "memcpyDeviceToHost")

    def _move(self, to: int, source: int, nbytes: int, kind: str) -> None:
        runtime = self.xp.cuda.runtime
        if nbytes:
            runtime.memcpyAsync(to, source, nbytes, getattr(runtime, kind), self.stream.ptr)

    def capture(self, launches: Callable[[], None]) -> Any:
        """A graph of what is launched, which its launch(stream) runs. None: there can be none."""
        with paused():  # the end of another backend's cuBLAS would wait for the device, which ends a capture
            return self._capture(launches)

    def _capture(self, launches: Callable[[], None]) -> Any:
        self.stream.begin_capture()
        try:
            launches()
            return self.stream.end_capture()
        except Exception as error:
            with suppress(Exception):  # the first error is the one to report
                self.stream.end_capture()
            self.tell(f"the step cannot be captured into a CUDA graph ({error}), so each kernel is launched.")
            return None

    def tell(self, text: str) -> None:
        """Warn of what makes steps slower, once."""
        if text not in self._told:
            self._told.add(text)
            warnings.warn(text, stacklevel=2)


def make_backend(
    device: str = "cpu",
    local_rank: int | None = None,
    kernels: str = "",
    precision: str = "float32",
    share: bool | None = None,
) -> Backend:
    """The backend for --device: cpu, gpu, or auto, as choose_gpu says.

    kernels: on the host, how they are made. precision: on a GPU, of products. share: see choose_gpu.
    Where auto takes the CPU against what may be expected, a warning says why.

    Raises:
        EnvironmentProblem: gpu was asked for and CuPy, a GPU, or one for every rank of the node is missing.
    """
    backend = backend_on(choose_gpu(device, local_rank, share), kernels, precision, share)
    if backend.why and not launcher.rank():
        warnings.warn(backend.why, stacklevel=3)
    return backend


def backend_on(
    choice: Choice, kernels: str = "", precision: str = "float32", share: bool | None = None
) -> Backend:
    """The backend of what choose_gpu chose."""
    if choice.gpu is None:
        backend = Backend(kernels)
        backend.why = choice.why
        return backend
    return CupyBackend(gpus.load(), choice.gpu, precision, share)


class Choice(NamedTuple):
    """A device: a GPU by its number in CuPy's order, and what distinguishes it from others; None: the CPU.

    why: why it is the CPU, in a sentence, where its user may expect a GPU.
    """

    gpu: int | None
    why: str = ""
    identity: str = ""


def choose_gpu(device: str, local_rank: int | None = None, share: bool | None = None) -> Choice:
    """The GPU that a rank takes for --device, which has been seen to work; or its CPU.

    It is that of its local rank; or the only one that it sees, since a scheduler may show each rank a GPU of
    its own: whether two then have the same one, the ranks have to look together (gpus.identity). share:
    whether the ranks of a node may take its GPUs in turn, where it has fewer; by default what
    DTRAIN_SHARE_GPU says, on or off.

    Raises:
        EnvironmentProblem: gpu was asked for and CuPy, a GPU, or one for every rank of the node is missing.
    """
    if device == "cpu":
        return Choice(None)
    rank = launcher.local_rank() if local_rank is None else local_rank
    if "DTRAIN_OWN_GPU" in os.environ:  # launch/bind: this rank sees no GPU but its own
        rank = 0
    fits, count, gpu = True, 0, 0
    try:
        count = gpus.count()
        gpu = rank % count
        fits = _shared(share) or rank < count or count == 1
        problem = gpus.problem(gpu) if fits else ""
        why = problem and f"no GPU can be used here: GPU {gpu}: {problem}"
    except EnvironmentProblem as error:
        why = f"no GPU can be used here: {error}"
    if fits and not why:
        return Choice(gpu, identity=gpus.identity(gpu))
    cure = gpus.advice()
    if not fits:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        why = f"local rank {rank} has no GPU of its own, the node shows {count}{seen}"
        cure = f"Start at most {count} ranks a node, let them share (--share-gpu, or DTRAIN_SHARE_GPU=on)"
    if device == "gpu":
        raise EnvironmentProblem(f"--device gpu: {why}. {cure}, or train with --device cpu.")
    if not gpus.expected():
        return Choice(None)
    return Choice(None, f"--device auto takes the CPU: {why}. {cure}, or say --device cpu.")


def take_gpu(device: str, share: bool | None = None) -> None:
    """Make the GPU that choose_gpu names this process's, before there is an MPI that may begin on another.

    What is wrong with it is reported when the ranks have met.
    """
    with suppress(EnvironmentProblem):
        gpu = choose_gpu(device, share=share).gpu
        if gpu is not None:
            gpus.load().cuda.Device(gpu).use()


def _shared(share: bool | None) -> bool:
    return choices.boolean_of_environment("share_gpu") if share is None else share
