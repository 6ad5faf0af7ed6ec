"""How planning grows with the graph; its orders and places, against slow versions that look at every pair."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import GraphError
from dtrain.graph.graph import Operation
from dtrain.ops.memory import aligned
from dtrain.ops.placement import Sharded
from dtrain.passes import FeedSpec, compile_step
from dtrain.passes.order import dependencies, ordered
from dtrain.passes.prune import prune
from dtrain.passes.step import Step, memory_of, predecessors
from dtrain.runtime.backend import make_backend
from dtrain.runtime.memory import Buffer, pack

Program = tuple[dt.Tensor, Any, dict[dt.Tensor, np.ndarray]]


# -- growth ----------------------------------------------------------------------------------------------
def _layers(n: int) -> Program:
    """A chain of Dense layers."""
    x = h = dt.placeholder("float32", [None, 4])
    for _ in range(n):
        h = dt.nn.relu(dt.matmul(h, dt.Variable(np.eye(4, dtype="f4"))) + dt.Variable(np.ones(4, "f4")))
    loss = dt.reduce_mean(dt.square(h))
    return loss, dt.train.AdamOptimizer().minimize(loss), {x: np.ones((7, 4), "f4")}


def _cells(n: int) -> Program:
    """A recurrent cell, unrolled: many reads of one variable, and many terms of its gradient."""
    x = dt.placeholder("float32", [None, n, 4])
    w, u = (dt.Variable(np.eye(4, dtype="f4")) for _ in range(2))
    h = dt.zeros([7, 4])
    for i in range(n):
        h = dt.tanh(dt.matmul(x[:, i], w) + dt.matmul(h, u))
    loss = dt.reduce_mean(dt.square(h))
    return loss, dt.train.GradientDescentOptimizer(0.1).minimize(loss), {x: np.ones((7, n, 4), "f4")}


def _penalties(n: int) -> Program:
    """Many small parameters, each with a scalar in the loss."""
    x = dt.placeholder("float32", [None])
    loss = dt.reduce_sum(x)
    for i in range(n):
        loss += dt.reduce_sum(dt.square(dt.Variable(np.full(3, i, "f4"))))
    return loss, dt.train.MomentumOptimizer(0.1, 0.9).minimize(loss), {x: np.ones(7, "f4")}


def _lines(work: Callable[[], Any]) -> int:
    """How many lines of Python it runs; a comprehension's is counted for each entry."""
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("program", [_layers, _cells, _penalties])
def test_initialising_and_the_first_step_grow_with_the_graph(
    program: Callable[[int], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtrain.native.code.Code.compile", lambda self: None)  # it waits for a compiler
    monkeypatch.setattr("dtrain.runtime.plan.Plan._link", lambda self, bound, layout: ([], []))

    def lines(n: int) -> int:
        dt.reset_default_graph()
        loss, train, feeds = program(n)
        session = dt.Session(comm=None, device=make_backend("cpu", kernels="c"))
        session.run(dt.global_variables_initializer())
        return _lines(lambda: session.run([loss, train], feeds))

    lines(4)  # what is imported and looked up once
    assert lines(80) < 4.4 * lines(20)


@pytest.mark.parametrize("program", [_layers, _cells, _penalties])
def test_passes_for_several_ranks_grow_with_the_graph(program: Callable[[int], Program]) -> None:
    def lines(n: int) -> int:
        dt.reset_default_graph()
        loss, train, feeds = program(n)
        specs = [FeedSpec(t, a.shape, Sharded(0)) for t, a in feeds.items()]
        return _lines(lambda: compile_step([loss], [train], specs, 3, True, checked=True, shares=True))

    lines(4)
    assert lines(80) < 4.4 * lines(20)


# -- orders and places -----------------------------------------------------------------------------------
def _slow(step: Step) -> dict[Operation, set[Operation]]:
    """dependencies(), by its definition: each write of a variable with each node that reads it."""
    nodes = step.graph.operations
    before = {n: predecessors(n) & {*nodes} for n in nodes}
    behind: dict[Operation, set[Operation]] = {}
    for n in nodes:
        behind[n] = before[n].union(*(behind[p] for p in before[n]))
    writes = {n: {memory_of(n.inputs[i]) for i in n.kind.writes} for n in nodes}
    for w, written in enumerate(nodes):
        for r, reader in enumerate(nodes):
            for memory in writes[written] & {memory_of(t) for t in reader.inputs}:
                if reader is written or reader.kind.is_view or written in behind[reader]:
                    continue
                later = any(memory in writes[n] for n in behind[reader] if nodes.index(n) > w)
                if r < w if memory in writes[reader] else not later:
                    before[written].add(reader)
    return before


@pytest.mark.parametrize("seed", range(40))
def test_reads_and_writes_are_ordered_as_each_pair_of_them_asks(seed: int) -> None:
    draw = random.Random(seed)
    variables = [dt.Variable(np.zeros(2, "f4")) for _ in range(3)]
    made: list[Any] = [v.value() for v in variables]
    for _ in range(12):
        variable, value = draw.choice(variables), draw.choice(made)
        with dt.control_dependencies(draw.sample(made, draw.choice([0, 0, 1, 2]))):
            what = draw.randrange(5)
            if what == 0:
                made.append(variable.assign(value))
            elif what == 1:
                made.append(variable.assign_add(value))
            elif what == 2:
                made.append(dt.reshape(variable, [2, 1])[:, 0])
            else:
                made.append(value + draw.choice([*made, variable]))
    step = prune(draw.sample(made, 5), [], [], 1)

    def order(before: dict[Operation, set[Operation]]) -> list[str]:
        try:
            return [node.name for node in ordered(list(before), before)]
        except GraphError as error:  # a circle
            return [str(error)]

    assert order(dependencies(step)) == order(_slow(step))


@pytest.mark.parametrize("seed", range(20))
def test_buffers_lie_at_the_lowest_place_that_is_free_over_their_life(seed: int) -> None:
    draw = random.Random(seed)
    buffers = []
    for _ in range(draw.randrange(80)):
        first = draw.randrange(100)
        nbytes = draw.choice([0, 4, 64, 1000, draw.randrange(9999)])
        buffers.append(Buffer(nbytes, first, first + draw.randrange(40)))
    total = pack(buffers)
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.nbytes, b.first)):
        alive = [p for p in placed if p.first <= buffer.last and buffer.first <= p.last]
        offset = 0
        for other in sorted(alive, key=lambda p: p.offset):
            if offset + aligned(buffer.nbytes) <= other.offset:
                break
            offset = max(offset, other.offset + aligned(other.nbytes))
        assert buffer.offset == offset
        placed.append(buffer)
    assert total == max((b.offset + aligned(b.nbytes) for b in placed), default=0)
