"""Pooling and its gradients against plain loops over windows; on several ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtrain as dt
from dtrain.cuda import windows as cuda
from dtrain.errors import GraphError
from dtrain.ops import window
from dtrain.runtime.backend import Backend

few = settings(max_examples=60, derandomize=True, deadline=None)


def windows(
    shape: tuple[int, ...], ksize: Any, strides: Any, padding: str
) -> tuple[tuple[int, int], Iterator[tuple[int, int, list[tuple[int, int]]]]]:
    """The sizes of the result, and of each of its entries the places in the image, in row-major order."""
    counts, starts = [], []
    for n, k, s in zip(shape[1:3], ksize, strides, strict=True):
        count = -(-n // s) if padding == "SAME" else (n - k) // s + 1
        counts.append(count)
        starts.append(max((count - 1) * s + k - n, 0) // 2 if padding == "SAME" else 0)

    def each() -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        for i, j in itertools.product(*map(range, counts)):
            rows = range(i * strides[0] - starts[0], i * strides[0] - starts[0] + ksize[0])
            columns = range(j * strides[1] - starts[1], j * strides[1] - starts[1] + ksize[1])
            yield i, j, [(r, c) for r in rows for c in columns if 0 <= r < shape[1] and 0 <= c < shape[2]]

    return (counts[0], counts[1]), each()


def pool(kind: str, x: np.ndarray, dy: Callable[[Any], np.ndarray], *how: Any) -> tuple[np.ndarray, ...]:
    """(y, dx) for what dy(y's shape) flows back; the gradient of a maximum goes to its first place."""
    size, each = windows(x.shape, *how)
    y = np.zeros((len(x), *size, x.shape[3]))
    dx, flow = np.zeros(x.shape), dy(y.shape)
    for i, j, places in each:
        values = np.array([x[:, r, c] for r, c in places])
        y[:, i, j] = values.max(0) if kind == "max" else values.mean(0)
        for k, (r, c) in enumerate(places):
            share = values.argmax(0) == k if kind == "max" else 1 / len(places)
            dx[:, r, c] += flow[:, i, j] * share
    return y, dx


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, Any, str]]:
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    ksize = (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    strides = (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    sizes = [draw(st.integers(k if padding == "VALID" else 1, k + 5)) for k in ksize]
    return (draw(st.integers(0, 4)), *sizes, draw(st.integers(1, 3))), (ksize, strides, padding)


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("piece_bytes", [1, 200, 1 << 20])
def test_pooling_and_its_gradient_are_loops_over_windows(
    kind: str, piece_bytes: int, device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(cuda, "COUNTABLE", max(4000, piece_bytes))

    @few
    @given(cases(), st.booleans())
    def check(case: Any, ties: bool) -> None:
        dt.reset_default_graph()
        shape, how = case
        generator = np.random.default_rng(3)
        value = generator.integers(-2, 2, shape).astype(float) if ties else generator.uniform(-2, -1, shape)
        x = dt.placeholder("float64", [None, *shape[1:]])
        ksize, strides, padding = how
        function = dt.nn.max_pool if kind == "max" else dt.nn.avg_pool
        y = function(x, [1, *ksize, 1], [1, *strides, 1], padding)
        flow: list[np.ndarray] = []

        def dy(like: tuple[int, ...]) -> np.ndarray:
            flow.append(generator.uniform(-1, 1, like))
            return flow[0]

        expected = pool(kind, value, dy, *how)
        assert y.shape[1:] == expected[0].shape[1:]
        (dx,) = dt.gradients(y, x, grad_ys=[dt.constant(flow[0])])
        session = dt.Session(comm=None, device=device)
        results = session.run([y, dx], {x: value})
        assert device.on_host or all(plan._windows for plan in session.plans.values())
        for found, right in zip(results, expected, strict=True):
            assert found.shape == right.shape
            np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-14)

    check()


@pytest.mark.parametrize("how", [((2, 2), (2, 2), "VALID"), ((3, 2), (2, 1), "SAME")])
def test_what_flows_into_the_gradient_of_a_maximum_is_read_at_its_place(how: Any, device: Backend) -> None:
    ksize, strides, padding = how
    generator = np.random.default_rng(6)
    value = generator.uniform(-1, 1, (2, 5, 4, 2))
    x = dt.placeholder("float64", value.shape)
    y = dt.nn.max_pool(x, ksize, strides, padding)
    dy = dt.placeholder("float64", y.shape)
    (dx,) = dt.gradients(y, x, grad_ys=[dy])
    flow = generator.uniform(-1, 1, value.shape)
    (back,) = dt.gradients(dx, dy, grad_ys=[dt.constant(flow)])
    found = dt.Session(comm=None, device=device).run(back, {x: value, dy: np.zeros(y.shape)})
    for i, j, places in windows(value.shape, *how)[1]:
        first = np.array([value[:, r, c] for r, c in places]).argmax(0)
        right = np.take_along_axis(np.array([flow[:, r, c] for r, c in places]), first[None], 0)[0]
        np.testing.assert_array_equal(found[:, i, j], right)


def test_the_largest_entry_may_be_minus_infinity_and_nan_is_passed_on(device: Backend) -> None:
    value = np.array([[-np.inf, -np.inf, 1.0], [-np.inf, np.nan, -np.inf]])[None, :, :, None]
    x = dt.placeholder("float64", value.shape)
    y = dt.nn.max_pool(x, [1, 1, 2, 1], 1, "SAME")
    found, dx = dt.Session(comm=None, device=device).run([y, dt.gradients(y, x)[0]], {x: value})
    right = [[-np.inf, 1, 1], [np.nan, np.nan, -np.inf]]
    np.testing.assert_array_equal(found[0, :, :, 0], right)
    # the first of equal ones; behind a NaN nothing is larger
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 0, 2], [1, 1, 1]])


def test_a_window_of_more_than_256_entries(device: Backend) -> None:
    value = np.random.default_rng(2).permutation(400).astype(float).reshape(1, 20, 20, 1)
    x = dt.placeholder("float64", value.shape)
    y = dt.nn.max_pool(x, 20, 1, "VALID")
    dx = dt.Session(comm=None, device=device).run(dt.gradients(y, x)[0], {x: value})
    np.testing.assert_array_equal(dx, value == 399)


@pytest.mark.parametrize("function", [dt.nn.max_pool, dt.nn.avg_pool])
def test_ranks_pool_their_share_without_a_word(function: Any, on_threads: Callable[..., list[Any]]) -> None:
    value = np.random.default_rng(4).uniform(-1, 1, (7, 5, 4, 2))
    x = dt.placeholder("float64", [None, 5, 4, 2])
    y = function(x, [1, 3, 2, 1], [1, 2, 1, 1], "SAME")
    fetches = [y, dt.gradients(dt.square(y), x)[0]]
    graph = dt.get_default_graph()

    def body(comm: Any) -> Any:
        low, high = (7 * r // comm.size for r in (comm.rank, comm.rank + 1))
        session = dt.Session(graph=graph, comm=comm)
        session.run(fetches, {x: dt.Shard(value[low:high], 7)})
        agreed = len(comm.calls)
        found = session.run(fetches, {x: dt.Shard(value[low:high], 7)})
        return found, [call[0] for call in comm.calls[agreed:]].count("allgather")

    expected = dt.Session(comm=None).run(fetches, {x: value})
    for found, gathers in on_threads(3, body):
        assert gathers == 2  # what is fetched, and no image before
        for one, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, right)


MISFITS: dict[str, Callable[[], Any]] = {
    "images of rank 3": lambda: dt.nn.max_pool(np.zeros((4, 4, 2)), 2, 2, "SAME"),
    "no whole window": lambda: dt.nn.avg_pool(np.zeros((1, 2, 4, 1)), 3, 1, "VALID"),
    "integers": lambda: dt.nn.max_pool(np.zeros((1, 2, 4, 1), int), 2, 2, "SAME"),
    "windows over channels": lambda: dt.nn.max_pool(np.zeros((1, 2, 4, 1)), [1, 1, 1, 2], 2, "SAME"),
    "a window of nothing": lambda: dt.nn.max_pool(np.zeros((1, 2, 4, 1)), 0, 2, "SAME"),
    "three sizes": lambda: dt.nn.max_pool(np.zeros((1, 2, 4, 1)), [1, 2, 2], 2, "SAME"),
    "CHWN": lambda: dt.nn.avg_pool(np.zeros((1, 1, 4, 4)), 2, 2, "SAME", data_format="CHWN"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_an_error_at_its_line(name: str) -> None:
    with pytest.raises(GraphError):
        MISFITS[name]()
