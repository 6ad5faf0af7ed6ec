"""Session: runs parts of a graph, holds the variables, and keeps the plans it has made."""

from __future__ import annotations

import numbers
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from weakref import finalize

import numpy as np

from dtrain import comm as communicators
from dtrain.comm.base import Communicator, every_rank
from dtrain.comm.board import caller, stacklevel, tag_of
from dtrain.comm.monitor import POSITION, STEP
from dtrain.comm.single import SingleCommunicator
from dtrain.errors import (
    DtrainError,
    EnvironmentProblem,
    FailedPreconditionError,
    GraphError,
    InvalidArgumentError,
    NumericError,
    RanksLost,
    UsageError,
)
from dtrain.graph.dtypes import DType
from dtrain.graph.graph import Graph, Operation, Tensor, TensorLike, built, get_default_graph, session_stack
from dtrain.graph.shape import compatible, shape_text
from dtrain.native import compiler
from dtrain.native.code import problem as native_problem
from dtrain.ops.base import convert_to_tensor, to_array
from dtrain.ops.check import LOSS_SCALES, LOSSES, NotFinite
from dtrain.ops.memory import STAGGER, aligned
from dtrain.ops.placement import REPLICATED, Placement, Sharded, shard_bounds
from dtrain.ops.state import Variable, VariableOp, is_updated
from dtrain.passes import FeedSpec, compile_step
from dtrain.passes.order import schedule
from dtrain.passes.step import ancestors
from dtrain.runtime.agreement import agree_on_devices, agree_on_step, check_replicas
from dtrain.runtime.backend import Backend, make_backend, take_gpu
from dtrain.runtime.batch import Batch, checksum
from dtrain.runtime.collection import paused
from dtrain.runtime.config import ConfigProto, RunMetadata, RunOptions
from dtrain.runtime.device import DevicePlan
from dtrain.runtime.draws import Draws
from dtrain.runtime.layout import NoRoom, PlanEnv
from dtrain.runtime.plan import Plan

#: Plans kept for feeds of different shapes; the one unused longest is dropped beyond it.
MAX_PLANS = 64

#: Fetches that the name of a call has, at most.
MOST_NAMED = 3

_WORLD: Any = object()


class Shard:
    """This rank's rows of a global batch, to feed where a placeholder stands for the whole batch.

    rows: array whose axis 0 holds entries shard_bounds(total, rank, size) of the batch; may be empty.
    total: number of entries of the batch over all ranks.
    """

    __slots__ = ("rows", "total")

    def __init__(self, rows: Any, total: int) -> None:
        self.rows = np.asarray(rows)
        self.total = int(total)


class Session:
    """Runs operations of a graph and holds the values of its variables.

    On several ranks every call is collective, and shapes and values are those of the whole batch: a plain
    array is fed alike on every rank, a Shard is this rank's rows, a Batch is split. Fetched values are whole
    on every rank.
    `with Session() as sess:` makes it the default session and its graph the default graph, and closes it.

    Any thread may call it; runs follow one another, and each is as if it were alone. On several ranks one
    thread makes the calls that take all ranks (see Communicator.check_thread); in others a run may read
    variables and compute of whole arrays, which each rank does by itself.

    Args:
        target: accepted for TensorFlow 1's sake; only '' is known.
        graph: by default the default graph.
        config: TensorFlow 1's options; ConfigProto says what each means here.
        comm: the ranks that work together, by default all; None for this rank alone.
        device: cpu, gpu or auto, or a Backend.

    profiler: a runtime.profile.Recorder, set on all ranks alike, records the runs; None does not.
    latest: the plan that ran last.
    lock: held by each run; while a thread holds it, no other's run comes between its own.
    """

    profiler: Any = None
    latest: Plan | None = None
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
        self._check_numerics, self._check_every = config.check_numerics, config.check_replicas_every
        self.look_again()
        self._updates = 0  # runs that have updated parameters
        self.graph = graph if graph is not None else get_default_graph()
        if isinstance(device, str):
            take_gpu(device)
        self.comm = communicators.world() if comm is _WORLD else comm or SingleCommunicator()
        self.backend = device if isinstance(device, Backend) else make_backend(device)
        self.lock = self.backend.lock or threading.RLock()
        self._variables: dict[str, Any] = {}
        self._shared: list[np.ndarray] = []  # blocks of them
        finalize(self, self.comm.give_back, self._shared).atexit = False
        self._walked = 0  # blocks of parameters and slots
        self._initialized: set[str] = set()
        self._plans: dict[Any, Plan] = {}
        self._reads: Session | None = None
        self._compiles: tuple[bool | None] | None = None  # what _native found, once it has looked
        self._problem = ""  # why there are no kernels in C
        self._draws = Draws(self.graph, self.comm, self.backend)
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
            self._variables.clear()
            self._initialized.clear()
            self._plans.clear()
            self._constants.clear()

    # -- running ---------------------------------------------------------------------------------------
    def run(
        self,
        fetches: Any,
        feed_dict: dict[Any, Any] | None = None,
        options: RunOptions | None = None,
        run_metadata: RunMetadata | None = None,
    ) -> Any:
        """Run what the fetches need, and only that.

        Args:
            fetches: a tensor, variable, operation or name, or lists, tuples and dicts of them.
            feed_dict: values for placeholders (or any tensor), as arrays or Shards.
            options: RunOptions(trace_level=RunOptions.FULL_TRACE) records the run into run_metadata.

        Returns:
            Values in the structure of fetches; None for operations.

        Raises:
            InvalidArgumentError: a placeholder is not fed, or a value does not fit.
            FailedPreconditionError: a variable has no value yet, or the session is closed.
        """
        if options is not None and getattr(options, "trace_level", 1):
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
        items = sorted(
            ((self._feed_tensor(key), value) for key, value in (feed_dict or {}).items()),
            key=lambda item: (item[0].op.id, item[0].index),
        )
        return self.make_callable(fetches, [t for t, _ in items])(*(v for _, v in items))

    def make_callable(self, fetches: Any, feed_list: Sequence[Any] = ()) -> Callable[..., Any]:
        """run with the looking-up done once: a function of the feeds' values, in feed_list's order."""
        leaves: list[Any] = []
        rebuild = _flatten(fetches, leaves)
        elements = [self._element(leaf) for leaf in leaves]
        tensors = tuple(e for e in elements if isinstance(e, Tensor))
        targets = tuple(e for e in elements if isinstance(e, Operation))
        place = {t: i for i, t in enumerate(tensors)}
        places = [place[e] if isinstance(e, Tensor) else None for e in elements]
        feeds = tuple(self._feed_tensor(f) for f in feed_list)
        kind = (tensors, targets, feeds)
        variables = [t.op.name for t in tensors if isinstance(t.op.kind, VariableOp)]
        reads = len(variables) == len(elements)  # what each rank can do by itself

        def compile(specs: Any, look: bool = True) -> Plan:
            name = _call_name(elements)
            with self.comm.call(name), paused():
                return self._compile(tensors, targets, feeds, specs, name, look)

        def call(*values: Any) -> Any:
            if self._closed:
                raise FailedPreconditionError("Attempted to use a closed Session.")
            if reads and not feeds and self.profiler is None:
                found = self._read(variables)
                return rebuild([None if p is None else found[p] for p in places])
            if not self.comm.is_its_thread:
                return self._reader().make_callable(fetches, feed_list)(*values)
            locals_, specs = self._accept(feeds, values)  # an array may be the caller's code: not locked
            key = (kind, specs)
            with self.lock:
                plan = self._plans.pop(key, None)
                if plan is None or plan.running:  # a signal's handler may run while a plan does
                    plan = compile(specs)
                self._keep(key, plan)
                self._check_initialized(plan.required)
                self.latest = plan
                try:
                    with plan:
                        if self.comm.size > 1:
                            self._check_alike(plan, feeds, values)
                        results = self._run(plan, locals_)
                except NotFinite:
                    results = self._run_bad(plan, compile(specs, look=False), locals_)
                if plan.assigned:
                    self._initialized.update(plan.assigned)
                with suppress(RanksLost):  # the step is done: the next collective tells
                    self.count_updates(plan, 1)
            return rebuild([None if p is None else results[p] for p in places])

        return call

    def _reader(self) -> Session:
        """A session of this rank alone on these variables, for threads that may not call the other ranks."""
        with self.lock:
            if self._reads is None:
                self._reads = Session(graph=self.graph, comm=None, device=self.backend)
                self._reads._of, self._reads.lock = self.comm, self.lock
                self._reads._variables, self._reads._initialized = self._variables, self._initialized
                self._reads._compiles = self._compiles
            return self._reads

    def _run(self, plan: Plan, values: Sequence[Any]) -> list[Any]:
        """The plan's fetches; what its check stops is taken again with a lower loss scale.

        Raises:
            NotFinite: of a plan that warns, which has changed nothing.
        """
        run = plan.run if self.profiler is None else partial(self.profiler.run, plan)
        elastic, checked = self.comm.elastic, plan.step.checked
        if not (elastic or checked):
            return run(values)
        while True:
            undo = self._kept_values([*plan.early, *plan.torn] if elastic else plan.early)
            try:
                return run(values)
            except RanksLost:
                undo()
                raise
            except NotFinite:
                undo()
                self.lower_scales(plan, values)
                if plan.warns:
                    raise

    def count_updates(self, plan: Plan, steps: int) -> None:
        """So many runs of a plan are done: compare the replicas where that is due. Collective."""
        before = self._updates
        self._updates += steps * plan.updates
        if self._check_every and self._updates // self._check_every > before // self._check_every:
            self.check_replicas()

    def _run_bad(self, plan: Plan, plain: Plan, values: Sequence[Any]) -> list[Any]:
        """What a step fetches that the check of `plan` has stopped, by `plain`, which has none. Collective.

        Warns, once, of the operation that made the first bad number, if a parameter or a loss becomes bad.
        """
        with plan:
            undo = self._kept_values(plan.early)
            found = self._first_bad(plan, values)
            undo()
            self.comm.barrier()  # others' kernels may have read what is put back
        before = self._bad_parameters(plan)
        with plain:
            results = self._run(plain, values)
        bad = [name for i, name in plan.losses.items() if not np.isfinite(results[i]).all()]
        bad += [name for name in self._bad_parameters(plan) if name not in before]
        if self.comm.broadcast(np.array([bool(bad)]))[0]:
            self._looks = False
            self._plans.clear()
            self.latest = plain
            if self.comm.rank == 0:
                warnings.warn(
                    f"step {self._updates + 1} makes a NaN, an infinity or a number too large: {found}. The "
                    f"update is done all the same, and {bad[0]} is no finite number from here on. A Session "
                    "or Keras model with config=dt.ConfigProto(check_numerics=True) makes this an error "
                    "before the update; with check_numerics=False nothing is looked at. A lower learning "
                    "rate, clipped gradients or a look at the data may help.",
                    RuntimeWarning,
                    stacklevel=stacklevel(),
                )
        return results

    def look_again(self) -> None:
        """Warn of the next bad number also where one was warned of, as of a model that is compiled anew."""
        self._looks = self._check_numerics == "warn"

    def _bad_parameters(self, plan: Plan) -> list[str]:
        """Names of those that the plan writes and that hold a NaN or an infinity."""
        values = ((name, self.backend.to_host(self._variables[name])) for name in plan.parameters)
        return [name for name, value in values if not np.isfinite(value).all()]

    def lower_scales(self, plan: Plan, values: Sequence[Any]) -> None:
        """After a step that StopIfBad has stopped on all ranks: lower its loss scales, to take it again.

        Collective. A plan that only warns has none.

        Raises:
            NumericError: there is none above 1.
        """
        self.comm.board.row[POSITION] = -1
        self.comm.barrier()  # a rank may still read another's verdict in memory that the next run writes
        if plan.warns:
            return
        found = [(s, self.snapshot([s.scale])[s.scale.op.name]) for s in plan.loss_scales]
        found = [(s, value) for s, value in found if value > 1]
        if not found:
            raise self._not_finite(plan, values) from None
        for s, value in found:
            self.set_value(s.scale, np.float32(max(value / np.float32(s.multiplier), 1)))
            self.set_value(s.good_steps, np.int64(0))

    def _not_finite(self, plan: Plan, values: Sequence[Any]) -> NumericError:
        """The error of a step that StopIfBad has stopped on all ranks."""
        text = self._first_bad(plan, values)
        step = int(self.comm.board.row[STEP])
        error = NumericError(
            f"{f'step {step}: ' if step >= 0 else ''}the loss or a gradient holds a NaN, an infinity or "
            f"a number too large; {text}. Nothing was updated. A lower learning rate, clipped gradients or a "
            "look at the data may help."
        )
        error.agreed = self.comm.size > 1
        return error

    def _first_bad(self, plan: Plan, values: Sequence[Any]) -> str:
        """Where the first bad number is from, in a step that StopIfBad has stopped on all ranks."""
        found = plan.find_bad(values, self.comm.size)
        places = self.comm.allgather(np.array([found[0] if found else len(plan.nodes)]))
        rank = int(np.argmin(places))
        text = self.comm.broadcast_text(found[1] if found and self.comm.rank == rank else "", rank)
        if not text:
            text = "a second run of the same step shows none, as where a processor or memory fails"
        elif (places > places[rank]).any():
            text += f", on rank {rank} on {self.comm.hosts[rank]}"
        return text

    def check_replicas(self) -> None:
        """Raise ReplicaError on every rank unless all hold the same bits in all variables. Collective."""
        with self.lock:
            values = {name: array for name, array in self._variables.items() if name in self._initialized}
            check_replicas(self.comm, self.backend, self.graph, values)

    def _element(self, leaf: Any) -> Tensor | Operation:
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

    def _feed_tensor(self, key: Any) -> Tensor:
        element = self._element(key)
        if not isinstance(element, Tensor):
            raise TypeError(f"{element.name} is an operation: only tensors can be fed.")
        if isinstance(element.op.kind, VariableOp):
            raise InvalidArgumentError(
                f"{element.name} is a variable and cannot be fed: assign to it instead."
            )
        return element

    # -- feeds -----------------------------------------------------------------------------------------
    def _accept(self, feeds: Sequence[Tensor], values: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """This rank's array of each feed, and (global shape, placement) of each: what a plan is for."""
        if len(values) != len(feeds):
            raise InvalidArgumentError(f"{len(values)} values for {len(feeds)} feeds: give one for each.")
        arrays, specs = [], []
        for tensor, value in zip(feeds, values, strict=True):
            if isinstance(value, Batch) and value.ndim and self.comm.size > 1:
                low, high = shard_bounds(len(value), self.comm.rank, self.comm.size)
                value = Shard(value[low:high], len(value))
            if isinstance(value, Shard):
                if self._of is not None:
                    self._of.check_thread()  # the other rows are other ranks'
                array, shape, placement = self._accept_shard(tensor, value)
            else:
                array = self._array(tensor, value)
                shape, placement = array.shape, REPLICATED
            if not compatible(shape, tensor.spec.shape):
                raise InvalidArgumentError(
                    f"Cannot feed value of shape {shape} for Tensor '{tensor.name}', which has shape "
                    f"'{shape_text(tensor.spec.shape)}'{built(tensor.op)}."
                )
            arrays.append(array)
            specs.append((shape, placement))
        return arrays, tuple(specs)

    def _accept_shard(self, tensor: Tensor, shard: Shard) -> tuple[Any, tuple[int, ...], Placement]:
        array = self._array(tensor, shard.rows)
        if array.ndim == 0:
            raise InvalidArgumentError(
                f"Cannot feed a Shard of a scalar for Tensor '{tensor.name}': it has no rows."
            )
        low, high = shard_bounds(shard.total, self.comm.rank, self.comm.size)
        if array.shape[0] != high - low:
            raise InvalidArgumentError(
                f"Cannot feed {array.shape[0]} rows for Tensor '{tensor.name}': of a global batch of "
                f"{shard.total} rank {self.comm.rank} of {self.comm.size} holds rows {low} to {high}."
            )
        return array, (shard.total, *array.shape[1:]), Sharded(0)

    def _array(self, tensor: Tensor, value: Any) -> np.ndarray:
        wanted = tensor.dtype.numpy
        if tensor.dtype.is_string:
            try:
                return to_array(value, tensor.dtype)
            except GraphError:
                raise InvalidArgumentError(
                    f"Cannot feed {value!r} for '{tensor.name}': it is no text."
                ) from None
        if isinstance(value, np.ndarray) and value.dtype == wanted:
            return value
        if isinstance(value, TensorLike):
            raise InvalidArgumentError(
                f"Cannot feed the tensor {value!r} for '{tensor.name}': feed an array, a number or a list."
            )
        try:
            array = np.asarray(value)
        except ValueError:
            raise InvalidArgumentError(f"Cannot feed a ragged list for Tensor '{tensor.name}'.") from None
        if array.size == 0 and not isinstance(value, np.ndarray):
            array = array.astype(wanted)
        if array.dtype == object and all(isinstance(v, numbers.Real) for v in array.flat):
            array = np.array(array.ravel().tolist()).reshape(
                array.shape
            )  # as of a table whose columns are of several dtypes
        if not _fits(array, tensor.dtype, value):
            raise InvalidArgumentError(
                f"Cannot feed value of dtype {array.dtype} for Tensor '{tensor.name}', which has dtype "
                f"{tensor.dtype.name}{built(tensor.op)}: convert it with numpy.asarray(value, "
                f"numpy.{tensor.dtype.name}) if that is meant."
            )
        return array.astype(wanted)

    def _check_alike(self, plan: Plan, feeds: Sequence[Tensor], values: Sequence[Any]) -> None:
        """Raise on every rank where a value that should be the same on all is not.

        Looks at the first run of a plan, the second, the fourth and so on: cheap, and soon enough to notice
        data that each rank shuffles for itself.
        """
        plan.runs += 1
        if plan.runs & (plan.runs - 1):
            return
        whole = [(t, v) for t, v in zip(feeds, values, strict=True) if not isinstance(v, Shard)]
        if not whole:
            return
        sums = self.comm.allgather(np.array([[checksum(v) for _, v in whole]], np.int64))
        for (tensor, _), column in zip(whole, sums.T, strict=True):
            if (column != column[0]).any():
                rank = int(np.argmax(column != column[0]))
                error = InvalidArgumentError(
                    f"the value fed for Tensor '{tensor.name}' is not the same on rank {rank} as on rank 0: "
                    "feed next_batch's arrays, or this rank's rows as dt.Shard(rows, total), or draw the "
                    "random numbers that it was made with alike on all ranks: np.random's and random's are, "
                    "where no rank draws more than another; np.random.default_rng() needs a seed."
                )
                error.agreed = True
                raise error

    # -- plans -----------------------------------------------------------------------------------------
    def _kept_values(self, names: Sequence[str]) -> Callable[[], None]:
        """What puts back these variables, and the random numbers that come next."""
        draws = self._draws.counted()
        values = {name: self._variables[name].copy() for name in names}

        def undo() -> None:
            self._draws.back_to(draws)
            for name, value in values.items():
                self._variables[name][...] = value

        return undo

    def forget_plans(self) -> None:
        """Compile anew from here on: the communicator's ranks are others."""
        with self.lock:
            self._plans.clear()

    def _compile(
        self,
        tensors: Sequence[Tensor],
        targets: Sequence[Operation],
        feeds: Sequence[Tensor],
        specs: Sequence[tuple[tuple[int, ...], Placement]],
        call: str,
        look: bool,
    ) -> Plan:
        """Make a plan, and make sure that all ranks made the same.

        call: the one that it is for, in words. look: whether it may have a check that leads to a warning.
        """
        if self._closed:  # by another thread since the run began
            raise FailedPreconditionError("Attempted to use a closed Session.")
        error, tag = None, 0
        native = self._native()
        link = (self.comm if self.backend.on_host else self.comm.device_sums or self.comm).link
        try:
            feed_specs = [
                FeedSpec(t, shape, placement) for t, (shape, placement) in zip(feeds, specs, strict=True)
            ]
            scales = self.graph.kept.get(LOSS_SCALES, {})
            behind = ancestors([*(t.op for t in tensors), *targets], frozenset(t.op for t in feeds))
            stops = self._check_numerics is True or any(n.name in scales for n in behind)
            losses = self.graph.kept.get(LOSSES, ())
            look = look and self._looks and bool(losses) and not stops
            losses_at = {i: t.name for i, t in enumerate(tensors) if t in losses} if look else None
            device = not self.backend.on_host
            compiled = partial(
                compile_step,
                *(tensors, targets, feed_specs, self.comm.size),
                *(native, stops or look, link, device, losses_at),
            )
            step = compiled(shares=self.comm.shares)
            nodes = schedule(step)
        except DtrainError as problem:
            error = problem
        if self.comm.size > 1:
            self.comm.agree(error)
            tag = tag_of(agree_on_step(self.comm, self.graph, nodes))
        if error is not None:
            raise error
        if self._of is None:
            self._allocate()
        else:
            self._read_only(nodes)
        env = PlanEnv(
            self.backend,
            self.comm,
            self._draws,
            self._initialized.__contains__,
            self._constants,
        )
        kind = Plan if self.backend.on_host else DevicePlan
        call += caller() if tag else ""
        try:
            plan = kind(step, nodes, self._variables, self.backend, env, scales, call, tag)
        except NoRoom:
            step = compiled(shares=False)
            plan = kind(step, schedule(step), self._variables, self.backend, env, scales, call, tag)
        plan.losses = losses_at or {}
        return plan

    def _read_only(self, nodes: Sequence[Operation]) -> None:
        """Raise where a run that is to be this rank's alone does what all ranks have to do together."""
        assert self._of is not None
        if any(node.kind.writes or node.kind.draws for node in nodes):
            self._of.check_thread()
        self._check_initialized([node.name for node in nodes if isinstance(node.kind, VariableOp)])

    def _native(self) -> bool | None:
        """What Step.native is to be: whether plans may have, or must have, kernels of our own. Collective."""
        if self._compiles is None:
            agree_on_devices(self.comm, self.backend)
            if not self.backend.on_host:
                from dtrain.comm import nccl  # a start on CPUs has no use for it

                nccl.join(self.comm, self.backend)
                self._compiles = (True,)
                return True
            wanted = self.backend.kernels
            self._problem = problem = native_problem(self.comm) if wanted != "numpy" else ""
            if wanted == "c" and problem:
                error = EnvironmentProblem(f"kernels c: {problem}")
                error.agreed = True
                raise error
            self._compiles = (None,) if wanted == "numpy" or problem else (wanted == "c",)
        return self._compiles[0]

    @property
    def kernels(self) -> str:
        """How this session's kernels are made, in words. Collective."""
        if not self.backend.on_host:
            return f"CUDA, by NVRTC; products in {self.backend.precision}"
        with self.lock:
            native = self._native()
        if native is not None:
            return f"C, by {compiler.name()}"
        return f"NumPy: {self._problem}" if self._problem else "NumPy"

    def _keep(self, key: Any, plan: Plan) -> None:
        if len(self._plans) >= MAX_PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plan  # at the end: the first is the one unused longest

    def _check_initialized(self, names: Sequence[str]) -> None:
        if self._initialized.issuperset(names):
            return
        name = next(n for n in names if n not in self._initialized)
        place = built(self.graph.get_operation_by_name(name))
        raise FailedPreconditionError(
            f"Attempting to use uninitialized value {name}{place}: run "
            "session.run(dt.global_variables_initializer()) first."
        )

    def _read(self, names: Sequence[str]) -> list[Any]:
        """Copies of variables' values, as a run fetches them, without one: no message, so on any rank alone.

        The ranks of a node share some of them, and write those behind a meeting that this rank takes part in.
        """
        with self.lock:
            self._check_initialized(names)
            arrays = [np.array(self.backend.to_host(self._variables[name])) for name in names]
        return [a if a.ndim else a[()] for a in arrays]

    # -- variables -------------------------------------------------------------------------------------
    def _allocate(self) -> None:
        """Memory for variables made since the last plan: one buffer for each group and dtype.

        Collective: parameters and their slots lie in memory that the ranks of a node share, where there is.
        """
        new: dict[tuple[str, str], list[Operation]] = {}
        for node in self.graph.operations:
            if isinstance(node.kind, VariableOp) and node.name not in self._variables:
                new.setdefault((node.kind.group, node.kind.dtype.name), []).append(node)
        for nodes in new.values():
            sizes = [_nbytes(node) for node in nodes]
            walked = is_updated(nodes[0])
            offset = self._walked % 3 * STAGGER
            self._walked += walked
            nbytes = offset + sum(aligned(size) for size in sizes)
            block = None
            if self.backend.on_host and walked:
                block = self.comm.shared(nbytes)
                self._shared += [] if block is None else [block]
            if block is None:
                block = self.backend.block(nbytes)
            for node, size in zip(nodes, sizes, strict=True):
                spec = node.outputs[0].spec
                self._variables[node.name] = (
                    block[offset : offset + size].view(spec.dtype.numpy).reshape(spec.shape)
                )
                offset += aligned(size)

    def get_values(self, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
        """Copies of variables' values on the host, by operation name.

        Raises:
            FailedPreconditionError: one has no value yet.
        """
        values = self.run(list(variables))
        return {v.op.name: np.asarray(value) for v, value in zip(variables, values, strict=True)}

    def snapshot(self, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
        """get_values for this rank alone, at the cost of the copies: no plan and no message."""
        with self.lock:
            values = {v.op.name: self.backend.to_host(self._variables[v.op.name]) for v in variables}
            return {name: value.copy() for name, value in values.items()} if self.backend.on_host else values

    @property
    def random_state(self) -> dict[str, Any]:
        """What the next random numbers follow from, as plain data: the seed, and each operation's runs."""
        with self.lock:
            return self._draws.state

    @random_state.setter
    def random_state(self, state: dict[str, Any]) -> None:
        """Go on from there: the same on every rank."""
        with self.lock:
            self._draws.state = state

    @every_rank
    def set_value(self, variable: Variable, value: Any) -> None:
        """Give a variable a value, of its shape and dtype. Collective: every rank gives the same."""
        array = np.asarray(value)
        if array.shape != variable.value().spec.shape or array.dtype != variable.dtype.numpy:
            raise InvalidArgumentError(
                f"a value of {array.dtype}{array.shape} for the variable {variable.op.name} of "
                f"{variable.dtype.name}{variable.shape}."
            )
        self.comm.check_thread()
        with self.lock:
            self._allocate()
            memory = self._variables[variable.op.name]

            def write() -> None:
                memory[...] = self.backend.from_host(array)

            if self.backend.on_host and self.comm.is_shared(memory):
                write = self.comm.in_turn(write, parts=False)
            write()
            self._initialized.add(variable.op.name)


class InteractiveSession(Session):
    """A session that is the default one, and its graph the default graph, from here to close()."""

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


def _fits(array: np.ndarray, dtype: DType, value: Any) -> bool:
    """Whether an array can be fed for a dtype, as in TensorFlow 1: floats lose their fractions for integers,
    and numbers that are not 0 are True.

    What lies beyond an integer dtype, or is no number at all, does not fit; nor, for a bool, a Python number
    that is neither 0 nor 1. value: what the array was made of.
    """
    if array.dtype.kind not in "fiub" or dtype.is_string:
        return False
    if dtype.is_integer and array.size and array.dtype.kind != "b":
        low, high = np.trunc(array.min()), np.trunc(array.max())  # a NaN is both
        bounds = np.iinfo(dtype.numpy)
        if not (int(bounds.min) <= low and high < int(bounds.max) + 1):
            return False
    return not dtype.is_bool or not isinstance(value, int) or value in (0, 1)


def _call_name(elements: Sequence[Tensor | Operation]) -> str:
    """'Session.run(loss:0, train)': a run of these, for messages."""
    names = [e.name for e in elements[:MOST_NAMED]]
    return f"Session.run({', '.join(names)}{', ...' * (len(elements) > MOST_NAMED)})"


def _nbytes(node: Operation) -> int:
    spec = node.outputs[0].spec
    return int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.numpy.itemsize


def _flatten(structure: Any, leaves: list[Any]) -> Callable[[list[Any]], Any]:
    """Collect the leaves of nested lists, tuples and dicts; returns what puts values back in their places."""
    if isinstance(structure, dict):
        parts = {key: _flatten(value, leaves) for key, value in structure.items()}
        return lambda values: {key: part(values) for key, part in parts.items()}
    if isinstance(structure, list | tuple):
        items = [_flatten(value, leaves) for value in structure]
        if hasattr(structure, "_fields"):
            return lambda values: type(structure)(*(item(values) for item in items))
        return lambda values: type(structure)(item(values) for item in items)
    position = len(leaves)
    leaves.append(structure)
    return lambda values: values[position]
