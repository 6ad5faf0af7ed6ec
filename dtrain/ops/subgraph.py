"""Loops and branches: ops that hold parts of the graph, of which a plan has a copy each time one is taken.

A part is built into the user's graph like anything else and then cut out of it: a Body is what lies between
its arguments and its results. `prune` puts copies of it in the op's place, one for each step of a Loop, one
or both of a Cond. So no pass and no kernel knows of loops, a step's ops are placed among the ranks as all
are, and ranks cannot take different ways around a sum. A gradient is the same kind of op on the body's
gradient: it computes the body's values again, and `cse` finds that they are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np

from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Operation, Spec, Tensor, built, get_default_graph
from dtrain.graph.shape import Dims, compatible, is_static, shape_text
from dtrain.ops.array import ZerosLike
from dtrain.ops.base import Op, Placeholder, apply, register
from dtrain.ops.logic import logical_not, where
from dtrain.ops.math import add
from dtrain.ops.placeholders import PlaceholderWithDefault
from dtrain.ops.state import VariableOp

#: Steps of a loop that a plan holds at most.
MOST_STEPS = 100_000

#: Gradients of ys to xs, which count as given, where grad_ys flow into ys: (ys, xs, grad_ys) -> for each x.
Backward = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], "list[Tensor | None]"]


@register
class Argument(Op):
    """What is in a body in place of a value that each step gives it."""

    shape: Dims
    dtype: DType
    stateful = True

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        return [Spec(self.shape, self.dtype)]


class Body:
    """A part of a graph: what lies between its formal arguments and its results.

    captures: what it reads from outside, the same in all steps. waits: operations outside that come before.
    nodes: its operations, each after those that it depends on.
    saved: what a gradient cannot compute again, such as random numbers, and what comes after a write.
    """

    def __init__(
        self, formals: Sequence[Tensor], results: Sequence[Tensor], inside: Callable[[Operation], bool]
    ) -> None:
        self.formals, self.results = tuple(formals), tuple(results)
        stop, found = set(formals), set[Operation]()
        captures: dict[Tensor, None] = {}
        waits: dict[Operation, None] = {}
        stack: list[Tensor | Operation] = [*reversed(self.results)]
        while stack:
            item = stack.pop()
            node = item.op if isinstance(item, Tensor) else item
            if item in stop or node in found:
                continue
            if inside(node):
                found.add(node)
                stack += [*node.control_inputs, *reversed(node.inputs)]
            elif isinstance(item, Tensor):
                captures[item] = None
            else:
                waits[node] = None
        self.captures, self.waits = tuple(captures), tuple(waits)
        self.nodes = tuple(sorted(found, key=lambda n: n.id))
        kept = (n for n in self.nodes if _keeps(n.kind) or found.intersection(n.control_inputs))
        self.saved = tuple(t for n in kept for t in n.outputs)

    def __repr__(self) -> str:
        return f"Body({[(n.name, n.kind) for n in self.nodes]})"


def _keeps(kind: Op) -> bool:
    """Whether another copy of an op would give something else, or have an effect once more."""
    if isinstance(kind, Subgraph):
        return any(body.saved for body in kind.bodies())
    return kind.stateful


class Recorder:
    """Makes bodies of what has been built since it was made, and of `also`."""

    def __init__(self, also: Iterable[Operation] = ()) -> None:
        self._first = len(get_default_graph().operations)
        self._also = set(also)

    def _inside(self, node: Operation) -> bool:
        fixed = isinstance(node.kind, VariableOp | Placeholder | PlaceholderWithDefault)
        return node in self._also or (node.id >= self._first and not fixed)

    def body(self, formals: Sequence[Tensor], results: Sequence[Tensor]) -> Body:
        """What lies between the two of what has been built."""
        return Body(formals, results, self._inside)


def argument(spec: Spec, name: str) -> Tensor:
    """A formal argument for a body that is going to be built."""
    return apply(Argument(spec.shape, spec.dtype), name=name)


# -- tensors of a plan -------------------------------------------------------------------------------------
class Pieces:
    """A tensor as its entries along axis 0, put together only where somebody asks for all."""

    def __init__(self, entries: Sequence[Planned | None], entry: Spec) -> None:
        self.entries = list(entries)  # None is an entry of a TensorArray that nothing was written to
        self._spec = entry
        self._whole: Tensor | None = None

    def whole(self) -> Tensor:
        from dtrain.ops.array import expand_dims, zeros
        from dtrain.ops.join import Concat

        if self._whole is None:
            shape = self._spec.shape
            given = [None if entry is None else whole(entry) for entry in self.entries]
            known = next((t for t in given if t is not None), None)
            if known is not None:
                rows = [expand_dims(zeros(known.shape, known.dtype) if t is None else t, 0) for t in given]
                self._whole = apply(Concat(0, len(rows)), *rows)
            elif given and is_static(shape):
                self._whole = zeros((len(given), *shape), self._spec.dtype)
            elif shape is not None and is_static(shape):
                self._whole = zeros((0, *shape), self._spec.dtype)
            else:
                raise InvalidArgumentError(
                    "a loop of no steps has no outputs whose shape is known: give it inputs with entries"
                )
        return self._whole


class Missing:
    """A tensor that there is not, and why."""

    def __init__(self, why: str) -> None:
        self.why = why


Planned = Tensor | Pieces | Missing


def whole(planned: Planned) -> Tensor:
    """The tensor itself. Raises InvalidArgumentError where it is Missing."""
    if isinstance(planned, Missing):
        raise InvalidArgumentError(planned.why)
    return planned.whole() if isinstance(planned, Pieces) else planned


def entries(planned: Planned) -> list[Any]:
    """A tensor's entries along axis 0. Raises InvalidArgumentError where it is Missing."""
    if isinstance(planned, Pieces):
        return planned.entries
    tensor = whole(planned)
    assert tensor.spec.shape
    return [tensor[i] for i in range(tensor.spec.shape[0] or 0)]


class Copier(Protocol):
    """What `prune` gives to `expand`: puts bodies into the plan's graph."""

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
        """Copy it; returns its results and what of it is saved.

        step: of a loop, which draws other random numbers in each; once: keeps what is the same in all.
        under: the condition on which it may write.
        """

    def known(self, planned: Planned) -> np.ndarray | None:
        """The value of a tensor, where it follows from shapes and constants."""

    def loop(self, node: Operation, test: Body, body: Body, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """One op that takes steps while a test of values holds. inputs: carried ones, then captures."""


class Subgraph(Op):
    """An op that holds bodies, which `prune` puts in its place."""

    stateful = True  # its value is nothing to compute while a graph is built

    @property
    def own(self) -> int:
        """How many of its outputs are results, and not what a gradient needs."""
        raise NotImplementedError

    def bodies(self) -> list[Body]:
        return [value for value in vars(self).values() if isinstance(value, Body)]

    def captures(self) -> list[Tensor]:
        """What its bodies read from outside: its last inputs."""
        return list(dict.fromkeys(t for body in self.bodies() for t in body.captures))

    def add(self, inputs: Sequence[Tensor], name: str) -> Operation:
        """The operation that takes these inputs, and the captures."""
        waits = tuple(w for body in self.bodies() for w in body.waits)
        return get_default_graph().add(self, (*inputs, *self.captures()), name, waits)

    def expand(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        """What its outputs are in a plan."""
        raise NotImplementedError

    def backward(
        self, node: Operation, dys: Sequence[Tensor | None], gradients: Backward
    ) -> Sequence[Tensor | None]:
        """Gradients to its inputs; `gradients` makes those of a body."""
        raise NotImplementedError


def _slopes(found: Sequence[Tensor | None], sources: Sequence[Tensor]) -> list[Tensor]:
    """Gradients, with zeros where none flows."""
    return [apply(ZerosLike(), x) if d is None else d for d, x in zip(found, sources, strict=True)]


# -- branches ------------------------------------------------------------------------------------------------
@register
class Cond(Subgraph):
    """Inputs: a boolean scalar, formal arguments, captures. Outputs: the results, and what each branch saves.

    Where the condition is known when a plan is made, the plan has that branch alone. Else it has both, each
    writes on its condition, and the results are chosen: the cost is that of both.
    """

    yes: Body
    no: Body

    @property
    def own(self) -> int:
        return len(self.yes.results)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        if specs[0].shape not in ((), None) or not specs[0].dtype.is_bool:
            raise GraphError(f"a condition is one boolean, and {specs[0]} is not")
        outs = []
        for a, b in zip(self.yes.results, self.no.results, strict=True):
            if a.dtype != b.dtype:
                raise GraphError(f"the branches give {a.dtype.name} and {b.dtype.name}: cast one of them")
            outs.append(Spec(common(a.spec.shape, b.spec.shape), a.dtype))
        return [*outs, *(t.spec for t in (*self.yes.saved, *self.no.saved))]

    def expand(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        formals = inputs[1 : 1 + len(self.yes.formals)]
        captures = dict(zip(self.captures(), inputs[1 + len(formals) :], strict=True))
        known = copy.known(inputs[0])
        if known is not None:
            taken, other = (self.yes, self.no) if known else (self.no, self.yes)
            results, saved = copy.body(taken, formals, captures)
            none = [Missing(f"{node.name}: this branch is not taken")] * len(other.saved)
            return [*results, *saved, *none] if known else [*results, *none, *saved]
        condition = whole(inputs[0])
        ways = ((self.yes, condition), (self.no, logical_not(condition)))
        (a, saved_a), (b, saved_b) = (copy.body(w, formals, captures, under=c) for w, c in ways)
        chosen: list[Planned] = []
        for x, y in zip(map(whole, a), map(whole, b), strict=True):
            if x.spec.shape != y.spec.shape:
                raise InvalidArgumentError(
                    f"{node.name}{built(node)}: its branches give {shape_text(x.spec.shape)} and "
                    f"{shape_text(y.spec.shape)}, and which is taken follows from values: shapes are known "
                    "before, so both have to give the same."
                )
            chosen.append(x if x is y else where(condition, x, y, name=node.name))
        return [*chosen, *saved_a, *saved_b]

    def backward(
        self, node: Operation, dys: Sequence[Tensor | None], gradients: Backward
    ) -> Sequence[Tensor | None]:
        saved = (*self.yes.saved, *self.no.saved)
        formals = (*self.yes.formals, *saved)
        given = (*self.yes.formals, *self.captures())
        sources = [t for t in given if t.dtype.is_floating]
        bodies = []
        for body in (self.yes, self.no):
            recorder = Recorder(body.nodes)
            pairs = zip((*body.results, *saved), dys, strict=True)
            flowing = [(t, dy) for t, dy in pairs if dy is not None and (t not in saved or t in body.saved)]
            found = gradients([t for t, _ in flowing], sources, [dy for _, dy in flowing])
            bodies.append(recorder.body(formals, _slopes(found, sources)))
        kept = node.outputs[len(self.yes.results) :]
        inputs = (*node.inputs[: 1 + len(self.yes.formals)], *kept)
        made = Cond(*bodies).add(inputs, "Cond")
        slopes = dict(zip(sources, made.outputs, strict=False))
        return [None, *(slopes.get(t) for t in given)]


def common(a: Dims, b: Dims) -> Dims:
    """The shape that two values both have, as far as they agree."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(m if m == n else None for m, n in zip(a, b, strict=True))


# -- loops -------------------------------------------------------------------------------------------------
@register
class Loop(Subgraph):
    """A body taken for each entry of some inputs, or while a test holds.

    Formal arguments of the body: `carried` values that go round, then an entry of each of `scanned` inputs.
    Its results: the next carried values; what is stacked, one entry a step; and what is added up.
    Inputs: the first carried values, the scanned ones, captures. Outputs: the last carried values; what is
    stacked, followed by each step's carried values and what it saves, for the gradient; the sums.

    test: takes the carried values, and says whether there is another step. It has to follow from shapes and
    constants, or the whole loop becomes one op that has no gradient; unless its second result, a bound on
    the number of steps, does.
    likes: captures that have the shapes of what is added up.
    backwards: whether it begins with the last entry.
    """

    body: Body
    test: Body | None
    carried: int
    scanned: int
    likes: tuple[Tensor, ...] = ()
    backwards: bool = False

    @property
    def summed(self) -> int:  # type: ignore[override]  # loops are unrolled: a plan, which asks ops, has none
        return len(self.likes)

    def captures(self) -> list[Tensor]:
        return list(dict.fromkeys((*super().captures(), *self.likes)))

    @property
    def own(self) -> int:
        return len(self.body.results) - self.summed

    def _stacked(self) -> tuple[Tensor, ...]:
        results = self.body.results
        own = results[self.carried : len(results) - self.summed]
        return (*own, *self.body.formals[: self.carried], *self.body.saved)

    def infer(self, *specs: Spec) -> Sequence[Spec]:
        scanned = specs[self.carried : self.carried + self.scanned]
        sizes = [s.shape[0] for s in scanned if s.shape]
        steps = next((n for n in sizes if n is not None), None)
        results = [t.spec for t in self.body.results]
        last = [
            Spec(common(a.shape, b.shape), b.dtype)
            for a, b in zip(specs, results[: self.carried], strict=False)
        ]
        stacked = [
            Spec(None if s.shape is None else (steps, *s.shape), s.dtype)
            for s in (t.spec for t in self._stacked())
        ]
        return [*last, *stacked, *results[len(results) - self.summed :]]

    def expand(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        first, fixed = self.carried, self.carried + self.scanned
        carried, captures = list(inputs[:first]), dict(zip(self.captures(), inputs[fixed:], strict=True))
        streams = [entries(x) for x in inputs[first:fixed]]
        lengths = {len(stream) for stream in streams}
        if len(lengths) > 1:
            raise InvalidArgumentError(
                f"{node.name}{built(node)}: its inputs have {sorted(lengths)} entries."
            )
        steps: Iterable[int] = range(*lengths) if lengths else count()
        stacks: list[list[Planned]] = [[] for _ in self._stacked()]
        sums: list[list[Tensor]] = [[] for _ in range(self.summed)]
        once: dict[Any, Any] = {}
        for step in reversed(range(*lengths)) if self.backwards else steps:
            if step == MOST_STEPS:
                raise InvalidArgumentError(
                    f"{node.name}{built(node)}: it takes more than {MOST_STEPS:,} steps, each of which would "
                    "be a part of the plan."
                )
            if self.test is not None:
                more, _ = copy.body(self.test, carried, captures, step=step, once=once)
                values = [copy.known(m) for m in more]
                if values[0] is None and values[-1] is None:
                    return self._by_values(node, inputs, copy)
                if not all(v or v is None for v in values):
                    break
            given = [*carried, *(stream[step] for stream in streams)]
            results, saved = copy.body(self.body, given, captures, step=step, once=once)
            end = len(results) - self.summed
            for stack, value in zip(stacks, [*results[first:end], *carried, *saved], strict=True):
                stack.append(value)
            for terms, value in zip(sums, results[end:], strict=True):
                terms.append(whole(value))
            carried = results[:first]
        made = [stack[::-1] if self.backwards else stack for stack in stacks]
        pieces = [Pieces(m, t.spec) for m, t in zip(made, self._stacked(), strict=True)]
        return [
            *carried,
            *pieces,
            *(_sum(terms, whole(captures[t])) for terms, t in zip(sums, self.likes, strict=True)),
        ]

    def _by_values(self, node: Operation, inputs: Sequence[Planned], copy: Copier) -> list[Planned]:
        assert self.test is not None
        if self.scanned or self.summed:
            raise InvalidArgumentError(
                f"{node.name}{built(node)}: how many steps it has follows from values."
            )
        last = copy.loop(node, self.test, self.body, [whole(x) for x in inputs])
        none = Missing(
            f"{node.name}{built(node)}: how many steps this loop takes follows from values, so nothing of "
            "its steps is kept, and it has no gradient: give while_loop maximum_iterations, or a condition "
            "on a counter."
        )
        return [*last, *[none] * len(self._stacked())]

    def backward(
        self, node: Operation, dys: Sequence[Tensor | None], gradients: Backward
    ) -> Sequence[Tensor | None]:
        body, first, fixed = self.body, self.carried, self.carried + self.scanned
        stacked = self._stacked()
        ends = node.outputs[first : first + len(stacked)]
        hidden = ends[len(stacked) - first - len(body.saved) :]  # carried values, and what is saved
        turning = [i for i in range(first) if body.results[i].dtype.is_floating]
        into = [argument(body.results[i].spec, "flow") for i in turning]
        back = [(t, dy) for t, dy in zip(stacked, dys[first:], strict=False) if dy is not None]
        slices = [argument(t.spec, "flow") for t, _ in back]
        totals = [
            (t, dy)
            for t, dy in zip(
                body.results[len(body.results) - self.summed :], dys[first + len(stacked) :], strict=True
            )
            if dy is not None
        ]
        recorder = Recorder(body.nodes)
        ys = [*(body.results[i] for i in turning), *(t for t, _ in [*back, *totals])]
        around = [body.formals[i] for i in turning]
        given = [t for t in body.formals[first:] if t.dtype.is_floating]
        captured = [t for t in self.captures() if t.dtype.is_floating]
        sources = [*around, *given, *captured]
        found = gradients(ys, sources, [*into, *slices, *(dy for _, dy in totals)])
        pairs = zip(captured, found[len(sources) - len(captured) :], strict=True)
        likes = tuple(t for t, d in pairs if d is not None)
        results = _slopes(found[: len(around) + len(given)], [*around, *given])
        results += [d for d in found[len(results) :] if d is not None]
        formals = [*into, *body.formals[:first], *body.saved, *body.formals[first:], *slices]
        loop = Loop(
            recorder.body(formals, results),
            None,
            len(into),
            len(formals) - len(into),
            likes,
            not self.backwards,
        )
        zeros = [apply(ZerosLike(), node.outputs[i]) if dys[i] is None else dys[i] for i in turning]
        scanned = [*hidden, *node.inputs[first:fixed], *(dy for _, dy in back)]
        made = loop.add([*zeros, *scanned], "Loop").outputs  # type: ignore[list-item]  # none is None
        slopes: dict[Tensor, Tensor] = dict(zip(around, made, strict=False))
        slopes.update(zip(given, made[len(into) :], strict=False))
        slopes.update(zip(likes, made[len(made) - len(likes) :], strict=True))
        return [slopes.get(t) for t in (*body.formals, *self.captures())]


def _sum(terms: list[Tensor], like: Tensor) -> Tensor:
    """Terms added up; zeros in the shape of `like` where there are none."""
    if not terms:
        return apply(ZerosLike(), like)
    while len(terms) > 1:
        terms[:2] = [add(terms[0], terms[1])]
    return terms[0]


def check_carried(what: str, before: Spec, after: Spec) -> None:
    """Raise GraphError where what a step hands on does not fit what it was given."""
    if before.dtype != after.dtype:
        raise GraphError(
            f"{what} is {before.dtype.name} before a step and {after.dtype.name} after it: cast it."
        )
    if not compatible(before.shape, after.shape):
        raise GraphError(
            f"{what} has the shape {shape_text(before.shape)} before a step and {shape_text(after.shape)} "
            "after it; say with shape_invariants which sizes change."
        )
