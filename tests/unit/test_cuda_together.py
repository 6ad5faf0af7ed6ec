"""What a step on a GPU does in one launch: a product and the loop behind it, rows and what reads them, small
kernels beside a large one; on the stand-in.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cuda import batches, network

import dtrain as dt
from dtrain.cuda.epilogue import ENDS, Epilogues, mask_bytes
from dtrain.data import load
from dtrain.errors import InvalidArgumentError, NumericError
from dtrain.ops.fused import Joined
from dtrain.runtime.backend import make_backend
from dtrain.runtime.feeds import Window
from dtrain.task.network import TRAINING, build

#: Products by which a backend learns whether cuBLASLt can be used.
PROBE = 2


# -- epilogues ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("across", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("sizes", [(5, 33, 7), (100, 256, 784), (3, 129, 1), (1, 1, 2)])
def test_a_product_and_what_ends_it(
    cupy: Any, end: str, across: tuple[bool, bool], sizes: tuple[int, int, int]
) -> None:
    """Against NumPy in float64; the mask is written by one product and read by another of other operands."""
    rows, columns, depth = sizes
    backend = make_backend("gpu", 0)
    random = np.random.default_rng(0)

    def operands(depth: int) -> list[np.ndarray]:
        shapes = [
            (depth, rows) if across[0] else (rows, depth),
            (columns, depth) if across[1] else (depth, columns),
        ]
        return [random.normal(size=shape).astype(np.float32) for shape in shapes]

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.T if across[0] else a).astype(float) @ (b.T if across[1] else b)

    bias = random.normal(size=columns).astype(np.float32)
    made = backend.epilogues
    mask = backend.block(mask_bytes(rows, columns))
    out, vector = (cupy.zeros(shape, np.float32) for shape in ((rows, columns), columns))

    def call(arrays: list[np.ndarray], end: str, vector: Any) -> np.ndarray:
        given = None if "mask" not in end and "gate" not in end else mask
        device = [cupy.asarray(a) for a in arrays]
        run = made.product(*device, out, *across, end, vector, given)
        assert run is not None
        run()
        return cupy.asnumpy(out)

    first = operands(depth)
    x = product(*first) + bias
    if not end.startswith("gate"):
        found = call(first, end, cupy.asarray(bias))
        np.testing.assert_allclose(found, x if end == "bias" else np.maximum(x, 0), rtol=1e-5, atol=1e-4)
        return
    y = call(first, "relu and mask", cupy.asarray(bias))
    second = operands(3)
    expected = np.where(y > 0, product(*second), 0)
    np.testing.assert_allclose(
        call(second, end, vector if "sums" in end else None), expected, rtol=1e-5, atol=1e-5
    )
    if "sums" in end:
        np.testing.assert_allclose(cupy.asnumpy(vector), expected.sum(0), rtol=1e-4, atol=1e-4)


def test_a_product_is_not_run_on_other_memory_than_it_was_made_for(cupy: Any) -> None:
    """The stand-in for cuBLASLt refuses what the real one would, or would compute wrongly."""
    made = make_backend("gpu", 0).epilogues
    a, b, out = (cupy.zeros((4, 4), np.float32) for _ in range(3))
    bias = cupy.zeros(4, np.float32)
    odd = cupy.zeros(17, np.float32)[1:].reshape(4, 4)  # 4 bytes from where it should lie
    assert made.product(a, odd, out, False, False, "bias", bias, None) is None
    assert made.product(a.view(np.float64), b, out, False, False, "bias", bias, None) is None
    with pytest.raises(AssertionError):
        assert made.product(a, b, out, False, False, "relu and mask", bias, None)  # no mask


def test_what_describes_a_product_ends_with_it(cupy: Any) -> None:
    from cupy_backends.cuda.libs import cublas

    made = make_backend("gpu", 0).epilogues
    a, b, out = (cupy.zeros((4, 4), np.float32) for _ in range(3))
    gc.collect()
    before = cublas.handles()
    run = made.product(a, b, out, False, False, "bias", cupy.zeros(4, np.float32), None)
    assert cublas.handles() == before + 6  # the product, four matrices, what is wanted
    del run
    gc.collect()
    assert cublas.handles() == before


@pytest.mark.parametrize("what", ["refuse", "lack", "nan"])
def test_without_epilogues_a_step_is_the_same(cupy: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """cuBLASLt that has no such product, is not to be had, or would hide a NaN."""
    found = []
    for said in ("", what):
        monkeypatch.setenv("STANDIN_LT", said)
        backend = make_backend("gpu", 0)
        told: list[str] = []
        monkeypatch.setattr(backend, "tell", told.append)
        session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), backend)
        step = session.make_callable(fetches, feeds)
        before = cupy.counts.copy()
        losses = [float(step(row)[0]) for row in batches(20)]
        assert ((cupy.counts - before)["epilogues"] > PROBE) == (not said)
        assert [text.startswith("cuBLASLt is not used (") for text in told] == ([True] if said else [])
        found.append([np.array(losses), *session.run(variables)])
    for ours, plain in zip(*found, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6)


def test_a_nan_goes_through_the_relu_of_a_product(cupy: Any) -> None:
    with dt.Graph().as_default() as graph:
        x, b = dt.placeholder("float32", [3, 5]), dt.placeholder("float32", [4])
        y = dt.nn.relu(dt.matmul(x, dt.constant(np.ones((5, 4), np.float32))) + b)
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
    given = np.ones((3, 5), np.float32)
    given[1, 2] = np.nan
    before = cupy.counts["epilogues"]
    found = session.run(y, {x: given, b: np.array([0, -9, 1, 2], np.float32)})
    assert cupy.counts["epilogues"] > before
    np.testing.assert_array_equal(found, [[5, 0, 6, 7], [np.nan] * 4, [5, 0, 6, 7]])


@pytest.mark.skipif(importlib.util.find_spec("nvidia") is None, reason="NVIDIA's libraries are not installed")
def test_cublaslt_takes_what_describes_a_product() -> None:
    """The real library, without a GPU: the numbers and sizes of what is said to it."""
    paths = [p for root in importlib.util.find_spec("nvidia").submodule_search_locations for p in _lts(root)]
    if not paths:
        pytest.skip("cuBLASLt is not installed")

    class Library:
        """It, but for what needs a GPU."""

        def __init__(self, path: Path) -> None:
            self.real, self.answers = ctypes.CDLL(str(path)), dict[str, list[int]]()

        def __getattr__(self, name: str) -> Any:
            if name in ("cublasLtCreate", "cublasLtDestroy", "cublasLtMatmulAlgoGetHeuristic"):
                return lambda *_: 0
            function = getattr(self.real, name)

            def call(*words: Any) -> int:
                self.answers.setdefault(name, []).append(function(*words))
                return self.answers[name][-1]

            return call

    class Array:
        dtype, size, nbytes, shape = np.dtype(np.float32), 16, 1 << 20, (4, 4)

        class data:
            ptr = 4096

    for path in paths:
        library = Library(path)
        made = Epilogues(library, 0, Array, "float32")
        for end in ENDS:
            assert made.product(Array, Array, Array, True, False, end, Array, Array) is None  # no algorithm
        assert {len(said) for said in library.answers.values()} >= {5, 20, 30}
        assert not any(answer for said in library.answers.values() for answer in said)


def _lts(root: str) -> list[Path]:
    return sorted(Path(root).rglob("libcublasLt.so.*"))


# -- the step ----------------------------------------------------------------------------------------------
class Mlp:
    """A session on the network of `dtrain train`, and a call of several of its steps."""

    def __init__(self, device: Any, folder: Path, write_set: Callable[..., Path], **checks: Any) -> None:
        path = folder / "data"
        data = load(str(path if path.exists() else write_set(path, 310, 30)), dt.comm.SingleCommunicator())
        with dt.Graph().as_default() as graph:
            graph.seed = 0
            self.net = build("mlp", data)
            train = dt.train.AdamOptimizer(0.001).minimize(self.net.loss)
            config = dt.ConfigProto(**checks) if checks else None
            self.session = dt.Session(graph=graph, comm=None, device=device, config=config)
            self.session.run(dt.global_variables_initializer())
            self.net.lend(self.session)
        fetches = [self.net.loss, self.net.stopping, *self.net.sums, train]
        feeds = [self.net.indices, self.net.training, self.net.stop]
        self._several = self.session.make_callable(fetches, feeds).several

    def steps(self, rows: np.ndarray) -> list[Any]:
        vote = dt.Shard(np.zeros(1, np.float32), 1)
        return self._several(Window(rows, rows.shape[1]), TRAINING, vote, until=self.net.stopping)

    def values(self) -> list[np.ndarray]:
        return self.session.run(self.net.parameters)

    @property
    def plan(self) -> Any:
        return [*self.session.plans.values()][-1]


def rows(steps: int, batch: int = 100) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 300, (steps, batch)).astype(np.int32)


def test_a_step_of_the_mlp_is_twelve_launches(
    cupy: Any, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    """8 of them products, 3 beside the others, which are: rows, f1, f2, f3, loss, x3, x2, look, update."""
    mlp = Mlp(make_backend("gpu", 0), tmp_path, write_set)
    before = cupy.counts.copy()
    mlp.steps(rows(1))
    counted = cupy.counts - before
    (segment,) = mlp.plan._steps.segments
    assert sum(getattr(k, "waits", False) for k in segment.kernels) == 3  # of w3, w2, w1
    assert mlp.plan.launches == 12 and counted["launches"] == 4
    assert counted["products"] == 8 + PROBE and counted["epilogues"] == 5 + PROBE


def test_what_crosses_the_bus(cupy: Any, tmp_path: Path, write_set: Callable[..., Path]) -> None:
    """Of a step the numbers of its rows; what a window is goes up once, and nothing is fetched."""
    mlp = Mlp(make_backend("gpu", 0), tmp_path, write_set)
    mlp.steps(rows(1))
    crossed = []
    for steps in (1, 1, 3, 5, 5):
        before = cupy.counts.copy()
        mlp.steps(rows(steps))
        crossed.append(cupy.counts - before)
    one, again, three, five, last = (c["up"] for c in crossed)
    assert one == again and 400 <= one <= 400 + 2 * 64  # the rows, and two numbers more
    assert (five - three) / 2 <= 416 and five == last and three - one > 800  # the control block, and rows
    assert not any(c["down"] for c in crossed)


def test_a_single_step_that_ends_a_call_is_followed_by_others(cupy: Any) -> None:
    """What the device knows of the last call is not what this one finds."""
    session, fetches, feeds, variables = network(dt.train.AdamOptimizer(0.01), make_backend("gpu", 0))
    other = network(dt.train.AdamOptimizer(0.01), make_backend("cpu"))
    given = batches(12)
    given[[1, 4, 5, 9], 3] = 89  # a step with it is the last of its call
    step, reference = (s.make_callable(f, i) for s, f, i in ((session, fetches, feeds), other[:3]))
    found = []
    for low, high in ((0, 1), (1, 2), (2, 3), (3, 6), (5, 6), (6, 9), (9, 10), (10, 11), (11, 12)):
        found += step.several(Window(given[low:high], 21), until=fetches[1])
        found.append(step(given[high - 1]))
    expected = []
    for low, high in ((0, 1), (1, 2), (2, 3), (3, 5), (5, 6), (6, 9), (9, 10), (10, 11), (11, 12)):
        expected += [reference(row) for row in given[low:high]]
        expected.append(reference(given[(high if high != 5 else 6) - 1]))
    assert [r[1] for r in found] == [r[1] for r in expected]
    np.testing.assert_allclose([r[0] for r in found], [r[0] for r in expected], rtol=1e-4)
    for a, b in zip(session.run(variables), other[0].run(other[3]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_the_mlp_learns_as_on_the_cpu(cupy: Any, tmp_path: Path, write_set: Callable[..., Path]) -> None:
    ours, cpu = (Mlp(d, tmp_path, write_set) for d in (make_backend("gpu", 0), make_backend("cpu")))
    given = rows(40)
    for a, b in zip(ours.steps(given), cpu.steps(given), strict=True):
        np.testing.assert_allclose(a[:3], b[:3], rtol=1e-4, atol=1e-5)
    for a, b in zip(ours.values(), cpu.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4)


def test_kernels_together_are_those_alone_to_the_bit(
    cupy: Any, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    """Rows, metrics and counters beside what is large."""
    found = []
    for alone in (False, True):
        mlp = Mlp(make_backend("gpu", 0), tmp_path, write_set)
        mlp.steps(rows(1))
        values = [1.0, np.zeros(1, np.float32)]
        results = [mlp.plan.run([r, *values], mlp.plan.kernels if alone else None)[:3] for r in rows(6)[1:]]
        found.append([np.array(results), *mlp.values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [340, -1])
def test_a_row_that_is_not_there(cupy: Any, tmp_path: Path, write_set: Callable[..., Path], bad: int) -> None:
    """It is told as on the CPU, of the step in which it is read, and that step writes nothing."""
    given = rows(20)
    given[7, 31] = bad
    said, values = [], []
    for device in (make_backend("gpu", 0), make_backend("cpu")):
        mlp = Mlp(device, tmp_path, write_set)
        with pytest.raises(InvalidArgumentError) as error:
            mlp.steps(given)
        said.append(str(error.value).removeprefix("images").removeprefix("labels"))
        values.append(mlp.values())
        reference = Mlp(device, tmp_path, write_set)
        reference.steps(given[:7])
        for a, b in zip(mlp.values(), reference.values(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert said[0] == said[1] and said[0].startswith(" has 340 rows, and row ")


def test_rows_behind_the_last_step_are_not_looked_at(cupy: Any) -> None:
    """The launch that begins a step reads them beside the block that learns that there is no step."""
    table = dt.ops.lend.Table("rows", (3,), dt.uint8)
    with dt.Graph().as_default() as graph:
        indices = dt.placeholder("int32", [None])
        x = dt.cast(dt.ops.base.apply(dt.ops.lend.LentRows(table), indices), "float32") * 2.0
        w = dt.Variable(np.zeros(3, np.float32))
        add = dt.assign_add(w, dt.reduce_sum(x, 0))
        stop = dt.cast(dt.reduce_any(dt.equal(indices, 1)), "float32")
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
        session.run(dt.global_variables_initializer())
    table.rows = session.backend.from_host(np.arange(1500 * 3, dtype=np.uint8).reshape(1500, 3))
    given = np.full((40, 1200), 2, np.int32)
    given[20, 5] = 1
    given[21:] = 5000  # nowhere
    found = session.make_callable([stop, add.op], [indices]).several(Window(given, 1200), until=stop)
    assert len(found) == 21 and found[-1][0] == 1
    single = np.array([6, 7, 8], np.float32)
    np.testing.assert_array_equal(session.run(w), 2 * single * 1200 * 21 - 2 * 3)


def test_bad_numbers_are_found_where_they_come_from(
    cupy: Any, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    """Of a product and the loop behind it the one that makes them."""
    mlp = Mlp(make_backend("gpu", 0), tmp_path, write_set, check_numerics=True)
    mlp.steps(rows(2))
    kernel = next(v for v in mlp.net.parameters if v.shape == (256, 256))
    mlp.session.set_value(kernel, np.full((256, 256), 3e38, np.float32))
    with pytest.raises(NumericError, match="MatMul 'hidden_2/MatMul'"):
        mlp.steps(rows(2))


def test_a_product_does_not_move_behind_a_write_of_what_it_reads(cupy: Any) -> None:
    with dt.Graph().as_default() as graph:
        x = dt.placeholder("float32", [400, 300])
        w = dt.Variable(np.ones((300, 200), np.float32))
        y = dt.matmul(x, w)
        with dt.control_dependencies([y]):
            written = dt.assign(w, dt.zeros([300, 200]))
        with dt.control_dependencies([written]):
            z = dt.nn.relu(y + dt.reshape(w.read_value()[0], [200]))
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
        session.run(dt.global_variables_initializer())
    found = session.run(z, {x: np.ones((400, 300), np.float32)})
    np.testing.assert_array_equal(found, np.full((400, 200), 300, np.float32))


def test_what_two_read_is_not_joined(cupy: Any) -> None:
    with dt.Graph().as_default() as graph:
        x = dt.placeholder("float32", [400, 300])
        y = dt.matmul(x, dt.constant(np.ones((300, 200), np.float32)))
        session = dt.Session(graph=graph, comm=None, device=make_backend("gpu", 0))
        given = {x: np.ones((400, 300), np.float32)}
        session.run([y + 1.0], given)
        assert any(isinstance(n.kind, Joined) for n in [*session.plans.values()][-1].nodes)
        found = session.run([y, y + 1.0], given)
        assert not any(isinstance(n.kind, Joined) for n in [*session.plans.values()][-1].nodes)
    np.testing.assert_array_equal(found[1] - found[0], np.ones((400, 200)))
