"""Matrix products in C: against float64, and the way for zeros bit for bit against the dense one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from dtrain.comm.single import SingleCommunicator
from dtrain.native import code, compiler
from dtrain.native.code import Code, NativeCall

pytestmark = pytest.mark.skipif(
    not compiler.command() or not code._product().fast, reason="needs a C compiler and AVX2 or AVX-512"
)

#: Rows, depth, columns: around the sizes of blocks, strips and pieces, of a step, and thin ones.
SIZES = [
    (1, 1, 64),
    (5, 7, 33),
    (13, 130, 64),
    (100, 784, 256),
    (25, 200, 137),
    (784, 50, 256),
    (3, 257, 40),
    (30, 64, 1),
    (2, 300, 16),
    (100, 784, 10),
    (784, 100, 10),
    (41, 70, 14),
    (16, 72, 15),
    (9, 64, 48),
]


class Product:
    """a @ b in C; sparse: whether zeros are looked for, anew in each call."""

    def __init__(
        self, a: np.ndarray, b: np.ndarray, across_a: bool, across_b: bool, sparse: bool = True
    ) -> None:
        made = Code(SingleCommunicator())
        stored_a = np.ascontiguousarray(a.T if across_a else a)
        stored_b = np.ascontiguousarray(b.T if across_b else b)
        self.out = np.full((len(a), b.shape[1]), 77, np.float32)
        call = made.product(stored_a, stored_b, self.out, across_a, across_b)
        assert isinstance(call, NativeCall) and call.symbol == "product"
        self.pause = call.words[12]
        self._run = made.program([call]).caller(0, 1, np.zeros(1, np.int64), 0)
        self._fixed = 0 if sparse else 1 << 40
        self.pause[0] = self._fixed

    def __call__(self) -> np.ndarray:
        self.out[...] = 77
        assert self._run() == 1
        return self.out


def operands(rows: int, depth: int, columns: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """a, of whose entries a share is not zero, and b."""
    generator = np.random.default_rng(rows * 31 + depth)
    a, b = generator.standard_normal((rows, depth)), generator.standard_normal((depth, columns))
    return (a * (generator.random(a.shape) < share)).astype(np.float32), b.astype(np.float32)


def across() -> Iterator[tuple[bool, bool]]:
    yield from ((x, y) for x in (False, True) for y in (False, True))


@pytest.mark.parametrize("share", [0.0, 0.19, 0.5, 1.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_both_ways_give_the_product_and_the_same_bits(sizes: tuple[int, int, int], share: float) -> None:
    a, b = operands(*sizes, share)
    exact = a.astype(np.float64) @ b
    bound = 2e-7 * (np.abs(a).astype(np.float64) @ np.abs(b)) * max(8, sizes[1] ** 0.5) + 1e-12
    for across_a, across_b in across():
        sparse, dense = (Product(a, b, across_a, across_b, way)() for way in (True, False))
        assert (np.abs(dense - exact) <= bound).all()
        np.testing.assert_array_equal(sparse, dense)


def test_a_row_does_not_depend_on_the_others() -> None:
    a, b = operands(100, 784, 256, 0.19)
    whole = Product(a, b, False, False)()
    for low, high in ((0, 33), (33, 34), (40, 100)):
        np.testing.assert_array_equal(Product(a[low:high], b, False, False)(), whole[low:high])


@pytest.mark.parametrize("rows", [1, 15, 16, 33, 100])
def test_a_column_does_not_depend_on_the_others(rows: int) -> None:
    a, b = operands(rows, 150, 70, 0.5)
    for across_a, across_b in across():
        whole = Product(a, b, across_a, across_b)()
        for low, high in ((0, 1), (3, 13), (13, 27), (27, 42), (54, 70)):
            found = Product(a, b[:, low:high], across_a, across_b)()
            np.testing.assert_array_equal(found, whole[:, low:high])


#: A product whose operands end where their page does, with no page behind.
AT_THE_END = """
import ctypes, mmap, sys
import numpy as np
from dtrain.comm.single import SingleCommunicator
from dtrain.native.code import Code
libc = ctypes.CDLL(None, use_errno=True)

def at_the_end(x):
    pages = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    held = mmap.mmap(-1, pages + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(held))
    assert libc.mprotect(ctypes.c_void_p(start + pages), mmap.PAGESIZE, 0) == 0
    y = np.frombuffer(held, x.dtype, x.size, pages - x.nbytes).reshape(x.shape)
    y[...] = x
    return y

random = np.random.default_rng(0)
for rows, depth, columns in [(100, 30, 10), (3, 9, 5), (40, 1, 14), (17, 64, 33), (2, 3, 1), (35, 100, 42)]:
    a, b = random.standard_normal((rows, depth)), random.standard_normal((depth, columns))
    a, b = (x.astype(np.float32) for x in (a, b))
    for across_a in (False, True):
        for across_b in (False, True):
            x = at_the_end(np.ascontiguousarray(a.T if across_a else a))
            y = at_the_end(np.ascontiguousarray(b.T if across_b else b))
            made, out = Code(SingleCommunicator()), at_the_end(np.zeros((rows, columns), np.float32))
            call = made.product(x, y, out, across_a, across_b)
            assert made.program([call]).caller(0, 1, np.zeros(1, np.int64), 0)() == 1
            np.testing.assert_allclose(out, a @ b, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_nothing_is_read_or_written_behind_the_operands() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_zero_times_infinity_is_not_zero() -> None:
    a, b = operands(20, 200, 256, 0.1)
    a[:, 150] = 0
    b[150, 200], b[151, 3] = np.inf, np.nan
    for across_a, across_b in across():
        found = Product(a, b, across_a, across_b)()
        np.testing.assert_array_equal(found, Product(a, b, across_a, across_b, sparse=False)())
        assert np.isnan(found[:, [3, 200]]).all() and np.isfinite(np.delete(found, [3, 200], 1)).all()


def test_what_is_not_finite_in_a_is_kept() -> None:
    a, b = operands(20, 200, 64, 0.1)
    a[3, 5], a[4, 6] = np.nan, -np.inf
    found = Product(a, b, False, False)()
    assert np.isnan(found[3]).all() and np.isinf(found[4]).all()
    assert np.isfinite(np.delete(found, [3, 4], 0)).all()


def test_zeros_are_not_looked_for_at_once_where_there_were_few() -> None:
    full, _ = operands(20, 300, 64, 1.0)
    black, b = operands(20, 300, 64, 0.1)
    for a, looks in ((full, False), (black, True)):
        product = Product(a, b, False, False)
        product()
        assert (product.pause[0] == 0) == looks
    product = Product(full, b, False, False)
    counts = []
    for _ in range(40):
        product()
        counts.append(int(product.pause[0]))
    assert max(counts) == counts[0] and counts.count(counts[0]) == 2 and min(counts) == 1


@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize(
    "shards", [[50, 50], [34, 33, 33], [1, 0, 0], [25, 25, 25, 25], [130, 129, 3]], ids=str
)
def test_a_part_over_several_shards_has_the_bits_of_the_whole(shards: list[int], share: float) -> None:
    a, b = operands(sum(shards), 45, 45, share)
    b = np.random.default_rng(1).standard_normal((len(a), 72)).astype(np.float32)
    whole = Product(np.ascontiguousarray(a.T), b, True, False)()
    ends = np.cumsum(shards)[:-1]
    parts, others = (np.split(x, ends) for x in (a, b))
    made, out = Code(SingleCommunicator()), np.full((45, 72), 77, np.float32)
    program = made.program(
        [
            made.product_of_parts([x[:, low:high] for x in parts], others, out[low:high])
            for low, high in ((0, 14), (14, 45))
        ]
    )
    assert program.caller(0, 2, np.zeros(1, np.int64), 0)() == 2
    np.testing.assert_array_equal(out, whole)
