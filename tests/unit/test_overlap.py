"""Which sums begin early, where they begin, and that no number depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import link
from dtrain.comm.single import SingleCommunicator
from dtrain.ops.collective import AllReduce, BeginAllReduce
from dtrain.ops.placement import REPLICATED, Sharded
from dtrain.passes import FeedSpec, Link, Step, compile_step
from dtrain.passes.order import schedule
from dtrain.passes.overlap import Ready, gain

#: 1 ms and 1 MB/s; a rank computes 1 GFLOP/s.
SLOW = Link(1e-3, 1e6, 1e9, 1.0, False)
WIDE = 64


def network(layers: int = 3, clip: bool = False) -> tuple[dt.Tensor, dt.Tensor, dt.Operation]:
    x = dt.placeholder("float32", [None, WIDE], name="x")
    h = x
    for k in range(layers):
        h = dt.nn.relu(dt.matmul(h, dt.Variable(dt.ones([WIDE, WIDE]) / WIDE, name=f"w{k}")))
    loss = dt.reduce_mean(dt.square(h))
    optimizer = dt.train.GradientDescentOptimizer(0.1)
    pairs = optimizer.compute_gradients(loss)
    if clip:
        clipped, _ = dt.clip_by_global_norm([g for g, _ in pairs], 1.0)
        pairs = list(zip(clipped, [v for _, v in pairs], strict=True))
    return x, loss, optimizer.apply_gradients(pairs)


def compiled(link: Link | None, checked: bool = True, ranks: int = 2, rows: int = 6, **how: Any) -> Step:
    x, loss, train = network(**how)
    return compile_step([loss], [train], [FeedSpec(x, (rows, WIDE), Sharded(0))], ranks, None, checked, link)


def types(step: Step) -> list[str]:
    return [node.type for node in schedule(step)]


def test_the_model_is_that_of_a_network_that_sends_one_bucket_after_the_other() -> None:
    """By hand: 3 ms of work in thirds; two buckets of 1 ms + 1 ms each, the first there after a third."""
    ready = [Ready("a", 1000, 2e6), Ready("b", 500, 1e6), Ready("c", 500, 0.0)]  # type: ignore[arg-type]
    # one bucket: what is left behind the first gradient, 2 ms, and 1 + 2 ms
    link = Link(1e-3, 1e6, 1e9, 1.0, False)
    # two: begun at 0 (done at 2) and at 2 (done at 4), instead of 5
    assert gain(ready, [["a"], ["b", "c"]], link) == pytest.approx(1 / 5)  # type: ignore[list-item]
    # where nothing is hidden the second message is what is lost
    assert gain(ready, [["a"], ["b", "c"]], link._replace(hidden=0.0)) == pytest.approx(-1 / 5)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("link", "early"),
    [
        (None, 0),
        (SLOW._replace(flops=1e6), 2),  # 16 kB take 17 ms, a layer's two products 12
        (SLOW._replace(flops=1e6, hidden=0.0), 0),  # nothing would be hidden
        (SLOW._replace(flops=1e6, latency=1.0), 0),  # each message would cost a second
        (SLOW._replace(flops=1e12), 0),  # there is no work to hide behind
        (SLOW._replace(flops=1e12, forced=True), 2),
    ],
)
def test_sums_begin_early_where_that_pays(link: Link | None, early: int) -> None:
    step = compiled(link, rows=12)
    assert types(step).count("BeginAllReduce") == early
    assert types(step).count("AllReduce") == early + 1
    dt.reset_default_graph()
    if not early:
        assert [*map(repr, types(step))] == [*map(repr, types(compiled(None, rows=12)))]


def test_one_rank_has_nothing_to_begin() -> None:
    assert types(compiled(SLOW._replace(forced=True), ranks=1)).count("BeginAllReduce") == 0


@pytest.mark.parametrize("checked", [False, True])
def test_a_sum_begins_right_behind_its_gradient(checked: bool) -> None:
    """The last layer's comes before the first layer's gradient is computed, and its check before that."""
    step = compiled(SLOW._replace(forced=True), checked)
    nodes = schedule(step)
    at = {node: i for i, node in enumerate(nodes)}
    begins = [n for n in nodes if isinstance(n.kind, BeginAllReduce)]
    # those that are gradients to weights, the last layer's first
    products = [n for n in nodes if n.type == "MatMul" and n.kind.transpose_a]
    assert len(begins) == 2 and len(products) == 3
    for begin, own, following in zip(begins, products, products[1:], strict=False):
        assert at[own] < at[begin] < at[following]
        assert own.outputs[0] in begin.inputs
        checks = [t.op for t in begin.inputs if t.op.type == "HasBad"]
        assert len(checks) == checked and all(own.outputs[0] in check.inputs for check in checks)
        ends = [n for n in nodes if isinstance(n.kind, AllReduce) and begin in n.control_inputs]
        assert len(ends) == 1 and ends[0].inputs == begin.inputs and at[ends[0]] > at[products[-1]]
    if checked:
        stop = next(n for n in nodes if n.type == "StopIfBad")
        assert len(stop.inputs) == 3  # a verdict of each bucket
        assert all(step.placements[t] == REPLICATED for t in stop.inputs)
    update = next(n for n in nodes if n.type == "ApplyGradientDescent")
    assert all(at[n] < at[update] for n in nodes if isinstance(n.kind, AllReduce))


def test_gradients_that_are_clipped_together_begin_early_too() -> None:
    step = compiled(SLOW._replace(forced=True), clip=True)
    assert types(step).count("BeginAllReduce") == 2


def test_the_work_of_products_and_convolutions_is_counted() -> None:
    x = dt.placeholder("float32", [5, 8, 8, 3])
    w = dt.Variable(dt.ones([3, 3, 3, 7]))
    y = dt.nn.conv2d(x, w, [1, 1, 1, 1], "SAME")
    dx, dw = dt.gradients(y, [x, w])
    ops = [y.op, *(t.op for t in (dx, dw))]
    expected = 2 * (5 * 8 * 8 * 7) * (3 * 3 * 3)
    for node in ops:
        assert node.kind.flops([t.spec for t in node.inputs], [t.spec for t in node.outputs]) == expected
    product = dt.matmul(dt.ones([4, 3]), dt.ones([4, 5]), transpose_a=True).op
    specs = [t.spec for t in product.inputs], [t.spec for t in product.outputs]
    assert product.kind.flops(*specs) == 2 * 3 * 5 * 4 == 2 * int(np.prod([3, 5, 4]))


@pytest.mark.parametrize(("forced", "most"), [(False, 1), (True, 5)])
def test_a_slow_link_is_measured_by_few_sums(
    forced: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five tries of everything took minutes over a link of a second."""
    clock, calls = [0.0], []
    monkeypatch.setattr(link.time, "perf_counter", lambda: clock[0])

    def taking(seconds: float, name: str) -> Callable[[int], None]:
        def call(times: int) -> None:
            calls.append(name)
            clock[0] += seconds * times

        return call

    probe = link.Probe(
        taking(1.0, "short"), taking(9.0, "long"), 1 << 20, taking(1e-4, "products"), 1e6, taking(9.0, "both")
    )
    found = link.measure(SingleCommunicator(), probe, forced)
    assert calls.count("short") + calls.count("long") + calls.count("both") <= most
    if forced:
        assert found is not None and found.latency == 1.0 and found.bandwidth == (1 << 20) / 8.0
    else:
        assert found is None
