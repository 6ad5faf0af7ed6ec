"""Kernels in C: NumPy's values, made once, and never in the way of a machine without a compiler."""

from __future__ import annotations

import ctypes
import errno
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from edges import (
    MANY,
    MISSED,
    ULPS,
    assert_near,
    assert_same_bits,
    elementwise_ops,
    many,
    numbers,
    tiny,
)

import dtrain as dt
import dtrain.ops.proximal
import dtrain.ops.warp  # which only keras imports
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.errors import EnvironmentProblem, GraphError, InvalidArgumentError, UsageError
from dtrain.graph.graph import Spec
from dtrain.keras import optimizers
from dtrain.native import compiler, loops
from dtrain.native.code import Code, NativeCall, blas
from dtrain.native.loops import Loop
from dtrain.ops.array import Move
from dtrain.ops.base import MATRIX, REDUCTION, REGISTRY, Example, apply
from dtrain.ops.body import Instruction
from dtrain.ops.evaluate import evaluate
from dtrain.ops.fused import Fused
from dtrain.ops.index import Gather
from dtrain.ops.math import Add, Exp, Greater, Mul
from dtrain.ops.placement import shard_bounds
from dtrain.ops.reduce import Sum
from dtrain.ops.update import _Update
from dtrain.passes.fuse import fuse
from dtrain.passes.step import Step, ancestors
from dtrain.runtime.backend import Backend, make_backend
from dtrain.runtime.draws import Draws
from dtrain.runtime.layout import PlanEnv
from dtrain.runtime.profile import ELEMENTWISE, part_of

pytestmark = pytest.mark.skipif(not compiler.command(), reason="there is no C compiler")


def session(kernels: str, comm: Communicator | None = None, graph: dt.Graph | None = None) -> dt.Session:
    return dt.Session(graph=graph, comm=comm, device=Backend(kernels))


def dense(x: dt.Tensor, inputs: int, units: int) -> dt.Tensor:
    kernel = dt.Variable(dt.random_normal([inputs, units], stddev=0.3))
    return dt.matmul(x, kernel) + dt.Variable(dt.zeros([units]))


def plan_of(made: dt.Session) -> Any:
    return list(made.plans.values())[-1]


# -- one op at a time ------------------------------------------------------------------------------------
def arrays_of(example: Example, dtype: str) -> list[np.ndarray]:
    generator = np.random.default_rng(11)
    arrays = [
        np.asarray(generator.uniform(example.low, example.high, i)) if isinstance(i, tuple) else np.asarray(i)
        for i in example.inputs
    ]
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]


def outputs(node: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays for a node's outputs, filled with what would be noticed."""
    specs = node.kind.infer(*(Spec(a.shape, t.dtype) for a, t in zip(arrays, node.inputs, strict=True)))
    return [np.full(spec.shape, 77).astype(spec.dtype.numpy) for spec in specs]


def test_every_op_in_c_gives_numpys_values() -> None:
    comm, backend = SingleCommunicator(), Backend("numpy")
    code, tried = Code(comm), []
    env = PlanEnv(backend, comm, Draws(dt.get_default_graph(), comm, backend))
    for name, kind in sorted(REGISTRY.items()):
        for example in kind.examples():
            for dtype in ("float32", "float64"):
                arrays = arrays_of(example, dtype)
                node = apply(example.op, *(dt.placeholder(a.dtype, a.shape) for a in arrays)).op
                outs = outputs(node, arrays)
                call = node.kind.native(code, [t.spec for t in node.inputs], arrays, outs)
                if call is not None:
                    calls = call if isinstance(call, list) else [call]
                    assert all(isinstance(c, NativeCall) for c in calls)
                    expected = outputs(node, arrays)
                    node.kind.bind(env, arrays, expected)()
                    tried.append((name, calls, outs, expected))
    code.compile()
    program = code.program([call for _, calls, _, _ in tried for call in calls])
    count = sum(len(calls) for _, calls, _, _ in tried)
    assert program.caller(0, count, np.zeros(1, np.int64), 0)() == count
    for name, _, outs, expected in tried:
        for out, right in zip(outs, expected, strict=True):
            if "Softmax" in name:
                np.testing.assert_allclose(out, right, rtol=2e-6, atol=2e-7)
            elif name in ("Sum", "Prod", "Fused", "MatMul") or name.startswith(
                "Conv2D"
            ):  # the order of the terms is the machine's
                np.testing.assert_allclose(out, right, rtol=1e-6, atol=1e-6)
            elif out.dtype.kind == "f":
                np.testing.assert_array_max_ulp(out, right, ULPS.get(name, 0))
            else:
                np.testing.assert_array_equal(out, right)
    assert len({name for name, *_ in tried}) > 60


def compute(op: Any, *arrays: np.ndarray) -> np.ndarray:
    """One op in C."""
    code = Code(SingleCommunicator())
    node = apply(op, *(dt.placeholder(a.dtype, a.shape) for a in arrays)).op
    outs = outputs(node, list(arrays))
    code_call = node.kind.native(code, [t.spec for t in node.inputs], list(arrays), outs)
    code.compile()
    assert code.program([code_call]).caller(0, 1, np.zeros(1, np.int64), 0)() == 1
    return outs[0]


@contextmanager
def tiny_as_zero() -> Iterator[None]:
    """NumPy computes with numbers below the normal ones as zeros, as C does."""
    text = (compiler.HERE / "kernels.c").read_text()
    text += "\nuint64_t begin(void) { return flush_tiny(); }\nvoid end(uint64_t mode) { set_mode(mode); }\n"
    library = compiler.load(text)
    library.begin.restype, library.end.argtypes = ctypes.c_uint64, [ctypes.c_uint64]
    mode = library.begin()
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        library.end(mode)


@pytest.mark.parametrize("dtype", loops.TYPES)
def test_elementwise_ops_have_numpys_bits_at_100_000_numbers_and_edges(dtype: str) -> None:
    comm, backend = SingleCommunicator(), Backend("numpy")
    code, tried = Code(comm), []
    env = PlanEnv(backend, comm, Draws(dt.get_default_graph(), comm, backend))
    for name, op, inputs in elementwise_ops(dtype):
        node = apply(op, *(dt.placeholder(a.dtype, a.shape) for a in inputs)).op
        out = outputs(node, inputs)[0]
        call = op.native(code, [t.spec for t in node.inputs], inputs, [out])
        if call is not None:
            tried.append((name, op, inputs, call, out))
    code.compile()
    program = code.program([call for *_, call, _ in tried])
    assert program.caller(0, len(tried), np.zeros(1, np.int64), 0)() == len(tried)
    for name, op, inputs, _, out in tried:
        wide = name in MISSED and dtype == "float32"
        with np.errstate(invalid="ignore"):  # a signalling NaN
            given = [a.astype("float64") for a in inputs] if wide else inputs
        right = np.full(out.shape, 77).astype("float64" if wide else out.dtype)
        kernel = op.bind(env, given, [right])
        with tiny_as_zero():
            kernel()
        if name in MISSED:
            assert_near(name, out, right, MISSED[name] if wide else ULPS[name])
        else:
            assert_same_bits(repr(op), out, right, np.any([tiny(a) for a in inputs], axis=0))
    assert len(tried) >= {"float32": 43, "float64": 43, "bool": 10}.get(dtype, 25)


def grown(example: Example, entries: int) -> Iterator[tuple[Any, list[Any]]]:
    """An example's op and inputs with one of its sizes so much larger that one has about so many entries."""

    def grow(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(grow(v) for v in value)
        return value * times if type(value) is int and value == size else value

    shapes = [i if isinstance(i, tuple) else i.shape for i in example.inputs]
    for size in sorted({d for i in example.inputs if isinstance(i, tuple) for d in i if d > 1}):
        if any(isinstance(i, np.ndarray) and size in i.shape[1:] for i in example.inputs):
            continue
        roots = [
            (entries / max(1, np.prod(shape))) ** (1 / shape.count(size)) for shape in shapes if size in shape
        ]
        times = max(1, int(min(roots)))
        inputs = [
            grow(i) if isinstance(i, tuple) else np.concatenate([i] * times) if size in i.shape else i
            for i in example.inputs
        ]
        shape = {"shape": grow(example.op.shape)} if hasattr(example.op, "shape") else {}
        yield type(example.op)(**vars(example.op) | shape), inputs


#: Ops that add or multiply floats in an order of their own in C and CUDA: between which numbers these are and
#: how many units in the last place of the result they may miss. The others are exact.
SUMMED: dict[str, tuple[float, float, int]] = {
    **dict.fromkeys(("AvgPool", "AvgPoolGrad", "BatchMatMul", "Conv2D", "Cumsum"), (0.5, 1.5, 200)),
    **dict.fromkeys(("Conv2DBackpropFilter", "Conv2DBackpropInput", "Fused", "MatMul"), (0.5, 1.5, 200)),
    **dict.fromkeys(("Mean", "ScatterAddLike", "ScatterNdAddLike", "Sum", "SumLike"), (0.5, 1.5, 200)),
    **dict.fromkeys(("SoftmaxCrossEntropy", "SparseSoftmaxCrossEntropy", "TileGrad"), (0.5, 1.5, 200)),
    **dict.fromkeys(("Softmax", "LogSoftmax"), (-20, 20, 20)),
    "Prod": (0.9999, 1.0001, 5000),
}


@pytest.mark.parametrize(("device", "dtypes", "entries"), [
    ("c", ("float32", "int32", "uint8"), MANY // 2), ("c", ("float64", "int64", "bool"), MANY // 2),
    ("cuda", ("float32",), 1001), ("cuda", ("int64",), 1001),
])  # fmt: skip
def test_ops_that_are_not_elementwise_at_many_numbers_and_edges(
    device: str, dtypes: Sequence[str], entries: int, request: pytest.FixtureRequest
) -> None:
    """C and CUDA against NumPy: what is moved to the bit, what is chosen exactly, near what is added up."""
    random = np.random.default_rng(5)
    pools = {d: random.permutation(np.concatenate(numbers(d, 1))) for d in dtypes}
    tried, feeds, outs, right = [], {}, [], []
    for name, kind in sorted(REGISTRY.items()):
        if kind.elementwise:
            continue
        large = [one for example in kind.examples() for one in grown(example, entries)]
        # of integers NumPy makes products
        taken = [d for d in dtypes if d.startswith("float") or kind.category != MATRIX]
        for (op, inputs), dtype in itertools.product(large, taken):
            arrays = []
            for given in inputs:
                size = int(np.prod(given)) if isinstance(given, tuple) else 0
                array = np.resize(np.roll(pools[dtype], random.integers(MANY)), size)
                if name in SUMMED and dtype.startswith("float"):
                    array = random.uniform(*SUMMED[name][:2], size).astype(dtype)
                elif kind.category == REDUCTION or "Pool" in name:
                    # C counts numbers below the normal ones as zeros
                    array = np.where(tiny(array), 0, array).astype(dtype)
                elif name == "Warp":  # and parts of such that are above
                    array = np.where(np.abs(array) < 1e-20, 0, array).astype(dtype)
                arrays.append(array.reshape(given) if isinstance(given, tuple) else given)
            ins = [Spec(a.shape, dt.as_dtype(a.dtype)) for a in arrays]
            try:
                specs = op.infer(*ins)
                if max(math.prod(spec.shape) for spec in specs) > 10 * entries or op.flops(ins, specs) > 1e7:
                    continue
                wide = [a.astype("float64") if a.dtype == "float32" and name in SUMMED else a for a in arrays]
                right += evaluate(op, wide)
            except (GraphError, IndexError, OverflowError, ValueError):
                continue  # another dtype, or sizes that belong together
            xs = [dt.placeholder(a.dtype, a.shape) for a in arrays]
            tried += [(name, op)] * len(specs)
            outs += apply(op, *xs).op.outputs
            feeds |= zip(xs, arrays, strict=True)
    if device == "cuda":
        request.getfixturevalue("cupy")
    made = dt.Session(comm=None, device=make_backend("gpu", 0) if device == "cuda" else Backend("c"))
    for (name, op), found, expected in zip(tried, made.run(outs, feeds), right, strict=True):
        assert found.shape == expected.shape
        if found.dtype.kind == "f" and name in SUMMED:
            rounding = SUMMED[name][2] * np.finfo(found.dtype).eps
            np.testing.assert_allclose(found, expected, rounding, rounding, err_msg=repr(op))
        elif isinstance(op, Move | Gather) or op.is_view:
            assert found.tobytes() == expected.tobytes(), op
        else:
            np.testing.assert_array_equal(found, expected, repr(op))
    if device == "cuda":
        assert all(plan._windows for plan in made.plans.values()), "CuPy computes some of it"
    assert len({name for name, _ in tried}) > 35


def updates() -> Iterator[Any]:
    """Each optimizer's update of one variable, with each of its switches."""
    for _, kind in sorted(REGISTRY.items()):
        if issubclass(kind, _Update):
            fields = {name: text for name, text in kind.__annotations__.items() if name != "count"}
            # another power goes through exp and log, which C rounds otherwise
            numbers = {name: {"epsilon": 1e-7, "power": -0.5}.get(name, 0.9) for name in fields}
            for on in (True, False) if "bool" in fields.values() else (True,):
                yield kind(1, **{n: on if fields[n] == "bool" else numbers[n] for n in fields})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_have_numpys_bits_at_100_000_numbers_and_edges(dtype: str) -> None:
    comm, backend = SingleCommunicator(), Backend("numpy")
    code, tried = Code(comm), []
    env = PlanEnv(backend, comm, Draws(dt.get_default_graph(), comm, backend))
    random = np.random.default_rng(2)
    for op in updates():
        edges, others = numbers(dtype, 3)
        columns = [random.permutation(np.concatenate([edges, others])) for _ in range(2 + op.slots)]
        columns[:2] = many([dtype, dtype])
        columns = [np.where(tiny(c), 0, c)[:MANY].astype(dtype) for c in columns]
        rate = np.asarray(0.01 if op.rates == 1 else [0.01, 0.02, 1.5], dtype)
        mine, right = ([*(c.copy() for c in columns), rate] for _ in range(2))
        calls = op.native(code, [], mine, [])
        kernel = op.bind(env, right, [])
        with tiny_as_zero():
            kernel()
        tried.append((op, calls, mine, right))
    code.compile()
    calls = [call for _, calls, *_ in tried for call in calls]
    assert code.program(calls).caller(0, len(calls), np.zeros(1, np.int64), 0)() == len(calls) == len(tried)
    for op, _, mine, right in tried:
        for found, expected in zip(mine[:-1], right[:-1], strict=True):
            assert_same_bits(repr(op), found, expected, tiny(found) | tiny(expected))
    assert len(tried) == 17


def is_rounded(node: dt.Operation) -> bool:
    """Whether C and NumPy may round it otherwise, or NumPy does it in both and counts tiny numbers in one."""
    dtypes = [t.dtype for t in node.inputs]
    own = node.kind.elementwise and node.kind.translatable(dtypes, node.outputs[0].dtype, False)
    return node.type in MISSED or (node.kind.elementwise and not own)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_elementwise_ops_have_numpys_bits(dtype: str) -> None:
    """At 100,000 numbers, as plans in which ops are fused."""
    names, gradients, feeds = [], [], {}
    flow = np.random.default_rng(3).uniform(-2, 2, MANY).astype(dtype)
    flow[:3] = np.inf, -np.inf, np.nan
    for name, op, inputs in elementwise_ops(dtype):
        given = [np.where(tiny(a), 0, a).astype(a.dtype)[:MANY] for a in inputs]
        xs = [dt.placeholder(a.dtype, a.shape) for a in given]
        y = apply(op, *xs)
        if y.dtype.is_floating and y.dtype.name == dtype:
            found = [g for g in dt.gradients(y, xs, flow) if g is not None]
            names += [(name, any(map(is_rounded, ancestors([g.op])))) for g in found]
            gradients += found
            feeds |= zip(xs, given, strict=True)
    with tiny_as_zero():
        right = session("numpy").run(gradients, feeds)
    for (name, rounded), ours, numpys in zip(names, session("c").run(gradients, feeds), right, strict=True):
        if rounded:
            rounding = 64 * np.finfo(dtype).eps
            np.testing.assert_allclose(ours, numpys, rtol=rounding, atol=rounding, err_msg=name)
        else:
            assert_same_bits(f"gradient of {name}", ours, numpys, tiny(ours) | tiny(numpys))
    assert len(names) > 40


@pytest.mark.parametrize("name", MISSED)
def test_functions_are_accurate_everywhere(name: str) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, 300_000, np.uint32)
    special = np.float32(
        [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 88.7, 88.8, -87.4, -103, -104, 1e-30, 0.625]
    )
    x = np.concatenate([bits.view(np.float32), special, np.linspace(-20, 20, 100_001, dtype=np.float32)])
    x = np.where(np.abs(x) < 1.2e-38, 0, x).astype(np.float32)  # numbers below it count as zero in C
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        right = {"Exp": np.exp, "Log": np.log, "Tanh": np.tanh, "Sigmoid": lambda v: 1 / (1 + np.exp(-v))}
        expected = right[name](wide).astype(np.float32)
    expected = np.where(np.abs(expected) < 1.2e-38, 0, expected)
    value = compute(REGISTRY[name](), x)
    value = np.where(np.abs(value) < 1.2e-38, 0, value)
    np.testing.assert_array_equal(np.isnan(value), np.isnan(expected))
    fine = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isinf(value[fine]), np.isinf(expected[fine]))
    fine &= np.isfinite(expected)
    np.testing.assert_allclose(value[fine], expected[fine], rtol=4e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_kind_a_number_is_and_where_it_is_rounded_to(dtype: str) -> None:
    x = np.array([0.0, -0.0, 0.5, 1.5, -2.5, -0.4, 3e9, -1e30, np.inf, -np.inf, np.nan], dtype)
    functions = {"IsNan": np.isnan, "IsInf": np.isinf, "IsFinite": np.isfinite}
    functions |= {"Floor": np.floor, "Ceil": np.ceil, "Rint": np.rint}
    for name, function in functions.items():
        np.testing.assert_array_equal(compute(REGISTRY[name](), x), function(x))


SHAPES = [
    ((), ()), ((1,), (5,)), ((0, 3), (3,)), ((3, 0), (3, 1)), ((7, 5), (5,)), ((7, 5), (7, 1)),
    ((7, 1), (1, 5)), ((2, 3, 4), (3, 1)), ((2, 1, 4), (3, 4)), ((2, 3, 4), (2, 1, 4)),
    ((2, 3, 4, 5), (3, 1, 5)), ((2500,), ()),
]  # fmt: skip


def test_loops_run_over_every_way_of_broadcasting_and_every_reduction() -> None:
    generator, code, cases = np.random.default_rng(3), Code(SingleCommunicator()), []
    comm, backend = SingleCommunicator(), Backend("numpy")
    env = PlanEnv(backend, comm, Draws(dt.get_default_graph(), comm, backend))
    for a_shape, b_shape in SHAPES:
        rank = len(np.broadcast_shapes(a_shape, b_shape))
        subsets = [tuple(i for i in range(rank) if mask >> i & 1) for mask in range(2**rank)]
        for axes in [None, *subsets]:
            a, b = (generator.uniform(-1, 1, s).astype(np.float32) for s in (a_shape, b_shape))
            odd = generator.integers(0, max(a.size, 1), a.size // 20)
            a.reshape(-1)[odd] = generator.choice(np.float32([np.nan, np.inf, -np.inf, 0]), len(odd))
            body = [Instruction(Add(), (0, 1)), Instruction(Mul(), (2, 0)), Instruction(Greater(), (3, 0))]
            kinds = [REGISTRY[name](axes, False) for name in ("Max", "Min", "All", "Any", "Sum", "Prod")]
            body += [Instruction(kind, (4 if kind.of_bools else 3,)) for kind in kinds]
            op = Fused(2, tuple(body), tuple(range(3, 5 + len(kinds))))
            outs, right = (outputs(apply(op, *(dt.constant(x) for x in (a, b))).op, [a, b]) for _ in range(2))
            call = op.native(code, [Spec(x.shape, dt.float32) for x in (a, b)], [a, b], outs)
            assert call is not None
            with np.errstate(all="ignore"):
                op.bind(env, [a, b], right)()
            cases.append((call, outs, right))
    code.compile()
    program = code.program([call for call, _, _ in cases])
    assert program.caller(0, len(cases), np.zeros(1, np.int64), 0)() == len(cases)
    for _, outs, expected in cases:
        for out, right in zip(outs[:-2], expected[:-2], strict=True):
            np.testing.assert_array_equal(out, right)
        for out, right in zip(outs[-2:], expected[-2:], strict=True):  # in another order
            np.testing.assert_allclose(out, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1,), (5, 1), (3, 1029), (2300,), (4, 3, 5)])
def test_a_loop_that_streams_gives_the_same_bits(shape: tuple[int, ...]) -> None:
    """Two results, one of which is streamed, and their sum: what lies beside them is left alone."""
    n = int(np.prod(shape))
    random = np.random.default_rng(n)
    a, b = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    body = [(Add(), (0, 1)), (Mul(), (2, 0)), (Sum(tuple(range(len(shape))), False), (3,))]
    specs = [(s, dt.float32) for s in [shape] * 4 + [()]]
    found = []
    for streamed in ((), (3,), (2, 3)):
        code, memory = Code(SingleCommunicator()), np.zeros((2, n + 32), np.float32)
        total = np.zeros((), np.float32)
        loop = Loop(body, [2, 3, 4], specs, 2, streamed=streamed)
        assert loop.source.count("stream(") == len(streamed) * (n > 1)
        outs = [row[4 : 4 + n].reshape(shape) for row in memory]
        call = code.function(loop.symbol, loop.source, *loop.sizes([shape, shape]), a, b, *outs, total)
        code.compile()
        assert code.program([call]).caller(0, 1, np.zeros(1, np.int64), 0)() == 1
        assert not memory[:, :4].any() and not memory[:, 4 + n :].any()
        found.append((*outs, total))
    np.testing.assert_array_equal(found[0][0], a + b)
    for other in found[1:]:
        for plain, past in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(past, plain)


def test_one_function_serves_every_batch_size() -> None:
    def text(rows: int) -> str:
        specs = [((rows, 4), dt.float32), ((4,), dt.float32), ((rows, 4), dt.float32)]
        return Loop([(Add(), (0, 1))], [2], specs, 2).source

    assert text(100) == text(60) != text(1)


def test_what_has_no_form_in_c_is_left_to_numpy() -> None:
    code = Code(SingleCommunicator())
    half = np.ones(3, np.float16)
    spec = Spec(half.shape, dt.as_dtype(half.dtype))
    assert Exp().native(code, [spec], [half], [np.empty(half.shape, half.dtype)]) is None


def test_loops_take_views() -> None:
    code = Code(SingleCommunicator())
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 4, 6)).astype(np.float32)
    ins, out = [a[:, ::2], b[:, 3:]], np.empty((4, 3), np.float32)
    spec = Spec(out.shape, dt.float32)
    calls = Add().native(code, [spec, spec], ins, [out])
    assert len(calls) == 3  # two copies
    code.compile()
    code.program(calls).caller(0, 3, np.zeros(1, np.int64), 0)()
    np.testing.assert_array_equal(out, ins[0] + ins[1])


# -- whole graphs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_random_graphs_give_numpys_values(
    random_graph: Any, on_threads: Callable[..., list[Any]], ranks: int, seed: int
) -> None:
    made = random_graph(seed, 7, operations=14)
    fetches = [*made.tensors, *made.gradients()]
    graph = dt.get_default_graph()

    def body(kernels: str) -> Callable[[Communicator], Any]:
        return lambda comm: session(kernels, comm, graph).run(fetches, made.batch(comm.rank, comm.size))

    right = on_threads(1, body("numpy"))[0]
    for found in on_threads(ranks, body("c")):
        for value, expected in zip(found, right, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


def test_training_in_c_is_training_in_numpy() -> None:
    generator = np.random.default_rng(2)
    x = generator.uniform(-1, 1, (60, 13)).astype(np.float32)
    labels = generator.integers(0, 5, 60).astype(np.int32)
    for optimizer in (
        lambda: dt.train.GradientDescentOptimizer(0.1),
        lambda: dt.train.MomentumOptimizer(0.02, 0.9),
        lambda: dt.train.MomentumOptimizer(0.02, 0.9, use_nesterov=True),
        lambda: dt.train.AdamOptimizer(0.01),
    ):
        results = []
        for kernels in ("numpy", "c"):
            dt.reset_default_graph()
            dt.set_random_seed(5)
            images, classes = dt.placeholder("float", [None, 13]), dt.placeholder("int32", [None])
            logits = dense(dt.nn.relu(dense(images, 13, 17)), 17, 5)
            loss = dt.losses.sparse_softmax_cross_entropy(classes, logits)
            train = optimizer().minimize(loss)
            made = session(kernels)
            made.run(dt.global_variables_initializer())
            losses = [made.run([loss, train], {images: x, classes: labels})[0] for _ in range(40)]
            in_c = plan_of(made)
            results.append((losses, made.run(dt.trainable_variables())))
        assert len(in_c.calls) <= 3 < len(in_c.kernels) / 3
        np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-4)
        for ours, right in zip(results[1][1], results[0][1], strict=True):
            np.testing.assert_allclose(ours, right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_in_c_give_numpys_bits(dtype: str) -> None:
    """Gradients of both signs and of 0, and an epsilon of 0, where the padding must not become NaN."""
    gradient = np.array([[0.5, -3.0, 0.0], [1e-3, -0.0, 2e4]], dtype)
    make = dt.train
    for optimizer in (
        lambda: make.AdagradOptimizer(0.1),
        lambda: make.AdadeltaOptimizer(0.3, rho=0.9, epsilon=1e-6),
        lambda: make.RMSPropOptimizer(0.1, decay=0.8, momentum=0.7),
        lambda: make.RMSPropOptimizer(0.1, decay=0.8, epsilon=0.0),
        lambda: make.RMSPropOptimizer(0.1, momentum=0.3, centered=True),
        lambda: make.AdaMaxOptimizer(0.1),
        lambda: make.NadamOptimizer(0.1),
        lambda: optimizers.SGD(momentum=0.7).make(0.1),
        lambda: optimizers.SGD(momentum=0.7, nesterov=True).make(0.1),
        lambda: optimizers.Adagrad(epsilon=0.01).make(0.1),
        lambda: optimizers.Nadam().make(0.1),
    ):
        found = []
        for kernels in ("numpy", "c"):
            dt.reset_default_graph()
            weights = [dt.Variable(np.arange(n, dtype=dtype).reshape(-1, 3)) for n in (6, 9)]
            pulls = [gradient, np.concatenate([gradient, gradient[:1] * 7])]
            loss = dt.add_n([dt.reduce_sum(w * g) for w, g in zip(weights, pulls, strict=True)])
            train = optimizer().minimize(loss)
            made = session(kernels)
            made.run(dt.global_variables_initializer())
            for _ in range(5):
                made.run(train)
            updates = zip(plan_of(made).kernel_nodes, plan_of(made).kernel_symbols, strict=True)
            in_c = [bool(symbol) for node, symbol in updates if node.kind.writes and node.kind.packs]
            assert in_c and all(used == (kernels == "c") for used in in_c)
            found.append(made.run(dt.global_variables()))
        for ours, right in zip(found[1], found[0], strict=True):
            np.testing.assert_array_equal(ours, right)


@pytest.mark.parametrize("start", [0, 1, 4])
@pytest.mark.parametrize("n", [1, 3, 255, 256, 257, 1030])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_update_that_streams_gives_the_same_bits(dtype: str, n: int, start: int) -> None:
    """Of any length, from any entry on, and no entry beside it."""
    type, random = {"float32": "float", "float64": "double"}[dtype], np.random.default_rng(n)
    text = "s0 = s0 * 0.9f + g; p = p - s0 * rate;"
    arrays = [random.standard_normal(n + 16).astype(dtype) for _ in range(4)]
    found = []
    for streamed in (False, True):
        code = Code(SingleCommunicator())
        symbol, source = loops.update(text, type, 2, 1, streamed)
        ours = [a.copy() for a in arrays]
        parts = [a[start : start + n] for a in ours]
        call = code.function(symbol, source, n, np.array(0.1, dtype), *parts)
        code.compile()
        code.program([call]).caller(0, 1, np.zeros(1, np.int64), 0)()
        found.append(ours)
        np.testing.assert_array_equal(ours[0][:start], arrays[0][:start])
        np.testing.assert_array_equal(ours[0][start + n :], arrays[0][start + n :])
    for plain, past in zip(*found, strict=True):
        np.testing.assert_array_equal(past, plain)
    p, g0, g1, s = (a[start : start + n].astype(float) for a in arrays)
    np.testing.assert_allclose(
        found[1][0][start : start + n], p - 0.1 * (0.9 * s + g0 + g1), rtol=1e-5, atol=1e-6
    )


def test_a_source_that_does_not_compile_is_one_sentence_with_its_op(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    x = dt.placeholder("float32", [3])
    y = dt.matmul(dt.cos(dt.erf(x * 2, name="shape") + 1)[None], dt.ones([3, 1]))
    monkeypatch.setattr(REGISTRY["Erf"], "c", "no_such_function({0})")
    with pytest.raises(
        EnvironmentProblem, match=r"one of Mul 'Mul', Erf 'shape', Add 'Add': (?s:.*)no_such_function"
    ) as error:
        session("c").run(y, {x: np.ones(3)})
    assert "--kernels numpy" in str(error.value)
    monkeypatch.undo()
    found = session("c").run(y, {x: np.ones(3)})
    np.testing.assert_allclose(found, [[3 * np.cos(1 + math.erf(2))]], rtol=1e-6)


def test_errors_are_those_of_numpys_kernels_and_lose_nothing() -> None:
    table, at = dt.constant(np.arange(12.0).reshape(4, 3)), dt.placeholder("int32", [None])
    rows = dt.gather(table, at) * 2
    made = session("c")
    with pytest.raises(InvalidArgumentError, match=r"the index 4 is not in 0\.\.3"):
        made.run(rows, {at: [0, 4]})
    np.testing.assert_array_equal(made.run(rows, {at: [1, 3]}), [[6, 8, 10], [18, 20, 22]])
    labels = dt.placeholder("int32", [None])
    loss = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=dt.zeros([2, 3]))
    with pytest.raises(InvalidArgumentError, match="a label is -1"):
        made.run(loss, {labels: [0, -1]})


# -- the pass --------------------------------------------------------------------------------------------
def fused(fetches: Any, native: bool = True) -> Step:
    from dtrain.passes import compile_step

    return compile_step(fetches, [], [], 1, True if native else None)


def test_fuse_joins_a_chain_with_its_sums_and_keeps_what_is_read_elsewhere() -> None:
    x = dt.Variable(np.ones((4, 3), np.float32))
    y = dt.nn.relu(x * 2 + 1)
    step = fused([dt.reduce_sum(y, 0), dt.matmul(y, dt.transpose(y))])
    (node,) = [n for n in step.graph.operations if n.type == "Fused"]
    assert [type(op).__name__ for op, _ in node.kind.body] == ["Mul", "Add", "Relu", "Sum"]  # type: ignore[attr-defined]
    assert [t.spec.shape for t in node.outputs] == [(4, 3), (3,)]


def test_fuse_never_joins_around_an_op_in_between() -> None:
    x = dt.Variable(np.ones((3, 3), np.float32))
    y = dt.exp(x)
    z = dt.matmul(y, y) + y  # the product lies between exp and the sum
    value = session("c")
    value.run(dt.global_variables_initializer())
    np.testing.assert_allclose(value.run(z), np.full((3, 3), np.e**2 * 3 + np.e), rtol=1e-6)
    assert not [n for n in plan_of(value).nodes if n.type == "Fused"]


@pytest.mark.parametrize("kernels", ["numpy", "c"])
def test_fuse_keeps_reads_before_a_write_and_behind_it_apart(kernels: str) -> None:
    v = dt.Variable(np.float32([1, 2, 3]))
    before = dt.exp(v * 0 + v)
    with dt.control_dependencies([before]):
        write = v.assign(v + 10)
    after = dt.identity(write) * 1.5 + dt.log(before)
    made = session(kernels)
    made.run(dt.global_variables_initializer())
    np.testing.assert_allclose(made.run(after), np.float32([11, 12, 13]) * 1.5 + [1, 2, 3], rtol=1e-6)


def test_fuse_joins_scalars_that_do_not_depend_on_one_another() -> None:
    a, b = dt.Variable(2.0), dt.Variable(3.0)
    made = session("c")
    made.run(dt.global_variables_initializer())
    assert made.run([a * 2 + 1, dt.sqrt(b) - 1]) == [5.0, np.float32(np.sqrt(np.float32(3)) - 1)]
    assert [n.type for n in plan_of(made).kernel_nodes] == ["Fused"]


def test_a_sum_is_not_read_in_the_loop_that_makes_it() -> None:
    x = dt.Variable(np.float32([[1], [2], [3]]))
    y = x * 2
    centred = y - dt.reduce_sum(y, 0, keepdims=True)
    same_shape = dt.Variable(np.float32([[5.0]])) * 3
    alone = same_shape - dt.reduce_sum(same_shape, 0, keepdims=True)
    made = session("c")
    made.run(dt.global_variables_initializer())
    np.testing.assert_array_equal(made.run(centred), [[-10], [-8], [-6]])
    np.testing.assert_array_equal(made.run(alone), [[0]])


def test_a_fused_op_is_elementwise_in_a_profile() -> None:
    (node,) = [n for n in fused([dt.exp(dt.Variable([1.0])) * 2]).graph.operations if n.type == "Fused"]
    assert part_of(node) == ELEMENTWISE


def test_numpy_runs_a_fused_op_in_pieces_with_the_same_bits() -> None:
    big, bias = np.random.default_rng(0).standard_normal((3000, 100), np.float32), np.arange(100, dtype="f")
    x = dt.placeholder("float", [None, 100])
    y = dt.nn.relu(dt.tanh(x + bias) * 2)
    made = session("numpy")
    value = made.run(y, {x: big})
    assert [n.type for n in plan_of(made).kernel_nodes] == ["Fused"]
    np.testing.assert_array_equal(value, np.maximum(np.tanh(big + bias) * np.float32(2), 0))


def test_fuse_leaves_a_step_alone_where_nothing_can_be_joined() -> None:
    assert [n.type for n in fuse(fused([dt.exp(dt.Variable(1.0))])).graph.operations] == ["VariableOp", "Exp"]


# -- the compiler ----------------------------------------------------------------------------------------
def test_a_library_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    source = "int seven(void) { return 7; }"
    path = compiler.library(source)
    assert compiler.load(source).seven() == 7
    stamp = path.stat().st_mtime_ns
    assert compiler.library(source) == path and path.stat().st_mtime_ns == stamp
    assert compiler.library(source + "\n") != path
    assert all(p.suffix == ".so" for p in tmp_path.iterdir())  # nothing is left behind


def test_a_compiler_that_fails_is_named_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    with pytest.raises(
        EnvironmentProblem, match=r"could not make dtrain's kernels: (?s:.*)error(?s:.*)--kernels numpy"
    ):
        compiler.library("this is no C")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "source",
    [
        "double f(double x) { return dt_erf(x); }",  # not declared
        "double dt_erf(double); double f(double x) { return dt_erf(x); }",  # declared, and nowhere
        "extern int dt_table[]; int f(void) { return dt_table[0]; }",
    ],
)
def test_a_function_that_is_missing_is_named(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    with pytest.raises(
        EnvironmentProblem, match=r"could not make dtrain's kernels: (?s:.*)(dt_erf|dt_table)"
    ):
        compiler.load(source)
    assert list(tmp_path.iterdir()) == []


def make_another_machines(data: bytearray) -> None:
    data[18:20] = b"\x53\x00" if data[18:20] != b"\x53\x00" else b"\x3e\x00"  # e_machine of ELF


DAMAGES: dict[str, Callable[[bytearray], object]] = {
    "cut off": lambda data: data.__delitem__(slice(len(data) // 2, None)),
    "cut off in its header": lambda data: data.__delitem__(slice(100, None)),
    "empty": lambda data: data.clear(),
    "another file": lambda data: data.__setitem__(slice(None), b"no library"),
    "a bit": lambda data: data.__setitem__(len(data) // 2, data[len(data) // 2] ^ 4),
    "of another processor": make_another_machines,
}


@pytest.mark.parametrize("right_name", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_library_that_is_damaged_is_made_again(damage: str, right_name: bool, tmp_path: Path) -> None:
    """In a process of its own, which a library that is cut off kills (SIGBUS)."""
    if right_name and damage in ("cut off", "a bit"):
        pytest.skip("a file with the right CRC is as somebody wants it")
    code = "from dtrain.native import compiler; print(compiler.load('int seven(void) { return 7; }').seven())"
    assert python(code, tmp_path).stdout == "7\n"
    cache = tmp_path / "cache" / "dtrain" / "kernels"
    names = sorted(path.name for path in cache.iterdir())
    assert names
    for path in list(cache.iterdir()):
        data = bytearray(path.read_bytes())
        DAMAGES[damage](data)
        path.unlink()
        name = f"{path.stem.partition('-')[0]}-{crc32(data):08x}.so" if right_name else path.name
        path.with_name(name).write_bytes(data)
    done = python(code, tmp_path)
    assert done.stdout == "7\n", done.stderr
    assert sorted(path.name for path in cache.iterdir()) == names


def test_a_folder_without_room_is_left_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "kernels.c")

    places = [tmp_path / "cache", tmp_path / "own"]
    for place in places:
        place.mkdir()
    monkeypatch.setattr(compiler, "folder", lambda: places[0])
    monkeypatch.setattr(compiler, "_private_folder", lambda: places[1])
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: full() if Path(b).parent == places[0] else real(a, b))
    assert compiler.library("int six(void) { return 6; }").parent == places[1]
    assert not list(places[0].iterdir())
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(EnvironmentProblem, match=r"kept nowhere: .*No space left.*XDG_CACHE_HOME"):
        compiler.library("int five(void) { return 5; }")


def test_a_compiler_that_finds_no_room_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cc = tmp_path / "cc"
    cc.write_text("#!/bin/sh\necho '/usr/bin/ld: final link failed: No space left on device' >&2; exit 1\n")
    cc.chmod(0o755)
    monkeypatch.setattr(compiler, "command", lambda: (str(cc),))
    with pytest.raises(EnvironmentProblem, match=r"kept nowhere: .*No space left"):
        compiler.library("int four(void) { return 4; }")


def test_a_folder_that_forbids_programs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object: Operation not permitted")

    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", forbid)
    with pytest.raises(
        EnvironmentProblem, match=r"cannot be opened: .*noexec.*XDG_CACHE_HOME.*--kernels numpy"
    ):
        compiler.load("int three(void) { return 3; }")


PROGRAM = """
import numpy as np, dtrain as dt
x = dt.placeholder("float", [None, 300])
y = dt.nn.relu(x * 2 + 1)
s = dt.Session(comm=None)
print(s.run(y, {x: np.ones((300, 300), np.float32)}).sum(), list(s.plans.values())[-1].step.native)
"""


def python(code: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **environ}
    environ = {k: v for k, v in environ.items() if v}
    return subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=50, check=False
    )


def test_without_a_compiler_numpy_does_it(tmp_path: Path) -> None:
    nowhere = tmp_path / "bin"
    nowhere.mkdir()
    done = python(PROGRAM, tmp_path, PATH=str(nowhere), CC="", DTRAIN_KERNELS="")
    assert done.stdout.split() == ["270000.0", "False"], done.stderr
    done = python(PROGRAM, tmp_path, PATH=str(nowhere), CC="", DTRAIN_KERNELS="c")
    assert "no C compiler was found: install one" in done.stderr and done.returncode


def test_where_nothing_can_be_kept_it_works_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache would be")
    done = python(PROGRAM, tmp_path, DTRAIN_KERNELS="auto")
    assert done.stdout.split() == ["270000.0", "True"], done.stderr


def test_a_wrong_choice_of_kernels_is_told() -> None:
    with pytest.raises(UsageError, match="choose one of auto, c, numpy"):
        Backend("fortran")


def test_a_session_says_how_its_kernels_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert session("numpy").kernels == "NumPy"
    assert session("c").kernels == f"C, by {compiler.name()}"
    monkeypatch.setattr("dtrain.runtime.session.native_problem", lambda comm: "no C compiler was found")
    assert session("auto").kernels == "NumPy: no C compiler was found"


def test_the_blas_of_numpys_wheels_is_found() -> None:
    config: Any = np.show_config(mode="dicts")
    if "openblas" in config["Build Dependencies"]["blas"]["name"]:
        assert blas() is not None


@pytest.mark.parametrize(
    ("table", "at"),
    [(np.empty(0, np.uint8).view(float).reshape(5, 0), [4, 0, 2]), (np.arange(4.0).reshape(4, 1).T, [0, 0])],
    ids=["empty", "one"],
)
def test_rows_are_gathered_whatever_their_strides(table: np.ndarray, at: list[int]) -> None:
    """NumPy says any stride of an axis of 1, and one that is not 0 of rows that it made empty."""
    code, memory = Code(SingleCommunicator()), np.full(16, -1.0)
    size = len(at) * table.shape[1]
    call = code.gather(table, np.array(at), 0, memory[:size].reshape(len(at), -1) if size else memory[:0])
    assert call is not None
    code.program([call]).caller(0, 1, np.zeros(1, np.int64), 0)()
    np.testing.assert_array_equal(memory, [*table[at].ravel(), *[-1] * (16 - size)])


# -- a network of convolutions ---------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [0.5, 0.3, 1.0])
def test_dropout_in_c_draws_what_numpy_draws(keep: float) -> None:
    drawn = {}
    for kernels in ("numpy", "c"):
        dt.reset_default_graph()
        dt.set_random_seed(3)
        share = dt.placeholder("float32", [])
        masks = [dt.nn.dropout(dt.ones([n, 5]), share) for n in (7, 40)]
        made = session(kernels)
        drawn[kernels] = [made.run(masks, {share: k}) for k in (keep, 1.0, keep, keep)], made.draws.state
        symbols = plan_of(made).kernel_symbols
        assert (symbols.count("dropout_float") == 2) == (kernels == "c")
    (masks, state), (others, other) = drawn["numpy"], drawn["c"]
    assert state == other
    for pair, same in zip(masks, others, strict=True):
        for mask, copy in zip(pair, same, strict=True):
            np.testing.assert_array_equal(mask, copy)
    assert keep == 1 or (masks[2][1] != masks[3][1]).any()


def test_bad_shares_to_keep_are_told_in_c() -> None:
    share = dt.placeholder("float32", [])
    y = dt.nn.dropout(dt.ones([3, 5]), share)
    with pytest.raises(InvalidArgumentError, match="no probability to keep"):
        session("c").run(y, {share: 1.5})


@pytest.mark.parametrize("ranks", [1, 3])
def test_steps_of_a_cnn_are_one_call_and_the_same_as_numpys(
    ranks: int, on_threads: Callable[..., list[Any]]
) -> None:
    from dtrain.task.models import cnn

    x, y = np.random.default_rng(1).random((9, 64)).astype("f"), (np.arange(9) % 10).astype("i")

    def losses(kernels: str, comm: Communicator) -> list[float]:
        low, high = shard_bounds(9, comm.rank, comm.size)
        with dt.Graph().as_default() as graph:
            dt.set_random_seed(4)
            images, labels = dt.placeholder("float32", [None, 64]), dt.placeholder("int32", [None])
            logits = cnn(images, dt.constant(1.0), (8, 8), 10)
            each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = dt.reduce_mean(each)
            fetches = [loss, dt.train.AdamOptimizer(1e-3).minimize(loss)]
            made = session(kernels, comm, graph)
            made.run(dt.global_variables_initializer())
            fed = {images: dt.Shard(x[low:high], 9), labels: dt.Shard(y[low:high], 9)}
            found = [float(made.run(fetches, fed)[0]) for _ in range(4)]
            plan = plan_of(made)
            assert plan.repeats(None) == (kernels == "c" and comm.size == 1)
            of_numpy = {n.type for n, s in zip(plan.kernel_nodes, plan.kernel_symbols, strict=True) if not s}
            assert kernels == "numpy" or of_numpy <= {"AllReduce"}
            return found

    single = losses("numpy", SingleCommunicator())
    assert single[-1] < single[0]
    for found in on_threads(ranks, partial(losses, "c")):
        np.testing.assert_allclose(found, single, rtol=1e-4)
