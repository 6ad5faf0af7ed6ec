"""A loss that becomes NaN is told once, with the operation, its line and the step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.errors import NumericError
from dtrain.keras import Sequential, optimizers
from dtrain.keras.callbacks import TerminateOnNaN
from dtrain.keras.layers import Dense
from dtrain.ops.placement import shard_bounds

ROWS = np.ones((8, 4), np.float32)


def network() -> tuple[Any, Any, Any]:
    """A loss that is NaN, and its gradient, in the fifth step: the root is of less than 0."""
    x, w = dt.placeholder("float", [None, 4]), dt.Variable(dt.ones([4, 1]))
    loss = dt.reduce_mean(dt.sqrt(dt.matmul(x, w)), name="loss")
    return x, loss, dt.train.GradientDescentOptimizer(1.0).minimize(loss)


def told(run: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    assert {w.filename for w in found} <= {__file__}  # it points at the program's line
    return [str(w.message) for w in found]


@pytest.mark.parametrize("fetch", ["both", "step"])
def test_a_loop_of_runs_warns_once_with_the_operation_its_line_and_the_step(fetch: str) -> None:
    x, loss, step = network()
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    fetches = {"both": [loss, step], "step": [step]}[fetch]
    losses = []
    texts = told(lambda: losses.extend(session.run(fetches, {x: ROWS})[0] for _ in range(9)))
    assert fetch == "step" or np.isnan(losses).argmax() == 4
    (text,) = texts
    assert text.startswith("step 5 makes a NaN") and "Sqrt 'Sqrt' (built at " in text
    assert "test_nan.py:25) makes 8 of them" in text and "check_numerics=True" in text
    assert ("loss:0 is" if fetch == "both" else "Variable is") + " no finite number" in text


@pytest.mark.parametrize("form", ["assign", "assign_sub"])
def test_an_update_written_by_hand_is_looked_at(form: str) -> None:
    w = dt.Variable(dt.ones([3]))
    move = 0.5 * dt.gradients(dt.reduce_sum(dt.sqrt(w)), w)[0]
    step = w.assign(w - move) if form == "assign" else w.assign_sub(move)
    for check in ("warn", True):
        session = dt.Session(comm=None, config=dt.ConfigProto(check_numerics=check))
        texts = told(lambda session=session: session.run(w.initializer))
        assert not texts
        if check is True:
            with pytest.raises(NumericError, match=r"Sqrt|Pow|Div"):
                [session.run(step.op) for _ in range(9)]
            assert np.isfinite(session.run(w)).all()
        else:
            (text,) = told(lambda session=session: [session.run(step.op) for _ in range(9)])
            assert "makes 3 of them" in text


def run(check: Any, build: Callable[[], tuple[Any, Any]], feeds: dict[str, Any]) -> tuple[list[str], Any]:
    """What five steps warn of, and the variables after them."""
    dt.reset_default_graph()
    dt.set_random_seed(3)
    fetches, first = build()
    session = dt.Session(comm=None, config=dt.ConfigProto(check_numerics=check))
    session.run(first)
    graph = dt.get_default_graph()
    fed = {graph.get_tensor_by_name(f"{name}:0"): value for name, value in feeds.items()}
    texts = told(lambda: [session.run(fetches, fed) for _ in range(5)])
    return texts, session.run(dt.global_variables())


def masked() -> tuple[Any, Any]:
    """Attention with -inf where there is no word, and NaN in rows that a mask takes away."""
    x, mask = dt.placeholder("float", [None, 4], "x"), dt.placeholder("bool", [None, 4], "mask")
    w = dt.Variable(dt.ones([4]))
    x = dt.where(mask, x, dt.zeros_like(x))
    scores = dt.where(mask, x * w, dt.fill(dt.shape(x), -np.inf))
    loss = -dt.reduce_mean(dt.reduce_max(dt.nn.softmax(scores), 1))
    return dt.train.AdamOptimizer(0.1).minimize(loss), dt.global_variables_initializer()


def watched() -> tuple[Any, Any]:
    """The best loss so far starts at infinity, a precision is 0 / 0, a variable that nothing trains 1 / 0."""
    x = dt.placeholder("float", [None, 4], "x")
    w, best = dt.Variable(dt.ones([4])), dt.Variable(np.inf, dtype="float32")
    ratio = dt.Variable(0.0, trainable=False)
    loss = dt.reduce_mean(dt.square(x * w))
    step = dt.train.MomentumOptimizer(0.1, 0.9).minimize(loss)
    worst = best.assign(dt.maximum(best, loss))
    nothing = dt.constant(0.0) * loss
    fetches = [loss, step, worst, nothing / nothing, ratio.assign(1 / nothing), dt.reduce_max(1 / nothing)]
    return fetches, dt.global_variables_initializer()


@pytest.mark.parametrize("build", [masked, watched])
def test_infinities_that_are_meant_are_not_warned_of(build: Callable[[], Any]) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    feeds: dict[str, Any] = {"x": x}
    if build is masked:
        x[1, 2:] = np.nan, np.inf
        feeds["mask"] = np.isfinite(x)
    texts, values = run("warn", build, feeds)
    assert texts == []
    for value, right in zip(values, run(False, build, feeds)[1], strict=True):
        np.testing.assert_array_equal(value, right)


def drawing() -> tuple[Any, Any]:
    """A step that draws, counts before its gradients and after, and is bad from the third on."""
    w, count, total = dt.Variable(dt.ones([6])), dt.Variable(0.0, trainable=False), dt.Variable(0.0)
    with dt.control_dependencies([count.assign_add(1.0)]):
        noise = dt.random_uniform([6])
        loss = dt.reduce_sum(dt.log(2.5 - count.read_value()) * w * dt.nn.dropout(noise, rate=0.4))
    step = dt.train.AdagradOptimizer(0.1).minimize(loss, var_list=[w])
    with dt.control_dependencies([step]):
        added = total.assign_add(noise[0])
    return [step, added], dt.global_variables_initializer()


def test_a_step_that_is_taken_all_the_same_is_the_one_that_it_was() -> None:
    """It was begun twice before: with the same random numbers, and what it had written put back."""
    texts, values = run("warn", drawing, {})
    assert len(texts) == 1 and "step 3" in texts[0] and "Log 'Log'" in texts[0]
    for value, right in zip(values, run(False, drawing, {})[1], strict=True):
        np.testing.assert_array_equal(value, right)
    assert run(False, drawing, {})[0] == []


def test_what_the_warning_names_makes_it_an_error() -> None:
    x, loss, step = network()
    session = dt.Session(comm=None, config=dt.ConfigProto(check_numerics=True))
    session.run(dt.global_variables_initializer())
    with pytest.raises(NumericError, match=r"Sqrt 'Sqrt' \(built at .*test_nan.py:25"):
        for _ in range(9):
            session.run([loss, step], {x: ROWS})


def test_nothing_is_said_of_what_no_update_goes_with() -> None:
    x = dt.placeholder("float", [])
    v = dt.Variable(np.nan)
    session = dt.Session(comm=None)
    session.run(v.initializer)
    assert told(lambda: session.run([dt.log(x), v], {x: -1.0})) == []


@pytest.mark.parametrize("size", [2, 3])
def test_rank_0_says_it_for_all(size: int, on_threads: Callable[..., list[Any]]) -> None:
    graph = dt.Graph()
    with graph.as_default():
        x, _, step = network()
        first = dt.global_variables_initializer()

    def body(comm: Any) -> None:
        session = dt.Session(graph=graph, comm=comm)
        session.run(first)
        for _ in range(8):
            session.run(step, {x: dt.Shard(ROWS[slice(*shard_bounds(8, comm.rank, size))], 8)})

    (text,) = told(lambda: on_threads(size, body))
    assert text.startswith("step 5 makes a NaN") and "Sqrt 'Sqrt'" in text


@pytest.mark.parametrize("batch", [8, 64])
def test_fit_warns_once(batch: int) -> None:
    x = np.random.default_rng(0).normal(size=(64, 3))
    model = Sequential([Dense(4, input_shape=(3,)), Dense(1)], comm=None)
    model.compile(optimizers.SGD(1e6), "mse")
    texts = told(lambda: model.fit(x, x.sum(1), batch, epochs=12, verbose=0))
    assert np.isnan(model.history.history["loss"][-1])
    (text,) = texts
    assert "test_nan.py" in text and "check_numerics=True" in text
    model.compile(optimizers.SGD(1e-3), "mse")  # another loss of a model whose weights are NaN
    again = told(lambda: model.fit(x, x.sum(1), batch, 5, verbose=0, callbacks=[TerminateOnNaN()]))
    assert len(again) == 1 and "the variable 'dense" in again[0] and len(model.history.epoch) == 1
    model = Sequential([Dense(1, input_shape=(3,))], comm=None, config=dt.ConfigProto(check_numerics=True))
    model.compile(optimizers.SGD(1e30), "mse")
    with pytest.raises(NumericError, match="Nothing was updated"):
        model.fit(x, x.sum(1), batch, epochs=12, verbose=0)
    assert np.isfinite(model.get_weights()[0]).all()
