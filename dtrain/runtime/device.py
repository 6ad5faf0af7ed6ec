"""A plan on a device: its kernels are launched in graphs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from dtrain.comm.monitor import BY_NCCL, PLAN, POSITION
from dtrain.cuda.launch import Launch, Product
from dtrain.cuda.program import Program
from dtrain.native.code import BAD_VALUE, NOT_FINITE
from dtrain.ops.base import Kernel
from dtrain.ops.check import NotFinite
from dtrain.ops.collective import AllGather, AllReduce, BeginAllReduce
from dtrain.runtime.backend import CupyBackend
from dtrain.runtime.layout import Layout
from dtrain.runtime.plan import Plan, by_step


class DevicePlan(Plan):
    """A Plan whose arrays lie on a device.

    Kernels of dtrain's own and products are captured into graphs, as are those whose `capturable` is true.
    Between graphs runs what is neither: an op that has no form in CUDA, a sum through the host.
    """

    backend: CupyBackend

    def _link(self, bound: Sequence[Any], layout: Layout) -> tuple[list[Kernel], list[Kernel]]:
        self._explain = layout.explain
        code = layout.code
        own = [isinstance(k, Launch | Product) for k in bound]
        for i, kernel in enumerate(bound):
            if isinstance(kernel, Launch):
                kernel.number = i
        capturable = [getattr(k, "capturable", False) for k in bound]
        others = {
            node
            for node, mine, yes in zip(self.kernel_nodes, own, capturable, strict=True)
            if not (mine or yes or isinstance(node.kind, AllReduce | BeginAllReduce | AllGather))
        }
        #: Whether the device waits for other ranks by itself, so that whoever waits for it waits for them.
        self._sums = any(
            yes and isinstance(node.kind, AllReduce | BeginAllReduce)
            for node, yes in zip(self.kernel_nodes, capturable, strict=True)
        )
        comm = layout.env.comm
        alone = bool(others)
        if self._sums:  # whether a sum is captured has to be the same on all ranks
            alone = bool(comm.allreduce(np.array([alone], np.int8), "max")[0])
        # what begins in one graph cannot end in another
        captured = [mine or (yes and not alone) for mine, yes in zip(own, capturable, strict=True)]

        def agree(said: bool) -> bool:
            """Whether it is so on all ranks: of those that sum in graphs either all launch theirs or none."""
            return bool(comm.allreduce(np.array([said], np.int8), "min")[0]) if self._sums else said

        #: Whether steps can be taken several at a time: no kernel asks the host for anything.
        self._windows = not others
        if others and self.updates:
            names = ", ".join(sorted(f"{n.type} '{n.name}'" for n in others)[:4])
            more = f" and {len(others) - 4} more" if len(others) > 4 else ""
            self.backend.tell(
                f"these ops have no kernels in CUDA of dtrain's own: {names}{more}. CuPy computes them, "
                "so a step is several graphs, with CuPy's kernels between them."
            )
        self._flat = [self._is_flat(a) for a in self._fetches]
        fed = [a for _, a in self._feeds if a.dtype != object]
        fetched = [a for a, yes in zip(self._fetches, self._flat, strict=True) if yes]
        self._device_sums = layout.env.comm.device_sums
        self._steps = Program(self.backend, code, bound, captured, fed, fetched, self._wait, agree)
        # one by one they run to be looked at alone, which few plans come to
        single: list[Kernel] = [partial(self._call, i) for i in range(len(bound))]
        return single, single

    @property
    def launches(self) -> int:
        """Kernels and products that a step launches, if it is no graph yet."""
        return self._steps.launches

    def _call(self, i: int) -> None:
        self._steps.alone[1][i]()

    def _wait(self) -> None:
        """Return when the device has done what it was given.

        Raises:
            RanksLost: it waited for a rank that is gone.
        """
        if self._sums:
            self._board.enter(BY_NCCL)
        self.backend.synchronize()
        if self._sums:
            self._board.leave()
            self._device_sums.check()

    @staticmethod
    def _is_flat(array: Any) -> bool:
        return array.dtype != object and array.flags.c_contiguous

    def run(self, values: Sequence[Any], kernels: Sequence[Kernel] | None = None) -> list[Any]:
        rows = self._rows(values)
        self._poison()
        self._board.row[PLAN] = self.number
        with np.errstate(all="ignore"):
            done = self._steps.run(1, rows, kernels=kernels)
        self._board.row[POSITION] = -1
        self._look(done.status, done.kernel, values)
        own = iter(done.results)
        results = [
            next(own)[0] if yes else np.array(self.backend.to_host(a)) if a.dtype != object else a.copy()
            for a, yes in zip(self._fetches, self._flat, strict=True)
        ]
        return [a if a.ndim else a[()] for a in results]

    def _rows(self, values: Sequence[Any]) -> list[Any]:
        """Of each feed that goes to the device, one step's array; strings stay here."""
        rows = []
        for index, buffer in self._feeds:
            if buffer.dtype == object:
                buffer[...] = values[index]
            else:
                rows.append(np.asarray(values[index])[None])
        return rows

    def _feed(self, values: Sequence[Any]) -> None:
        self._poison()
        self._steps.feed(self._rows(values))

    def _look(
        self, status: int, kernel: int, values: Sequence[Any], before: Sequence[list[Any]] = ()
    ) -> None:
        """Raise what stopped a step; values: what it was fed. before: results of the steps before it."""
        if status == NOT_FINITE:
            raise NotFinite(values, before)
        if status == BAD_VALUE:
            self._explain(self.kernel_nodes[kernel])

    def _can_repeat(self) -> bool:
        strings = any(a.dtype == object for _, a in self._feeds)
        return self._windows and all(self._flat) and not strings

    def run_steps(self, rows: np.ndarray, values: Sequence[Any], until: int | None) -> list[list[Any]]:
        self._poison()
        self._board.row[PLAN] = self.number
        last = None if until is None else self._fetches[until]
        given = [rows, *(np.asarray(value)[None] for value in values[1:])]
        done = self._steps.run(len(rows), [given[index] for index, _ in self._feeds], last)
        # one that stopped was begun; the first was counted before
        self._board.number += done.steps + bool(done.status) - 1
        self._board.row[POSITION] = -1
        results = by_step(done.results, done.steps)
        self._look(done.status, done.kernel, [rows[min(done.steps, len(rows) - 1)], *values[1:]], results)
        return results
