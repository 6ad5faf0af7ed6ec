"""Every op on axes of 0, 1 and a few entries, split among the ranks of this job, gives what one rank gives."""

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
    """An example's arrays with `new` entries wherever it has `old`; its sizes differ, so they are one axis."""
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
def cases(size: int) -> list[Case]:
    return list(_cases(size))


def _cases(size: int) -> Iterator[Case]:
    """Each op's examples with each of their axes at this size, and split along it where they have it."""
    for name, kind in sorted(REGISTRY.items()):
        for k, example in enumerate(kind.examples()):
            shapes = [given if isinstance(given, tuple) else np.shape(given) for given in example.inputs]
            for old in sorted({n for shape in shapes for n in shape}):
                arrays = resized(example, old, size)
                try:
                    alone = Case("", example.op, arrays, [REPLICATED] * len(arrays), [])
                    right = tried([alone], SingleCommunicator(), "numpy")
                except (DtrainError, ValueError, IndexError):
                    continue  # it does not take such arrays
                axes = [[a for a, n in enumerate(shape) if n == old] for shape in shapes]
                every = [Sharded(of[0]) if of else REPLICATED for of in axes]
                layouts = {tuple(every)}
                for i, of in enumerate(axes):
                    for axis in of:
                        layouts.add(tuple(Sharded(axis) if j == i else REPLICATED for j in range(len(axes))))
                for placements in sorted(layouts, key=repr):
                    yield Case(f"{name}-{k} {old} {placements}", example.op, arrays, list(placements), right)


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


@pytest.mark.parametrize("kernels", ["numpy", "c"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5])
def test_every_op_wherever_a_short_axis_is_split(size: int, kernels: str, comm: Communicator) -> None:
    every = cases(size)
    print(len(every))
    for at in range(0, len(every), TOGETHER):
        some = every[at : at + TOGETHER]
        found = iter(tried(some, comm, kernels))
        for case in some:
            for right in case.right:
                value = next(found)
                assert np.shape(value) == np.shape(right), case.name
                np.testing.assert_allclose(value, right, rtol=1e-6, atol=1e-9, err_msg=case.name)
