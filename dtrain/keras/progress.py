"""What fit, evaluate and predict print: the lines of Keras 2, by rank 0."""

from __future__ import annotations

import time
from collections.abc import Mapping

from dtrain.keras.rank_zero import RankZero

#: Seconds between two pictures of a bar.
EVERY = 0.1
WIDTH = 30


class Bar:
    """A pass over examples as it is seen.

    verbose: 0 nothing; 1 a bar, which moves on a terminal and is one line elsewhere; 2 a line without a bar.
    examples: how many there are; None where that is not known before, and the picture has no bar.
    """

    def __init__(self, rank_zero: RankZero, verbose: int, examples: int | None) -> None:
        from dtrain.train.report import on_terminal

        self._says = rank_zero.says
        self._verbose = verbose
        self._examples = examples
        self._moves = verbose == 1 and on_terminal()
        self._begun = self._drawn = time.perf_counter()
        self._longest = self._done = 0

    def due(self, done: int) -> bool:
        """Whether it is time for another picture, after so many examples."""
        self._done = done
        return self._moves and time.perf_counter() - self._drawn > EVERY

    def moves(self, logs: Mapping[str, float]) -> None:
        """A new picture."""
        self._drawn, done = time.perf_counter(), self._done
        seconds = self._drawn - self._begun
        left = "" if self._examples is None else f" - ETA: {seconds / done * (self._examples - done):.0f}s"
        self._draw(f"{self._bar(done)}{left}{_numbers(logs)}", end="")

    def ends(self, logs: Mapping[str, float]) -> None:
        """The last line of the pass."""
        seconds = time.perf_counter() - self._begun
        done = self._done if self._examples is None else self._examples
        if self._verbose == 1:
            each = f" {_span(seconds / max(done, 1))}/sample"
            self._draw(f"{self._bar(done)} - {seconds:.0f}s{each}{_numbers(logs)}", end="\n")
        elif self._verbose == 2:
            self._says(f" - {seconds:.0f}s{_numbers(logs)}")

    def _draw(self, line: str, end: str) -> None:
        back = "\r" if self._moves else ""
        self._says(back + line.ljust(self._longest if self._moves else 0), end)
        self._longest = len(line)

    def _bar(self, done: int) -> str:
        if self._examples is None:
            return f"{done}/Unknown"
        full = WIDTH * done // self._examples
        bar = "=" * full if full == WIDTH else ("=" * max(full - 1, 0) + ">" * (full > 0)).ljust(WIDTH, ".")
        return f"{done:>{len(str(self._examples))}}/{self._examples} [{bar}]"


def _numbers(logs: Mapping[str, float]) -> str:
    return "".join(f" - {k}: {v:.4f}" if abs(v) > 1e-3 else f" - {k}: {v:.4e}" for k, v in logs.items())


def _span(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.0f}s"
    return f"{seconds * 1e3:.0f}ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us"
