"""The graph's and the session's surface: looking things up, shapes, collections, running, defaults."""

from __future__ import annotations

import json
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from dtrain.python.client import timeline

import dtrain as dt
from dtrain.errors import FailedPreconditionError, GraphError, InvalidArgumentError, UsageError


@pytest.fixture
def session() -> dt.Session:
    return dt.Session(comm=None)


# -- printing, as the lecture shows it -------------------------------------------------------------------
def test_the_lectures_tensors_print_both_ways() -> None:
    a = dt.constant([5, 5, 5], dt.float32, name="A")
    b = dt.placeholder(dt.float32, shape=[3], name="B")
    c = dt.add(a, b, name="Add")
    assert str(c) == 'Tensor("Add:0", shape=(3,), dtype=float32)'
    assert str({b: [1, 2, 3]}) == "{<tf.Tensor 'B:0' shape=(3,) dtype=float32>: [1, 2, 3]}"
    assert repr(c.op) == "<tf.Operation 'Add' type=Add>"
    assert str(c.op).startswith('name: "Add"\nop: "Add"\ninput: "A"\ninput: "B"\n')


def test_the_lectures_placeholder_has_to_be_fed(session: dt.Session) -> None:
    c = dt.constant([5, 5, 5], dt.float32) + dt.placeholder(dt.float32, shape=[3], name="B")
    with pytest.raises(InvalidArgumentError) as caught:
        session.run(c)
    assert str(caught.value).startswith(
        "You must feed a value for placeholder tensor 'B' with dtype float and shape [3]"
    )
    assert session.run(c, feed_dict={"B:0": [1, 2, 3]}).tolist() == [6, 7, 8]


# -- shapes ----------------------------------------------------------------------------------------------
def test_a_size_is_an_int_with_a_value() -> None:
    size = dt.zeros([3, 4]).shape[1]
    assert size == 4 and size.value == 4 and int(size) == 4 and list(range(size)) == [0, 1, 2, 3]
    assert isinstance(size, dt.Dimension) and isinstance(size, int)
    assert [(size * 2).value, (2 + size).value, (size // 3).value, size / 8] == [8, 6, 1, 0.5]
    assert size - 5 == -1 and f"{size:>3} {size}" == "  4 4" and repr(size) == "Dimension(4)"
    assert hash(size) == hash(4) and np.zeros([size]).shape == (4,) and np.prod(dt.zeros([3, 4]).shape) == 12
    assert dt.zeros([size, size * 2]).shape.as_list() == [4, 8]


def test_a_size_that_is_fed_later_equals_none() -> None:
    size = dt.placeholder("float", [None, 3]).shape[0]
    assert size.value is None and size == None and not size  # noqa: E711 -- equality is what is tested
    assert (
        size != 3
        and size == dt.Dimension(None)
        and (size * 2).value is None
        and repr(size) == "Dimension(None)"
    )
    assert str(size) == "?" and hash(size) == hash(None)
    assert dt.placeholder("float", [size, 2]).shape.as_list() == [None, 2]
    with pytest.raises(TypeError, match="fed later"):
        int(size)


def test_sizes_and_shapes_merge() -> None:
    known, unknown = dt.Dimension(3), dt.Dimension(None)
    assert known.merge_with(unknown) == unknown.merge_with(3) == 3 and known.is_compatible_with(None)
    with pytest.raises(GraphError, match="not the same"):
        known.merge_with(4)
    with pytest.raises(GraphError, match="0 or more"):
        dt.Dimension(-1)
    shape = dt.TensorShape([None, 3])
    assert shape.merge_with([2, None]) == [2, 3] and shape.is_compatible_with([5, 3])
    assert shape.concatenate([4]) == [None, 3, 4] and shape.with_rank(2) == shape and shape.rank == 2
    assert dt.TensorShape(None).concatenate([4]).dims is None
    with pytest.raises(GraphError, match=r"\(\?, 3\) and \(2, 4\) are not the same"):
        shape.merge_with([2, 4])


def test_set_shape_adds_to_what_is_known() -> None:
    x = dt.placeholder("float", [None, 3])
    x.set_shape([5, None])
    assert x.get_shape().as_list() == [5, 3]
    with pytest.raises(GraphError, match=r"set_shape\(\(6, 3\)\) contradicts its shape \(5, 3\)"):
        x.set_shape([6, 3])
    with pytest.raises(InvalidArgumentError, match="Cannot feed"):
        dt.Session(comm=None).run(x, {x: np.zeros((6, 3))})
    unknown = dt.placeholder("float")
    unknown.set_shape([None, 2])
    assert str(unknown.shape) == "(?, 2)"


# -- looking up ------------------------------------------------------------------------------------------
def test_consumers_and_values_go_along_the_edges() -> None:
    a = dt.constant(1.0, name="a")
    b, c = a + 1.0, a * a
    assert a.consumers() == [b.op, c.op] and c.consumers() == []
    assert c.op.values() == (c,) and c.op.get_attr("_output_dtypes") == ["float32"]
    with pytest.raises(ValueError, match="no attribute 'nothing'"):
        c.op.get_attr("nothing")


def test_elements_are_found_by_all_that_names_them() -> None:
    graph = dt.get_default_graph()
    v, a = dt.Variable(1.0, name="v"), dt.constant(1, name="a")
    found = [graph.as_graph_element(e) for e in ("a:0", "a", a, a.op, v)]
    assert found == [a, a.op, a, a.op, v.value()]
    with pytest.raises(TypeError, match="is not an operation"):
        graph.as_graph_element(a, allow_tensor=False)
    with pytest.raises(TypeError, match="is not a tensor"):
        graph.as_graph_element("a", allow_operation=False)
    with pytest.raises(KeyError, match="no operation named"):
        graph.as_graph_element("b:0")
    with dt.Graph().as_default() as other, pytest.raises(GraphError, match="not an element"):
        other.as_graph_element(a)


def test_a_graph_as_plain_data() -> None:
    a = dt.constant(2, name="a")
    with dt.control_dependencies([a]):
        (a + a).op.name  # noqa: B018 -- the operation counts
    definition = dt.get_default_graph().as_graph_def()
    assert [(n.name, n.op, n.input) for n in definition.node] == [
        ("a", "Const", []),
        ("Add", "Add", ["a", "a", "^a"]),
    ]
    assert definition.node[1].attr["_output_shapes"] == [[]]
    assert str(definition).startswith('node {\n  name: "a"\n  op: "Const"\n')
    assert str(dt.Session(comm=None).graph_def) == str(definition)


def test_names_can_be_asked_for_without_taking_them() -> None:
    graph = dt.get_default_graph()
    assert graph.unique_name("a", mark_as_used=False) == "a" == graph.unique_name("a")
    assert graph.unique_name("a", mark_as_used=False) == "a_1" == graph.unique_name("a")
    with graph.name_scope("outer"), graph.name_scope("inner"):
        assert graph.get_name_scope() == "outer/inner"


def test_a_finalized_graph_does_not_grow() -> None:
    a = dt.constant(1.0)
    graph, version = a.graph, a.graph.version
    graph.finalize()
    with pytest.raises(RuntimeError, match=r"Graph is finalized and cannot be modified: Add"):
        a + a
    assert graph.finalized and graph.version == version
    assert dt.Session(comm=None).run(a) == 1


def test_collections() -> None:
    graph, a = dt.get_default_graph(), dt.constant(1, name="scope/a")
    dt.add_to_collection("some", a)
    dt.add_to_collections(["some", "others", "some"], 3)
    assert dt.get_collection("some") == [a, 3] and dt.get_collection("some", "scope") == [a]
    assert dt.get_collection("some", scope="cope") == [] == dt.get_collection("none")
    dt.get_collection("some").clear()
    dt.get_collection_ref("some").append(4)
    assert dt.get_collection("some") == [a, 3, 4]
    assert sorted(graph.get_all_collection_keys()) == ["others", "some"]
    graph.clear_collection("some")
    assert dt.get_collection("some") == []


# -- sessions --------------------------------------------------------------------------------------------
def test_a_session_is_the_default_in_its_block_and_closed_after() -> None:
    a = dt.constant(2.0)
    assert dt.get_default_session() is None
    with dt.Session(comm=None) as outer:
        assert dt.get_default_session() is outer and outer.graph is dt.get_default_graph()
        with dt.Session(comm=None).as_default() as inner:
            assert dt.get_default_session() is inner and a.eval() == 2
        assert inner.run(a) == 2 and dt.get_default_session() is outer
    assert dt.get_default_session() is None
    with pytest.raises(RuntimeError, match="Attempted to use a closed Session"):
        outer.run(a)
    with pytest.raises(ValueError, match="Cannot use the default session"):
        a.eval()


def test_eval_and_run_take_a_session_or_the_default_one(session: dt.Session) -> None:
    x = dt.placeholder("float")
    v = dt.Variable(1.0)
    v.initializer.run(session=session)
    write = v.assign(x * 2)
    write.op.run({x: 4}, session)
    assert v.eval(session) == 8 and (x + v).eval({x: 1.0}, session) == 9
    with (
        dt.Session(dt.Graph() and "", dt.Graph(), comm=None),
        pytest.raises(UsageError, match="another graph"),
    ):
        x.eval({x: 1})


def test_an_interactive_session_installs_itself() -> None:
    session = dt.InteractiveSession(comm=None)
    a = dt.constant(3.0)
    assert dt.get_default_session() is session and a.eval() == 3
    session.close()
    assert dt.get_default_session() is None
    with pytest.raises(FailedPreconditionError, match="closed"):
        session.run(a)
    graph = dt.Graph()
    session = dt.InteractiveSession(graph=graph, comm=None)
    assert dt.constant(1).graph is graph
    session.close()
    assert dt.constant(1).graph is not graph


def test_config_options_mean_something_or_are_said_to_mean_nothing() -> None:
    config = dt.ConfigProto(
        allow_soft_placement=True, device_count={"GPU": 0}, inter_op_parallelism_threads=2
    )
    config.gpu_options.allow_growth = True
    with dt.Session(config=config, comm=None, device="gpu") as session:  # would fail but for device_count
        assert session.run(dt.constant(1)) == 1
    assert "GPU" in repr(config) and dt.GPUOptions().allow_growth is False
    assert dt.ConfigProto().device_count is not dt.ConfigProto().device_count
    with pytest.raises(UsageError, match="ConfigProto has no option 'cluster_def'"):
        dt.ConfigProto(cluster_def=1)
    with pytest.raises(UsageError, match="no option 'alow_growth'"):
        config.gpu_options.alow_growth = True


def test_threads_are_those_of_the_config() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(limits=2):
        dt.Session(config=dt.ConfigProto(intra_op_parallelism_threads=1), comm=None)
        assert all(p["num_threads"] == 1 for p in threadpool_info() if p["user_api"] == "blas")


def test_a_run_is_traced_into_its_metadata(session: dt.Session) -> None:
    x = dt.placeholder("float32", [None, 3])
    y = dt.matmul(x, dt.ones([3, 2]), name="product")
    metadata = dt.RunMetadata()
    options = dt.RunOptions(trace_level=dt.RunOptions.FULL_TRACE)
    feeds = {x: np.ones((5, 3), "f")}
    np.testing.assert_array_equal(session.run(y, feeds, options, metadata), np.full((5, 2), 3))
    trace = json.loads(timeline.Timeline(metadata.step_stats).generate_chrome_trace_format())["traceEvents"]
    (product,) = [event for event in trace if event["name"] == "product"]
    assert product["ph"] == "X" and product["dur"] > 0
    assert product["args"]["op"] == "MatMul" and product["args"]["inputs"] == "float32[5,3] float32[3,2]"
    untraced = dt.RunMetadata()
    for none in (None, dt.RunOptions()):
        assert session.run(dt.constant(1), None, none, untraced) == 1
    assert session.profiler is None and untraced.step_stats is None


def test_a_trace_needs_options_and_metadata(session: dt.Session) -> None:
    for arguments in ({"options": object()}, {"options": dt.RunOptions(trace_level=3)}):
        with pytest.raises(UsageError, match=r"run_metadata=RunMetadata\(\)"):
            session.run(dt.constant(1), **arguments)
    with pytest.raises(UsageError, match="nothing was traced"):
        timeline.Timeline(dt.RunMetadata().step_stats)
    with pytest.raises(UsageError, match="RunOptions has no option 'tracelevel'"):
        dt.RunOptions(tracelevel=3)


def test_fetches_nest_and_may_be_names(session: dt.Session) -> None:
    Pair = namedtuple("Pair", "left right")
    a, b = dt.constant(1, name="a"), dt.constant(2, name="b")
    fetched = session.run({"x": [a, ("b:0", "a")], "y": Pair(b, [])})
    assert fetched == {"x": [1, (2, None)], "y": Pair(2, [])}
    assert type(fetched["y"]) is Pair
    for bad in (None, 3, [object()]):
        with pytest.raises(TypeError, match="cannot be fetched"):
            session.run(bad)


def test_any_tensor_can_be_fed(session: dt.Session) -> None:
    a = dt.constant(1.0)
    b = a + 1.0
    assert session.run(b * 2.0, {b: 10.0}) == 20 and session.run(b * 2.0, {"Add:0": 3}) == 6
    with pytest.raises(TypeError, match="only tensors can be fed"):
        session.run(b, {b.op: 1.0})


# -- placeholder_with_default, tuple, group --------------------------------------------------------------
def test_a_placeholder_with_a_default(session: dt.Session) -> None:
    x = dt.placeholder_with_default([[1.0, 2.0]], [None, 2], name="x")
    total = dt.reduce_sum(x, 0)
    assert (x.name, x.shape.as_list()) == ("x:0", [None, 2])
    assert session.run(total).tolist() == [1, 2]
    assert session.run(total, {x: np.ones((3, 2))}).tolist() == [3, 3]
    assert session.run(dt.gradients(x * x, x)[0]).tolist() == [[2, 4]]
    rate = dt.placeholder_with_default(0.5, [])
    assert session.run([rate, rate * 2.0], {rate: 2.0}) == [2, 4]
    with pytest.raises(GraphError, match="does not allow"):
        dt.placeholder_with_default([1.0], [2])
    with pytest.raises(InvalidArgumentError, match="Cannot feed"):
        session.run(x, {x: np.ones((3, 3))})


def test_a_default_may_be_a_variable(session: dt.Session) -> None:
    v = dt.Variable(3.0)
    x = dt.placeholder_with_default(v, [])
    assert session.run(x * 2.0, {x: 1.0}) == 2  # the variable needs no value then
    session.run(v.initializer)
    assert session.run(x * 2.0) == 6


def test_tuple_waits_for_all(session: dt.Session) -> None:
    v = dt.Variable(1.0)
    session.run(v.initializer)
    first, nothing, second = dt.tuple([dt.constant(5), None, v.read_value()], control_inputs=[v.assign(4.0)])
    assert nothing is None
    assert session.run(first) == 5 and session.run(v) == 4
    with pytest.raises(GraphError, match="at least one"):
        dt.tuple([None])
    assert second.name.startswith("tuple/")


def test_group_takes_lists_apart(session: dt.Session) -> None:
    a, b = dt.Variable(1.0), dt.Variable(2.0)
    session.run(dt.group([a.initializer, [b.initializer]], name="both"))
    assert session.run([a, b]) == [1, 2]


def test_ranks_feed_and_default_alike(on_threads: Any) -> None:
    x = dt.placeholder_with_default(dt.zeros([4]), [None])
    total = dt.reduce_sum(x)

    def body(comm: Any) -> Any:
        session = dt.Session(graph=x.graph, comm=comm)
        low, high = 5 * comm.rank // comm.size, 5 * (comm.rank + 1) // comm.size
        return session.run(total), session.run(total, {x: dt.Shard(np.arange(5.0)[low:high], 5)})

    assert on_threads(2, body) == [(0, 10), (0, 10)]
