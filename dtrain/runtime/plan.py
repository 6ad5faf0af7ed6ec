"""A plan: one step as a list of kernels bound to their arrays, and nothing left to look up.

layout.py gives every tensor memory and binds each kernel to it. Running copies the feeds in, calls the list,
copies the fetches out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any
from weakref import finalize

import numpy as np

from dtrain.comm.monitor import PLAN, POSITION
from dtrain.errors import UsageError
from dtrain.graph.graph import Operation, Tensor, built
from dtrain.native.code import BAD_VALUE, ELSEWHERE, NOT_FINITE, NativeCall, Program
from dtrain.ops.base import Const, Feed, Kernel
from dtrain.ops.check import NotFinite, StopIfBad, is_bad, largest
from dtrain.ops.collective import AllGather, AllReduce, NodeBarrier
from dtrain.ops.fused import Fused, Joined
from dtrain.ops.state import Assign, NoOp, VariableOp, is_parameter
from dtrain.ops.update import _Update
from dtrain.passes.step import Step, memory_of
from dtrain.poison import ON, poison
from dtrain.runtime.backend import Backend
from dtrain.runtime.layout import Layout, PlanEnv


class Plan:
    """A step ready to run.

    Making one is collective: buckets may lie in memory that ranks share. Where there is too little for a step
    that `share` changed, it raises NoRoom.

    nodes: the operations in the order they run, from schedule(); kernels: what runs, some nodes having none.
    required: names of variables that need a value before; assigned: those that have one after.
    torn: names of variables that are written before the last communication, which may not come to its end.
    loss_scales: the dynamic loss scales that it reads, lowered where the check for bad numbers stops a step.
    early: names of variables that are written before this check, where the step may be taken again.
    updates: whether it takes a training step. parameters: names of those that it writes.
    warns: whether its check for bad numbers only leads to a warning, and the step is taken all the same.
    losses: names of those fetches, by their place, that the check takes in then.
    running: whether a session runs it now, so that its memory is in use: within `with plan`.
    call, tag: the call that runs it, for messages; what its barriers are for, the same on all ranks.
    arena_bytes, packed_bytes: memory for what lives during a run; and for gradients, side by side.
    """

    def __init__(
        self,
        step: Step,
        nodes: Sequence[Operation],
        variables: dict[str, Any],
        backend: Backend,
        env: PlanEnv,
        loss_scales: Mapping[str, Any] = MappingProxyType({}),
        call: str = "",
        tag: int = 0,
    ) -> None:
        self.step = step
        self.backend = backend
        self.nodes = nodes
        stops = any(isinstance(n.kind, StopIfBad) for n in nodes)
        self.updates = stops or any(isinstance(n.kind, _Update) for n in nodes)
        self.warns = stops and step.losses is not None
        self.losses: dict[int, str] = {}
        written = (memory_of(n.inputs[i]).op for n in nodes for i in n.kind.writes)
        self.parameters = sorted({variable.name for variable in written if is_parameter(variable)})
        self.required, self.assigned = _variables(self.nodes, step.fetches)
        self.torn = _written_before(self.nodes, AllReduce | NodeBarrier | AllGather)
        self.loss_scales = [s for name, s in loss_scales.items() if name in self.required]
        self.early = _written_before(self.nodes, StopIfBad) if self.loss_scales or self.warns else []
        self.runs = 0  # counted by sessions of several ranks
        self.running = False
        #: The index of the kernel that runs, -1 between runs: on the board, where other ranks see it.
        self.position = env.comm.board.position
        self._board = env.comm.board
        layout = Layout(self.nodes, step, variables, backend, env)
        # plans come and go with the shapes of what is fed
        finalize(self, env.comm.give_back, layout.shared).atexit = False
        self.nodes = layout.nodes
        self.arena_bytes, self.packed_bytes = layout.arena_bytes, layout.packed_bytes
        self._arrays = layout.arrays
        self.kernel_nodes: list[Operation] = []
        #: The C function of each kernel, '' where it is NumPy's.
        self.kernel_symbols: list[str] = []
        bound: list[Kernel | NativeCall] = []
        for node in self.nodes:
            kernels = layout.bind(node)
            bound += kernels
            self.kernel_nodes += [node] * len(kernels)
            self.kernel_symbols += [getattr(k, "symbol", "") for k in kernels]
        if end := layout.end():
            bound += end
            self.kernel_nodes.append(next(n for n in reversed(self.nodes) if isinstance(n.kind, AllGather)))
            self.kernel_symbols.append(end[0].symbol)
        self._program: Program | None = None  # of all kernels, where all are C
        self._unwritten = layout.unwritten if ON else ()
        feeds = {n.kind.index: self._arrays[n.outputs[0]] for n in self.nodes if isinstance(n.kind, Feed)}
        self._feeds: list[tuple[int, Any]] = sorted(feeds.items())
        self._fetches = [self._arrays[t] for t in step.fetches]
        #: One call a kernel; calls does the same, all neighbours in C in one.
        self.kernels, self.calls = self._link(bound, layout)
        self._repeats = self._can_repeat()
        if step.native:  # for its local shapes a rank may lack a kernel in C or CUDA
            self._repeats = bool(env.comm.allreduce(np.array([self._repeats], np.int8), "min")[0])
        self.number = env.comm.board.describe(call, [*map(_label, self.kernel_nodes)])
        self._tag = tag

    def _link(
        self, bound: Sequence[Kernel | NativeCall], layout: Layout
    ) -> tuple[list[Kernel], list[Kernel]]:
        """The kernels as calls, one by one; and with those in C that follow one another as one."""
        native = [k for k in bound if isinstance(k, NativeCall)]
        if self.step.native:
            layout.code.compile()
        if not native:
            single = [self._placed(i, kernel) for i, kernel in enumerate(bound)]  # type: ignore[arg-type]  # all are kernels
            return single, single
        program = layout.code.program(native)
        if len(native) == len(bound):
            self._program, self._explain, self._undraw = program, layout.explain, layout.env.undraw
        single = []
        merged: list[Kernel] = []
        number = first = 0  # of calls in C: so far; where the run of neighbours began
        for i, kernel in enumerate(bound):
            if not isinstance(kernel, NativeCall):
                placed = self._placed(i, kernel)
                single.append(placed)
                merged.append(placed)
                continue
            if i == 0 or not isinstance(bound[i - 1], NativeCall):
                first = number
            number += 1
            offset = i + 1 - number
            single.append(self._native(program, number - 1, number, offset, layout))
            if i + 1 == len(bound) or not isinstance(bound[i + 1], NativeCall):
                merged.append(self._native(program, first, number, offset, layout))
        return single, merged

    def _placed(self, i: int, kernel: Kernel) -> Kernel:
        """Kernel i in NumPy, which says where it is as those in C do."""
        row = self._board.row

        def placed() -> None:
            row[POSITION] = i
            kernel()

        return placed

    def _native(self, program: Program, first: int, last: int, offset: int, layout: Layout) -> Kernel:
        """Calls first..last-1 of a program, the first of which is kernel first + offset."""
        call = program.caller(first, last, self.position, offset)

        def kernel() -> None:
            at = call()
            while at != last:
                if program.status[0] == NOT_FINITE:
                    raise NotFinite
                if program.status[0] == ELSEWHERE:
                    raise UsageError(self._board.different_calls())
                if program.status[0] == BAD_VALUE:
                    layout.explain(self.kernel_nodes[at + offset])
                # it waits for another rank of the node: signals are seen to between two calls
                at = program.caller(at, last, self.position, offset)()

        return kernel

    def __enter__(self) -> None:
        """It is going to run: the board says what this rank is in, and its barriers are this plan's."""
        self.running = True
        self._board.begin(self.number, self._tag)

    def __exit__(self, *exception: Any) -> None:
        self.running = False
        self._board.end(self.number, self._tag)

    def run(self, values: Sequence[Any], kernels: Sequence[Kernel] | None = None) -> list[Any]:
        """Run once; values: the local array of each feed, in order. Returns the fetched arrays, as copies.

        kernels: what runs in place of the plan's own, and does the same (a recorder's).
        """
        self._feed(values)
        # a NaN is a result, as in TensorFlow 1, not a warning on every rank; C gives none
        with nullcontext() if self._program else np.errstate(all="ignore"):
            self._board.row[PLAN] = self.number
            for call in kernels or self.calls:
                call()
            self._board.row[POSITION] = -1
        return [a.copy() if a.ndim else a[()] for a in self._fetches]

    def repeats(self, until: int | None) -> bool:
        """Whether all is C and fetch `until` a float32 scalar, as run_steps needs; agreed on."""
        last = None if until is None else self._fetches[until]
        return self._repeats and (last is None or (last.dtype == np.float32 and last.ndim == 0))

    def _can_repeat(self) -> bool:
        """Whether this rank's kernels, feeds and fetches are such that several steps can be one call."""
        arrays = [*self._fetches, *(buffer for _, buffer in self._feeds)]
        flat = all(a.flags.c_contiguous and a.dtype != object for a in arrays)
        return self._program is not None and flat

    def run_steps(self, rows: np.ndarray, values: Sequence[Any], until: int | None) -> list[list[Any]]:
        """run once for each of the rows, with nothing but kernels in between, if repeats(until).

        rows: what the first feed is given, in each step; values: as in run, of the others, the same in all.
        It ends after a step in which the fetch `until`, if any, is not 0. Returns what each step gave.
        """
        assert self._program is not None
        steps = len(rows)
        # what is the same is fed anew: a step may lay something else where a feed was
        given = [rows, *(np.asarray(value)[None].repeat(steps, 0) for value in values[1:])]
        self._poison()
        feeds = [(b, np.ascontiguousarray(given[index], b.dtype)) for index, b in self._feeds]
        outs = [np.empty((steps, *a.shape), a.dtype) for a in self._fetches]
        self._board.row[PLAN] = self.number
        done = 0
        for status, done, call in self._program.repeat(
            steps,
            feeds,
            list(zip(self._fetches, outs, strict=True)),
            np.zeros((), np.float32) if until is None else self._fetches[until],
            self.position,
            self._board.number,
        ):
            if status == NOT_FINITE:
                self._undraw(n.name for n in dict.fromkeys(self.kernel_nodes[:call]) if n.kind.draws)
                raise NotFinite([each[done] for each in given], by_step(outs, done))
            if status == ELSEWHERE:
                raise UsageError(self._board.different_calls())
            if status == BAD_VALUE:
                self._explain(self.kernel_nodes[call])
        self._board.row[POSITION] = -1
        return by_step(outs, done)

    def _poison(self) -> None:
        if self._unwritten:
            self.backend.use()
            for block in self._unwritten:
                poison(block)

    def _feed(self, values: Sequence[Any]) -> None:
        self._poison()
        for index, buffer in self._feeds:
            buffer[...] = values[index]

    def find_bad(self, values: Sequence[Any], ranks: int) -> tuple[int, str] | None:
        """Run again up to StopIfBad, and look where the first bad number comes from on this rank.

        Bad is a NaN, an infinity, and what is too large to be summed over the ranks. Returns the place of the
        node that makes it among all nodes, and what there is to say of it.

        Nothing has been written, so the same numbers come again. Every rank has to run it: the sums are among
        it. -1 is before all nodes. None: all of this rank's own numbers are good.
        """
        self._feed(values)
        ranks = 1 if self.step.bitwise else ranks  # nothing is summed over them
        found: tuple[int, str] | None = None
        for node in self.nodes:
            if isinstance(node.kind, Feed | VariableOp | Const) and node.outputs[0].dtype.is_floating:
                bad = self._count_bad(node.outputs[0], 1)
                if bad and found is None:
                    what = {Feed: "what is fed for", Const: "the constant"}.get(
                        type(node.kind), "the variable"
                    )
                    found = -1, f"{what} '{node.name}'{built(node)} holds {bad} of them"
        place = {node: i for i, node in enumerate(self.nodes)}
        with np.errstate(all="ignore"):
            for i, (kernel, node) in enumerate(zip(self.kernels, self.kernel_nodes, strict=True)):
                if isinstance(node.kind, StopIfBad):
                    break
                read = node.inputs if isinstance(node.kind, Fused | Joined) else ()
                ins = [np.array(self.backend.to_host(self._arrays[t])) for t in read]
                kernel()
                done = self.kernel_nodes[i + 1] is not node
                # a sum of the ranks is not this rank's own doing
                if found is None and done and not node.kind.summed:
                    bad = max((self._count_bad(t, ranks) for t in node.outputs), default=0)
                    if bad:
                        found = place[node], f"{_first_in(node, ins)}{built(node)} makes {bad} of them"
        self._board.row[POSITION] = -1
        return found

    def _count_bad(self, tensor: Tensor, ranks: int) -> int:
        if not tensor.dtype.is_floating:
            return 0
        array = self._arrays[tensor]
        return int(is_bad(self.backend.xp, array, largest(array.dtype, ranks)).sum())


def by_step(outs: Sequence[np.ndarray], steps: int) -> list[list[Any]]:
    """Of each step what the fetches gave, of arrays that hold it for each fetch."""
    return [list(row) for row in zip(*outs, strict=True)][:steps] if outs else [[] for _ in range(steps)]


def _first_in(node: Operation, ins: Sequence[Any]) -> str:
    """The op that makes the first bad number: of several in one loop, the first that does so in NumPy."""
    if isinstance(node.kind, Fused | Joined):
        return node.kind.first_bad(ins)
    return f"{node.type} '{node.name}'"


def _variables(nodes: Sequence[Operation], fetches: Sequence[Tensor]) -> tuple[list[str], list[str]]:
    """Names of the variables read before the plan assigns them, and of those that it assigns."""
    required: dict[str, None] = {}
    assigned: dict[str, None] = {}
    for node in nodes:
        if node.kind.is_view or isinstance(node.kind, NoOp):
            continue
        for i, tensor in enumerate(node.inputs):
            memory = memory_of(tensor).op
            if not isinstance(memory.kind, VariableOp) or i in (*node.kind.shape_only, *node.kind.peeks):
                continue
            if isinstance(node.kind, Assign) and i == 0:
                assigned[memory.name] = None
            elif memory.name not in assigned:
                required[memory.name] = None
    for memory in (memory_of(tensor).op for tensor in fetches):
        if isinstance(memory.kind, VariableOp) and memory.name not in assigned:
            required[memory.name] = None
    return list(required), list(assigned)


def _written_before(nodes: Sequence[Operation], kinds: Any) -> list[str]:
    """Names of the variables that are written before the last node of these kinds."""
    last = max((i for i, n in enumerate(nodes) if isinstance(n.kind, kinds)), default=0)
    written = (n.inputs[k] for n in nodes[:last] for k in n.kind.writes)
    return sorted({memory_of(tensor).op.name for tensor in written})


def _label(node: Operation) -> str:
    """A node's kernel for messages: 'MatMul(hidden_1/MatMul)'; of a sum the first tensor that it sums."""
    name = node.inputs[0].op.name if isinstance(node.kind, AllReduce | NodeBarrier) else node.name
    return f"{node.type}({name}{', ...' if len(node.outputs) > 1 else ''})"
