"""Every op on axes of 0, 1 and a few entries, split among this job's ranks, gives what one rank gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator, SingleCommunicator
from dtrain.errors import DtrainError
from dtrain.ops.base import REGISTRY, Example, apply
from dtrain.ops.placement import REPLICATED, Placement, Sharded, shard_bounds
from dtrain.passes import FeedSpec, compile_step
from dtrain.passes.order import schedule
from dtrain.runtime.backend import Backend
from dtrain.runtime.layout import PlanEnv
from dtrain.runtime.plan import Plan

pytestmark = pytest.mark.mpi

#: Ops that one plan tries together, so that the compiler is called seldom.
TOGETHER = 80


class Case(NamedTuple):
    """An op on arrays that lie so, and what one rank computes of them."""

    name: str
    op: Any
    arrays: list[np.ndarray]
    placements: list[Placement]
    right: list[np.ndarray]


def resized(example: Example, old: int, new: int) -> list[np.ndarray]:
    """An example's arrays with `new` entries wherever it has `old`, which is one axis: its sizes differ."""
    generator = np.random.default_rng(7)
    arrays = []
    for given in example.inputs:
        if isinstance(given, tuple):
            shape = tuple(new if n == old else n for n in given)
            arrays.append(generator.uniform(example.low, example.high, shape))
            continue
        array = np.asarray(given)
        for axis, n in enumerate(array.shape):
            if n == old:
                array = array.take(np.arange(new) % old, axis)
        arrays.append(array)
    return arrays


@cache
def cases(size: int, third: int) -> list[Case]:
    """A third of: each op's examples with each of their axes at this size, split along it wherever it is."""
    found, number = [], 0
    for name, kind in sorted(REGISTRY.items()):
        for example in kind.examples():
            shapes = [given if isinstance(given, tuple) else np.shape(given) for given in example.inputs]
            for old in sorted({n for shape in shapes for n in shape}):
                number += 1
                if number % 3 != third:
                    continue
                arrays = resized(example, old, size)
                try:
                    whole = Case(name, example.op, arrays, [REPLICATED] * len(arrays), [])
                    right = tried([whole], SingleCommunicator(), "numpy")
                except (DtrainError, ValueError, IndexError):
                    continue  # it does not take such arrays
                for placements in layouts([[a for a, n in enumerate(s) if n == old] for s in shapes]):
                    found.append(whole._replace(placements=placements, right=right))
    return found


def layouts(axes: list[list[int]]) -> Iterator[list[Placement]]:
    """All inputs split along the first of their axes of one size; and each alone along each."""
    if sum(map(bool, axes)) > 1:
        yield [Sharded(of[0]) if of else REPLICATED for of in axes]
    for i, of in enumerate(axes):
        for axis in of:
            yield [Sharded(axis) if j == i else REPLICATED for j in range(len(axes))]


def tried(some: list[Case], comm: Communicator, kernels: str) -> list[np.ndarray]:
    """Outputs of the cases, and gradients of them to their inputs."""
    fetches, specs, values = [], [], []
    with dt.Graph().as_default():
        for case in some:
            feeds = [dt.placeholder(a.dtype, a.shape) for a in case.arrays]
            outputs = apply(case.op, *feeds).op.outputs
            if any(n < 0 for y in outputs for n in y.spec.shape):
                raise ValueError("less than nothing is left between the paddings")
            fetches += outputs
            ys = [y for y in outputs if y.dtype.is_floating]
            xs = [x for x in feeds if x.dtype.is_floating]
            if ys and xs and not case.op.no_gradient:
                fetches += [g for g in dt.gradients([y * y for y in ys], xs) if g is not None]
            for feed, array, placement in zip(feeds, case.arrays, case.placements, strict=True):
                specs.append(FeedSpec(feed, array.shape, placement))
                if isinstance(placement, Sharded):
                    low, high = shard_bounds(array.shape[placement.axis], comm.rank, comm.size)
                    array = array.take(range(low, high), placement.axis)
                values.append(array)
        native = True if kernels == "c" else None
        step = compile_step(fetches, (), specs, comm.size, native)
    backend = Backend(kernels)
    return Plan(step, schedule(step), {}, backend, PlanEnv(backend, comm, None)).run(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5])
def test_every_op_wherever_a_short_axis_is_split(size: int, comm: Communicator) -> None:
    compare(size, "numpy", comm)


def test_every_op_wherever_a_short_axis_is_split_in_c(comm: Communicator) -> None:
    """The compiler takes seconds a size: 2 rows on 2 ranks, none on 3, 1 on 4."""
    compare(comm.size % 3, "c", comm)


def compare(size: int, kernels: str, comm: Communicator) -> None:
    some = cases(size, comm.size % 3)  # 2, 3 and 4 ranks together try all
    assert len(some) > 200
    for at in range(0, len(some), TOGETHER):
        found = iter(tried(some[at : at + TOGETHER], comm, kernels))
        for case in some[at : at + TOGETHER]:
            for right in case.right:
                value, what = next(found), f"{case.op} {case.placements}"
                assert np.shape(value) == np.shape(right), what
                np.testing.assert_allclose(value, right, rtol=1e-6, atol=1e-9, err_msg=what)
