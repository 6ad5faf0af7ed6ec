"""Convolution and its gradients against plain loops, of any stride, padding and size; on several ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dtrain as dt
from dtrain.cuda import windows
from dtrain.errors import GraphError
from dtrain.ops import window
from dtrain.runtime.backend import Backend

few = settings(max_examples=60, derandomize=True, deadline=None)


def borders(n: int, size: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """(number of windows, entries of padding before the first), by TensorFlow's documented formulas."""
    reach = (size - 1) * dilation + 1
    if padding == "VALID":
        return int(np.ceil((n - reach + 1) / stride)), 0
    count = int(np.ceil(n / stride))
    return count, max((count - 1) * stride + reach - n, 0) // 2


def terms(
    x: tuple[int, ...], f: tuple[int, ...], strides: Any, padding: str, dilations: Any
) -> tuple[tuple[int, int], list[tuple[int, ...]]]:
    """The sizes of the result, and (i, j, a, b, row, column) of each product in the sum that it is."""
    (oh, top), (ow, left) = (borders(x[1 + k], f[k], strides[k], dilations[k], padding) for k in (0, 1))
    found = []
    for i, j, a, b in itertools.product(range(oh), range(ow), range(f[0]), range(f[1])):
        row, column = (
            i * strides[0] + a * dilations[0] - top,
            j * strides[1] + b * dilations[1] - left,
        )
        if 0 <= row < x[1] and 0 <= column < x[2]:
            found.append((i, j, a, b, row, column))
    return (oh, ow), found


def convolve(x: np.ndarray, f: np.ndarray, *how: Any) -> np.ndarray:
    size, products = terms(x.shape, f.shape, *how)
    y = np.zeros((len(x), *size, f.shape[3]))
    for i, j, a, b, row, column in products:
        y[:, i, j] += x[:, row, column] @ f[a, b]
    return y


def to_images(dy: np.ndarray, f: np.ndarray, shape: tuple[int, ...], *how: Any) -> np.ndarray:
    dx = np.zeros(shape)
    for i, j, a, b, row, column in terms(shape, f.shape, *how)[1]:
        dx[:, row, column] += dy[:, i, j] @ f[a, b].T
    return dx


def to_filter(x: np.ndarray, dy: np.ndarray, shape: tuple[int, ...], *how: Any) -> np.ndarray:
    df = np.zeros(shape)
    for i, j, a, b, row, column in terms(x.shape, shape, *how)[1]:
        df[a, b] += x[:, row, column].T @ dy[:, i, j]
    return df


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Any, str, Any]]:
    """Shapes of images and filter that fit, and strides, padding, dilations; examples may be none."""
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilations = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    least = [(k - 1) * d + 1 if padding == "VALID" else 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [draw(st.integers(low, low + 5)) for low in least]
    inputs = draw(st.sampled_from([1, 2, 9]))
    x = (draw(st.integers(0, 4)), *sizes, inputs)
    return x, (*kernel, inputs, draw(st.integers(1, 3))), (strides, padding, dilations)


@pytest.mark.parametrize("piece_bytes", [1, 700, 1 << 20])
def test_convolution_and_its_gradients_are_the_sums_that_define_them(
    piece_bytes: int, device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(windows, "ROWS_BYTES", piece_bytes)

    @few
    @given(cases())
    def check(case: Any) -> None:
        dt.reset_default_graph()
        x_shape, f_shape, how = case
        generator = np.random.default_rng(3)
        x, f = generator.uniform(-1, 1, x_shape), generator.uniform(-1, 1, f_shape)
        fed, kernel = dt.placeholder("float64", [None, *x_shape[1:]]), dt.constant(f)
        strides, padding, dilations = how
        y = dt.nn.conv2d(fed, kernel, [1, *strides, 1], padding, dilations=[1, *dilations, 1])
        expected = convolve(x, f, *how)
        assert y.shape[1:] == expected.shape[1:]
        dy = generator.uniform(-1, 1, expected.shape)
        grads = dt.gradients(y, [fed, kernel], grad_ys=[dt.constant(dy)])
        session = dt.Session(comm=None, device=device)
        found = session.run([y, *grads], {fed: x})
        assert device.on_host or all(plan._windows for plan in session.plans.values())
        right = [expected, to_images(dy, f, x.shape, *how), to_filter(x, dy, f.shape, *how)]
        for value, reference in zip(found, right, strict=True):
            assert value.shape == reference.shape
            np.testing.assert_allclose(value, reference, rtol=1e-10, atol=1e-12)

    check()


@pytest.mark.parametrize(("examples", "channels"), [(3, 1), (3, 3), (3, 4), (3, 8), (800, 5), (300, 40)])
@pytest.mark.parametrize("how", [((1, 1), "SAME", (1, 1)), ((2, 1), "VALID", (1, 2))])
def test_small_integers_are_added_up_exactly_as_float32(
    device: Backend, examples: int, channels: int, how: Any
) -> None:
    """A GPU's threads take four channels at once where they can, and of many examples several entries."""
    generator = np.random.default_rng(4)
    shapes = (examples, 6, 7, channels), (3, 2, channels, 5)
    x, f = (generator.integers(-4, 5, s).astype("f") for s in shapes)
    fed, kernel = dt.placeholder("float32", x.shape), dt.constant(f)
    strides, padding, dilations = how
    y = dt.nn.conv2d(fed, kernel, [1, *strides, 1], padding, dilations=[1, *dilations, 1])
    expected = convolve(x, f, *how)
    dy = generator.integers(-4, 5, expected.shape).astype("f")
    grads = dt.gradients(y, [fed, kernel], grad_ys=[dt.constant(dy)])
    right = [expected, to_images(dy, f, x.shape, *how), to_filter(x, dy, f.shape, *how)]
    for value, reference in zip(
        dt.Session(comm=None, device=device).run([y, *grads], {fed: x}), right, strict=True
    ):
        np.testing.assert_array_equal(value, reference)


def test_four_channels_may_begin_anywhere_in_memory(device: Backend) -> None:
    x, f = np.arange(1 + 2 * 3 * 3 * 4, dtype="f"), np.arange(2 * 2 * 4 * 3, dtype="f").reshape(2, 2, 4, 3)
    fed = dt.placeholder("float32", x.shape)
    y = dt.nn.conv2d(dt.reshape(fed[1:], [2, 3, 3, 4]), f, 1, "SAME")
    aligned = dt.nn.conv2d(dt.reshape(fed[:-1], [2, 3, 3, 4]), f, 1, "SAME")
    session = dt.Session(comm=None, device=device)
    found = session.run([y, aligned], {fed: x})
    for value, images in zip(found, (x[1:], x[:-1]), strict=True):
        right = convolve(images.reshape(2, 3, 3, 4), f, (1, 1), "SAME", (1, 1))
        np.testing.assert_array_equal(value, right)
    (plan,) = session.plans.values()
    symbols = [s for s in plan.kernel_symbols if s.startswith("window_rows")]
    assert device.on_host or sorted(symbols) == ["window_rows<float4>", "window_rows<float>"]


def test_a_plan_runs_again_on_other_values(device: Backend) -> None:
    x = dt.placeholder("float64", [2, 5, 6, 3])
    f = np.random.default_rng(0).uniform(-1, 1, (3, 3, 3, 2))
    y = dt.nn.conv2d(x, f, 1, "SAME")
    (dx,) = dt.gradients(dt.reduce_sum(dt.square(y)), x)
    session = dt.Session(comm=None, device=device)
    for seed in range(3):
        value = np.random.default_rng(seed).uniform(-1, 1, (2, 5, 6, 3))
        found, gradient = session.run([y, dx], {x: value})
        right = convolve(value, f, (1, 1), "SAME", (1, 1))
        np.testing.assert_allclose(found, right, rtol=1e-12)
        expected = to_images(2 * right, f, value.shape, (1, 1), "SAME", (1, 1))
        np.testing.assert_allclose(gradient, expected, rtol=1e-12)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_inputs_may_be_views_of_other_arrays(strides: tuple[int, int], device: Backend) -> None:
    generator = np.random.default_rng(1)
    x, f = generator.uniform(-1, 1, (2, 3, 6, 5)), generator.uniform(-1, 1, (2, 3, 4, 3))
    images, kernel = dt.placeholder("float64", x.shape), dt.placeholder("float64", f.shape)
    seen, turned = dt.transpose(images, [0, 2, 3, 1]), dt.transpose(kernel, [1, 2, 3, 0])
    y = dt.nn.conv2d(seen, turned, [1, *strides, 1], "SAME")
    how = strides, "SAME", (1, 1)
    x, f = x.transpose(0, 2, 3, 1), f.transpose(1, 2, 3, 0)
    expected = convolve(x, f, *how)
    flow = generator.uniform(-1, 1, expected.shape[::-1])
    dy = dt.placeholder("float64", flow.shape)
    grads = dt.gradients(y, [seen, turned], grad_ys=[dt.transpose(dy)])
    feeds = {images: x.transpose(0, 3, 1, 2), kernel: f.transpose(3, 0, 1, 2), dy: flow}
    right = [expected, to_images(flow.T, f, x.shape, *how), to_filter(x, flow.T, f.shape, *how)]
    session = dt.Session(comm=None, device=device)
    for _ in range(2):
        for value, reference in zip(session.run([y, *grads], feeds), right, strict=True):
            np.testing.assert_allclose(value, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_convolve_their_share_and_add_up_the_filters_gradient(
    ranks: int, on_threads: Callable[..., list[Any]]
) -> None:
    generator = np.random.default_rng(4)
    value = generator.uniform(-1, 1, (7, 5, 4, 2))
    x = dt.placeholder("float64", [None, 5, 4, 2])
    f = dt.Variable(generator.uniform(-1, 1, (3, 3, 2, 3)))
    y = dt.nn.max_pool(dt.nn.conv2d(x, f.value(), 1, "SAME"), 2, 2, "SAME")
    loss = dt.reduce_mean(dt.square(y))
    fetches = [loss, *dt.gradients(loss, [f, x])]
    graph, initialize = dt.get_default_graph(), dt.global_variables_initializer()

    def body(comm: Any) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        session.run(initialize)
        low, high = (7 * r // comm.size for r in (comm.rank, comm.rank + 1))
        return session.run(fetches, {x: dt.Shard(value[low:high], 7)})

    session = dt.Session(comm=None)
    session.run(initialize)
    expected = session.run(fetches, {x: value})
    for found in on_threads(ranks, body):
        for one, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-12, atol=1e-14)


def test_the_gradients_by_their_own_names_and_the_transpose() -> None:
    generator = np.random.default_rng(5)
    x, f = generator.uniform(-1, 1, (2, 5, 6, 2)), generator.uniform(-1, 1, (3, 2, 2, 3))
    how = (2, 2), "SAME", (1, 1)
    dy = generator.uniform(-1, 1, convolve(x, f, *how).shape)
    found = dt.Session(comm=None).run(
        [
            dt.nn.conv2d_backprop_input([2, 5, 6, 2], f, dy, [1, 2, 2, 1], "SAME"),
            dt.nn.conv2d_backprop_filter(x, [3, 2, 2, 3], dy, [1, 2, 2, 1], "SAME"),
            dt.nn.conv2d_transpose(dy, f, [2, 5, 6, 2], [1, 2, 2, 1]),
        ]
    )
    images = to_images(dy, f, x.shape, *how)
    for value, right in zip(found, [images, to_filter(x, dy, f.shape, *how), images], strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-12)


def test_the_transpose_takes_sizes_that_follow_from_shapes() -> None:
    generator = np.random.default_rng(5)
    value, f = generator.uniform(-1, 1, (3, 3, 3, 2)), generator.uniform(-1, 1, (3, 3, 4, 2))
    x = dt.placeholder("float64", [None, 3, 3, 2])
    y = dt.nn.conv2d_transpose(x, f, dt.stack([dt.shape(x)[0], 6, 5, 4]), [1, 2, 2, 1])
    assert y.shape.as_list() == [None, 6, 5, 4]
    found, gradient = dt.Session(comm=None).run([y, dt.gradients(y, x)[0]], {x: value})
    how = (2, 2), "SAME", (1, 1)
    np.testing.assert_allclose(found, to_images(value, f, (3, 6, 5, 4), *how), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gradient, convolve(np.ones((3, 6, 5, 4)), f, *how), rtol=1e-10, atol=1e-12)


def test_an_atrous_convolution_spreads_the_filter() -> None:
    generator = np.random.default_rng(6)
    x, f = generator.uniform(-1, 1, (2, 6, 7, 2)), generator.uniform(-1, 1, (3, 2, 2, 3))
    found = dt.Session(comm=None).run(dt.nn.atrous_conv2d(x, f, 2, "VALID"))
    np.testing.assert_allclose(found, convolve(x, f, (1, 1), "VALID", (2, 2)), rtol=1e-10, atol=1e-12)


MISFITS: dict[str, Callable[[], Any]] = {
    "another number of channels": lambda: dt.nn.conv2d(
        np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 3, 2)), 1, "SAME"
    ),
    "images of rank 3": lambda: dt.nn.conv2d(np.zeros((4, 4, 2)), np.zeros((3, 3, 2, 2)), 1, "SAME"),
    "another dtype": lambda: dt.nn.conv2d(
        np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 2, 2), np.float32), 1, "SAME"
    ),
    "integers": lambda: dt.nn.conv2d(np.zeros((1, 4, 4, 2), int), np.zeros((3, 3, 2, 2), int), 1, "SAME"),
    "no whole window": lambda: dt.nn.conv2d(np.zeros((1, 2, 4, 1)), np.zeros((3, 3, 1, 1)), 1, "VALID"),
    "a stride over examples": lambda: dt.nn.conv2d(
        np.zeros((1, 4, 4, 1)), np.zeros((3, 3, 1, 1)), [2, 1, 1, 1], "SAME"
    ),
    "CHWN": lambda: dt.nn.conv2d(
        np.zeros((1, 1, 4, 4)), np.zeros((3, 3, 1, 1)), 1, "SAME", data_format="CHWN"
    ),
    "no strides": lambda: dt.nn.conv2d(np.zeros((1, 4, 4, 1)), np.zeros((3, 3, 1, 1)), padding="SAME"),
    "a padding of another name": lambda: dt.nn.conv2d(
        np.zeros((1, 4, 4, 1)), np.zeros((3, 3, 1, 1)), 1, "FULL"
    ),
    "a gradient of another shape": lambda: dt.nn.conv2d_backprop_input(
        [1, 4, 4, 1], np.zeros((3, 3, 1, 1)), np.zeros((1, 3, 4, 1)), 1, "SAME"
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_an_error_at_its_line(name: str) -> None:
    with pytest.raises(GraphError):
        MISFITS[name]()
