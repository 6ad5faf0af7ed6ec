"""Matrix products by cuBLAS, called as C.

CuPy's own calls of cuBLAS refuse to be captured into a graph, so the library that CuPy has loaded is called
through ctypes, with a handle and a workspace of the plan's stream. The workspace is fixed memory: nothing is
allocated in a step, and the same product is computed the same way each time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import finalize

from dtrain.errors import EnvironmentProblem

#: cublasComputeType_t of each of choices.PRECISIONS, and of float64: so far cuBLAS may round, or less.
COMPUTE = {"float32": 68, "tf32": 77, "bfloat16": 75, "float16": 74, "float64": 70}
#: cudaDataType, and the C type of alpha and beta.
_TYPES = {"f": (0, ctypes.c_float), "d": (1, ctypes.c_double)}
_DEFAULT_ALGORITHM = -1
#: Bytes of workspace: what NVIDIA asks for on the GPUs that want most (Hopper).
WORKSPACE = 32 << 20


class Blas:
    """cuBLAS on one stream.

    library: its functions, by name. stream: the stream's address. workspace: bytes on the device.
    """

    def __init__(self, library: Any, stream: int, workspace: Any, precision: str) -> None:
        self._gemm, self._batch = library.cublasGemmEx, library.cublasGemmStridedBatchedEx
        self._workspace, self._precision = workspace, precision
        handle = ctypes.c_void_p()
        _check("cublasCreate", library.cublasCreate_v2(ctypes.byref(handle)))
        self._handle = handle
        finalize(self, library.cublasDestroy_v2, handle).atexit = False
        # in this order: a new stream takes the workspace away
        _check("cublasSetStream", library.cublasSetStream_v2(handle, ctypes.c_void_p(stream)))
        memory = ctypes.c_void_p(workspace.data.ptr)
        size = ctypes.c_size_t(workspace.nbytes)
        _check("cublasSetWorkspace", library.cublasSetWorkspace_v2(handle, memory, size))

    def product(
        self,
        a: Any,
        b: Any,
        out: Any,
        across_a: bool,
        across_b: bool,
        add: bool = False,
        batch: tuple[int, int, int] | None = None,
    ) -> Callable[[], None] | None:
        """A call of out = a @ b, either read transposed, on C-contiguous matrices; None: of no such dtype.

        add: the product is added to what out holds. batch: so many products; a, b and out are the first
        matrices, those of a and b each so many entries further, out's one after the other.
        """
        if out.dtype.char not in _TYPES:
            return None
        (rows, columns), depth = out.shape, a.shape[0 if across_a else 1]
        kind, real = _TYPES[out.dtype.char]
        how = COMPUTE[self._precision if out.dtype.char == "f" else "float64"]
        one, before = real(1), real(int(add))
        number, at = ctypes.c_int, ctypes.c_void_p
        steps: list[list[Any]] = [[], [], [], []]
        if batch is not None:
            count, *far = batch
            steps = [[ctypes.c_longlong(step)] for step in (*far, rows * columns)] + [[number(count)]]
        # cuBLAS reads matrices by columns, so it sees each transposed: out.T = b.T @ a.T
        arguments = (
            *(self._handle, number(int(across_b)), number(int(across_a))),
            *(number(columns), number(rows), number(depth), ctypes.byref(one)),
            *(at(b.data.ptr), number(kind), number(b.shape[1]), *steps[1]),
            *(at(a.data.ptr), number(kind), number(a.shape[1]), *steps[0], ctypes.byref(before)),
            *(at(out.data.ptr), number(kind), number(columns), *steps[2], *steps[3]),
            *(number(how), number(_DEFAULT_ALGORITHM)),
        )
        return partial(self._run, arguments, (a, b, out), batch is not None)

    def _run(self, arguments: Any, kept: Any, batch: bool) -> None:
        if batch:
            _check("cublasGemmStridedBatchedEx", self._batch(*arguments))
        else:
            _check("cublasGemmEx", self._gemm(*arguments))


def _check(name: str, status: int) -> None:
    if status:
        raise EnvironmentProblem(
            f"{name} answers {status} (cublasStatus_t): cuBLAS cannot work on this GPU. Check that the CUDA "
            "libraries, the driver and CuPy fit one another, or train with --device cpu."
        )
