"""A session's random numbers: what an operation draws next follows from two seeds and how often it has."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.cuda.counters import Counters
from dtrain.graph.graph import Graph


class Draws:
    """Streams for operations in NumPy, counters for kernels in C or on a device.

    counters: on a device, how often each operation has drawn, where steps run that the host does not see.
    """

    def __init__(self, graph: Graph, comm: Communicator, backend: Any) -> None:
        self._graph, self._comm = graph, comm
        self._seed: int | None = None
        #: Of each operation on the host how often it has drawn, and whether it did in its last run in C.
        self._counts: dict[str, np.ndarray] = {}
        self.counters = None if backend.on_host else Counters(backend)

    def stream(self, name: str, seed: int) -> Callable[[], np.random.Generator]:
        """The generator of an operation's next run: a function of (graph seed, op seed, number of runs)."""
        root, counter = self._root(), self._counter(name)

        def stream() -> np.random.Generator:
            count = int(counter[0])
            counter[0] += 1
            key = np.array([root, seed], np.int64).view(np.uint64)
            return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, count, 0]))

        return stream

    def counter(self, name: str) -> tuple[int, Any]:
        """The same for a kernel in C or on a device: the graph's seed, and the operation's counter."""
        counter = self._counter(name)
        return self._root(), self.counters.of(name, int(counter[0])) if self.counters else counter

    def _counter(self, name: str) -> np.ndarray:
        return self._counts.setdefault(name, np.zeros(2, np.int64))

    def undraw(self, names: Iterable[str]) -> None:
        """Take back the last runs in C of these operations, of a step that was stopped after them."""
        for name in names:
            self._counts[name][0] -= self._counts[name][1]

    def _root(self) -> int:
        """The graph's seed, or one that all ranks have instead."""
        if self._seed is None:
            chosen = secrets.randbits(62) if self._graph.seed is None else self._graph.seed
            self._seed = int(self._comm.broadcast(np.array([chosen], np.int64))[0])
        return self._seed

    @property
    def state(self) -> dict[str, Any]:
        """What the next numbers follow from, as plain data: the seed, and each operation's runs."""
        on_device = self.counters.counts() if self.counters else {}
        return {"seed": self._seed, "draws": self.counted() | on_device}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._seed = state["seed"]
        self.back_to(state["draws"])
        if self.counters:
            self.counters.set(state["draws"])

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Let runs inside draw what the runs after them draw again: who watches changes nothing."""
        state = self.state
        try:
            yield
        finally:
            self.state = state

    def counted(self) -> dict[str, int]:
        """How often operations on the host have drawn, to go back to; a device counts a step that is done."""
        return {name: int(counter[0]) for name, counter in self._counts.items() if counter[0]}

    def back_to(self, counts: dict[str, int]) -> None:
        """Draw again what came after counted()."""
        for name in (*self._counts, *counts):
            self._counter(name)[0] = counts.get(name, 0)
