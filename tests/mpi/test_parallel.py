"""Training on the ranks of this job gives what one rank gives on whole batches."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator
from dtrain.errors import EnvironmentProblem
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import Backend

pytestmark = pytest.mark.mpi

EXAMPLES = 530  # batches of 100 leave one of 30; neither divides by 3 or 4

OPTIMIZERS: dict[str, tuple[Callable[[], dt.train.Optimizer], float]] = {
    "sgd": (lambda: dt.train.GradientDescentOptimizer(0.1), 1e-5),
    "momentum": (lambda: dt.train.MomentumOptimizer(0.02, 0.9), 1e-4),
    "nesterov": (lambda: dt.train.MomentumOptimizer(0.02, 0.9, use_nesterov=True), 1e-4),
    "adam": (lambda: dt.train.AdamOptimizer(0.002), 1e-4),
}


def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    x = generator.uniform(-1, 1, (EXAMPLES, 21)).astype(np.float32)
    labels = (x @ generator.uniform(-1, 1, (21, 5))).argmax(1).astype(np.int32)
    return x, labels


class Model:
    """An MLP of odd sizes with a penalty on its weights."""

    def __init__(self, optimizer: dt.train.Optimizer) -> None:
        dt.set_random_seed(3)
        self.x, self.labels = dt.placeholder("float", [None, 21]), dt.placeholder("int32", [None])
        sizes = [21, 17, 5]
        y, penalty = self.x, []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            kernel = dt.Variable(dt.random_normal([inputs, outputs], stddev=0.3))
            y = dt.matmul(y, kernel) + dt.Variable(dt.zeros([outputs]))
            y = dt.nn.relu(y) if i == 0 else y
            penalty.append(dt.reduce_sum(dt.square(kernel)))
        losses = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=self.labels, logits=y)
        self.loss = dt.reduce_mean(losses) + 1e-3 * (penalty[0] + penalty[1])
        self.train = optimizer.minimize(self.loss)
        self.initialize = dt.global_variables_initializer()
        self.state = dt.global_variables()
        self.parameters = dt.trainable_variables()

    def run(
        self, comm: Communicator | None, steps: int = 100, batch: int = 100, kernels: str = "numpy"
    ) -> tuple[dt.Session, list[float], list[np.ndarray]]:
        """Train: the session, each step's loss, the parameters at the end."""
        session = dt.Session(comm=comm, device=Backend(kernels))
        session.run(self.initialize)
        x, labels = data()
        losses = []
        for step in range(steps):
            start = step * batch % -(-EXAMPLES // batch * batch)
            total = min(batch, EXAMPLES - start)
            low, high = shard_bounds(total, comm.rank, comm.size) if comm else (0, total)
            rows = slice(start + low, start + high)
            feeds: dict[Any, Any] = {self.x: x[rows], self.labels: labels[rows]}
            if comm:
                feeds = {tensor: dt.Shard(value, total) for tensor, value in feeds.items()}
            losses.append(float(session.run([self.loss, self.train], feeds)[0]))
        return session, losses, session.run(self.parameters)


def digest(session: dt.Session, variables: list[dt.Variable]) -> str:
    values = session.get_values(variables)
    return hashlib.sha256(b"".join(values[v.op.name].tobytes() for v in variables)).hexdigest()


# auto is one of the two others, which does not follow from the optimizer
@pytest.mark.parametrize(
    ("name", "kernels"), [*itertools.product(OPTIMIZERS, ("numpy", "c")), ("adam", "auto")]
)
def test_parameters_after_100_steps_are_those_of_one_rank_on_whole_batches(
    name: str, kernels: str, comm: Communicator
) -> None:
    optimizer, tolerance = OPTIMIZERS[name]
    model = Model(optimizer())
    _, alone_losses, alone = model.run(None)
    _, losses, parameters = model.run(comm, kernels=kernels)
    np.testing.assert_allclose(losses, alone_losses, rtol=tolerance, atol=tolerance)
    for value, right in zip(parameters, alone, strict=True):
        np.testing.assert_allclose(value, right, rtol=0, atol=tolerance)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("kernels", ["numpy", "c"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_batches_smaller_than_the_ranks_and_odd_ones(batch: int, kernels: str, comm: Communicator) -> None:
    model = Model(dt.train.GradientDescentOptimizer(0.05))
    _, alone_losses, alone = model.run(None, 20, batch)
    _, losses, parameters = model.run(comm, 20, batch, kernels)
    np.testing.assert_allclose(losses, alone_losses, rtol=1e-5)
    for value, right in zip(parameters, alone, strict=True):
        np.testing.assert_allclose(value, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernels", ["numpy", "c"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replicas_are_bit_identical_and_so_are_repeats(name: str, kernels: str, comm: Communicator) -> None:
    model = Model(OPTIMIZERS[name][0]())
    digests = []
    for _ in range(2):
        session, losses, _ = model.run(comm, 30, kernels=kernels)
        digests.append(digest(session, model.state) + str(losses))
    assert digests[0] == digests[1]
    assert len(set(comm.gather_text(digests[0]))) == 1


def test_ranks_without_a_seed_start_alike(comm: Communicator) -> None:
    v = dt.Variable(dt.truncated_normal([5, 3]))
    session = dt.Session(comm=comm)
    session.run(v.initializer)
    assert len(set(comm.gather_text(digest(session, [v])))) == 1


def test_evaluation_over_shards_is_that_of_the_whole(comm: Communicator) -> None:
    x, labels = data()
    model = Model(dt.train.GradientDescentOptimizer(0.1))
    logits = dt.placeholder("float", [None, 5])
    right = dt.equal(dt.argmax(logits, 1), dt.cast(model.labels, "int64"))
    correct = dt.reduce_sum(dt.cast(right, "int32"))
    accuracy = dt.reduce_mean(dt.cast(right, "float"))
    values = x[:, :5]
    expected = (values.argmax(1) == labels).sum()
    low, high = shard_bounds(EXAMPLES, comm.rank, comm.size)
    feeds = {logits: dt.Shard(values[low:high], EXAMPLES), model.labels: dt.Shard(labels[low:high], EXAMPLES)}
    found, share, whole = dt.Session(comm=comm).run([correct, accuracy, right], feeds)
    assert found == expected and share == pytest.approx(expected / EXAMPLES)
    np.testing.assert_array_equal(whole, values.argmax(1) == labels)


@pytest.mark.parametrize("difference", ["constant", "operation", "shape", "shard"])
def test_ranks_about_to_run_different_steps_are_told_and_do_not_hang(
    difference: str, comm: Communicator
) -> None:
    if comm.size == 1:
        pytest.skip("one rank agrees with itself")
    odd = comm.rank == 1
    x = dt.placeholder("float", [None, 3])
    factor = 3.0 if odd and difference == "constant" else 2.0
    y = dt.tanh(x * factor) if odd and difference == "operation" else dt.exp(x * factor)
    rows = np.ones((2 if odd and difference == "shape" else 1, 3))
    low, high = shard_bounds(comm.size, comm.rank, comm.size)
    assert high - low == 1
    feed: Any = dt.Shard(rows[:1], comm.size)
    if difference == "shape":
        feed = rows
    elif odd and difference == "shard":
        feed = np.ones((comm.size, 3))
    with pytest.raises(EnvironmentProblem, match="do not agree on the step") as caught:
        dt.Session(comm=comm).run(dt.reduce_sum(y), {x: feed})
    assert caught.value.agreed and f"rank 1 on {comm.hosts[1]}" in str(caught.value)
    assert len(set(comm.gather_text(str(caught.value)))) == 1
    # the ranks are in step: the next collective works
    assert comm.allreduce(np.ones(1))[0] == comm.size


def test_a_step_that_one_rank_cannot_compile_is_an_error_on_all(comm: Communicator) -> None:
    x, y = dt.placeholder("float", [None]), dt.placeholder("float", [None])
    rows = 3 if comm.rank == comm.size - 1 else 2
    with pytest.raises(dt.errors.InvalidArgumentError, match="does not fit what is fed"):
        dt.Session(comm=comm).run(x + y, {x: np.ones(2), y: np.ones(rows) if comm.size > 1 else np.ones(5)})
