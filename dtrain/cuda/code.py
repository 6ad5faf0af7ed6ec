"""A plan's kernels in CUDA: what native/code.py is in C, with the same members for ops to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.cuda.loops import THREADS, Grid, Loop, blocks_for, grid_of, split, update
from dtrain.native.compiler import HERE as NATIVE
from dtrain.native.loops import Untranslatable

HERE = Path(__file__).parent
#: Without contraction to fused multiply-adds, elementwise kernels give the bits of those in C.
OPTIONS = ("--fmad=false",)
#: int64 words of the control block: the state, then where tables are lent to, then transfers.
STATE, LENT, TRANSFER = 4, 2, 4
#: Tables that one plan may read.
TABLES = 32
#: Bytes of a row up to which a thread copies it alone, and threads that copy a longer one at most.
ALONE, WIDEST = 64, 64


class Launch:
    """One kernel with its grid: the function's name, and its words: arrays, integers, floats."""

    __slots__ = ("block", "grid", "symbol", "words")

    def __init__(
        self, symbol: str, words: Sequence[Any], blocks: int | tuple[int, int], threads: int
    ) -> None:
        self.symbol, self.words = symbol, words
        self.grid = (blocks, 1, 1) if isinstance(blocks, int) else (*blocks, 1)
        self.block = (threads, 1, 1)


class Product:
    """A call of cuBLAS."""

    __slots__ = ("call", "symbol")

    def __init__(self, call: Callable[[], None]) -> None:
        self.symbol, self.call = "product", call


class _Ranks:
    """The communicator as ops see it that write for a device: its ranks share no memory there."""

    def __init__(self, comm: Any) -> None:
        self.rank, self.size = comm.rank, comm.size

    def terms(self, source: Any) -> None:
        return None


class Code:
    """The kernels that a plan needs, and the launches of them.

    env: what kernels are bound in; its random_counter() says where an operation counts its draws.
    transfers: how many arrays the plan is fed and gives back.
    control: int64 words on the device: the state of a run (see kernels.cuh), tables, transfers.
    """

    own_products = False

    def __init__(self, backend: Any, env: Any, transfers: int) -> None:
        self.comm = _Ranks(env.comm)
        self._backend, self._env = backend, env
        self._sources: dict[str, str] = {}
        self.control = backend.block(8 * (STATE + LENT * TABLES + TRANSFER * transfers)).view(np.int64)
        self.lent: list[np.ndarray] = []
        self._room: Any = backend.block(0)
        self._modules: list[Any] = []

    # -- what ops ask for ------------------------------------------------------------------------------
    def call(self, symbol: str, *words: Any) -> Launch | list[Launch]:
        """A launch of a kernel in kernels.cu, on the grid that its sizes ask for; [] where they are 0."""
        if symbol == "gather_lent":
            words = (self._table(words[0]), *words[1:])
        if symbol in ("gather", "gather_lent"):
            size, n = words[-5], words[-2]
            width = 1 if size <= ALONE else min(WIDEST, 1 << (-(-size // 8) - 1).bit_length())
            return self._launch(symbol, n * width, *words, width)
        entries = {
            "copy": lambda: -(-words[2] // 8),
            "sparse_cross_entropy": lambda: words[3],
            "dense_cross_entropy": lambda: words[2],
            "argmax_rows": lambda: words[1],
            "stop_if_bad_float": lambda: 1,
            "stop_if_bad_double": lambda: 1,
        }[symbol]()
        return self._launch(symbol, entries, *words)

    def _launch(self, symbol: str, entries: int, *words: Any) -> Launch | list[Launch]:
        """entries: threads that there is work for; a kernel that does not stride gets as many."""
        if not entries:
            return []
        if symbol == "copy":
            return Launch(symbol, words, blocks_for(entries), THREADS)
        threads = min(THREADS, 64 if entries <= 1 << 13 else THREADS)  # few rows on more of the GPU
        return Launch(symbol, words, -(-entries // threads), threads)

    def _table(self, lent: np.ndarray) -> Any:
        """Where kernels find what is lent: words of the control block, which get it at each run."""
        at = next((i for i, known in enumerate(self.lent) if known is lent), len(self.lent))
        if at == len(self.lent):
            assert at < TABLES, f"a plan that reads more than {TABLES} lent tables"
            self.lent.append(lent)
        return self.control[STATE + LENT * at :]

    def loop(
        self,
        body: Sequence[Any],
        results: Sequence[int],
        values: Sequence[Any],
        ins: Sequence[Any],
        outs: Sequence[Any],
    ) -> list[Launch] | None:
        """Launches of the loops for a body of elementwise instructions and sums; None: they have no form."""
        if not all(a.flags.c_contiguous for a in (*ins, *outs)):
            return None
        try:
            loop = Loop(body, results, [(v.shape, v.dtype) for v in values], len(ins))
            sizes = loop.sizes([a.shape for a in ins])
            if 0 in (size for a in (*ins, *outs) for size in a.shape) and 0 not in sizes:
                return None  # see native/code.py
            grids = [None if p.mask is None else grid_of(*split(sizes, p.mask)) for p in loop.parts()]
            parts = loop.parts([g is not None and g.splits > 1 for g in grids])
        except Untranslatable:
            return None
        arrays = dict(zip(results, outs, strict=True))
        calls: list[Launch] = []
        for part, grid in zip(parts, grids, strict=True):
            self._sources[part.symbol] = part.source
            if grid is None:
                words = (*sizes, *ins, *(arrays[v] for v in part.written))
                if prod(sizes):
                    calls.append(Launch(part.symbol, words, blocks_for(prod(sizes)), THREADS))
            elif grid.blocks:
                calls += self._sums(loop, part.symbol, part.written, sizes, ins, arrays, grid)
        return calls

    def _sums(
        self,
        loop: Loop,
        symbol: str,
        written: Sequence[int],
        sizes: Sequence[int],
        ins: Sequence[Any],
        outs: dict[int, Any],
        grid: Grid,
    ) -> list[Launch]:
        sums = [v for v in written if v in loop.sums] if grid.splits > 1 else []
        rooms, at = {}, 0
        for v in sums:
            nbytes = grid.splits * outs[v].size * np.dtype(_NUMPY[loop.wide(v)]).itemsize
            rooms[v] = (at, at + nbytes)
            at += -(-nbytes // 8) * 8
        memory = self._scratch(at)
        parts = {v: memory[low:high].view(_NUMPY[loop.wide(v)]) for v, (low, high) in rooms.items()}
        words = (*sizes, grid.lanes, *ins, *(parts.get(v, outs[v]) for v in written))
        calls = [Launch(symbol, words, (grid.blocks, grid.splits), grid.threads)]
        for v in sums:
            n, name = outs[v].size, f"add_parts_{loop.types[v]}"
            calls.append(Launch(name, (parts[v], grid.splits, n, outs[v]), blocks_for(n), THREADS))
        return calls

    def _scratch(self, nbytes: int) -> Any:
        """Memory for one kernel and the next; those after may have the same."""
        if self._room.size < nbytes:
            self._room = self._backend.block(nbytes)
        return self._room

    def share(self, array: Any) -> tuple[int, int]:
        """Half-open range of the entries of a flat array that this rank updates: all."""
        return 0, array.size

    def update(self, text: str, type: str, slots: int, rate: Any, run: Sequence[Any]) -> list[Launch]:
        """A launch of an update (see ops/update.py) of flat arrays: variable, gradient, slots."""
        symbol, source = update(text, type, slots)
        self._sources[symbol] = source
        n = run[0].size
        return [Launch(symbol, (n, rate, *run), blocks_for(n), THREADS)] if n else []

    def has_bad(self, runs: Sequence[Any], limit: float, out: Any, more: bool) -> list[Launch]:
        """out = 1 where an entry is NaN or beyond the limit, else 0; more: out holds a verdict already."""
        calls = [] if more else [Launch("zero", (out, out.nbytes), 1, THREADS)]
        for run in runs:
            name = f"has_bad_{_C[run.dtype.char]}_{_C[out.dtype.char]}"
            calls.append(Launch(name, (run, run.size, limit, out), blocks_for(run.size), THREADS))
        return calls

    def dropout(self, seed: int, start: int, keep: Any, out: Any) -> Launch | list[Launch] | None:
        """A launch of the mask that ops/dropout.py makes: its numbers from `start` on."""
        name = _C.get(out.dtype.char)
        if name is None or keep.dtype != out.dtype:
            return None
        root, counter = self._env.random_counter()
        words = (keep, counter, root, seed, start, out.size, out)  # a rank without rows counts too
        return Launch(f"dropout_{name}", words, blocks_for(-(-out.size // 16)), THREADS)

    def product(self, a: Any, b: Any, out: Any, across_a: bool, across_b: bool) -> Product | None:
        """out = a @ b, either read transposed, by cuBLAS."""
        blas = self._backend.blas
        call = blas.product(a, b, out, across_a, across_b) if blas is not None else None
        return None if call is None else Product(call)

    # -- around a step ---------------------------------------------------------------------------------
    def transfer(self, symbol: str, first: int, count: int, most: int) -> list[Launch]:
        """feed or fetch of transfers first..first+count-1, of up to `most` bytes each."""
        if not count:
            return []
        at = STATE + LENT * TABLES + TRANSFER * first
        table = self.control[at : at + TRANSFER * count]
        return [Launch(symbol, (table,), (min(blocks_for(-(-most // 8)), 64), count), THREADS)]

    def count(self) -> Launch:
        """The step is done."""
        counters = self._env.counters
        return Launch("count", (counters.memory, len(counters.names)), 1, 1)

    # -- compiling -------------------------------------------------------------------------------------
    def compile(self) -> None:
        """Make the kernels of this plan, or find them in CuPy's cache on disk."""
        source = "".join(self._sources[s] for s in sorted(self._sources))
        self._modules = [fixed(self._backend)]
        if source:
            self._modules.append(self._backend.module(header() + source, OPTIONS))

    def launcher(self, call: Launch | Product, number: int) -> Callable[[], Any]:
        """The launch, ready to be made; number: its place among the plan's kernels."""
        if isinstance(call, Product):
            return call.call
        function = self._modules[call.symbol in self._sources].get_function(call.symbol)
        arguments = [self.control, np.int64(number)]
        for word in call.words:
            if isinstance(word, float):
                word = np.float64(word)
            elif isinstance(word, int | np.integer):
                word = np.int64(word)
            arguments.append(word)
        return partial(function, call.grid, call.block, tuple(arguments))


_C = {"f": "float", "d": "double"}
_NUMPY = {"double": "float64", "int32_t": "int32", "int64_t": "int64", "uint8_t": "uint8"}


@cache
def header() -> str:
    """kernels.cuh with what it includes: NVRTC opens no files."""
    text = (HERE / "kernels.cuh").read_text()
    return text.replace('#include "numbers.h"', (NATIVE / "numbers.h").read_text())


def fixed(backend: Any) -> Any:
    """The kernels of kernels.cu."""
    return backend.module(header() + (HERE / "kernels.cu").read_text(), OPTIONS)
