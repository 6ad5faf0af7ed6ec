"""Building a graph: names, printing, shapes, dtypes, and errors at the line that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dtrain as dt
from dtrain.errors import GraphError
from dtrain.graph import shape as shapes
from dtrain.graph.check import check
from dtrain.graph.dtypes import ALL, as_dtype
from dtrain.graph.fingerprint import fingerprint
from dtrain.graph.graph import Operation, Spec, as_operation

THIS_FILE = __file__


def value(tensor: Any) -> Any:
    return dt.Session(comm=None, graph=tensor.graph).run(tensor)


# -- names -----------------------------------------------------------------------------------------------
def test_names_are_numbered_as_tensorflow_1_does() -> None:
    a = dt.constant(1)
    names = [(a + a).name, (a + a).name, dt.add(a, a, name="total").name, dt.add(a, a, name="total").name]
    assert names == ["Add:0", "Add_1:0", "total:0", "total_1:0"]
    assert [dt.constant(0).name, dt.placeholder("float").name] == ["Const_1:0", "Placeholder:0"]


def test_a_number_that_was_given_as_a_name_is_skipped() -> None:
    a = dt.constant(1)
    names = [dt.add(a, a, name=n).name for n in ("Add", "Add_1", "Add", "Add_1", "Add")]
    assert names == ["Add:0", "Add_1:0", "Add_2:0", "Add_1_1:0", "Add_3:0"]


def test_scopes_prefix_and_number() -> None:
    with dt.name_scope("a") as outer:
        first = dt.constant(1)
        with dt.name_scope("b"):
            second = dt.constant(1)
        with dt.name_scope("b"):
            third = dt.constant(1)
        with dt.name_scope(None):
            root = dt.constant(1)
        fourth = dt.constant(1)
    with dt.name_scope("a"):
        fifth = dt.constant(1)
    with dt.name_scope(outer):  # what `as` gave enters the same scope again
        sixth = dt.constant(1)
    found = [t.op.name for t in (first, second, third, root, fourth, fifth, sixth)]
    assert found == ["a/Const", "a/b/Const", "a/b_1/Const", "Const", "a/Const_1", "a_1/Const", "a/Const_2"]


def test_a_scope_ends_with_its_block_also_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), dt.name_scope("a"):
        _ = 1 / 0
    assert dt.constant(1).name == "Const:0"


def test_a_scope_and_an_op_share_one_numbering() -> None:
    with dt.name_scope("a"):
        pass
    assert dt.constant(1, name="a").name == "a_1:0"


def test_variables_are_named_as_they_are_asked_to() -> None:
    variables = [dt.Variable(1.0, name="w"), dt.Variable(1.0, name="w"), dt.Variable(1.0)]
    with dt.name_scope("layer"):
        variables.append(dt.Variable(1.0, name="w"))
    assert [v.name for v in variables] == ["w:0", "w_1:0", "Variable:0", "layer/w:0"]


def test_operations_and_tensors_are_found_by_name() -> None:
    graph = dt.get_default_graph()
    a = dt.constant(1, name="a")
    assert graph.get_tensor_by_name("a:0") is a
    assert graph.get_operation_by_name("a") is a.op
    assert graph.get_operations() == [a.op]
    with pytest.raises(KeyError, match="no operation named 'b'"):
        graph.get_operation_by_name("b")
    with pytest.raises(KeyError, match="1 outputs"):
        graph.get_tensor_by_name("a:1")
    with pytest.raises(ValueError, match="write 'a:0'"):
        graph.get_tensor_by_name("a")


# -- printing --------------------------------------------------------------------------------------------
def test_tensors_print_as_in_tensorflow_1() -> None:
    a = dt.constant(1)
    assert str(a + 2) == 'Tensor("Add:0", shape=(), dtype=int32)'
    assert str(dt.placeholder(dt.float32, [None, 784], name="x")) == (
        'Tensor("x:0", shape=(?, 784), dtype=float32)'
    )
    assert str(dt.zeros([3])) == 'Tensor("zeros:0", shape=(3,), dtype=float32)'
    assert str(dt.placeholder("int64")) == 'Tensor("Placeholder:0", shape=<unknown>, dtype=int64)'


def test_operations_variables_shapes_and_dtypes_print() -> None:
    v = dt.Variable(np.zeros((2, 3), np.float32), name="w")
    assert repr(v) == "<tf.Variable 'w:0' shape=(2, 3) dtype=float32_ref>"
    assert repr(dt.no_op(name="nothing")) == "<tf.Operation 'nothing' type=NoOp>"
    assert repr(v.shape) == "TensorShape([2, 3])" and str(v.shape) == "(2, 3)"
    assert repr(dt.TensorShape(None)) == "TensorShape(None)"
    assert repr(dt.float32) == "tf.float32" and str(dt.float32) == "<dtype: 'float32'>"


def test_the_source_of_an_operation_is_the_users_line() -> None:
    a = dt.constant(1.0)
    (gradient,) = dt.gradients(a * a, a)
    assert a.op.source.startswith(f"{THIS_FILE}:")
    assert gradient is not None and gradient.op.source.startswith(f"{THIS_FILE}:")


# -- shapes ----------------------------------------------------------------------------------------------
def test_a_shape_is_read_as_a_sequence() -> None:
    shape = dt.placeholder("float", [None, 3, 4]).get_shape()
    assert (shape.as_list(), list(shape), len(shape), shape.ndims) == ([None, 3, 4], [None, 3, 4], 3, 3)
    assert (shape[1], shape[-1], shape[1:]) == (3, 4, dt.TensorShape([3, 4]))
    assert shape == [None, 3, 4] and shape != [None, 3] and shape != "?"
    assert not shape.is_fully_defined() and shape[1:].is_fully_defined()
    assert (shape.num_elements(), shape[1:].num_elements(), dt.TensorShape([]).num_elements()) == (
        None,
        12,
        1,
    )
    assert dt.TensorShape(5) == (5,) == dt.TensorShape(np.int64(5))
    with pytest.raises(GraphError, match="unknown shape"):
        dt.TensorShape(None).as_list()


@pytest.mark.parametrize("bad", [[-1], "ab", [1.5, "x"], 2.5])
def test_what_is_no_shape_is_an_error(bad: Any) -> None:
    with pytest.raises(GraphError, match="is not a shape"):
        dt.placeholder("float", bad)


sizes = st.none() | st.integers(0, 3)
dims = st.none() | st.lists(sizes, max_size=3).map(tuple)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3), st.data())
def test_what_is_inferred_with_sizes_unknown_never_contradicts_what_comes(pair: Any, data: Any) -> None:
    a, b = pair.input_shapes
    blur = [tuple(data.draw(st.sampled_from([d, None])) for d in shape) for shape in (a, b)]
    assert shapes.broadcast(a, b) == pair.result_shape
    assert shapes.compatible(shapes.broadcast(*blur), pair.result_shape)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(dims, dims, st.lists(st.integers(0, 3), max_size=3).map(tuple))
def test_compatible_shapes_merge_to_one_that_either_may_become(a: Any, b: Any, real: Any) -> None:
    if shapes.compatible(a, real) and shapes.compatible(b, real):
        assert shapes.compatible(a, b)
        assert shapes.compatible(shapes.merge(a, b), real)
    if shapes.compatible(a, b):
        merged = shapes.merge(a, b)
        assert shapes.compatible(merged, real) == (shapes.compatible(a, real) and shapes.compatible(b, real))


# -- errors at the line ----------------------------------------------------------------------------------
def test_shapes_that_do_not_broadcast_name_both_operands() -> None:
    a, b = dt.placeholder("float", [None, 3], name="a"), dt.zeros([4, 5], name="b")
    with pytest.raises(GraphError) as caught:
        a + b
    message = str(caught.value)
    assert "a:0 float32(?, 3)" in message and "b:0 float32(4, 5)" in message and "3 against 5" in message


def test_dtypes_that_differ_name_both_operands_and_the_way_out() -> None:
    a, b = dt.constant([1.0], name="a"), dt.constant([1], name="b")
    with pytest.raises(GraphError, match=r"Mul does not fit a:0 float32\(1,\) and b:0 int32\(1,\).*cast"):
        a * b
    with pytest.raises(GraphError, match=r"MatMul does not fit .*float32.* and .*float64"):
        dt.matmul(dt.zeros([2, 2]), dt.zeros([2, 2], "float64"))


def test_a_failed_line_leaves_nothing_behind() -> None:
    a = dt.zeros([3])
    count = len(dt.get_default_graph().operations)
    with pytest.raises(GraphError):
        a + dt.zeros([2], name="b")
    assert [o.name for o in dt.get_default_graph().operations[count:]] == ["b"]
    assert (a + a).name == "Add:0"


def test_tensors_of_two_graphs_do_not_mix() -> None:
    with dt.Graph().as_default():
        foreign = dt.constant(1.0, name="foreign")
    with pytest.raises(GraphError, match=r"foreign:0 belongs to another graph.*as_default"):
        dt.constant(1.0) + foreign


def test_a_tensor_has_no_truth_and_no_length() -> None:
    a = dt.placeholder("float", [3], name="a")
    with pytest.raises(TypeError, match="neither true nor false"):
        if a > 1:
            pass
    with pytest.raises(TypeError, match="cannot be iterated over"):
        list(a)
    with pytest.raises(TypeError, match="cannot be iterated over"):
        _x, _y = dt.Variable([1.0, 2.0])
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(dt.Variable(1.0))


def test_equality_is_identity_so_that_tensors_are_keys() -> None:
    a, b = dt.constant(1), dt.constant(1)
    assert a == a and a != b and len({a, b, a}) == 2
    assert {a: "a"}[a] == "a"


# -- values to tensors -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given_", "dtype"),
    [
        (1, "int32"),
        (2**40, "int64"),
        (1.5, "float32"),
        (True, "bool"),
        ([1, 2], "int32"),
        ([[1, 2.5]], "float32"),
        ([], "float32"),
        (np.float64(1), "float64"),
        (np.arange(3), "int64"),
        (np.zeros((2, 1), np.float16), "float16"),
        (np.uint8(7), "uint8"),
        (np.zeros(3, ">f4"), "float32"),
    ],
)
def test_values_become_tensors_of_tensorflow_1s_dtypes(given_: Any, dtype: str) -> None:
    tensor = dt.convert_to_tensor(given_)
    assert tensor.dtype == dtype
    assert tensor.shape == np.shape(given_)
    np.testing.assert_array_equal(value(tensor), given_)


def test_numbers_and_lists_take_the_dtype_of_the_tensor_beside_them() -> None:
    for dtype in ("float16", "float32", "float64", "int8", "uint8", "int32", "int64"):
        a = dt.constant([1, 2, 3], dtype)
        for result in (a + 1, 1 + a, a * [1, 2, 3], [3, 2, 1] - a, dt.maximum(2, a)):
            assert (result.dtype, result.shape) == (dtype, (3,))
    for result in (dt.matmul([[1, 2]], dt.ones([2, 2], "float64")), [[1, 2]] @ dt.ones([2, 1], "float64")):
        assert result.dtype == "float64"


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        (lambda a: a + 2, 5.0),
        (lambda a: 2 + a, 5.0),
        (lambda a: a - 2, 1.0),
        (lambda a: 2 - a, -1.0),
        (lambda a: a * 2, 6.0),
        (lambda a: 2 * a, 6.0),
        (lambda a: a / 2, 1.5),
        (lambda a: 6 / a, 2.0),
        (lambda a: a**2, 9.0),
        (lambda a: 2**a, 8.0),
        (lambda a: -a, -3.0),
        (lambda a: abs(-a), 3.0),
        (lambda a: a < 4, True),
        (lambda a: a >= 4, False),
        (lambda a: a > 3, False),
        (lambda a: a <= 3, True),
        (lambda a: np.float32(2) * a, 6.0),
        (lambda a: np.array(2, np.float32) * a, 6.0),
        (lambda a: np.float32(4) > a, True),
    ],
)
@pytest.mark.parametrize("make", [dt.constant, dt.Variable])
def test_operators(operation: Callable[[Any], Any], right: Any, make: Any) -> None:
    session = dt.Session(comm=None)
    result = operation(make(3.0))
    session.run(dt.global_variables_initializer())
    assert isinstance(result, dt.Tensor)
    assert session.run(result) == right


def test_an_array_on_the_left_gives_one_tensor_not_an_array_of_them() -> None:
    a = dt.constant([1.0, 2.0])
    for result in (np.ones(2, np.float32) + a, np.ones((3, 2), np.float32) @ dt.ones([2, 1])):
        assert isinstance(result, dt.Tensor)


def test_integers_divide_as_in_python() -> None:
    a = dt.constant([7, 2])
    for quotient in (a / 2, a / dt.constant(2), dt.divide(7, dt.constant([2, 7]))):
        assert quotient.dtype == "float64"
    assert value(a / 2).tolist() == [3.5, 1.0]
    assert (dt.constant([7.0]) / 2).dtype == "float32"


@pytest.mark.parametrize(
    ("given_", "dtype"),
    [
        (1.5, "int32"),
        (300, "uint8"),
        (-1, "uint8"),
        (2**40, "int32"),
        (float("nan"), "int64"),
        (1e30, "int32"),
    ],
)
def test_a_value_that_a_dtype_cannot_hold_is_an_error(given_: Any, dtype: str) -> None:
    with pytest.raises(GraphError, match=f"does not fit {dtype}"):
        dt.constant(given_, dtype)


@pytest.mark.parametrize("bad", [[[1, 2], [3]], None, 1j, object()])
def test_what_is_not_numeric_is_an_error(bad: Any) -> None:
    with pytest.raises(GraphError, match=r"ragged|not numeric|not a dtype"):
        dt.convert_to_tensor(bad)


def test_a_tensor_is_not_converted_silently() -> None:
    with pytest.raises(GraphError, match=r"Const:0 is float32 where int32 is needed: cast it"):
        dt.convert_to_tensor(dt.constant(1.0), "int32")


def test_a_constant_fills_its_shape() -> None:
    assert value(dt.constant(3, shape=[2, 2])).tolist() == [[3, 3], [3, 3]]
    assert value(dt.constant([1, 2, 3, 4], shape=[2, 2])).tolist() == [[1, 2], [3, 4]]
    assert value(dt.constant([1, 2, 3], shape=[2, 2])).tolist() == [[1, 2], [3, 3]], "its last value fills"
    with pytest.raises(GraphError, match="5 values are too many"):
        dt.constant([1, 2, 3, 4, 5], shape=[2, 2])
    with pytest.raises(GraphError, match="has shape"):
        dt.constant(3, shape=[2], verify_shape=True)
    with pytest.raises(GraphError, match="no unknown sizes"):
        dt.constant(3, shape=[None])


def test_a_constant_is_not_the_callers_array() -> None:
    array = np.ones(3, np.float32)
    constant = dt.constant(array)
    array[:] = 7
    assert value(constant).tolist() == [1, 1, 1]


def test_an_array_that_cannot_change_is_not_copied() -> None:
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    assert np.shares_memory(dt.constant(array).op.kind.value.array, array)  # type: ignore[attr-defined]


# -- dtypes ----------------------------------------------------------------------------------------------
def test_dtypes_are_known_by_all_their_names() -> None:
    for dtype in ALL:
        assert as_dtype(dtype) is as_dtype(dtype.name) is as_dtype(dtype.numpy) is dtype
        assert dtype == dtype.name == dtype.numpy and hash(dtype) == hash(as_dtype(dtype.name))
        assert dtype.is_floating + dtype.is_integer + dtype.is_bool == 1
        assert as_dtype(dtype.as_numpy_dtype) is dtype
    found = [as_dtype(d) for d in ("float", "double", "int", float, int, bool)]
    assert found == [dt.float32, dt.float64, dt.int32, dt.float32, dt.int32, dt.bool]
    assert len(set(ALL)) == len(ALL)


@pytest.mark.parametrize("bad", [None, "complex64", "text", object, 7])
def test_what_is_no_dtype_is_an_error(bad: Any) -> None:
    with pytest.raises(GraphError, match="is not a dtype"):
        as_dtype(bad)
    assert all(dtype != bad for dtype in ALL)


# -- the default graph -----------------------------------------------------------------------------------
def test_graphs_nest_and_come_back_in_order() -> None:
    outer, inner = dt.Graph(), dt.Graph()
    default = dt.get_default_graph()
    with outer.as_default():
        with inner.as_default():
            with outer.as_default():
                assert dt.get_default_graph() is outer
            assert dt.get_default_graph() is inner
            with pytest.raises(GraphError, match="leave that block first"):
                dt.reset_default_graph()
        assert dt.get_default_graph() is outer
    assert dt.get_default_graph() is default


def test_gradients_of_an_outer_graph_do_not_leave_it_the_default() -> None:
    outer, inner = dt.Graph(), dt.Graph()
    with outer.as_default():
        a = dt.constant(1.0)
        y = a * a
        with inner.as_default():
            assert dt.gradients(y, a)[0].graph is outer  # type: ignore[union-attr]
            assert dt.get_default_graph() is inner


def test_reset_starts_anew() -> None:
    before = dt.get_default_graph()
    dt.constant(1)
    dt.reset_default_graph()
    assert dt.get_default_graph() is not before
    assert dt.constant(1).name == "Const:0"


# -- control dependencies --------------------------------------------------------------------------------
def test_control_dependencies_add_up_and_none_lifts_them() -> None:
    a, b = dt.constant(1), dt.Variable(1.0)
    with dt.control_dependencies([a]):
        first = dt.constant(2)
        with dt.control_dependencies([b, a.op]):
            second = dt.constant(2)
            with dt.control_dependencies(None):
                third = dt.constant(2)
    fourth = dt.constant(2)
    inputs = [t.op.control_inputs for t in (first, second, third, fourth)]
    assert inputs == [(a.op,), (a.op, b.op), (), ()]
    with pytest.raises(TypeError, match="is not part of a graph"), dt.control_dependencies(["a"]):
        pass


def test_a_variable_is_there_before_what_its_lines_wait_for() -> None:
    with dt.control_dependencies([dt.placeholder("float")]):
        v = dt.Variable(lambda: dt.zeros([2]))
    assert v.op.control_inputs == v.initializer.control_inputs == ()
    assert v.initial_value.op.control_inputs == ()


def test_group_waits_for_all_of_its_operations() -> None:
    a, v = dt.constant(1), dt.Variable(1.0)
    assert dt.group(a, v.initializer).control_inputs == (a.op, v.initializer)
    assert dt.group().control_inputs == ()
    assert as_operation(v) is v.op


def test_variables_are_collected() -> None:
    a, b = dt.Variable(1.0), dt.Variable(1, trainable=False)
    assert (dt.global_variables(), dt.trainable_variables()) == ([a, b], [a])
    assert a.dtype == "float32" and b.dtype == "int32" and dt.Variable(1, dtype="float64").dtype == "float64"
    with pytest.raises(GraphError, match="needs an initial value"):
        dt.Variable()
    with pytest.raises(GraphError, match="unknown shape"):
        dt.Variable(dt.placeholder("float", [None]))
    with pytest.raises(GraphError, match="value of shape"):
        a.assign([1.0, 2.0])
    with pytest.raises(GraphError, match="cast it"):
        a.assign(dt.constant(1))


# -- legality and fingerprints ---------------------------------------------------------------------------
def test_check_accepts_what_was_built_and_rejects_what_was_broken() -> None:
    a = dt.zeros([2, 3])
    y = dt.matmul(a, a, transpose_b=True)
    operations = dt.get_default_graph().operations
    check(operations)
    with pytest.raises(AssertionError, match="which nothing before it makes"):
        check(operations[::-1])
    spec = y.spec
    y.spec = Spec((2, 3), spec.dtype)
    with pytest.raises(AssertionError, match="infers"):
        check(operations)
    y.spec = spec
    y.op.control_inputs = (Operation(a.graph, "later", a.op.kind, (), (), (), ""),)
    with pytest.raises(AssertionError, match="waits for later"):
        check(operations)


def _constant(array: Any) -> dt.Tensor:
    return dt.constant(array, name="c")


big = np.arange(5000, dtype=np.float32)
changed = big.copy()
changed[2500] = np.nextafter(changed[2500], np.inf)

#: Graphs of which each is to differ from all others.
DIFFERENT: dict[str, Callable[[], Any]] = {
    "one": lambda: _constant([1.0, 2.0]),
    "another value": lambda: _constant([1.0, np.nextafter(np.float32(2), np.float32(3))]),
    "another name": lambda: dt.constant([1.0, 2.0], name="d"),
    "another dtype": lambda: _constant(np.array([1.0, 2.0])),
    "another shape": lambda: _constant([[1.0, 2.0]]),
    "a scalar": lambda: _constant(np.float32(1)),
    "one value, not a scalar": lambda: _constant([1.0]),
    "a large one": lambda: _constant(big),
    "a large one with one bit changed": lambda: _constant(changed),
    "sum": lambda: dt.reduce_sum(_constant([[1.0, 2.0]]), 0, name="r"),
    "sum over another axis": lambda: dt.reduce_sum(_constant([[1.0, 2.0]]), 1, name="r"),
    "maximum": lambda: dt.reduce_max(_constant([[1.0, 2.0]]), 1, name="r"),
    "an operation more": lambda: (_constant([1.0, 2.0]), dt.no_op()),
    "a control dependency": lambda: dt.group(_constant([1.0, 2.0]), name="NoOp"),
    "a - b": lambda: dt.subtract(dt.zeros([], name="a"), dt.zeros([], name="b")),
    "b - a": lambda: (lambda a, b: dt.subtract(b, a))(dt.zeros([], name="a"), dt.zeros([], name="b")),
    "other order": lambda: (lambda b, a: dt.subtract(a, b))(dt.zeros([], name="b"), dt.zeros([], name="a")),
    "a placeholder": lambda: dt.placeholder("float", [None]),
    "a placeholder of a size": lambda: dt.placeholder("float", [2]),
    "an untrained variable": lambda: dt.Variable(1.0, trainable=False),
    "a variable": lambda: dt.Variable(1.0),
    "random numbers": lambda: dt.random_normal([2], seed=1),
    "random numbers of another seed": lambda: dt.random_normal([2], seed=2),
}


def test_graphs_that_differ_in_anything_have_different_fingerprints() -> None:
    prints: dict[str, str] = {}
    for name, build in DIFFERENT.items():
        again = set()
        for _ in range(2):
            with dt.Graph().as_default() as graph:
                build()
            again.add(fingerprint(graph.operations))
        assert len(again) == 1, f"{name}: the same graph has two fingerprints"
        (digest,) = again
        assert digest not in prints.values(), f"{name} looks like {prints}"
        prints[name] = digest
