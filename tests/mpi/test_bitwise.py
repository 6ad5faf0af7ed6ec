"""Bitwise sessions: on these ranks every value has the bits that a rank alone gives it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm.mpi import MPICommunicator
from dtrain.errors import GraphError
from dtrain.native import compiler
from dtrain.ops.base import REGISTRY, apply
from dtrain.ops.evaluate import evaluate
from dtrain.ops.placement import shard_bounds

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_native import grown

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not compiler.command(), reason="needs a C compiler"),
]
BITWISE = dt.ConfigProto(bitwise=True)


def feed(x: np.ndarray, comm: MPICommunicator | None) -> Any:
    """A batch as its rank is fed it."""
    if comm is None or len(x) < comm.size:
        return x
    low, high = shard_bounds(len(x), comm.rank, comm.size)
    return dt.Shard(x[low:high], len(x))


def same(many: Any, one: Any) -> bool:
    return np.asarray(many).tobytes() == np.asarray(one).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_op_has_the_bits_of_one_rank(comm: MPICommunicator, dtype: str) -> None:
    """Of all ops that are not elementwise, at sizes that the ranks share unevenly, with ReLU's zeros and tiny
    numbers: first the first input is in rows, then all inputs are that can be."""
    random = np.random.default_rng(5)
    tried, inputs, xs, outs = [], [], [], []
    with dt.Graph().as_default():
        for _, kind in sorted(REGISTRY.items()):
            if kind.elementwise or kind.of_shard:
                continue
            for op, given in [one for example in kind.examples() for one in grown(example, 3000)]:
                arrays = []
                for shape in given:
                    if isinstance(shape, tuple):
                        some = random.standard_normal(shape) * 10.0 ** random.integers(-3, 3, shape)
                        array = np.where(random.random(shape) < 0.3, 0, some).astype(dtype)
                    else:
                        array = shape
                    arrays.append(array)
                try:
                    evaluate(op, arrays)
                except (GraphError, IndexError, OverflowError, ValueError):
                    continue  # sizes that belong together
                placed = [dt.placeholder(a.dtype, a.shape) for a in arrays]
                found = apply(op, *placed).op.outputs
                tried += [repr(op)] * len(found)
                outs += found
                xs += placed
                inputs += arrays
        assert len(tried) > 150
        one = dt.Session(comm=None, config=BITWISE).run(outs, dict(zip(xs, inputs, strict=True)))
        for every in (False, True):
            firsts = {t.op.inputs[0] for t in outs if t.op.inputs}
            feeds = {
                x: feed(a, comm) if a.ndim and (every or x in firsts) else a
                for x, a in zip(xs, inputs, strict=True)
            }
            many = dt.Session(comm=comm, config=BITWISE).run(outs, feeds)
            wrong = [name for name, a, b in zip(tried, many, one, strict=True) if not same(a, b)]
            assert not wrong, wrong
