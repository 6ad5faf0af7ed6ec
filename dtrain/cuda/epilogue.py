"""Matrix products that end with what comes after them, bias, ReLU or its gradient, by cuBLASLt.

It is called as C, as cuBLAS is in blas.py. A product and its epilogue are one kernel where they were two. By
which algorithm cuBLASLt says once a product, when the plan is made; where it has none, they are two.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import finalize

import numpy as np

from dtrain.cuda.blas import COMPUTE
from dtrain.errors import EnvironmentProblem

#: What may end a product, by the names that ops/fused.py has for it: cublasLtEpilogue_t.
ENDS = {"bias": 4, "relu": 6, "relu and mask": 134, "gate": 136, "gate and sums": 152}
#: cublasLtMatmulDescAttributes_t.
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _VECTOR, _MASK, _MASK_STEP = 3, 4, 7, 8, 11, 12
#: cublasLtMatmulPreferenceAttributes_t; of a, b, c and d the alignments are four that follow one another.
_WORKSPACE, _ALIGNMENT = 1, 5
#: CUDA_R_32F.
_FLOAT = 0
#: Bits to whose multiple a mask's rows are filled up.
_MASK_BITS = 128


class Epilogues:
    """cuBLASLt on one stream. Its arguments are those of blas.Blas, whose workspace may be the same.

    Raises:
        EnvironmentProblem, AttributeError: it cannot be used, or is not there.
    """

    def __init__(self, library: Any, stream: int, workspace: Any, precision: str) -> None:
        self._library, self._stream, self._workspace = library, ctypes.c_void_p(stream), workspace
        self._compute = COMPUTE[precision]
        self._handle = self._made("Create")
        finalize(self, library.cublasLtDestroy, self._handle).atexit = False

    def product(
        self, a: Any, b: Any, out: Any, across_a: bool, across_b: bool, end: str, vector: Any, mask: Any
    ) -> Callable[[], None] | None:
        """A call of out = a @ b, either read transposed, with what ends it, on C-contiguous matrices.

        end: of ENDS. vector: what is added to each row, or gets the sums over the rows. mask: mask_bytes() of
        them, which a ReLU writes and a gate reads. None: there is none, or the matrices are not float32.
        """
        if any(x.dtype != np.float32 or not x.size for x in (a, b, out)):
            return None
        kept: list[Callable[[], Any]] = []  # what ends each of the descriptions
        made = self._described(a, b, out, across_a, across_b, end, vector, mask, kept)
        for each in kept:
            if made is None:
                each()
            else:
                finalize(made, each).atexit = False
        return made

    def _described(
        self,
        a: Any,
        b: Any,
        out: Any,
        across_a: bool,
        across_b: bool,
        end: str,
        vector: Any,
        mask: Any,
        kept: list[Callable[[], Any]],
    ) -> _Call | None:
        # it reads matrices by columns, so it sees each transposed: out.T = b.T @ a.T. A row of out is a
        # column there: bias and sums run along it, and so does a mask
        work = self._made("MatmulDescCreate", self._compute, _FLOAT, kept=kept)
        self._set("MatmulDesc", work, _TRANSPOSE_A, ctypes.c_int32(across_b))
        self._set("MatmulDesc", work, _TRANSPOSE_B, ctypes.c_int32(across_a))
        self._set("MatmulDesc", work, _EPILOGUE, ctypes.c_uint32(ENDS[end]))
        if vector is not None:
            self._set("MatmulDesc", work, _VECTOR, ctypes.c_void_p(vector.data.ptr))
        if mask is not None:
            self._set("MatmulDesc", work, _MASK, ctypes.c_void_p(mask.data.ptr))
            self._set("MatmulDesc", work, _MASK_STEP, ctypes.c_int64(_step(out.shape[1])))
        operands = (b, a, out, out)
        wanted = self._made("MatmulPreferenceCreate", kept=kept)
        self._set("MatmulPreference", wanted, _WORKSPACE, ctypes.c_uint64(self._workspace.nbytes))
        layouts = []
        for k, x in enumerate(operands):
            rows, columns = map(ctypes.c_uint64, x.shape)
            step = ctypes.c_int64(x.shape[1])
            layouts.append(self._made("MatrixLayoutCreate", _FLOAT, columns, rows, step, kept=kept))
            aligned = ctypes.c_uint32(min(256, x.data.ptr & -x.data.ptr))
            self._set("MatmulPreference", wanted, _ALIGNMENT + k, aligned)
        found, count = _Algorithm(), ctypes.c_int()
        status = self._library.cublasLtMatmulAlgoGetHeuristic(
            self._handle, work, *layouts, wanted, 1, ctypes.byref(found), ctypes.byref(count)
        )
        if status or not count.value or found.status:
            return None
        one, none = ctypes.c_float(1), ctypes.c_float(0)
        at = [ctypes.c_void_p(x.data.ptr) for x in operands]
        words = (
            *(self._handle, work, ctypes.byref(one), at[0], layouts[0], at[1], layouts[1]),
            *(ctypes.byref(none), at[2], layouts[2], at[3], layouts[3], ctypes.byref(found)),
            *(ctypes.c_void_p(self._workspace.data.ptr), ctypes.c_size_t(found.workspace), self._stream),
        )
        return _Call(self._library.cublasLtMatmul, words, (self, a, b, out, vector, mask))

    def keeps_nan(self, xp: Any) -> bool:
        """Whether a ReLU leaves NaN what it is, and masks and sums are what they should be.

        A NaN that became 0 would be hidden, and training would continue with it.
        """
        n = 8
        zeros, ones = (xp.asarray(np.full((n, n), x, np.float32)) for x in (0, 1))
        bias = xp.asarray(np.array([np.nan, -1, 0, 2] * 2, np.float32))
        out, back, sums = (xp.asarray(np.zeros(shape, np.float32)) for shape in ((n, n), (n, n), n))
        mask = xp.asarray(np.zeros(mask_bytes(n, n), np.uint8))
        there = self.product(zeros, zeros, out, False, False, "relu and mask", bias, mask)
        again = self.product(ones, ones, back, False, False, "gate and sums", sums, mask)
        if there is None or again is None:
            return False
        there()
        again()
        y, dx, db = (xp.asnumpy(x).reshape(-1, 4) for x in (out, back, sums))
        right = (y[:, 1:] == [0, 0, 2]).all() and (dx[:, 1:] == [0, 0, n]).all()
        return bool(np.isnan(y[:, 0]).all() and right and (db[:, 1:] == [0, 0, n * n]).all())

    def _made(self, name: str, *words: Any, kept: Any = None) -> ctypes.c_void_p:
        """What a function makes; kept gets what ends it."""
        made = ctypes.c_void_p()
        _check(name, getattr(self._library, f"cublasLt{name}")(ctypes.byref(made), *words))
        if kept is not None:
            kept.append(partial(getattr(self._library, f"cublasLt{name.replace('Create', 'Destroy')}"), made))
        return made

    def _set(self, of: str, made: Any, attribute: int, value: Any) -> None:
        name, size = f"{of}SetAttribute", ctypes.c_size_t(ctypes.sizeof(value))
        _check(name, getattr(self._library, f"cublasLt{name}")(made, attribute, ctypes.byref(value), size))


class _Call:
    """A call of cublasLtMatmul; kept: what has to live as long."""

    __slots__ = ("__weakref__", "_function", "_kept", "_words")

    def __init__(self, function: Any, words: Sequence[Any], kept: Any) -> None:
        self._function, self._words, self._kept = function, words, kept

    def __call__(self) -> None:
        _check("Matmul", self._function(*self._words))


class _Algorithm(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


def mask_bytes(rows: int, columns: int) -> int:
    """Of the mask of a product of so many rows and columns."""
    return rows * _step(columns) // 8


def _step(columns: int) -> int:
    return -(-columns // _MASK_BITS) * _MASK_BITS


def _check(name: str, status: int) -> None:
    if status:
        raise EnvironmentProblem(f"cublasLt{name} answers {status} (cublasStatus_t)")
