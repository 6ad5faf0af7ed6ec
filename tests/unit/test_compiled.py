"""Several steps in one call are the same steps, to the bit, and stop where they are asked to."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm.single import SingleCommunicator
from dtrain.errors import InvalidArgumentError
from dtrain.native import compiler
from dtrain.runtime.backend import Backend
from dtrain.runtime.feeds import Window
from dtrain.train.batches import Pace, windows

KERNELS = [
    "numpy",
    pytest.param("c", marks=pytest.mark.skipif(not compiler.command(), reason="no C compiler")),
]


#: The example at which a loop that is asked to ends.
LAST = 39


def classifier(kernels: str) -> tuple[dt.Session, list[Any], list[Any]]:
    """A session on a small network over a table of examples: what a step fetches and is fed."""
    with dt.Graph().as_default() as graph:
        graph.seed = 1
        generator = np.random.default_rng(0)
        table, classes = generator.standard_normal((40, 6)), generator.integers(0, 4, 40)
        indices = dt.placeholder("int32", [None], name="indices")
        stop = dt.placeholder("float32", [], name="stop")
        x = dt.gather(dt.constant(table.astype(np.float32)), indices)
        labels = dt.gather(dt.constant(classes.astype(np.int32)), indices)
        logits = dt.matmul(x, dt.Variable(dt.random_normal([6, 4])))
        loss = dt.reduce_mean(dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        update = dt.train.AdamOptimizer(0.01).minimize(loss)
        ended = dt.reduce_sum(dt.cast(dt.equal(indices, LAST), "float32")) * stop
        session = dt.Session(graph=graph, comm=None, device=Backend(kernels))
        session.run(dt.global_variables_initializer())
    return session, [loss, ended, update], [indices, stop]


def rows(steps: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, LAST, (steps, 5)).astype(np.int32)


def variables(session: dt.Session) -> list[np.ndarray]:
    return session.run(session.graph.get_collection(dt.GraphKeys.GLOBAL_VARIABLES))


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_loop_takes_the_steps_that_single_calls_take(kernels: str) -> None:
    session, fetches, feeds = classifier(kernels)
    step = session.make_callable(fetches, feeds)
    single = [step(row, 0.0) for row in rows(12)]
    wanted = variables(session)

    session, fetches, feeds = classifier(kernels)
    loop = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
    taken = [r for part in (rows(12)[:1], rows(12)[1:9], rows(12)[9:]) for r in loop(Window(part, 5), 0.0)]
    assert [(loss, ended) for loss, ended, _ in taken] == [(loss, ended) for loss, ended, _ in single]
    assert all(nothing is None for _, _, nothing in taken)
    assert [*session.plans.values()][-1].repeats(1) == (kernels == "c")
    for a, b in zip(wanted, variables(session), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("last", [0, 1, 6, 19])
def test_it_ends_behind_the_step_that_says_so(kernels: str, last: int) -> None:
    session, fetches, feeds = classifier(kernels)
    loop = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
    several = rows(20)
    several[last, 3] = LAST
    assert [ended for _, ended, _ in loop(Window(several, 5), 1.0)] == [0] * last + [1]
    assert len(loop(Window(several, 5), 0.0)) == 20


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_bad_value_in_the_middle_is_told_as_in_a_single_step(kernels: str) -> None:
    session, fetches, feeds = classifier(kernels)
    loop = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
    bad = rows(9)
    bad[4, 2] = 40
    with pytest.raises(InvalidArgumentError, match="40"):
        loop(Window(bad, 5), 0.0)
    assert len(loop(Window(rows(3), 5), 0.0)) == 3


@pytest.mark.skipif(not compiler.command(), reason="no C compiler")
def test_counters_copies_and_gradients_of_sums_do_not_break_a_loop() -> None:
    """AssignAdd, AssignSub, Identity and BroadcastLike, against one step a call in NumPy."""

    def made(kernels: str) -> tuple[dt.Session, list[Any], list[Any]]:
        with dt.Graph().as_default() as graph:
            x = dt.placeholder("float32", [None, 5])
            w = dt.Variable(np.arange(-7, 8, dtype=np.float32).reshape(5, 3) / 8)  # exact in any order
            count = dt.Variable(0.0, trainable=False)
            down = dt.Variable(np.arange(3, dtype=np.float32), trainable=False)
            product = dt.matmul(x, w)
            (to_x,) = dt.gradients(dt.square(dt.reduce_sum(product, 1)), product)
            with dt.control_dependencies([dt.assign_add(count, 0.5), dt.assign_sub(down, [1.0, 0.5, 0.25])]):
                held = dt.identity(product)
            ended = dt.reduce_sum(x) * 0.0
            session = dt.Session(graph=graph, comm=None, device=Backend(kernels))
            session.run(dt.global_variables_initializer())
        return session, [held, to_x, ended], [x]

    several = np.random.default_rng(3).integers(-4, 5, (7, 4, 5)).astype(np.float32)
    session, fetches, feeds = made("numpy")
    single = [session.run(fetches, {feeds[0]: rows}) for rows in several]
    wanted = variables(session)
    session, fetches, feeds = made("c")
    taken = session.make_callable(fetches, feeds).several(Window(several, 4), until=fetches[2])
    plan = [*session.plans.values()][-1]
    assert plan.repeats(2)
    assert {"AssignAdd", "AssignSub", "Identity", "BroadcastLike"} <= {n.type for n in plan.kernel_nodes}
    for ours, theirs in zip(taken, single, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    for a, b in zip(wanted, variables(session), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernels", KERNELS)
def test_what_is_fetched_has_its_structure_in_every_step(kernels: str) -> None:
    with dt.Graph().as_default():
        x, total = dt.placeholder("int32", [None]), dt.Variable(0)
        add = total.assign_add(dt.reduce_sum(x), read_value=False)
        with dt.Session(comm=None, device=Backend(kernels)) as session:
            session.run(total.initializer)
            window = Window(np.arange(12, dtype=np.int32).reshape(4, 3), 3)
            assert session.make_callable(add, [x]).several(window) == [None] * 4
            assert session.run(total) == 66
            taken = session.make_callable({"sum": (dt.reduce_sum(x), add), "x": x}, [x]).several(window)
            assert [values["sum"] for values in taken] == [(3, None), (12, None), (21, None), (30, None)]
            np.testing.assert_array_equal([values["x"] for values in taken], window.rows)


@pytest.mark.parametrize("kernels", KERNELS)
def test_each_row_of_a_window_is_looked_at(kernels: str) -> None:
    """Numbers of another dtype are taken where a step alone would take them, in any row."""
    with dt.Graph().as_default():
        x = dt.placeholder("int32", [None])
        with dt.Session(comm=None, device=Backend(kernels)) as session:
            step = session.make_callable(dt.reduce_sum(x), [x])
            assert step.several(Window(np.array([[1.5, 2], [3, 4]]), 2)) == [3, 7]
            for row in range(3):
                rows = np.ones((3, 2))
                rows[row, 1] = 1e12
                with pytest.raises(InvalidArgumentError, match="float64"):
                    step.several(Window(rows, 2))


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_steps_are_counted_where_others_see_it(kernels: str) -> None:
    session, fetches, feeds = classifier(kernels)
    loop = partial(session.make_callable(fetches, feeds).several, until=fetches[1])
    session.comm.board.step(100)
    loop(Window(rows(9), 5), 0.0)
    assert session.comm.board.number[0] == 108


def test_windows_hold_each_batch_once() -> None:
    order = np.arange(103, dtype=np.int32)
    counts = iter([1, 4, 3, 9, 9])
    found = list(windows(order, 10, SingleCommunicator(), lambda: next(counts)))
    assert [(len(w), w.total) for w in found] == [(1, 10), (4, 10), (3, 10), (2, 10), (1, 3)]
    np.testing.assert_array_equal(np.concatenate([w.rows.ravel() for w in found]), order)
    np.testing.assert_array_equal(found[1].feed(2), order[30:40])


@pytest.mark.parametrize("rank", [0, 4])
def test_a_window_of_batches_of_fewer_than_ranks_has_them_whole(rank: int) -> None:
    comm = SingleCommunicator()
    comm.rank, comm.size = rank, 5
    split, whole = windows(np.arange(9, dtype=np.int32), 5, comm, lambda: 1)
    assert (split.feed(0).rows.tolist(), split.feed(0).total) == ([rank], 5)
    assert whole.feed(0).tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("alone", "among", "steps"),
    [
        (0.00001, 0.00001, Pace.MOST),
        (0.01, 0.01, 3),
        (1.0, 1.0, 1),
        (0.0003, 0.0001, 300),  # a step by itself takes a device longer
        (0.0003, 0.0006, 100),  # between two calls was a test
    ],
)
def test_the_pace_is_that_of_the_measured_steps(
    monkeypatch: pytest.MonkeyPatch, alone: float, among: float, steps: int
) -> None:
    now = 5.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    pace, taken, found = Pace(SingleCommunicator()), 0, []
    for _ in range(Pace.LOOKS + Pace.MORE + 5):
        taken = pace(taken)
        found.append(taken)
        now += taken * (alone if taken == 1 else among)
    assert found[: Pace.LOOKS] == [1] * Pace.LOOKS
    assert found[-4:] == pytest.approx([steps] * 4, abs=1)
    assert Pace(SingleCommunicator(), most=1)(0) == 1


@pytest.mark.parametrize("kernels", KERNELS)
def test_what_is_fed_once_is_there_in_every_step(kernels: str) -> None:
    """A step may lay something else where a feed was, once that has been read, as the product here."""
    with dt.Graph().as_default():
        x, scale = dt.placeholder("float32", [None, 5]), dt.placeholder("float32", [5])
        y = dt.reduce_sum(x, 0) * scale
        ended = dt.reduce_sum(x) * 0.0
        session = dt.Session(device=Backend(kernels))
        given = np.arange(1, 6, dtype=np.float32)
        batches = np.random.default_rng(0).integers(0, 9, (6, 7, 5)).astype(np.float32)
        taken = session.make_callable([y, ended], [x, scale]).several(Window(batches, 7), given, until=ended)
        assert [*session.plans.values()][-1].repeats(1) == (kernels == "c")
    np.testing.assert_array_equal([values[0] for values in taken], batches.sum(1) * given)
