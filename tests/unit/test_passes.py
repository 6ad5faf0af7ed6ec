"""Passes: what each makes of a graph, that it stays legal and means the same, and that N ranks compute one's.

Ranks are threads here; tests/mpi has them as processes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtrain as dt
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.graph.check import check
from dtrain.graph.graph import Operation
from dtrain.ops.collective import AllReduce
from dtrain.ops.placement import PARTIAL, REPLICATED, Placement, Sharded, local_shape, shard_bounds
from dtrain.passes import PIPELINE, FeedSpec, Step, compile_step
from dtrain.passes.local import cse, fold, lower, simplify, snapshot
from dtrain.passes.order import schedule
from dtrain.passes.place import bucket, place
from dtrain.passes.prune import prune
from dtrain.passes.share import share
from dtrain.passes.step import ancestors, memory_of, topological
from dtrain.runtime.backend import Backend
from dtrain.runtime.layout import PlanEnv
from dtrain.runtime.plan import Plan

Feeds = Sequence[tuple[dt.Tensor, tuple[int, ...]]]


def step_of(
    fetches: Any,
    feeds: Feeds = (),
    *passes: Any,
    targets: Any = (),
    ranks: int = 1,
    at: Placement | None = None,
) -> Step:
    """The step of some fetches after some passes."""
    where = at or (REPLICATED if ranks == 1 else Sharded(0))
    fetches = list(fetches) if isinstance(fetches, list | tuple) else [fetches]
    step = prune(fetches, list(targets), [FeedSpec(t, shape, where) for t, shape in feeds], ranks)
    for one in passes:
        step = one(step)
        check(step.graph.operations)
    return step


def types(step: Step) -> list[str]:
    return [node.type for node in step.graph.operations]


def run(fetches: Any, feeds: Any = None, initialize: bool = True) -> Any:
    session = dt.Session(comm=None)
    if initialize:
        session.run(dt.global_variables_initializer())
    return session.run(fetches, feeds)


# -- prune -----------------------------------------------------------------------------------------------
def test_prune_keeps_what_is_needed_at_the_shapes_that_are_fed() -> None:
    x = dt.placeholder("float", [None, 3], name="x")
    other = dt.placeholder("float", [None], name="other")
    y = dt.matmul(x, dt.zeros([3, 2], name="w"), name="y")
    _ = y + dt.reduce_sum(other)
    step = step_of(y, [(x, (5, 3))])
    assert [n.name for n in step.graph.operations] == ["x", "w", "y"]
    assert step.fetches[0].spec.shape == (5, 2)
    assert step.graph is not x.graph and x.spec.shape == (None, 3)


def test_prune_does_not_look_behind_what_is_fed() -> None:
    x = dt.placeholder("float", [2], name="x")
    middle = dt.tanh(x, name="middle")
    step = step_of(dt.exp(middle, name="y"), [(middle, (2,))])
    assert [(n.name, n.type) for n in step.graph.operations] == [("middle", "Feed"), ("y", "Exp")]
    assert types(step_of([middle], [(middle, (2,))])) == ["Feed"]


def test_prune_follows_control_inputs() -> None:
    v = dt.Variable(1.0, name="v")
    with dt.control_dependencies([v.assign_add(1.0, name="count")]):
        y = dt.identity(dt.constant(2.0), name="y")
    assert "count" in [n.name for n in step_of(y).graph.operations]


def test_prune_says_what_is_not_fed_and_what_does_not_fit() -> None:
    x = dt.placeholder("float", [None, 3], name="x")
    with pytest.raises(InvalidArgumentError, match="must feed a value for placeholder tensor 'x'"):
        step_of(x + 1)
    y = dt.matmul(x, dt.placeholder("float", [None, 2], name="w"), name="y")
    with pytest.raises(InvalidArgumentError, match=r"y \(built at .*test_passes.py:\d+\) does not fit"):
        step_of(y, [(y.op.inputs[0], (5, 3)), (y.op.inputs[1], (4, 2))])


# -- lower -----------------------------------------------------------------------------------------------
def test_lower_makes_a_mean_a_sum_over_a_count() -> None:
    x = dt.placeholder("float", [None, 3])
    step = step_of(dt.reduce_mean(x), [(x, (4, 3))], lower)
    assert types(step) == ["Feed", "Sum", "Const", "RealDiv"]
    assert step.graph.operations[2].kind.value.array == 12  # type: ignore[attr-defined]


def test_lower_leaves_only_ops_that_have_kernels() -> None:
    x = dt.placeholder("float64", [None, 3])
    row = dt.Variable(np.ones((3,)))
    y = dt.reduce_mean(dt.reshape(x * row, [-1]) * dt.reshape(dt.zeros_like(x), [-1]), keepdims=True)
    step = step_of([y, *dt.gradients(y, [x, row])], [(x, (4, 3))], lower)
    gone = {"SumLike", "ReshapeLike", "ZerosLike", "CountLike", "Mean", "Identity"}
    assert not gone & set(types(step))


def test_lower_drops_what_does_nothing() -> None:
    x = dt.placeholder("float", [None, 3])
    y = dt.cast(dt.reshape(dt.identity(dt.stop_gradient(x)), [-1, 3]), "float32")
    step = step_of(y, [(x, (4, 3))], lower)
    assert types(step) == ["Feed"] and step.fetches == (step.graph.operations[0].outputs[0],)


@pytest.mark.parametrize(
    "nothing", [dt.identity, lambda x: dt.cast(x, "float32"), lambda x: dt.reshape(x, [2]), lambda x: x * 1]
)
def test_what_does_nothing_still_waits_for_its_control_inputs(nothing: Any) -> None:
    x, v = dt.placeholder("float", [2]), dt.Variable(0.0)
    with dt.control_dependencies([v.assign_add(1.0)]):
        y = nothing(x)
    session = dt.Session(comm=None)
    session.run(v.initializer)
    assert session.run(y, {x: [1.0, 2.0]}).tolist() == [1, 2]
    assert session.run(v) == 1


def test_a_repeated_scalar_still_waits_for_its_control_inputs() -> None:
    x, v, three = dt.placeholder("float", [2]), dt.Variable(0.0), dt.constant(3.0)
    with dt.control_dependencies([v.assign_add(1.0)]):
        repeated = dt.expand_dims(three, 0)
    session = dt.Session(comm=None)
    session.run(v.initializer)
    assert session.run(x * repeated, {x: [1.0, 2.0]}).tolist() == [3, 6]
    assert session.run(v) == 1


# -- fold ------------------------------------------------------------------------------------------------
def test_fold_computes_what_depends_on_constants_only() -> None:
    x = dt.placeholder("float", [2])
    y = x * dt.exp(dt.constant(1.0) + 2.0 * dt.reduce_sum([1.0, 2.0]))
    step = step_of(y, [(x, (2,))], fold)
    assert types(step) == ["Feed", "Const", "Mul"]
    assert step.graph.operations[1].kind.value.array == pytest.approx(np.exp(7))  # type: ignore[attr-defined]


def test_fold_keeps_shapes_also_of_scalars() -> None:
    made = [dt.reshape([3.0], []), dt.transpose([[1.0, 2.0]]), dt.expand_dims(1.0, 0), dt.reduce_sum([1.0])]
    step = step_of(made, (), fold)
    assert set(types(step)) == {"Const"}
    assert [t.spec.shape for t in step.fetches] == [(), (2, 1), (1,), ()]


def test_fold_makes_nothing_large_and_leaves_what_is_not_constant() -> None:
    large = dt.constant(1.0) + dt.constant(np.zeros(100_000, np.float32))
    random, v = dt.random_normal([2]) + 1, dt.Variable(1.0)
    with dt.control_dependencies([dt.no_op()]):
        waiting = dt.constant(1.0) + 1
    for tensor, kept in ((large, "Add"), (random, "RandomNormal"), (v * 2, "VariableOp"), (waiting, "Add")):
        assert kept in types(step_of(tensor, (), fold))


# -- simplify --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "left"),
    [
        (lambda x: x * 1, []),
        (lambda x: 1 * x, []),
        (lambda x: x + 0, []),
        (lambda x: 0 + x, []),
        (lambda x: x - 0, []),
        (lambda x: x / 1, []),
        (lambda x: ((x * 1) + 0) / 1, []),
        (lambda x: x * dt.expand_dims(1.0, 0), []),
        (lambda x: 0 - x, ["Const", "Sub"]),
        (lambda x: 1 / x, ["Const", "RealDiv"]),
        (lambda x: x * 0, ["Const", "Mul"]),
        (lambda x: x + 1, ["Const", "Add"]),
        (lambda x: dt.maximum(x, 0.0), ["Const", "Maximum"]),
    ],
)
def test_simplify_drops_arithmetic_that_changes_nothing(expression: Any, left: list[str]) -> None:
    x = dt.placeholder("float", [None])
    step = step_of(expression(x), [(x, (3,))], simplify)
    assert types(step) == ["Feed", *left]


def test_simplify_keeps_what_changes_the_shape() -> None:
    x = dt.placeholder("float", [1])
    assert types(step_of(x * np.ones(1, np.float32).reshape(1, 1), [(x, (1,))], simplify))[-1] == "Mul"
    assert run(x * dt.ones([3]), {x: [2.0]}).tolist() == [2, 2, 2]


def test_simplify_does_not_repeat_a_scalar_before_a_product() -> None:
    x, scale = dt.placeholder("float", [None]), dt.placeholder("float", [])
    (gradient,) = dt.gradients(dt.reduce_sum(dt.tanh(x)) * scale, x)
    step = step_of(gradient, [(x, (3,)), (scale, ())], lower, fold, simplify)
    assert "BroadcastLike" not in types(step)


# -- cse -------------------------------------------------------------------------------------------------
def test_cse_computes_equal_things_once() -> None:
    x = dt.placeholder("float", [None])
    y = dt.exp(x * 2) + dt.exp(x * 2)
    step = step_of(y, [(x, (3,))], cse)
    assert types(step) == ["Feed", "Const", "Mul", "Exp", "Add"]
    add = step.graph.operations[-1]
    assert add.inputs[0] is add.inputs[1]


def test_cse_tells_apart_what_differs() -> None:
    x = dt.placeholder("float", [None, 2])
    pairs = [
        (dt.reduce_sum(x, 0), dt.reduce_sum(x, 1)),
        (x * 2, x * 3),
        (dt.cast(x, "float64"), dt.cast(x, "int32")),
        (x - 2, 2 - x),
        (dt.zeros([2]), dt.zeros([2], "float64")),
        (dt.constant(0.0), dt.constant(-0.0)),
        (dt.matmul(x, x, transpose_a=True), dt.matmul(x, x, transpose_b=True)),
    ]
    for pair in pairs:
        first, second = step_of(pair, [(x, (2, 2))], cse).fetches
        assert first is not second


def test_cse_leaves_randomness_writes_and_order_alone() -> None:
    a, b = dt.random_normal([2], seed=1), dt.random_normal([2], seed=1)
    v = dt.Variable(0.0)
    writes = [v.assign_add(1.0), v.assign_add(1.0)]
    with dt.control_dependencies(writes):
        late = dt.exp(v)
    early = dt.exp(v)
    count = Counter(types(step_of([a, b, *writes, late, early], (), cse)))
    assert (count["RandomNormal"], count["AssignAdd"], count["Exp"]) == (2, 2, 2)


# -- snapshot --------------------------------------------------------------------------------------------
def test_snapshot_copies_a_fetched_variable_that_is_also_written() -> None:
    v, w = dt.Variable([1.0], name="v"), dt.Variable([1.0], name="w")
    step = step_of([v.value(), w.value(), v.assign_add([1.0])], (), place, snapshot)
    assert [t.op.type for t in step.fetches] == ["Identity", "VariableOp", "Identity"]
    assert all(step.placements[t] == REPLICATED for t in step.fetches)


def test_an_identity_of_a_variable_is_a_read_at_its_own_place() -> None:
    v = dt.Variable(1.0)
    old = dt.identity(v)
    with dt.control_dependencies([v.assign_add(1.0)]):
        again, new = old * 10.0, dt.identity(v)
    assert run([again, new, old]) == [10, 2, 1]


@pytest.mark.parametrize("view", [lambda v: dt.reshape(v, [4]), dt.transpose, lambda v: dt.expand_dims(v, 0)])
def test_a_view_of_a_variable_is_a_read_at_its_own_place(view: Any) -> None:
    value = np.arange(4.0).reshape(2, 2)
    v = dt.Variable(value)
    old = view(v)
    with dt.control_dependencies([v.assign_add(np.ones((2, 2)))]):
        again, new = old * 10.0, view(v) * 10.0
    found = run([again, new])
    first = run(view(dt.constant(value)) * 10.0)
    np.testing.assert_array_equal(found[0], first)
    np.testing.assert_array_equal(found[1], first + 10)


# -- place -----------------------------------------------------------------------------------------------
def placed(fetches: Any, feeds: Feeds, at: Placement | None = None) -> tuple[Step, Counter[str]]:
    step = step_of(fetches, feeds, lower, fold, simplify, cse, place, ranks=3, at=at)
    return step, Counter(t for t in types(step) if t in ("AllReduce", "AllGather", "TakeShard"))


def test_one_rank_needs_no_communication() -> None:
    x = dt.placeholder("float", [None, 3])
    step = step_of(dt.reduce_mean(x), [(x, (5, 3))], lower, place)
    assert set(step.placements.values()) == {REPLICATED}
    assert not {"AllReduce", "AllGather", "TakeShard"} & set(types(step))


def test_what_is_fed_whole_stays_whole() -> None:
    x = dt.placeholder("float", [None, 3])
    assert placed(dt.reduce_mean(dt.exp(x)), [(x, (5, 3))], REPLICATED)[1] == {}


def test_rows_stay_where_they_are_through_a_layer() -> None:
    x = dt.placeholder("float", [None, 3])
    y = dt.nn.softmax(dt.nn.relu(dt.matmul(x, dt.ones([3, 4])) + dt.ones([4])))
    step, communication = placed(y, [(x, (5, 3))])
    assert communication == {"AllGather": 1}  # of what is fetched
    assert step.placements[step.fetches[0].op.inputs[0]] == Sharded(0)


def test_a_sum_over_the_batch_is_one_allreduce_of_the_result() -> None:
    x = dt.placeholder("float", [None, 3])
    for y, shape in ((dt.reduce_sum(x), ()), (dt.reduce_mean(x, 0), (3,)), (dt.matmul(x, x, True), (3, 3))):
        step, communication = placed(y, [(x, (5, 3))])
        assert communication == {"AllReduce": 1}
        (node,) = [n for n in step.graph.operations if n.type == "AllReduce"]
        assert node.outputs[0].spec.shape == shape


def test_what_is_linear_waits_with_the_sum() -> None:
    x = dt.placeholder("float", [None, 3])
    s, t = dt.reduce_sum(x, 0), dt.reduce_sum(dt.exp(x), 0)
    step, communication = placed((s - t) * 2.0 / 5.0 + dt.negative(dt.reshape(s, [3])), [(x, (5, 3))])
    assert communication == {"AllReduce": 1}
    assert step.fetches[0].op.type == "AllReduce"


def test_the_batch_stays_sharded_beside_a_sum_over_it() -> None:
    x, square = dt.placeholder("float", [None, 3]), dt.placeholder("float", [None, 3])
    product = dt.matmul(square, square, transpose_a=True)
    for y in (x - dt.reduce_sum(x, 0), dt.reduce_mean(x, 0) - x, dt.matmul(x, product)):
        found = placed(dt.reduce_sum(dt.exp(y)), [(x, (5, 3)), (square, (5, 3))])[1]
        assert found == {"AllReduce": 2}  # of the inner sum and of the outer one


def test_what_is_not_linear_does_not() -> None:
    x = dt.placeholder("float", [None, 3])
    s = dt.reduce_sum(x, 0)
    for y in (dt.exp(s), s * s, s + 1.0, dt.maximum(s, s), 2.0 / s, dt.square(s)):
        step, communication = placed(y, [(x, (5, 3))])
        assert communication == {"AllReduce": 1}
        assert step.fetches[0].op.type != "AllReduce"


def test_a_conversion_is_made_once_however_many_ask() -> None:
    x = dt.placeholder("float", [None, 3])
    s = dt.reduce_sum(x, 0)
    assert placed([dt.exp(s), dt.tanh(s), s], [(x, (5, 3))])[1] == {"AllReduce": 1}


def test_shares_are_contiguous_even_and_complete() -> None:
    for n in range(12):
        for size in range(1, 8):
            bounds = [shard_bounds(n, r, size) for r in range(size)]
            assert bounds[0][0] == 0 and bounds[-1][1] == n
            assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
            lengths = [high - low for low, high in bounds]
            assert max(lengths) - min(lengths) <= 1
            assert [local_shape((2, n), Sharded(1), r, size)[1] for r in range(size)] == lengths
    assert local_shape((2, 3), PARTIAL, 1, 5) == local_shape((2, 3), REPLICATED, 1, 5) == (2, 3)


# -- bucket ----------------------------------------------------------------------------------------------
def mlp(batch: int = 10) -> tuple[dt.Tensor, Any, Feeds]:
    """Loss, training operation and feeds of a small MLP with Adam."""
    x, labels = dt.placeholder("float", [None, 5]), dt.placeholder("int32", [None])
    with dt.get_default_graph().name_scope("model"):
        hidden = dt.nn.relu(dt.matmul(x, dt.Variable(dt.random_normal([5, 7]))) + dt.Variable(dt.zeros([7])))
        logits = dt.matmul(hidden, dt.Variable(dt.random_normal([7, 3]))) + dt.Variable(dt.zeros([3]))
    losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    loss = dt.reduce_mean(losses)
    return loss, dt.train.AdamOptimizer().minimize(loss), [(x, (batch, 5)), (labels, (batch,))]


def allreduces(step: Step) -> list[int]:
    return [n.kind.count for n in step.graph.operations if isinstance(n.kind, AllReduce)]


def compiled(fetches: Sequence[dt.Tensor], targets: Sequence[Any], feeds: Feeds, ranks: int) -> Step:
    specs = [FeedSpec(t, shape, Sharded(0)) for t, shape in feeds]
    return compile_step(list(fetches), list(targets), specs, ranks)


def test_all_gradients_and_the_loss_are_one_allreduce() -> None:
    loss, train, feeds = mlp()
    assert allreduces(compiled([loss], [train], feeds, 3)) == [5]
    assert allreduces(compiled([], [train], feeds, 3)) == [4]
    assert allreduces(compiled([loss], [train], feeds, 1)) == []


def test_allreduces_that_wait_for_one_another_are_not_joined() -> None:
    x = dt.placeholder("float64", [None, 3])
    mean = dt.reduce_mean(x, 0)
    variance = dt.reduce_mean(dt.square(x - mean), 0)
    scaled = dt.reduce_sum(dt.tanh((x - mean) / dt.sqrt(variance + 1e-3)))
    step = compiled([scaled, mean, dt.reduce_sum(x)], [], [(x, (7, 3))], 3)
    check(step.graph.operations)
    assert allreduces(step) == [2, 1, 1]  # the mean and the sum; then the variance; then what it scales


def test_buckets_hold_one_dtype_and_are_closed_when_full(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = dt.placeholder("float", [None, 10]), dt.placeholder("float64", [None, 10])
    sums = [dt.reduce_sum(f(t), 0) for f in (dt.exp, dt.tanh, dt.nn.relu) for t in (x, y)]
    feeds = [(x, (4, 10)), (y, (4, 10))]
    assert allreduces(compiled(sums, [], feeds, 2)) == [3, 3]
    monkeypatch.setitem(bucket.__globals__, "BUCKET_BYTES", 80)
    step = compiled(sums, [], feeds, 2)
    check(step.graph.operations)
    assert sorted(allreduces(step)) == [1, 1, 1, 1, 2]  # two of 40 bytes fit, two of 80 do not


def test_ranks_that_compile_the_same_get_the_same() -> None:
    from dtrain.graph.fingerprint import fingerprint

    loss, train, feeds = mlp()
    prints = {fingerprint(compiled([loss], [train], feeds, 3).graph.operations) for _ in range(3)}
    assert len(prints) == 1
    assert fingerprint(compiled([loss], [train], feeds, 1).graph.operations) not in prints


# -- all passes ------------------------------------------------------------------------------------------
def _clipped() -> tuple[list[dt.Tensor], list[Any], Feeds]:
    x = dt.placeholder("float64", [None, 3])
    v, w = dt.Variable(np.ones((3, 2))), dt.Variable(np.ones(2))
    loss = dt.reduce_mean(dt.square(dt.matmul(x, v) + w)) + 0.01 * dt.reduce_sum(dt.square(v))
    optimizer = dt.train.MomentumOptimizer(0.1, 0.9)
    pairs = optimizer.compute_gradients(loss)
    norm = dt.sqrt(sum(dt.reduce_sum(dt.square(g)) for g, _ in pairs))
    train = optimizer.apply_gradients([(g / dt.maximum(norm, 1.0), v) for g, v in pairs])
    return [loss, norm], [train], [(x, (7, 3))]


def _normalised() -> tuple[list[dt.Tensor], list[Any], Feeds]:
    x = dt.placeholder("float64", [None, 3])
    mean = dt.reduce_mean(x, 0)
    y = (x - mean) / dt.sqrt(dt.reduce_mean(dt.square(x - mean), 0) + 1e-3)
    loss = dt.reduce_sum(dt.tanh(y) * y)
    return [loss, y, *[g for g in dt.gradients(loss, x) if g is not None]], [], [(x, (7, 3))]


def _written() -> tuple[list[dt.Tensor], list[Any], Feeds]:
    x = dt.placeholder("float64", [None, 3])
    v = dt.Variable(np.zeros(3))
    old = dt.reshape(v, [3, 1])
    write = v.assign(dt.reduce_sum(x, 0))
    with dt.control_dependencies([write]):
        return [old * 2.0, dt.identity(v), v.value(), write], [], [(x, (7, 3))]


def _trained() -> tuple[list[dt.Tensor], list[Any], Feeds]:
    loss, train, feeds = mlp()
    return [loss], [train], feeds


def _wide() -> tuple[list[dt.Tensor], list[Any], Feeds]:
    """Of the first layer's weights there are more than of what their gradient is computed of."""
    x, w = dt.placeholder("float", [None, 40]), dt.Variable(dt.ones([40, 50]))
    hidden = dt.nn.relu(dt.matmul(x * 0.5, w) + dt.Variable(dt.ones([50])))
    loss = dt.reduce_sum(dt.square(dt.matmul(hidden, dt.Variable(dt.ones([50, 1])))))
    with dt.control_dependencies([dt.Variable(0, trainable=False).assign_add(1)]):
        train = dt.train.MomentumOptimizer(0.1, 0.9).minimize(loss)
    return [loss], [train], [(x, (7, 40))]


@pytest.mark.parametrize("fast", [True, False])
def test_an_update_sums_where_ranks_share_memory(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (loss,), (train,), ((x, shape),) = _wide()
    biases = next(n for n in loss.graph.operations if n.type == "ApplyMomentum").inputs[4]
    spec = FeedSpec(x, shape, Sharded(0))
    monkeypatch.setitem(share.__globals__, "own_products", lambda: fast)

    def made(fetches: list[dt.Tensor], **given: Any) -> tuple[Counter[str], dict[str, Operation]]:
        how = {"native": True, "shares": True, "checked": True} | given
        step = compile_step(fetches, [train], [spec], 3, **how)
        check(step.graph.operations)
        nodes = schedule(step)
        assert all(step.placements[t] == REPLICATED for t in step.fetches)
        return Counter(n.type for n in nodes), {n.type: n for n in nodes}

    count, node = made([loss])
    assert count["NodeBarrier"] == 1 and count["SumTerms"] == 2 and not count["AllReduce"]
    assert count["RowsOfProduct"] == fast and count["MatMul"] == 5 - fast
    update = node["ApplyMomentum"]
    assert (update.kind.rows, update.kind.terms) == (((0,), (1, 2)) if fast else ((), (0, 1, 2)))
    assert count["ProductBound"] == fast
    assert [memory_of(update.inputs[3 + k]).op.type for k in update.kind.terms] == ["NodeBarrier"] * (
        3 - fast
    )
    if fast:
        product = node["RowsOfProduct"]
        assert update.inputs[3].op is product and product.inputs[0].op is node["NodeBarrier"]
        assert node["ProductBound"].outputs[0] in node["HasBad"].inputs
        assert node["ProductBound"].inputs == node["NodeBarrier"].inputs[-2:]
    # what is fetched is whole; the update, which ends in a barrier, waits for what reads others' terms
    count, node = made([loss, biases])
    assert count["SumTerms"] == 3 and 1 not in node["ApplyMomentum"].kind.terms
    unchecked = made([loss], checked=False)[1]
    assert unchecked["SumTerms"] in unchecked["ApplyMomentum"].control_inputs
    assert "ProductBound" not in unchecked
    # the barrier waits for what the product waited for
    assert (unchecked["AssignAdd"] in unchecked["NodeBarrier"].control_inputs) == fast
    for elsewhere in ({"shares": False}, {"native": None}, {"device": True}):
        assert made([loss], **elsewhere)[0]["AllReduce"] == 1
    monkeypatch.setitem(share.__globals__, "SMALL", 4)
    assert made([loss])[0]["AllReduce"] == 1


@pytest.mark.parametrize("ranks, shares", [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("build", [_trained, _clipped, _normalised, _written, _wide])
def test_every_pass_leaves_a_legal_graph(build: Any, ranks: int, shares: bool) -> None:
    fetches, targets, feeds = build()
    before = len(dt.get_default_graph().operations)
    step = prune(fetches, targets, [FeedSpec(t, shape, Sharded(0)) for t, shape in feeds], ranks)
    step = replace(step, native=shares or None, shares=shares, checked=shares)
    check(step.graph.operations)
    for run_pass in PIPELINE:
        step = run_pass(step)
        check(step.graph.operations)
        needed = ancestors([*(t.op for t in step.fetches), *step.targets])
        assert needed <= set(step.graph.operations)
        assert len(step.fetches) == len(fetches) and len(step.targets) == len(targets)
        assert [t.spec.dtype for t in step.fetches] == [t.dtype for t in fetches]
    assert set(step.placements) >= {t for n in step.graph.operations for t in n.outputs}
    assert all(step.placements[t] == REPLICATED for t in step.fetches)
    assert len(dt.get_default_graph().operations) == before


def test_random_graphs_stay_legal_behind_every_pass(random_graph: Any) -> None:
    for seed in range(40):
        dt.reset_default_graph()
        graph = random_graph(seed, rows=5)
        specs = [FeedSpec(t, a.shape, Sharded(0)) for t, a in graph.inputs]
        step = prune([*graph.tensors[6:], *graph.gradients()], [], specs, (1, 3)[seed % 2])
        for run_pass in PIPELINE:
            step = run_pass(step)
            check(step.graph.operations)


@pytest.mark.parametrize("left_out", [fold, simplify, cse])
def test_each_pass_changes_how_not_what(left_out: Any, random_graph: Any) -> None:
    for seed in range(30):
        dt.reset_default_graph()
        graph = random_graph(seed + 100, rows=4)
        fetches = [*graph.tensors[6:], *graph.gradients()]
        feeds = [(t, a.shape) for t, a in graph.inputs]
        results = []
        for passes in (PIPELINE, [p for p in PIPELINE if p is not left_out], [lower, place]):
            step = step_of(fetches, feeds, *passes)
            env = PlanEnv(Backend(), SingleCommunicator(), None)  # type: ignore[arg-type]
            plan = Plan(step, schedule(step), {}, Backend(), env)
            results.append(plan.run([a for _, a in graph.inputs]))
        for other in results[1:]:
            for value, right in zip(results[0], other, strict=True):
                np.testing.assert_allclose(value, right, rtol=1e-9, atol=1e-12)


def test_a_step_that_waits_for_itself_is_told() -> None:
    a, b = dt.no_op("a"), dt.no_op("b")
    with pytest.raises(ValueError, match="a"):
        topological([a, b], {a: {b}, b: {a}})
    assert topological([a, b], {a: {b}, b: set()}) == [b, a]
    assert topological([a, b], {a: set(), b: set()}) == [a, b]


def test_variables_that_swap_are_a_circle() -> None:
    v, w = dt.Variable(1.0, name="v"), dt.Variable(2.0, name="w")
    swap = dt.group(v.assign(w), w.assign(v))
    with pytest.raises(GraphError, match="in a circle"):
        run(swap)
    old = dt.identity(v)
    with dt.control_dependencies([old]):
        first = v.assign(w)
    with dt.control_dependencies([first]):
        second = w.assign(old)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run(second)
    assert session.run([v, w]) == [2, 1]


# -- N ranks compute what one does -----------------------------------------------------------------------
SIZES = [1, 2, 3, 4, 7]


def on_ranks(
    on_threads: Callable[..., list[Any]],
    size: int,
    fetches: Sequence[Any],
    arrays: Sequence[tuple[dt.Tensor, np.ndarray]],
    steps: int = 1,
) -> list[Any]:
    """What each rank fetches in the last of some steps, each rank feeding its shard of the arrays."""
    graph = fetches[0].graph
    initialize = dt.global_variables_initializer()

    def rank(comm: Communicator) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        session.run(initialize)
        for _ in range(steps):
            feeds = {}
            for tensor, array in arrays:
                low, high = shard_bounds(len(array), comm.rank, comm.size)
                feeds[tensor] = dt.Shard(array[low:high], len(array))
            values = session.run(list(fetches), feeds)
        return values

    return on_threads(size, rank)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.sampled_from(SIZES))
def test_random_graphs_on_several_ranks(
    on_threads: Any, random_graph: Any, seed: int, rows: int, size: int
) -> None:
    dt.reset_default_graph()
    graph = random_graph(seed, rows)
    fetches = [*graph.tensors[6:], *graph.gradients()]
    expected = run(fetches, dict(graph.inputs), initialize=False)
    for values in on_ranks(on_threads, size, fetches, graph.inputs):
        for value, right, tensor in zip(values, expected, fetches, strict=True):
            assert np.shape(value) == np.shape(right), tensor
            np.testing.assert_allclose(value, right, rtol=1e-9, atol=1e-12, err_msg=repr(tensor))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", [10, 3, 1])
@pytest.mark.parametrize("build", [_trained, _clipped, _normalised, _written])
def test_several_steps_on_several_ranks(build: Any, rows: int, size: int, on_threads: Any) -> None:
    dt.set_random_seed(1)
    fetches, targets, feeds = build()
    generator = np.random.default_rng(8)
    arrays = [
        (t, generator.uniform(-1, 1, (rows, *s[1:])).astype(t.dtype.numpy) if t.dtype.is_floating
         else generator.integers(0, 3, rows).astype(np.int32))
        for t, s in feeds
    ]  # fmt: skip
    variables = dt.trainable_variables()
    single = dt.Session(comm=None)
    single.run(dt.global_variables_initializer())
    wanted = [*fetches, *targets]
    for _ in range(4):
        expected = single.run([*wanted, *variables], dict(arrays))
    # variables are fetched with the step that writes them: their values are those from before it
    tolerance = 1e-5 if fetches[0].dtype == "float32" else 1e-10
    for values in on_ranks(on_threads, size, [*wanted, *variables], arrays, steps=4):
        for value, right in zip(values, expected, strict=True):
            if right is not None:
                np.testing.assert_allclose(value, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_a_sum_is_a_sum_and_a_penalty_counts_once(size: int, on_threads: Any) -> None:
    x = dt.placeholder("float64", [None, 2])
    w = dt.Variable(np.array([[1.0], [2.0]]))
    data = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    total = dt.reduce_sum(dt.matmul(x, w))
    penalised = dt.reduce_mean(dt.matmul(x, w)) + 0.5 * dt.reduce_sum(dt.square(w))
    fetches = [total, penalised, *dt.gradients(total, w), *dt.gradients(penalised, w)]
    for values in on_ranks(on_threads, size, fetches, [(x, data)]):
        assert values[0] == pytest.approx(5 + 11 + 19)
        assert values[1] == pytest.approx(35 / 3 + 2.5)
        np.testing.assert_allclose(values[2], [[9], [13]])
        np.testing.assert_allclose(values[3], [[3 + 1], [13 / 3 + 2]])


def test_a_training_step_is_one_message(on_threads: Any) -> None:
    loss, train, feeds = mlp()
    graph, initialize = loss.graph, dt.global_variables_initializer()

    def rank(comm: Any) -> list[Any]:
        session = dt.Session(graph=graph, comm=comm)
        session.run(initialize)
        low, high = shard_bounds(10, comm.rank, comm.size)
        fed = {
            feeds[0][0]: dt.Shard(np.ones((high - low, 5)), 10),
            feeds[1][0]: dt.Shard([0] * (high - low), 10),
        }
        session.run([loss, train], fed)
        comm.calls.clear()
        session.run([loss, train], fed)
        return comm.calls

    # 5·7 + 7 + 7·3 + 3 parameters, the loss and what the check found, each rounded up to 16 floats
    parameters = 48 + 16 + 32 + 16
    for calls in on_threads(3, rank):
        assert len(calls) == 1
        name, op, (count,), dtype = calls[0]
        assert (name, op, dtype) == ("allreduce", "sum", np.float32)
        assert parameters + 16 < count <= parameters + 32


def test_rows_of_each_ranks_own_are_told_of_shards(on_threads: Any) -> None:
    """Horovod's habit: x[rank::size], of which one rank may have more."""
    from dtrain.errors import EnvironmentProblem

    def rank(comm: Communicator) -> str:
        with dt.Graph().as_default() as graph:
            x = dt.placeholder("float", [None, 2])
            y = dt.reduce_sum(x)
        with pytest.raises(EnvironmentProblem) as caught:
            dt.Session(graph=graph, comm=comm).run(y, {x: np.ones((5, 2))[comm.rank :: comm.size]})
        return str(caught.value)

    for text in on_threads(2, rank):
        assert "has an array of shape (3, 2) for 'Placeholder' (built at" in text
        assert "has an array of shape (2, 2) for" in text and "dt.Shard(rows, total), on every rank" in text


def test_ranks_with_different_graphs_are_told(on_threads: Any) -> None:
    from dtrain.errors import EnvironmentProblem

    def rank(comm: Communicator) -> str:
        with dt.Graph().as_default() as graph:
            x = dt.placeholder("float", [None, 2])
            y = dt.reduce_sum(x * (3.0 if comm.rank == 1 else 2.0))
        low, high = shard_bounds(5, comm.rank, comm.size)
        with pytest.raises(EnvironmentProblem, match="do not agree on the step") as caught:
            dt.Session(graph=graph, comm=comm).run(y, {x: dt.Shard(np.ones((high - low, 2)), 5)})
        assert caught.value.agreed
        return str(caught.value)

    messages = on_threads(3, rank)
    assert len(set(messages)) == 1 and "rank 1 on n1" in messages[0]
