"""Optimizers against plain NumPy loops in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import GraphError
from dtrain.ops import update

STEPS = 20
#: Odd sizes: every one leaves padding behind it. The empty one has nothing to update.
SHAPES: list[tuple[int, ...]] = [(7, 5), (3,), (), (0, 2), (33,), (1, 1, 9)]

Arrays = list[np.ndarray]


def start() -> Arrays:
    generator = np.random.default_rng(2)
    return [np.asarray(generator.uniform(-1, 1, shape)) for shape in SHAPES]


def targets() -> Arrays:
    generator = np.random.default_rng(3)
    return [np.asarray(generator.uniform(-1, 1, shape)) for shape in SHAPES]


def slopes(values: Arrays) -> Arrays:
    """Gradients of the terms of loss_of, each to its own variable."""
    return [(v - t) + (v - t) ** 3 for v, t in zip(values, targets(), strict=True)]


def term(v: Any, t: np.ndarray) -> dt.Tensor:
    """sum((v - t)² / 2 + (v - t)⁴ / 4)"""
    square = dt.square(v - t)
    return dt.reduce_sum(square / 2 + dt.square(square) / 4)


def loss_of(variables: list[dt.Variable]) -> dt.Tensor:
    terms = [term(v, t) for v, t in zip(variables, targets(), strict=True)]
    return sum(terms[1:], terms[0])


def sgd(rate: float) -> Callable[[Arrays, int], Arrays]:
    return lambda values, t: [v - rate * g for v, g in zip(values, slopes(values), strict=True)]


def momentum(rate: float, factor: float, nesterov: bool) -> Callable[[Arrays, int], Arrays]:
    accumulated = [np.zeros(s) for s in SHAPES]

    def step(values: Arrays, t: int) -> Arrays:
        new = []
        for i, (v, g) in enumerate(zip(values, slopes(values), strict=True)):
            accumulated[i] = factor * accumulated[i] + g
            new.append(v - rate * (g + factor * accumulated[i] if nesterov else accumulated[i]))
        return new

    return step


def adam(rate: float, beta1: float, beta2: float, epsilon: float) -> Callable[[Arrays, int], Arrays]:
    m, s = [np.zeros(x) for x in SHAPES], [np.zeros(x) for x in SHAPES]

    def step(values: Arrays, t: int) -> Arrays:
        new = []
        for i, (v, g) in enumerate(zip(values, slopes(values), strict=True)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            s[i] = beta2 * s[i] + (1 - beta2) * g**2
            corrected = rate * np.sqrt(1 - beta2**t) / (1 - beta1**t)
            new.append(v - corrected * m[i] / (np.sqrt(s[i]) + epsilon))
        return new

    return step


CASES: dict[
    str, tuple[Callable[[Any], dt.train.Optimizer], Callable[[], Callable[[Arrays, int], Arrays]]]
] = {
    "sgd": (dt.train.GradientDescentOptimizer, lambda: sgd(0.05)),
    "momentum": (lambda r: dt.train.MomentumOptimizer(r, 0.8), lambda: momentum(0.05, 0.8, False)),
    "nesterov": (
        lambda r: dt.train.MomentumOptimizer(r, 0.8, use_nesterov=True),
        lambda: momentum(0.05, 0.8, True),
    ),
    "adam": (dt.train.AdamOptimizer, lambda: adam(0.05, 0.9, 0.999, 1e-8)),
    "adam of other betas": (
        lambda r: dt.train.AdamOptimizer(r, 0.7, 0.9, 0.1),
        lambda: adam(0.05, 0.7, 0.9, 0.1),
    ),
}


def trained(session: dt.Session, train: Any, variables: list[dt.Variable], feeds: Any = None) -> list[Arrays]:
    for v in session.graph.get_collection("variables"):
        session.run(v.initializer)
    history = []
    for _ in range(STEPS):
        session.run(train, feeds)
        history.append([np.asarray(v) for v in session.run(variables)])
    return history


def expected(step: Callable[[Arrays, int], Arrays]) -> list[Arrays]:
    history, values = [], start()
    for t in range(1, STEPS + 1):
        values = step(values, t)
        history.append(values)
    return history


def assert_same(found: list[Arrays], right: list[Arrays], tolerance: float) -> None:
    for ours, theirs in zip(found, right, strict=True):
        for value, reference in zip(ours, theirs, strict=True):
            assert value.shape == reference.shape
            np.testing.assert_allclose(value, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("piece", [update.PIECE, 10, 1])
@pytest.mark.parametrize("name", CASES)
def test_float64_steps_are_those_of_a_plain_loop(
    name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "PIECE", piece)
    make, reference = CASES[name]
    variables = [dt.Variable(v) for v in start()]
    train = make(0.05).minimize(loss_of(variables))
    assert_same(trained(dt.Session(comm=None), train, variables), expected(reference()), 1e-12)


@pytest.mark.parametrize("rate", ["number", "tensor", "placeholder", "variable"])
@pytest.mark.parametrize("name", CASES)
def test_the_learning_rate_may_be_anything(name: str, rate: str) -> None:
    make, reference = CASES[name]
    variables = [dt.Variable(v) for v in start()]
    feeds = None
    given: Any = 0.05
    if rate == "tensor":
        given = dt.constant(np.float64(0.1)) / 2
    elif rate == "placeholder":
        given = dt.placeholder("float64", [])
        feeds = {given: 0.05}
    elif rate == "variable":
        given = dt.Variable(0.05, trainable=False, dtype="float64")
    train = make(given).minimize(loss_of(variables))
    found = trained(dt.Session(comm=None), train, variables, feeds)
    # a Variable of a Python number is float32 before it is float64
    assert_same(found, expected(reference()), 1e-7 if rate == "variable" else 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_float32_and_float64_variables_in_one_step(name: str) -> None:
    make, reference = CASES[name]
    variables = [
        dt.Variable(v, dtype="float32" if i % 2 else "float64", name=f"v{i}") for i, v in enumerate(start())
    ]
    terms = []
    for v, t in zip(variables, targets(), strict=True):
        terms.append(dt.cast(term(v, t), "float64"))
    train = make(0.05).minimize(sum(terms[1:], terms[0]))
    found = trained(dt.Session(comm=None), train, variables)
    for ours, right in zip(found, expected(reference()), strict=True):
        for i, (value, wanted) in enumerate(zip(ours, right, strict=True)):
            tolerance = 2e-5 if i % 2 else 1e-12
            np.testing.assert_allclose(value, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("name", CASES)
def test_several_ranks_take_the_same_steps(name: str, size: int, on_threads: Any) -> None:
    make, reference = CASES[name]
    variables = [dt.Variable(v) for v in start()]
    rows = dt.placeholder("float64", [None])
    # the mean over rows of ones: a gradient that is a sum of terms from every rank
    loss = loss_of(variables) * dt.reduce_mean(rows)
    train, graph = make(0.05).minimize(loss), loss.graph

    def rank(comm: Any) -> list[Arrays]:
        low, high = 3 * comm.rank // size, 3 * (comm.rank + 1) // size
        session = dt.Session(graph=graph, comm=comm)
        return trained(session, train, variables, {rows: dt.Shard(np.ones(high - low), 3)})

    for found in on_threads(size, rank):
        assert_same(found, expected(reference()), 1e-11)


def test_a_step_is_one_flat_update_of_all_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = [dt.Variable(v.astype(np.float32)) for v in start()]
    train = dt.train.AdamOptimizer().minimize(loss_of(variables))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    lengths = []
    made = update.kernels

    def kernels(env: Any, body: Any, results: Any, ins: Any, outs: Any) -> Any:
        lengths.append(ins[0].size)
        return made(env, body, results, ins, outs)

    monkeypatch.setattr(update, "kernels", kernels)
    session.run(train)
    assert lengths == [48 + 16 + 16 + 48 + 9]  # in floats, each but the last rounded up to 64 bytes


def test_padding_stays_finite() -> None:
    variables = [dt.Variable(v) for v in start()]
    train = dt.train.AdamOptimizer(0.05, epsilon=0.0).minimize(loss_of(variables))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    with np.errstate(invalid="ignore"):  # 0/0 in the padding, with an epsilon of 0
        for _ in range(3):
            session.run(train)
    assert all(np.isfinite(v).all() for v in session.run(variables))


# -- what minimize adds ----------------------------------------------------------------------------------
def test_the_global_step_counts() -> None:
    v, steps = dt.Variable([1.0]), dt.Variable(0, trainable=False)
    train = dt.train.AdamOptimizer().minimize(dt.reduce_sum(dt.square(v)), global_step=steps)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    for k in range(1, 4):
        session.run(train)
        assert session.run(steps) == k


def test_only_the_variables_asked_for_are_updated() -> None:
    v, w, fixed = dt.Variable([1.0]), dt.Variable([1.0]), dt.Variable([1.0], trainable=False)
    loss = dt.reduce_sum(v * 2 + w * 3 + fixed * 4)
    of_all = dt.train.GradientDescentOptimizer(1.0).minimize(loss)
    of_w = dt.train.GradientDescentOptimizer(1.0).minimize(loss, var_list=[w])
    of_fixed = dt.train.GradientDescentOptimizer(1.0).minimize(loss, var_list=[fixed])
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run(of_all)
    assert [float(x[0]) for x in session.run([v, w, fixed])] == [-1, -2, 1]
    session.run(of_w)
    assert [float(x[0]) for x in session.run([v, w, fixed])] == [-1, -5, 1]
    session.run(of_fixed)
    assert [float(x[0]) for x in session.run([v, w, fixed])] == [-1, -5, -3]


def test_a_variable_that_the_loss_does_not_depend_on_stays() -> None:
    v, other = dt.Variable([1.0], name="v"), dt.Variable([1.0], name="other")
    optimizer = dt.train.AdamOptimizer(0.1)
    pairs = optimizer.compute_gradients(dt.reduce_sum(v))
    assert [(g is None, x) for g, x in pairs] == [(False, v), (True, other)]
    train = optimizer.apply_gradients(pairs)
    assert optimizer.get_slot(other, "m") is None
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run(train)
    assert session.run(other).tolist() == [1] and session.run(v)[0] == pytest.approx(0.9)
    with pytest.raises(GraphError, match=r"does not depend on any of the variables other"):
        optimizer.minimize(dt.reduce_sum(v), var_list=[other])


def test_there_has_to_be_something_to_train() -> None:
    with pytest.raises(GraphError, match="no trainable variables"):
        dt.train.AdamOptimizer().minimize(dt.constant(1.0))


def test_a_second_minimize_on_the_same_graph() -> None:
    v = dt.Variable([3.0], name="v")
    loss = dt.reduce_sum(dt.square(v))
    first, second = dt.train.MomentumOptimizer(0.1, 0.5), dt.train.MomentumOptimizer(0.1, 0.5)
    one, two, again = first.minimize(loss), second.minimize(loss), first.minimize(loss)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    value, slots = 3.0, [0.0, 0.0]
    for train, which in ((one, 0), (two, 1), (again, 0), (two, 1), (one, 0)):
        session.run(train)
        slots[which] = 0.5 * slots[which] + 2 * value
        value -= 0.1 * slots[which]
        assert session.run(v)[0] == pytest.approx(value, rel=1e-6)
    assert first.get_slot(v, "momentum") is not second.get_slot(v, "momentum")
    assert len(first.variables()) == len(second.variables()) == 1


def test_the_state_of_an_optimizer_is_named_after_its_variable() -> None:
    with dt.name_scope("layer"):
        v = dt.Variable(np.ones((2, 3), np.float32), name="w")
    optimizer = dt.train.AdamOptimizer()
    with dt.name_scope("anywhere"):
        train = optimizer.minimize(dt.reduce_sum(v), name="train")
    names = [x.op.name for x in optimizer.variables()]
    assert names == ["layer/w/Adam/m", "layer/w/Adam/v", "Adam/beta1_power", "Adam/beta2_power"]
    assert train.name == "anywhere/train"
    m = optimizer.get_slot(v, "m")
    assert m is not None and m.shape == (2, 3) and m not in dt.trainable_variables()
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    for _ in range(3):
        session.run(train)
    assert session.run(optimizer.variables()[2]) == pytest.approx(0.9**4, rel=1e-15)


def test_an_optimizer_built_behind_a_control_dependency_has_state_of_its_own() -> None:
    v, count = dt.Variable(1.0), dt.Variable(0)
    with dt.control_dependencies([count.assign_add(1)]):
        train = dt.train.AdamOptimizer().minimize(dt.square(v))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    assert session.run(count) == 0
    session.run(train)
    assert session.run(count) == 1


def test_gradients_can_be_changed_between_computing_and_applying() -> None:
    v = dt.Variable([3.0, 4.0])
    optimizer = dt.train.GradientDescentOptimizer(1.0)
    ((gradient, _),) = optimizer.compute_gradients(dt.reduce_sum(dt.square(v)) / 2)
    norm = dt.sqrt(dt.reduce_sum(dt.square(gradient)))
    train = optimizer.apply_gradients([(gradient / norm, v)])
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run(train)
    np.testing.assert_allclose(session.run(v), [3 - 0.6, 4 - 0.8], rtol=1e-6)


def test_gradients_may_be_fed_and_numbers() -> None:
    v, w = dt.Variable([1.0, 2.0]), dt.Variable([[1.0], [2.0]])
    fed, other = dt.placeholder("float", [2]), dt.placeholder("float", [None, 1])
    train = dt.train.GradientDescentOptimizer(1.0).apply_gradients([(fed, v), (other, w)])
    constant = dt.train.GradientDescentOptimizer(1.0).apply_gradients([([1.0, 1.0], v)])
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    for _ in range(2):
        session.run(train, {fed: [1.0, 0.5], other: [[3.0], [4.0]]})
    session.run(constant)
    assert [x.tolist() for x in session.run([v, w])] == [[-2, 0], [[-5], [-6]]]


def test_a_loss_that_is_not_a_scalar_is_summed() -> None:
    v = dt.Variable([1.0, 2.0])
    train = dt.train.GradientDescentOptimizer(0.5).minimize(dt.square(v))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run(train)
    assert session.run(v).tolist() == [0, 0]
