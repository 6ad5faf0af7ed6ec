"""Session.run: fetches, feeds, variables, order, randomness, and what a run leaves behind."""

from __future__ import annotations

import re
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import FailedPreconditionError, GraphError, InvalidArgumentError
from dtrain.runtime import session as session_module

Pair = namedtuple("Pair", "first second")


@pytest.fixture
def session() -> dt.Session:
    return dt.Session(comm=None)


def started() -> dt.Session:
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    return session


# -- fetches ---------------------------------------------------------------------------------------------
def test_values_come_back_in_the_structure_of_the_fetches(session: dt.Session) -> None:
    a, b, nothing = dt.constant(1, name="a"), dt.constant([2.0, 3.0]), dt.no_op(name="nothing")
    found = session.run({"x": [a, (b, nothing)], "y": Pair(a, {"z": a}), "empty": []})
    assert list(found) == ["x", "y", "empty"]
    assert isinstance(found["x"][1], tuple) and isinstance(found["y"], Pair)
    assert found["x"][0] == 1 and found["x"][1][0].tolist() == [2, 3] and found["x"][1][1] is None
    assert found["y"] == Pair(1, {"z": 1}) and found["empty"] == []
    assert session.run(nothing) is None and session.run([]) == []
    assert session.run([a, nothing, a, "a", "a:0", "nothing"]) == [1, None, 1, None, 1, None]


def test_values_have_the_shape_and_dtype_of_their_tensors(session: dt.Session) -> None:
    scalar, matrix, empty = session.run([dt.constant(1), dt.zeros([2, 3], "float64"), dt.zeros([0, 4])])
    assert isinstance(scalar, np.int32) and scalar.shape == ()
    assert (matrix.shape, matrix.dtype) == ((2, 3), np.float64)
    assert (empty.shape, empty.dtype) == ((0, 4), np.float32)


def test_fetched_values_are_the_callers_own() -> None:
    v, x = dt.Variable([1.0, 2.0]), dt.placeholder("float", [2])
    c = dt.constant([5.0, 6.0])
    session = started()
    fetches = [v, v, x, c, x + 1]
    fed = np.array([7.0, 8.0], np.float32)
    first = session.run(fetches, {x: fed})
    expected = [a.copy() for a in first]
    for array in first:
        array[:] = -1
    assert fed.tolist() == [7, 8]
    for value, right in zip(session.run(fetches, {x: fed}), expected, strict=True):
        np.testing.assert_array_equal(value, right)


@pytest.mark.parametrize("bad", [7, None, object(), 1.5])
def test_what_cannot_be_fetched_is_told(bad: Any, session: dt.Session) -> None:
    with pytest.raises(TypeError, match="cannot be fetched: give a tensor"):
        session.run([bad])


def test_a_name_that_is_not_there_is_told(session: dt.Session) -> None:
    with pytest.raises(KeyError, match="no operation named 'loss'"):
        session.run("loss:0")


def test_a_tensor_of_another_graph_is_told(session: dt.Session) -> None:
    with dt.Graph().as_default():
        foreign = dt.constant(1, name="foreign")
    with pytest.raises(InvalidArgumentError, match=r"foreign:0 is not in this session's graph"):
        session.run(foreign)


def test_a_session_runs_the_graph_it_was_made_with() -> None:
    with dt.Graph().as_default() as graph:
        a = dt.constant(3)
    assert dt.Session(graph=graph, comm=None).run(a) == 3
    with dt.Session(graph=graph, comm=None) as session:
        assert dt.get_default_graph() is graph
        assert session.run(dt.constant(4) + a) == 7
    assert dt.get_default_graph() is not graph
    with pytest.raises(GraphError, match="no server"):
        dt.Session("grpc://localhost")


def test_variables_made_after_the_first_run_are_there_too() -> None:
    v = dt.Variable([1.0])
    session = started()
    w = dt.Variable([2.0])
    session.run(w.initializer)
    assert session.run(v + w).tolist() == [3]


# -- only what is needed ---------------------------------------------------------------------------------
def test_only_what_the_fetches_need_runs() -> None:
    x, v = dt.placeholder("float", [2]), dt.Variable(0.0)
    bad = dt.gather([1.0], [5])  # an error if it ran
    v.assign_add(1.0)
    session = started()
    assert session.run(dt.constant(1) + 1) == 2
    assert session.run([v.value(), x * 2], {x: [1.0, 2.0]})[0] == 0
    with pytest.raises(InvalidArgumentError):
        session.run(bad)


def test_a_feed_that_is_not_needed_does_no_harm(session: dt.Session) -> None:
    x, y = dt.placeholder("float", [2]), dt.placeholder("float", [None])
    assert session.run(x * 2, {x: [1.0, 2.0], y: [3.0]}).tolist() == [2, 4]


def test_a_value_of_which_only_the_shape_counts_is_not_computed(session: dt.Session) -> None:
    x = dt.placeholder("float", [None, 3])
    costly = dt.exp(x)
    found = session.run(dt.zeros_like(costly), {x: np.ones((2, 3))})
    (plan,) = session.plans.values()
    assert found.shape == (2, 3) and "Exp" not in [n.type for n in plan.kernel_nodes]


# -- plans -----------------------------------------------------------------------------------------------
def test_a_plan_is_made_once_for_each_set_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_step = session_module.compile_step

    def counting(*arguments: Any, **named: Any) -> Any:
        compiled.append(arguments)
        return compile_step(*arguments, **named)

    monkeypatch.setattr(session_module, "compile_step", counting)
    x = dt.placeholder("float", [None, 2])
    y, z = x * 2, x * 3
    session = dt.Session(comm=None)
    for rows in (3, 3, 4, 3, 4, 0):
        assert session.run(y, {x: np.ones((rows, 2))}).shape == (rows, 2)
    assert len(compiled) == 3
    session.run(z, {x: np.ones((3, 2))})
    session.run([y], {x: np.ones((3, 2))})
    session.run(y, {x: dt.Shard(np.ones((3, 2)), 3)})
    assert len(compiled) == 5  # [y] needs what y does; a shard lies elsewhere than a whole array


def test_plans_unused_longest_are_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_PLANS", 3)
    x = dt.placeholder("float", [None])
    y = x * 2
    session = dt.Session(comm=None)
    for rows in (1, 2, 3, 2, 1, 4):
        session.run(y, {x: np.ones(rows)})
    assert [plan.step.fetches[0].shape.as_list() for plan in session.plans.values()] == [[2], [1], [4]]


def test_a_callable_is_a_run_with_the_looking_up_done() -> None:
    x, y = dt.placeholder("float", []), dt.placeholder("float", [None])
    v = dt.Variable(1.0)
    session = started()
    call = session.make_callable({"sum": x + v, "y": y}, [x, "Placeholder_1:0"])
    assert call(2.0, [1.0])["sum"] == 3
    session.run(v.assign(10.0))
    assert call(2.0, [1.0, 2.0])["sum"] == 12
    with pytest.raises(InvalidArgumentError, match="1 values for 2 feeds"):
        call(2.0)


# -- feeds -----------------------------------------------------------------------------------------------
def test_an_unfed_placeholder_is_told_in_the_lectures_words(session: dt.Session) -> None:
    a = dt.constant([1.0, 2.0, 3.0], name="A")
    b = dt.placeholder(dt.float32, shape=[3], name="B")
    text = "You must feed a value for placeholder tensor 'B' with dtype float and shape [3]"
    with pytest.raises(InvalidArgumentError, match=re.escape(text)) as caught:
        session.run(a + b)
    assert f"built at {__file__}" in str(caught.value)
    assert session.run(a + b, {b: [1.0, 2.0, 3.0]}).tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        ("float64", [None, 2], "with dtype double and shape [?,2]:"),
        ("int32", [], "with dtype int32 and shape []:"),
        ("uint8", None, "with dtype uint8: pass"),
    ],
)
def test_an_unfed_placeholder_is_told_with_its_dtype_and_shape(
    dtype: str, shape: Any, text: str, session: dt.Session
) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(text)):
        session.run(dt.identity(dt.placeholder(dtype, shape)))


@pytest.mark.parametrize("bad", [np.zeros((3, 2)), np.zeros(3), 1.0, np.zeros((1, 3, 3)), [[1.0, 2.0]]])
def test_a_value_of_another_shape_is_told(bad: Any, session: dt.Session) -> None:
    x = dt.placeholder("float", [None, 3], name="x")
    with pytest.raises(InvalidArgumentError, match=r"Cannot feed value of shape .* 'x:0'.* '\(\?, 3\)'"):
        session.run(x * 2, {x: bad})


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", np.nan),
        ("int64", [1.0, np.inf]),
        ("int64", 2.0**63),
        ("int32", np.array([2.0**31])),
        ("uint8", -1.5),
        ("float32", 1j),
        ("uint8", -1),
        ("uint8", [1, 256]),
        ("int32", np.array(2**31)),
        ("bool", 2),
        ("bool", "text"),
        ("float32", np.array([1, None])),
        ("float32", "text"),
        ("int32", None),
    ],
)
def test_a_value_of_another_dtype_is_told(dtype: str, value: Any, session: dt.Session) -> None:
    x = dt.placeholder(dtype, name="x")
    with pytest.raises(InvalidArgumentError, match=rf"Cannot feed value of dtype .* 'x:0'.*{dtype}"):
        session.run(dt.identity(x), {x: value})


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", 1),
        ("float32", [1, 2]),
        ("float32", np.float64(0.1)),
        ("float64", np.float32(0.5)),
        ("uint8", [1, 255]),
        ("int32", np.arange(3)),
        ("int64", np.uint8(3)),
        ("float32", True),
        ("int32", []),
        ("float32", np.arange(6.0).reshape(2, 3).T),
        ("float32", np.zeros(3, ">f4") + 1),
        ("float32", np.array([[1, 2.5]], object)),
        ("float32", np.zeros((0, 3), object)),
        # as TensorFlow 2.21: fractions are cut off, and what is not 0 is True
        ("int32", 2.7),
        ("int32", np.array([1.5, -2.5, 0])),
        ("int64", np.float32(2)),
        ("uint8", [255.9, -0.9]),
        ("int32", [True, False]),
        ("bool", 1),
        ("bool", 0.5),
        ("bool", [1, 0, 2]),
        ("bool", np.array([[0.0, -2.5], [np.nan, 1]])),
        ("bool", np.int64(3)),
    ],
)
def test_values_are_converted_as_tensorflow_does(dtype: str, value: Any, session: dt.Session) -> None:
    x = dt.placeholder(dtype)
    found = np.asarray(session.run(dt.identity(x), {x: value}))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.asarray(value).astype(dtype))


def test_other_things_that_cannot_be_fed(session: dt.Session) -> None:
    x, v = dt.placeholder("float", [None]), dt.Variable(1.0, name="v")
    with pytest.raises(InvalidArgumentError, match="ragged"):
        session.run(x * 2, {x: [[1], [2, 3]]})
    with pytest.raises(InvalidArgumentError, match="Cannot feed the tensor"):
        session.run(x * 2, {x: dt.ones([3])})
    with pytest.raises(InvalidArgumentError, match="v:0 is a variable and cannot be fed"):
        session.run(x * 2, {x: [1.0], v: 2.0})
    with pytest.raises(TypeError, match="only tensors can be fed"):
        session.run(x * 2, {x.op: [1.0]})
    with pytest.raises(TypeError, match="cannot be fetched"):
        session.run(x * 2, {7: [1.0]})


def test_fed_shapes_that_do_not_fit_each_other_are_told_with_the_line(session: dt.Session) -> None:
    x, y = dt.placeholder("float", [None]), dt.placeholder("float", [None])
    z = x + y
    with pytest.raises(InvalidArgumentError, match=r"Add \(built at .*test_session.py:\d+\) does not fit"):
        session.run(z, {x: [1.0, 2.0], y: [1.0, 2.0, 3.0]})
    assert session.run(z, {x: [1.0], y: [1.0, 2.0]}).tolist() == [2, 3]


def test_any_tensor_can_be_fed_by_itself_or_by_its_name(session: dt.Session) -> None:
    x = dt.placeholder("float", [])
    middle = dt.exp(x, name="middle")
    y = middle * 2
    assert session.run(y, {middle: 5.0}) == 10
    assert session.run([y, middle], {"middle:0": 5.0, x: 0.0}) == [10, 5]
    assert session.run(dt.constant(2, name="c") * 3, {"c:0": 5}) == 15


def test_what_is_fed_is_not_changed_by_the_run(session: dt.Session) -> None:
    x = dt.placeholder("float", [3])
    fed = np.array([1, 2, 3], np.float32)
    session.run(dt.nn.relu(dt.negative(x)), {x: fed})
    assert fed.tolist() == [1, 2, 3]


def test_a_shard_is_this_ranks_rows(on_threads: Any) -> None:
    x = dt.placeholder("float", [None, 2], name="x")
    y = x * 2
    graph = x.graph

    def rank(comm: Communicator) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        with pytest.raises(InvalidArgumentError, match=rf"rank {comm.rank} of 3 holds rows"):
            session.run(y, {x: dt.Shard(np.ones((4, 2)), 5)})
        with pytest.raises(InvalidArgumentError, match="Shard of a scalar"):
            session.run(y, {x: dt.Shard(1.0, 5)})
        low, high = 5 * comm.rank // 3, 5 * (comm.rank + 1) // 3
        return session.run(y, {x: dt.Shard(np.arange(10).reshape(5, 2)[low:high], 5)})

    for value in on_threads(3, rank):
        np.testing.assert_array_equal(value, np.arange(10).reshape(5, 2) * 2)


# -- variables -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "use",
    [
        lambda v: v,
        lambda v: v + 1,
        lambda v: dt.reshape(v, [1, 2]),
        lambda v: dt.exp(dt.transpose(v)),
        lambda v: v.assign_add([1.0, 1.0]),
        lambda v: v.assign_sub([1.0, 1.0]),
        lambda v: v.assign(v * 2),
    ],
)
def test_a_variable_needs_a_value_first(use: Any, session: dt.Session) -> None:
    v = dt.Variable([1.0, 2.0], name="weights")
    fetch = use(v)
    for _ in range(2):
        with pytest.raises(
            FailedPreconditionError, match="Attempting to use uninitialized value weights"
        ) as caught:
            session.run(fetch)
    assert f"built at {__file__}" in str(caught.value)
    session.run(v.initializer)
    session.run(fetch)


def test_a_value_can_be_given_and_used_in_one_run(session: dt.Session) -> None:
    v = dt.Variable([1.0], name="v")
    with dt.control_dependencies([v.initializer]):
        after = dt.identity(v)
    assert session.run(after).tolist() == [1]
    assert session.run(v.assign([3.0])).tolist() == [3]
    assert session.run(v).tolist() == [3]


def test_a_variable_can_start_from_another_before_that_has_a_value(session: dt.Session) -> None:
    v = dt.Variable([1.0, 2.0])
    w = dt.Variable(v.initial_value * 2)
    session.run(dt.variables_initializer([w]))
    assert session.run(w).tolist() == [2, 4]
    u = dt.Variable(v * 3.0)
    session.run(u.initializer)
    assert session.run(u).tolist() == [3, 6]
    with pytest.raises(FailedPreconditionError):
        session.run(v)


def test_assignments_give_the_new_value_and_last() -> None:
    v = dt.Variable([1.0, 2.0])
    session = started()
    assert session.run(v.assign_add([1.0, 1.0])).tolist() == [2, 3]
    assert session.run(v.assign_sub([0.5, 1.0])).tolist() == [1.5, 2]
    assert session.run(v.assign([7.0, 8.0]) * 2).tolist() == [14, 16]
    assert session.run(v).tolist() == [7, 8]
    session.run(v.initializer)
    assert session.run(v).tolist() == [1, 2]


def test_a_read_beside_a_write_sees_the_value_from_before() -> None:
    v = dt.Variable(1.0)
    add = v.assign_add(1.0)
    read = v * 10.0
    session = started()
    for k in range(1, 4):
        assert session.run([v, read, add.op, v]) == [k, 10 * k, None, k]
        assert session.run(v) == k + 1
        session.run(v.assign(float(k + 1)))


def test_a_read_behind_a_write_sees_the_new_value() -> None:
    v = dt.Variable(1.0)
    add = v.assign_add(1.0)
    with dt.control_dependencies([add]):
        after = dt.identity(v)
        scaled = v * 10.0
    before = v * 100.0
    session = started()
    assert session.run([after, scaled, before, v]) == [2, 20, 100, 1]


def test_writes_happen_in_the_order_that_is_asked_for() -> None:
    v = dt.Variable(1.0)
    double = v.assign(v * 2.0)
    with dt.control_dependencies([double]):
        add = v.assign_add(1.0)
        with dt.control_dependencies([add]):
            again = v.assign(v * 2.0)
    session = started()
    assert session.run([double, add, again]) == [2, 3, 6]
    assert session.run(again) == ((6 * 2) + 1) * 2


def test_a_training_step_and_its_variables() -> None:
    v = dt.Variable([4.0])
    loss = dt.reduce_sum(dt.square(v))
    train = dt.train.GradientDescentOptimizer(0.25).minimize(loss)
    with dt.control_dependencies([train]):
        after = dt.identity(v)
    session = started()
    value, before, new, nothing = session.run([loss, v, after, train])
    assert (value, before.tolist(), new.tolist(), nothing) == (16, [4], [2], None)


def test_gradients_that_are_variables_are_those_from_before_the_step() -> None:
    a, b = dt.Variable(2.0), dt.Variable([3.0, 5.0])
    train = dt.train.GradientDescentOptimizer(1.0).minimize(dt.reduce_sum(a * b))
    session = started()
    session.run(train)
    new_a, new_b = session.run([a, b])
    assert new_a == 2 - 8 and new_b.tolist() == [3 - 2, 5 - 2]
    c, d = dt.Variable([2.0, 1.0]), dt.Variable([3.0, 5.0])
    train = dt.train.GradientDescentOptimizer(1.0).minimize(dt.reduce_sum(c * d), var_list=[c, d])
    session.run(dt.variables_initializer([c, d]))
    session.run(train)
    assert [v.tolist() for v in session.run([c, d])] == [[-1, -4], [1, 4]]


def test_gradients_that_are_transposed_reach_their_variable() -> None:
    w = dt.Variable(np.arange(6.0).reshape(2, 3))
    x = np.array([[1.0, 2.0, 4.0]])
    train = dt.train.GradientDescentOptimizer(1.0).minimize(dt.reduce_sum(dt.matmul(x, dt.transpose(w))))
    session = started()
    for k in (1, 2):
        session.run(train)
        np.testing.assert_array_equal(session.run(w), np.arange(6.0).reshape(2, 3) - k * x)


def test_two_sessions_hold_separate_state() -> None:
    v = dt.Variable(1.0)
    add = v.assign_add(1.0)
    first, second = started(), started()
    first.run(add)
    first.run(add)
    assert (first.run(v), second.run(v)) == (3, 1)
    third = dt.Session(comm=None)
    with pytest.raises(FailedPreconditionError):
        third.run(v)


def test_a_closed_session_has_forgotten_its_variables() -> None:
    v = dt.Variable(1.0)
    session = started()
    session.close()
    with pytest.raises(FailedPreconditionError):
        session.run(v)


def test_values_are_set_and_read_from_outside(session: dt.Session) -> None:
    v, w = dt.Variable(np.zeros((2, 3), np.float32), name="v"), dt.Variable(1, name="w")
    session.set_value(v, np.ones((2, 3), np.float32))
    session.set_value(w, np.int32(5))
    values = session.get_values([v, w])
    assert list(values) == ["v", "w"] and values["v"].tolist() == [[1] * 3] * 2 and values["w"] == 5
    assert values["w"].shape == ()
    values["v"][:] = 9
    assert session.run(v).tolist() == [[1] * 3] * 2
    for bad in (np.ones((3, 2), np.float32), np.ones((2, 3)), 1.0):
        with pytest.raises(InvalidArgumentError, match="for the variable v of float32"):
            session.set_value(v, bad)


def test_empty_variables_are_variables() -> None:
    v = dt.Variable(dt.zeros([0, 3]))
    w = dt.Variable([1.0])
    session = started()
    assert session.run(v).shape == (0, 3)
    assert session.run(v.assign_add(dt.ones([0, 3]))).shape == (0, 3)
    assert session.run(w).tolist() == [1]


# -- randomness ------------------------------------------------------------------------------------------
def draws(seed: int | None, times: int = 3) -> list[list[np.ndarray]]:
    with dt.Graph().as_default():
        dt.set_random_seed(seed)
        tensors = [
            dt.random_normal([4]),
            dt.random_normal([4]),
            dt.truncated_normal([4]),
            dt.random_uniform([4]),
            dt.random_uniform([4], 3, 9, "int32"),
        ]
        session = dt.Session(comm=None)
        return [session.run(tensors) for _ in range(times)]


def flat(runs: list[list[np.ndarray]]) -> list[tuple[float, ...]]:
    return [tuple(a.tolist()) for values in runs for a in values]


def test_one_seed_is_one_sequence() -> None:
    assert flat(draws(5)) == flat(draws(5))
    assert flat(draws(5)) != flat(draws(6))
    assert flat(draws(None)) != flat(draws(None))


def test_every_op_and_every_run_has_its_own_numbers() -> None:
    floats = flat([values[:4] for values in draws(5)])
    assert len(set(floats)) == len(floats)


def test_ops_of_one_seed_draw_the_same_numbers_whoever_else_runs() -> None:
    dt.set_random_seed(1)
    a, b = dt.random_normal([3], seed=7), dt.random_normal([3], seed=7)
    first, second = dt.Session(comm=None), dt.Session(comm=None)
    together = [first.run([a, b]) for _ in range(2)]
    alone = [second.run(b) for _ in range(2)]
    for (left, right), single in zip(together, alone, strict=True):
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(right, single)
    assert together[0][0].tolist() != together[1][0].tolist()


def test_a_random_op_draws_once_a_run_however_often_it_is_used(session: dt.Session) -> None:
    a = dt.random_normal([5])
    one, two, double = session.run([a, a + 0.0, a * 2.0])
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one * 2, double)


def test_random_numbers_are_those_of_their_distribution(session: dt.Session) -> None:
    dt.set_random_seed(3)
    n = 20_000
    normal, truncated, uniform, integers, double = session.run(
        [
            dt.random_normal([n], 2.0, 3.0),
            dt.truncated_normal([n], 2.0, 3.0),
            dt.random_uniform([n], -1.0, 3.0),
            dt.random_uniform([n], 2, 6, "int64"),
            dt.random_normal([n], dtype="float64"),
        ]
    )
    assert normal.mean() == pytest.approx(2, abs=0.1) and normal.std() == pytest.approx(3, abs=0.1)
    assert np.abs(truncated - 2).max() <= 6 and truncated.std() == pytest.approx(3 * 0.88, abs=0.1)
    assert -1 <= uniform.min() < -0.99 and 2.99 < uniform.max() <= 3 and abs(uniform.mean() - 1) < 0.1
    assert sorted(set(integers.tolist())) == [2, 3, 4, 5] and integers.dtype == np.int64
    assert double.dtype == np.float64 and np.unique(double).size == n
    with pytest.raises(GraphError, match="needs maxval"):
        dt.random_uniform([2], dtype="int32")
    with pytest.raises(GraphError, match="unknown sizes"):
        dt.random_normal([None])


def test_every_rank_draws_the_same(on_threads: Any) -> None:
    v = dt.Variable(dt.truncated_normal([3, 2]))  # without a seed: rank 0 chooses one
    initialize, graph = dt.global_variables_initializer(), v.graph

    def rank(comm: Communicator) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        session.run(initialize)
        return session.run(v)

    first, *others = on_threads(3, rank)
    for other in others:
        np.testing.assert_array_equal(first, other)


# -- failures and repeats --------------------------------------------------------------------------------
def test_a_failed_run_leaves_the_session_usable() -> None:
    x = dt.placeholder("int32", [None])
    v = dt.Variable([1.0, 2.0])
    picked = dt.gather(v, x)
    with dt.control_dependencies([picked]):
        add = v.assign_add([1.0, 1.0])
    session = started()
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match=r"index 2 is not in 0\.\.1"):
            session.run([picked, add], {x: [0, 2]})
        with pytest.raises(InvalidArgumentError):
            session.run(picked)
        with pytest.raises(InvalidArgumentError):
            session.run(picked, {x: [[0]]})
    assert session.run([picked, add], {x: [0, 1]})[1].tolist() == [2, 3]
    assert session.run(v).tolist() == [2, 3]


def test_a_repeat_is_bit_identical() -> None:
    generator = np.random.default_rng(1)
    images = generator.uniform(-1, 1, (5, 20, 11)).astype(np.float32)

    def train() -> list[bytes]:
        with dt.Graph().as_default():
            dt.set_random_seed(4)
            x = dt.placeholder("float", [None, 11])
            w = dt.Variable(dt.random_normal([11, 7]))
            loss = dt.reduce_mean(dt.square(dt.nn.relu(dt.matmul(x, w)) - 1.0))
            step = dt.train.AdamOptimizer(0.01).minimize(loss)
            session = dt.Session(comm=None)
            session.run(dt.global_variables_initializer())
            return [session.run([loss, w, step], {x: batch})[1].tobytes() for batch in images]

    first, second = train(), train()
    assert first == second and len(set(first)) == len(first)


def test_an_error_in_a_run_known_already_is_not_tried_again() -> None:
    """run remembers fetches; a TypeError in the run is not taken for fetches that it cannot remember."""

    class Wrong:
        asked = 0

        def __array__(self, *args: Any, **named: Any) -> np.ndarray:
            Wrong.asked += 1
            raise TypeError("no numbers")

    session, x = dt.Session(comm=None), dt.placeholder("float32", [2])
    doubled = [x * 2]
    np.testing.assert_array_equal(session.run(doubled, {x: [1, 2]})[0], [2, 4])
    with pytest.raises(TypeError, match="no numbers"):
        session.run(doubled, {x: Wrong()})
    assert Wrong.asked == 1


def test_feeds_in_any_order_go_where_they_belong() -> None:
    x, y = dt.placeholder("float32", []), dt.placeholder("float32", [])
    session = dt.Session(comm=None)
    for _ in range(2):
        assert session.run(x - y, {y: 1, x: 3}) == session.run(x - y, {x: 3, y: 1}) == 2
    difference = x - y
    for feeds in ({y: 1, x: 3}, {x: 3, y: 1}) * 2:
        assert session.run(difference, feeds) == 2 and session.run([difference], feeds) == [2]
        assert session.run((difference,), feeds) == (2,)
