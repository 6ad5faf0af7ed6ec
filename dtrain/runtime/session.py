"""Session: a graph, its variables and the plans made so far; compiled.py takes the steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from dtrain import comm as communicators
from dtrain.comm.base import Communicator, every_rank
from dtrain.comm.board import caller, tag_of
from dtrain.comm.single import SingleCommunicator
from dtrain.errors import (
    DtrainError,
    EnvironmentProblem,
    FailedPreconditionError,
    GraphError,
    InvalidArgumentError,
    NotSupportedError,
    UsageError,
)
from dtrain.graph.graph import Graph, Operation, Tensor, TensorLike, get_default_graph, session_stack
from dtrain.native import compiler
from dtrain.native.code import problem as native_problem
from dtrain.ops.base import convert_to_tensor
from dtrain.ops.check import LOSS_SCALES, LOSSES
from dtrain.ops.state import Variable, VariableOp
from dtrain.passes import FeedSpec, compile_step
from dtrain.passes.order import schedule
from dtrain.passes.step import ancestors
from dtrain.runtime.agreement import agree_on_devices, agree_on_step
from dtrain.runtime.backend import Backend, make_backend, take_gpu
from dtrain.runtime.compiled import CompiledStep
from dtrain.runtime.config import ConfigProto, RunMetadata, RunOptions
from dtrain.runtime.device import DevicePlan
from dtrain.runtime.draws import Draws
from dtrain.runtime.layout import NoRoom, PlanEnv
from dtrain.runtime.numerics import Numerics
from dtrain.runtime.plan import Plan
from dtrain.runtime.taking import Taking
from dtrain.runtime.variables import Variables

#: Plans kept for feeds of different shapes; the one unused longest is dropped beyond it.
MAX_PLANS = 64
#: Fetches of run, with what is fed, that are looked up once.
MAX_STEPS = 256

_WORLD: Any = object()


class Session:
    """Runs operations of a graph and holds the values of its variables.

    On several ranks every call is collective, and shapes and values are those of the whole batch: a plain
    array is fed equally on every rank, a Shard is this rank's rows, a Batch is split. Fetched values are
    whole
    on every rank. `with Session() as sess:` makes it the default session and its graph the default graph, and
    closes it.

    Any thread may call it; runs follow one another, and each is as if it were alone. On several ranks one
    thread makes the collective calls (see Communicator.check_thread); in other threads a run may read
    variables and compute with whole arrays, which each rank does by itself.

    Args:
        target: only ''.
        graph: by default the default graph.
        config: a ConfigProto.
        comm: the ranks that work together, by default all; None for this rank alone.
        device: cpu, gpu or auto, or a Backend.

    Attributes:
        bitwise: as in ConfigProto; to be changed on all ranks.
        profiler: a runtime.profile.Recorder, set on all ranks, records the runs; None does not.
        lock: held by each run; while a thread holds it, no other thread's run starts.
        plans: the plans that are kept, by their fetches and feeds; the one that ran last is the last.
        takings: what runs of the same fetches and feeds read from data sets and queues.
        updates: the number of runs so far that have updated parameters.
        variables, draws, numerics: the values, the random numbers, and what is done about bad numbers.

    Example:
        >>> with dt.Session() as sess:
        ...     print(sess.run(dt.constant(1.0) + 2.0))
        3.0
    """

    profiler: Any = None
    _of: Communicator | None = None  # of one that reads another's variables: the other's ranks

    def __init__(
        self,
        target: str = "",
        graph: Graph | None = None,
        config: ConfigProto | None = None,
        *,
        comm: Communicator | None = _WORLD,
        device: str | Backend = "cpu",
    ) -> None:
        if target:
            raise GraphError(
                f"Session(target={target!r}): there is no server to connect to; leave target out."
            )
        config = config or ConfigProto()
        device = config.apply(device)
        self._check_every = config.check_replicas_every
        self._bitwise = bool(config.bitwise)
        self.updates = 0
        self.graph = graph if graph is not None else get_default_graph()
        if isinstance(device, str):
            take_gpu(device)
        self.comm = communicators.world() if comm is _WORLD else comm or SingleCommunicator()
        self.backend = device if isinstance(device, Backend) else make_backend(device)
        self.lock = self.backend.lock or threading.RLock()
        self.variables = Variables(self.graph, self.comm, self.backend, self.lock)
        self.draws = Draws(self.graph, self.comm, self.backend)
        self.numerics = Numerics(config.check_numerics, self.comm, self.backend, self.variables, self.draws)
        self.plans: dict[Any, Plan] = {}
        self.takings: dict[Any, Taking] = {}
        #: What run has made of the same fetches and names of feeds, and the order of the values in it.
        self._steps: dict[Any, tuple[CompiledStep, list[int]]] = {}
        self._reads: Session | None = None
        self._compiles: tuple[bool | None] | None = None  # what _native found, once it has looked
        self._problem = ""  # why there are no kernels in C
        self._constants: dict[int, tuple[np.ndarray, Any]] = {}  # on a device
        self._closed = False
        self._entered: list[ExitStack] = []

    def __enter__(self) -> Session:
        context = ExitStack()
        context.enter_context(self.graph.as_default())
        context.enter_context(self.as_default())
        self._entered.append(context)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._entered.pop().close()
        self.close()

    @contextmanager
    def as_default(self) -> Iterator[Session]:
        """Make it the session of Tensor.eval and Operation.run inside, and leave it open after."""
        stack = session_stack()
        stack.append(self)
        try:
            yield self
        finally:
            del stack[len(stack) - 1 - stack[::-1].index(self)]

    @property
    def graph_def(self) -> Any:
        """The graph as plain data."""
        return self.graph.as_graph_def()

    def close(self) -> None:
        """Free the variables and plans, when no thread runs it; running it again is an error."""
        with self.lock:
            self._closed = True
            if self._reads is not None:
                self._reads.close()
            self.variables.clear()
            self.plans.clear()
            self.takings.clear()
            self._steps.clear()
            self._constants.clear()

    def check_open(self) -> None:
        """Raise FailedPreconditionError where the session is closed."""
        if self._closed:
            raise FailedPreconditionError("Attempted to use a closed Session.")

    # -- running ---------------------------------------------------------------------------------------
    def run(
        self,
        fetches: Any,
        feed_dict: Mapping[Any, Any] | None = None,
        options: RunOptions | None = None,
        run_metadata: RunMetadata | None = None,
    ) -> Any:
        """Run what the fetches need, and only that.

        Args:
            fetches: a tensor, variable, operation or name, or lists, tuples and dicts of them.
            feed_dict: values for placeholders (or any tensor), as arrays or Shards; for a tuple of tensors
                a tuple of values.
            options: RunOptions(trace_level=RunOptions.FULL_TRACE) records the run into run_metadata.
            run_metadata: a RunMetadata, which the record is written to.

        Returns:
            Values in the structure of fetches; None for operations.

        Raises:
            InvalidArgumentError: a placeholder is not fed, or a value does not fit.
            FailedPreconditionError: a variable has no value yet, or the session is closed.
        """
        if options is not None and getattr(options, "trace_level", True):
            if not isinstance(options, RunOptions) or not isinstance(run_metadata, RunMetadata):
                raise UsageError(
                    "Session.run: to trace a run give options=RunOptions(trace_level=RunOptions.FULL_TRACE) "
                    "and run_metadata=RunMetadata()."
                )
            from dtrain.runtime.profile import Recorder

            with self.lock:  # other threads' runs are not recorded
                before, self.profiler = self.profiler, Recorder(self.comm)
                try:
                    results = self.run(fetches, feed_dict)
                    run_metadata.step_stats = self.profiler
                finally:
                    self.profiler = before
            return results
        feeds = feed_dict or {}
        try:
            key: Any = type(fetches), tuple(fetches) if isinstance(fetches, list) else fetches, tuple(feeds)
            known = self._steps.get(key)
        except TypeError:  # a dict, or lists in a list, has no hash
            key = known = None
        if known is not None:
            step, order = known
            values = [*feeds.values()]
            return step(*[values[i] for i in order])
        pairs = [*_flat_items(feeds)]
        tensors = [self.feed_tensor(name) for name, _ in pairs]
        order = sorted(range(len(pairs)), key=lambda i: (tensors[i].op.id, tensors[i].index))
        step = CompiledStep(self, fetches, [tensors[i] for i in order])
        if key is not None and not any(isinstance(name, tuple) for name in feeds):
            if len(self._steps) >= MAX_STEPS:
                self._steps.clear()
            self._steps[key] = step, order
        return step(*[pairs[i][1] for i in order])

    def partial_run_setup(self, *args: Any, **named: Any) -> Any:
        """Raises NotSupportedError: a plan runs at once."""
        raise NotSupportedError(
            "Session.partial_run is not supported: a step is compiled as a whole; run it with all its feeds."
        )

    partial_run = partial_run_setup

    def make_callable(self, fetches: Any, feed_list: Sequence[Any] = ()) -> CompiledStep:
        """A function that runs fetches, faster than run because names and feeds are looked up once.

        Args:
            fetches: as for run.
            feed_list: tensors that are fed.

        Returns:
            CompiledStep: a function of the values of feed_list, in its order.
        """
        step = CompiledStep(self, fetches, feed_list)
        step.keeps = self
        return step

    def reader(self) -> Session:
        """A session of this rank alone on these variables, for threads that may not call the other ranks."""
        with self.lock:
            if self._reads is None:
                self._reads = reads = Session(graph=self.graph, comm=None, device=self.backend)
                reads._of, reads.lock, reads.variables = self.comm, self.lock, self.variables
                reads.numerics = self.numerics.of(reads.comm, reads.draws)
                reads._compiles, reads._bitwise = self._compiles, self._bitwise
            return self._reads

    @property
    def bitwise(self) -> bool:
        return self._bitwise

    @bitwise.setter
    def bitwise(self, value: bool) -> None:
        if value != self._bitwise:
            with self.lock:
                self._bitwise, self._reads = value, None
                self.forget_plans()

    def count_updates(self, steps: int) -> None:
        """So many more training steps are done: compare the replicas where that is due. Collective."""
        before = self.updates
        self.updates += steps
        if self._check_every and self.updates // self._check_every > before // self._check_every:
            self.check_replicas()

    def check_replicas(self) -> None:
        """Raise ReplicaError on every rank unless all hold the same bits in all variables. Collective."""
        self.variables.check_replicas()

    def element(self, leaf: Any) -> Tensor | Operation:
        """The graph element that a fetch names."""
        if isinstance(leaf, str):
            leaf = (
                self.graph.get_tensor_by_name(leaf) if ":" in leaf else self.graph.get_operation_by_name(leaf)
            )
        if isinstance(leaf, TensorLike):
            leaf = convert_to_tensor(leaf)
        if not isinstance(leaf, Tensor | Operation):
            raise TypeError(
                f"{leaf!r} cannot be fetched: give a tensor, a variable, an operation or its name."
            )
        if leaf.graph is not self.graph:
            raise InvalidArgumentError(
                f"{leaf.name} is not in this session's graph: give Session(graph=...) its own."
            )
        return leaf

    def feed_tensor(self, key: Any) -> Tensor:
        """The tensor that a feed names, which is no variable."""
        element = self.element(key)
        if not isinstance(element, Tensor):
            raise TypeError(f"{element.name} is an operation: only tensors can be fed.")
        if isinstance(element.op.kind, VariableOp):
            raise InvalidArgumentError(
                f"{element.name} is a variable and cannot be fed: assign to it instead."
            )
        return element

    # -- plans -----------------------------------------------------------------------------------------
    def plan(self, key: Any, make: Callable[[], Plan]) -> Plan:
        """The plan of a key, made where there is none; from here on it is the one that was used last."""
        plan = self.plans.pop(key, None)
        if plan is None or plan.running:  # a signal's handler may run while a plan does
            plan = make()
        if len(self.plans) >= MAX_PLANS:
            self.plans.pop(next(iter(self.plans)))  # the one unused longest
        self.plans[key] = plan
        return plan

    def forget_plans(self) -> None:
        """Compile anew from here on, as where the communicator's ranks are others."""
        with self.lock:
            self.plans.clear()

    def make_plan(
        self,
        tensors: Sequence[Tensor],
        targets: Sequence[Operation],
        feeds: Sequence[Tensor],
        specs: Sequence[tuple[Any, ...]],
        call: str,
        look: bool,
    ) -> Plan:
        """Make a plan, and make sure that all ranks made the same.

        specs: of each feed the global shape, the placement and, of one that decides on branches, the value.
        call: the one that it is for, in words. look: whether it may have a check that leads to a warning.
        """
        self.check_open()  # another thread may have closed it since the run began
        error, tag = None, 0
        native = self._native()
        link = (self.comm if self.backend.on_host else self.comm.device_sums or self.comm).link
        try:
            feed_specs = [FeedSpec(t, *spec) for t, spec in zip(feeds, specs, strict=True)]
            scales = self.graph.kept.get(LOSS_SCALES, {})
            behind = ancestors([*(t.op for t in tensors), *targets], frozenset(t.op for t in feeds))
            stops = self.numerics.stops or any(n.name in scales for n in behind)
            losses = self.graph.kept.get(LOSSES, ())
            look = look and self.numerics.looks and bool(losses) and not stops
            losses_at = {i: t.name for i, t in enumerate(tensors) if t in losses} if look else None
            device = not self.backend.on_host
            what, how = (tensors, targets, feed_specs, self.comm.size), (link, device, losses_at)
            compiled = partial(compile_step, *what, native, stops or look, *how)
            step = compiled(shares=self.comm.shares, bitwise=self.bitwise)
            nodes = schedule(step)
        except DtrainError as problem:
            error = problem
        if self.comm.size > 1:
            self.comm.agree(error)
            tag = tag_of(agree_on_step(self.comm, self.graph, nodes))
        if error is not None:
            raise error
        if self._of is None:
            self.variables.allocate()
        else:
            self._read_only(nodes)
        has_value = self.variables.initialized.__contains__
        env = PlanEnv(self.backend, self.comm, self.draws, has_value, self._constants)
        kind = Plan if self.backend.on_host else DevicePlan
        call += caller() if tag else ""
        around = self.variables.arrays, self.backend, env, scales, call, tag
        try:
            plan = kind(step, nodes, *around)
        except NoRoom:
            step = compiled(shares=False, bitwise=self.bitwise)
            plan = kind(step, schedule(step), *around)
        plan.losses = losses_at or {}
        return plan

    def _read_only(self, nodes: Sequence[Operation]) -> None:
        """Raise where a run that is to be this rank's alone does what all ranks have to do together."""
        assert self._of is not None
        if any(node.kind.writes or node.kind.draws for node in nodes):
            self._of.check_thread()
        self.variables.require([node.name for node in nodes if isinstance(node.kind, VariableOp)])

    def _native(self) -> bool | None:
        """What Step.native is to be: whether plans may have, or must have, kernels of our own. Collective."""
        if self._compiles is None:
            agree_on_devices(self.comm, self.backend)
            if not self.backend.on_host:
                from dtrain.comm import nccl  # a start on CPUs has no use for it

                nccl.join(self.comm, self.backend)
                self._compiles = (True,)
            else:
                wanted = self.backend.kernels
                self._problem = problem = native_problem(self.comm) if wanted != "numpy" else ""
                if wanted == "c" and problem:
                    raise EnvironmentProblem(f"kernels c: {problem}").on_every_rank()
                self._compiles = (None,) if wanted == "numpy" or problem else (wanted == "c",)
        if self.bitwise and (self._compiles[0] is None or not self.backend.on_host):
            raise self._not_bitwise()
        return self._compiles[0]

    def _not_bitwise(self) -> EnvironmentProblem:
        """Why values cannot be the same bits on any number of ranks: the same on all of them."""
        why = "a GPU's libraries sum in an order that follows from sizes: take the CPU (--device cpu)"
        if self.backend.on_host:
            missing = self._problem or "--kernels numpy takes NumPy's"
            why = (
                f"products by NumPy have other bits at other sizes, and there are no kernels in C: {missing}"
            )
        return EnvironmentProblem(f"bitwise: {why}.").on_every_rank()

    @property
    def kernels(self) -> str:
        """How this session's kernels are made, in words. Collective."""
        if not self.backend.on_host:
            device: Any = self.backend
            return f"CUDA, by NVRTC; products in {device.precision}"
        with self.lock:
            native = self._native()
        if native is not None:
            return f"C, by {compiler.name()}"
        return f"NumPy: {self._problem}" if self._problem else "NumPy"

    # -- variables -------------------------------------------------------------------------------------
    def get_values(self, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
        """Copies of variables' values on the host, by operation name.

        Raises:
            FailedPreconditionError: one has no value yet.
        """
        values = self.run(list(variables))
        return {v.op.name: np.asarray(value) for v, value in zip(variables, values, strict=True)}

    def snapshot(self, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
        """get_values for this rank alone, at the cost of the copies: no plan and no message."""
        return self.variables.snapshot([v.op.name for v in variables])

    @property
    def random_state(self) -> dict[str, Any]:
        """What the next random numbers follow from, as plain data: the seed, and each operation's runs."""
        with self.lock:
            return self.draws.state

    @random_state.setter
    def random_state(self, state: dict[str, Any]) -> None:
        """Continue from there: the same on every rank."""
        with self.lock:
            self.draws.state = state

    @every_rank
    def set_value(self, variable: Variable, value: Any) -> None:
        """Give a variable a value, of its shape and dtype. Collective: every rank gives the same."""
        self.variables.write(variable, value)


def _flat_items(feeds: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """The items of a feed_dict; a tuple of tensors, such as a recurrent net's state, as the pairs in it."""
    for key, value in feeds.items():
        if not isinstance(key, tuple):
            yield key, value
            continue
        if not isinstance(value, tuple | list) or len(value) != len(key):
            raise InvalidArgumentError(
                f"Cannot feed {value!r} for a tuple of {len(key)} tensors: feed a tuple of as many values."
            )
        for pair in zip(key, value, strict=True):
            yield from _flat_items(dict([pair]))


class InteractiveSession(Session):
    """A session that is the default one, and its graph the default graph, until close().

    Args:
        target: only ''.
        graph: by default the default graph.
        config: a ConfigProto.
        comm: the ranks that work together, by default all; None for this rank alone.
        device: cpu, gpu or auto, or a Backend.
    """

    def __init__(
        self,
        target: str = "",
        graph: Graph | None = None,
        config: ConfigProto | None = None,
        *,
        comm: Communicator | None = _WORLD,
        device: str | Backend = "cpu",
    ) -> None:
        super().__init__(target, graph, config, comm=comm, device=device)
        self._installed = ExitStack()
        if graph is not None:  # the default graph may be reset later; it needs no block around it
            self._installed.enter_context(self.graph.as_default())
        self._installed.enter_context(self.as_default())

    def close(self) -> None:
        """Stop being the default session, and free the variables and plans."""
        self._installed.close()
        super().close()
