"""What a trained network says of the examples of a set: in a file, or the first of it and its sum on the terminal.

Rows are asked for in pieces, each shared by all ranks and written by rank 0, so memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.data import Dataset, Part
from dtrain.errors import DataError, UsageError
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.feeds import Shard
from dtrain.task.network import EVAL_BATCH
from dtrain.task.saved import CLASSES, LABELS, NUMBERS, Result, Saved
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
    """What was predicted, in sum: rows, how often each class or label, the numbers' range, and how much is right."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results, self.rows, self.first = results, 0, dict[str, list[Any]]()
        self._counts = [np.zeros(len(result.names), np.int64) for result in results]
        self._ranges: list[list[float]] = [[np.inf, -np.inf, 0.0] for _ in results]
        self._numbers = [0 for _ in results]
        self._right: float | None = None

    def add(self, piece: Piece) -> None:
        rows = len(next(iter(piece.found[0].values())))
        if self.rows < SHOWN:
            made = columns(self.results, piece)
            if piece.y is not None and piece.y.ndim == 1:
                result = self.results[0]
                named = (
                    result.kind == CLASSES
                    and piece.y.dtype.kind in "iu"
                    and piece.y.max() < len(result.names)
                )
                made = {
                    "row": made.pop("row"),
                    "target": [result.names[i] for i in piece.y] if named else piece.y,
                } | made
            for name, column in made.items():
                self.first.setdefault(name, []).extend(list(column[: SHOWN - self.rows]))
        self.rows += rows
        for i, (result, found) in enumerate(zip(self.results, piece.found, strict=True)):
            if result.kind == CLASSES:
                self._counts[i] += np.bincount(found["chosen"], minlength=len(result.names))
            elif result.kind == LABELS:
                self._counts[i] += found["chosen"].sum(0, dtype=np.int64)
            else:
                low, high, total = self._ranges[i]
                output = found["output"]
                self._ranges[i] = [
                    min(low, output.min()),
                    max(high, output.max()),
                    total + output.sum(dtype=float),
                ]
                self._numbers[i] += output.size
        self._compare(piece)

    def _compare(self, piece: Piece) -> None:
        """Count what is as the target says, where the target is of the same kind."""
        result, y = self.results[0], piece.y
        if len(self.results) > 1 or y is None or result.kind == NUMBERS:
            return
        chosen = piece.found[0]["chosen"]
        if y.dtype.kind in "iu" and y.shape == chosen.shape:
            self._right = (self._right or 0) + float((chosen == y).sum() / (chosen.size / len(chosen)))

    def lines(self) -> Iterator[str]:
        """It in words."""
        for i, result in enumerate(self.results):
            before = f"{result.name}: " if result.name else ""
            if result.kind == NUMBERS:
                low, high, total = self._ranges[i]
                yield f"{before}{low:.6g} to {high:.6g}, mean {total / self._numbers[i]:.6g}"
                continue
            order = np.argsort(-self._counts[i], kind="stable")[:SHOWN]
            said = ", ".join(f"{result.names[k]} {self._counts[i][k]:,}" for k in order)
            more = f", and {len(result.names) - SHOWN} more" if len(result.names) > SHOWN else ""
            yield f"{before}{said}{more}"
        if self._right is not None:
            yield f"as the targets say: {self._right / self.rows:.4f}"

    def table(self) -> Iterator[str]:
        """The first rows, a line each."""
        cells = {name: [name, *map(_cell, column)] for name, column in self.first.items()}
        widths = {name: max(map(len, column)) for name, column in cells.items()}
        for i in range(len(next(iter(cells.values())))):
            yield "  ".join(cells[name][i].rjust(widths[name]) for name in cells)


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float | np.floating) else str(value)
