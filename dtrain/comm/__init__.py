"""Communicators: how ranks combine arrays. `world()` is the one of this process."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from dtrain.comm import launcher, threads

with threads.none_at_first():
    import numpy as np

from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator
from dtrain.errors import UsageError

__all__ = ["Communicator", "SingleCommunicator", "joined", "launcher", "world"]

#: How gradients may be summed.
AVERAGES = ("auto", "shared", "mpi")
#: Whether sums may begin before all gradients are there.
OVERLAPS = ("auto", "on", "off")

_world: Communicator | None = None


def joined() -> Communicator | None:
    """The communicator of this process if world() has made it, without making it."""
    return _world


def software() -> dict[str, str]:
    """What has to be the same on all ranks, whose results would differ: versions, and dtrain's own source."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted([*folder.rglob("*.py"), *folder.rglob("*.[ch]")]):
        digest.update(file.read_bytes())
    found = {"dtrain": f"source {digest.hexdigest()[:12]}", "Python": platform.python_version()}
    return found | {"numpy": np.__version__}


def world(average: str = "", elastic: bool = False, overlap: str = "") -> Communicator:
    """The communicator over all ranks, made at the first call (collective then).

    average: how it sums gradients, auto, shared or mpi (see MPICommunicator); by default $DTRAIN_AVERAGE.
    overlap: whether sums may begin early, auto, on or off (likewise); by default $DTRAIN_OVERLAP.

    A process that no launcher started is a world of one and needs neither MPI nor mpi4py. The BLAS of each
    rank is kept to its share of the cores.

    elastic: it can go on without ranks that die, see Communicator.elastic; said at the first call.

    Raises:
        EnvironmentProblem: several ranks were launched, but mpi4py is missing or its MPI cannot join them, or
            it has to end all when one dies.
    """
    global _world
    if _world is None:
        launched = launcher.size()
        if launched == 1:
            _world = SingleCommunicator()
        else:
            from dtrain.comm import failure
            from dtrain.comm.elastic import ElasticCommunicator
            from dtrain.comm.mpi import MPICommunicator

            average = average or os.environ.get("DTRAIN_AVERAGE", "auto")
            if average not in AVERAGES:
                raise UsageError(f"DTRAIN_AVERAGE={average}: choose one of {', '.join(AVERAGES)}.")
            overlap = overlap or os.environ.get("DTRAIN_OVERLAP", "auto")
            if overlap not in OVERLAPS:
                raise UsageError(f"DTRAIN_OVERLAP={overlap}: choose one of {', '.join(OVERLAPS)}.")
            _world = ElasticCommunicator() if elastic else MPICommunicator(average, overlap)
            failure.install(_world)
            _world.agree_on_items("the version of", software() | _world.versions)
        threads.limit(_world)
    return _world
