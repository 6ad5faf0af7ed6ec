"""gradients(): what flows along which paths. The rules of single ops are tested in test_ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import GraphError


def run(fetches: Any, feeds: Any = None) -> Any:
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    return session.run(fetches, feeds)


def slope(ys: Any, x: Any, **options: Any) -> Any:
    (gradient,) = dt.gradients(ys, x, **options)
    assert gradient is not None
    return run(gradient)


def test_none_where_no_y_depends_on_x() -> None:
    x, other = dt.constant(2.0), dt.constant(3.0)
    of_x, of_other = dt.gradients(x * x, [x, other])
    assert of_other is None and run(of_x) == 4
    assert dt.gradients(x, dt.constant(1)) == [None]


def test_only_the_nodes_on_the_way_are_built() -> None:
    x = dt.constant(2.0)
    aside = dt.exp(dt.constant(1.0))
    y = x * aside
    before = len(x.graph.operations)
    dt.gradients(y, x)
    assert {o.type for o in x.graph.operations[before:]} <= {"Const", "Mul", "SumLike"}


def test_several_ys_are_summed() -> None:
    x = dt.constant([1.0, 2.0])
    assert slope([x * 3, dt.square(x), dt.reduce_sum(x)], x).tolist() == [6, 8]


def test_a_y_given_twice_counts_twice() -> None:
    x = dt.constant(3.0)
    y = dt.square(x)
    assert slope([y, y], x) == 12


def test_grad_ys_flow_into_their_ys() -> None:
    x = dt.constant([1.0, 2.0])
    found = slope([x * 3, dt.square(x)], x, grad_ys=[dt.constant([1.0, 10.0]), [2.0, 1.0]])
    assert found.tolist() == [3 + 4, 30 + 4]
    assert slope([x * 3, dt.square(x)], x, grad_ys=[None, [1.0, 0.0]]).tolist() == [3 + 2, 3]


def test_grad_ys_have_to_fit() -> None:
    x = dt.constant([1.0, 2.0])
    with pytest.raises(GraphError, match="2 grad_ys for 1 ys"):
        dt.gradients(x, x, grad_ys=[x, x])
    with pytest.raises(GraphError, match="is not of the shape of"):
        dt.gradients(x * 2, x, grad_ys=dt.ones([3]))
    with pytest.raises(GraphError, match="float64 where float32 is needed"):
        dt.gradients(x * 2, x, grad_ys=dt.ones([2], "float64"))


def test_a_variable_used_twice_gets_both() -> None:
    v = dt.Variable([[1.0, 2.0], [3.0, 4.0]])
    (gradient,) = dt.gradients(dt.reduce_sum(dt.matmul(v, v)), v)
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    ones = np.ones((2, 2))
    np.testing.assert_allclose(run(gradient), ones @ a.T + a.T @ ones)


def test_both_arms_of_a_diamond_count() -> None:
    x = dt.constant(2.0)
    middle = dt.square(x)
    y = middle * 3 + dt.square(middle)
    assert slope(y, x) == (3 + 2 * 4) * 4


def test_many_uses_are_added_once_each() -> None:
    x = dt.constant(1.5)
    y = x
    for _ in range(9):
        y = y + x
    assert slope(y, x) == 10


def test_a_long_chain_is_not_limited_by_pythons_stack() -> None:
    x = dt.constant(1.0)
    y = x
    for _ in range(2000):
        y = y + 1
    (gradient,) = dt.gradients(y, x)
    assert gradient is not None and gradient.shape == ()


def test_with_respect_to_an_intermediate_and_what_is_before_it() -> None:
    x = dt.constant(2.0)
    middle = dt.square(x)
    y = dt.square(middle) + x
    of_middle, of_x = dt.gradients(y, [middle, x])
    assert run([of_middle, of_x]) == [8, 8 * 4 + 1]


def test_with_respect_to_y_itself() -> None:
    x = dt.constant([1.0, 2.0])
    y = x * 2
    assert slope(y, y).tolist() == [1, 1]
    assert slope([y, y * 3], y).tolist() == [4, 4]


def test_a_source_twice_gets_its_gradient_twice() -> None:
    x = dt.constant(2.0)
    assert run(dt.gradients(dt.square(x), [x, x])) == [4, 4]


def test_stop_gradient_stops_one_arm_only() -> None:
    x = dt.constant(3.0)
    assert slope(x * dt.stop_gradient(x), x) == 3
    assert dt.gradients(dt.stop_gradient(x), x) == [None]


def test_what_broadcasting_repeated_is_summed() -> None:
    x, row = dt.constant(np.ones((4, 3))), dt.constant(np.array([1.0, 2.0, 3.0]))
    column, number = dt.constant(np.ones((4, 1))), dt.constant(np.float64(2))
    found = run(dt.gradients(x * row + column * number, [x, row, column, number]))
    expected = [np.tile([1, 2, 3], (4, 1)), [4, 4, 4], np.full((4, 1), 6), 12]
    for ours, right in zip(found, expected, strict=True):
        assert ours.shape == np.shape(right)
        np.testing.assert_array_equal(ours, right)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_broadcasting_that_is_known_only_when_fed(rows: int) -> None:
    x, y = dt.placeholder("float64", [None, 3]), dt.placeholder("float64", [None, 3])
    found = run(dt.gradients(x * y, [x, y]), {x: np.full((1, 3), 2.0), y: np.ones((rows, 3))})
    assert [f.shape for f in found] == [(1, 3), (rows, 3)]
    np.testing.assert_array_equal(found[0], np.full((1, 3), float(rows)))
    np.testing.assert_array_equal(found[1], np.full((rows, 3), 2.0))


@pytest.mark.parametrize(
    ("reduce", "right"), [(dt.reduce_sum, 2.0), (dt.reduce_mean, 2 / 6), (dt.reduce_max, None)]
)
def test_reductions_of_batches_of_unknown_size(reduce: Any, right: float | None) -> None:
    x = dt.placeholder("float64", [None, 3])
    fed = np.arange(6.0).reshape(2, 3)
    expected = np.full((2, 3), right) if right else np.array([[0, 0, 0], [0, 0, 2.0]])
    np.testing.assert_allclose(run(dt.gradients(reduce(x) * 2, x)[0], {x: fed}), expected)


def test_gradients_at_unknown_rank() -> None:
    """A placeholder without a shape takes a number as well as a matrix."""
    x = dt.placeholder("float64")
    found = [dt.gradients(y, x)[0] for y in (dt.reduce_sum(x), dt.reduce_mean(x) * 6, x, dt.reduce_max(x))]
    for fed, right in ((np.array(2.0), [1, 6, 1, 1]), (np.array([[1.0, 2.0, 0.0]]), [1, 2, 1, [[0, 1, 0]]])):
        for value, expected in zip(run(found, {x: fed}), right, strict=True):
            np.testing.assert_allclose(value, np.broadcast_to(expected, fed.shape))


@pytest.mark.parametrize("y", [1, True])
def test_only_floating_ys_have_gradients(y: Any) -> None:
    tensor = dt.constant(y, name="y")
    with pytest.raises(GraphError, match=r"y:0 is (int32|bool): only floating"):
        dt.gradients(tensor, tensor)


def test_integers_on_the_way_have_none() -> None:
    indices = dt.placeholder("int32", [2])
    assert dt.gradients(dt.one_hot(indices, 3), indices) == [None]
    assert dt.gradients(dt.gather(dt.ones([4]), indices), indices) == [None]


def test_gradients_are_named_by_the_operation_they_are_of() -> None:
    x = dt.constant(2.0)
    dt.gradients(dt.square(x, name="sq"), x)
    dt.gradients(dt.exp(x), x, name="second")
    names = [o.name for o in x.graph.operations]
    assert any(n.startswith("gradients/sq_grad/") for n in names)
    assert any(n.startswith("second/Exp_grad/") for n in names)


def test_second_order_along_one_path() -> None:
    x = dt.constant(2.0)
    (first,) = dt.gradients(x * x * x, x)
    (second,) = dt.gradients(first, x)
    (third,) = dt.gradients(second, x)
    assert run([first, second, third]) == [12, 12, 6]
