"""Variable scopes: names, sharing, what is inherited, and the lecture's errors."""

from __future__ import annotations

from typing import Any

import pytest

import dtrain as dt
from dtrain.errors import GraphError


def value(variable: Any) -> Any:
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        return session.run(variable).tolist()


# -- the lecture's three cases ---------------------------------------------------------------------------
def test_the_lectures_sharing() -> None:
    with dt.variable_scope("foo"):
        v = dt.get_variable("v", shape=[1])
    assert v.name == "foo/v:0"
    with dt.variable_scope("foo", reuse=True):
        v1 = dt.get_variable("v")
    assert v1 is v
    with (
        dt.variable_scope("foo", reuse=False),
        pytest.raises(
            ValueError, match=r"Variable foo/v already exists, disallowed\..*defined at .*test_scopes"
        ),
    ):
        dt.get_variable("v")


def test_what_does_not_exist_cannot_be_reused() -> None:
    dt.Variable(1.0, name="foo/v")  # not made with get_variable
    with (
        dt.variable_scope("foo", reuse=True),
        pytest.raises(ValueError, match=r"Variable foo/v does not exist, or was not created"),
    ):
        dt.get_variable("v", [1])


def test_the_lectures_variables() -> None:
    s = dt.get_variable(name="scalar2", initializer=dt.constant(2))
    m = dt.get_variable("matrix", initializer=dt.constant([[0, 1], [2, 3]]))
    big = dt.get_variable("big_matrix", shape=(784, 10), initializer=dt.zeros_initializer())
    w = dt.get_variable(
        "weight", shape=(784, 10), initializer=dt.truncated_normal_initializer(mean=0.0, stddev=0.01)
    )
    assert [(v.op.name, v.dtype.name, v.shape.as_list()) for v in (s, m, big, w)] == [
        ("scalar2", "int32", []),
        ("matrix", "int32", [2, 2]),
        ("big_matrix", "float32", [784, 10]),
        ("weight", "float32", [784, 10]),
    ]
    assert value(m) == [[0, 1], [2, 3]]


# -- reuse -----------------------------------------------------------------------------------------------
def test_auto_reuse_makes_and_then_finds() -> None:
    found = []
    for _ in range(2):
        with dt.variable_scope("foo", reuse=dt.AUTO_REUSE):
            found.append(dt.get_variable("v", [1]))
    assert found[0] is found[1]
    assert repr(dt.AUTO_REUSE) == "AUTO_REUSE"


def test_reuse_is_inherited_and_cannot_be_taken_back() -> None:
    with dt.variable_scope("a"), dt.variable_scope("b"):
        v = dt.get_variable("v", [1])
    with dt.variable_scope("a", reuse=True), dt.variable_scope("b", reuse=False) as inner:
        assert dt.get_variable("v") is v and inner.reuse is True


def test_reuse_variables_holds_to_the_end_of_the_block() -> None:
    with dt.variable_scope("foo") as scope:
        v = dt.get_variable("v", [1])
        scope.reuse_variables()
        assert dt.get_variable("v", [1]) is v
    with dt.variable_scope("foo"), pytest.raises(ValueError, match="already exists"):
        dt.get_variable("v", [1])
    with dt.variable_scope(scope):  # the object remembers
        assert dt.get_variable("v") is v
    dt.get_variable("root", [1])
    dt.get_variable_scope().reuse_variables()
    assert dt.get_variable("root").name == "root:0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": [2]}, r"Trying to share variable v, but specified shape \(2,\) and found shape \(1,\)"),
        ({"dtype": "int32"}, "but specified dtype int32 and found dtype float32"),
    ],
)
def test_a_shared_variable_is_what_is_asked_for(arguments: Any, message: str) -> None:
    dt.get_variable("v", [1])
    with dt.variable_scope("", reuse=True):
        assert dt.get_variable("v", [None]).shape == [1]
        with pytest.raises(GraphError, match=message):
            dt.get_variable("v", **arguments)


def test_reuse_is_one_of_four() -> None:
    with pytest.raises(GraphError, match="reuse is True"), dt.variable_scope("a", reuse="yes"):
        pass


def test_graphs_share_nothing() -> None:
    v = dt.get_variable("v", [1])
    with dt.Graph().as_default():
        assert dt.get_variable("v", [1]) is not v


# -- names -----------------------------------------------------------------------------------------------
def test_a_variable_scope_keeps_its_name_and_its_operations_get_a_number() -> None:
    with dt.variable_scope("foo"):
        first = dt.constant(1, name="c")
    with dt.variable_scope("foo"), dt.name_scope("bar"):
        v = dt.get_variable("v", [1])
        second = dt.constant(1, name="c")
    assert (first.name, v.name, second.name) == ("foo/c:0", "foo/v:0", "foo_1/bar/c:0")


def test_scopes_nest_and_a_scope_object_jumps() -> None:
    with dt.variable_scope("a"), dt.variable_scope("b") as b:
        assert b.name == "a/b" and b.original_name_scope == "a/b/"
    with dt.variable_scope("other"), dt.variable_scope(b) as again:
        v, c = dt.get_variable("v", [1]), dt.constant(1, name="c")
        assert dt.get_variable_scope() is again and again.original_name_scope == "a/b/"
    assert (v.name, c.name) == ("a/b/v:0", "other/b/c:0")
    assert dt.get_variable_scope().name == ""


def test_a_scope_is_left_when_its_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), dt.variable_scope("a"):
        _ = 1 / 0
    assert dt.get_variable_scope().name == ""


def test_default_names_are_made_unique() -> None:
    names = []
    for _ in range(2):
        with dt.variable_scope(None, "dense"):
            names.append(dt.get_variable("w", [1]).name)
    with dt.variable_scope("given", default_name="dense"):
        names.append(dt.get_variable("w", [1]).name)
    for _ in range(2):
        with dt.variable_scope("outer", reuse=dt.AUTO_REUSE), dt.variable_scope(None, "dense"):
            names.append(dt.get_variable("w", [1]).name)
    assert names == ["dense/w:0", "dense_1/w:0", "given/w:0", "outer/dense/w:0", "outer/dense/w:0"]
    with pytest.raises(GraphError, match="needs a name to find"), dt.variable_scope(None, "x", reuse=True):
        pass
    with pytest.raises(GraphError, match="give a name"), dt.variable_scope(None):
        pass


def test_auxiliary_name_scope_false_opens_none() -> None:
    with dt.variable_scope("a", auxiliary_name_scope=False):
        assert (dt.constant(1).name, dt.get_variable("v", [1]).name) == ("Const:0", "a/v:0")


def test_a_scope_makes_and_lists_its_variables() -> None:
    with dt.variable_scope("a") as scope:
        pass
    v = scope.get_variable("v", [1])
    u = scope.get_variable("u", [1], trainable=False)
    dt.get_variable("ab", [1])
    assert scope.global_variables() == [v, u] and scope.trainable_variables() == [v]
    assert [o.name for o in v.graph.get_operations() if o.name.startswith("a_1")] == []


# -- initializers and regularizers -----------------------------------------------------------------------
def test_initializers_are_inherited_and_overruled() -> None:
    with dt.variable_scope("a", initializer=dt.constant_initializer(2.0), dtype="float64"):
        with dt.variable_scope("b"):
            inherited = dt.get_variable("v", [1])
        with dt.variable_scope("c", initializer=dt.ones_initializer):  # a class will do
            overruled = dt.get_variable("v", [1])
        own = dt.get_variable("w", [1], "float32", dt.zeros_initializer())
    assert [value(v) for v in (inherited, overruled, own)] == [[2], [1], [0]]
    assert [v.dtype.name for v in (inherited, overruled, own)] == ["float64", "float64", "float32"]


def test_the_default_initializer_is_glorots_or_zero() -> None:
    floating, integer = dt.get_variable("f", [300, 300]), dt.get_variable("i", [2], "int32")
    spread = max(max(map(abs, row)) for row in value(floating))
    assert 0.09 < spread <= (6 / 600) ** 0.5 * 1.0001
    assert value(integer) == [0, 0]


def test_functions_and_values_initialize() -> None:
    def filled(shape: Any, dtype: Any, partition_info: Any) -> Any:
        return dt.fill(shape, 3.0)

    assert value(dt.get_variable("a", [2], initializer=filled)) == [3, 3]
    assert value(dt.get_variable("b", initializer=lambda: dt.ones([2]))) == [1, 1]
    assert value(dt.get_variable("c", initializer=[1.5, 2.5])) == [1.5, 2.5]
    with pytest.raises(GraphError, match="If initializer is a constant, do not specify shape"):
        dt.get_variable("d", [2], initializer=dt.zeros([2]))
    for shape in (None, [None, 2]):
        with pytest.raises(GraphError, match=r"Shape of a new variable \(e\) must be fully defined"):
            dt.get_variable("e", shape)


def test_regularizers_are_inherited_and_collected_once() -> None:
    l2, l1 = dt.contrib.layers.l2_regularizer(0.5), dt.contrib.layers.l1_regularizer(0.5)
    ones = dt.ones_initializer()
    with dt.variable_scope("a", regularizer=l2):
        dt.get_variable("v", [4], initializer=ones)
        dt.get_variable("u", [4], initializer=ones, regularizer=l1)
        dt.get_variable("none", [4], initializer=ones, regularizer=dt.contrib.layers.l2_regularizer(0.0))
    with dt.variable_scope("a", regularizer=l2, reuse=True):
        dt.get_variable("v")
    losses = dt.get_collection(dt.GraphKeys.REGULARIZATION_LOSSES)
    assert [value(loss) for loss in losses] == [1.0, 2.0]
    assert losses[0].name.startswith("a/v/Regularizer/l2_regularizer/")


def test_regularizers_add_up() -> None:
    layers = dt.contrib.layers
    w = dt.constant([[1.0, -2.0]])
    total = layers.apply_regularization(layers.l1_l2_regularizer(1.0, 2.0), [w, w])
    assert value(total) == 2 * (3 + 5)
    assert dt.get_collection(dt.GraphKeys.REGULARIZATION_LOSSES) == [total]
    assert value(layers.sum_regularizer([None, layers.l1_regularizer(2.0)])(w)) == 6
    assert layers.sum_regularizer([])(w) is None
    with pytest.raises(GraphError, match="0 or more"):
        layers.l1_regularizer(-1.0)
    with pytest.raises(GraphError, match="no weights"):
        layers.apply_regularization(layers.l1_regularizer(1.0))


# -- the other arguments ---------------------------------------------------------------------------------
def test_trainable_collections_and_constraint_reach_the_variable() -> None:
    v = dt.get_variable("v", [1], trainable=False, collections=["mine"], constraint=abs)
    assert dt.get_collection("mine") == [v] and dt.global_variables() == dt.trainable_variables() == []
    assert v.constraint is abs
    with dt.variable_scope("a", constraint=abs):
        assert dt.get_variable("v", [1]).constraint is abs


def test_custom_getters_wrap_one_another() -> None:
    calls = []

    def getter(label: str) -> Any:
        def get(real: Any, name: str, **options: Any) -> Any:
            calls.append((label, name))
            return real(name, **{**options, "trainable": False})

        return get

    with (
        dt.variable_scope("a", custom_getter=getter("outer")),
        dt.variable_scope("b", custom_getter=getter("inner")),
    ):
        v = dt.get_variable("v", [1], custom_getter=getter("own"))
    assert calls == [("own", "a/b/v"), ("inner", "a/b/v"), ("outer", "a/b/v")]
    assert not v.trainable


@pytest.mark.parametrize("arguments", [{"partitioner": object()}, {"validate_shape": False}])
def test_what_is_not_supported_is_said(arguments: Any) -> None:
    with pytest.raises(GraphError, match="not supported"):
        dt.get_variable("v", [1], **arguments)
    assert dt.get_variable("v", [1], caching_device="/cpu:0", use_resource=True).shape == [1]
    with pytest.raises(GraphError, match="partitioner"), dt.variable_scope("a", partitioner=object()):
        pass
