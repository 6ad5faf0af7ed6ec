"""A NaN or an infinity, made by any op of a training step on any rank, stops all ranks before an update."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import NumericError
from dtrain.ops.check import HasBad, StopIfBad
from dtrain.ops.collective import AllReduce, NodeBarrier
from dtrain.ops.fused import Fused
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend
from dtrain.runtime.plan import Plan

pytestmark = pytest.mark.mpi


class Training:
    """The MLP of `dtrain train`, smaller and of odd sizes, on rows of this rank.

    wide: so that its gradients have more numbers than what they are computed of; see passes/share.py.
    """

    def __init__(
        self,
        comm: Communicator,
        kernels: str,
        optimizer: dt.train.Optimizer,
        clip: bool = False,
        wide: int = 1,
        check: bool | str = True,
    ) -> None:
        self.comm, self.graph = comm, dt.Graph()
        self.graph.seed = 1
        with self.graph.as_default():
            self.x, self.labels = dt.placeholder("float", [None, 23 * wide]), dt.placeholder("int32", [None])
            y = self.x
            for i, (inputs, outputs) in enumerate([(23 * wide, 19 * wide), (19 * wide, 17), (17, 5)]):
                kernel = dt.Variable(dt.random_normal([inputs, outputs], stddev=0.3), name=f"kernel_{i}")
                y = dt.matmul(y, kernel) + dt.Variable(dt.zeros([outputs]), name=f"bias_{i}")
                y = dt.nn.relu(y) if i < 2 else y
            each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=self.labels, logits=y)
            self.loss = dt.reduce_mean(each)
            pairs = optimizer.compute_gradients(self.loss)
            if clip:
                gradients, _ = dt.clip_by_global_norm([g for g, _ in pairs], 1.0)
                pairs = [(g, v) for g, (_, v) in zip(gradients, pairs, strict=True)]
            self.minimize = optimizer.apply_gradients(pairs)
            self.state = dt.global_variables()
            initialize = dt.global_variables_initializer()
        config = dt.ConfigProto(check_numerics=check)
        self.session = dt.Session(graph=self.graph, config=config, comm=comm, device=Backend(kernels))
        self.session.run(initialize)
        generator = np.random.default_rng(2)
        self.rows = generator.uniform(-1, 1, (31, 23 * wide)).astype(np.float32)
        self.classes = generator.integers(0, 5, 31).astype(np.int32)

    def step(self) -> float:
        low, high = shard_bounds(31, self.comm.rank, self.comm.size)
        feeds = {self.x: dt.Shard(self.rows[low:high], 31), self.labels: dt.Shard(self.classes[low:high], 31)}
        loss, _ = self.session.run([self.loss, self.minimize], feeds)
        return float(loss)

    @property
    def plan(self) -> Plan:
        """That of the step."""
        return next(
            p for p in self.session.plans.values() if p.step.checked and "StopIfBad" in map(_type, p.nodes)
        )


def _type(node: Any) -> str:
    return node.type


def _names(node: Any) -> list[str]:
    return list(node.kind.names) if isinstance(node.kind, Fused) else [node.name]


@pytest.mark.parametrize("wide", [1, 7])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_each_op_is_named_and_nothing_is_updated(
    comm: Communicator, kernels: str, bad: float, wide: int
) -> None:
    training = Training(comm, kernels, dt.train.AdamOptimizer(0.001), wide=wide)
    first = training.step()
    plan, guilty = training.plan, comm.size - 1
    # ranks may have kernels of their own for a node, so nodes are what they agree on
    stop = next(i for i, n in enumerate(plan.nodes) if isinstance(n.kind, StopIfBad))
    makers = [
        n
        for n in plan.nodes[:stop]
        if n in plan.kernel_nodes
        and (np.isnan(bad) or not n.name.startswith("Adam/"))  # a number over infinity is none
        and not isinstance(n.kind, AllReduce | NodeBarrier | HasBad)
        and any(t.dtype.is_floating for t in n.outputs)
    ]
    # of a product that the ranks compute by parts after the barrier, the factors were looked at
    sums = (i for i, n in enumerate(plan.nodes) if isinstance(n.kind, AllReduce | NodeBarrier))
    summed = max(sums, default=stop)
    makers = [n for n in makers if plan.nodes.index(n) < summed]
    assert len(makers) >= 9
    good = plan.kernels
    before = training.session.get_values(training.state)
    for node in makers:
        last = max(i for i, n in enumerate(plan.kernel_nodes) if n is node)
        out = next(plan._arrays[t] for t in node.outputs if t.dtype.is_floating)

        def spoiled(kernel: Any = good[last], out: Any = out) -> None:
            kernel()
            if comm.rank == guilty and out.size:
                out.fill(bad)  # ReluGrad lets half of them through

        plan.kernels = plan.calls = [*good[:last], spoiled, *good[last + 1 :]]
        with pytest.raises(NumericError) as error:
            training.step()
        said = str(error.value)
        assert any(f"'{name}'" in said for name in _names(node)), (node, said)
        assert comm.size == 1 or f"on rank {guilty} on {comm.hosts[guilty]}" in said
        assert "Nothing was updated" in said
        after = training.session.get_values(training.state)
        assert all((after[name] == value).all() for name, value in before.items()), node
    plan.kernels = plan.calls = good
    assert training.step() < first  # and it goes on as if nothing had been


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_an_op_that_makes_it_by_itself_is_named(comm: Communicator, kernels: str) -> None:
    """A weight so large that a product overflows, in the second layer."""
    training = Training(comm, kernels, dt.train.GradientDescentOptimizer(0.01))
    training.step()
    kernel = next(v for v in training.state if v.op.name == "kernel_1")
    training.session.set_value(kernel, np.full((19, 17), 3e38, np.float32))
    before = training.session.get_values(training.state)
    with pytest.raises(NumericError, match=r"MatMul 'MatMul_1' \(built at .*test_numerics.py:\d+\) makes"):
        training.step()
    after = training.session.get_values(training.state)
    assert all((after[name] == value).all() for name, value in before.items())
    comm.barrier()  # memory that ranks share may still be read
    training.session.set_value(kernel, np.full((19, 17), np.nan, np.float32))
    with pytest.raises(NumericError, match=r"the variable 'kernel_1' .*holds 323 of them"):
        training.step()


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_a_bad_row_of_one_rank_stops_all(comm: Communicator, kernels: str) -> None:
    training = Training(comm, kernels, dt.train.MomentumOptimizer(0.01, 0.9), clip=True)
    training.step()
    training.rows[-1, 3] = np.inf
    with pytest.raises(NumericError, match=r"what is fed for 'Placeholder'.* holds 1 of them") as error:
        training.step()
    assert comm.size == 1 or f"on rank {comm.size - 1} on" in str(error.value)


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_factors_of_a_gradient_may_be_large_where_it_is_not(comm: Communicator, kernels: str) -> None:
    """A gradient that is computed by parts behind the check: inputs of 1e25, gradients of 1e-25."""
    generator = np.random.default_rng(4)
    rows = generator.uniform(0.5, 1, (31, 64)).astype(np.float32) * np.float32(1e25)
    with dt.Graph().as_default():
        x, scale = dt.placeholder("float32", [None, 64]), dt.placeholder("float32", [])
        w = dt.Variable(np.zeros((64, 48), np.float32))
        loss = dt.reduce_sum(dt.matmul(x, w)) * scale
        step = dt.train.GradientDescentOptimizer(1.0).minimize(loss)
        config = dt.ConfigProto(check_numerics=True)
        session = dt.Session(config=config, comm=comm, device=Backend(kernels))
        session.run(dt.global_variables_initializer())
        low, high = shard_bounds(31, comm.rank, comm.size)
        feeds = {x: dt.Shard(rows[low:high], 31), scale: 1e-25}
        session.run(step, feeds)
        right = np.repeat(-(rows.astype(np.float64) * 1e-25).sum(0)[:, None], 48, 1)
        np.testing.assert_allclose(session.run(w), right, rtol=1e-5)
        with pytest.raises(NumericError, match=r"MatMul.* makes"):
            session.run(step, feeds | {scale: 1e14})
        np.testing.assert_allclose(session.run(w), right, rtol=1e-5)


def test_large_finite_numbers_are_no_fault(comm: Communicator) -> None:
    """Gradients whose squares overflow, in NumPy's quick look: it has to look twice."""
    with dt.Graph().as_default():
        v = dt.Variable(np.zeros(3, np.float32))
        loss = dt.reduce_sum(v * 1e25)
        step = dt.train.GradientDescentOptimizer(1e-25).minimize(loss)
        config = dt.ConfigProto(check_numerics=True)
        session = dt.Session(config=config, comm=comm, device=Backend("numpy"))
        session.run(dt.global_variables_initializer())
        session.run(step)
        np.testing.assert_allclose(session.run(v), -1)


@pytest.mark.parametrize("kernels", ["c", "numpy"])
def test_a_session_that_warns_takes_the_step_all_the_same(comm: Communicator, kernels: str) -> None:
    """Once, on rank 0, with the operation; and all ranks go on, with what an unchecked session has."""
    ends = []
    for check in ("warn", False):
        training = Training(comm, kernels, dt.train.AdamOptimizer(0.001), check=check)
        training.step()
        training.rows[-1, 3] = np.inf
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            losses = [training.step() for _ in range(3)]
        assert np.isnan(losses).all()
        assert len(found) == (comm.rank == 0 and check == "warn")
        for text in (str(w.message) for w in found):
            assert "step 2 makes a NaN" in text and "what is fed for 'Placeholder'" in text
            assert comm.size == 1 or f"on rank {comm.size - 1} on" in text
        ends.append(training.session.get_values(training.state))
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name])
