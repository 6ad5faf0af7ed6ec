"""A scaled loss changes no bit of training, and a step that overflows is taken again with a lower scale."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import NumericError, UsageError
from dtrain.native import compiler
from dtrain.ops.check import StopIfBad
from dtrain.runtime.backend import Backend
from dtrain.runtime.feeds import Window
from dtrain.runtime.plan import Plan
from dtrain.train.loss_scale import DynamicLossScale, FixedLossScale, MixedPrecisionLossScaleOptimizer

KERNELS = [
    "numpy",
    pytest.param("c", marks=pytest.mark.skipif(not compiler.command(), reason="no C compiler")),
]
OPTIMIZERS: list[Callable[[], Any]] = [
    lambda: dt.train.GradientDescentOptimizer(0.05),
    lambda: dt.train.AdamOptimizer(0.01),
]


class Training:
    """A regression by two layers of odd sizes; scale makes the loss scale, None is no scaling."""

    def __init__(
        self,
        kernels: str,
        scale: Any = None,
        optimizer: Callable[[], Any] = OPTIMIZERS[1],
        dropout: bool = False,
        checked: bool = False,
    ) -> None:
        with dt.Graph().as_default() as graph:
            graph.seed = 3
            self.x = dt.placeholder("float32", [None, 7])
            hidden = dt.Variable(dt.random_normal([7, 5]), name="hidden")
            bias = dt.Variable(dt.zeros([5]), name="bias")
            last = dt.Variable(dt.random_normal([5, 1]), name="last")
            y = dt.nn.relu(dt.matmul(self.x, hidden) + bias)
            y = dt.matmul(dt.nn.dropout(y, 0.5) if dropout else y, last)
            self.loss = dt.reduce_mean(dt.square(y - 1.0))
            made = optimizer()
            if scale is not None:
                made = MixedPrecisionLossScaleOptimizer(made, scale())
            self.pairs = made.compute_gradients(self.loss)
            self.fetches = [self.loss, dt.reduce_sum(self.x) * 0.0, made.apply_gradients(self.pairs)]
            self.state = dt.global_variables()
            config = dt.ConfigProto(check_numerics=checked)
            self.session = dt.Session(graph=graph, config=config, comm=None, device=Backend(kernels))
            self.saver = dt.train.Saver()
            self.session.run(dt.global_variables_initializer())
        self.step = self.session.make_callable(self.fetches, [self.x])

    def train(self, rows: np.ndarray) -> list[float]:
        return [float(self.step(row)[0]) for row in rows]

    @property
    def scale(self) -> float:
        return float(self.values()["current_loss_scale"])

    def values(self) -> dict[str, np.ndarray]:
        return self.session.get_values(self.state)

    def parameters(self) -> dict[str, np.ndarray]:
        return {n: v for n, v in self.values().items() if n not in ("current_loss_scale", "good_steps")}


def batches(steps: int, large: int = -1) -> np.ndarray:
    """large: a batch whose gradients are 1e8 times as large."""
    rows = np.random.default_rng(2).standard_normal((steps, 9, 7)).astype(np.float32)
    if large >= 0:
        rows[large] *= 1e4
    return rows


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def thirds(begin: float) -> Callable[[], DynamicLossScale]:
    """A scale that is no power of two, so that each changes some bits."""
    return lambda: DynamicLossScale(begin, 10**6, 3.0)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scale", [lambda: "dynamic", lambda: 1024.0, lambda: DynamicLossScale(2.0**40, 3)])
def test_a_scaled_step_is_the_unscaled_one_to_the_bit(kernels: str, optimizer: Any, scale: Any) -> None:
    plain, scaled = Training(kernels, None, optimizer), Training(kernels, scale, optimizer)
    assert scaled.train(batches(12)) == plain.train(batches(12))
    assert_same(scaled.parameters(), plain.parameters())


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_backward_pass_is_scaled_and_the_gradients_are_not(kernels: str) -> None:
    scaled, plain = Training(kernels, lambda: 256), Training(kernels)
    rows = batches(1)[0]
    for (gradient, _), (wanted, _) in zip(scaled.pairs, plain.pairs, strict=True):
        found, before = scaled.session.run([gradient, gradient.op.inputs[0]], {scaled.x: rows})
        np.testing.assert_array_equal(found, plain.session.run(wanted, {plain.x: rows}))
        np.testing.assert_array_equal(before, found * 256)


def test_a_gradient_of_its_own_and_a_loss_of_many_entries_are_scaled() -> None:
    v = dt.Variable([1.0, 2.0, 3.0])
    optimizer = MixedPrecisionLossScaleOptimizer(dt.train.GradientDescentOptimizer(1.0), 8)
    found = []
    for grad_loss in (None, [1.0, 0.5, 4.0]):
        ((gradient, _),) = optimizer.compute_gradients(v * v, grad_loss=grad_loss)
        found += [gradient, gradient.op.inputs[0]]
    with dt.Session(comm=None) as session:
        session.run(v.initializer)
        values = [x.tolist() for x in session.run(found)]
    assert values == [[2, 4, 6], [16, 32, 48], [2, 2, 24], [16, 16, 192]]


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_scale_falls_until_the_step_fits_and_no_further(kernels: str) -> None:
    training = Training(kernels, lambda: DynamicLossScale(2.0**127))
    training.train(batches(1))
    assert 1 < training.scale < 2.0**127
    fits = Training(kernels, lambda: training.scale, checked=True)
    fits.train(batches(1))
    assert_same(fits.parameters(), training.parameters())
    too_large = Training(kernels, lambda: 2 * training.scale, checked=True)
    with pytest.raises(NumericError):
        too_large.train(batches(1))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dropout", [False, True])
def test_a_retried_run_is_one_that_began_with_the_lower_scale(
    kernels: str, optimizer: Any, dropout: bool
) -> None:
    training = Training(kernels, thirds(3.0**80), optimizer, dropout)
    losses = training.train(batches(8))
    reference = Training(kernels, thirds(training.scale), optimizer, dropout)
    assert reference.scale < np.float32(3.0**80)
    assert reference.train(batches(8)) == losses
    assert_same(reference.values(), training.values())
    assert training.session.random_state == reference.session.random_state
    plain = Training(kernels, None, optimizer, dropout)
    plain.train(batches(8))
    # a scale leaves traces, or nothing was shown
    assert any((plain.parameters()[n] != v).any() for n, v in training.parameters().items())


@pytest.mark.skipif(not compiler.command(), reason="no C compiler")
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("large", [0, 1, 4, 8])
def test_a_window_goes_on_behind_a_step_that_overflows(
    large: int, dropout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a step that is taken again draws again what it drew."""
    rows, windows = batches(9, large), []
    run_steps = Plan.run_steps

    def counted(plan: Plan, rows: np.ndarray, *arguments: Any) -> Any:
        windows.append(len(rows))
        return run_steps(plan, rows, *arguments)

    monkeypatch.setattr(Plan, "run_steps", counted)
    training, single = (
        Training("c", lambda: DynamicLossScale(2.0**112, 3), dropout=dropout) for _ in range(2)
    )
    wanted = single.train(rows)
    assert windows == []
    training.session.comm.board.step(100)
    step = training.session.make_callable(training.fetches, [training.x])
    taken = step.several(Window(rows, 9), until=training.fetches[1])
    assert [float(loss) for loss, *_ in taken] == wanted and all(nothing is None for *_, nothing in taken)
    assert_same(training.values(), single.values())
    assert training.session.random_state == single.session.random_state
    # the step that overflows does so at two scales: taken again it is the first of its call, then alone
    assert windows == {0: [9, 8], 1: [9, 8, 7], 4: [9, 5, 4], 8: [9]}[large]
    assert training.session.comm.board.number[0] == 108
    assert training.scale < 2.0**112


@pytest.mark.parametrize("kernels", KERNELS)
def test_it_grows_after_so_many_good_steps_in_a_row(kernels: str) -> None:
    training = Training(kernels, lambda: DynamicLossScale(2.0**20, 3))
    scales, counts = [], []
    for rows in batches(14):
        training.train(rows[None])
        scales.append(np.log2(training.scale))
        counts.append(int(training.values()["good_steps"]))
    assert scales == [20, 20, 21, 21, 21, 22, 22, 22, 23, 23, 23, 24, 24, 24]
    assert counts == [1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    training.train(batches(1))
    assert training.scale == 2.0**24  # as large as it gets


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_overflow_begins_the_count_anew(kernels: str) -> None:
    training = Training(kernels, lambda: DynamicLossScale(2.0**112, 3))
    found = []
    for rows in batches(6, 2):
        training.train(rows[None])
        found.append((training.scale, int(training.values()["good_steps"])))
    low = found[2][0]
    assert found[:2] == [(2.0**112, 1), (2.0**112, 2)] and low < 2.0**112
    assert found[2:] == [(low, 1), (low, 2), (2 * low, 0), (2 * low, 1)]


@pytest.mark.parametrize("kernels", KERNELS)
def test_at_a_scale_of_1_it_is_an_error_and_nothing_is_updated(kernels: str) -> None:
    training = Training(kernels, lambda: "dynamic", dropout=True)
    training.train(batches(3))
    before, drawn = training.parameters(), training.session.random_state
    bad = batches(1)
    bad[0, 4, 3] = np.inf
    with pytest.raises(NumericError, match=r"what is fed for 'Placeholder'.* holds 1 of them"):
        training.train(bad)
    assert_same(training.parameters(), before)
    assert training.scale == 1 and training.values()["good_steps"] == 0
    counts = training.session.random_state["draws"].values(), drawn["draws"].values()
    assert max(counts[0]) - max(counts[1]) <= 1  # by the search for the op


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_fixed_scale_that_overflows_is_an_error(kernels: str) -> None:
    training = Training(kernels, lambda: FixedLossScale(2.0**127), checked=True)
    before = training.values()
    with pytest.raises(NumericError, match="Nothing was updated"):
        training.train(batches(1))
    assert_same(training.values(), before)


@pytest.mark.parametrize("kernels", KERNELS)
def test_what_is_written_before_the_loss_is_written_once(kernels: str) -> None:
    """A count that the loss reads, as it stands in this step: in a step that is taken again, too."""

    def trained(begin: float) -> dict[str, np.ndarray]:
        with dt.Graph().as_default() as graph:
            v, count = dt.Variable([2.0, 3.0], name="v"), dt.Variable(0.0, trainable=False, name="count")
            x = dt.placeholder("float32", [None])
            loss = dt.reduce_sum(v * count.assign_add(1.0)) * dt.reduce_sum(x)
            scale = DynamicLossScale(begin)
            step = MixedPrecisionLossScaleOptimizer(dt.train.GradientDescentOptimizer(0.01), scale)
            fetches = [loss, loss * 0.0, step.minimize(loss)]
            session = dt.Session(graph=graph, comm=None, device=Backend(kernels))
            session.run(dt.global_variables_initializer())
            loop = partial(session.make_callable(fetches, [x]).several, until=fetches[1])
            assert len(loop(Window(np.ones((5, 1), np.float32), 1))) == 5
            return session.get_values([v, count])

    wanted = trained(2.0)
    assert wanted["count"] == 5
    assert_same(trained(2.0**127), wanted)


@pytest.mark.parametrize("kernels", KERNELS)
def test_saved_and_restored_it_goes_on_as_if_nothing_had_been(kernels: str, tmp_path: Path) -> None:
    def scale() -> DynamicLossScale:
        return DynamicLossScale(2.0**112, 3)

    whole, first, second = (Training(kernels, scale) for _ in range(3))
    losses = whole.train(batches(9, 2))
    first.train(batches(9, 2)[:4])
    path = first.saver.save(first.session, str(tmp_path / "state"))
    second.saver.restore(second.session, path)
    assert second.train(batches(9, 2)[4:]) == losses[4:]
    assert_same(second.values(), whole.values())


def test_a_step_is_recorded_that_is_taken_twice() -> None:
    training, plain = Training("numpy", lambda: DynamicLossScale(2.0**127)), Training("numpy")
    metadata = dt.RunMetadata()
    options = dt.RunOptions(trace_level=dt.RunOptions.FULL_TRACE)
    training.session.run(training.fetches, {training.x: batches(1)[0]}, options, metadata)
    plain.train(batches(1))
    assert_same(training.parameters(), plain.parameters())
    names = [name for _, name, *_ in metadata.step_stats.events]
    halved = 127 - int(np.log2(training.scale))
    assert names.count("check/HasBad") == 1 + halved and names.count("fetch") == 1


def test_only_plans_that_read_a_dynamic_scale_are_checked() -> None:
    def checked(scale: Any) -> bool:
        training = Training("numpy", scale)
        training.train(batches(1))
        plan = [*training.session.plans.values()][-1]
        assert plan is not None
        return any(isinstance(n.kind, StopIfBad) for n in plan.nodes)

    assert [checked(s) for s in (None, lambda: 8, lambda: "dynamic")] == [False, False, True]


def test_state_and_names_are_the_other_optimizers() -> None:
    v = dt.Variable(dt.zeros([3]), name="v")
    step = dt.Variable(0, trainable=False, name="step")
    inner = dt.train.AdamOptimizer(0.1, name="Mine")
    outer = MixedPrecisionLossScaleOptimizer(inner, "dynamic")
    minimize = outer.minimize(dt.reduce_sum(v * 3.0), step)
    assert outer.get_name() == "Mine" and outer.get_slot_names() == ["m", "v"]
    assert outer.get_slot(v, "m") is inner.get_slot(v, "m") is not None
    assert outer.variables() == inner.variables() and len(outer.variables()) == 4
    with dt.Session(comm=None) as session:
        session.run(dt.global_variables_initializer())
        session.run(minimize)
        assert session.run(step) == 1
    assert {"current_loss_scale", "good_steps"} <= {w.op.name for w in dt.global_variables()}


def test_what_cannot_be_meant_is_refused() -> None:
    adam = dt.train.AdamOptimizer()
    for make, said in (
        (lambda: FixedLossScale(0.5), "is 0.5; give a number >= 1"),
        (lambda: FixedLossScale(float("inf")), "is inf; give a number >= 1"),
        (lambda: FixedLossScale(dt.constant(2.0)), "give a number"),
        (lambda: DynamicLossScale(0), "initial_loss_scale is 0"),
        (lambda: DynamicLossScale(increment_period=2.5), "a whole number of steps"),
        (lambda: DynamicLossScale(multiplier=1), "more than 1"),
        (lambda: MixedPrecisionLossScaleOptimizer(adam, "static"), "'static'"),
        (lambda: MixedPrecisionLossScaleOptimizer(0.1, 8), "is no optimizer"),
    ):
        with pytest.raises(UsageError, match=said):
            make()
