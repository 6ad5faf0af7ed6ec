"""Variables: their arguments, initial values, reads and writes, and what has a value when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import FailedPreconditionError, GraphError, InvalidArgumentError, UsageError


@pytest.fixture
def session() -> dt.Session:
    return dt.Session(comm=None)


# -- what is made ----------------------------------------------------------------------------------------
def test_a_variable_has_one_name_for_all_that_belongs_to_it() -> None:
    with dt.name_scope("layer"):
        v = dt.Variable(dt.zeros([2]), name="w")
    assert (v.name, v.initializer.name, v.read_value().op.name) == (
        "layer/w:0",
        "layer/w/Assign",
        "layer/w/read",
    )
    assert dt.Variable(lambda: dt.zeros([2]), name="u").initial_value.op.name == "u/Initializer/zeros"


def test_the_lectures_variable_prints_as_in_the_lecture() -> None:
    a = dt.get_variable(name="A", initializer=dt.constant([[0, 1], [2, 3]]))
    assert str(a) == repr(a) == "<tf.Variable 'A:0' shape=(2, 2) dtype=int32_ref>"


def test_arguments_come_in_tensorflow_1s_order() -> None:
    v = dt.Variable([1.0, 2.0], False, ["mine"], True, None, "w", None, "float64", [2])
    assert (v.name, v.dtype, v.trainable) == ("w:0", "float64", False)
    assert dt.get_collection("mine") == [v] and dt.global_variables() == []
    both = dt.Variable(1.0, collections=[dt.GraphKeys.LOCAL_VARIABLES, "mine"])
    assert dt.local_variables() == [both] == dt.trainable_variables()
    assert dt.get_collection("mine") == [v, both]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validate_shape": False}, "validate_shape"),
        ({"variable_def": object()}, "variable_def"),
        ({"import_scope": "a"}, "import_scope"),
        ({"expected_shape": [3]}, r"shape \(2,\), not the expected \(3,\)"),
        ({"constraint": 3}, "no function"),
        ({"collections": "mine"}, r"write \['mine'\]"),
    ],
)
def test_what_is_not_supported_is_said_in_a_sentence(arguments: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        dt.Variable([1.0, 2.0], **arguments)
    assert dt.global_variables() == []


def test_variables_are_listed_by_scope() -> None:
    with dt.name_scope("a"):
        inside = dt.Variable(1.0, name="w")
    outside = dt.Variable(1.0, name="ab")
    assert dt.trainable_variables("a/") == [inside] == dt.global_variables(scope="a/")
    assert dt.global_variables("a") == dt.all_variables() == [inside, outside]


# -- values ----------------------------------------------------------------------------------------------
def test_a_read_of_what_has_no_value_names_it(session: dt.Session) -> None:
    a = dt.get_variable("A", initializer=dt.constant([[0, 1], [2, 3]]))
    with pytest.raises(FailedPreconditionError, match="Attempting to use uninitialized value A"):
        session.run(a + a)
    session.run(dt.initialize_all_variables())
    assert session.run(a + a).tolist() == [[0, 2], [4, 6]]


@pytest.mark.parametrize("old", [dt.initialize_variables, dt.variables_initializer])
def test_some_variables_are_initialized_alone(old: Any, session: dt.Session) -> None:
    a, b = dt.Variable(1.0, name="a"), dt.Variable(2.0, name="b")
    report = dt.report_uninitialized_variables()
    assert session.run(report).tolist() == [b"a", b"b"]
    session.run(old([b]))
    assert session.run([report, dt.is_variable_initialized(a), dt.is_variable_initialized(b)])[1:] == [
        False,
        True,
    ]
    assert session.run(report).tolist() == [b"a"]
    assert session.run(dt.report_uninitialized_variables([b])).tolist() == []


def test_local_variables_have_their_own_initializer(session: dt.Session) -> None:
    local = dt.get_local_variable("count", initializer=3)
    assert dt.global_variables() == dt.trainable_variables() == [] and not local.trainable
    session.run(dt.global_variables_initializer())
    assert session.run(dt.report_uninitialized_variables()).tolist() == [b"count"]
    session.run(dt.local_variables_initializer())
    assert session.run(local) == 3


def test_an_initial_value_of_other_variables_is_right_in_one_run(session: dt.Session) -> None:
    w = dt.Variable(dt.random_normal([4]), name="w")
    doubled = dt.Variable(w.initialized_value() * 2, name="doubled")
    summed = dt.Variable(doubled + w * 3, name="summed")  # without initialized_value, as TensorFlow 1 allows
    session.run(dt.global_variables_initializer())
    first, second, third = session.run([w, doubled, summed])
    np.testing.assert_array_equal(second, first * 2)
    np.testing.assert_allclose(third, first * 5, rtol=1e-6)


def test_initialized_value_is_the_value_once_there_is_one(session: dt.Session) -> None:
    w = dt.Variable(1.0, name="w")
    value = w.initialized_value()
    copy = dt.Variable(value + 1, name="copy")
    assert session.run(value) == 1
    assert not session.run(dt.is_variable_initialized(w))
    w.load(5.0, session)
    session.run(copy.initializer)
    assert session.run([value, copy, w]) == [5, 6, 5]


def test_an_initial_value_is_not_changed_by_an_op_that_depends_on_no_variable(session: dt.Session) -> None:
    initial = dt.constant(2.0) * 3
    assert dt.Variable(initial).initializer.inputs[1] is initial


def test_assignments_as_methods_and_functions(session: dt.Session) -> None:
    v = dt.Variable([1.0, 2.0], name="v")
    session.run(v.initializer)
    assert session.run(dt.assign(v, [3.0, 4.0])).tolist() == [3, 4]
    assert session.run(dt.assign_add(v, [1.0, 1.0], name="more")).tolist() == [4, 5]
    assert session.run(v.assign_sub([4.0, 4.0], use_locking=True)).tolist() == [0, 1]
    assert session.run(dt.assign_sub(v, [1.0, 1.0])).tolist() == [-1, 0]
    operation = v.assign([7.0, 8.0], read_value=False, name="set")
    assert isinstance(operation, dt.Operation) and operation.name == "set"
    assert session.run(operation) is None
    assert v.eval(session).tolist() == [7, 8]
    with pytest.raises(GraphError, match="validate_shape"):
        dt.assign(v, [1.0], validate_shape=False)


def test_a_read_value_is_read_where_it_stands(session: dt.Session) -> None:
    v = dt.Variable(1.0)
    session.run(v.initializer)
    before = v.read_value()
    with dt.control_dependencies([v.assign_add(1.0)]):
        after = v.read_value()
    assert session.run([before, after]) == [1, 2]


def test_load_converts_and_checks() -> None:
    v = dt.Variable([1.0, 2.0])
    with dt.Session(comm=None):
        v.load([3, 4])
        assert v.eval().tolist() == [3, 4]
        with pytest.raises(InvalidArgumentError, match="for the variable"):
            v.load([1, 2, 3])
    with pytest.raises(UsageError, match="default session"):
        v.load([1, 2])


def test_a_constraint_holds_after_every_update() -> None:
    v = dt.Variable([0.5, 2.0], constraint=lambda w: dt.maximum(w, 0.0))
    step = dt.train.GradientDescentOptimizer(1.0).minimize(dt.reduce_sum(v))
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        session.run(step)
        assert v.eval().tolist() == [0, 1]


def test_strings_are_no_variables_and_no_operands() -> None:
    names = dt.report_uninitialized_variables([dt.Variable(1.0)])
    assert names.dtype == dt.string and str(names.dtype) == "<dtype: 'string'>"
    with pytest.raises(GraphError, match="is a string"):
        dt.Variable(names)
    with pytest.raises(GraphError, match="which is a string"):
        dt.identity(names)


def test_ranks_report_and_initialize_alike(on_threads: Any) -> None:
    w = dt.Variable(dt.random_normal([3]), name="w")
    u = dt.Variable(w * 2, name="u")
    report, init, graph = dt.report_uninitialized_variables(), dt.global_variables_initializer(), w.graph

    def body(comm: Any) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        names = session.run(report).tolist()
        session.run(init)
        return [names, session.run(report).tolist(), *(v.tolist() for v in session.run([w, u]))]

    results = on_threads(3, body)
    assert results[0][:2] == [[b"w", b"u"], []]
    assert all(r == results[0] for r in results)


# -- initializers ----------------------------------------------------------------------------------------
def made(initializer: Any, shape: Any, dtype: Any = None) -> np.ndarray:
    return dt.Session(comm=None).run(initializer(shape, dtype) if dtype else initializer(shape))


def test_plain_initializers() -> None:
    assert made(dt.zeros_initializer(), [2]).tolist() == [0, 0]
    assert made(dt.ones_initializer("int32"), [2]).dtype == np.int32
    assert made(dt.constant_initializer(3), [2, 2]).tolist() == [[3, 3], [3, 3]]
    assert made(dt.constant_initializer([1, 2]), [2, 2]).tolist() == [[1, 2], [2, 2]]
    assert made(dt.constant_initializer(2.5), [], "float64") == 2.5
    assert made(dt.initializers.identity(2.0), [2, 3]).tolist() == [[2, 0, 0], [0, 2, 0]]
    with pytest.raises(GraphError, match="3 values do not fit"):
        dt.constant_initializer([1, 2, 3])([2])
    with pytest.raises(GraphError, match="unknown sizes"):
        dt.zeros_initializer()([None, 2])
    with pytest.raises(GraphError, match="floating"):
        dt.random_normal_initializer()([2], "int32")


@pytest.mark.parametrize(
    ("initializer", "std", "limit"),
    [
        (dt.random_normal_initializer(1.0, 2.0, seed=1), 2.0, None),
        (dt.truncated_normal_initializer(1.0, 2.0, seed=1), 2.0 * 0.8796, 5.0),
        (dt.random_uniform_initializer(-1, 3, seed=1), 4 / np.sqrt(12), 3.0),
        (dt.glorot_uniform_initializer(seed=1), np.sqrt(2 / 500), np.sqrt(6 / 500)),
        (dt.glorot_normal_initializer(seed=1), np.sqrt(2 / 500), 2 * np.sqrt(2 / 500) / 0.8796),
        (dt.initializers.he_normal(seed=1), np.sqrt(2 / 400), 2 * np.sqrt(2 / 400) / 0.8796),
        (dt.initializers.he_uniform(seed=1), np.sqrt(2 / 400), np.sqrt(6 / 400)),
        (dt.initializers.lecun_normal(seed=1), np.sqrt(1 / 400), None),
        (dt.variance_scaling_initializer(3.0, "fan_out", "untruncated_normal", 1), np.sqrt(3 / 100), None),
    ],
)
def test_random_initializers_have_their_spread(initializer: Any, std: float, limit: float | None) -> None:
    values = made(initializer, [400, 100])
    assert abs(values.std() - std) < 0.02 * std
    assert limit is None or np.abs(values).max() <= limit * 1.0001


def test_seeds_make_initial_values_reproducible() -> None:
    def values(seed: int | None, graph_seed: int | None) -> list[float]:
        with dt.Graph().as_default():
            dt.set_random_seed(graph_seed)
            v = dt.get_variable("v", [3], initializer=dt.glorot_uniform_initializer(seed=seed))
            with dt.Session(comm=None) as session:
                session.run(v.initializer)
                return v.eval().tolist()

    assert values(1, 7) == values(1, 7) != values(2, 7)
    assert values(None, 7) == values(None, 7) != values(None, 8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"scale": 0}, "scale"),
        ({"mode": "fan"}, "mode"),
        ({"distribution": "cauchy"}, "distribution"),
    ],
)
def test_variance_scaling_refuses_what_it_does_not_know(bad: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        dt.variance_scaling_initializer(**bad)


def test_an_initializer_tells_its_configuration() -> None:
    initializer = dt.glorot_uniform_initializer(seed=3)
    config = initializer.get_config()
    assert config == {
        "scale": 1.0,
        "mode": "fan_avg",
        "distribution": "uniform",
        "seed": 3,
        "dtype": "float32",
    }
    assert type(initializer).from_config(config).get_config() == config
