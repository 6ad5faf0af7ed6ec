"""Rows that a program lends to a graph: examples that a run picks from, and that the graph does not keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Operation, Spec
from dtrain.ops.base import Array, Env, Example, Kernel, Op, Placed, place_rows, register
from dtrain.ops.placement import Placement


class Table:
    """The place that rows are lent to: an array of any length, of the same rows, may lie there at each run.

    name: what messages and fingerprints call it. row: the shape of one row. dtype: of its entries.
    rows: the array [n, *row] on the session's device, the same on every rank, or None between two loans.
    """

    __slots__ = ("dtype", "name", "row", "rows")

    def __init__(self, name: str, row: tuple[int, ...], dtype: DType) -> None:
        self.name, self.row, self.dtype = name, row, dtype
        self.rows: Any = None

    def __repr__(self) -> str:
        return f"Table({self.name}, {self.row}, {self.dtype.name})"


@register
class LentRows(Op):
    """Rows of a table picked by an integer tensor: gather, from an array that is no constant of the graph.

    A constant would stay with the graph for ever; what is lent goes when the program takes it back, and
    another array in its place needs no new plan.
    """

    table: Table
    stateful = True
    no_gradient = "the rows are data"

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        (indices,) = specs
        if not indices.dtype.is_integer:
            raise GraphError("the indices are not integers")
        return [Spec(None if indices.shape is None else (*indices.shape, *self.table.row), self.table.dtype)]

    def bind(self, env: Env, ins: Sequence[Array], outs: Sequence[Array]) -> Kernel:
        table, indices, out, take = self.table, ins[0], outs[0], env.xp.take
        unsigned = indices.view(f"u{indices.itemsize}")
        # "clip", since NumPy gathers into a copy of `out` under its default mode; indices were checked
        mode = {"mode": "clip"} if env.on_host else {}

        def kernel() -> None:
            rows = table.rows
            assert rows is not None, f"nothing is lent to {table}"
            if env.on_host and unsigned.size and unsigned.max() >= len(rows):
                raise InvalidArgumentError(
                    f"{table.name} has {len(rows)} rows, and row {indices.max()} is read."
                )
            take(rows, indices, 0, out, **mode)

        return kernel

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return place_rows(placements, node)

    @classmethod
    def examples(cls) -> list[Example]:
        return []
