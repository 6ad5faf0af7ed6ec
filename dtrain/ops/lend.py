"""Rows of external arrays: examples that a run picks from, and that the graph does not keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Operation, Spec
from dtrain.ops.base import Array, Env, Kernel, Op, Placed, place_rows, register
from dtrain.ops.memory import address
from dtrain.ops.placement import Placement

#: An array of rows, or None, and its address and length, 0 where there is none.
Loan = tuple[Any, int, int]


class Table:
    """The place of external rows: an array of any length, of the same rows, may lie there at each run.

    name: what messages and fingerprints call it. row: the shape of one row. dtype: of its entries.
    """

    __slots__ = ("_loan", "dtype", "lent", "name", "row")

    def __init__(self, name: str, row: tuple[int, ...], dtype: DType) -> None:
        self.name, self.row, self.dtype = name, row, dtype
        self.lent = np.zeros(2, np.int64)  # the loan's address and length, where C and CUDA find them
        self._loan: Loan = (None, 0, 0)

    def loan(self, rows: Any) -> Loan:
        """What lend() takes of an array [n, *row] on the session's device, the same on every rank."""
        if rows is None:
            return None, 0, 0
        assert rows.dtype == self.dtype.numpy and rows.shape[1:] == self.row and rows.flags.c_contiguous
        return rows, address(rows), len(rows)

    def lend(self, loan: Loan) -> Loan:
        """Let runs read this array from here on; returns the loan before, to go back to.

        Whoever shares the session with other threads holds its lock from here to the end of the run.
        """
        before, self._loan = self._loan, loan
        _, self.lent[0], self.lent[1] = loan
        return before

    @property
    def rows(self) -> Any:
        """The array that lies there; None between two loans."""
        return self._loan[0]

    @rows.setter
    def rows(self, rows: Any) -> None:
        self.lend(self.loan(rows))

    def __repr__(self) -> str:
        return f"Table({self.name}, {self.row}, {self.dtype.name})"


@register
class LentRows(Op):
    """Rows of a table picked by an integer tensor: gather, from an array that is no constant of the graph.

    A constant would stay with the graph for ever; an external array goes when the program takes it back, and
    another array in its place needs no new plan.
    """

    table: Table
    stateful = True
    tells = (0,)
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

    def native(self, code: Any, specs: Sequence[Spec], ins: Sequence[Array], outs: Sequence[Array]) -> Any:
        table, indices = self.table, ins[0]
        if not indices.flags.c_contiguous:
            return None
        size = math.prod(table.row) * table.dtype.numpy.itemsize
        return code.call("gather_lent", table.lent, size, indices, indices.itemsize, indices.size, outs[0])

    def joined(self, code: Any, ins: Sequence[Array], behind: Any) -> Any:
        """Rows that a loop reads where they lie: see ops/fused.py."""
        return code.picked(self.table.lent, ins[0], math.prod(self.table.row), behind)

    def place(self, placements: Sequence[Placement], node: Operation) -> Placed:
        return place_rows(placements, node)
