"""Memory: buffers never overlap while both live, and no kernel writes over what is still to be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtrain as dt
from dtrain.ops.base import Feed
from dtrain.ops.evaluate import evaluate
from dtrain.ops.memory import ALIGNMENT, address, aligned, coalesce
from dtrain.passes import FeedSpec, Step
from dtrain.passes.local import lower
from dtrain.passes.prune import prune
from dtrain.runtime.backend import Backend
from dtrain.runtime.memory import Buffer, pack
from dtrain.runtime.plan import Plan
from dtrain.runtime.session import Session

REPLICATED = "replicated"


# -- pack ------------------------------------------------------------------------------------------------
spans = st.tuples(st.integers(0, 400), st.integers(0, 12), st.integers(0, 6))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(spans, max_size=20))
def test_no_two_buffers_share_a_byte_while_both_live(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(nbytes, first, first + length) for nbytes, first, length in drawn]
    total = pack(buffers)
    for step in range(20):
        owner: dict[int, Buffer] = {}
        for buffer in buffers:
            if buffer.first <= step <= buffer.last:
                for byte in range(buffer.offset, buffer.offset + buffer.nbytes):
                    assert byte not in owner, f"{buffer} and {owner[byte]} at step {step}"
                    owner[byte] = buffer
    assert all(b.offset % ALIGNMENT == 0 and b.offset + b.nbytes <= total for b in buffers)
    assert total <= sum(aligned(b.nbytes) for b in buffers)


def test_buffers_that_follow_one_another_use_the_same_bytes() -> None:
    buffers = [Buffer(100, 0, 1), Buffer(100, 1, 2), Buffer(100, 2, 3), Buffer(100, 3, 4)]
    assert pack(buffers) == 2 * 128
    assert pack([]) == 0


def test_a_small_buffer_fills_the_gap_that_a_short_life_leaves() -> None:
    low, high, small = Buffer(640, 0, 1), Buffer(320, 0, 9), Buffer(64, 5, 9)
    assert pack([low, high, small]) == 960
    assert small.offset == 0


def test_sizes_are_rounded_up_to_the_alignment() -> None:
    assert [aligned(n) for n in (0, 1, 63, 64, 65)] == [0, 64, 64, 64, 128]


# -- coalesce --------------------------------------------------------------------------------------------
def lay(*shapes: tuple[int, ...], dtype: Any = np.float32, gaps: tuple[int, ...] = ()) -> list[np.ndarray]:
    """Arrays in one block, each where the one before ends (rounded up); `gaps` are followed by a hole."""
    block = Backend().block(sum(aligned(4 * int(np.prod(s))) + 64 for s in shapes) * 2)
    arrays, offset = [], 0
    for i, shape in enumerate(shapes):
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        arrays.append(block[offset : offset + nbytes].view(dtype).reshape(shape))
        offset += aligned(nbytes) + (64 if i in gaps else 0)
    return arrays


def test_arrays_that_lie_side_by_side_are_one_run_with_their_padding() -> None:
    shapes = [(3, 5), (7,), (0, 2), (), (33,)]
    a, b = lay(*shapes), lay(*shapes)
    ((run_a, run_b),) = coalesce([a, b])
    assert run_a.size == run_b.size == (64 + 64 + 0 + 64) // 4 + 33
    run_a[:] = 1
    run_b[:] = 2
    assert all((x == 1).all() for x in a) and all((x == 2).all() for x in b)


def test_a_run_ends_where_one_group_has_a_hole_or_another_order() -> None:
    shapes = [(3,), (4,), (5,)]
    runs = coalesce([lay(*shapes), lay(*shapes, gaps=(1,))])
    assert [r[0].size for r in runs] == [16 + 4, 5]
    a = lay(*shapes)
    assert [r[0].size for r in coalesce([a[::-1]])] == [5, 4, 3]
    assert [r[0].size for r in coalesce([[lay((3,))[0], lay((4,))[0]]])] == [3, 4]


def test_a_run_ends_where_the_dtype_changes_and_never_takes_foreign_memory() -> None:
    block = Backend().block(256)
    mixed = [block[:12].view(np.float32), block[64:80].view(np.float64)]
    assert [r[0].size for r in coalesce([mixed])] == [3, 2]
    plain = [np.ones(3, np.float32), np.ones(4, np.float32)]
    runs = coalesce([plain])
    assert [r[0].size for r in runs] == [3, 4]
    assert all(np.shares_memory(r[0], p) for r, p in zip(runs, plain, strict=True))
    assert coalesce([[], []]) == []


def test_blocks_are_aligned() -> None:
    for nbytes in (1, 64, 1000):
        block = Backend().block(nbytes)
        assert (block.size, block.dtype, address(block) % ALIGNMENT) == (nbytes, np.uint8, 0)


# -- the arena against an array for each tensor ----------------------------------------------------------
def reference(fetches: list[dt.Tensor], feeds: dict[dt.Tensor, np.ndarray]) -> list[np.ndarray]:
    """Evaluate node by node, each tensor in an array of its own."""
    specs = [FeedSpec(t, a.shape, REPLICATED) for t, a in feeds.items()]
    step: Step = lower(prune(fetches, (), specs, 1))
    values: dict[dt.Tensor, np.ndarray] = {}
    for node in step.graph.operations:
        if isinstance(node.kind, Feed):
            values[node.outputs[0]] = list(feeds.values())[node.kind.index]
        elif node.type == "Const":
            values[node.outputs[0]] = node.kind.value.array  # type: ignore[attr-defined]
        else:
            values |= zip(node.outputs, evaluate(node.kind, [values[t] for t in node.inputs]), strict=True)
    return [values[t] for t in step.fetches]


def assert_as_reference(fetches: list[dt.Tensor], feeds: list[tuple[dt.Tensor, np.ndarray]]) -> None:
    session = Session(comm=None)
    for scale in (1.0, -0.5, 1.0):  # again in memory that the runs before have used
        fed = {t: a if a.dtype.kind == "i" else a * scale for t, a in feeds}
        for value, right in zip(session.run(fetches, fed), reference(fetches, fed), strict=True):
            assert np.shape(value) == right.shape
            np.testing.assert_allclose(value, right, rtol=1e-9, atol=1e-12)
    (plan,) = session.plans.values()
    assert_no_kernel_writes_over_what_it_reads(plan)


def assert_no_kernel_writes_over_what_it_reads(plan: Plan) -> None:
    """NumPy copies operands that overlap; other array modules do not, and a copy is not free."""
    for node in plan.kernel_nodes:
        read = [t for i, t in enumerate(node.inputs) if i not in node.kind.shape_only]
        for x in (plan._arrays[t] for t in read):
            for i, out in enumerate(plan._arrays[t] for t in node.outputs):
                if np.shares_memory(x, out):
                    same = address(x) == address(out) and x.strides == out.strides and x.shape == out.shape
                    assert same and i == 0 and node.kind.inplace, f"{node.name} writes over its input"


@pytest.mark.parametrize("everything", [False, True])
def test_random_graphs_compute_what_each_tensor_in_its_own_memory_gives(
    everything: bool, random_graph: Any
) -> None:
    for seed in range(60):
        dt.reset_default_graph()
        graph = random_graph(seed, rows=(7, 1, 4)[seed % 3], operations=12)
        made = graph.tensors[6:]
        fetches = made if everything else [made[-1], made[seed % len(made)], *graph.gradients()[:3]]
        assert_as_reference(fetches, graph.inputs)


def feeds() -> tuple[dt.Tensor, dt.Tensor, list[tuple[dt.Tensor, np.ndarray]]]:
    x, y = dt.placeholder("float64", [None, 3]), dt.placeholder("float64", [None, 3])
    generator = np.random.default_rng(1)
    return x, y, [(t, generator.uniform(-1, 1, (5, 3))) for t in (x, y)]


def test_an_in_place_op_spares_what_a_view_still_shows() -> None:
    x, y, fed = feeds()
    for view in (
        lambda t: dt.reshape(t, [-1]),
        dt.transpose,
        lambda t: dt.expand_dims(t, 1),
        lambda t: dt.reshape(dt.transpose(t), [5, 3]),  # of which there is no view: it is a copy
    ):
        made = dt.tanh(x) + y
        shown = view(made)
        after = dt.exp(made)
        assert_as_reference([after * dt.reshape(shown, [-1, 3])], fed)
        assert_as_reference([dt.exp(shown), shown], fed)
        assert_as_reference([made, dt.exp(dt.negative(made))], fed)


def test_an_op_on_a_tensor_twice_and_beside_its_own_view() -> None:
    x, y, fed = feeds()
    made = x * y
    assert_as_reference([made * made], fed)
    square = dt.matmul(made, made, transpose_a=True)
    assert_as_reference([square + dt.transpose(square)], fed)
    assert_as_reference([dt.transpose(square) - square], fed)


def test_a_broadcast_operand_is_not_written_over() -> None:
    x, y, fed = feeds()
    row = dt.reduce_sum(x, 0)
    assert_as_reference([row * y, row + dt.tanh(row)], fed)
    assert_as_reference([dt.reduce_sum(x, 1, keepdims=True) - y], fed)


def test_fetched_tensors_outlive_what_comes_after() -> None:
    x, _, fed = feeds()
    chain = [x * 2]
    for _ in range(6):
        chain.append(dt.tanh(chain[-1]))
    assert_as_reference(chain, fed)
    assert_as_reference(chain[::2], fed)


def test_a_chain_of_in_place_ops_uses_one_buffer() -> None:
    x = dt.placeholder("float32", [None])
    y = x
    for _ in range(8):
        y = dt.tanh(y)
    session = Session(comm=None)
    session.run(y, {x: np.zeros(1000, np.float32)})
    (plan,) = session.plans.values()
    assert plan.arena_bytes == aligned(4000)


def test_lives_that_do_not_meet_share_memory() -> None:
    x = dt.placeholder("float32", [None, 10])
    y = x
    for _ in range(8):
        y = dt.matmul(y, np.eye(10, dtype=np.float32))  # not in place: two buffers in turn
    session = Session(comm=None)
    session.run(y, {x: np.zeros((100, 10), np.float32)})
    (plan,) = session.plans.values()
    assert plan.arena_bytes == 2 * aligned(4000)
