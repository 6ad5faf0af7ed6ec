"""Programs written for several machines of TensorFlow 1, as they are under mpirun.

There a worker is a process with a share of the batches, and parameter servers hold the variables. Here
`mpirun -n 4 dtrain run program.py --job_name=worker` starts four ranks of the same program. Each is the
worker that the command line says, every batch is shared among them, and gradients are averaged before each
step: no rank is a server, and all do what the chief does (rank 0 writes). So the number of ranks changes no
result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dtrain.errors import UsageError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.graph import Graph, Operation, Tensor, get_default_graph
from dtrain.ops.state import Variable, no_op
from dtrain.ops.summary import merge_all
from dtrain.summary import FileWriter
from dtrain.train.hooks import CheckpointSaverHook, SessionRunHook, SummarySaverHook
from dtrain.train.monitored import ChiefSessionCreator, MonitoredSession, Scaffold
from dtrain.train.optimizers import Optimizer
from dtrain.train.saver import Saver
from dtrain.train.step_counter import get_global_step

__all__ = ["ClusterSpec", "Server", "Supervisor", "SyncReplicasOptimizer", "replica_device_setter"]

_BY_DEFAULT: Any = object()


class ClusterSpec:
    """Addresses of tasks by job, kept as they are given: mpirun decides which ranks there are, and where."""

    def __init__(self, cluster: Any) -> None:
        jobs = cluster.as_dict() if isinstance(cluster, ClusterSpec) else dict(cluster)
        self._jobs: dict[str, dict[int, str]] = {
            job: dict(tasks) if isinstance(tasks, Mapping) else dict(enumerate(tasks))
            for job, tasks in jobs.items()
        }

    @property
    def jobs(self) -> list[str]:
        """Names of the jobs."""
        return list(self._jobs)

    def num_tasks(self, job_name: str) -> int:
        """How many tasks a job has."""
        return len(self._jobs[job_name])

    def task_indices(self, job_name: str) -> list[int]:
        """Their numbers."""
        return sorted(self._jobs[job_name])

    def task_address(self, job_name: str, task_index: int) -> str:
        """The address of one."""
        return self._jobs[job_name][task_index]

    def job_tasks(self, job_name: str) -> list[str]:
        """The addresses of a job, by number."""
        return [self._jobs[job_name][i] for i in self.task_indices(job_name)]

    def as_dict(self) -> dict[str, Any]:
        """Addresses by job."""
        return {job: self.job_tasks(job) for job in self._jobs}

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterSpec) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]  # as Python says it


class Server:
    """The session's target, '', which is this process and those that mpirun started with it.

    Raises:
        UsageError: the job is 'ps': there are no parameter servers to start.
    """

    def __init__(
        self,
        server_or_cluster_def: Any,
        job_name: str | None = None,
        task_index: int | None = None,
        protocol: str | None = None,
        config: Any = None,
        start: bool = True,
    ) -> None:
        self.server_def = ClusterSpec(server_or_cluster_def)
        if job_name == "ps":
            raise UsageError(
                "tf.train.Server(job_name='ps'): there are no parameter servers here, since every rank holds "
                "the variables. Start the workers alone, with one command for all: "
                "mpirun -n 4 dtrain run PROGRAM.py --job_name=worker --task_index=0"
            )
        self.target = ""

    @staticmethod
    def create_local_server(config: Any = None, start: bool = True) -> Server:
        """A server without a cluster."""
        return Server({"local": ["localhost:0"]}, "local", 0)

    def start(self) -> None:
        """Nothing: the ranks are there."""

    def join(self) -> None:
        """Raises UsageError: it would wait for ever."""
        raise UsageError("tf.train.Server.join: there is no server to wait for; leave this task out.")


def replica_device_setter(
    ps_tasks: int = 0,
    ps_device: str = "/job:ps",
    worker_device: str = "/job:worker",
    merge_devices: bool = True,
    cluster: Any = None,
    ps_ops: Sequence[str] | None = None,
    ps_strategy: Any = None,
) -> Callable[[Any], str]:
    """For tf.device: every rank holds all variables, so it is the rank's own device, whatever is said."""
    return lambda operation: ""


class NoQueue:
    """Stands for a queue runner where there is no queue."""

    name = "sync_token_q"

    def create_threads(
        self, sess: Any, coord: Any = None, daemon: bool = False, start: bool = False
    ) -> list[Any]:
        """[]: there are no threads."""
        return []


class SyncReplicasOptimizer(Optimizer):
    """The optimizer that it is given: each step is of all ranks' gradients, averaged over the batch.

    replicas_to_aggregate, total_num_replicas: for how many workers TensorFlow would wait; here it is always
    all ranks, and a step takes one batch, not one a worker. replica_id: of TensorFlow 0; a rank has its own.

    Raises:
        UsageError: variable_averages is given, which is not supported.
    """

    def __init__(
        self,
        opt: Optimizer,
        replicas_to_aggregate: int,
        total_num_replicas: int | None = None,
        variable_averages: None = None,
        variables_to_average: None = None,
        use_locking: bool = False,
        name: str = "sync_replicas",
        replica_id: int | None = None,
    ) -> None:
        if variable_averages is not None or variables_to_average is not None:
            raise UsageError(
                "SyncReplicasOptimizer: variable_averages is not supported: run "
                "ExponentialMovingAverage.apply() after the step, under tf.control_dependencies."
            )
        super().__init__(opt.learning_rate, name)
        self._opt = opt

    def compute_gradients(self, *args: Any, **kwargs: Any) -> list[tuple[Tensor | None, Variable]]:
        """The optimizer's."""
        return self._opt.compute_gradients(*args, **kwargs)

    def apply_gradients(
        self, grads_and_vars: Any, global_step: Variable | None = None, name: str | None = None
    ) -> Operation:
        """The optimizer's. Raises UsageError without a global_step, as TensorFlow does."""
        if global_step is None:
            raise UsageError("SyncReplicasOptimizer: global_step has to be given, to count the steps.")
        return self._opt.apply_gradients(grads_and_vars, global_step, name)

    def get_chief_queue_runner(self) -> NoQueue:
        """A queue runner that has nothing to do: no worker waits in a queue for another's gradients."""
        return NoQueue()

    def get_slot(self, variable: Variable, name: str) -> Variable | None:
        return self._opt.get_slot(variable, name)

    def get_slot_names(self) -> list[str]:
        return self._opt.get_slot_names()

    def variables(self) -> list[Variable]:
        return self._opt.variables()

    def make_session_run_hook(self, is_chief: bool, num_tokens: int = -1) -> SessionRunHook:
        """A hook that does nothing: ranks are in step without tokens."""
        return SessionRunHook()

    def get_init_tokens_op(self, num_tokens: int = -1) -> Operation:
        """An operation that does nothing, too."""
        return no_op("init_tokens")

    @property
    def chief_init_op(self) -> Operation:
        """An operation that does nothing: variables get their values by their initializers."""
        return no_op("chief_init")

    local_step_init_op = chief_init_op
    ready_for_local_init_op = None


class Supervisor:
    """Makes a session with variables initialized or restored from logdir, and saves while it is used.

        supervisor = tf.train.Supervisor(logdir="logs", global_step=step)
        with supervisor.managed_session() as session:
            while not supervisor.should_stop():
                session.run(train_op)

    Args:
        graph, init_op, init_feed_dict, local_init_op, init_fn: as Scaffold has them.
        logdir: where it saves, and what it restores from; None saves nothing.
        summary_op: by default all of the graph's, merged; None writes none. saver: the same.
        save_summaries_secs, save_model_secs: how often; 0 for never.
        is_chief, recovery_wait_secs, stop_grace_secs: without a meaning: every rank does the same.

    Raises:
        UsageError: ready_op, session_manager or ready_for_local_init_op is given.
    """

    def __init__(
        self,
        graph: Graph | None = None,
        ready_op: Any = _BY_DEFAULT,
        ready_for_local_init_op: Any = _BY_DEFAULT,
        is_chief: bool = True,
        init_op: Any = _BY_DEFAULT,
        init_feed_dict: Any = None,
        local_init_op: Any = _BY_DEFAULT,
        logdir: str | os.PathLike[str] | None = None,
        summary_op: Any = _BY_DEFAULT,
        saver: Any = _BY_DEFAULT,
        global_step: Any = _BY_DEFAULT,
        save_summaries_secs: float = 120,
        save_model_secs: float = 600,
        recovery_wait_secs: float = 30,
        stop_grace_secs: float = 120,
        checkpoint_basename: str = "model.ckpt",
        session_manager: None = None,
        summary_writer: Any = _BY_DEFAULT,
        init_fn: Callable[[Any], Any] | None = None,
    ) -> None:
        for name, given in (("ready_op", ready_op), ("ready_for_local_init_op", ready_for_local_init_op)):
            if given is not _BY_DEFAULT and given is not None:
                raise UsageError(f"Supervisor: {name} is not supported: every rank initializes its own.")
        if session_manager is not None:
            raise UsageError("Supervisor: session_manager is not supported: leave it out.")
        self.graph = graph if graph is not None else get_default_graph()
        self.is_chief = is_chief
        self._folder = None if logdir is None else os.fspath(logdir)
        self._basename = checkpoint_basename
        self._seconds = save_summaries_secs, save_model_secs
        with self.graph.as_default():
            self.saver = Saver() if saver is _BY_DEFAULT else saver
            self.global_step = get_global_step() if global_step is _BY_DEFAULT else global_step
            if isinstance(self.global_step, Variable) and get_global_step() is None:
                self.graph.add_to_collection(GraphKeys.GLOBAL_STEP, self.global_step)
            self.summary_op = merge_all() if summary_op is _BY_DEFAULT else summary_op
        self.summary_writer = summary_writer
        if summary_writer is _BY_DEFAULT:
            self.summary_writer = None if self._folder is None else FileWriter(self._folder, self.graph)
        self._scaffold = Scaffold(
            init_op=None if init_op is _BY_DEFAULT else init_op,
            init_feed_dict=init_feed_dict,
            init_fn=None if init_fn is None else lambda _, session: init_fn(session),
            local_init_op=None if local_init_op is _BY_DEFAULT else local_init_op,
            saver=self.saver,
        )
        self._session: MonitoredSession | None = None
        self._stop = False

    @property
    def save_path(self) -> str | None:
        """What checkpoints begin with."""
        return None if self._folder is None else os.path.join(self._folder, self._basename)

    def prepare_or_wait_for_session(
        self, master: str = "", config: Any = None, wait_for_checkpoint: bool = False, **options: Any
    ) -> MonitoredSession:
        """The session, whose variables have their values."""
        summaries, model = self._seconds
        hooks: list[SessionRunHook] = []
        counted = self._folder is not None and self.global_step is not None
        if counted and model and self.saver is not None and self._folder is not None:
            hooks.append(
                CheckpointSaverHook(
                    self._folder, save_secs=model, scaffold=self._scaffold, checkpoint_basename=self._basename
                )
            )
        if counted and summaries and self.summary_op is not None and self.summary_writer is not None:
            hooks.append(
                SummarySaverHook(
                    save_secs=summaries, summary_writer=self.summary_writer, summary_op=self.summary_op
                )
            )
        creator = ChiefSessionCreator(self._scaffold, master, config, self._folder)
        with self.graph.as_default():
            self._session = MonitoredSession(creator, hooks)
        return self._session

    @contextmanager
    def managed_session(
        self,
        master: str = "",
        config: Any = None,
        start_standard_services: bool = True,
        close_summary_writer: bool = True,
    ) -> Iterator[MonitoredSession]:
        """`with` the session, which is saved and closed at the end."""
        session = self.prepare_or_wait_for_session(master, config)
        with session:
            yield session
        self.stop(close_summary_writer=close_summary_writer)

    def should_stop(self) -> bool:
        """Whether to stop: request_stop() was called, or the job is asked to end."""
        return self._stop or (self._session is not None and self._session.should_stop())

    def request_stop(self, ex: Any = None) -> None:
        """Let should_stop() be true."""
        self._stop = True

    def start_queue_runners(self, sess: Any, queue_runners: Sequence[Any] | None = None) -> list[Any]:
        """[]: queues have no threads; one is filled when something is taken out of it."""
        return []

    def stop(self, threads: Any = None, close_summary_writer: bool = True, **options: Any) -> None:
        """Save, and close the session."""
        self._stop = True
        session, self._session = self._session, None
        if session is not None:
            session.close()
        if close_summary_writer and self.summary_writer is not None:
            self.summary_writer.close()

    def summary_computed(self, sess: Any, summary: bytes, global_step: Any = None) -> None:
        """Write a summary that was run, at the global step."""
        if self.summary_writer is None:
            raise UsageError("Supervisor.summary_computed: there is no logdir to write to.")
        if global_step is None and self.global_step is not None:
            global_step = sess.run(self.global_step)
        self.summary_writer.add_summary(summary, global_step)
