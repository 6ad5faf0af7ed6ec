"""Ranks that differ are told before the first step, and replicas that drift apart while they train."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator, software
from dtrain.comm.mpi import MPICommunicator
from dtrain.config import TrainConfig
from dtrain.errors import EnvironmentProblem, ReplicaError

pytestmark = pytest.mark.mpi


@pytest.fixture
def apart(comm: Communicator) -> Communicator:
    """All ranks, each with a copy of the parameters of its own, as ranks of different nodes have them."""
    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")
    return MPICommunicator("mpi")


def test_every_item_is_compared_and_the_first_that_differs_is_named(comm: Communicator) -> None:
    items = {"one": 1, "two": 2.5, "three": ""}
    comm.agree_on_items("the option", items)
    if comm.size == 1:
        return
    for name in items:
        mine = items | {name: "else"} if comm.rank > 0 else items
        with pytest.raises(EnvironmentProblem) as error:
            comm.agree_on_items("the option", mine)
        said = str(error.value)
        assert said.startswith(f"the ranks do not agree on the option {name}: ")
        assert f"rank 0 on {comm.hosts[0]} has {items[name] or 'nothing'}, " in said
        assert all(f"rank {r} on {comm.hosts[r]} has else" in said for r in range(1, comm.size))


def test_software_says_what_results_depend_on(comm: MPICommunicator) -> None:
    found = software() | comm.versions
    assert found["numpy"] == np.__version__ and {"dtrain", "Python", "mpi4py", "MPI"} <= set(found)


def test_options_that_differ_stop_the_run(comm: Communicator, tmp_path: Path) -> None:
    from dtrain.task.trainer import train

    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")
    config = TrainConfig(run_dir=str(tmp_path / "run"), lr=0.001 if comm.rank == 0 else 0.01)
    with pytest.raises(
        EnvironmentProblem, match=r"the option --run-dir: |the option --lr: .* has 0\.001, .* has 0\.01"
    ):
        train(config, comm)


def test_the_first_op_that_differs_is_named_with_its_line(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("one rank has nobody to differ from")
    x = dt.placeholder("float", [4])
    y = dt.exp(x, name="same")
    z = dt.tanh(y, name="here") if comm.rank < comm.size - 1 else dt.sigmoid(y, name="here")
    with pytest.raises(EnvironmentProblem) as error:
        dt.Session(comm=comm).run(z, {x: np.ones(4)})
    said = str(error.value)
    assert re.search(r"rank 0 on \S+ has Tanh 'here' \(built at \S+test_agreement\.py:\d+\)", said), said
    assert f"rank {comm.size - 1} on" in said and "Sigmoid 'here'" in said


def train(
    comm: Communicator, optimizer: str, every: int
) -> tuple[dt.Session, list[dt.Variable], Callable[[], Any]]:
    graph = dt.Graph()
    with graph.as_default():
        x = dt.placeholder("float", [None, 7])
        w = dt.Variable(np.full((7, 3), 0.1, np.float32), name="w")
        b = dt.Variable(np.zeros(3, np.float32), name="b")
        loss = dt.reduce_mean(dt.square(dt.matmul(x, w) + b - 1.0))
        make = {"sgd": dt.train.GradientDescentOptimizer, "adam": dt.train.AdamOptimizer}[optimizer]
        step = make(0.01).minimize(loss)
        initialize, state = dt.global_variables_initializer(), dt.global_variables()
    session = dt.Session(graph=graph, config=dt.ConfigProto(check_replicas_every=every), comm=comm)
    session.run(initialize)
    rows = np.random.default_rng(comm.rank).random((2, 7)).astype(np.float32)
    call = session.make_callable(step, [x])
    return session, state, lambda: call(dt.Shard(rows, 2 * comm.size))


@pytest.mark.parametrize("name", ["w", "b", "w/Adam/m"])
def test_one_bit_that_flips_is_reported_by_name(apart: MPICommunicator, name: str) -> None:
    every, guilty = 5, apart.size - 1
    session, state, step = train(apart, "adam", every)
    for _ in range(2 * every + 1):
        step()
    assert name in {v.op.name for v in state}
    if apart.rank == guilty:
        session.variables.arrays[name].reshape(-1)[:1].view(np.uint32)[0] ^= (
            1 << 20
        )  # the lowest may be rounded away
    with pytest.raises(ReplicaError) as error:
        for _ in range(every):
            step()
    # what is wrong in an average is in the parameter, made earlier, after a step
    assert f"variable {name.partition('/')[0]}" in str(error.value)
    if apart.size > 2:
        assert f": rank {guilty} on {apart.hosts[guilty]} differs" in str(error.value)
    assert error.value.agreed


def test_replicas_that_agree_are_silent(apart: MPICommunicator) -> None:
    session, _, step = train(apart, "sgd", 1)
    for _ in range(20):
        step()
    session.check_replicas()


def test_two_flips_do_not_hide_each_other(apart: MPICommunicator) -> None:
    session, _, step = train(apart, "sgd", 0)
    step()
    if apart.rank == 0:
        session.variables.arrays["w"].reshape(-1)[:1].view(np.uint32)[0] += 1
        session.variables.arrays["b"].reshape(-1)[:1].view(np.uint32)[0] -= 1
    with pytest.raises(ReplicaError, match="variable w"):
        session.check_replicas()
