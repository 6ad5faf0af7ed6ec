"""Communicators: how ranks combine arrays. `world()` is the one of this process."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import sys
import threading
from fnmatch import fnmatch
from pathlib import Path

from dtrain import choices
from dtrain.comm import launcher, threads

with threads.none_at_first():
    import numpy as np

from dtrain.comm import alike
from dtrain.comm.base import Communicator
from dtrain.comm.single import SingleCommunicator

__all__ = ["Communicator", "SingleCommunicator", "joined", "launcher", "world"]

#: What a rank's results may depend on: the files of the package, as an installed one has them.
SOURCES = (
    *("*.py", "*.c", "*.h", "*.cu", "*.cuh", "*.sh", "*.yaml"),
    *("Containerfile", "dtrain.def", "bind", "job"),
)

_world: Communicator | None = None
alike.begin()
if launcher.size() > 1 and isinstance(sys.stdout, io.TextIOWrapper):
    # one write a line, so that the lines of ranks do not mix, PYTHONUNBUFFERED or not
    sys.stdout.reconfigure(line_buffering=True, write_through=False)
_making = threading.RLock()  # of several threads one makes it


def joined() -> Communicator | None:
    """The communicator of this process if world() has made it, without making it."""
    return _world


def sources() -> dict[str, Path]:
    """Files of the package that SOURCES names, by their path in it."""
    package, found = Path(__file__).parents[1], {}
    for folder, _, files in os.walk(package, followlinks=True):  # some are links in a checkout
        for file in files:
            if any(fnmatch(file, pattern) for pattern in SOURCES):
                path = Path(folder, file)
                found[path.relative_to(package).as_posix()] = path
    return found


def software() -> dict[str, str]:
    """What has to be the same on all ranks, whose results would differ: versions, and dtrain's own source."""
    digest = hashlib.sha256()
    for name, file in sorted(sources().items()):
        data = file.read_bytes()
        digest.update(f"{name} {len(data)}\n".encode() + data)
    found = {"dtrain": f"source {digest.hexdigest()[:12]}", "Python": platform.python_version()}
    return found | {"numpy": np.__version__}


def world(average: str = "", elastic: bool = False, overlap: str = "") -> Communicator:
    """The communicator over all ranks, made at the first call (collective then).

    average: how it sums gradients, auto, shared or mpi (see MPICommunicator); by default $DTRAIN_AVERAGE.
    overlap: whether sums may begin early, auto, on or off; by default $DTRAIN_OVERLAP.

    A process that no launcher started is a world of one and needs neither MPI nor mpi4py. The BLAS of each
    rank is kept to its share of the cores.

    elastic: it can continue without ranks that die, see Communicator.elastic; said at the first call, or by
    DTRAIN_ELASTIC=on.

    Raises:
        EnvironmentProblem: several ranks were launched, but mpi4py is missing or its MPI cannot join them, or
            it has to end all when one dies.
    """
    with _making:
        return _made(average, elastic, overlap)


def _made(average: str, elastic: bool, overlap: str) -> Communicator:
    global _world
    if _world is None:
        launched = launcher.size()
        if launched == 1:
            _world = SingleCommunicator()
        else:
            from dtrain.comm import failure
            from dtrain.comm.elastic import ElasticCommunicator
            from dtrain.comm.mpi import MPICommunicator

            elastic = elastic or choices.boolean_of_environment("elastic")
            average = average or choices.of_environment("average", choices.AVERAGES, "auto")
            overlap = overlap or choices.of_environment("overlap", choices.SWITCH, "auto")
            choices.check(f"average {average}", average, choices.AVERAGES)
            choices.check(f"overlap {overlap}", overlap, choices.SWITCH)
            _world = ElasticCommunicator() if elastic else MPICommunicator(average, overlap)
            failure.install(_world)
            alike.meet(_world)
            _world.agree_on_items("the version of", software() | _world.versions)
        threads.limit(_world)
    return _world
