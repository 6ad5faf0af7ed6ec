"""From the user's graph to the step that will run: one visible order of plain functions Step -> Step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from dtrain.comm.link import Link
from dtrain.graph.graph import Operation, Tensor
from dtrain.passes.fuse import fuse
from dtrain.passes.guard import guard
from dtrain.passes.join import join
from dtrain.passes.local import cse, fold, lower, simplify, snapshot
from dtrain.passes.overlap import begin, divide
from dtrain.passes.place import bucket, place
from dtrain.passes.prune import FeedSpec, prune
from dtrain.passes.share import share
from dtrain.passes.step import Step

PIPELINE: tuple[Callable[[Step], Step], ...] = (
    lower,
    fold,
    simplify,
    cse,
    place,
    divide,
    guard,
    bucket,
    begin,
    snapshot,
    fuse,
    join,
    share,
)


def compile_step(
    fetches: Sequence[Tensor],
    targets: Sequence[Operation],
    feeds: Sequence[FeedSpec],
    ranks: int,
    native: bool | None = None,
    checked: bool = False,
    link: Link | None = None,
    device: bool = False,
    losses: Collection[int] | None = None,
    shares: bool = False,
    bitwise: bool = False,
) -> Step:
    """Prune the graph to what these fetches and targets need, then send it through PIPELINE.

    native, checked, link, device, losses, shares, bitwise: what Step's fields of these names say.
    """
    step = prune(fetches, targets, feeds, ranks)
    step = replace(
        step,
        native=native,
        device=device,
        checked=checked,
        losses=losses,
        link=link,
        shares=shares,
        bitwise=bitwise,
    )
    for run_pass in PIPELINE:
        step = run_pass(step)
    return step


__all__ = ["PIPELINE", "FeedSpec", "Link", "Step", "compile_step"]
