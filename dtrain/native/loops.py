"""Loops for elementwise ops and the reductions that end them: one pass over memory for a whole chain of ops.

The iteration space is the shape that the ops compute, axes of size 1 left out and neighbours joined where
all operands run over them the same way. The source says which operand runs along which axis; sizes come with
a call. So one function serves every batch size and every rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from dtrain.graph.dtypes import DType

#: An op and the numbers of the values that it takes: inputs first, then what each instruction computes.
Instruction = tuple[Any, tuple[int, ...]]

TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "bool": "uint8_t",
}
#: More axes than this, after joining, are left to NumPy.
MAX_AXES = 4
#: Entries added up in their own type before they join a sum in double.
RUN = 1024


class Join(NamedTuple):
    """How two entries, a and b, become one in C; what of none is; and what OpenMP calls it."""

    of: str
    none: Callable[[str], str]
    clause: str


_LOWEST = {"uint8_t": "0", "int32_t": "INT32_MIN", "int64_t": "INT64_MIN"}
_HIGHEST = {"uint8_t": "UINT8_MAX", "int32_t": "INT32_MAX", "int64_t": "INT64_MAX"}
#: By the names that cuda/kernels.cuh has for them. Of the largest and the smallest a NaN stays one.
JOINS = {
    "plus": Join("{a} + {b}", lambda type: "0", "+"),
    "times": Join("{a} * {b}", lambda type: "1", "*"),
    "most": Join("{b} > {a} || {b} != {b} ? {b} : {a}", lambda type: _LOWEST.get(type, "-INFINITY"), "max"),
    "least": Join("{b} < {a} || {b} != {b} ? {b} : {a}", lambda type: _HIGHEST.get(type, "INFINITY"), "min"),
    "both": Join("{b} < {a} ? {b} : {a}", lambda type: "1", "min"),
    "either": Join("{b} > {a} ? {b} : {a}", lambda type: "0", "max"),
}


class Nest:
    """A body of instructions over a space: its axes, and which value runs along which.

    cuda: whether it is to be said in CUDA. What is no elementwise instruction is called a sum here, though it
    may be a product or the largest entry, which its op's `joins` says.

    Args:
        body: elementwise instructions, all of the space's shape, and reductions of them.
        results: numbers of the values that are written: inputs come first, then one for each instruction.
        specs: (shape, dtype) of each value, in the same numbering, with global sizes.
        inputs: how many values are inputs.

    Raises:
        Untranslatable: it cannot be said in this language.
    """

    cuda = False

    def __init__(
        self,
        body: Sequence[Instruction],
        results: Sequence[int],
        specs: Sequence[tuple[tuple[int, ...], DType]],
        inputs: int,
    ) -> None:
        sums = {inputs + i for i, (op, _) in enumerate(body) if not op.elementwise}
        space = np.broadcast_shapes(*(specs[v][0] for v in range(len(specs)) if v not in sums))
        gone = [reduced(body[v - inputs][0], len(space)) for v in sorted(sums)]
        self.axes = joined(space, [specs[v][0] for v in range(inputs)], gone)
        self.space, self.specs, self.inputs, self.results = space, specs, inputs, list(results)
        self.body, self.sums = body, sums
        if len(self.axes) > MAX_AXES or any(dtype.name not in TYPES for _, dtype in specs):
            raise Untranslatable
        self.types = [TYPES[dtype.name] for _, dtype in specs]

    def sizes(self, shapes: Sequence[tuple[int, ...]]) -> list[int]:
        """Sizes of the loop's axes for these local shapes of the inputs."""
        local = np.broadcast_shapes(*shapes)
        local = (1,) * (len(self.space) - len(local)) + tuple(local)
        return [int(np.prod([local[a] for a in group], dtype=np.int64)) for group in self.axes]

    def mask(self, value: int) -> tuple[bool, ...]:
        """Along which of the loop's axes a value runs."""
        if value in self.sums:
            gone = reduced(self.body[value - self.inputs][0], len(self.space))
            return tuple(group[0] not in gone for group in self.axes)
        along = _along(self.specs[value][0], self.space)
        return tuple(along[group[0]] for group in self.axes)

    def joins(self, v: int) -> str:
        """How entries of what a sum is made of become one: a name in JOINS."""
        return self.body[v - self.inputs][0].joins

    def wide(self, v: int) -> str:
        """The type in which runs of a sum are joined."""
        real = self.types[v] in ("float", "double") and self.joins(v) in ("plus", "times")
        return "double" if real else self.types[v]

    def expression(self, value: int) -> str:
        """What an elementwise instruction computes, of x0, x1, ... for the values that it takes."""
        op, args = self.body[value - self.inputs]
        dtypes = [self.specs[a][1] for a in args]
        text = op.expression([f"x{a}" for a in args], dtypes, self.types[value], self.cuda)
        if text is None:
            raise Untranslatable
        return text


class Loop(Nest):
    """The function in C for a Nest. source: it, to be compiled after kernels.h.

    streamed: results that are written past the caches, where they are no sums.
    """

    def __init__(self, *nest: Any, streamed: Collection[int] = ()) -> None:
        super().__init__(*nest)
        self._streamed = [v for v in streamed if v not in self.sums and any(self.mask(v))]
        self.symbol, self.source = named("loop", self._function())

    def _function(self) -> str:
        k = len(self.axes)
        inner = k - 1
        masks = {v: self.mask(v) for v in [*range(self.inputs), *self.results]}
        lines = ["int NAME(const word *w) {"]
        lines += [f"const int64_t n{d} = w[{d}].i;" for d in range(k)]
        for at, v in enumerate([*range(self.inputs), *self.results], k):
            const = "const " if v < self.inputs else ""
            name = f"p{v}" if v < self.inputs else f"o{v}"
            lines.append(f"{const}{self.types[v]} *{name} = w[{at}].p;")
        used = {a for _, args in self.body for a in args}
        loads, inner_lines, after = [], [], []
        for v in range(self.inputs):
            if v not in used:
                continue
            if any(masks[v]):
                loads.append((v, self._offset(masks[v])))
            else:
                lines.append(f"const {self.types[v]} x{v} = *p{v};")
        total, rows = [], []  # sums over everything; sums over the inner axis among others
        for v in self.results:
            if v in self.sums and not any(masks[v]):
                total.append(v)
                lines.append(f"{self.wide(v)} total{v} = {self._none(v)};")
            elif v in self.sums:
                extent = " * ".join(f"n{d}" for d in range(k) if masks[v][d])
                lines.append(f"for (int64_t i = 0; i < {extent}; i++) o{v}[i] = {self._none(v)};")
                if k and not masks[v][inner]:
                    rows.append(v)
        head, tail = [], []
        for d in range(inner):
            head.append(f"for (int64_t i{d} = 0; i{d} < n{d}; i{d}++) {{")
            tail.append("}")
        # pointers to the row, and what is constant along it
        for v, offset in loads:
            if masks[v][inner]:
                head.append(f"const {self.types[v]} *q{v} = p{v}{offset};")
                inner_lines.append(f"const {self.types[v]} x{v} = q{v}[j];")
            else:
                head.append(f"const {self.types[v]} x{v} = p{v}[0{offset}];")
        for v in self.results:
            if any(masks[v]):
                head.append(f"{self.types[v]} *q{v} = o{v}{self._offset(masks[v])};")
        # the arithmetic
        for v, (_, args) in enumerate(self.body, self.inputs):
            if v in self.sums:
                if v not in total and v not in rows:
                    inner_lines.append(self._join(v, f"q{v}[j]", f"x{args[0]}"))
                elif self._may_be_nan(v):  # apart, so that processors' instructions for the largest do it
                    sign = ">" if self.joins(v) == "most" else "<"
                    inner_lines.append(f"run{v} = x{args[0]} {sign} run{v} ? x{args[0]} : run{v};")
                    inner_lines.append(f"nan{v} |= x{args[0]} != x{args[0]};")
                else:
                    inner_lines.append(self._join(v, f"run{v}", f"x{args[0]}"))
                continue
            inner_lines.append(f"const {self.types[v]} x{v} = {self.expression(v)};")
            if v in self._streamed:
                inner_lines.append(f"out{v}[j - at] = x{v};")
                after.append(f"stream(q{v} + at, out{v}, (end - at) * (int64_t)sizeof *out{v});")
            elif v in self.results:
                inner_lines.append(f"q{v}[j] = x{v};" if any(masks[v]) else f"*o{v} = x{v};")
        running = [*total, *rows]
        runs, clauses = [], []
        for v in running:
            runs.append(f"{self.types[v]} run{v} = {self._none(v)};")
            clauses.append(f"reduction({JOINS[self.joins(v)].clause} : run{v})")
            if self._may_be_nan(v):
                runs.append(f"int nan{v} = 0;")
                clauses.append(f"reduction(| : nan{v})")
                after.append(f"if (nan{v}) run{v} = NAN;")
            after.append(self._join(v, f"total{v}" if v in total else f"*q{v}", f"run{v}"))
        if k == 0:
            lines += runs + inner_lines + after
        elif running or self._streamed:
            lines += [f"{self.types[v]} out{v}[{RUN}] __attribute__((aligned(64)));" for v in self._streamed]
            lines += head
            lines.append(f"for (int64_t at = 0; at < n{inner}; at += {RUN}) {{")
            lines.append(f"const int64_t end = at + {RUN} < n{inner} ? at + {RUN} : n{inner};")
            lines += runs
            lines.append(f"\n#pragma omp simd {' '.join(clauses)}\n")
            lines += ["for (int64_t j = at; j < end; j++) {", *inner_lines, "}", *after, "}", *tail]
        else:
            lines += head
            lines.append("\n#pragma omp simd\n")
            lines += [f"for (int64_t j = 0; j < n{inner}; j++) {{", *inner_lines, "}", *tail]
        lines += [f"*o{v} = ({self.types[v]})total{v};" for v in total]
        lines += ["streamed();"] if self._streamed else []
        return "\n".join([*lines, "return OK;", "}", ""])

    def _none(self, v: int) -> str:
        return JOINS[self.joins(v)].none(self.types[v])

    def _join(self, v: int, to: str, x: str) -> str:
        return f"{to} = {JOINS[self.joins(v)].of.format(a=to, b=x)};"

    def _may_be_nan(self, v: int) -> bool:
        return self.joins(v) in ("most", "least") and self.types[v] in ("float", "double")

    def _offset(self, mask: tuple[bool, ...]) -> str:
        """The terms of a row's place in an array that runs along these axes."""
        text = ""
        for d in range(len(mask) - 1):
            if mask[d]:
                factors = [f"i{d}", *(f"n{e}" for e in range(d + 1, len(mask)) if mask[e])]
                text += " + " + " * ".join(factors)
        return text


#: Entries of a parameter that an update computes before they are streamed: they stay in the L1 cache.
STREAMED = 256


def update(text: str, type: str, terms: int, slots: int, streamed: bool = False) -> tuple[str, str]:
    """Symbol and source of an update's function: `text` for each entry, of p, g, s0, s1 ... and rate.

    Where the rate is several numbers, rate is the first and rate_[k] all.
    terms: arrays that add up to the gradient. streamed: whether the parameter is written past the caches, for
    ranks on cores that are far apart.
    """
    gradients = [f"g{r}" for r in range(terms)]
    states = [f"s{k}" for k in range(slots)]
    lines = [f"const {type} *{g}_ = w[{3 + i}].p;" for i, g in enumerate(gradients)]
    lines += [f"{type} *{s}_ = w[{3 + terms + i}].p;" for i, s in enumerate(states)]
    reads = [f"{type} {x} = {x}_[i];" for x in ("p", *states)]
    reads.append(f"const {type} g = {' + '.join(g + '_[i]' for g in gradients)};")
    writes = [f"{x}_[i] = {x};" for x in states]
    body = [*reads, text, *writes]
    if streamed:
        loop = [
            f"{type} out[{STREAMED}] __attribute__((aligned(64)));",
            f"for (int64_t low = 0; low < n; low += {STREAMED}) {{",
            f"const int64_t high = low + {STREAMED} < n ? low + {STREAMED} : n;",
            "#pragma omp simd",
            "for (int64_t i = low; i < high; i++) {",
            *body,
            "out[i - low] = p;",
            "}",
            "stream(p_ + low, out, (high - low) * (int64_t)sizeof *out);",
            "}",
            "streamed();",
        ]
    else:
        loop = ["#pragma omp simd", "for (int64_t i = 0; i < n; i++) {", *body, "p_[i] = p;", "}"]
    head = [
        "int NAME(const word *w) {",
        "const int64_t n = w[0].i;",
        f"const {type} *rate_ = w[1].p, rate = *rate_;",
        f"{type} *p_ = w[2].p;",
        *lines,
    ]
    return named("update", "\n".join([*head, *loop, "return OK;", "}", ""]))


def named(kind: str, text: str) -> tuple[str, str]:
    """A symbol made of what the function NAME in a text does, and the text with it."""
    symbol = f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    return symbol, text.replace("NAME", symbol)


class Untranslatable(Exception):
    """An op, a dtype or a shape that has no such form; the array module does it."""


def _along(shape: tuple[int, ...], space: tuple[int, ...]) -> tuple[bool, ...]:
    """Along which axes of the space a shape that broadcasts to it runs."""
    padded = (1,) * (len(space) - len(shape)) + tuple(shape)
    return tuple(d != 1 for d in padded)


def reduced(op: Any, rank: int) -> set[int]:
    """The axes that a reduction of something of this rank leaves out."""
    return set(range(rank)) if op.axes is None else {a % rank for a in op.axes}


def joined(
    space: tuple[int, ...], shapes: Sequence[tuple[int, ...]], gone: Sequence[set[int]] = ()
) -> list[list[int]]:
    """The axes of the space in groups that can be run over as one.

    shapes: of the inputs. gone: the axes of each reduction.
    """
    along = [_along(shape, space) for shape in shapes]

    def pattern(axis: int) -> tuple[bool, ...]:
        return (*(a[axis] for a in along), *(axis in r for r in gone))

    groups: list[list[int]] = []
    for axis in range(len(space)):
        if space[axis] == 1:
            continue
        if groups and pattern(groups[-1][-1]) == pattern(axis):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups
