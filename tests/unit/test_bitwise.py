"""Kernels of bitwise steps: an entry's bits depend on what it is computed of alone, and are right."""

from __future__ import annotations

import numpy as np
import pytest
from test_native import grown

import dtrain as dt
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.native import compiler
from dtrain.native.code import Code
from dtrain.ops.base import MATRIX, REGISTRY, apply
from dtrain.runtime.backend import Backend

pytestmark = pytest.mark.skipif(not compiler.command(), reason="needs a C compiler")
BITWISE = dt.ConfigProto(bitwise=True)


def chained(a: np.ndarray, b: np.ndarray, across_a: bool = False, across_b: bool = False) -> np.ndarray:
    """a @ b by Code.chain."""
    shape = a.shape[1 if across_a else 0], b.shape[0 if across_b else 1]
    out = np.full(shape, np.nan, a.dtype)
    code = Code(SingleCommunicator(), bitwise=())
    program = code.program(code.chain(a, b, out, across_a, across_b))
    count = len(program._table)
    assert program.caller(0, count, np.zeros(1, np.int64), 0)() == count
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("across_a", "across_b"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_any_part_of_a_product_has_the_bits_of_the_whole(dtype: str, across_a: bool, across_b: bool) -> None:
    """Dense and mostly zeros, of numbers whose products may be below all floats."""
    random = np.random.default_rng(0)
    for density in (1.0, 0.1):
        a = random.standard_normal((37, 150)) * 10.0 ** random.integers(-30, 3, (37, 150))
        a = np.where(random.random(a.shape) < density, a, 0).astype(dtype)
        b = (random.standard_normal((150, 70)) * 10.0 ** random.integers(-12, 3, (150, 70))).astype(dtype)
        x = np.ascontiguousarray(a.T) if across_a else a
        y = np.ascontiguousarray(b.T) if across_b else b
        whole = chained(x, y, across_a, across_b)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        bound = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
        assert (np.abs(whole - exact) <= 150 * np.finfo(dtype).eps * bound + np.finfo(dtype).tiny).all()
        for low, high in ((0, 1), (3, 20), (20, 37)):  # parts of strided arrays, as ranks have them
            part = x[:, low:high] if across_a else x[low:high]
            assert chained(part, y, across_a, across_b).tobytes() == whole[low:high].tobytes()
            part = y[low:high] if across_b else y[:, low:high]
            found = chained(x, part, across_a, across_b)
            assert found.tobytes() == whole[:, low:high].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_and_convolutions_are_near_those_of_a_blas(dtype: str) -> None:
    random = np.random.default_rng(1)
    feeds, outs = {}, []
    with dt.Graph().as_default():
        for kind in REGISTRY.values():
            if kind.category != MATRIX:
                continue
            for op, shapes in [one for example in kind.examples() for one in grown(example, 2000)]:
                xs = [dt.placeholder(dtype, shape) for shape in shapes]
                try:
                    outs.append(apply(op, *xs))
                except dt.errors.GraphError:
                    continue
                feeds |= {
                    x: random.uniform(0.5, 1.5, s).astype(dtype) for x, s in zip(xs, shapes, strict=True)
                }
        assert len(outs) > 20
        found, right = (dt.Session(comm=None, config=c).run(outs, feeds) for c in (BITWISE, None))
        for a, b in zip(found, right, strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("columns", [3, 10, 37, 100])
def test_where_a_row_lies_changes_no_bit(columns: int) -> None:
    """A rank's rows begin at other addresses than those of the whole."""
    row = np.random.default_rng(3).standard_normal(columns).astype("f")
    memory, found = np.zeros(columns + 64, "f"), set()
    code = Code(SingleCommunicator(), bitwise=())
    for first in range(40):
        x, out = memory[first : first + columns], np.zeros(columns, "f")
        x[:] = row
        program = code.program([code.kernel("log_softmax", x.dtype, columns, x, 1, columns, out)])
        program.caller(0, 1, np.zeros(1, np.int64), 0)()
        found.add(out.tobytes())
    assert len(found) == 1


def test_sums_are_not_joined_to_what_is_beside_them() -> None:
    """A sum's order is that of its own shape: fetched with others or alone it has the same bits."""
    x = np.random.default_rng(2).standard_normal((333, 41)).astype("f")
    with dt.Graph().as_default():
        a = dt.placeholder("float32", [None, 41])
        square = dt.square(a)
        sums = [
            dt.reduce_sum(square),
            dt.reduce_sum(square, 0),
            dt.reduce_sum(square * a[0]),
            dt.reduce_sum(a, 1),
        ]
        session = dt.Session(comm=None, config=BITWISE)
        together = session.run([*sums, square + 1], {a: x})
        for one, found in zip(sums, together, strict=False):
            assert session.run(one, {a: x}).tobytes() == found.tobytes()


def test_what_cannot_be_is_refused() -> None:
    with dt.Graph().as_default():
        session = dt.Session(comm=None, device=Backend("numpy"), config=BITWISE)
        with pytest.raises(EnvironmentProblem, match="there are no kernels in C"):
            session.run(dt.constant(1.0) + 1)
    with pytest.raises(UsageError, match="leave --kernels out"):
        TrainConfig(bitwise=True, kernels="numpy")
    with pytest.raises(UsageError, match="take --device cpu"):
        TrainConfig(bitwise=True, device="gpu")
