"""The optimizers of Ruder's overview beyond gradient descent, against their published updates in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import UsageError
from dtrain.ops import update

STEPS = 20
#: Sizes that leave padding behind them.
SHAPES: list[tuple[int, ...]] = [(7, 5), (3,), (), (33,)]

#: One element's or array's update: (value, gradient, state, step from 1) -> value; state starts empty.
Rule = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]


def adagrad(rate: float, start: float = 0.1) -> Rule:
    def rule(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
        state["a"] = state.get("a", start) + g**2
        return x - rate * g / np.sqrt(state["a"])

    return rule


def adadelta(rate: float, rho: float, epsilon: float) -> Rule:
    def rule(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
        state["g2"] = rho * state.get("g2", 0.0) + (1 - rho) * g**2
        step = np.sqrt(state.get("dx2", 0.0) + epsilon) / np.sqrt(state["g2"] + epsilon) * g
        state["dx2"] = rho * state.get("dx2", 0.0) + (1 - rho) * step**2
        return x - rate * step

    return rule


def rmsprop(rate: float, decay: float, momentum: float, epsilon: float, centered: bool) -> Rule:
    def rule(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
        state["g2"] = decay * state.get("g2", 1.0) + (1 - decay) * g**2
        state["g"] = decay * state.get("g", 0.0) + (1 - decay) * g
        scale = state["g2"] - state["g"] ** 2 if centered else state["g2"]
        state["m"] = momentum * state.get("m", 0.0) + rate * g / np.sqrt(scale + epsilon)
        return x - state["m"]

    return rule


def adamax(rate: float, beta1: float, beta2: float, epsilon: float) -> Rule:
    def rule(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
        state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        state["u"] = np.maximum(beta2 * state.get("u", 0.0), np.abs(g))
        return x - rate / (1 - beta1**t) * state["m"] / (state["u"] + epsilon)

    return rule


def nadam(rate: float, beta1: float, beta2: float) -> Rule:
    """Ruder's equation 39, without epsilon: where it is added differs by the bias correction."""

    def rule(x: np.ndarray, g: np.ndarray, state: dict[str, Any], t: int) -> np.ndarray:
        state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
        m, v = state["m"] / (1 - beta1**t), state["v"] / (1 - beta2**t)
        return x - rate / np.sqrt(v) * (beta1 * m + (1 - beta1) * g / (1 - beta1**t))

    return rule


CASES: dict[str, tuple[Callable[[Any], dt.train.Optimizer], Rule]] = {
    "adagrad": (dt.train.AdagradOptimizer, adagrad(0.05)),
    "adagrad from 1": (lambda r: dt.train.AdagradOptimizer(r, 1.0), adagrad(0.05, 1.0)),
    "adadelta": (lambda r: dt.train.AdadeltaOptimizer(r, 0.9, 1e-6), adadelta(0.05, 0.9, 1e-6)),
    "rmsprop": (dt.train.RMSPropOptimizer, rmsprop(0.05, 0.9, 0.0, 1e-10, False)),
    "rmsprop with momentum": (
        lambda r: dt.train.RMSPropOptimizer(r, 0.8, 0.5, 1e-3),
        rmsprop(0.05, 0.8, 0.5, 1e-3, False),
    ),
    "rmsprop, centered": (
        lambda r: dt.train.RMSPropOptimizer(r, 0.8, 0.5, 1e-3, centered=True),
        rmsprop(0.05, 0.8, 0.5, 1e-3, True),
    ),
    "adamax": (dt.train.AdaMaxOptimizer, adamax(0.05, 0.9, 0.999, 1e-8)),
    "nadam": (lambda r: dt.train.NadamOptimizer(r, 0.8, 0.99, epsilon=0.0), nadam(0.05, 0.8, 0.99)),
}


def arrays(seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [np.asarray(generator.uniform(-1, 1, shape)) for shape in SHAPES]


def slope(value: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Gradient of sum((v - t)² / 2 + (v - t)⁴ / 4)."""
    return (value - target) + (value - target) ** 3


def loss_of(variables: list[dt.Variable]) -> dt.Tensor:
    terms = []
    for variable, target in zip(variables, arrays(3), strict=True):
        square = dt.square(variable - target)
        terms.append(dt.reduce_sum(square / 2 + dt.square(square) / 4))
    return sum(terms[1:], terms[0])


def expected(rule: Rule) -> list[np.ndarray]:
    values, states = arrays(2), [{} for _ in SHAPES]  # type: ignore[var-annotated]
    for t in range(1, STEPS + 1):
        values = [
            np.asarray(rule(v, slope(v, target), state, t))
            for v, target, state in zip(values, arrays(3), states, strict=True)
        ]
    return values


def trained(session: dt.Session, optimizer: dt.train.Optimizer) -> list[np.ndarray]:
    variables = [dt.Variable(v) for v in arrays(2)]
    train = optimizer.minimize(loss_of(variables))
    session.run(dt.global_variables_initializer())
    for _ in range(STEPS):
        session.run(train)
    return [np.asarray(v) for v in session.run(variables)]


@pytest.mark.parametrize("piece", [update.PIECE, 10])
@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_published_ones(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "PIECE", piece)
    make, rule = CASES[name]
    found = trained(dt.Session(comm=None), make(0.05))
    for value, reference in zip(found, expected(rule), strict=True):
        assert value.shape == reference.shape
        np.testing.assert_allclose(value, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_several_ranks_take_the_same_steps(name: str, size: int, on_threads: Any) -> None:
    make, rule = CASES[name]

    def rank(comm: Any) -> list[np.ndarray]:
        graph = dt.Graph()
        with graph.as_default():
            return trained(dt.Session(graph=graph, comm=comm), make(0.05))

    for found in on_threads(size, rank):
        for value, reference in zip(found, expected(rule), strict=True):
            np.testing.assert_allclose(value, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("make", [c[0] for c in CASES.values()], ids=CASES)
def test_a_convex_problem_is_solved(make: Callable[[Any], dt.train.Optimizer]) -> None:
    """Least squares in two unknowns: (x - 1)² + 10 (y + 2)² / 2."""
    variables = [dt.Variable(np.array([4.0, 4.0], np.float32))]
    loss = dt.reduce_sum(dt.square(variables[0] - [1.0, -2.0]) * [1.0, 5.0])
    # Adadelta starts at sqrt(epsilon), and the steps of Adagrad only shrink: they need larger factors
    large = {
        CASES[name][0]: rate for name, rate in (("adadelta", 5.0), ("adagrad", 3.0), ("adagrad from 1", 3.0))
    }
    rate = large.get(make, 0.3)
    steps = dt.Variable(0, trainable=False)
    decayed = dt.train.inverse_time_decay(rate, steps, 100, 1.0)
    train = make(decayed).minimize(loss, global_step=steps)
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    for _ in range(2000):
        session.run(train)
    np.testing.assert_allclose(session.run(variables[0]), [1, -2], atol=0.03)


@pytest.mark.parametrize("name", CASES)
def test_padding_and_gradients_of_zero_stay_finite(name: str) -> None:
    """With an epsilon of 0 too; a warning of NumPy's would fail the test."""
    kinds = {
        "adadelta": lambda: dt.train.AdadeltaOptimizer(0.1, epsilon=0.0),
        "rmsprop": lambda: dt.train.RMSPropOptimizer(0.1, decay=0.0, epsilon=0.0),
        "rmsprop, centered": lambda: dt.train.RMSPropOptimizer(0.1, decay=0.0, epsilon=0.0, centered=True),
        "adamax": lambda: dt.train.AdaMaxOptimizer(0.1, epsilon=0.0),
    }
    optimizer = kinds[name]() if name in kinds else CASES[name][0](0.1)
    variables = [dt.Variable(v.astype(np.float32)) for v in arrays(2)]
    train = optimizer.minimize(
        sum((dt.reduce_sum(v * 0) for v in variables[1:]), dt.reduce_sum(variables[0]))
    )
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    for _ in range(5):
        session.run(train)
    assert all(np.isfinite(v).all() for v in session.run(variables))
    block = session.run(variables)
    for value, before in zip(block[1:], arrays(2)[1:], strict=True):
        np.testing.assert_array_equal(value, before.astype(np.float32))


def test_slots_and_names() -> None:
    v = dt.Variable([1.0, 2.0], name="v")
    made = {
        dt.train.GradientDescentOptimizer(0.1): [],
        dt.train.MomentumOptimizer(0.1, 0.9): ["momentum"],
        dt.train.AdagradOptimizer(0.1): ["accumulator"],
        dt.train.AdadeltaOptimizer(): ["accum", "accum_update"],
        dt.train.RMSPropOptimizer(0.1): ["momentum", "rms"],
        dt.train.RMSPropOptimizer(0.1, centered=True): ["mg", "momentum", "rms"],
        dt.train.AdamOptimizer(): ["m", "v"],
        dt.train.NadamOptimizer(): ["m", "v"],
        dt.train.AdaMaxOptimizer(): ["m", "v"],
    }
    names = "GradientDescent Momentum Adagrad Adadelta RMSProp RMSProp Adam Nadam AdaMax"
    assert [o.get_name() for o in made] == names.split()
    session = dt.Session(comm=None)
    for optimizer, slots in made.items():
        assert optimizer.get_slot_names() == slots
        assert all(optimizer.get_slot(v, slot) is None for slot in slots)
        optimizer.minimize(dt.reduce_sum(v))
        assert optimizer.get_slot(v, "none") is None
        session.run(dt.global_variables_initializer())
        for slot in slots:
            start = {"rms": 1.0, "accumulator": 0.1}.get(slot, 0.0)
            variable = optimizer.get_slot(v, slot)
            assert variable is not None and variable not in dt.trainable_variables()
            np.testing.assert_array_equal(session.run(variable), np.full(2, start, np.float32))


def test_arguments_are_in_tensorflows_order() -> None:
    assert dt.train.MomentumOptimizer(0.1, 0.9, False, "M", True).use_nesterov
    rmsprop_ = dt.train.RMSPropOptimizer(0.1, 0.8, 0.7, 0.6, False, True, "R")
    assert (rmsprop_.decay, rmsprop_.momentum, rmsprop_.epsilon) == (0.8, 0.7, 0.6)
    assert rmsprop_.centered and rmsprop_.name == "R"
    assert dt.train.AdamOptimizer(0.1, 0.8, 0.7, 0.6, True, "A").name == "A"


def test_grad_loss_takes_the_place_of_ones() -> None:
    v = dt.Variable([1.0, 2.0])
    optimizer = dt.train.GradientDescentOptimizer(1.0)
    ((gradient, _),) = optimizer.compute_gradients(v * 3.0, [v], grad_loss=dt.constant([1.0, 10.0]))
    train = optimizer.minimize(v * 3.0, grad_loss=dt.constant([1.0, 10.0]))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    assert session.run(gradient).tolist() == [3, 30]
    session.run(train)
    assert session.run(v).tolist() == [-2, -28]


def test_a_learning_rate_may_be_a_function() -> None:
    v = dt.Variable([1.0])
    train = dt.train.GradientDescentOptimizer(lambda: 0.25).minimize(dt.reduce_sum(v))
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    session.run(train)
    assert session.run(v).tolist() == [0.75]


def test_what_is_not_supported_is_refused_in_a_sentence() -> None:
    v = dt.Variable([1.0])
    loss = dt.reduce_sum(v)
    optimizer = dt.train.GradientDescentOptimizer(0.1)
    for gate in (optimizer.GATE_NONE, optimizer.GATE_OP, optimizer.GATE_GRAPH):
        optimizer.minimize(loss, gate_gradients=gate, colocate_gradients_with_ops=True)
    with pytest.raises(UsageError, match="gate_gradients=7 is none of"):
        optimizer.minimize(loss, gate_gradients=7)
    with pytest.raises(UsageError, match="aggregation_method=1 is not supported"):
        optimizer.compute_gradients(loss, aggregation_method=1)
    with pytest.raises(UsageError, match=r"var_list=\[variable\]"):
        optimizer.minimize(loss, var_list=v)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="beta1 is the tensor"):
        dt.train.AdamOptimizer(beta1=dt.constant(0.9))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has to be positive"):
        dt.train.AdagradOptimizer(0.1, 0.0)
