"""Sums of gradients that begin before the backward pass ends: which, where that pays, and where in the order.

`divide` says in which bucket a gradient travels, `begin` puts the beginning of an early bucket's sum right
after the last gradient of it. Both follow from the graph and from what the network was measured to do,
which is the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dtrain.comm.link import Link
from dtrain.graph.graph import Operation, Tensor
from dtrain.graph.shape import size_of
from dtrain.ops.check import HasBad
from dtrain.ops.collective import AllReduce, BeginAllReduce
from dtrain.ops.placement import Sharded
from dtrain.passes.step import Rebuild, Step, predecessors, rewrite

#: A bucket is closed when its bytes take the network so many times as long as a message without any.
LATENCIES = 8
#: Bytes of a bucket where early sums are forced: a bias travels with its weights.
LEAST = 512
#: The part that has to be saved of the time from the first gradient to the end of the last sum.
WORTH = 0.05


def divide(step: Step) -> Step:
    """Give gradients that are there early a bucket of their own, numbered from 1; 0 is after them all."""
    if step.link is None or step.ranks == 1:
        return step
    ready = _gradients(step)
    buckets = _closed(ready, step.link)
    if len(buckets) < 2 or not (step.link.forced or gain(ready, buckets, step.link) > WORTH):
        return step
    number = {node: k for k, group in enumerate(buckets[:-1], 1) for node in group}

    def rule(node: Operation, inputs: tuple[Tensor, ...]) -> Sequence[Tensor] | None:
        if node not in number:
            return None
        graph = inputs[0].graph
        return graph.add(AllReduce(1, number[node]), inputs, node.name).outputs

    return rewrite(step, rule)


class Ready(NamedTuple):
    """A sum of the backward pass, its bytes, and the operations of a rank that come after what it sums."""

    node: Operation
    nbytes: int
    left: float


def _gradients(step: Step) -> list[Ready]:
    """The sums that wait for no other, in the order in which what they sum is there."""
    left, total = {}, 0.0
    for node in reversed(step.graph.operations):
        left[node] = total
        shared = any(isinstance(step.placements.get(t), Sharded) for t in node.inputs)
        work = node.kind.flops([t.spec for t in node.inputs], [t.spec for t in node.outputs])
        total += work / (step.ranks if shared else 1)
    behind: set[Operation] = set()  # what waits for a sum
    found = []
    for node in step.graph.operations:
        waits = any(p in behind or isinstance(p.kind, AllReduce) for p in predecessors(node))
        if waits:
            behind.add(node)
        spec = node.inputs[0].spec if node.inputs else None
        if not isinstance(node.kind, AllReduce) or spec is None or waits:
            continue
        if spec.dtype.is_floating and spec.shape:  # scalars, such as the loss, go with the last
            nbytes = size_of(spec.shape) * spec.dtype.numpy.itemsize
            found.append(Ready(node, nbytes, left[node.inputs[0].op]))
    return sorted(found, key=lambda r: -r.left)  # stable: else in the graph's order


def _closed(ready: Sequence[Ready], link: Link) -> list[list[Operation]]:
    """The sums in buckets, each large enough to be worth a message, or as small as can be where forced."""
    least = LEAST if link.forced else LATENCIES * link.latency * link.bandwidth
    groups: list[list[Operation]] = [[]]
    filled = 0
    for i, sum in enumerate(ready):
        groups[-1].append(sum.node)
        filled += sum.nbytes
        later = i + 1 < len(ready) and ready[i + 1].left < sum.left
        if later and filled >= least:
            groups.append([])
            filled = 0
    return groups


def gain(ready: Sequence[Ready], buckets: Sequence[Sequence[Operation]], link: Link) -> float:
    """The part of the time from the first gradient to the last sum that these buckets save over one."""
    of = {sum.node: sum for sum in ready}
    work = max(sum.left for sum in ready) / link.flops
    plain = work + link.seconds(sum(r.nbytes for r in ready))
    end = moving = 0.0
    for group in buckets:
        begun = work - min(of[node].left for node in group) / link.flops
        takes = link.seconds(sum(of[node].nbytes for node in group))
        end = max(end, begun) + takes
        moving += takes
    perfect = work + moving - max(end, work)  # seconds that lie after products
    return 1 - (work + moving - link.hidden * perfect) / plain


def begin(step: Step) -> Step:
    """Put BeginAllReduce after the last of what an early bucket sums; the AllReduce waits for its end."""
    nodes = step.graph.operations
    early = [n for n in nodes if isinstance(n.kind, AllReduce) and n.kind.bucket]
    if not early:
        return step
    checks = [n for n in nodes if isinstance(n.kind, HasBad) and any(n.outputs[0] in e.inputs for e in early)]
    made = Rebuild(step)
    begun: dict[Operation, Operation] = {}

    def copy(node: Operation) -> None:
        made.copy(node, control=(*made.control(node), *([begun[node]] if node in begun else [])))

    def there(node: Operation) -> bool:
        return all(p in made.operations for p in predecessors(node))

    for node in nodes:
        if node not in made.operations:
            copy(node)
        for check in checks:
            if check not in made.operations and there(check):
                copy(check)
        for sum in early:
            if sum not in begun and there(sum):
                made.graph.source = sum.source
                inputs = made.inputs(sum.inputs)
                begun[sum] = made.graph.add(BeginAllReduce(len(inputs)), inputs, f"{sum.name}/Begin")
    return made.result()
