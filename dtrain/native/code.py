"""A plan's calls into C: what its kernels ask for, compiled together and run without Python in between."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import DtrainError, EnvironmentProblem
from dtrain.native import compiler, loops, windows
from dtrain.native.loops import TYPES, Loop, Untranslatable
from dtrain.native.windows import Windows
from dtrain.poison import poison

#: What a kernel answers besides 0; the same as in kernels.h.
OK, BAD_VALUE, WAITING, NOT_FINITE, ELSEWHERE = 0, 1, 2, 3, 4


#: Rows, or depth, up to which product.c beats a BLAS on dense operands too.
SMALL_BATCH = 128
#: Columns up to which product.c is as fast on larger dense operands, and twice as fast on images.
NARROW = 1024


class _Word(ctypes.Union):
    _fields_ = (("p", ctypes.c_void_p), ("i", ctypes.c_int64), ("d", ctypes.c_double))


class _Call(ctypes.Structure):
    _fields_ = (("f", ctypes.c_void_p), ("a", ctypes.c_void_p))


class _Transfer(ctypes.Structure):
    _fields_ = (("buffer", ctypes.c_void_p), ("rows", ctypes.c_void_p), ("size", ctypes.c_int64))


class _Loop(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "step", "call", "calls", "feeds", "fetches")),
        *((name, ctypes.c_void_p) for name in ("transfers", "until", "position", "number")),
    )


#: What stands before a plan's functions.
INCLUDE = '#include "kernels.h"\n'


class NativeCall(NamedTuple):
    """One call: the function's name, and its words: arrays (their address counts), integers, floats."""

    symbol: str
    words: Sequence[Any]


class Code:
    """The C functions that a plan needs, and the calls to them.

    comm: the ranks; its terms() and part() say what of a sum among the ranks of a node is this one's.
    cuda: whether the language is CUDA. env: the plan's PlanEnv; without it there are no random numbers.
    bitwise: what NumPy's kernels of the plan are bound in, where a product's bits may not follow from its
        sizes, as a BLAS's do; else None.
    """

    cuda = False

    def __init__(self, comm: Any, env: Any = None, bitwise: Any = None) -> None:
        self.comm, self._env, self.bitwise = comm, env, bitwise
        self._sources: dict[str, str] = {}
        self.node: Any = None  # the operation whose kernels are asked for
        self._of: dict[str, Any] = {}  # the first that asked for each source
        self._library: ctypes.CDLL | None = None
        self._room = np.empty(0, np.uint8)
        self._gapless = np.empty(0, np.uint8)

    # -- what ops ask for ------------------------------------------------------------------------------
    def call(self, symbol: str, *words: Any) -> NativeCall:
        """A call of a function in kernels.c."""
        if symbol in ("gather", "gather_lent"):
            words = (*words, int(self._is_read_far(words[-1])))
        return NativeCall(symbol, words)

    def _is_read_far(self, out: np.ndarray) -> bool:
        """Whether ranks on cores far apart read an array, so that it is best written past the caches."""
        comm = self.comm
        return comm.far and (comm.terms(out.reshape(-1)) is not None or comm.is_shared(out))

    def reaches(self, wholes: Sequence[np.ndarray]) -> bool:
        """Whether arrays lie in memory of all ranks, each of which writes its part there.

        The parts do not say it: that of a rank without rows lies nowhere, and all ranks have to agree.
        """
        return all(self.comm.is_shared(whole) for whole in wholes)

    def function(self, symbol: str, source: str, *words: Any) -> NativeCall:
        """A call of a function that comes with its source."""
        self._sources[symbol] = source
        self._of.setdefault(symbol, self.node)
        return NativeCall(symbol, words)

    def loop(
        self,
        body: Sequence[Any],
        results: Sequence[int],
        values: Sequence[Any],
        ins: Sequence[np.ndarray],
        outs: Sequence[np.ndarray],
    ) -> NativeCall | list[NativeCall] | None:
        """A call of the loop for a body of elementwise instructions and sums (see loops.py).

        values: the spec of each value, inputs first, global; ins, outs: arrays, of which inputs may be views,
        that are copied before. None: it has no form in C.
        """
        if not all(a.flags.c_contiguous for a in outs) or any(a.dtype == object for a in ins):
            return None
        copies, ins = self._copied(ins)
        if copies is None:
            return None
        try:
            streamed = [v for v, out in zip(results, outs, strict=True) if self._is_read_far(out)]
            specs = [(v.shape, v.dtype) for v in values]
            loop = Loop(body, results, specs, len(ins), streamed=streamed)
        except Untranslatable:
            return None
        sizes = loop.sizes([a.shape for a in ins])
        call = self.function(loop.symbol, loop.source, *sizes, *ins, *outs)
        return [*copies, call] if copies else call

    def _copied(self, arrays: Sequence[np.ndarray]) -> tuple[list[NativeCall] | None, list[np.ndarray]]:
        """Copies of those arrays that are views with gaps, in memory that the next kernel gets too.

        A recurrent net's gradients are columns of others, and NumPy would need a call for each instruction.
        """
        gaps = [a for a in arrays if a is not None and not a.flags.c_contiguous]
        ends = np.cumsum([0, *(-(-a.nbytes // 64) * 64 for a in gaps)]).tolist()
        if ends[-1] > self._gapless.size:  # kernels made before keep the old block
            self._gapless = poison(np.empty(2 * ends[-1], np.uint8))
        calls: list[NativeCall] = []
        copies: dict[int, np.ndarray] = {}
        for x, at in zip(gaps, ends, strict=False):
            copy = copies[id(x)] = self._gapless[at : at + x.nbytes].view(x.dtype).reshape(x.shape)
            made = self.move(copy, x)
            if made is None:
                return None, []
            calls += made if isinstance(made, list) else [made]
        return calls, [copies.get(id(a), a) for a in arrays]

    def share(self, array: np.ndarray) -> tuple[int, int]:
        """Half-open range of the entries of a flat array that this rank updates."""
        shared = self.comm.is_shared(array)
        return self.comm.part(array.size, array.itemsize) if shared else (0, array.size)

    def update(
        self, text: str, type: str, slots: int, rate: np.ndarray, run: Sequence[np.ndarray]
    ) -> list[NativeCall]:
        """A call of an update (see ops/update.py) of flat arrays: variable, gradient (its terms), slots."""
        streamed = self.comm.far and self.comm.is_shared(run[0])
        symbol, source = loops.update(text, type, len(run) - 1 - slots, slots, streamed)
        return [self.function(symbol, source, run[0].size, rate, *run)]

    def has_bad(
        self, arrays: Sequence[np.ndarray], limit: float, out: np.ndarray, more: bool
    ) -> list[NativeCall]:
        """out = 1 where an entry of the arrays, all of one dtype, is NaN or beyond the limit, else 0.

        more: out holds a verdict already.
        """
        name = {"f": "has_bad_float", "d": "has_bad_double"}[arrays[0].dtype.char]
        addresses = np.array([a.ctypes.data for a in arrays], np.uintp)
        sizes = np.array([a.size for a in arrays], np.int64)
        words = (len(arrays), addresses, sizes, limit, out, out.itemsize, int(more))
        return [self.call(name, *words, *arrays)]  # the arrays stay alive with the words

    def move(self, out: np.ndarray, x: Any) -> NativeCall | list[NativeCall] | None:
        """out = x, a number or an array that broadcasts to it; both may lie in memory in any strides."""
        x = np.asarray(x, out.dtype) if np.isscalar(x) else x
        if x.dtype != out.dtype or out.dtype == object:
            return None
        axes = axes_of(out, x)
        words = (n for axis in axes for n in axis)
        return self.call("move", out, x, out.itemsize, len(axes), *words) if out.size else []

    def gather(self, table: np.ndarray, indices: np.ndarray, axis: int, out: np.ndarray) -> NativeCall | None:
        """out = entries of the table along an axis, at the indices."""
        if axis % table.ndim or not (table.flags.c_contiguous and indices.flags.c_contiguous):
            return None
        size = math.prod(table.shape[1:]) * table.itemsize  # of one row, or empty ones, no stride
        return self.call("gather", table, len(table), size, indices, indices.itemsize, indices.size, out)

    def kernel(self, name: str, dtype: np.dtype, entries: int, *words: Any) -> Any:
        """A call of the function of this name in kernels.c, for numbers of a dtype.

        entries: how many it works on. None: there is no such function, or an array lies otherwise than entry
        after entry.
        """
        symbol = f"{name}_{TYPES.get(dtype.name)}"
        arrays = [w for w in words if isinstance(w, np.ndarray)]
        if not hasattr(fixed(), symbol) or not all(a.flags.c_contiguous for a in arrays):
            return None
        return self.call(symbol, *words) if entries else []

    def constant(self, array: np.ndarray) -> np.ndarray:
        """The array where kernels read it."""
        return array

    def contiguous(self, arrays: Sequence[Any]) -> tuple[list[NativeCall], list[Any]] | None:
        """Copies of what does not lie entry after entry, and all arrays; None: NumPy reads it as it lies."""
        calls, found = self._copied(arrays) if self.bitwise is not None else (None, [])
        return (calls, found) if calls else None

    def _numpys(self, *_: Any) -> None:
        """What only CUDA has: on the host NumPy does it."""

    scratch = _numpys

    def dropout(self, seed: int, start: int, keep: np.ndarray, out: np.ndarray) -> NativeCall | None:
        """The mask that ops/dropout.py makes: its numbers from `start` on."""
        if self._env is None or out.dtype != np.float32 or keep.dtype != out.dtype:
            return None
        root, counter = self._env.random_counter()
        return self.call("dropout_float", keep, counter, root, seed, start, out.size, out)

    def windows(self, images: tuple[int, ...], dtype: np.dtype, down: Any, across: Any) -> Windows | None:
        """Convolution and pooling of such images; None: they have no form."""
        if dtype != np.float32 or not _product().fast:
            return None
        return Windows(self, images, down, across)

    def product(self, a: np.ndarray, b: np.ndarray, out: np.ndarray, across_a: bool, across_b: bool) -> Any:
        """out = a @ b, either read transposed: by product.c where that is faster, else by NumPy's BLAS."""
        if self.bitwise is not None:
            return self.chain(a, b, out, across_a, across_b)
        if not all(x.flags.c_contiguous and x.size for x in (a, b, out)):
            return None
        (rows, columns), depth = out.shape, a.shape[0 if across_a else 1]
        suits = min(rows, depth) <= SMALL_BATCH or (columns <= NARROW and not across_b)
        if out.dtype == np.float32 and suits and _product().fast:
            return self._product([a], [b], out, across_a, across_b)
        found, name = blas(), {"f": "float", "d": "double"}.get(out.dtype.char)
        if found is None or name is None:
            return None
        single, double, bits = found
        function = single if name == "float" else double
        sizes = (across_a, across_b, rows, columns, depth)
        return self.call(f"gemm_{name}_{bits}", function, *sizes, a, a.shape[1], b, b.shape[1], out)

    def products(
        self, a: np.ndarray, b: np.ndarray, out: np.ndarray, across_a: bool, across_b: bool
    ) -> list[NativeCall] | None:
        """out = a @ b of the matrices in the last two axes; those before broadcast."""
        if self.bitwise is None:
            return None
        a, b = (np.broadcast_to(x, out.shape[:-2] + x.shape[-2:]) for x in (a, b))
        each = (self.chain(a[i], b[i], out[i], across_a, across_b) for i in np.ndindex(out.shape[:-2]))
        made = [*each]
        return None if None in made else [call for calls in made for call in calls]  # type: ignore[union-attr]

    def chain(
        self,
        a: np.ndarray,
        b: np.ndarray,
        out: np.ndarray,
        across_a: bool = False,
        across_b: bool = False,
        more: bool = False,
    ) -> list[NativeCall] | None:
        """out (+)= a @ b, either read transposed: each entry a sum of fused products from first to last.

        So its bits depend on its row of a and its column of b alone. more: out holds a sum to continue.
        """
        if out.dtype.char not in "fd" or not out.flags.c_contiguous:
            return None
        size = out.itemsize
        calls: list[NativeCall] = []
        read = []
        for x in (a, b):
            along = any(step == size and other >= 0 for step, other in (x.strides, x.strides[::-1]))
            if along and all(step % size == 0 for step in x.strides):
                read.append(x)
                continue
            copies, (copy,) = self._copied([x])
            assert copies is not None
            calls += copies
            read.append(copy)
        a, b = (x.T if across else x for x, across in zip(read, (across_a, across_b), strict=True))
        depth, steps = a.shape[1], [s // size for x in (a, b) for s in x.strides]
        if not out.size or not depth:
            zeros = [] if more else self.move(out, 0.0)
            return zeros if isinstance(zeros, list) else [zeros]  # type: ignore[list-item]
        if size == 8:
            words = (*out.shape, depth, a, *steps[:2], b, *steps[2:], out, int(more))
            return [*calls, self.call("product_double", *words)]
        at = [np.array([x.ctypes.data], np.uintp) for x in (a, b)]
        room = self.room(_product().room(len(out)))
        words = (*out.shape, 1, np.array([depth]), at[0], *steps[:2], at[1], *steps[2:], out, room)
        return [*calls, self.call("product", *words, np.zeros(1, np.int64), int(more), a, b)]

    def product_of_parts(
        self, a: Sequence[np.ndarray], b: Sequence[np.ndarray], out: np.ndarray
    ) -> NativeCall:
        """out = sum of a[r].T @ b[r], over all rows of all r from first to last."""
        return self._product(a, b, out, True, False)

    def _product(
        self,
        a: Sequence[np.ndarray],
        b: Sequence[np.ndarray],
        out: np.ndarray,
        across_a: bool,
        across_b: bool,
    ) -> NativeCall:
        rows, columns = out.shape
        depths = np.array([len(x) if across_a else x.shape[1] for x in a], np.int64)
        steps_a, steps_b = (
            (1, x.strides[0] // 4) if y else (x.strides[0] // 4, 1)
            for x, y in ((a[0], across_a), (b[0], across_b))
        )
        at_a, at_b = (np.array([x.ctypes.data for x in of], np.uintp) for of in (a, b))
        room = self.room(_product().room(rows))
        pause = np.zeros(1, np.int64)
        sizes = (rows, columns, len(a), depths)
        return self.call("product", *sizes, at_a, *steps_a, at_b, *steps_b, out, room, pause, 0, *a, *b)

    def room(self, nbytes: int) -> np.ndarray:
        """Memory for one kernel while it runs; the next may have the same."""
        if self._room.size < nbytes:
            self._room = poison(np.empty(nbytes, np.uint8))
        return self._room

    def sum(self, terms: Sequence[np.ndarray], out: np.ndarray) -> NativeCall | None:
        """out = the terms, two or more, added up from the first to the last; flat float arrays."""
        name = {"f": "sum_float", "d": "sum_double"}.get(out.dtype.char)
        addresses = np.array([t.ctypes.data for t in terms], np.uintp)
        return self.call(name, len(terms), addresses, out.size, out) if name else None

    def meet(self) -> NativeCall:
        """Wait for the other ranks of the node."""
        return self.call("meet", *self.comm.node_barrier.words)

    # -- compiling and running -------------------------------------------------------------------------
    @property
    def source(self) -> str:
        """All functions of this plan that are not in kernels.c."""
        return INCLUDE + "".join(self._sources[s] for s in sorted(self._sources))

    def compile(self) -> None:
        """Make the library, or find it in the cache: one rank of the node compiles. Collective.

        Raises:
            EnvironmentProblem: on all ranks, where one cannot.
        """
        source = self.source if self._sources else ""  # local shapes may leave a rank without any
        with self.comm.together():
            if source and self.comm.local_rank == 0:
                with self.comm.board.compiling():
                    self._load(source)
        with self.comm.together():
            if source:
                with self.comm.board.compiling():
                    self._library = self._load(source)

    def _load(self, source: str) -> ctypes.CDLL:
        try:
            return compiler.load(source)
        except compiler.SourceRefused:
            for symbol, text in sorted(self._sources.items()):
                try:
                    compiler.library(INCLUDE + text)
                except compiler.SourceRefused as error:
                    made = self._of[symbol]
                    raise EnvironmentProblem(f"{made.kind.described(made.name)}: {error}") from None
            raise

    def program(self, calls: Sequence[NativeCall]) -> Program:
        """The calls, ready to run one after another."""
        return Program([(self._address(c.symbol), c.words) for c in calls])

    def _address(self, symbol: str) -> int:
        library: Any = self._library if symbol in self._sources else fixed()
        if symbol in ("product", "product_double"):
            library = _product().library
        elif symbol in windows.SYMBOLS:
            library = windows.library()
        elif symbol in windows.POOLING:
            library = windows.pooling()
        return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0


def axes_of(out: Any, x: Any) -> list[tuple[int, int, int]]:
    """For a copy of x, which broadcasts to out: sizes, and the bytes to the next entry in out and in x.

    Axes of 1 are left out and neighbours joined where both run over them the same way; one axis is left.
    """
    missing = out.ndim - x.ndim
    steps = [0] * missing + [0 if n == 1 else step for n, step in zip(x.shape, x.strides, strict=True)]
    axes: list[tuple[int, int, int]] = []
    for size, to, of in zip(out.shape, out.strides, steps, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1:] == (to * size, of * size):
            axes[-1] = (axes[-1][0] * size, to, of)
        else:
            axes.append((size, to, of))
    return axes or [(1, out.itemsize, out.itemsize)]


class Program:
    """Calls that run one after another in C.

    run(first, last) returns where it stopped, which is `last` unless a kernel refused; status then says why.
    """

    def __init__(self, calls: Sequence[tuple[int, Sequence[Any]]]) -> None:
        self._kept: list[Any] = [words for _, words in calls]  # the arrays stay alive
        table = (_Call * len(calls))()
        for entry, (address, words) in zip(table, calls, strict=True):
            packed = (_Word * len(words))()
            for slot, word in zip(packed, words, strict=True):
                if isinstance(word, float):
                    slot.d = word
                elif isinstance(word, int | np.integer):
                    slot.i = int(word)
                else:
                    slot.p = word.ctypes.data
            self._kept.append(packed)
            entry.f, entry.a = address, ctypes.addressof(packed)
        self._table = table
        self.status = np.zeros(1, np.int64)
        self._status = ctypes.c_void_p(self.status.ctypes.data)
        self._run = fixed().run
        self._calls = ctypes.c_void_p(ctypes.addressof(table))

    def caller(self, first: int, last: int, position: np.ndarray, offset: int) -> Callable[[], int]:
        """A function that runs calls first..last-1; position[0] is kept at offset + the call's number."""
        run = self._run
        where = ctypes.c_void_p(position.ctypes.data)
        arguments = (
            self._calls,
            ctypes.c_int64(first),
            ctypes.c_int64(last),
            where,
            ctypes.c_int64(offset),
            self._status,
        )
        kept = (self, position)

        def call(kept: Any = kept) -> int:
            return run(*arguments)

        return call

    def repeat(
        self,
        steps: int,
        feeds: Sequence[tuple[np.ndarray, np.ndarray]],
        fetches: Sequence[tuple[np.ndarray, np.ndarray]],
        until: np.ndarray,
        position: np.ndarray,
        number: np.ndarray,
    ) -> Iterator[tuple[int, int, int]]:
        """Run all calls once for each step, and stop after a step in which `until` is not 0.

        feeds, fetches: a buffer, and an array of what it is given before each step, or gives after.
        number: counts the steps after the first. Yields status, step and call: wherever a call refuses,
        and at the end.
        """
        pairs = [*feeds, *fetches]
        transfers = (_Transfer * max(len(pairs), 1))()
        for slot, (buffer, rows) in zip(transfers, pairs, strict=False):
            slot.buffer, slot.rows, slot.size = buffer.ctypes.data, rows.ctypes.data, buffer.nbytes
        loop = _Loop(steps, 0, 0, len(self._table), len(feeds), len(fetches), ctypes.addressof(transfers))
        loop.until, loop.position, loop.number = (x.ctypes.data for x in (until, position, number))
        run, where = fixed().run_steps, ctypes.c_void_p(ctypes.addressof(loop))
        while True:
            status = run(self._calls, where)
            yield status, loop.step, loop.call
            if status == OK:
                return


@cache
def fixed() -> ctypes.CDLL:
    """The library of kernels.c."""
    library = compiler.load((compiler.HERE / "kernels.c").read_text())
    library.run.restype = library.run_steps.restype = ctypes.c_int64
    return library


class _Product(NamedTuple):
    """The library of product.c, whether it is fast here, and the bytes of room that rows need."""

    library: ctypes.CDLL
    fast: bool
    room: Callable[[int], int]


@cache
def _product() -> _Product:
    source = (compiler.HERE / "product.c").read_text()
    library = compiler.load(source, compiler.CONTRACTED)
    library.product_room.restype = ctypes.c_int64
    library.product_room.argtypes = (ctypes.c_int64,)
    return _Product(library, bool(library.product_is_fast()), library.product_room)


def vectors() -> str:
    """What vectors this processor has, in which the C kernels add up and multiply."""
    lanes = _product().library.product_lanes()
    return {16: "AVX-512", 8: "AVX2"}.get(lanes, f"{lanes} floats")


def own_products() -> bool:
    """Whether product.c is worth calling on this processor."""
    return _product().fast


def _others() -> None:
    """The libraries beside kernels.c's."""
    for library in (_product, windows.library, windows.pooling):
        library()


def _others_or_not() -> None:
    with suppress(DtrainError):  # which comes again when the library is asked for
        _others()


def problem(comm: Any) -> str:
    """Why a rank cannot have kernels in C; '' where all can. Collective."""
    found = ""
    for turn in (comm.local_rank == 0, comm.local_rank != 0):  # one rank of a node compiles
        try:
            if turn:
                with comm.board.compiling():
                    beside = threading.Thread(target=_others_or_not)  # a compiler each, where none is kept
                    beside.start()
                    try:
                        fixed()
                    finally:
                        beside.join()
                    _others()
        except DtrainError as error:
            found = str(error)
        comm.barrier()
    return next((p for p in comm.gather_text(found) if p), "") if comm.size > 1 else found


#: cblas_sgemm under the names that builds of BLAS give it: prefix, suffix, bits of its integers.
_BLAS_NAMES = (
    ("scipy_", "64_", 64),
    ("", "64_", 64),
    ("", "_64", 64),
    ("scipy_", "", 32),
    ("", "", 32),
)


@cache
def blas() -> tuple[int, int, int] | None:
    """Addresses of cblas_sgemm and cblas_dgemm in NumPy's BLAS, and the bits of its integers.

    None where it cannot be found: the products then go through NumPy.
    """
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        if library.user_api != "blas" or library.internal_api != "openblas":
            continue
        for prefix, suffix, bits in _BLAS_NAMES:
            single = getattr(library.dynlib, f"{prefix}cblas_sgemm{suffix}", None)
            double = getattr(library.dynlib, f"{prefix}cblas_dgemm{suffix}", None)
            if single is not None and double is not None:
                addresses = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in (single, double)]
                return addresses[0], addresses[1], bits
    return None
