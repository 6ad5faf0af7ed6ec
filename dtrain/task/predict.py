"""What a trained network says of the examples of a set: in a file, or the first rows of it and a summary.

Rows are asked for in pieces, each shared by all ranks and written by rank 0, so memory does not grow with
the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.data import Part
from dtrain.data.dataset import CLASSES, NUMBERS, Dataset
from dtrain.errors import DataError, UsageError
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.feeds import Shard
from dtrain.task.network import EVAL_BATCH
from dtrain.task.saved import Result, Saved
from dtrain.task.written import WRITERS, Columns, Writer

PARTS = ("train", "validation", "test")
#: Rows of the table on the terminal.
SHOWN = 10


class Piece(NamedTuple):
    """Some rows: where the first is among all, their targets, and what each result's tensors are."""

    first: int
    y: Any
    found: list[dict[str, np.ndarray]]


def parts_of(data: Dataset, name: str) -> list[Part]:
    """The examples that --part names; by default ('') those of the test, or all where there is none.

    Raises:
        DataError: there are none.
    """
    chosen = name or ("test" if data.test else "all")
    parts = [data.part(p) for p in (PARTS if chosen == "all" else [chosen])]
    parts = [part for part in parts if part]
    if not parts:
        has = ", ".join(f"{len(data.part(p)):,} {p}" for p in PARTS if data.part(p)) or "none"
        raise DataError(f"{data.source} has no {chosen} examples to predict; it has {has}: say --part.")
    return parts


def predictions(
    saved: Saved, parts: Sequence[Part], comm: Communicator, probabilities: bool
) -> Iterator[Piece]:
    """What the network says, piece by piece, whole on every rank. Collective."""
    wanted = [_tensors(result, probabilities) for result in saved.results]
    feeds = [*saved.inputs.values(), *saved.fixed]
    run = saved.session.make_callable([t for tensors in wanted for t in tensors.values()], feeds)
    first = 0
    for part in parts:
        for start in range(0, len(part), EVAL_BATCH):
            total = min(EVAL_BATCH, len(part) - start)
            low, high = shard_bounds(total, comm.rank, comm.size)
            rows = saved.rows(part.data, part[start + low : start + high])
            values = iter(run(*(Shard(a, total) for a in rows.values()), *saved.fixed.values()))
            found = [{name: np.asarray(next(values)) for name in tensors} for tensors in wanted]
            numbers = part[start : start + total]
            y = None if isinstance(part.data.y, dict) else part.data.y[numbers]
            yield Piece(first, y, found)
            first += total


def _tensors(result: Result, probabilities: bool) -> dict[str, Any]:
    if result.kind == NUMBERS:
        return {"output": result.output}
    return {"chosen": result.chosen} | ({"probabilities": result.probabilities} if probabilities else {})


# -- as columns --------------------------------------------------------------------------------------------
def columns(results: Sequence[Result], piece: Piece, texts: bool = True) -> dict[str, Any]:
    """A piece as columns by name; texts: classes by their names."""
    rows = len(next(iter(piece.found[0].values())))
    made: dict[str, Any] = {"row": np.arange(piece.first, piece.first + rows)}
    for result, found in zip(results, piece.found, strict=True):
        before = f"{result.name}_" if result.name else ""
        if result.kind == NUMBERS:
            output = found["output"].reshape(rows, -1)
            names = [
                f"{before}prediction" + (f"_{i}" if output.shape[1] > 1 else "")
                for i in range(output.shape[1])
            ]
            made |= zip(names, output.T, strict=True)
            continue
        if result.kind == CLASSES:
            made[f"{before}class"] = [result.names[i] for i in found["chosen"]] if texts else found["chosen"]
        else:
            made |= {f"{before}{name}": c for name, c in zip(result.names, found["chosen"].T, strict=True)}
        if "probabilities" in found:
            p = zip(result.names, found["probabilities"].T, strict=True)
            made |= {f"{before}p_{name}": column for name, column in p}
    return made


def array_of(result: Result, piece: Piece) -> dict[str, Any]:
    """A piece as the array of a .npy file: probabilities where they are asked for."""
    found = piece.found[0]
    return {"": found.get("probabilities", found.get("chosen", found.get("output")))}


def write(saved: Saved, parts: Sequence[Part], comm: Communicator, to: str, probabilities: bool) -> Summary:
    """Write the predictions into a file, by rank 0, whole or not at all. Collective.

    Raises, on every rank:
        UsageError: a .npy file is asked for, and the network has several outputs.
        EnvironmentProblem: the file cannot be written.
    """
    ending, summary = Path(to).suffix.lower(), Summary(saved.results)
    if ending == ".npy" and len(saved.results) > 1:
        names = ", ".join(result.name for result in saved.results)
        raise UsageError(
            f"--to {to}: the network has the outputs {names}, and a .npy file is one array: give .csv."
        )
    writer: Writer | None = None
    try:
        with comm.together():
            if comm.rank == 0:
                writer = WRITERS[ending](Path(to), sum(map(len, parts)))
        for piece in predictions(saved, parts, comm, probabilities):
            summary.add(piece)
            with comm.together():
                if writer is not None:
                    made: Columns = columns(saved.results, piece)
                    writer.add(array_of(saved.results[0], piece) if ending == ".npy" else made)
        with comm.together():
            if writer is not None:
                writer.close()
    except BaseException:
        if writer is not None:
            writer.drop()
        raise
    return summary


def show(saved: Saved, parts: Sequence[Part], comm: Communicator, probabilities: bool) -> Summary:
    """Go over all, and keep the first rows for a table. Collective."""
    summary = Summary(saved.results)
    for piece in predictions(saved, parts, comm, probabilities):
        summary.add(piece)
    return summary


# -- in sum ------------------------------------------------------------------------------------------------
class Summary:
    """What was predicted, in sum: each result, and what share is as the targets say.

    first: the first rows, by columns.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        self.results, self.rows, self.first = results, 0, dict[str, list[Any]]()
        self._tallies = [(_Range if r.kind == NUMBERS else _Counts)(r) for r in results]
        self._right, self._compared = 0, 0

    def add(self, piece: Piece) -> None:
        made = columns(self.results, piece)
        if self.rows < SHOWN:
            for name, column in (_target(self.results[0], piece.y) | made).items():
                self.first.setdefault(name, []).extend(column[: SHOWN - self.rows])
        self.rows += len(made["row"])
        for tally, found in zip(self._tallies, piece.found, strict=True):
            tally.add(found)
        chosen, y = piece.found[0].get("chosen"), piece.y
        if chosen is not None and y is not None and y.dtype.kind in "iu" and y.shape == chosen.shape:
            self._right += int((chosen == y).sum())
            self._compared += y.size

    def lines(self) -> Iterator[str]:
        """It in words."""
        for result, tally in zip(self.results, self._tallies, strict=True):
            yield f"{result.name}: {tally.line()}" if result.name else tally.line()
        if self._compared:
            yield f"as the targets say: {self._right / self._compared:.4f}"

    def table(self) -> Iterator[str]:
        """The first rows, a line each."""
        cells = {name: [name, *map(_cell, column)] for name, column in self.first.items()}
        widths = {name: max(map(len, column)) for name, column in cells.items()}
        for i in range(len(next(iter(cells.values())))):
            yield "  ".join(cells[name][i].rjust(widths[name]) for name in cells)


class _Counts:
    """How often each class is the one, or each label applies."""

    def __init__(self, result: Result) -> None:
        self._names, self._counts = result.names, np.zeros(len(result.names), np.int64)

    def add(self, found: dict[str, np.ndarray]) -> None:
        chosen = found["chosen"]
        self._counts += (
            np.bincount(chosen, minlength=len(self._names)) if chosen.ndim == 1 else chosen.sum(0, np.int64)
        )

    def line(self) -> str:
        order = np.argsort(-self._counts, kind="stable")[:SHOWN]
        more = f", and {len(self._names) - SHOWN} more" if len(self._names) > SHOWN else ""
        return ", ".join(f"{self._names[k]} {self._counts[k]:,}" for k in order) + more


class _Range:
    """Between which numbers, and their mean."""

    def __init__(self, result: Result) -> None:
        self._low, self._high, self._sum, self._count = np.inf, -np.inf, 0.0, 0

    def add(self, found: dict[str, np.ndarray]) -> None:
        output = found["output"]
        self._low, self._high = min(self._low, output.min()), max(self._high, output.max())
        self._sum, self._count = self._sum + output.sum(dtype=np.float64), self._count + output.size

    def line(self) -> str:
        return f"{self._low:.6g} to {self._high:.6g}, mean {self._sum / self._count:.6g}"


def _target(result: Result, y: Any) -> dict[str, Any]:
    """The targets as a column, where they are one."""
    if y is None or y.ndim > 1:
        return {}
    named = result.kind == CLASSES and y.dtype.kind in "iu" and y.max() < len(result.names)
    return {"target": [result.names[i] for i in y] if named else y}


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float | np.floating) else str(value)
