"""A loss scale on several ranks: one bucket as ever, and all lower it where one rank overflows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import NumericError
from dtrain.ops.check import HasBad
from dtrain.ops.collective import AllReduce, NodeBarrier
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend
from dtrain.runtime.feeds import Window
from dtrain.runtime.plan import Plan
from dtrain.train.loss_scale import DynamicLossScale, MixedPrecisionLossScaleOptimizer

pytestmark = pytest.mark.mpi
STEPS, ROWS = 7, 11


class Training:
    """Two layers of odd sizes on this rank's rows of each batch; scale makes the loss scale."""

    def __init__(
        self, comm: Communicator, kernels: str, scale: Callable[[], DynamicLossScale] | None, dropout: bool
    ) -> None:
        self.comm = comm
        with dt.Graph().as_default() as graph:
            graph.seed = 3
            self.x = dt.placeholder("float32", [None, 13])
            hidden, last = (dt.Variable(dt.random_normal(s, stddev=0.3)) for s in ([13, 9], [9, 1]))
            y = dt.nn.relu(dt.matmul(self.x, hidden) + dt.Variable(dt.zeros([9])))
            loss = dt.reduce_mean(dt.square(dt.matmul(dt.nn.dropout(y, 0.5) if dropout else y, last) - 1.0))
            optimizer: dt.train.Optimizer = dt.train.AdamOptimizer(0.01)
            if scale is not None:
                optimizer = MixedPrecisionLossScaleOptimizer(optimizer, scale())
            self.fetches = [loss, dt.reduce_sum(self.x) * 0.0, optimizer.minimize(loss)]
            self.state = dt.global_variables()
            self.session = dt.Session(graph=graph, comm=comm, device=Backend(kernels))
            self.session.run(dt.global_variables_initializer())

    def train(self, window: bool, rows: np.ndarray) -> list[float]:
        low, high = shard_bounds(ROWS, self.comm.rank, self.comm.size)
        loop = partial(self.session.make_callable(self.fetches, [self.x]).several, until=self.fetches[1])
        length = len(rows) if window else 1
        parts = [rows[at : at + length, low:high] for at in range(0, len(rows), length)]
        return [float(loss) for part in parts for loss, *_ in loop(Window(part, ROWS))]

    def values(self) -> dict[str, np.ndarray]:
        return self.session.get_values(self.state)


def batches(large: int) -> np.ndarray:
    """large: in this batch the last row, which the last rank has, overflows by far."""
    rows = np.random.default_rng(2).standard_normal((STEPS, ROWS, 13)).astype(np.float32)
    rows[large, -1] = 1e5 * np.abs(rows[large, -1])
    return rows


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_all_ranks_lower_it_where_one_overflows(
    comm: Communicator, kernels: str, window: bool, dropout: bool
) -> None:
    """The batch that only the last rank finds too large comes in the middle; then the scale grows again."""

    def scale() -> DynamicLossScale:
        return DynamicLossScale(2.0**112, 4)

    training = Training(comm, kernels, scale, dropout)
    losses = training.train(window, batches(3))
    low = float(training.values()["current_loss_scale"])
    assert 1 < low < 2.0**112 and training.values()["good_steps"] == 0  # it grew behind the last step

    reference = Training(comm, kernels, lambda: DynamicLossScale(low, 1000), dropout)
    assert reference.train(window, batches(3)) == losses
    for name, value in reference.values().items():
        if name not in ("current_loss_scale", "good_steps"):
            np.testing.assert_array_equal(training.values()[name], value, err_msg=name)
    assert training.session.random_state == reference.session.random_state
    training.session.check_replicas()


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_the_step_has_one_bucket_and_one_check_before_it(comm: Communicator, kernels: str) -> None:
    def steps(scale: Any) -> Plan:
        training = Training(comm, kernels, scale, False)
        training.train(False, batches(0)[1:])
        return [*training.session.plans.values()][-1]

    plain, scaled = steps(None), steps(DynamicLossScale)

    def sums(plan: Plan) -> list[int]:
        return [len(n.inputs) for n in plan.nodes if isinstance(n.kind, AllReduce | NodeBarrier)]

    assert len(sums(plain)) == len(sums(scaled)) == (comm.size > 1)
    if comm.size > 1:
        assert sums(scaled) == sums(plain)  # the verdict is one of them
        (check,) = [n for n in scaled.nodes if isinstance(n.kind, HasBad)]
        (bucket,) = [n for n in scaled.nodes if isinstance(n.kind, AllReduce | NodeBarrier)]
        assert check.outputs[0] in bucket.inputs
        divided = [t for t in bucket.inputs if t.op.name.startswith("loss_scale")]
        assert len(divided) == 3 and set(divided) <= set(check.inputs)


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_at_1_all_ranks_raise_it(comm: Communicator, kernels: str) -> None:
    training = Training(comm, kernels, DynamicLossScale, False)
    rows = batches(0)[1:]
    training.train(True, rows)
    before = training.values()
    rows[2, -1, 4] = np.nan
    with pytest.raises(NumericError, match="what is fed for 'Placeholder'") as error:
        training.train(False, rows[2:3])
    assert comm.size == 1 or f"on rank {comm.size - 1} on" in str(error.value)
    after = training.values()
    assert after.pop("current_loss_scale") == 1 and after.pop("good_steps") == 0
    for name, value in after.items():
        np.testing.assert_array_equal(before[name], value, err_msg=name)
