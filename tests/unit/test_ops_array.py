"""Array ops by TensorFlow 1's names: shapes that come as tensors, slices, joining, indexing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.ops.placement import Sharded, shard_bounds
from dtrain.passes import FeedSpec, compile_step

few = settings(max_examples=25, derandomize=True, deadline=None)


def run(fetches: Any, feeds: dict[Any, Any] | None = None) -> Any:
    return dt.Session(comm=None).run(fetches, feeds)


def same(tensor: Any, right: Any, feeds: dict[Any, Any] | None = None) -> None:
    """The tensor's value, shape and dtype are those of a NumPy array."""
    value = run(tensor, feeds)
    assert np.shape(value) == np.shape(right)
    assert np.asarray(value).dtype == np.asarray(right).dtype == tensor.dtype.numpy
    np.testing.assert_array_equal(value, right)


def ramp(*shape: int) -> np.ndarray:
    return np.arange(float(np.prod(shape))).reshape(shape)


# -- shapes that are tensors ------------------------------------------------------------------------------
def test_the_shape_of_what_is_known_is_a_constant() -> None:
    x = dt.zeros([2, 3])
    assert (dt.shape(x).op.type, dt.shape(x, out_type="int64").dtype.name) == ("Const", "int64")
    assert run([dt.shape(x), dt.size(x), dt.rank(x)])[0].tolist() == [2, 3]
    assert [int(v) for v in run([dt.size(x), dt.rank(x)])] == [6, 2]


@pytest.mark.parametrize("known", [[None, 3], [None, None], None])
def test_shape_size_and_rank_of_what_is_fed(known: Any) -> None:
    x = dt.placeholder(dt.float32, known)
    for rows in (0, 4):
        sizes = run([dt.shape(x), dt.size(x), dt.rank(x)], {x: np.zeros((rows, 3))})
        assert [np.asarray(v).tolist() for v in sizes] == [[rows, 3], 3 * rows, 2]


#: Ops on a batch x of unknown length, with sizes taken from its shape: what is built, and what NumPy makes.
DYNAMIC: dict[str, tuple[Callable[[Any, Any], Any], Callable[[np.ndarray], Any], tuple[Any, ...] | None]] = {
    "reshape to a list": (lambda x, n: dt.reshape(x, [n, 3, 1]), lambda x: x[..., None], (None, 3, 1)),
    "reshape with -1": (
        lambda x, n: dt.reshape(x, [3, n * 1, -1]),
        lambda x: x.reshape(3, -1, 1),
        (3, None, None),
    ),
    "reshape to a shape": (lambda x, n: dt.reshape(x * 1, dt.shape(x)), lambda x: x, (None, 3)),
    "reshape to a stack": (lambda x, n: dt.reshape(x, dt.stack([1, n, 3])), lambda x: x[None], (1, None, 3)),
    "reshape to a concat": (
        lambda x, n: dt.reshape(x, dt.concat([dt.shape(x), [1, 1]], 0)),
        lambda x: x[..., None, None],
        (None, 3, 1, 1),
    ),
    "reshape to a part": (
        lambda x, n: dt.reshape(x, [dt.reduce_prod(dt.shape(x)[:1]) * dt.shape(x)[1]]),
        lambda x: x.ravel(),
        (None,),
    ),
    "broadcast_to": (
        lambda x, n: dt.broadcast_to(x, [2, n, 3]),
        lambda x: np.stack([x, x]),
        (2, None, 3),
    ),
    "tile": (lambda x, n: dt.tile(x, [1, n]), lambda x: np.tile(x, (1, len(x))), (None, None)),
    "pad": (
        lambda x, n: dt.pad(x, [[0, 6 - n], [1, 0]]),
        lambda x: np.pad(x, ((0, 6 - len(x)), (1, 0))),
        (None, 4),
    ),
    "slice bounds": (
        lambda x, n: x[n // 2 :, : n - 1],
        lambda x: x[len(x) // 2 :, : len(x) - 1],
        (None, None),
    ),
    "slice": (lambda x, n: dt.slice(x, [n - 2, 0], [2, -1]), lambda x: x[len(x) - 2 :], (2, 3)),
    "last row": (lambda x, n: x[n - 1], lambda x: x[-1], (3,)),
    "split sizes": (lambda x, n: dt.split(x, [1, n - 1])[1], lambda x: x[1:], (None, 3)),
    "times range": (
        lambda x, n: x * dt.expand_dims(dt.range(dt.to_float(0), n, dtype=dt.float64), 1),
        lambda x: x * np.arange(len(x))[:, None],
        (None, 3),
    ),
    "times ones": (lambda x, n: dt.ones([n, 1], dt.float64) * x, lambda x: x, (None, 3)),
    "times fill": (lambda x, n: x + dt.fill(dt.shape(x), dt.reduce_sum(x)), lambda x: x + x.sum(), (None, 3)),
    "like": (lambda x, n: dt.ones_like(x) + x * dt.zeros_like(x), np.ones_like, (None, 3)),
    "eye": (lambda x, n: dt.matmul(dt.eye(n, dtype=dt.float64), x), lambda x: x, (None, 3)),
    "one_hot": (
        lambda x, n: dt.matmul(dt.one_hot([0, 1], n, dtype=dt.float64), x),
        lambda x: x[:2],
        (2, 3),
    ),
    "unstacked": (
        lambda x, n: dt.reshape(x, dt.unstack(dt.shape(x))[::-1]),
        lambda x: x.reshape(3, -1),
        (3, None),
    ),
    "matrix_diag": (
        lambda x, n: dt.reduce_sum(dt.matrix_diag(dt.transpose(x)), 2),
        lambda x: x.T,
        (3, None),
    ),
}


def _dynamic(name: str, shape: Any = (None, 3)) -> tuple[Any, Any]:
    x = dt.placeholder(dt.float64, shape)
    return x, DYNAMIC[name][0](x, dt.shape(x)[0])


@pytest.mark.parametrize("name", DYNAMIC)
def test_sizes_may_come_from_shapes_of_what_is_fed(name: str) -> None:
    x, y = _dynamic(name)
    for rows in (3, 5):  # a plan for each
        same(y, DYNAMIC[name][1](ramp(rows, 3)), {x: ramp(rows, 3)})


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_is_known_of_such_a_shape_is_known_when_the_line_is_written(name: str) -> None:
    _, y = _dynamic(name)
    assert y.shape == DYNAMIC[name][2], y


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_gradient_passes_through_an_op_with_such_a_size(name: str) -> None:
    generator = np.random.default_rng(3)
    x, y = _dynamic(name)
    value = generator.uniform(-1, 1, (4, 3))
    weights = generator.uniform(-1, 1, run(y, {x: value}).shape)
    (gradient,) = dt.gradients(dt.reduce_sum(y * weights), x)
    assert gradient is not None
    assert gradient.shape == (None, 3)
    slope = run(gradient, {x: value})
    for at in np.ndindex(value.shape):
        moved = np.zeros_like(value)
        moved[at] = 0.5
        high, low = (np.sum(weights * run(y, {x: value + d})) for d in (moved, -moved))
        np.testing.assert_allclose(slope[at], high - low, rtol=1e-9, atol=1e-9)  # all are linear


@pytest.mark.parametrize("name", DYNAMIC)
def test_several_ranks_take_such_a_size_from_the_whole_batch(
    name: str, on_threads: Callable[..., list[Any]]
) -> None:
    x, y = _dynamic(name)
    (gradient,) = dt.gradients(dt.reduce_sum(dt.square(y)), x)
    value = ramp(5, 3)
    expected = run([y, gradient], {x: value})
    graph = x.graph

    def rank(comm: Communicator) -> Any:
        low, high = shard_bounds(5, comm.rank, comm.size)
        return dt.Session(graph=graph, comm=comm).run([y, gradient], {x: dt.Shard(value[low:high], 5)})

    for found in on_threads(3, rank):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_placeholder_of_unknown_rank_has_sizes_too() -> None:
    x = dt.placeholder(dt.float64, None)
    y = dt.reshape(x, dt.concat([[1], dt.shape(x)], 0))
    assert y.shape.ndims is None
    same(y, ramp(1, 2, 3), {x: ramp(2, 3)})
    same(dt.zeros(dt.shape(x)), np.zeros((2, 3), np.float32), {x: ramp(2, 3)})


def test_shapes_that_are_constant_tensors_are_known_at_once() -> None:
    shape = dt.constant([3, 2]) * 2
    made = [dt.zeros(shape), dt.reshape(ramp(24), shape), dt.random_normal(shape), dt.fill(shape, 1)]
    assert all(t.shape == (6, 4) for t in made)
    assert dt.transpose(ramp(2, 3, 4), dt.constant([2, 0, 1])).shape == (4, 2, 3)
    assert dt.reduce_sum(ramp(2, 3, 4), dt.constant([0, -1])).shape == (3,)


def test_a_plan_is_for_the_values_of_sizes_that_are_fed() -> None:
    n, m = dt.placeholder(dt.int32), dt.placeholder_with_default(2, [])
    x = dt.zeros([n + 1, m])
    assert x.shape == (None, None)
    same(x, np.zeros((4, 2), np.float32), {n: np.int32(3)})
    same(x, np.zeros((6, 3), np.float32), {n: np.int32(5), m: np.int32(3)})


@pytest.mark.parametrize("how", ["fed", "a variable", "random"])
def test_a_size_that_is_a_value_is_an_error_that_says_where_it_comes_from(how: str) -> None:
    n = {
        "fed": lambda: dt.placeholder(dt.int32, [1], name="n")[0],
        "a variable": lambda: dt.Variable(3, name="n").value(),
        "random": lambda: dt.random_uniform([], 0, 5, "int32", name="n"),
    }[how]()
    x = dt.zeros([n + 1, 2])
    assert x.shape == (None, 2)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    with pytest.raises(InvalidArgumentError, match=r"value of n \(.*test_ops_array.*shapes of what is fed"):
        session.run(x, {"n:0": [3]} if how == "fed" else {})


def test_a_size_that_does_not_fit_what_is_fed_is_an_error_of_the_run() -> None:
    x = dt.placeholder(dt.float32, [None])
    y = dt.reshape(x, [dt.shape(x)[0] // 2, 2])
    assert run(y, {x: np.ones(4)}).shape == (2, 2)
    with pytest.raises(InvalidArgumentError, match=r"Reshape.*does not fit what is fed.*5 values"):
        run(y, {x: np.ones(5)})


WRONG_SIZES: dict[str, tuple[Callable[[], Any], str]] = {
    "a float": (lambda: dt.zeros([1.5]), "not an integer"),
    "a float tensor": (lambda: dt.zeros(dt.constant([2.0])), "not of integers"),
    "a matrix": (lambda: dt.zeros([[1, 2]]), "not an integer"),
    "negative": (lambda: dt.zeros([2, -1]), "0 or more"),
    "unknown": (lambda: dt.ones([None, 2]), "unknown sizes"),
    "None": (lambda: dt.random_normal(None), "unknown sizes"),
    "reshape to None": (lambda: dt.reshape(ramp(4), [None, 2]), "write -1"),
    "a bool": (lambda: dt.expand_dims(ramp(3), True), "not an integer"),
    "an axis not known": (lambda: dt.transpose(ramp(2, 2), dt.placeholder("int32", [2])), "not known yet"),
    "broadcast": (lambda: dt.broadcast_to(ramp(2), [3]), "do not broadcast"),
    "broadcast narrower": (lambda: dt.broadcast_to(ramp(3), [1]), "does not broadcast"),
}


@pytest.mark.parametrize("name", WRONG_SIZES)
def test_what_is_no_size_is_an_error_at_its_line(name: str) -> None:
    build, message = WRONG_SIZES[name]
    with pytest.raises(GraphError, match=message):
        build()


# -- x[...] ------------------------------------------------------------------------------------------------
@few
@given(st.data())
def test_slices_are_those_of_numpy_and_so_are_their_gradients(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    x = ramp(*shape)
    known, fed = dt.constant(x), dt.placeholder(dt.float64, [None] * x.ndim)
    for tensor, feeds in ((known, {}), (fed, {fed: x})):
        y = tensor[key]
        same(y, x[key], feeds)
        (gradient,) = dt.gradients(y, tensor)
        slope = np.zeros(shape)
        slope[key] = 1
        same(gradient, slope, feeds)
    assert known[key].shape == x[key].shape


def test_slices_of_a_variable_and_of_a_slice() -> None:
    v = dt.Variable(ramp(3, 4))
    session = dt.Session(comm=None)
    session.run(v.initializer)
    np.testing.assert_array_equal(session.run(v[1:][:, ::2][-1]), ramp(3, 4)[2, ::2])
    with dt.control_dependencies([v[0]]):
        before, after = v[0] * 1, v.assign_add(dt.ones([3, 4], dt.float64))
    assert session.run([before, after])[1][0, 0] == 1


@pytest.mark.parametrize(
    "key",
    [lambda i: i, lambda i: (i, 1), lambda i: (Ellipsis, i), lambda i: (i, Ellipsis, i), lambda i: (None, i)],
)
def test_an_index_may_be_fed(key: Callable[[Any], Any]) -> None:
    x, i = ramp(3, 3, 3), dt.placeholder(dt.int32, [])
    y = dt.constant(x)[key(i)]
    same(y, x[key(2)], {i: 2})
    with pytest.raises(InvalidArgumentError, match=r"3 is not in 0\.\.2"):
        run(y, {i: 3})


WRONG_KEYS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "out of bounds": (lambda x: x[2], "index 2 of dimension 0 is out of bounds"),
    "out of bounds below": (lambda x: x[0, -4], "index -4 of dimension 1"),
    "too many": (lambda x: x[0, 0, 0], "3 indices for 2 axes"),
    "a step of 0": (lambda x: x[::0], "cannot be 0"),
    "a float": (lambda x: x[1.0], "an index is an integer"),
    "a list": (lambda x: x[[0, 1]], "dt.gather"),
    "a mask": (lambda x: x[dt.constant([True, False])], "dt.boolean_mask"),
    "two ellipses": (lambda x: x[..., 0, ...], "only one"),
    "a float bound": (lambda x: x[:1.0], "not an integer"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_what_is_no_index_is_an_error_at_its_line(name: str) -> None:
    build, message = WRONG_KEYS[name]
    with pytest.raises(GraphError, match=message):
        build(dt.zeros([2, 3]))


def test_slice_takes_what_is_there_only() -> None:
    x = ramp(4, 3)
    same(dt.slice(x, [1, 0], [2, -1]), x[1:3])
    same(dt.slice(x, [4, 0], [0, 3]), x[4:])
    for begin, size in (([3, 0], [2, 1]), ([-1, 0], [1, 1]), ([0, 0], [-2, 1])):
        with pytest.raises(GraphError, match="not within the 4"):
            dt.slice(x, begin, size)
    with pytest.raises(GraphError, match="1 sizes for the 2 axes"):
        dt.slice(x, [0], [1])


# -- joining and cutting -----------------------------------------------------------------------------------
@few
@given(st.data())
def test_concat_and_split_undo_each_other(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    parts = []
    for i, size in enumerate(sizes):
        dims = list(shape)
        dims[axis] = size
        parts.append(ramp(*dims) + 100 * i)
    feeds = [dt.placeholder(dt.float64, [None] * len(shape)) for _ in parts]
    whole = dt.concat(feeds, axis)
    given = dict(zip(feeds, parts, strict=True))
    same(whole, np.concatenate(parts, axis), given)
    for part, right in zip(dt.split(whole, sizes, axis), parts, strict=True):
        same(part, right, given)
    gradients = dt.gradients(dt.square(whole), feeds)
    for gradient, right in zip(gradients, parts, strict=True):
        same(gradient, 2 * right, given)


def test_an_even_split_and_unstack() -> None:
    x = ramp(4, 6)
    for axis in (0, 1, -1):
        for part, right in zip(dt.split(x, 2, axis), np.split(x, 2, axis), strict=True):
            same(part, right)
        for part, right in zip(dt.unstack(x, axis=axis), np.moveaxis(x, axis, 0), strict=True):
            same(part, right)
    rest = dt.split(x, [1, -1], 0)[1]
    assert rest.shape == (3, 6)
    fed = dt.placeholder(dt.float64, [None, 6])
    assert dt.split(fed, 2)[0].shape == (None, 6)
    rows = dt.unstack(fed, 4)
    same(rows[3], x[3], {fed: x})
    with pytest.raises(InvalidArgumentError, match="do not make up the 3"):
        run(rows[0], {fed: x[:3]})


def test_a_gradient_of_one_part_of_a_split_is_zero_elsewhere() -> None:
    x = dt.placeholder(dt.float64, [None, 2])
    first, second = dt.split(x, 2)
    (gradient,) = dt.gradients(second, x)
    same(gradient, np.array([[0.0, 0], [1, 1]]), {x: ramp(2, 2)})
    assert len(dt.gradients([first, second], x)) == 1


def test_gradients_of_gradients_pass_through_a_concat() -> None:
    x, y = dt.placeholder(dt.float64, [2]), dt.placeholder(dt.float64, [3])
    cubes = dt.concat([x, y], 0) ** 3
    (first,) = dt.gradients(cubes, y)
    (second,) = dt.gradients(first, y)
    same(second, 6 * np.array([1.0, 2, 3]), {x: np.zeros(2), y: [1, 2, 3]})


@pytest.mark.parametrize("axis", [0, 1, -1, 2, -3])
def test_stack_puts_in_an_axis(axis: int) -> None:
    a, b = ramp(2, 3), ramp(2, 3) + 9
    fed = dt.placeholder(dt.float64, [None, 3])
    same(dt.stack([fed, b], axis), np.stack([a, b], axis), {fed: a})
    same(dt.stack([a, b], axis), np.stack([a, b], axis))


def test_lists_with_tensors_in_them_are_stacked() -> None:
    x = dt.placeholder(dt.float32, [])
    same(dt.convert_to_tensor([x, 2.0, 3]), np.array([1, 2, 3], np.float32), {x: 1})
    same(dt.reduce_sum([[x, x], [1.0, 0.0]], 1), np.array([2, 1], np.float32), {x: 1})


@few
@given(st.data())
def test_tile_pad_and_reverse_are_those_of_numpy(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3))
    counts = st.integers(0, 2)
    times = data.draw(st.tuples(*[counts] * len(shape)))
    around = data.draw(st.tuples(*[st.tuples(counts, counts)] * len(shape)))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    x, fed = ramp(*shape), dt.placeholder(dt.float64, [None] * len(shape))
    same(dt.tile(fed, times), np.tile(x, times), {fed: x})
    same(dt.tile(dt.transpose(fed), times[::-1]), np.tile(x.T, times[::-1]), {fed: x})
    same(dt.pad(fed, around, constant_values=7), np.pad(x, around, constant_values=7), {fed: x})
    same(dt.reverse(fed, sorted(axes)), np.flip(x, sorted(axes)), {fed: x})
    tiled, padded = dt.gradients(dt.tile(fed, times), fed) + dt.gradients(dt.pad(fed, around), fed)
    same(tiled, np.full(shape, float(np.prod(times))), {fed: x})
    same(padded, np.ones(shape), {fed: x})


@few
@given(st.data())
def test_squeeze_and_expand_dims_undo_each_other(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=2))
    x, fed = ramp(*shape), dt.placeholder(dt.float64, [None] * len(shape))
    same(dt.squeeze(fed), x.squeeze(), {fed: x})
    at = data.draw(st.integers(-len(shape) - 1, len(shape)))
    same(dt.squeeze(dt.expand_dims(fed, at), [at]), x, {fed: x})
    assert dt.squeeze(dt.expand_dims(fed, dim=at), squeeze_dims=at).shape == (None,) * len(shape)


# -- indices ---------------------------------------------------------------------------------------------
@few
@given(st.data())
def test_gather_takes_along_any_axis(data: st.DataObject) -> None:
    dt.reset_default_graph()
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    at = data.draw(
        hnp.arrays(
            np.int64,
            hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
            elements=st.integers(0, shape[axis] - 1),
        )
    )
    x, fed = ramp(*shape), dt.placeholder(dt.float64, [None] * len(shape))
    same(dt.gather(fed, at, axis=axis), np.take(x, at, axis), {fed: x})


def test_gather_nd_checks_each_axis() -> None:
    at = dt.placeholder(dt.int32, [None, 2])
    entries = dt.gather_nd(ramp(2, 3), at)
    same(entries, np.array([5.0, 1.0]), {at: [[1, 2], [0, 1]]})
    with pytest.raises(InvalidArgumentError, match=r"axis 1: the index 3 is not in 0\.\.2"):
        run(entries, {at: [[0, 3]]})
    with pytest.raises(GraphError, match="positions of 3 axes"):
        dt.gather_nd(ramp(2, 3), [[0, 0, 0]])


def test_one_hot_with_values_axis_and_dtype() -> None:
    labels = np.array([[0, 2], [1, 5]])
    same(dt.one_hot(labels, 3), np.eye(6, dtype=np.float32)[labels][..., :3])
    same(dt.one_hot(labels, 3, axis=0), np.moveaxis(np.eye(6, dtype=np.float32)[labels][..., :3], -1, 0))
    same(dt.one_hot([1], 2, 5, -1), np.array([[-1, 5]], np.int32))
    same(dt.one_hot([1], 2, True, False, dtype=dt.bool), np.array([[False, True]]))
    same(dt.one_hot([1], 2, on_value=0.5), np.array([[0, 0.5]], np.float32))


def test_a_mask_must_be_known() -> None:
    x, mask = ramp(3, 2), np.array([True, False, True])
    same(dt.boolean_mask(x, mask), x[mask])
    same(dt.where(mask), np.argwhere(mask))
    for build in (lambda m: dt.boolean_mask(x, m), lambda m: dt.where(m)):
        with pytest.raises(GraphError, match=r"fixed shapes.*keeps the shape"):
            build(dt.placeholder(dt.bool, [3]))


# -- made of counting ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        ((5,), np.int32),
        ((2, 9, 3), np.int32),
        ((5, 0, -2), np.int32),
        ((0.0, 1.0, 0.25), np.float32),
        ((3, 3), np.int32),
    ],
)
def test_range_counts_as_numpys_arange(arguments: Any, dtype: Any) -> None:
    same(dt.range(*arguments), np.arange(*arguments).astype(dtype))


def test_range_refuses_to_lead_away() -> None:
    for arguments in ((3, 0), (0, 3, -1), (0, 3, 0)):
        with pytest.raises(GraphError, match="leads from"):
            dt.range(*arguments)
    assert dt.range(dt.constant(3, "int64")).dtype == "int64"
    assert dt.range(3, dtype="float64").dtype == "float64"


def test_linspace_eye_and_diagonals() -> None:
    same(dt.linspace(1.0, 2.0, 5), np.linspace(1, 2, 5).astype(np.float32))
    same(dt.lin_space(3.0, 9.0, 1), np.array([3], np.float32))
    same(dt.eye(2, 3, dtype="int32"), np.eye(2, 3, dtype=np.int32))
    same(dt.eye(2, batch_shape=[3]), np.broadcast_to(np.eye(2, dtype=np.float32), (3, 2, 2)))
    same(dt.diag([1.0, np.inf]), np.array([[1, 0], [0, np.inf]], np.float32))
    x = ramp(2, 3, 3)
    same(dt.matrix_diag_part(x), np.diagonal(x, axis1=1, axis2=2))
    same(dt.trace(x), np.trace(x, axis1=1, axis2=2))
    same(dt.diag_part(x[0]), np.diag(x[0]))
    same(dt.matrix_transpose(x), x.swapaxes(1, 2))
    same(dt.sequence_mask([1, 3], 3), np.array([[1, 0, 0], [1, 1, 1]], bool))


def test_likes_take_another_dtype() -> None:
    same(dt.ones_like(ramp(2), "int32"), np.ones(2, np.int32))
    same(dt.zeros_like([True], dtype=None), np.array([False]))
    same(dt.fill([2], True), np.array([True, True]))
    same(dt.fill([2], dt.constant(3)), np.array([3, 3], np.int32))


# -- where rows lie ------------------------------------------------------------------------------------------
ROWS: dict[str, Callable[[Any], Any]] = {
    "slice": lambda x: x[:, 1:, None],
    "one column": lambda x: x[..., 0],
    "concat": lambda x: dt.concat([x, x * 2], 1),
    "stack": lambda x: dt.stack([x, x], -1),
    "split": lambda x: dt.split(x, 2, 1)[1],
    "unstack": lambda x: dt.unstack(x, axis=1)[0],
    "tile": lambda x: dt.tile(x, [1, 3]),
    "pad": lambda x: dt.pad(x, [[0, 0], [1, 1]]),
    "reverse": lambda x: dt.reverse(x, [1]),
    "squeeze": lambda x: dt.squeeze(x[:, :1], [1]),
    "gather": lambda x: dt.gather(x, [3, 0], axis=1),
    "one_hot": lambda x: dt.one_hot(dt.argmin(x, 1), 4, axis=0),
    "where": lambda x: dt.where(x > 0, x, dt.zeros_like(x)),
    "rows": lambda x: dt.where(dt.reduce_any(x > 1, 1), x, -x),
    "cumsum": lambda x: dt.cumsum(x, 1),
    "logsumexp": lambda x: dt.reduce_logsumexp(x, 1),
    "prod": lambda x: dt.reduce_prod(x, 1),
    "products": lambda x: dt.matmul(x[:, None, :], x[:, :, None]),
    "flattened": lambda x: dt.reshape(x[..., None, None], [dt.shape(x)[0], -1]),
    "broadcast_to": lambda x: dt.broadcast_to(x, [2, dt.shape(x)[0], 4]),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_stay_on_their_ranks(name: str) -> None:
    x = dt.placeholder(dt.float64, [None, 4])
    y = dt.to_double(ROWS[name](x))
    fetches = [dt.reduce_sum(dt.square(y)), *(g for g in dt.gradients(dt.reduce_mean(y), x) if g is not None)]
    step = compile_step([dt.reduce_sum(f) for f in fetches], (), [FeedSpec(x, (6, 4), Sharded(0))], 2)
    assert "AllGather" not in {node.type for node in step.graph.operations}


# -- strings -------------------------------------------------------------------------------------------------
def test_a_string_constant_is_bytes() -> None:
    hello, several = dt.constant("Hello, Größe"), dt.constant([["a", "bc"], [b"\0", ""]])
    assert (hello.dtype, several.shape) == (dt.string, (2, 2))
    value, values = run([hello, several])
    assert value == "Hello, Größe".encode()
    assert values.tolist() == [[b"a", b"bc"], [b"\0", b""]]
    assert run([dt.constant("a"), dt.constant("b"), dt.constant("a")]) == [b"a", b"b", b"a"]


def test_nothing_computes_with_strings() -> None:
    for build in (lambda s: s + s, lambda s: dt.reshape(s, [1]), lambda s: dt.stack([s, s])):
        with pytest.raises(GraphError, match="string"):
            build(dt.constant("a"))
    with pytest.raises(GraphError):
        dt.constant("a", dt.float32)


# -- random --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make",
    [
        dt.random_normal,
        dt.truncated_normal,
        dt.random_uniform,
        functools.partial(dt.random_uniform, minval=3, maxval=9, dtype="int32"),
    ],
)
def test_random_shapes_may_be_tensors(make: Callable[..., Any]) -> None:
    x = dt.placeholder(dt.float32, [None, 3])
    dt.set_random_seed(5)
    noise, known = make(dt.shape(x), seed=2), make([4, 3], seed=2)
    assert noise.shape == (None, 3)
    value, right = run([noise, known], {x: np.zeros((4, 3))})
    np.testing.assert_array_equal(value, right)
    assert value.dtype == noise.dtype.numpy


def test_a_shuffle_is_an_order_of_the_rows_and_another_each_time() -> None:
    x = ramp(20, 2)
    dt.set_random_seed(1)
    shuffled = dt.random_shuffle(x)
    session = dt.Session(comm=None)
    first, second = session.run(shuffled), session.run(shuffled)
    for value in (first, second):
        np.testing.assert_array_equal(value[np.argsort(value[:, 0])], x)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, x)
    with pytest.raises(GraphError, match="no rows"):
        dt.random_shuffle(1.0)


# -- what does not fit ------------------------------------------------------------------------------------
MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "concat of dtypes": (lambda: dt.concat([dt.zeros([1]), dt.zeros([1], "int32")], 0), "differ"),
    "concat of shapes": (lambda: dt.concat([ramp(2, 3), ramp(3, 2)], 0), "elsewhere than in axis 0"),
    "concat of scalars": (lambda: dt.concat([1.0, 2.0], 0), "stack them"),
    "stack of shapes": (lambda: dt.stack([dt.zeros([2]), dt.zeros([3])]), "differ"),
    "stack of one": (lambda: dt.stack(dt.zeros([2])), "list of tensors"),
    "uneven split": (lambda: dt.split(ramp(5), 2), "2 equal parts"),
    "split sizes": (lambda: dt.split(ramp(5), [2, 2]), "do not make up the 5"),
    "unstack num": (lambda: dt.unstack(ramp(5), 4), "has 5 entries"),
    "unstack unknown": (lambda: dt.unstack(dt.placeholder("float", [None])), "give num"),
    "tile": (lambda: dt.tile(ramp(2, 2), [2]), "1 multiples for the 2 axes"),
    "pad": (lambda: dt.pad(ramp(2, 2), [[1, 1]]), "1 paddings for the 2 axes"),
    "pad mode": (lambda: dt.pad(ramp(2), [[1, 1]], "EDGE"), "none of CONSTANT"),
    "pad negative": (lambda: dt.pad(ramp(2), [[-1, 1]]), "0 or more"),
    "squeeze": (lambda: dt.squeeze(ramp(2, 1), [0]), "only size 1"),
    "gather axis": (lambda: dt.gather(ramp(2), [0], axis=1), "axis 1 is not one"),
    "fill with a vector": (lambda: dt.fill([2], [1, 2]), "not a scalar"),
    "expand_dims twice": (lambda: dt.expand_dims(ramp(2), 0, dim=0), "not both"),
    "matrix_transpose": (lambda: dt.matrix_transpose(ramp(2)), "no matrix"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_an_error_at_its_line(name: str) -> None:
    build, message = MISFITS[name]
    with pytest.raises(GraphError, match=message):
        build()


def test_sparse_to_dense_fills_what_is_not_named() -> None:
    labels = dt.placeholder("int32", [None])
    rows = dt.expand_dims(dt.range(dt.size(labels)), 1)
    indices = dt.concat([rows, dt.expand_dims(labels, 1)], 1)
    one_hot = dt.sparse_to_dense(indices, dt.stack([dt.size(labels), 4]), 1.0, 0.0)
    session = dt.Session(comm=None)
    np.testing.assert_array_equal(session.run(one_hot, {labels: [0, 3, 1]}), np.eye(4)[[0, 3, 1]])
    np.testing.assert_array_equal(
        session.run(dt.sparse_to_dense([1, 3], [5], [7, 8], -1)), [-1, 7, -1, 8, -1]
    )
    for large in (-1e20, -np.inf):
        np.testing.assert_array_equal(
            session.run(dt.sparse_to_dense([1], [3], [0.125], large)), np.float32([large, 0.125, large])
        )
    with pytest.raises(InvalidArgumentError, match=r"axis 1: the index 9 is not in 0\.\.3"):
        session.run(one_hot, {labels: [0, 9]})
    with pytest.raises(GraphError, match=r"sparse_to_dense: .* are no indices \[n, rank\]"):
        dt.sparse_to_dense([[1, 2]], [5], 1)
