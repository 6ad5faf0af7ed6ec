"""The loops of native/loops.py in CUDA.

Without sums a thread takes an entry of the space, and continues one grid further. A sum is made by blocks:
each has a number of sums beside one another, and lanes that share the terms of each; the sums of lanes are
added up as a tree. Where a few sums have many terms, several blocks share them, and a second kernel adds up
what they have. All this follows from the sizes alone. Sums over different axes are kernels of their own,
the last of which also writes what is elementwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from dtrain.native.loops import Nest, named

#: Threads of a block, and the blocks beyond which a thread takes several entries.
THREADS, BLOCKS = 256, 2048
#: Threads of the block that does several small kernels in turn, and those that such a kernel may ask for.
MOST_THREADS, SMALL = 1024, 2048
#: Terms that a lane adds up before other blocks are asked, and blocks that are enough for a GPU.
TERMS, ENOUGH = 8, 128


class Part(NamedTuple):
    """One kernel: what it writes, and along which axes of the loop its sums run (None: it has none)."""

    symbol: str
    source: str
    written: list[int]
    mask: tuple[bool, ...] | None


class Grid(NamedTuple):
    """How a sum is shared out: blocks beside one another, blocks that share terms, threads, lanes."""

    blocks: int
    splits: int
    threads: int
    lanes: int


def grid_of(sums: int, terms: int, neighbours: bool) -> Grid:
    """For so many sums; neighbours: whether terms of one sum lie side by side, not terms of several."""
    if neighbours:
        lanes = min(THREADS if sums >= ENOUGH else MOST_THREADS, _power(terms))
    else:
        lanes = min(MOST_THREADS // min(32, _power(sums)), _power(terms))
    width = min(max(THREADS // lanes, 1 if neighbours else 32), _power(sums))
    blocks = -(-sums // width)
    splits = 1
    if blocks < ENOUGH and terms > lanes * TERMS:
        splits = min(-(-terms // (lanes * TERMS)), -(-ENOUGH // blocks))
    return Grid(blocks, splits, width * lanes, lanes)


def _power(n: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(n - 1, 0).bit_length()


class Loop(Nest):
    """The kernels for a Nest."""

    cuda = True
    _picks: int | None = None
    _fed = False

    def picked(self, v: int, fed: bool) -> tuple[str, str]:
        """Symbol and source of a kernel without sums whose input v is rows of an external table.

        In place of that input its arguments are where the external table is, the indices, the bytes of one,
        and the entries of a row. fed: the indices are given as the transfer that feeds them to a step.
        """
        self._picks, self._fed = v, fed
        return named("picked", self._kernel(list(self.results), None, False))

    def parts(self, partial: Sequence[bool] = ()) -> list[Part]:
        """partial: of each part with sums, whether it writes parts of sums, in their wide type."""
        masks = list(dict.fromkeys(self.mask(v) for v in self.results if v in self.sums))
        plain = [v for v in self.results if v not in self.sums]
        parts: list[Part] = []
        for k, mask in enumerate(masks or [None]):
            written = [v for v in self.results if v in self.sums and self.mask(v) == mask]
            if k + 1 >= len(masks):
                written += plain
            text = self._kernel(written, mask, bool(partial) and partial[k])
            parts.append(Part(*named("loop", text), written, mask))
        return parts

    def _kernel(self, written: list[int], mask: tuple[bool, ...] | None, partial: bool) -> str:
        k = len(self.axes)
        names = [f"n{d}" for d in range(k)]
        # to divide numbers of 64 bits takes a GPU longer than to fetch what they count
        index = "uint32_t" if prod(self.space) < 1 << 31 else "int64_t"
        sums = [v for v in written if v in self.sums]
        arguments = ["HERE", *(f"int64_t {n}_" for n in names)]
        arguments += ["int64_t lanes"] if sums else []
        given = "const transfer *fed" if self._fed else "const char *fed"
        rows = f"const int64_t *lent, {given}, int64_t bytes, int64_t each"
        arguments += [
            rows if v == self._picks else f"const {self.types[v]} *p{v}" for v in range(self.inputs)
        ]
        arguments += [f"{self.wide(v) if partial and v in sums else self.types[v]} *o{v}" for v in written]
        lines = [f"KERNEL NAME({', '.join(arguments)}) {{", f"typedef {index} index;"]
        lines += [f"const index {n} = (index){n}_;" for n in names]
        if not sums:
            lines.append("if (stopped(s)) return;")  # what it writes may be a variable
            if self._picks is not None:
                # what begins the step may do so at this moment
                lines.append("if (s->last) return;")
                lines.append(
                    f"const char *rows = fed{'->rows + s->step * fed->stride' if self._fed else ''};"
                )
            lines.append(f"const index n = {' * '.join(names) or '1'};")
            lines.append("for (index i = (index)AT; i < n; i += (index)STRIDE) {")
            lines += [*_indices("i", range(k)), *self._body(written), "}", "}", ""]
            return "\n".join(lines)
        assert mask is not None
        kept = [d for d in range(k) if mask[d]]
        reduced = [d for d in range(k) if not mask[d]]
        neighbours = not mask[-1] if mask else True
        lines += [
            f"const index sums = {' * '.join(names[d] for d in kept) or '1'};",
            f"const index terms = {' * '.join(names[d] for d in reduced) or '1'};",
            "const int count = (int)lanes, width = blockDim.x / count, at = threadIdx.x;",
            # neighbouring threads read neighbouring entries
            f"const int lane = {'at % count' if neighbours else 'at / width'};",
            f"const int column = {'at / count' if neighbours else 'at % width'};",
            "const index o = (index)here.x * width + column;",
            *(f"{self.types[v]} run{v} = {self.joins(v)}::start(({self.types[v]})0);" for v in sums),
            "if (o < sums) {",
            *_indices("o", kept),
            "for (index r = (index)here.y * count + lane; r < terms; r += (index)here.down * count) {",
            *_indices("r", reduced),
            *self._body(written),
            "}",
            "}",
        ]
        for v in sums:
            to, value = f"o{v}[o]", f"({self.types[v]})room[column]"
            if partial:
                to, value = f"o{v}[here.y * sums + o]", "room[column]"
            lines += [
                "{",
                f"{self.wide(v)} *const room = room_of<{self.wide(v)}>();",
                f"room[lane * width + column] = run{v};",
                f"join_lanes<{self.joins(v)}>(room, lane, count, column, width);",
                f"if (lane == 0 && o < sums) {to} = {value};",
                "__syncthreads();",
                "}",
            ]
        return "\n".join([*lines, "}", ""])

    def _body(self, written: list[int]) -> list[str]:
        """The arithmetic at one entry that what is written needs, and the writing."""
        needed = set(written)
        for v in range(self.inputs + len(self.body) - 1, self.inputs - 1, -1):
            if v in needed:
                needed.update(self.body[v - self.inputs][1])
        lines = [f"const {self.types[v]} x{v} = {self._read(v)};" for v in range(self.inputs) if v in needed]
        for v, (_, args) in enumerate(self.body, self.inputs):
            if v not in needed:
                continue
            if v in self.sums:
                lines.append(f"run{v} = {self.joins(v)}::of(run{v}, x{args[0]});")
                continue
            lines.append(f"const {self.types[v]} x{v} = {self.expression(v)};")
        # after all reads: an output may lie where an input does
        lines += [f"o{v}[{self._place(v)}] = x{v};" for v in written if v not in self.sums]
        return lines

    def _read(self, v: int) -> str:
        if v != self._picks:
            return f"p{v}[{self._place(v)}]"
        return (
            f"row_entry<{self.types[v]}, index>(s, number, lent, rows, bytes, (index)each, {self._place(v)})"
        )

    def _place(self, v: int) -> str:
        """Where a value's entry lies in its array."""
        axes = [d for d, along in enumerate(self.mask(v)) if along]
        terms = [" * ".join([f"i{d}", *(f"n{e}" for e in axes[i + 1 :])]) for i, d in enumerate(axes)]
        return " + ".join(terms) or "0"


def split(sizes: Sequence[int], mask: tuple[bool, ...]) -> tuple[int, int, bool]:
    """Sums, terms of each, and whether terms are neighbours: grid_of's arguments."""
    sums = prod(n for n, along in zip(sizes, mask, strict=True) if along)
    terms = prod(n for n, along in zip(sizes, mask, strict=True) if not along)
    return sums, terms, not mask[-1] if mask else True


def add_parts(joins: str, wide: str, type: str) -> tuple[str, str]:
    """Symbol and source of a kernel that joins the parts of each of n sums, from the first to the last."""
    return named(
        "parts",
        f"""KERNEL NAME(HERE, const {wide} *parts, int64_t count, int64_t n,
{type} *out) {{
for (int64_t i = AT; i < n; i += STRIDE) {{
{wide} sum = parts[i];
for (int64_t k = 1; k < count; k++) sum = {joins}::of(sum, parts[k * n + i]);
out[i] = ({type})sum;
}}
}}
""",
    )


def copy(type: str, axes: int, wide: bool) -> tuple[str, str]:
    """Symbol and source of a copy between arrays of so many axes, of any strides (in entries).

    wide: whether 32 bits do not count the entries. Neighbouring threads write neighbouring entries.
    """
    sizes = "".join(f", int64_t n{d}_, int64_t a{d}, int64_t b{d}" for d in range(axes))
    index = "int64_t" if wide else "uint32_t"
    lines = [
        f"KERNEL NAME(HERE, {type} *to, const {type} *from{sizes}) {{",
        "if (stopped(s)) return;",
        f"typedef {index} index;",
        *(f"const index n{d} = (index)n{d}_;" for d in range(axes)),
        f"const index n = {' * '.join(f'n{d}' for d in range(axes)) or '1'};",
        "for (index i = (index)AT; i < n; i += (index)STRIDE) {",
        *_indices("i", range(axes)),
        f"to[{_dot('a', axes)}] = from[{_dot('b', axes)}];",
        "}",
        "}",
        "",
    ]
    return named("copy", "\n".join(lines))


def _dot(strides: str, axes: int) -> str:
    return " + ".join(f"(int64_t)i{d} * {strides}{d}" for d in range(axes)) or "0"


def _indices(flat: str, axes: Sequence[int]) -> list[str]:
    """Each axis's index of a flat one that counts over these axes, the last fastest."""
    lines, rest = [], flat
    for d in reversed(axes[1:]):
        lines.append(f"const index i{d} = {rest} % n{d}, q{d} = {rest} / n{d};")
        rest = f"q{d}"
    return [*lines, *(f"const index i{d} = {rest};" for d in axes[:1])]


def update(text: str, type: str, slots: int) -> tuple[str, str]:
    """Symbol and source of an update's kernel: `text` for each entry, of p, g, s0 ... and rate, rate_[k]."""
    states = [f"s{k}" for k in range(slots)]
    arrays = ", ".join([f"{type} *p_, const {type} *g_", *(f"{type} *{x}_" for x in states)])
    reads = " ".join(f"{type} {x} = {x}_[i];" for x in ("p", "g", *states))
    writes = " ".join(f"{x}_[i] = {x};" for x in ("p", *states))
    return named(
        "update",
        f"""KERNEL NAME(HERE, int64_t n, const {type} *rate_, {arrays}) {{
if (stopped(s)) return;
const {type} rate = *rate_;
for (int64_t i = AT; i < n; i += STRIDE) {{
{reads}
{text}
{writes}
}}
}}
""",
    )


def lanes_of(columns: int) -> int:
    """Threads that share a row of so many entries: one for few, else from a warp to a block."""
    return 1 if columns <= 32 else max(32, min(THREADS, _power(columns // 8)))


def blocks_for(n: int, threads: int = THREADS) -> int:
    """Blocks of so many threads for n entries."""
    return max(1, min(-(-n // threads), BLOCKS))
