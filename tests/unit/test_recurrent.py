"""Recurrent nets and control flow give what TensorFlow gave, values, gradients and names, on any number of ranks.

The cases and TensorFlow's values are made by tests/reference/tensorflow_rnn.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import DtrainError, GraphError, InvalidArgumentError
from dtrain.graph.check import check
from dtrain.native import compiler
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend

FOLDER = Path(__file__).parents[1] / "reference"
spec = importlib.util.spec_from_file_location("tensorflow_rnn", FOLDER / "tensorflow_rnn.py")
assert spec is not None and spec.loader is not None
reference: Any = importlib.util.module_from_spec(spec)
sys.modules["tensorflow_rnn"] = reference
spec.loader.exec_module(reference)
VALUES = json.loads(reference.VALUES.read_text())
#: Cases that are compiled, which takes a second each.
IN_C = ("lengths_lstm_peepholes", "bidirectional_lengths", "cond_in_while")


def found(
    name: str, kernels: str = "numpy", comm: Communicator | None = None
) -> tuple[dict[str, list[int]], list[np.ndarray]]:
    """The variables of a case, and its values; of several ranks each feeds its rows."""
    with dt.Graph().as_default():
        places, fetches, variables = reference.build(dt, name)
        with dt.Session(comm=comm, device=Backend(kernels)) as session:
            session.run(dt.global_variables_initializer())
            for v in variables:
                v.load(reference.drawn(v.op.name, v.shape.as_list()), session)
            feeds = dict(zip(places, reference.fed(), strict=True))
            if comm is not None:
                low, high = shard_bounds(reference.BATCH, comm.rank, comm.size)
                for place in places[:2]:
                    feeds[place] = dt.Shard(feeds[place][low:high], reference.BATCH)
            values = session.run(fetches, feeds)
            check(session.plans[next(reversed(session.plans))].step.graph.operations)
    return {v.op.name: v.shape.as_list() for v in variables}, values


def compare(name: str, got: tuple[dict[str, list[int]], list[np.ndarray]]) -> None:
    variables, values = got
    assert variables == VALUES[name]["variables"]
    right = [reference.read(text) for text in VALUES[name]["values"]]
    assert [np.shape(v) for v in values] == [r.shape for r in right]
    for i, (value, expected) in enumerate(zip(values, right, strict=True)):
        np.testing.assert_allclose(value, expected, 2e-5, 2e-5, err_msg=f"{name}: {i}")


@pytest.mark.parametrize("name", reference.CASES)
def test_results_are_those_of_tensorflow(name: str) -> None:
    compare(name, found(name))


@pytest.mark.parametrize("name", IN_C)
def test_results_of_kernels_in_c(name: str) -> None:
    if not compiler.command():
        pytest.skip("there is no C compiler")
    compare(name, found(name, "c"))


@pytest.mark.parametrize("number", range(len(reference.CASES)))
def test_ranks_that_share_a_batch_give_the_same(number: int, on_threads: Callable[..., list[Any]]) -> None:
    name = list(reference.CASES)[number]
    for got in on_threads(2 + number % 2, lambda comm: found(name, comm=comm)):
        compare(name, got)
