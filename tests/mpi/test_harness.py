"""The harness under mpirun: all ranks are there and do the same. Its failures: tests/unit/test_launch.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dtrain.comm
from dtrain.comm import Communicator, launcher

pytestmark = pytest.mark.mpi


def test_the_communicator_holds_every_rank_that_was_launched(comm: Communicator) -> None:
    assert (comm.rank, comm.size) == (launcher.rank(), launcher.size())
    assert comm.allgather(np.array([comm.rank])).tolist() == list(range(comm.size))


def test_every_rank_runs_the_same_tests_in_the_same_order(
    comm: Communicator, request: pytest.FixtureRequest
) -> None:
    mine = "\n".join(item.nodeid for item in request.session.items)
    assert mine == comm.broadcast_text(mine)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=5))
def test_every_rank_draws_the_same_examples(numbers: list[int]) -> None:
    comm = dtrain.comm.world()
    assert comm.allgather(np.array(numbers)).tolist() == numbers * comm.size
