"""place and bucket: where tensors live among the ranks, and the communication that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dtrain.errors import GraphError
from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.ops.array import Identity
from dtrain.ops.base import Op, Placed
from dtrain.ops.collective import AllGather, AllReduce, TakeShard
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded
from dtrain.ops.update import _Update
from dtrain.passes.step import Rebuild, Step, memory_of, predecessors, sweep, topological

#: Bytes after which a bucket is closed and the next begun.
BUCKET_BYTES = 32 << 20


def place(step: Step) -> Step:
    """Give every tensor a placement, converting inputs where an op's rule asks for another.

    An op without a rule for the case at hand gets its inputs whole: always right, only not always fast.
    What would be split along an axis of fewer entries than ranks is made whole at once, so no rank is left
    without a part. Fetched values come back whole. With one rank everything is replicated and nothing added.

    A bitwise step has nothing PARTIAL, since the terms of a sum follow from who has which rows. Rows are
    gathered and summed whole, in an order that does not know the ranks; where an op can (place_parts) a rank
    sums for a part of the result.
    """
    own = next((n for n in step.graph.operations if n.kind.of_shard), None)
    if step.bitwise and own is not None:
        raise GraphError(
            f"bitwise: {own.name} ({own.type}) computes of the rows that its rank holds, so its value "
            "follows from the number of ranks. Let batch normalization take the global batch "
            "(synchronized=True)."
        )
    if step.ranks == 1:
        return replace(step, placements={t: REPLICATED for n in step.graph.operations for t in n.outputs})
    placer = _Placer(step)
    for node in step.graph.operations:
        placer.add(node)
    return sweep(placer.result())


class _Placer(Rebuild):
    """placements: of every tensor of the new graph."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.converted: dict[tuple[Tensor, Placement], Tensor] = {}

    def add(self, node: Operation) -> None:
        inputs = [self.tensors[t] for t in node.inputs]
        own = [self.placements[t] for t in inputs]
        out: Placement = REPLICATED
        kind = node.kind
        if any(p != REPLICATED for p in own):
            wanted: Sequence[Placement]
            whole: Placed = ([REPLICATED] * len(own), REPLICATED)
            wanted, out = (
                kind.place(own, node) or kind.place_evenly(own, node, self.step.ranks) or whole  # type: ignore[misc]  # whole is one
            )
            if self.step.bitwise and out == PARTIAL:
                wanted, out = kind.place_parts(node, self.step.ranks) or whole  # type: ignore[misc]  # whole is one
            if self.step.bitwise and self.step.shares and isinstance(kind, _Update):
                kind, wanted = kind.by_rows(own, node.inputs)
            for i, want in enumerate(wanted):
                if i not in kind.shape_only:
                    inputs[i] = self.convert(inputs[i], want)
        elif not inputs and node.outputs and node.outputs[0] in self.step.placements:
            out = self.step.placements[node.outputs[0]]
        copy = self.copy(node, tuple(inputs), kind=kind)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            self.placements[new] = out
            self.tensors[old] = new if self.suffices(new, out) else self.convert(new, REPLICATED)

    def suffices(self, tensor: Tensor, placement: Placement) -> bool:
        """Whether every rank has a part of a tensor that lies so.

        Where one has nothing, another may have an axis of 1, which broadcasting would stretch, and ranks
        that compute have other kernels than those that do not.
        """
        shape = tensor.spec.shape or ()
        return not isinstance(placement, Sharded) or shape[placement.axis] >= self.step.ranks  # type: ignore[operator]  # known in a plan

    def convert(self, tensor: Tensor, want: Placement) -> Tensor:
        """The tensor under another placement; made once however many ask."""
        have = self.placements[tensor]
        if have == want:
            return tensor
        key = (tensor, want)
        if key not in self.converted:
            kind: Op
            got: Placement
            if have == PARTIAL:
                kind, got = AllReduce(1), REPLICATED
            elif isinstance(have, Sharded):
                kind, got = AllGather((have.axis,)), REPLICATED
            else:
                assert isinstance(want, Sharded), f"{tensor.name}: {have} cannot become {want}"
                assert self.suffices(tensor, want), f"{tensor.name} {tensor.spec}: {want}"
                kind, got = TakeShard(want.axis), want
            self.graph.source = tensor.op.source
            node = self.graph.add(kind, (tensor,), f"{tensor.op.name}/{type(kind).__name__}")
            self.placements[node.outputs[0]] = got
            self.converted[key] = self.convert(node.outputs[0], want)
        return self.converted[key]

    def fetched(self, tensor: Tensor) -> Tensor:
        """A fetch, whole; what is gathered is copied, since other ranks write there in the next step."""
        whole = self.convert(self.tensors[tensor], REPLICATED)
        if self.step.bitwise and isinstance(memory_of(whole).op.kind, AllGather):
            whole = self.graph.add(Identity(), (whole,), f"{tensor.op.name}/fetch").outputs[0]
            self.placements[whole] = REPLICATED
        return whole

    def result(self) -> Step:
        fetches = tuple(self.fetched(t) for t in self.step.fetches)
        return replace(super().result(), fetches=fetches, placements=self.placements)


def bucket(step: Step) -> Step:
    """Join allreduces that do not wait for one another into buckets: one message instead of one a tensor.

    Of a bitwise step it is what is gathered.
    """
    nodes = step.graph.operations
    groups = _groups(nodes, AllGather if step.bitwise else AllReduce)
    if all(len(group) == 1 for group in groups):
        return step
    leader = {node: group[0] for group in groups for node in group}
    merged = [node for node in nodes if leader.get(node, node) is node]
    members = {group[0]: group for group in groups}
    before = {
        node: {leader.get(p, p) for member in members.get(node, [node]) for p in predecessors(member)}
        for node in merged
    }
    made = Rebuild(step)
    graph = made.graph
    for node in topological(merged, before):
        group = members.get(node, [node])
        if len(group) == 1:
            made.copy(node)
            continue
        inputs = made.inputs(t for member in group for t in member.inputs)
        graph.here.control, graph.source = made.control(*group), node.source
        kind = _all([member.kind for member in group])
        joined = graph.add(kind, inputs, type(kind).__name__)
        graph.here.control = ()
        made.replace(group, [t for member in group for t in member.outputs], joined)
    return made.result()


def _all(kinds: Sequence[Any]) -> Op:
    """The one collective for several."""
    if isinstance(kinds[0], AllReduce):
        return AllReduce(len(kinds), kinds[0].bucket)
    return AllGather(tuple(axis for kind in kinds for axis in kind.axes))


def _groups(nodes: Sequence[Operation], joined: type[Op]) -> list[list[Operation]]:
    """Collectives to join: of one number and dtype, with equally many after each, up to a bucket's size."""
    depth: dict[Operation, int] = {}
    open_groups: dict[tuple[int, int, str], list[Operation]] = {}
    filled: dict[tuple[int, int, str], int] = {}
    groups: list[list[Operation]] = []
    for node in nodes:
        behind = max((depth[p] for p in predecessors(node)), default=0)
        depth[node] = behind + isinstance(node.kind, joined)
        if not isinstance(node.kind, joined):
            continue
        spec = node.inputs[0].spec
        key = (behind, getattr(node.kind, "bucket", 0), spec.dtype.name if joined is AllReduce else "")
        nbytes = size_of(spec.shape) * spec.dtype.numpy.itemsize
        if key not in open_groups or filled[key] + nbytes > BUCKET_BYTES:
            open_groups[key] = []
            filled[key] = 0
            groups.append(open_groups[key])
        open_groups[key].append(node)
        filled[key] += nbytes
    return groups
