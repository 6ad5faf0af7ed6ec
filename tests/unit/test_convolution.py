"""Convolutions in C: against float64, and what passes over zeros bit for bit against what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dtrain.comm.single import SingleCommunicator
from dtrain.native import code, compiler, windows
from dtrain.native.code import Code, NativeCall
from dtrain.ops.window import place_windows

pytestmark = pytest.mark.skipif(
    not compiler.command() or not code._product().fast, reason="needs a C compiler and AVX2 or AVX-512"
)

#: Images, filter, strides, padding, dilations: blocks, chunks, runs and lists at their borders.
CASES: list[Any] = [
    ((3, 28, 28, 1), (5, 5, 1, 32), (1, 1), "SAME", (1, 1)),
    ((5, 14, 14, 32), (5, 5, 32, 64), (1, 1), "SAME", (1, 1)),
    ((3, 7, 5, 3), (3, 3, 3, 10), (2, 2), "SAME", (1, 1)),
    ((3, 7, 5, 3), (3, 2, 3, 7), (1, 2), "VALID", (2, 1)),
    ((2, 9, 11, 16), (3, 3, 16, 17), (1, 1), "SAME", (1, 2)),
    ((2, 9, 11, 5), (3, 2, 5, 33), (3, 2), "VALID", (1, 2)),
    ((4, 6, 6, 64), (1, 1, 64, 40), (1, 1), "VALID", (1, 1)),
    ((4, 6, 7, 20), (1, 1, 20, 8), (2, 2), "SAME", (1, 1)),
    ((2, 4, 4, 300), (3, 3, 300, 50), (1, 1), "SAME", (1, 1)),
    ((3, 1, 1, 9), (2, 4, 9, 1), (1, 1), "SAME", (1, 1)),
    ((2, 40, 40, 2), (4, 3, 2, 60), (1, 1), "VALID", (1, 1)),  # more positions than one list takes
]
#: The text of convolution.c in which nothing, or everything, is taken for sparse.
EVER = {
    name: (compiler.HERE / "convolution.c").read_text().replace("FEW 4", few).replace("FEW_FLOWS 4", flows)
    for name, few, flows in (("never", "FEW 0", "FEW_FLOWS 0"), ("always", "FEW 99", "FEW_FLOWS 99"))
}


class Case:
    """A convolution's three kernels on arrays."""

    def __init__(self, x: np.ndarray, f: np.ndarray, strides: Any, padding: str, dilations: Any) -> None:
        self.x, self.f, self.how = x, f, (strides, padding, dilations)
        self.axes = [
            place_windows(x.shape[1 + i], f.shape[i], strides[i], dilations[i], padding) for i in (0, 1)
        ]
        self.y_shape = (len(x), *(a.count for a in self.axes), f.shape[3])

    def run(self, name: str, a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        made = Code(SingleCommunicator())
        out = np.full(shape, 77, np.float32)
        calls = made.windows(self.x.shape, self.x.dtype, *self.axes)
        call = getattr(calls, name)(a, b, out)
        assert isinstance(call, NativeCall)
        call.words[-1].fill(255)  # NaN wherever it is read before it is written
        assert made.program([call]).caller(0, 1, np.zeros(1, np.int64), 0)() == 1
        return out

    def y(self) -> np.ndarray:
        return self.run("convolve", self.x, self.f, self.y_shape)

    def dx(self, dy: np.ndarray) -> np.ndarray:
        return self.run("to_images", dy, self.f, self.x.shape)

    def df(self, dy: np.ndarray) -> np.ndarray:
        return self.run("to_filter", self.x, dy, self.f.shape)

    def sums(self, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three, entry of the window by entry, in float64."""
        down, across = self.axes
        x, f, dy = (a.astype(np.float64) for a in (self.x, self.f, dy))
        border = [(0, 0), (down.before, down.after + 99), (across.before, across.after + 99), (0, 0)]
        padded = np.pad(x, border)
        y, dx, df = np.zeros(self.y_shape), np.zeros_like(padded), np.zeros(f.shape)
        for i in range(f.shape[0]):
            for j in range(f.shape[1]):
                at = (slice(None), down.under(i), across.under(j))
                y += padded[at] @ f[i, j]
                dx[at] += dy @ f[i, j].T
                df[i, j] = padded[at].reshape(-1, f.shape[2]).T @ dy.reshape(-1, f.shape[3])
        _, height, width, _ = x.shape
        inside = slice(down.before, down.before + height), slice(across.before, across.before + width)
        return y, dx[:, inside[0], inside[1]], df


def made(shape: tuple[int, ...], share: float, seed: int = 1) -> np.ndarray:
    """An array of which a share is not zero."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(shape) < share, generator.standard_normal(shape), 0).astype(np.float32)


def near(found: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(
        found, right, rtol=1e-4, atol=2e-6 * max(1.0, float(np.abs(right).max(initial=0)))
    )


@pytest.mark.parametrize("share", [0.0, 0.12, 0.5, 1.0])
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_they_are_the_sums_that_define_them_and_passing_over_zeros_changes_no_bit(
    sizes: Any, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_shape, f_shape, *how = sizes
    case = Case(made(x_shape, share), made(f_shape, 1, 2), *how)
    dy = made(case.y_shape, share, 3)

    def all_three() -> list[np.ndarray]:
        return [case.y(), case.dx(dy), case.df(dy)]

    found = all_three()
    for value, right in zip(found, case.sums(dy), strict=True):
        near(value, right)
    for text in EVER.values():
        monkeypatch.setattr(windows, "library", lambda text=text: windows.loaded(text))
        for value, other in zip(found, all_three(), strict=True):
            np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("sizes", CASES[:4], ids=str)
def test_an_image_does_not_depend_on_the_others(sizes: Any) -> None:
    x_shape, f_shape, *how = sizes
    x, f = made((7, *x_shape[1:]), 0.4), made(f_shape, 1, 2)
    x[::2] = made(x[::2].shape, 1)  # some images have no zeros
    whole = Case(x, f, *how)
    dy = made(whole.y_shape, 0.2, 3)
    dy[1::2] = made(dy[1::2].shape, 1)
    y, dx = whole.y(), whole.dx(dy)
    for low, high in ((0, 1), (2, 5), (6, 7)):
        part = Case(x[low:high], f, *how)
        np.testing.assert_array_equal(part.y(), y[low:high])
        np.testing.assert_array_equal(part.dx(dy[low:high]), dx[low:high])


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_ones_are_counted_exactly(sizes: Any) -> None:
    x_shape, f_shape, *how = sizes
    case = Case(np.ones(x_shape, "f"), np.ones(f_shape, "f"), *how)
    dy = np.ones(case.y_shape, "f")
    for value, right in zip((case.y(), case.dx(dy), case.df(dy)), case.sums(dy), strict=True):
        np.testing.assert_array_equal(value, right)


@pytest.mark.parametrize("bad", [-np.inf, np.nan])
@pytest.mark.parametrize("sizes", CASES[2:8], ids=str)
def test_zero_times_what_is_not_finite_is_not_zero(sizes: Any, bad: float) -> None:
    """All that a number which is not finite is multiplied by is lost, even zeros; nothing far off is."""
    x_shape, f_shape, *how = sizes

    def holds(found: np.ndarray, right: np.ndarray) -> None:
        lost, right_lost = ~np.isfinite(found), ~np.isfinite(right)
        assert right_lost.any() and lost[right_lost].all()
        near(found[~lost], right[~lost])

    with np.errstate(invalid="ignore"):
        f = made(f_shape, 1, 2)
        f[0, 0, 1, 0] = bad
        case = Case(made(x_shape, 0.1), f, *how)
        dy = made(case.y_shape, 0.1, 3)
        y, dx, _ = case.sums(dy)
        holds(case.y(), y)
        holds(case.dx(dy), dx)
        assert np.isfinite(case.y()[..., 1:]).all()
        assert np.isfinite(np.delete(case.dx(dy), 1, axis=3)).all()
        x = made(x_shape, 0.1)
        x[0, 0, 0, 1] = bad
        case = Case(x, made(f_shape, 1, 2), *how)
        y, _, df = case.sums(dy)
        holds(case.y(), y)
        holds(case.df(dy), df)
        assert np.isfinite(case.y()[1:]).all()
        assert np.isfinite(np.delete(case.df(dy), 1, axis=2)).all()


@pytest.mark.parametrize("sizes", CASES[:7], ids=str)
def test_what_is_not_finite_in_a_gradient_goes_where_it_flows(sizes: Any) -> None:
    x_shape, f_shape, *how = sizes
    case = Case(made(x_shape, 1), made(f_shape, 1, 2), *how)
    dy = made(case.y_shape, 0.1, 3)
    middle = case.y_shape[1] // 2, case.y_shape[2] // 2
    dy[0, middle[0], middle[1], 0] = np.inf
    with np.errstate(invalid="ignore"):
        right = case.sums(dy)[1]
    found = case.dx(dy)
    np.testing.assert_array_equal(np.isfinite(found[1:]), True)
    lost = ~np.isfinite(found)
    assert lost.any()
    finite = np.isfinite(right) & ~lost
    near(found[finite], right[finite])
    assert lost[np.isinf(right)].all()
    assert not np.isfinite(case.df(dy)[..., 0]).all() and np.isfinite(case.df(dy)[..., 1:]).all()
