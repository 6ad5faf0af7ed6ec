"""How nodes of the user's graph become those of a plan: at known shapes, with bodies for what holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.graph import Graph, Operation, Spec, Tensor, built
from dtrain.graph.shape import is_static, size_of
from dtrain.ops.array import Identity
from dtrain.ops.base import Const, Op, Value, constant
from dtrain.ops.evaluate import evaluate
from dtrain.ops.late import Late, known_value
from dtrain.ops.logic import logical_and, where
from dtrain.ops.placeholders import PlaceholderWithDefault
from dtrain.ops.placement import REPLICATED
from dtrain.ops.state import Assign, AssignAdd, AssignSub, NoOp
from dtrain.ops.subgraph import Argument, Body, Planned, Subgraph, whole
from dtrain.ops.while_ import Part, While
from dtrain.passes.local import cse, fold, lower, simplify
from dtrain.passes.step import Step

#: Entries up to which a value within a loop is computed here, where what it is made of is known.
SMALL = 16


class Copies:
    """What nodes of the user's graph are in the plan; of a body, in one copy of it."""

    def __init__(self, outer: Copies | None = None) -> None:
        self.outer = outer
        self.tensors: dict[Tensor, Planned] = {}
        self.operations: dict[Operation, Operation] = {}

    def operation(self, node: Operation) -> Operation:
        copies: Copies | None = self
        while copies is not None:
            if node in copies.operations:
                return copies.operations[node]
            copies = copies.outer
        raise InvalidArgumentError(_not_outside(node))


class Copier:
    """Copies nodes at known shapes into a plan's graph; what ops with bodies get (see ops/subgraph.py).

    prune: makes a step of its own, of a loop whose steps are not counted.
    """

    def __init__(self, graph: Graph, prune: Callable[..., Step]) -> None:
        self._graph, self._prune = graph, prune
        self._now = Copies()  # what is being copied into
        self._steps: tuple[int, ...] = ()  # of the loops around
        self._under: Tensor | None = None  # what writes depend on
        self._memo: dict[Tensor, Any] = {}

    def add(self, node: Operation, copies: Copies) -> None:
        """Copy a node whose inputs have been, or what is in it.

        Raises:
            InvalidArgumentError: an op does not fit these shapes, or is within a loop or branch.
        """
        if isinstance(node.kind, Argument):
            raise InvalidArgumentError(_not_outside(node))
        control = tuple(dict.fromkeys(copies.operation(c) for c in node.control_inputs))
        planned = [copies.tensors[t] for t in node.inputs]
        self._graph.source = node.source
        made: Sequence[Planned]
        if isinstance(node.kind, Subgraph):
            before, self._now, first = self._now, copies, len(self._graph.operations)
            made = node.kind.expand(node, planned, self)
            self._now = before
            # who waits for it waits for its results and writes
            done = [t.op for t in made[: node.kind.own] if isinstance(t, Tensor)]
            done += [n for n in self._graph.operations[first:] if n.kind.writes]
            waits = tuple(dict.fromkeys((*control, *done)))
            copies.operations[node] = self._operation(node, NoOp(), (), waits, [])
        else:
            inputs = tuple(whole(p) for p in planned)
            if self._under is not None and node.kind.writes:
                inputs = self._guarded(node, inputs)
            copy = copies.operations[node] = self._at_known_shapes(node, inputs, control)
            made = copy.outputs
        for old, new in zip(node.outputs, made, strict=True):
            copies.tensors.setdefault(old, new)

    def _at_known_shapes(
        self, node: Operation, inputs: tuple[Tensor, ...], control: tuple[Operation, ...]
    ) -> Operation:
        kind = node.kind.settled(node)
        if isinstance(kind, PlaceholderWithDefault):
            kind = Identity()  # it is not fed
        try:
            if isinstance(kind, Late):  # what its attributes come from is a constant at these shapes
                kind, inputs = kind.resolve(inputs)
            specs = kind.infer(*(t.spec for t in inputs))
        except GraphError as error:
            operands = " and ".join(f"{t.op.name} {t.spec}" for t in inputs)
            raise InvalidArgumentError(
                f"{node.name}{built(node)} does not fit what is fed: with {operands}, {error}."
            ) from None
        if self._steps:
            if kind.draws:
                kind = _other_numbers(kind, self._steps)
            elif not (kind.stateful or control) and inputs and _is_small(specs):
                arrays = [t.op.kind.value.array for t in inputs if isinstance(t.op.kind, Const)]
                if len(arrays) == len(inputs):  # a counter, above all
                    kind, inputs = Const(Value(evaluate(kind, arrays)[0])), ()
        return self._operation(node, kind, inputs, control, specs)

    def _operation(
        self,
        node: Operation,
        kind: Op,
        inputs: tuple[Tensor, ...],
        control: tuple[Operation, ...],
        specs: Sequence[Spec],
    ) -> Operation:
        name = "/".join((node.name, *map(str, self._steps)))
        copy = Operation(self._graph, name, kind, inputs, control, specs, node.source)
        self._graph.operations.append(copy)
        return copy

    def _guarded(self, node: Operation, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inputs of a write that changes nothing where its branch is not taken."""
        assert self._under is not None
        variable, value, *_ = inputs
        if isinstance(node.kind, Assign):
            return variable, where(self._under, value, variable)
        if isinstance(node.kind, AssignAdd | AssignSub):
            return variable, where(self._under, value, constant(0, value.dtype))
        raise InvalidArgumentError(
            f"{node.type} '{node.name}'{built(node)} is in a branch that is taken by values, where only "
            "assign, assign_add and assign_sub can be, since a plan is made before there are values. Make "
            "the condition of a boolean placeholder, or run the operation by a call of its own."
        )

    # -- what ops with bodies ask for ----------------------------------------------------------------------
    def body(
        self,
        body: Body,
        formals: Sequence[Planned],
        captures: Mapping[Tensor, Planned],
        *,
        step: int | None = None,
        once: dict[Any, Any] | None = None,
        under: Tensor | None = None,
    ) -> tuple[list[Planned], list[Planned]]:
        copies = Copies(self._now)
        copies.tensors.update(zip(body.formals, formals, strict=True))
        copies.tensors.update((t, captures[t]) for t in body.captures)
        before = self._steps, self._under
        if step is not None:
            self._steps = (*self._steps, step)
        if under is not None:
            self._under = under if self._under is None else logical_and(self._under, under)
        # nodes that are the same in all steps
        fixed: dict[Operation, Operation] = {} if once is None else once.setdefault(body, {})
        given = set(body.captures)
        for node in body.nodes:
            if node in fixed:
                copies.operations[node] = fixed[node]
                copies.tensors.update(zip(node.outputs, fixed[node].outputs, strict=True))
                continue
            self.add(node, copies)
            same = all(t in given or t.op in fixed for t in node.inputs)
            if same and not node.kind.stateful and not node.control_inputs:
                fixed[node] = copies.operations[node]
        self._steps, self._under = before
        return [copies.tensors[t] for t in body.results], [copies.tensors[t] for t in body.saved]

    def known(self, planned: Planned) -> np.ndarray | None:
        value = known_value(whole(planned), self._memo)
        return None if value is None or value.dtype == object else value

    def loop(self, node: Operation, test: Body, body: Body, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        assert isinstance(node.kind, Subgraph)
        carried = inputs[: len(body.formals)]
        where_ = f"{node.name}{built(node)}: how many steps this loop takes follows from values, and"
        parts = []
        for part, results in ((test, test.results[:1]), (body, body.results)):
            tensors = (*part.formals, *node.kind.captures())
            feeds = [(t, x.spec.shape, REPLICATED, None) for t, x in zip(tensors, inputs, strict=True)]
            step = self._prune(results, (), feeds, 1)
            for simpler in (lower, fold, simplify, cse):
                step = simpler(step)
            for written in (n for n in step.graph.operations if n.kind.writes):
                raise InvalidArgumentError(
                    f"{where_} it writes {written.inputs[0].op.name}: only a loop with counted steps can."
                )
            parts.append(Part(tuple(step.graph.operations), step.fetches))
        for before, after in zip(carried, parts[1].results, strict=True):
            if before.spec != after.spec:
                raise InvalidArgumentError(
                    f"{where_} {before.spec} becomes {after.spec} in one: shapes have to be known before."
                )
        begin = constant(True) if self._under is None else self._under
        specs = [t.spec for t in carried]
        return self._operation(node, While(*parts, len(carried)), (begin, *inputs), (), specs).outputs


def _other_numbers(kind: Op, steps: tuple[int, ...]) -> Op:
    """An op that draws, with random numbers of its own in each step of the loops around it."""
    seed = kind.seed  # type: ignore[attr-defined]  # ops that draw have one
    for step in steps:
        seed = (seed * 1_000_003 + step + 1) % (1 << 61)
    return type(kind)(**vars(kind) | {"seed": seed - (1 << 61)})


def _is_small(specs: Sequence[Spec]) -> bool:
    return len(specs) == 1 and is_static(specs[0].shape) and size_of(specs[0].shape) <= SMALL


def _not_outside(node: Operation) -> str:
    return (
        f"{node.name}{built(node)} is within a loop or a branch, and has a value only there: take what cond, "
        "while_loop or scan returns."
    )
