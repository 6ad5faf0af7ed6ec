"""A plan's kernels in CUDA: what native/code.py is in C, with the same members for ops to ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtrain.cuda.epilogue import mask_bytes
from dtrain.cuda.launch import Group, Launch, Product, beside, entry, in_place
from dtrain.cuda.loops import (
    MOST_THREADS,
    SMALL,
    THREADS,
    Grid,
    Loop,
    add_parts,
    blocks_for,
    copy,
    grid_of,
    lanes_of,
    split,
    update,
)
from dtrain.cuda.nvrtc import Refused
from dtrain.cuda.windows import COUNTABLE, Windows
from dtrain.errors import EnvironmentProblem
from dtrain.native.code import axes_of
from dtrain.native.compiler import HERE as NATIVE
from dtrain.native.loops import TYPES, Untranslatable

HERE = Path(__file__).parent
#: int64 words of the control block: the state, then where external tables are, then transfers.
STATE, LENT, TRANSFER = 6, 2, 4
#: Tables that one plan may read.
TABLES = 32
#: Entries that one block looks at as fast as a launch takes.
FEW = 8 * MOST_THREADS
#: Bytes of a row up to which a thread copies it alone, and threads that copy a longer one at most.
ALONE, WIDEST = 64, 64


class _Ranks:
    """The communicator as ops see it that write for a device: its ranks share no memory there."""

    def __init__(self, comm: Any) -> None:
        self.rank, self.size = comm.rank, comm.size

    def terms(self, source: Any) -> None:
        return None


class Code:
    """The kernels that a plan needs, and the launches of them.

    env: what kernels are bound in; its random_counter() says where an operation counts its draws.
    transfers: how many arrays the plan is fed and returns.
    control: int64 words on the device: the state of a run (see kernels.cuh), tables, transfers.
    """

    cuda = True
    bitwise = None
    own_products = False

    def __init__(self, backend: Any, env: Any, transfers: int) -> None:
        self.comm = _Ranks(env.comm)
        self._backend, self._env = backend, env
        self._sources: dict[str, str] = {}
        self.node: Any = None  # the operation whose kernels are asked for
        self._of: dict[str, Any] = {}  # the first that asked for each source
        self.control = backend.block(8 * (STATE + LENT * TABLES + TRANSFER * transfers)).view(np.int64)
        self.control.fill(0)
        self.lent: list[np.ndarray] = []
        #: The arrays that a step is fed, in the order of their transfers, as far as they are known.
        self.fed: dict[int, Any] = {}
        self._masks: list[tuple[Any, Any]] = []  # of what a ReLU made the mask, where an epilogue wrote it
        self._room: Any = backend.block(0)

    # -- what ops ask for ------------------------------------------------------------------------------
    def call(self, symbol: str, *words: Any) -> Launch | list[Launch]:
        """A launch of a kernel in kernels.cu, on the grid that its sizes ask for; [] where they are 0."""
        if symbol == "gather_lent":
            words = (self._table(words[0]), *words[1:])
            return self._gather(symbol, words[1], words[4], *words)
        assert symbol in ("stop_if_bad_float", "stop_if_bad_double")
        return Launch(symbol, words, 1, 1)

    def _gather(self, symbol: str, size: int, n: int, *words: Any) -> list[Launch]:
        """n: rows to copy, of `size` bytes each."""
        if not n:
            return []
        width = 1 if size <= ALONE else min(WIDEST, 1 << (-(-size // 16) - 1).bit_length())
        threads = _threads(n * width)
        return [Launch(symbol, (*words, width), -(-n * width // threads), threads)]

    def gather(self, table: Any, indices: Any, axis: int, out: Any) -> list[Launch] | None:
        """out = entries of the table along an axis, at the indices."""
        if not (table.flags.c_contiguous and indices.flags.c_contiguous):
            return None
        axis %= table.ndim
        count, size = prod(table.shape[:axis]), prod(table.shape[axis + 1 :]) * table.itemsize
        words = (table, table.shape[axis], size, indices, indices.itemsize, indices.size, count, out)
        return self._gather("gather", size, count * indices.size if size else 0, *words)

    def launch(self, symbol: str, entries: int, *words: Any) -> list[Launch]:
        """A launch of a kernel that strides over so many entries; [] where there are none."""
        return [Launch(symbol, words, blocks_for(entries), THREADS)] if entries else []

    def kernel(self, name: str, dtype: np.dtype, entries: int, *words: Any) -> list[Launch] | None:
        """A launch of the kernel of this name in the files beside this one, for numbers of a dtype.

        entries: what its threads stride over. One whose first word is `lanes` gets that many threads for each
        of them, which is a row of words[2] entries. None: there is no such kernel, or an array lies otherwise
        than entry after entry.
        """
        type, arrays = TYPES.get(dtype.name), [w for w in words if hasattr(w, "flags")]
        if name not in written() or type is None or not all(a.flags.c_contiguous for a in arrays):
            return None
        symbol = f"{name}<{type}>"
        if not written()[name].lanes or not entries:
            return self.launch(symbol, entries, *words)
        lanes = lanes_of(words[2])
        threads = max(lanes, _threads(entries * lanes))
        return [Launch(symbol, (lanes, *words), blocks_for(entries * lanes, threads), threads)]

    def move(self, out: Any, x: Any) -> list[Launch] | None:
        """out = x, a number or an array that broadcasts to it; both may lie in memory in any strides."""
        x = self.constant(np.asarray(x, out.dtype)) if np.isscalar(x) else x
        if x.dtype != out.dtype or out.dtype == object:
            return None
        if not out.size:
            return []
        if x.shape == out.shape and x.flags.c_contiguous and out.flags.c_contiguous:
            return self.launch("copy", -(-out.nbytes // 8), out, x, out.nbytes)
        n, axes = out.itemsize, axes_of(out, x)
        type = {1: "uint8_t", 2: "uint16_t", 4: "int32_t", 8: "int64_t"}[n]
        symbol, source = copy(type, len(axes), out.size >= COUNTABLE)
        self._add(symbol, source)
        words = (out, x, *(w for size, to, of in axes for w in (size, to // n, of // n)))
        return [Launch(symbol, words, blocks_for(out.size), THREADS)]

    def contiguous(self, arrays: Sequence[Any]) -> tuple[list[Launch], list[Any]] | None:
        """Launches that copy what does not lie entry after entry, and all arrays; None: all do."""
        calls: list[Launch] = []
        found = []
        for x in arrays:
            if x is not None and x.dtype != object and not x.flags.c_contiguous:
                out = self.scratch(x.shape, x.dtype)
                copies = self.move(out, x)
                x, calls = (x, calls) if copies is None else (out, calls + copies)
            found.append(x)
        return (calls, found) if calls else None

    def constant(self, array: np.ndarray) -> Any:
        """The array where kernels read it."""
        return self._backend.from_host(array)

    def scratch(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Memory for the kernels of one node."""
        return self._env.scratch(shape, dtype)

    def windows(self, images: tuple[int, ...], dtype: np.dtype, down: Any, across: Any) -> Windows | None:
        """Convolution and pooling of such images; None: they have no form."""
        if dtype.char not in _C:
            return None
        made = Windows(self, images, _C[dtype.char], down, across)
        return made if made.countable else None

    def picked(self, lent: np.ndarray, indices: Any, each: int, behind: Any) -> list[Launch] | None:
        """A launch of a loop that reads rows of `each` entries of an external table; None: of no form.

        Where the indices are what a step is fed it reads them where they came, and waits for no copy.
        """
        body, values, at = behind.loop.body, behind.values, behind.at
        ins = [*behind.ins[:at], behind.outs[0], *behind.ins[at + 1 :]]  # whose sizes are the rows'
        if not all(a.flags.c_contiguous for a in (*ins, *behind.outs, indices)):
            return None
        number = next((k for k, array in self.fed.items() if array is indices), None)
        try:
            loop = Loop(body, behind.loop.results, [(v.shape, v.dtype) for v in values], len(ins))
            if loop.sums:
                return None
            symbol, source = loop.picked(at, number is not None)
            sizes = loop.sizes([a.shape for a in ins])
        except Untranslatable:
            return None
        self._add(symbol, source)
        where, size = indices, indices.itemsize
        if number is not None:
            first = STATE + LENT * TABLES + TRANSFER * number
            where = self.control[first : first + TRANSFER]
        rows = (self._table(lent), where, size, each)
        words = [w for k, x in enumerate(ins) for w in (rows if k == at else (x,))]
        n = prod(sizes)
        return [Launch(symbol, (*sizes, *words, *behind.outs), blocks_for(n), THREADS)] if n else []

    def _table(self, lent: np.ndarray) -> Any:
        """Where kernels find external tables: words of the control block, which get it at each run."""
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
            grids = [None if p.mask is None else grid_of(*split(sizes, p.mask)) for p in loop.parts()]
            parts = loop.parts([g is not None and g.splits > 1 for g in grids])
        except Untranslatable:
            return None
        arrays = dict(zip(results, outs, strict=True))
        calls: list[Launch] = []
        for part, grid in zip(parts, grids, strict=True):
            self._add(part.symbol, part.source)
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
            n = outs[v].size
            name, source = add_parts(loop.joins(v), loop.wide(v), loop.types[v])
            self._add(name, source)
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
        self._add(symbol, source)
        n = run[0].size
        return [Launch(symbol, (n, rate, *run), blocks_for(n), THREADS)] if n else []

    def has_bad(self, arrays: Sequence[Any], limit: float, out: Any, more: bool) -> list[Launch]:
        """out = 1 where an entry of the arrays, all of one dtype, is NaN or beyond the limit, else 0.

        more: out holds a verdict already.
        """
        calls = [] if more else [Launch("zero", (out, out.nbytes), 1, THREADS)]
        name = f"has_bad<{_C[arrays[0].dtype.char]}, {_C[out.dtype.char]}>"
        table = self.constant(np.array([(a.data.ptr, a.size) for a in arrays], np.int64))
        blocks = blocks_for(max(a.size for a in arrays))
        if sum(a.size for a in arrays) <= FEW:  # so few that it may go with other small kernels
            blocks = min(blocks, SMALL // THREADS)
        return [*calls, Launch(name, (table, len(arrays), limit, out), blocks, THREADS, arrays)]

    def dropout(self, seed: int, start: int, keep: Any, out: Any) -> Launch | list[Launch] | None:
        """A launch of the mask that ops/dropout.py makes: its numbers from `start` on."""
        name = _C.get(out.dtype.char)
        if name is None or keep.dtype != out.dtype:
            return None
        root, counter = self._env.random_counter()
        words = (keep, counter, root, seed, start, out.size, out)  # a rank without rows counts too
        return Launch(f"dropout<{name}>", words, blocks_for(-(-out.size // 16)), THREADS)

    def product(
        self, a: Any, b: Any, out: Any, across_a: bool, across_b: bool, add: bool = False
    ) -> Product | list[Launch] | None:
        """out = a @ b, either read transposed, by cuBLAS; add: to what it holds."""
        if not all(x.flags.c_contiguous for x in (a, b, out)):
            return None
        if not (out.size and a.size):
            return [] if add or not out.size else self.move(out, 0)
        call = self._backend.blas.product(a, b, out, across_a, across_b, add)
        return None if call is None else Product(call)

    def ended(
        self, a: Any, b: Any, across_a: bool, across_b: bool, ends: str, behind: Any
    ) -> list[Product] | None:
        """A product whose epilogue is the loop after it, which is what `ends` says: see ops/fused.py."""
        made, out = self._backend.epilogues, behind.outs[0]
        other = next((x for x in behind.ins if x is not None), None)
        if made is None or not all(x.flags.c_contiguous for x in (a, b, *behind.outs, other)):
            return None
        vector, mask = other, None
        if ends.startswith("gate"):
            vector = behind.outs[1] if len(behind.outs) > 1 else None
            mask = next((mask for y, mask in self._masks if y is other), None)
            if mask is None:  # the ReLU was no epilogue
                return None
        elif ends.endswith("mask"):
            mask = self._backend.block(mask_bytes(*out.shape))
        call = made.product(a, b, out, across_a, across_b, ends, vector, mask)
        if call is None:
            return None
        if ends.endswith("mask"):
            self._masks.append((out, mask))
        return [Product(call)]

    def product_beside(self, a: Any, b: Any, out: Any, across_a: bool, across_b: bool) -> Any:
        """What `beside` makes of a product, None where it cannot be made."""
        there = self._backend.beside[1]
        if not (out.size and a.size and all(x.flags.c_contiguous for x in (a, b, out))):
            return None
        products = [blas.product(a, b, out, across_a, across_b) for blas in (self._backend.blas, there)]
        return None if None in products else beside(self._backend, *products)

    def products(self, a: Any, b: Any, out: Any, across_a: bool, across_b: bool) -> list[Any] | None:
        """The products of the matrices in the last two axes; the axes before broadcast to those of out."""
        if not all(x.flags.c_contiguous for x in (a, b, out)):
            return None
        if not (out.size and a.size):
            return self.move(out, 0)
        batch, calls = out.shape[:-2], []
        # the number of each product's matrix in a and in b
        ia, ib = (
            np.broadcast_to(np.arange(prod(x.shape[:-2])).reshape(x.shape[:-2]), batch).reshape(-1)
            for x in (a, b)
        )
        a, b, out = (x.reshape(-1, *x.shape[-2:]) for x in (a, b, out))
        # matrices that are equally far from one another are one call: all, or those along the last axis
        even = all(len(set(np.diff(n))) <= 1 for n in (ia, ib))
        run = len(ia) if even else batch[-1]
        for first in range(0, len(ia), run):
            i, j = int(ia[first]), int(ib[first])
            far = [int(n[first + 1] - n[first]) * x[0].size if run > 1 else 0 for n, x in ((ia, a), (ib, b))]
            call = self._backend.blas.product(a[i], b[j], out[first], across_a, across_b, batch=(run, *far))
            if call is None:
                return None
            calls.append(Product(call))
        return calls

    # -- around a step ---------------------------------------------------------------------------------
    def begin(self) -> Launch:
        """The step begins, if it is to be."""
        return Launch("begin", (), 1, 1)

    def transfer(self, symbol: str, first: int, buffers: Sequence[Any]) -> list[Launch]:
        """feed or fetch of these arrays, whose transfers begin at number `first`."""
        if not buffers:
            return []
        at = STATE + LENT * TABLES + TRANSFER * first
        table = self.control[at : at + TRANSFER * len(buffers)]
        blocks = min(blocks_for(-(-max(a.nbytes for a in buffers) // 16)), 256)
        return [Launch(symbol, (table,), (blocks, len(buffers)), THREADS, buffers)]

    def count(self) -> Launch:
        """The step is done."""
        counters = self._env.counters
        return Launch("count", (counters.memory, len(counters.names)), 1, 1)

    # -- launching -------------------------------------------------------------------------------------
    def launchers(self, groups: Sequence[Group]) -> list[Callable[[], Any]]:
        """Calls that launch each of these groups.

        The entries for them are compiled, or found in the cache on disk.
        """
        if not groups:
            return []
        made = [entry(*group) for group in groups]
        all_kernels = [k for group in groups for part in group for k in part]
        own = {k.symbol for k in all_kernels} & self._sources.keys()
        names = {k.symbol.partition("<")[0] for k in all_kernels} & written().keys()
        text = "".join(text_of(file) for file in sorted({written()[name].file for name in names}))
        text += "".join(self._sources[symbol] for symbol in sorted(own))
        text += "".join(dict.fromkeys(source for _, source in sorted(made)))
        try:
            module = self._backend.module(header() + text)
        except Refused as error:
            raise self._refused(sorted(own), error) from None
        return [
            self._launcher(module.get_function(symbol), group)
            for (symbol, _), group in zip(made, groups, strict=True)
        ]

    def _add(self, symbol: str, source: str) -> None:
        self._sources[symbol] = source
        self._of.setdefault(symbol, self.node)

    def _refused(self, symbols: Sequence[str], error: Refused) -> EnvironmentProblem:
        """What is to be said where NVRTC does not take the source: of which operation it is."""
        whose = "these kernels"
        for symbol in symbols:
            probe = f'{self._sources[symbol]}extern "C" __global__ void probe_{symbol}(state *s) {{}}\n'
            try:
                self._backend.module(header() + probe)
            except Refused as found:
                error, made = found, self._of[symbol]
                whose = f"the kernel of {made.kind.described(made.name)}"
                break
        lines = [line for line in str(error).splitlines() if "error" in line] or str(error).splitlines()[:1]
        return EnvironmentProblem(
            f"NVRTC does not take {whose}: {' '.join(lines)[:500]}. Report it with `dtrain info`, or train "
            "with --device cpu."
        )

    def _launcher(self, function: Any, group: Group) -> Callable[[], Any]:
        kernels, beside = group
        (across, down), threads = kernels[-1].blocks, kernels[-1].threads
        in_turn = not in_place(kernels)
        if in_turn:
            across, down, threads = 1, 1, MOST_THREADS
        arguments: list[Any] = [self.control]
        for kernel, by in [
            *((k, threads if in_turn else 0) for k in kernels),
            *((k, threads) for k in beside),
        ]:
            arguments.append(np.int64(kernel.number))
            if by:  # of the larger block there are fewer
                arguments += [
                    np.int64(-(-kernel.blocks[0] * kernel.threads // by)),
                    np.int64(kernel.blocks[1]),
                ]
            for word in kernel.words:
                if isinstance(word, float):
                    word = np.float64(word)
                elif isinstance(word, int | np.integer):
                    word = np.int64(word)
                arguments.append(word)
        return partial(function, (across + bool(beside), down, 1), (threads, 1, 1), tuple(arguments))


def _threads(entries: int) -> int:
    """Of a block, where there are so many entries: few rows are spread over more of the GPU."""
    return 64 if entries <= 1 << 13 else THREADS


_C = {"f": "float", "d": "double"}
_NUMPY = {"double": "float64", "int32_t": "int32", "int64_t": "int64", "uint8_t": "uint8"}


@cache
def header() -> str:
    """kernels.cuh with what it includes: NVRTC opens no files."""
    text = (HERE / "kernels.cuh").read_text().replace("MOST_THREADS", str(MOST_THREADS))
    return text.replace('#include "numbers.h"', (NATIVE / "numbers.h").read_text())


class Written(NamedTuple):
    """A kernel written by hand: its file, and whether several threads, its first word, share a row."""

    file: str
    lanes: bool


@cache
def written() -> dict[str, Written]:
    """The kernels in the files beside this one, by name."""
    found = {}
    for path in HERE.glob("*.cu"):
        for name, lanes in re.findall(r"KERNEL (\w+)\(HERE(, int64_t lanes)?", path.read_text()):
            found[name] = Written(path.name, bool(lanes))
    return found


@cache
def text_of(file: str) -> str:
    """A file of kernels."""
    return (HERE / file).read_text()
