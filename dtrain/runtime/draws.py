"""A session's random numbers: what an operation draws next follows from two seeds and how often it has."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.cuda.counters import Counters
from dtrain.graph.graph import Graph


class Draws:
    """Streams for operations on the host, counters for kernels on a device.

    counters: on a device, how often each operation has drawn, where steps run that the host does not see.
    """

    def __init__(self, graph: Graph, comm: Communicator, backend: Any) -> None:
        self._graph, self._comm = graph, comm
        self._seed: int | None = None
        self._counts: dict[str, int] = {}
        self.counters = None if backend.on_host else Counters(backend)

    def stream(self, name: str, seed: int) -> Callable[[], np.random.Generator]:
        """The generator of an operation's next run: a function of (graph seed, op seed, number of runs)."""
        root = self._root()

        def stream() -> np.random.Generator:
            count = self._counts.get(name, 0)
            self._counts[name] = count + 1
            key = np.array([root, seed], np.int64).view(np.uint64)
            return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, count, 0]))

        return stream

    def counter(self, name: str) -> tuple[int, Any]:
        """The same for a kernel on a device: the graph's seed, and the operation's counter."""
        assert self.counters is not None
        return self._root(), self.counters.of(name, self._counts.get(name, 0))

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
        return {"seed": self._seed, "draws": self._counts | on_device}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._seed, self._counts = state["seed"], dict(state["draws"])
        if self.counters:
            self.counters.set(self._counts)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Let runs inside draw what the runs behind them draw again: who watches changes nothing."""
        state = self.state
        try:
            yield
        finally:
            self.state = state

    def counted(self) -> dict[str, int]:
        """How often operations on the host have drawn, to go back to; a device counts a step that is done."""
        return dict(self._counts)

    def back_to(self, counts: dict[str, int]) -> None:
        """Draw again what came behind counted()."""
        self._counts = counts
