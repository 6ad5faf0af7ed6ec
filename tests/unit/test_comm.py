"""The bodies of tests/mpi/test_comm.py on the communicator of one rank, and on the tests' own of threads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dtrain.comm import Communicator, SingleCommunicator


def _bodies() -> dict[str, Any]:
    path = Path(__file__).parents[1] / "mpi" / "test_comm.py"
    spec = importlib.util.spec_from_file_location("communicator_bodies", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BODIES


BODIES = _bodies()


@pytest.mark.parametrize("name", BODIES)
def test_one_rank(name: str) -> None:
    BODIES[name](SingleCommunicator())


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("name", BODIES)
def test_threads(name: str, size: int, on_threads: Any) -> None:
    on_threads(size, BODIES[name])


def test_threads_notice_ranks_that_are_in_different_collectives(on_threads: Any) -> None:
    def body(comm: Communicator) -> None:
        comm.allreduce(np.zeros(3 + comm.rank))

    with pytest.raises(AssertionError, match="different collectives"):
        on_threads(2, body)


def test_an_error_of_one_thread_ends_all(on_threads: Any) -> None:
    def body(comm: Communicator) -> None:
        if comm.rank == 1:
            raise ZeroDivisionError
        comm.barrier()

    with pytest.raises(ZeroDivisionError):
        on_threads(3, body)
