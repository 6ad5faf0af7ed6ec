"""Ranks as threads of one process, and graphs drawn at random."""

from __future__ import annotations

import functools
import gzip
import hashlib
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain import machine
from dtrain.comm import Communicator
from dtrain.cuda import gpus
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend, make_backend

STANDIN = Path(__file__).parents[1] / "standin"
#: Seconds after which a rank that waits for the others gives up; they never come.
PATIENCE = 20.0


class ThreadCommunicator(Communicator):
    """One thread of several. Unlike MPI it notices ranks that are not in the same collective."""

    hosts: tuple[str, ...]

    def __init__(
        self, rank: int, size: int, barrier: threading.Barrier, board: list[Any], nodes: int = 1
    ) -> None:
        super().__init__()
        self.rank, self.size = rank, size
        self.local_size, self.nodes = size // nodes, nodes
        self.local_rank = rank % self.local_size
        first = rank - self.local_rank
        self.node = tuple(range(first, first + self.local_size))
        self.hosts = tuple(f"n{r}" for r in range(size))
        self.calls: list[tuple[Any, ...]] = []
        self._barrier, self._board = barrier, board

    def _exchange(self, tag: tuple[Any, ...], value: np.ndarray) -> list[np.ndarray]:
        self.calls.append(tag)
        self._board[self.rank] = (tag, value)
        self._barrier.wait()
        tags, values = zip(*self._board, strict=True)
        self._barrier.wait()
        assert all(t == tag for t in tags), f"the ranks are in different collectives: {tags}"
        return list(values)

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        assert array.flags.c_contiguous
        function = {"sum": np.add, "min": np.minimum, "max": np.maximum}[op]
        parts = self._exchange(("allreduce", op, array.shape, array.dtype), array.copy())
        array[...] = functools.reduce(function, parts)

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        assert array.flags.c_contiguous
        array[...] = self._exchange(("broadcast", root, array.shape, array.dtype), array.copy())[root]

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        return np.concatenate(self._exchange(("allgather", array.shape[1:], array.dtype), array.copy()))

    def abort(self, exit_code: int) -> None:
        self._barrier.abort()


def run_on_threads(size: int, body: Callable[[Communicator], Any], nodes: int = 1) -> list[Any]:
    """body(comm) on `size` ranks at once; what each returned, in rank order. Raises what the first raised.

    The thread of a rank has its number for a name.
    """
    barrier, board = threading.Barrier(size, timeout=PATIENCE), [None] * size
    results: list[Any] = [None] * size
    errors: dict[int, BaseException] = {}

    def rank(r: int) -> None:
        try:
            results[r] = body(ThreadCommunicator(r, size, barrier, board, nodes))
        except BaseException as error:
            errors[r] = error
            barrier.abort()

    threads = [threading.Thread(target=rank, args=(r,), name=str(r)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors.values(), key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return results


@pytest.fixture(scope="session")
def on_threads() -> Callable[..., list[Any]]:
    """on_threads(size, body, nodes=1): body(comm) on that many ranks, which are threads."""
    return run_on_threads


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 training and 61 test examples of noise in MNIST's format: hard, so that there are mistakes."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    sums = ""
    for stem, count in (("train", 103), ("t10k", 61)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            data = gzip.compress(header + array.astype(np.uint8).tobytes(), 1)
            (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(data)
            sums += f"{hashlib.sha256(data).hexdigest()}  {stem}-{kind}-ubyte.gz\n"
    (folder / "SHA256SUMS").write_text(sums)
    return folder


# -- graphs drawn at random ------------------------------------------------------------------------------
class RandomGraph:
    """A graph of the default graph over a batch of `rows`: float64, values that stay small, odd sizes.

    inputs: (placeholder, array) pairs whose axis 0 is the batch. constants: tensors not of the batch.
    tensors: all that was made, each with a known shape in `shape`.
    """

    def __init__(self, seed: int, rows: int, operations: int = 8) -> None:
        self.random = np.random.default_rng(seed)
        self.rows = rows
        uniform = self.random.uniform
        x = dt.placeholder("float64", [None, 3], name="x")
        y = dt.placeholder("float64", [None, 4], name="y")
        self.labels = dt.placeholder("int32", [None], name="labels")
        self.inputs = [
            (x, uniform(-1, 1, (rows, 3))),
            (y, uniform(-1, 1, (rows, 4))),
            (self.labels, self.random.integers(0, 3, rows).astype(np.int32)),
        ]
        self.constants = [dt.constant(uniform(-1, 1, shape)) for shape in ((3, 4), (4,), (5, 3), ())]
        self.shape: dict[dt.Tensor, tuple[int, ...]] = {x: (rows, 3), y: (rows, 4)}
        self.shape |= {c: tuple(c.shape.as_list()) for c in self.constants}  # type: ignore[misc]
        while len(self.shape) < 6 + operations:
            self._grow()
        self.tensors = list(self.shape)

    def batch(self, rank: int = 0, size: int = 1) -> dict[dt.Tensor, Any]:
        """This rank's feeds."""
        low, high = shard_bounds(self.rows, rank, size)
        return {t: dt.Shard(a[low:high], self.rows) for t, a in self.inputs}

    def gradients(self) -> list[dt.Tensor]:
        """Gradients of a sum of some tensors to the inputs and constants that they depend on."""
        chosen = [t for t in self.tensors[6:] if self.random.random() < 0.5] or self.tensors[-1:]
        xs = [self.tensors[0], self.tensors[1], *self.constants]
        return [g for g in dt.gradients(chosen, xs) if g is not None]

    def _pick(self, fits: Callable[[tuple[int, ...]], bool] = lambda shape: True) -> dt.Tensor:
        found = [t for t, shape in self.shape.items() if fits(shape)]
        # the later ones more often, so that graphs are deep
        return found[-1 - min(int(self.random.exponential(4)), len(found) - 1)]

    def _grow(self) -> None:
        makers = [self._unary, self._binary, self._matmul, self._reduce, self._move, self._rows]
        tensor, shape = makers[self.random.integers(len(makers))]()
        self.shape[tensor] = shape

    def _unary(self) -> tuple[dt.Tensor, tuple[int, ...]]:
        functions: list[Callable[[Any], dt.Tensor]] = [
            dt.negative, dt.tanh, dt.nn.relu, dt.sigmoid, dt.identity, dt.abs,
            lambda t: dt.square(dt.tanh(t)), lambda t: dt.exp(dt.tanh(t)), lambda t: t * 1 + 0,
        ]  # fmt: skip
        x = self._pick()
        return functions[self.random.integers(len(functions))](x), self.shape[x]

    def _binary(self) -> tuple[dt.Tensor, tuple[int, ...]]:
        functions: list[Callable[[Any, Any], dt.Tensor]] = [
            dt.add, dt.subtract, dt.maximum, dt.minimum,
            lambda a, b: a * dt.tanh(b), lambda a, b: dt.tanh(a) * b, lambda a, b: a / (1 + dt.square(b)),
        ]  # fmt: skip
        x = self._pick()
        y = self._pick(lambda shape: _broadcasts(shape, self.shape[x]))
        if self.random.random() < 0.5:
            x, y = y, x
        shape = np.broadcast_shapes(self.shape[x], self.shape[y])
        return functions[self.random.integers(len(functions))](x, y), shape

    def _matmul(self) -> tuple[dt.Tensor, tuple[int, ...]]:
        ta, tb = (bool(b) for b in self.random.integers(0, 2, 2))
        a = self._pick(lambda shape: len(shape) == 2)
        rows, inner = self.shape[a][:: -1 if ta else 1]
        fitting = [t for t, s in self.shape.items() if len(s) == 2 and s[1 if tb else 0] == inner]
        if not fitting:
            return self._unary()
        b = fitting[self.random.integers(len(fitting))]
        return dt.matmul(a, dt.tanh(b), ta, tb), (rows, self.shape[b][0 if tb else 1])

    def _reduce(self) -> tuple[dt.Tensor, tuple[int, ...]]:
        x = self._pick(lambda shape: len(shape) > 0)
        shape = self.shape[x]
        axes = [a for a in range(len(shape)) if self.random.random() < 0.6]
        empty = any(shape[a] == 0 for a in axes)
        functions = [dt.reduce_sum] if empty else [dt.reduce_sum, dt.reduce_mean, dt.reduce_max]
        keep = bool(self.random.integers(0, 2))
        result = functions[self.random.integers(len(functions))](x, axes, keep)
        kept = tuple(1 if i in axes else d for i, d in enumerate(shape))
        return result, kept if keep else tuple(d for i, d in enumerate(shape) if i not in axes)

    def _move(self) -> tuple[dt.Tensor, tuple[int, ...]]:
        x = self._pick(lambda shape: 0 < len(shape) < 4)
        shape = self.shape[x]
        kind = self.random.integers(4)
        if kind == 0:
            axis = int(self.random.integers(0, len(shape) + 1))
            return dt.expand_dims(x, axis), (*shape[:axis], 1, *shape[axis:])
        if kind == 1:
            perm = [int(p) for p in self.random.permutation(len(shape))]
            return dt.transpose(x, perm), tuple(shape[p] for p in perm)
        other = shape[::-1] if kind == 2 else (int(np.prod(shape)),)
        return dt.reshape(x, other), other

    def _rows(self) -> tuple[dt.Tensor, tuple[int, ...]]:
        if self.random.random() < 0.5:
            params = self._pick(lambda shape: len(shape) > 0 and shape[0] >= 3)
            return dt.gather(params, self.labels), (self.rows, *self.shape[params][1:])
        logits = self._pick(lambda shape: len(shape) == 2 and shape[0] == self.rows and shape[1] >= 3)
        if self.random.random() < 0.5:
            loss = dt.nn.sparse_softmax_cross_entropy_with_logits
            return loss(labels=self.labels, logits=logits), (self.rows,)
        dense = dt.nn.softmax_cross_entropy_with_logits_v2
        return dense(labels=dt.nn.softmax(dt.tanh(logits)), logits=logits), (self.rows,)


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return int(np.prod(np.broadcast_shapes(a, b))) <= 500
    except ValueError:
        return False


@pytest.fixture(scope="session")
def random_graph() -> type[RandomGraph]:
    """random_graph(seed, rows): a graph built into the default graph."""
    return RandomGraph


# -- a data set --------------------------------------------------------------------------------------------
def make_set(folder: Path, train: int, test: int) -> Path:
    """A small set in MNIST's format that a network can learn: the row of a bright block says the class."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    sums = ""
    for stem, count in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 6, 4:24] += 150
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            data = gzip.compress(header + array.tobytes(), 1)
            name = f"{stem}-{kind}-ubyte.gz"
            (folder / name).write_bytes(data)
            sums += f"{hashlib.sha256(data).hexdigest()}  {name}\n"
    (folder / "SHA256SUMS").write_text(sums)
    return folder


@pytest.fixture(scope="session")
def write_set() -> Callable[..., Path]:
    """write_set(folder, train, test): a set of that many examples, in MNIST's format; returns folder."""
    return make_set


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,003 training and 101 test examples: neither divides by a batch of 100 nor by 2, 3 or 4 ranks."""
    return make_set(tmp_path_factory.mktemp("data") / "blocks", 1003, 101)


# -- damage ------------------------------------------------------------------------------------------------
def mutate(data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Seeded damage of a file: bits flipped, cut short, ranges swapped, longer, and headers forged."""
    random = np.random.default_rng(len(data))
    for number in range(count):
        bad, kind = bytearray(data), ("flip", "cut", "swap", "longer", "header", "number")[number % 6]
        at = [int(n) for n in random.integers(0, len(data), 4)]
        if kind == "flip":
            for place in at[: 1 + number % 4]:
                bad[place] ^= 1 << int(random.integers(8))
        elif kind == "cut":
            del bad[at[0] :]
        elif kind == "swap":
            n = 1 + int(random.integers(64))
            bad[at[0] : at[0] + n], bad[at[1] : at[1] + n] = bad[at[1] : at[1] + n], bad[at[0] : at[0] + n]
        elif kind == "longer":
            bad += random.bytes(1 + int(random.integers(5000)))
        elif kind == "header":
            bad[: 1 + number % 16] = random.bytes(1 + number % 16)
        else:  # a digit of the text in the file becomes another: sizes, offsets, digests, steps
            digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
            bad[digits[at[2] % len(digits)] if digits else at[2]] = 48 + int(random.integers(10))
        yield kind, bytes(bad)


@pytest.fixture(scope="session")
def mutations() -> Callable[..., Iterator[tuple[str, bytes]]]:
    """mutations(data, count): (kind, damaged data), the same at every call."""
    return mutate


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in under CuPy's name, also where a real one is installed or has been imported."""
    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] in CUPY}
    monkeypatch.syspath_prepend(str(STANDIN))
    _forget_cupy()
    import cupy

    yield cupy
    cupy.check_memory()
    _forget_cupy()
    sys.modules.update(real)


#: The packages of CuPy.
CUPY = ("cupy", "cupy_backends", "cupyx")


def _forget_cupy() -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in CUPY]:
        del sys.modules[name]
    gpus.problem.cache_clear()


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest) -> Backend:
    """The host, and a GPU for which the stand-in compiles CUDA's kernels."""
    if request.param == "gpu":
        if not shutil.which("g++"):
            pytest.skip("the stand-in compiles CUDA sources with g++")
        request.getfixturevalue("cupy")
    return make_backend(request.param, local_rank=0)


@pytest.fixture
def blas_warning() -> str:
    """What the header of a run warns of here: variables that hold NumPy's BLAS back; '' where none is set."""
    said = " ".join(machine.held_back())
    return f"dtrain: WARNING: {said}\n" if said else ""
