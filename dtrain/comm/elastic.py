"""The communicator that continues without ranks that die: MPI with User-Level Failure Mitigation (ULFM).

MPI alone promises little: where a rank dies in a collective some of the others may get the result and some an
error. Here each collective ends with an agreement, which survives deaths, on whether all had success. So it
succeeds on all survivors or fails on all; they are always at the same line of the program, with the same
values. (Bland et al. 2013, "Post-failure recovery of MPI communication capability".)

Each rank has memory of its own: what a rank that dies left half written nobody else reads.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dtrain.comm import monitor
from dtrain.comm.mpi import MPICommunicator, library_family, library_name, load_mpi
from dtrain.errors import EnvironmentProblem, RanksLost


def check_tolerance(library: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise EnvironmentProblem unless the MPI continues when a rank dies; library: its name and version."""
    if library_family(library) != "Open MPI":
        problem = f"{library} ends all ranks when one dies; Open MPI 5 need not."
    elif environ.get("OMPI_MCA_mpi_ft_enable", "").lower() not in ("1", "true"):
        problem = "mpirun was started without `--with-ft ulfm`, so a rank that dies ends all."
    else:
        return
    raise EnvironmentProblem(
        f"--elastic: {problem} Start with `./launch/local --elastic -n 4 train`, or leave --elastic out: "
        "`./launch/local --restarts 3 -n 4 train` starts a job that failed again from its last checkpoint."
    )


class ElasticCommunicator(MPICommunicator):
    """All ranks at first; after shrink() those that live. Collectives raise RanksLost on all of them.

    Raises:
        EnvironmentProblem: on every rank; the MPI has no ULFM, or it was not asked for.
    """

    elastic = True

    def __init__(self) -> None:
        mpi = load_mpi()
        check_tolerance(library_name(mpi.Get_library_version()))
        self._losses = {mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED}
        super().__init__("mpi")
        atexit.unregister(mpi.Finalize)  # it may wait for the dead for ever; mpirun does not need it
        self._node_of = self._allgather(np.array(self.node[:1])).tolist()  # each rank's, by its first rank
        self._alive = list(range(self.size))  # by the numbers that ranks had at the start
        self._all_hosts = self.hosts

    def shrink(self) -> list[str]:
        self.board.leave()  # the collective that failed, and the plan that it was in
        self.board.row[monitor.POSITION] = -1
        survivors = self._comm.Shrink()
        group = self._mpi.COMM_WORLD.group
        before, self._alive = self._alive, survivors.group.Translate_ranks(None, group)
        self._comm = survivors
        self.rank, self.size = survivors.rank, survivors.size
        nodes = [self._node_of[rank] for rank in self._alive]
        self.node = tuple(rank for rank, node in enumerate(nodes) if node == nodes[self.rank])
        self.nodes = len(set(nodes))
        self.local_rank, self.local_size = self.node.index(self.rank), len(self.node)
        self.hosts = tuple(self._all_hosts[rank] for rank in self._alive)
        return [f"rank {rank} on {self._all_hosts[rank]}" for rank in before if rank not in self._alive]

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        self._on_all_or_none(super()._allreduce, array, op)

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        self._on_all_or_none(super()._broadcast, array, root)

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        return self._on_all_or_none(super()._allgather, array)

    def _on_all_or_none(self, collective: Callable[..., Any], *arguments: Any) -> Any:
        result, good = None, 1
        try:
            result = collective(*arguments)
        except self._mpi.Exception as error:
            self._refuse_other(error)
            self._comm.Revoke()  # others may be waiting in it for this rank
            good = 0
        try:
            good = self._comm.Agree(good)
        except self._mpi.Exception as error:  # someone died who did not take part; all get the same error
            self._refuse_other(error)
            good = 0
        if not good:
            raise RanksLost(
                "a rank died before the first step or after the last, where no run continues without it. "
                "Start again."
            )
        return result

    def _refuse_other(self, error: Any) -> None:
        """Raise what is no rank's death."""
        if error.Get_error_class() not in self._losses:
            raise error
