"""Where models live: a graph, the one session that holds the values of its weights, and its ranks."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain import comm as communicators
from dtrain.comm import SingleCommunicator
from dtrain.comm.base import Communicator
from dtrain.errors import UsageError
from dtrain.graph.graph import READY, Graph, get_default_session
from dtrain.ops.state import Variable, variables_initializer
from dtrain.runtime.config import ConfigProto
from dtrain.runtime.session import Session

#: As `comm`: all ranks, or those of the models that are in the graph already.
WORLD: Any = object()
_HOME = "keras home"


class Home:
    """What the models of a graph share.

    comm: the ranks that work together. session: made when it is needed; that of K.set_session, or else the
    default one, where it runs this graph.
    """

    def __init__(
        self, graph: Graph, comm: Communicator | None, device: str | None, config: ConfigProto | None
    ) -> None:
        self.graph, self._config = graph, config
        self._device = device or os.environ.get("DTRAIN_DEVICE", "cpu")
        self.comm = communicators.world() if comm is WORLD else comm or SingleCommunicator()
        self._session: Session | None = None
        #: Of several threads one makes what a model is made of. It comes before the session's lock.
        self.building = threading.RLock()

    @property
    def session(self) -> Session:
        if self._session is None:
            with self.building:
                if self._session is None:
                    given = get_default_session()
                    if given is not None and given.graph is self.graph and given.comm is self.comm:
                        self._session = given
                    else:
                        self._session = Session(
                            "", self.graph, self._config, comm=self.comm, device=self._device
                        )
        return self._session

    @session.setter
    def session(self, session: Session) -> None:
        self._session, self.comm = session, session.comm

    def ready(self) -> Session:
        """The session, with a value for every variable of the graph."""
        self.initialize(self.graph.get_collection("variables"))
        return self.session

    def has(self, variables: Sequence[Variable]) -> bool:
        """Whether they have values: were trained, loaded, set or read."""
        return self._session is not None and all(
            v.op.name in self._session.variables.initialized for v in variables
        )

    def initialize(self, variables: Sequence[Variable]) -> None:
        """Give their first values to those that have none. Collective."""
        with self.building:
            done = self.session.variables.initialized
            new = [v for v in dict.fromkeys(variables) if v.op.name not in done]
            if new:
                with self.graph.as_default():
                    initializer = variables_initializer(new)
                self.session.run(initializer)

    def read(self, variables: Sequence[Variable]) -> list[np.ndarray]:
        """Copies of the values of variables."""
        self.initialize(variables)
        return [np.asarray(v) for v in self.session.run(list(variables))]

    def assign(self, variables: Sequence[Variable], arrays: Sequence[np.ndarray]) -> None:
        """Give variables values, once no rank reads the old ones any more."""
        self.comm.barrier()
        with self.session.lock:
            for variable, array in zip(variables, arrays, strict=True):
                self.session.set_value(variable, array)

    def write(self, named: Sequence[tuple[str, Variable]], weights: Sequence[Any], what: str) -> None:
        """Give weights values.

        Raises:
            UsageError: there are more or fewer, or one has another shape.
        """
        if len(weights) != len(named):
            raise UsageError(
                f"{what}: {len(weights)} arrays for {len(named)} weights: give one for each of "
                f"{', '.join(name for name, _ in named)}."
            )
        arrays = [np.asarray(w, np.float32) for w in weights]
        for (name, variable), array in zip(named, arrays, strict=True):
            if list(array.shape) != variable.shape.as_list():
                raise UsageError(
                    f"{what}: {name} has shape {tuple(variable.shape.as_list())}, and "
                    f"{array.shape} is given: give the weights of a model with the same layers."
                )
        self.initialize([v for _, v in named])
        self.assign([v for _, v in named], arrays)


#: The graph of the home that was made last.
_made: list[weakref.ref[Graph]] = []


def latest() -> Graph | None:
    """The graph in which a model was made last; None where there is none any more."""
    return _made[-1]() if _made else None


def home_of(
    graph: Graph,
    comm: Communicator | None = WORLD,
    device: str | None = None,
    config: ConfigProto | None = None,
) -> Home:
    """The home of a graph's models, made by the first that asks.

    Raises:
        UsageError: it is there, with other ranks than those that are asked for.
    """
    with graph.lock:
        if _HOME not in graph.kept:
            home = graph.kept[_HOME] = Home(graph, comm, device, config)
            _made.append(weakref.ref(graph))
            del _made[:-1]
            graph.kept[READY] = lambda: home.ready
        home = graph.kept[_HOME]
    if comm is not WORLD and (comm or home.comm) is not home.comm:
        raise UsageError("the models of a graph work on the same ranks: give all of them this comm.")
    return home
