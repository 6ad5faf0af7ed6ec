"""Dropout: what is kept and how often, and a mask that does not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtrain as dt
from dtrain.errors import GraphError, InvalidArgumentError
from dtrain.ops.random import stream_part


def fresh(seed: int | None = 1) -> dt.Graph:
    graph = dt.Graph()
    graph.seed = seed
    return graph


def masks(build: Callable[[dt.Tensor], dt.Tensor], rows: int = 40, runs: int = 2, seed: int = 1) -> Any:
    """The values of dropout on ones [rows, 50], run after run in one session."""
    with fresh(seed).as_default() as graph:
        x = dt.placeholder("float32", [None, 50])
        y = build(x)
    session = dt.Session(graph=graph, comm=None)
    return [session.run(y, {x: np.ones((rows, 50), np.float32)}) for _ in range(runs)]


@pytest.mark.parametrize("keep", [0.5, 0.25, 0.9, 0.1, 1 / 3])
def test_the_share_that_is_kept_is_scaled_so_that_the_mean_stays(keep: float) -> None:
    (y,) = masks(lambda x: dt.nn.dropout(x, keep), rows=2000, runs=1)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / keep)}
    # five standard deviations of a mean of 100,000
    assert abs((y > 0).mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / y.size)
    rows, columns = (y > 0).mean(1), (y > 0).mean(0)
    assert abs(columns - keep).max() < 6 * np.sqrt(keep * (1 - keep) / len(rows))
    assert abs(rows.std() - np.sqrt(keep * (1 - keep) / len(columns))) < 0.01


def test_it_is_new_at_each_run_and_for_each_op_and_the_same_in_each_session() -> None:
    first, second = masks(lambda x: dt.nn.dropout(x, 0.5))
    assert 0.3 < (first != second).mean() < 0.7
    for a, b in zip((first, second), masks(lambda x: dt.nn.dropout(x, 0.5)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (masks(lambda x: dt.nn.dropout(x, 0.5), seed=2)[0] != first).any()
    (both,) = masks(lambda x: dt.nn.dropout(x, 0.5) - dt.nn.dropout(x, 0.5), runs=1)
    assert 0.3 < (both != 0).mean() < 0.7
    (same,) = masks(lambda x: dt.nn.dropout(x, 0.5, seed=3) - dt.nn.dropout(x, 0.5, seed=3), runs=1)
    assert not same.any()


def test_a_rate_is_one_minus_what_is_kept() -> None:
    for a, b in zip(
        masks(lambda x: dt.nn.dropout(x, 0.75, seed=4)),
        masks(lambda x: dt.nn.dropout(x, rate=0.25, seed=4)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("noise_shape", [[None, 1], [1, 50], [1, 1]])
def test_entries_are_dropped_together_where_the_noise_has_size_1(noise_shape: list[int | None]) -> None:
    (y,) = masks(lambda x: dt.nn.dropout(x, 0.5, noise_shape), rows=64, runs=1)
    one = y[:, :1] if noise_shape[1] == 1 else y
    one = one[:1] if noise_shape[0] == 1 else one
    np.testing.assert_array_equal(y, np.broadcast_to(one, y.shape))
    assert noise_shape == [1, 1] or len(np.unique(one)) == 2


def test_sizes_of_the_noise_may_be_tensors() -> None:
    for a, b in zip(
        masks(lambda x: dt.nn.dropout(x, 0.5, [dt.shape(x)[0], 1], seed=4)),
        masks(lambda x: dt.nn.dropout(x, 0.5, [None, 1], seed=4)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_the_gradient_passes_where_the_value_did() -> None:
    x = dt.placeholder("float64", [30, 20])
    y = dt.nn.dropout(x, 0.4)
    value, gradient = dt.Session(comm=None).run([y, dt.gradients(y, x)[0]], {x: np.ones((30, 20))})
    np.testing.assert_array_equal(value, gradient)
    assert 0 < (value > 0).mean() < 1


def test_nothing_is_dropped_or_drawn_where_all_is_kept() -> None:
    with fresh().as_default() as graph:
        x, keep = dt.placeholder("float32", [8, 50]), dt.placeholder("float32", [])
        y = dt.nn.dropout(x, keep)
    ones = np.ones((8, 50), np.float32)
    session = dt.Session(graph=graph, comm=None)
    trained = [session.run(y, {x: ones, keep: 0.5}) for _ in range(2)]
    session = dt.Session(graph=graph, comm=None)
    first = session.run(y, {x: ones, keep: 0.5})
    np.testing.assert_array_equal(session.run(y, {x: ones, keep: 1.0}), ones)
    second = session.run(y, {x: ones, keep: 0.5})
    np.testing.assert_array_equal([first, second], trained)
    assert dt.nn.dropout(dt.constant(ones), 1.0).op.type == "Const"


@pytest.mark.parametrize("columns", [1, 7, 50])
@pytest.mark.parametrize("keep", [0.5, 0.3])
@pytest.mark.parametrize("noise_shape", [None, [None, 1], [1, None]])
def test_the_mask_is_the_same_on_any_number_of_ranks(
    columns: int, keep: float, noise_shape: Any, on_threads: Callable[..., list[Any]]
) -> None:
    with fresh().as_default() as graph:
        x = dt.placeholder("float32", [None, columns])
        y = dt.nn.dropout(x, keep, noise_shape)
        fetches = [y, *dt.gradients(y, x)]
    values = np.random.default_rng(0).uniform(1, 2, (2, 11, columns)).astype(np.float32)
    whole = dt.Session(graph=graph, comm=None)
    expected = [whole.run(fetches, {x: value}) for value in values]

    def body(comm: Any) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        low, high = (11 * r // comm.size for r in (comm.rank, comm.rank + 1))
        return [session.run(fetches, {x: dt.Shard(value[low:high], 11)}) for value in values]

    for size in (2, 3, 5, 13):
        for found in on_threads(size, body):
            for run, right in zip(found, expected, strict=True):
                np.testing.assert_array_equal(run, right)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([np.uint8, np.uint16]))
def test_a_part_of_the_stream_is_a_slice_of_the_whole(start: int, count: int, kind: Any) -> None:
    def stream() -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=5, counter=[0, 0, 9, 0]))

    whole = stream_part(stream(), kind, 0, 700)
    np.testing.assert_array_equal(stream_part(stream(), kind, start, count), whole[start : start + count])


def test_probabilities_out_of_range_are_errors() -> None:
    x = np.ones((2, 3), np.float32)
    for bad in ({}, {"keep_prob": 0.5, "rate": 0.5}, {"keep_prob": 0.0}, {"rate": 1.0}, {"rate": -0.5}):
        with pytest.raises(GraphError):
            dt.nn.dropout(x, **bad)
    with pytest.raises(GraphError, match="noise_shape"):
        dt.nn.dropout(x, 0.5, [2])
    with pytest.raises(GraphError, match="broadcast"):
        dt.nn.dropout(x, 0.5, [2, 2])
    keep = dt.placeholder("float32", [])
    y = dt.nn.dropout(x, keep)
    for bad_value in (0.0, 1.5, np.nan):
        with pytest.raises(InvalidArgumentError, match="no probability"):
            dt.Session(comm=None).run(y, {keep: bad_value})
