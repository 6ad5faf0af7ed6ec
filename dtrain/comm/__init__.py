"""Communicators: how ranks combine arrays. `world()` is the one of this process."""

from __future__ import annotations

from dtrain.comm import launcher, threads
from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.errors import EnvironmentProblem

__all__ = ["Communicator", "SingleCommunicator", "joined", "launcher", "world"]

_world: Communicator | None = None


def joined() -> Communicator | None:
    """The communicator of this process if world() has made it, without making it."""
    return _world


def world() -> Communicator:
    """The communicator over all ranks, made at the first call (collective then).

    A process that no launcher started is a world of one and needs neither MPI nor mpi4py. The BLAS of each
    rank is kept to its share of the cores.

    Raises:
        EnvironmentProblem: several ranks were launched, but mpi4py is missing or its MPI cannot join them.
    """
    global _world
    if _world is None:
        launched = launcher.size()
        if launched == 1:
            _world = SingleCommunicator()
        else:
            try:
                from dtrain.comm.mpi import MPICommunicator
            except ImportError as error:
                raise EnvironmentProblem(
                    f"{launched} ranks were launched, but mpi4py cannot be imported ({error}). Install it "
                    "with an MPI: pip install 'dtrain[mpi]', or start with ./launch/local."
                ) from error
            from dtrain.comm import failure

            _world = MPICommunicator()
            failure.install(_world)
        threads.limit(_world)
    return _world
