"""A session's variables: their memory, which of them have values, and reading and writing them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any
from weakref import finalize

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import FailedPreconditionError, InvalidArgumentError
from dtrain.graph.graph import Graph, Operation, built
from dtrain.graph.shape import size_of
from dtrain.ops.memory import STAGGER, aligned
from dtrain.ops.state import Variable, VariableOp, is_updated
from dtrain.runtime.agreement import check_replicas
from dtrain.runtime.backend import Backend
from dtrain.runtime.draws import Draws


class Variables:
    """The variables of a graph on one rank.

    Parameters and their slots lie in memory that the ranks of a node share, where there is such; one of the
    ranks writes it after a barrier in which all take part.

    lock: held while values are read or written.
    arrays: the memory of each, by operation name. initialized: names of those that have a value.
    """

    def __init__(self, graph: Graph, comm: Communicator, backend: Backend, lock: threading.RLock) -> None:
        self._graph, self._comm, self._backend = graph, comm, backend
        self.lock = lock
        self.arrays: dict[str, Any] = {}
        self.initialized: set[str] = set()
        self._shared: list[np.ndarray] = []  # blocks of them
        finalize(self, comm.give_back, self._shared).atexit = False
        self._walked = 0  # blocks of parameters and slots

    def allocate(self) -> None:
        """Memory for variables made since the last time: one buffer for each group and dtype. Collective."""
        new: dict[tuple[str, str], list[Operation]] = {}
        for node in self._graph.operations:
            if isinstance(node.kind, VariableOp) and node.name not in self.arrays:
                new.setdefault((node.kind.group, node.kind.dtype.name), []).append(node)
        for nodes in new.values():
            sizes = [_nbytes(node) for node in nodes]
            walked = is_updated(nodes[0])
            offset = self._walked % 3 * STAGGER
            self._walked += walked
            nbytes = offset + sum(aligned(size) for size in sizes)
            block = None
            if self._backend.on_host and walked:
                block = self._comm.shared(nbytes)
                self._shared += [] if block is None else [block]
            if block is None:
                block = self._backend.block(nbytes)
            for node, size in zip(nodes, sizes, strict=True):
                spec = node.outputs[0].spec
                array = block[offset : offset + size].view(spec.dtype.numpy).reshape(spec.shape)
                self.arrays[node.name] = array
                offset += aligned(size)

    def require(self, names: Sequence[str]) -> None:
        """Raise FailedPreconditionError unless all of these have values."""
        if self.initialized.issuperset(names):
            return
        name = next(n for n in names if n not in self.initialized)
        place = built(self._graph.get_operation_by_name(name))
        raise FailedPreconditionError(
            f"Attempting to use uninitialized value {name}{place}: run "
            "session.run(dt.global_variables_initializer()) first."
        )

    def read(self, names: Sequence[str]) -> list[Any]:
        """Copies of values, as a run fetches them, without one: no message, so on any rank alone."""
        with self.lock:
            self.require(names)
            arrays = [np.array(self._backend.to_host(self.arrays[name])) for name in names]
        return [a if a.ndim else a[()] for a in arrays]

    def snapshot(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Copies of what lies in their memory, values or none, by name; no message."""
        with self.lock:
            found = {name: self._backend.to_host(self.arrays[name]) for name in names}
            return {n: a.copy() for n, a in found.items()} if self._backend.on_host else found

    def write(self, variable: Variable, value: Any) -> None:
        """Give a variable a value, of its shape and dtype. Collective: every rank gives the same.

        Raises:
            InvalidArgumentError: it is of another shape or dtype.
        """
        array = np.asarray(value)
        if array.shape != variable.value().spec.shape or array.dtype != variable.dtype.numpy:
            raise InvalidArgumentError(
                f"a value of {array.dtype}{array.shape} for the variable {variable.op.name} of "
                f"{variable.dtype.name}{variable.shape}."
            )
        self._comm.check_thread()
        with self.lock:
            self._backend.use()
            self.allocate()
            memory = self.arrays[variable.op.name]

            def write() -> None:
                memory[...] = self._backend.from_host(array)

            if self._backend.on_host and self._comm.is_shared(memory):
                write = self._comm.shared_write(write, parts=False)
            write()
            self.initialized.add(variable.op.name)

    def kept(self, names: Sequence[str], draws: Draws) -> Callable[[], None]:
        """What puts back the values of these, and the random numbers that come next."""
        self._backend.use()
        counts = draws.counted()
        values = {name: self.arrays[name].copy() for name in names}

        def undo() -> None:
            self._backend.use()
            draws.back_to(counts)
            for name, value in values.items():
                self.arrays[name][...] = value

        return undo

    def check_replicas(self) -> None:
        """Raise ReplicaError on every rank unless all hold the same bits in all variables. Collective."""
        with self.lock:
            self._backend.use()
            values = {name: array for name, array in self.arrays.items() if name in self.initialized}
            check_replicas(self._comm, self._backend, self._graph, values)

    def clear(self) -> None:
        """Free them all."""
        self.arrays.clear()
        self.initialized.clear()


def _nbytes(node: Operation) -> int:
    spec = node.outputs[0].spec
    return size_of(spec.shape) * spec.dtype.numpy.itemsize
