"""What a step has not written means nothing, and DTRAIN_POISON finds who reads it all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain import poison
from dtrain.keras.layers import BatchNormalization, Dense, Dropout
from dtrain.keras.models import Sequential
from dtrain.runtime import plan
from dtrain.runtime.backend import Backend
from dtrain.runtime.feeds import Window

#: Widths whose arrays end within a cache line, at its end, and behind it.
WIDTHS = (1, 5, 15, 16, 17, 33)


def run(layers: Any, width: int, kernels: str, optimizer: str = "AdamOptimizer") -> list[Any]:
    """Losses of 8 checked steps, some in one call, and the parameters behind them."""
    rng = np.random.default_rng(width)
    rows = rng.random((8, 12, 7)).astype(np.float32)
    with dt.Graph().as_default() as graph:
        graph.seed = 3
        x = dt.placeholder("float32", [None, 7])
        logits = Sequential(layers(width))(x, training=True)
        labels = dt.constant(np.arange(12) % 3, "int32")
        each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss, right = dt.reduce_mean(each), dt.nn.in_top_k(logits, labels, 1)
        step = getattr(dt.train, optimizer)(0.01).minimize(loss)
        fetches = [loss, dt.reduce_mean(dt.cast(right, "float32")), step]
        config = dt.ConfigProto(check_numerics=True)
        session = dt.Session(graph=graph, config=config, comm=None, device=Backend(kernels))
        session.run(dt.global_variables_initializer())
        taken = session.make_callable(fetches, [x]).several(Window(rows, 12))
        return [*np.ravel([values[:2] for values in taken]), *session.run(dt.global_variables())]


NETWORKS = {
    "dense": lambda width: [Dense(width, "relu", input_shape=(7,)), Dense(3)],
    "dropout": lambda width: [Dense(width, "relu", input_shape=(7,)), Dropout(0.5), Dense(3)],
    "normalized": lambda width: [Dense(width, input_shape=(7,)), BatchNormalization(), Dense(3)],
    "all": lambda width: [
        Dense(width, "tanh", input_shape=(7,)),
        BatchNormalization(),
        Dropout(0.3),
        Dense(width + 1, "sigmoid"),
        Dense(3),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_memory_that_is_not_written_changes_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for width in WIDTHS:
        for kernels in ("c", "numpy"):
            found = []
            for on in (False, True):
                monkeypatch.setattr(poison, "ON", on)
                monkeypatch.setattr(plan, "ON", on)
                found.append(run(NETWORKS[name], width, kernels))
            assert all(np.isfinite(value).all() for value in found[1]), (name, width, kernels)
            for clean, poisoned in zip(*found, strict=True):
                np.testing.assert_array_equal(clean, poisoned, f"{name}, {width} wide, kernels {kernels}")


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_a_kernel_that_leaves_something_out_is_found(monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    monkeypatch.setattr(poison, "ON", True)
    monkeypatch.setattr(plan, "ON", True)
    with dt.Graph().as_default() as graph:
        x = dt.placeholder("float32", [5])
        y = dt.reduce_sum(dt.cumsum(x))
        session = dt.Session(graph=graph, comm=None, device=Backend(kernels))
        values = np.arange(5, dtype=np.float32)
        assert session.run(y, {x: values}) == 20
        made = [*session.plans.values()][-1]
        place = next(i for i, node in enumerate(made.kernel_nodes) if node.type == "Cumsum")
        made.kernels[place] = lambda: None
        made.calls = made.kernels
        assert np.isnan(session.run(y, {x: values}))


def test_padding_between_arrays_is_nobodys() -> None:
    """The loss and the accuracy lie side by side in the arena; what was there before is an infinity."""
    for kernels in ("c", "numpy"):
        with dt.Graph().as_default() as graph:
            x = dt.placeholder("float32", [64])
            v = dt.Variable(np.float32(1))
            huge = dt.reduce_max(dt.exp(x * 100.0))  # the arena holds 64 infinities when this is done
            small = dt.minimum(huge, 2.0)
            loss, other = v * small, v * 3.0
            step = dt.train.GradientDescentOptimizer(0.5).minimize(loss)
            config = dt.ConfigProto(check_numerics=True)
            session = dt.Session(graph=graph, config=config, comm=None, device=Backend(kernels))
            session.run(dt.global_variables_initializer())
            got = session.run([loss, other, small, step], {x: np.ones(64, np.float32)})
            assert got[:3] == [2, 3, 2] and session.run(v) == 0
