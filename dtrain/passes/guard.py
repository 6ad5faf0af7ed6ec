"""guard: a step of training writes nothing unless its loss and gradients are finite numbers."""

from __future__ import annotations

from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.ops.check import HasBad, StopIfBad
from dtrain.ops.collective import AllGather, AllReduce
from dtrain.ops.placement import PARTIAL, REPLICATED
from dtrain.ops.state import Assign, is_parameter
from dtrain.passes.step import Rebuild, Step, ancestors, memory_of, predecessors

#: Entries of a gradient up to which it is looked at for a warning: to read it takes no time.
SMALL = 4096


def guard(step: Step) -> Step:
    """Put StopIfBad before every write of a step that updates parameters, where the step is to be checked.

    It looks at what is written, gradients above all, and at the scalars that are fetched, such as the loss:
    at each rank's terms of what is about to be summed, so that the verdict goes into the same bucket.
    Verdicts are summed even where all ranks should find the same, or a rank whose hardware fails would stop
    alone. A write that the gradients depend on comes before them, unguarded.

    Where it only leads to a warning, it looks at the losses and the small gradients: a NaN in a layer is in
    the gradient of its bias, too, and to read all gradients takes some hundredths of a step. What only a
    large one shows is found a step later, in the parameter.
    """
    if not step.checked:
        return step
    nodes = step.graph.operations
    updates = [n for n in nodes if n.kind.writes and n.kind.packs] or [n for n in nodes if _by_hand(n)]
    if not updates:
        return step
    gradients = [n.inputs[i] for n in updates for i in n.kind.packs or [1]]
    earlier = ancestors([t.op for t in gradients])
    guarded = {n for n in nodes if n.kind.writes and n not in earlier}
    late = set(guarded)  # and what depends on them
    for node in nodes:
        if any(p in late for p in predecessors(node)):
            late.add(node)
    if step.losses is None:
        written = [t for n in nodes if n in guarded for i, t in enumerate(n.inputs) if i not in n.kind.writes]
        found = [*gradients, *written, *(t for t in step.fetches if t.spec.shape == ())]
    else:
        small = [t for t in gradients if size_of(t.spec.shape) <= SMALL]
        found = small or gradients
        found += [t for i, t in enumerate(step.fetches) if i in step.losses and t.spec.shape == ()]
    found = [t for t in found if t.op not in late and t.dtype.is_floating]
    bucket_of: dict[Tensor, int] = {}  # of each term the bucket that it travels in, and its verdict with it
    for tensor in found:
        kind = tensor.op.kind
        summed = isinstance(kind, AllReduce | AllGather)
        term = tensor.op.inputs[tensor.index] if summed else tensor
        bucket_of.setdefault(term, kind.bucket if isinstance(kind, AllReduce) else 0)
    groups = [(group, 0) for group in _in_buckets(step, [t for t, number in bucket_of.items() if not number])]
    for early in sorted({*bucket_of.values()} - {0}):
        groups.append(([t for t, number in bucket_of.items() if number == early], early))
    return _rebuild(step, guarded, late, groups)


def _by_hand(node: Operation) -> bool:
    """Whether it changes a parameter by what parameters were: w.assign(w - rate * gradient)."""
    if not (node.kind.writes and is_parameter(memory_of(node.inputs[0]).op)):
        return False
    behind = ancestors([t.op for t in node.inputs[isinstance(node.kind, Assign) :]])
    return not getattr(node.kind, "initial", False) and any(map(is_parameter, behind))


def _in_buckets(step: Step, terms: list[Tensor]) -> list[list[Tensor]]:
    """The terms whose verdict can travel with the last of them that are summed, and those that come later."""
    sums: dict[Operation, int] = {}  # one after the other, up to each node
    for node in step.graph.operations:
        sums[node] = max((sums[p] for p in predecessors(node)), default=0) + isinstance(node.kind, AllReduce)
    last = max((sums[t.op] for t in terms if step.placements[t] == PARTIAL), default=len(sums))
    groups = [[t for t in terms if (sums[t.op] > last) == later] for later in (False, True)]
    return [group for group in groups if group]


def _rebuild(
    step: Step, guarded: set[Operation], late: set[Operation], groups: list[tuple[list[Tensor], int]]
) -> Step:
    made = Rebuild(step)
    graph, placements = made.graph, made.placements
    stop: Operation | None = None
    for node in sorted(step.graph.operations, key=lambda n: n in late):
        control = made.control(node)
        if node in guarded:
            if stop is None:
                graph.source = node.source
                verdicts = []
                for group, number in groups:
                    looked = HasBad(not step.bitwise)
                    verdict = graph.add(looked, made.inputs(group), "check/HasBad").outputs[0]
                    if step.ranks > 1:
                        placements[verdict] = PARTIAL
                        verdict = graph.add(AllReduce(1, number), (verdict,), "check/AllReduce").outputs[0]
                    placements[verdict] = REPLICATED
                    verdicts.append(verdict)
                stop = graph.add(StopIfBad(), tuple(verdicts), "check/StopIfBad")
            control = (*control, stop)
        made.copy(node, control=control)
    return made.result()
