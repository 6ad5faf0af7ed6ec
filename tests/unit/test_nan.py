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

ROWS = np.ones((8, 4), np.float32)


def network() -> tuple[Any, Any, Any]:
    """A loss that falls below log(0) in its sixth step, and then is NaN."""
    x, w = dt.placeholder("float", [None, 4]), dt.Variable(dt.ones([4, 1]))
    loss = dt.reduce_mean(dt.log(dt.matmul(x, w)), name="loss")
    return x, loss, dt.train.GradientDescentOptimizer(0.5).minimize(loss)


def told(run: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return [str(w.message) for w in found]


def test_a_loop_of_runs_warns_once_with_the_line_and_the_step() -> None:
    x, loss, step = network()
    session = dt.Session(comm=None)
    session.run(dt.global_variables_initializer())
    losses = []
    texts = told(lambda: losses.extend(session.run([loss, step], {x: ROWS})[0] for _ in range(9)))
    assert np.isnan(losses).argmax() == 5
    (text,) = texts
    assert text.startswith("loss:0 (built at ") and "test_nan.py:24) is nan from step 6 on" in text
    assert "check_numerics=True" in text


def test_what_the_warning_names_makes_it_an_error() -> None:
    x, loss, step = network()
    session = dt.Session(comm=None, config=dt.ConfigProto(check_numerics=True))
    session.run(dt.global_variables_initializer())
    with pytest.raises(NumericError, match=r"Log 'Log' \(built at .*test_nan.py:24"):
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
        x, loss, step = network()
        first = dt.global_variables_initializer()

    def body(comm: Any) -> None:
        session = dt.Session(graph=graph, comm=comm)
        session.run(first)
        for _ in range(8):
            session.run([loss, step], {x: ROWS})

    assert len(told(lambda: on_threads(size, body))) == 1


@pytest.mark.parametrize("batch", [8, 64])
def test_fit_warns_once(batch: int) -> None:
    x = np.random.default_rng(0).normal(size=(64, 3))
    model = Sequential([Dense(4, input_shape=(3,)), Dense(1)], comm=None)
    model.compile(optimizers.SGD(1e6), "mse")
    texts = told(lambda: model.fit(x, x.sum(1), batch, epochs=12, verbose=0))
    assert np.isnan(model.history.history["loss"][-1])
    (text,) = texts
    assert "test_nan.py" in text and "TerminateOnNaN()" in text
    model.compile(optimizers.SGD(1e-3), "mse")  # another loss of a model whose weights are NaN
    again = told(lambda: model.fit(x, x.sum(1), batch, 5, verbose=0, callbacks=[TerminateOnNaN()]))
    assert len(again) == 1 and len(model.history.epoch) == 1
