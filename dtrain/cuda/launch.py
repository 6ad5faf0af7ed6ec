"""What a step on a device launches: kernels, alone or several in one launch, and products.

A Group is what one launch does; entry() writes the CUDA function that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from dtrain.cuda.loops import MOST_THREADS, SMALL, THREADS
from dtrain.native.loops import named

#: Words among a launch's arguments: 4 KB, what GPUs of any age take.
MOST_WORDS = 512


class Launch:
    """One kernel with its grid: the function's name, and its words: arrays, integers, floats.

    besides: arrays that it reads or writes and that are no words. number: its place among the plan's kernels.
    """

    __slots__ = ("besides", "blocks", "number", "symbol", "threads", "words")

    def __init__(
        self,
        symbol: str,
        words: Sequence[Any],
        blocks: int | tuple[int, int],
        threads: int,
        besides: Sequence[Any] = (),
    ) -> None:
        self.symbol, self.words, self.besides, self.number = symbol, words, besides, -1
        self.blocks = (blocks, 1) if isinstance(blocks, int) else blocks
        self.threads = threads

    @property
    def memory(self) -> list[tuple[int, int]]:
        """Where the arrays lie that it reads or writes: the first byte of each, and the first after it."""
        arrays = [w for w in (*self.words, *self.besides) if hasattr(w, "flags") and w.size]
        return [(at, at + size) for at, size in map(_extent, arrays)]

    @property
    def small(self) -> bool:
        """Whether one block does it nearly as fast as many, so that a launch of its own costs more."""
        return prod(self.blocks) * self.threads <= SMALL

    @property
    def gathers(self) -> bool:
        """Whether it only copies rows out of a table that nothing here writes."""
        return self.symbol == "gather_lent"

    @property
    def picks(self) -> bool:
        """Whether it reads rows of a table through indices that a step is fed, and writes no variable."""
        return self.symbol.startswith("picked_")

    @property
    def verdict(self) -> bool:
        """Whether it only looks at a verdict, so that each thread of the next kernel can do it by itself."""
        return self.symbol.startswith("stop_if_bad")


def _extent(array: Any) -> tuple[int, int]:
    """Where an array's memory begins, and its bytes, with what lies between its entries."""
    far = [step * (n - 1) for n, step in zip(array.shape, array.strides, strict=True)]
    first = array.data.ptr + sum(f for f in far if f < 0)
    return first, sum(map(abs, far)) + array.itemsize


class Group(NamedTuple):
    """Kernels that are launched together.

    kernels: one; or several small ones, in turn by one block; or one after the look at a verdict. Or what is
    no Launch. beside: small ones, in turn by a block that the launch has for them: they depend on nothing
    that the others do, and the others on nothing of theirs.
    """

    kernels: list[Any]
    beside: list[Launch]

    @property
    def large(self) -> bool:
        """Whether many blocks do it, so that one more is no more work."""
        last = self.kernels[-1] if self.kernels else None
        if not isinstance(last, Launch) or not last.symbol.startswith(("loop_", "picked_", "update_")):
            return False
        return in_place(self.kernels) and not last.small and last.blocks[1] == 1

    def takes(self, run: Sequence[Any], control: Any) -> bool:
        """Whether a block beside the others may do these, which come right before or after them.

        control: memory that all read, and write in an order that is looked to.
        """
        main = self.kernels[-1]
        begin, size = _extent(control)
        ours = [m for k in self.kernels for m in k.memory if not begin <= m[0] < begin + size]

        def apart(kernel: Launch) -> bool:
            if kernel.symbol == ("count" if main.picks else "begin"):
                return False  # what reads which step it is, or may write a variable
            small = kernel.small and kernel.threads <= main.threads == THREADS and not kernel.verdict
            return small and all(a >= d or c >= b for a, b in ours for c, d in kernel.memory)

        own = bool(run) and all(isinstance(k, Launch) and apart(k) for k in run)
        return own and fit([*self.kernels, *self.beside, *run])


class Product:
    """A call of cuBLAS."""

    __slots__ = ("call", "symbol")

    def __init__(self, call: Callable[[], None]) -> None:
        self.symbol, self.call = "product", call


def beside(backend: Any, product: Callable[[], None], aside: Callable[[], None]) -> tuple[Any, Any]:
    """Two calls: one begins a product on the backend's second stream, one has what comes then wait for it.

    product: the same on the first stream, for when each kernel runs alone. Both are `capturable`.
    """
    cuda, other = backend.xp.cuda, backend.beside[0]
    ready, done = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)

    def begin() -> None:
        ready.record(backend.stream)
        other.wait_event(ready)
        aside()
        done.record(other)

    def end() -> None:
        backend.stream.wait_event(done)

    begin.capturable = end.capturable = True  # type: ignore[attr-defined]  # a function has attributes
    begin.alone, end.alone = product, lambda: None  # type: ignore[attr-defined]  # a function has attributes
    begin.symbol, end.waits = "product", True  # type: ignore[attr-defined]  # a function has attributes
    return begin, end


def fit(kernels: Sequence[Launch]) -> bool:
    """Whether the arguments of these kernels together are not too many for one launch."""
    return 1 + sum(3 + len(kernel.words) for kernel in kernels) <= MOST_WORDS


def in_place(kernels: Sequence[Launch]) -> bool:
    """Whether they are launched on the grid of the last: one alone, or one after a verdict."""
    return len(kernels) == 1 or (len(kernels) == 2 and kernels[0].verdict and not kernels[1].small)


def entry(kernels: Sequence[Launch], beside: Sequence[Launch] = ()) -> tuple[str, str]:
    """Symbol and source of what is launched: the parts of a Group."""
    arguments, lines = ["state *s"], list[str]()
    alone = in_place(kernels)
    calls = []
    for k, kernel in enumerate([*kernels, *beside]):
        words = [f"w{k}_{i}" for i in range(len(kernel.words))]
        arguments.append(f"int64_t number{k}")
        if not alone or k >= len(kernels):
            arguments += [f"int64_t across{k}", f"int64_t down{k}"]
        for name, word in zip(words, kernel.words, strict=True):
            real, whole = isinstance(word, float), isinstance(word, int | np.integer)
            arguments.append(f"{'double' if real else 'int64_t' if whole else 'array'} {name}")
        calls.append(f"{kernel.symbol}({{}}, {', '.join(['s', f'number{k}', *words])});")

    def in_turn(k: int) -> list[str]:
        return [
            f"for (unsigned i = 0; i < (unsigned)(across{k} * down{k}); i++) {{",
            calls[k].format(f"nth(i, (unsigned)across{k}, (unsigned)down{k})"),
            "__syncthreads();",
            "}",
        ]

    if beside:
        # those who look at a verdict do so in every block
        looks = [call.format("launched(0)") for call in calls[: len(kernels) - 1]]
        lines += ["if (blockIdx.x == 0) {", *looks, *(["__syncthreads();"] if looks else [])]
        lines += [line for k in range(len(kernels), len(calls)) for line in in_turn(k)]
        lines += ["return;", "}"]
    for k in range(len(kernels)):
        lines += [calls[k].format(f"launched({int(bool(beside))})")] if alone else in_turn(k)
    threads = max(THREADS, kernels[-1].threads) if alone else MOST_THREADS
    head = f'extern "C" __global__ void __launch_bounds__({threads}) NAME({", ".join(arguments)}) {{'
    return named("entry", "\n".join([head, *lines, "}", ""]))
