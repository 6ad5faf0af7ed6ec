"""A library by cuBLAS's name and with its C functions, whose products NumPy computes."""

from __future__ import annotations

import ctypes

import numpy as np
from cupy._device import counts, give
from cupy._raw import build

_SOURCE = """
#include <cstddef>
struct gemm {
    int transa, transb, m, n, k;
    const void *alpha, *a;
    int atype, lda;
    const void *b;
    int btype, ldb;
    const void *beta;
    void *c;
    int ctype, ldc, compute, algo, count;
    long long step_a, step_b, step_c, stream;
};
struct handle {
    void *stream;
};
static void (*hook)(const gemm *);
static int handles;
extern "C" {
int standin_handles() { return handles; }
void standin_hook(void (*f)(const gemm *)) { hook = f; }
int cublasCreate_v2(handle **made) { *made = new handle(); handles++; return 0; }
int cublasDestroy_v2(handle *of) { delete of; handles--; return 0; }
int cublasSetStream_v2(handle *of, void *stream) { of->stream = stream; return 0; }
int cublasSetWorkspace_v2(handle *of, void *memory, size_t bytes) { return (size_t)memory % 256 ? 7 : 0; }
int cublasGemmEx(handle *of, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at,
                 int lda, const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc, int how,
                 int algo) {
    const gemm g = {ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, how, algo, 1, 0, 0, 0,
                    (long long)of->stream};
    hook(&g);
    return 0;
}
int cublasGemmStridedBatchedEx(handle *of, int ta, int tb, int m, int n, int k, const void *alpha,
                               const void *a, int at, int lda, long long step_a, const void *b, int bt,
                               int ldb, long long step_b, const void *beta, void *c, int ct, int ldc,
                               long long step_c, int count, int how, int algo) {
    const gemm g = {ta, tb, m, n, k, alpha, a, at, lda, b, bt, ldb, beta, c, ct, ldc, how, algo, count,
                    step_a, step_b, step_c, (long long)of->stream};
    hook(&g);
    return 0;
}
}
"""


class _Gemm(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("transa", "transb", "m", "n", "k")),
        *((name, ctypes.c_void_p) for name in ("alpha", "a")),
        *((name, ctypes.c_int) for name in ("atype", "lda")),
        ("b", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("btype", "ldb")),
        *((name, ctypes.c_void_p) for name in ("beta", "c")),
        *((name, ctypes.c_int) for name in ("ctype", "ldc", "compute", "algo", "count")),
        *((name, ctypes.c_longlong) for name in ("step_a", "step_b", "step_c", "stream")),
    )


_KINDS = {0: np.dtype(np.float32), 1: np.dtype(np.float64)}
#: Bits of a float32 that each way of computing leaves out of its operands.
_DROPPED = {68: 0, 70: 0, 77: 13, 75: 16}
#: The one whose operands become float16, which has fewer exponents, too.
FAST_16F = 74


def _matrix(at: int, kind: int, rows: int, columns: int, step: int) -> np.ndarray:
    """Columns `step` entries apart."""
    dtype = _KINDS[kind]
    assert step >= rows > 0 and columns > 0
    memory = (ctypes.c_char * (((columns - 1) * step + rows) * dtype.itemsize)).from_address(at)
    return np.ndarray((rows, columns), dtype, memory, strides=(dtype.itemsize, step * dtype.itemsize))


def _rounded(x: np.ndarray, compute: int) -> np.ndarray:
    if compute == FAST_16F:
        with np.errstate(over="ignore"):  # what float16 has no number for is infinite
            return x.astype(np.float16).astype(np.float32)
    dropped = _DROPPED[compute]
    if not dropped:
        return x
    bits = np.array(x, np.float32, order="C").view(np.uint32)
    bits += (1 << dropped - 1) - 1 + (bits >> dropped & 1)
    return (bits & np.uint32(-1 << dropped & 0xFFFFFFFF)).view(np.float32)


def _hook(pointer: ctypes._Pointer[_Gemm]) -> None:
    g = _Gemm.from_buffer_copy(pointer.contents)
    real = ctypes.c_float if g.ctype == 0 else ctypes.c_double
    before = real.from_address(g.beta).value
    assert real.from_address(g.alpha).value == 1 and before in (0, 1) and g.algo == -1 and g.count > 0
    assert g.compute == 70 if g.ctype == 1 else g.compute in (*_DROPPED, FAST_16F)
    shape_a, shape_b = ((g.k, g.m) if g.transa else (g.m, g.k)), ((g.n, g.k) if g.transb else (g.k, g.n))
    nbytes = _KINDS[g.ctype].itemsize

    def product(i: int) -> None:
        a = _matrix(g.a + i * g.step_a * nbytes, g.atype, *shape_a, g.lda)
        b = _matrix(g.b + i * g.step_b * nbytes, g.btype, *shape_b, g.ldb)
        c = _matrix(g.c + i * g.step_c * nbytes, g.ctype, g.m, g.n, g.ldc)
        left, right = (_rounded(x, g.compute) for x in (a, b))
        found = (left.T if g.transa else left) @ (right.T if g.transb else right)
        c[...] = found + c if before else found

    counts["products"] += 1
    give(lambda: [product(i) for i in range(g.count)], g.stream)


_callback = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Gemm))(_hook)
#: The extension's file, through which the library that it is linked to is found.
__file__ = str(build(_SOURCE, "cublas.so"))
_library = ctypes.CDLL(__file__)
_library.standin_hook(_callback)
handles = _library.standin_handles


def getVersion(handle: int = 0) -> int:
    return 0
