"""The training run, top to bottom: data, graph, session, then epochs of steps, each followed by a test."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import dtrain as dt
from dtrain import machine
from dtrain.comm.base import Communicator
from dtrain.config import TrainConfig, flag
from dtrain.data import ABOUT, Part, load, refuse_bad, validated
from dtrain.data.dataset import Dataset
from dtrain.data.order import order_of
from dtrain.errors import CheckpointError, UsageError
from dtrain.graph.fingerprint import fingerprint
from dtrain.runtime.backend import Backend, Choice, backend_on, choose_gpu
from dtrain.runtime.feeds import Window
from dtrain.task import own_model
from dtrain.task.examples import examples_of
from dtrain.task.network import Network, Steps, Trained, build, evaluate, standardised
from dtrain.train import checkpoint, tensorboard
from dtrain.train.batches import Pace, iterations, shard_sizes, windows
from dtrain.train.elastic import Survivors
from dtrain.train.engine import Engine, about_ranks
from dtrain.train.loss_scale import MixedPrecisionLossScaleOptimizer
from dtrain.train.mistakes import MOST_CLASSES, Mistakes
from dtrain.train.observer import Observer, Observers
from dtrain.train.optimizers import AdamOptimizer, GradientDescentOptimizer, MomentumOptimizer, Optimizer
from dtrain.train.preempt import StopRequest
from dtrain.train.report import Report
from dtrain.train.run_dir import RunDir, hold, write_options
from dtrain.train.saving import Checkpoints
from dtrain.train.state import Progress, init_from, manifest_of, restore, resume
from dtrain.train.task import Task


def make_optimizer(name: str, lr: float) -> Optimizer:
    """The optimizer of --optimizer; momentum is 0.9."""
    if name == "sgd":
        return GradientDescentOptimizer(lr)
    return MomentumOptimizer(lr, 0.9) if name == "momentum" else AdamOptimizer(lr)


def make_devices(config: TrainConfig, comm: Communicator) -> tuple[Backend, list[str]]:
    """This rank's device, and the names of all ranks' devices; how GPUs sum is settled then. Collective.

    auto takes GPUs for all ranks, each its own, or for none: replicas of two kinds drift apart.
    """
    share = config.share_gpu
    device = "cpu" if config.bitwise else config.device
    with comm.together():
        choice = choose_gpu(device, comm.local_rank, share)
    if comm.size > 1 and device == "auto":
        places = comm.gather_text("" if choice.gpu is None else f"{comm.node[0]} {choice.identity}")
        whys = comm.gather_text(choice.why)
        if "" in places:
            choice = Choice(None, next(filter(None, whys), ""))
        elif len(set(places)) < comm.size and not share:
            choice = Choice(
                None,
                "--device auto takes the CPU: ranks of a node see one GPU together. Let them share it "
                "(--share-gpu), or start as many ranks a node as it has GPUs.",
            )
    with comm.together():
        backend = backend_on(choice, config.kernels, config.precision, share)
    devices = comm.gather_text(backend.name)
    if not backend.on_host:
        from dtrain.comm import nccl  # a start on CPUs has no use for it

        nccl.join(comm, backend)
    return backend, devices


def prepared(config: TrainConfig, comm: Communicator, other: bool = False) -> tuple[Task, Dataset]:
    """The task that the options name, and its examples. Collective.

    other: they are those of --dataset, also where the task has its own.

    Raises:
        UsageError: the task's file or its arrays are not what they should be, or differ between the ranks.
    """
    task = Task()
    with comm.together():
        task = own_model.load_task(config)
    if task.data is None or other:
        return task, load(config.dataset, comm, config.label, config.validation)
    with comm.together():
        data = examples_of(task.data, config.task)
    digests = comm.gather_text(data.digest)
    if (odd := next((i for i, d in enumerate(digests) if d != digests[0]), 0)) > 0:
        error = UsageError(
            f"--task {config.task}: its data is not the same on rank {odd} as on rank 0: every rank calls "
            "the function and has to get the same arrays: give np.random.default_rng() a seed, and all "
            "ranks the same files."
        )
        comm.agree(error)
    return task, validated(data, config.validation, comm)


def train(config: TrainConfig, comm: Communicator, *observers: Observer) -> dict[str, Any]:
    """Train as the configuration says, on all ranks together; returns the facts of the footer.

    observers: called after those that the configuration asks for.

    Raises:
        DtrainError: of any kind, on every rank, as far as it happened before the first step.
    """
    started = time.perf_counter()
    comm.board.limits(config.stall_warn, config.stall_abort)
    comm.board.doing("preparation")
    # where the data lies may differ from node to node; what it is is compared when it is there
    comm.agree_on_items("the option", {flag(k): v for k, v in config.as_written().items() if k != "dataset"})
    with comm.together():
        config = own_model.check(config)
    backend, devices = make_devices(config, comm)
    task, data = prepared(config, comm)
    refuse_bad(data, comm, targets=task.loss is None)
    if config.elastic and comm.size < config.min_ranks:
        ranks = "1 rank" if comm.size == 1 else f"{comm.size} ranks"
        comm.agree(UsageError(f"--min-ranks {config.min_ranks}: the job has {ranks} from the start."))
    steps = config.epochs * iterations(data.train, config.batch_size)
    if config.profile and config.profile_window()[0] >= steps:
        comm.agree(
            UsageError(f"--profile {config.profile}: this run has {steps} steps, the last is {steps - 1}.")
        )
    with hold(config, comm) as folder:
        comm.board.run_dir(str(folder.path))
        return _train_in(folder, config, comm, backend, devices, task, data, observers, started)


class Made(NamedTuple):
    """What a run trains: session, network and optimizer, what takes its steps, and what initializes it."""

    session: dt.Session
    network: Network
    trained: Trained
    steps: Steps
    initialize: dt.Operation


def made(config: TrainConfig, comm: Communicator, backend: Backend, task: Task, data: Dataset) -> Made:
    """The graph of a run and its session, which has no values yet; collective."""
    graph = dt.Graph()
    graph.seed = config.seed
    with graph.as_default():
        with comm.together():
            network = build(task.model or config.model, data, task, config.augmentations())
            updates = dt.get_collection(dt.GraphKeys.UPDATE_OPS)
            optimizer = task.optimizer or make_optimizer(config.optimizer, config.lr)
            if config.precision == "float16" and not backend.on_host and isinstance(optimizer, Optimizer):
                optimizer = MixedPrecisionLossScaleOptimizer(optimizer, "dynamic")
            trained = Trained(optimizer, network)
        initialize = dt.global_variables_initializer()
    checks = dt.ConfigProto(
        check_numerics=config.check_numerics,
        check_replicas_every=config.check_every,
        bitwise=config.bitwise,
    )
    session = dt.Session(graph=graph, config=checks, comm=comm, device=backend)
    network.lend(session)
    if network.augment:
        network.augment.draw(session, config.seed, 1)
    return Made(session, network, trained, Steps(session, network, trained, updates), initialize)


def begin(session: dt.Session, initialize: dt.Operation) -> None:
    """Give the parameters of a run their first values; collective."""
    session.run(initialize)
    for variable, value in own_model.values_of(session.graph).items():
        session.set_value(variable, value)


def _train_in(
    folder: RunDir,
    config: TrainConfig,
    comm: Communicator,
    backend: Backend,
    devices: list[str],
    task: Task,
    data: Dataset,
    observers: tuple[Observer, ...],
    started: float,
) -> dict[str, Any]:
    """The run in its folder, from the graph to the footer; see train()."""
    run_dir = folder.path
    watched = tensorboard.wanted(config.tensorboard, comm)
    session, network, trained, steps, initialize = made(config, comm, backend, task, data)
    with session.graph.as_default():
        state = dt.global_variables()
    same = data.digest, fingerprint(session.graph.operations)
    notes: list[str]
    at, notes, origin = Progress(), [], ""
    if folder.resuming:
        at, _, notes = resume(session, state, run_dir, config, *same)
        write_options(run_dir, config, comm)  # now that they are known to fit
        origin = f"step {at.step:,}, in epoch {at.epoch}" if at.epoch <= config.epochs else "its end"
    else:
        begin(session, initialize)
        if config.init_from:
            origin = init_from(session, network.parameters, Path(config.init_from))
    profiler, pace = None, Pace(comm)
    if trained.keras is not None:
        trained.keras.iterations = at.step
        if trained.keras.decay:
            pace = Pace(comm, most=1)
    if config.profile:
        from dtrain.train.profile import StepProfiler

        steps.take = profiler = StepProfiler(session, steps.take, config.profile_window(), run_dir)
        pace = Pace(comm, most=1)

    def about(at: Progress) -> dict[str, Any]:
        folder.check()
        return manifest_of(session, at, config, *same, {"data": data.about()})

    def source(at: Progress, steps: Callable[[], int]) -> Generator[Window]:
        if network.augment:
            network.augment.draw(session, config.seed, at.epoch)
        order = order_of(config.seed, at.epoch, data.part("train"))
        return windows(order, config.batch_size, comm, steps, at.examples)

    # with validation examples the test set is looked at once, when nothing is chosen any more
    each, last = ("validation", "test") if data.validation else ("test", "")

    def look(name: str, keep: bool) -> dict[str, float]:
        """Loss and metrics over a part of the data; keep: whether what it takes for what is written down."""
        part = data.part(name)
        keep = keep and network.predicted is not None and len(data.classes) <= MOST_CLASSES
        mistakes = Mistakes(part, name) if keep and part else None
        found = evaluate(session, network, part, comm, mistakes) if part else {}
        if mistakes:
            mistakes.save(run_dir, min(at.epoch, config.epochs), comm)
        return found

    def test() -> dict[str, float]:
        found = look(each, not last and at.epoch == config.epochs)
        if config.check_every:
            session.check_replicas()
        return found

    def final() -> dict[str, float]:
        return look("test" if data.test else "validation", True)

    learnt = ", ".join([network.loss_name, *(metric.name for metric, _ in network.metrics)]).replace("_", " ")
    observers = (Report(comm, run_dir, config.log_format, config.log_every), *observers)
    if watched:
        observers = (tensorboard.TensorBoard(run_dir, config, session, network, data), *observers)
    with (
        Observers(*observers) as report,
        Checkpoints(session, state, run_dir, config.checkpoint_every, config.keep, about) as checkpoints,
        StopRequest(comm) as request,
    ):
        report.header(
            **about_ranks(session, devices),
            dataset=data.name,
            source=data.source,
            data_digest=data.digest,
            warning=" ".join(filter(None, [data.warning, backend.why, *notes, *machine.held_back()])) or None,
            examples=len(data.train),
            validation_examples=len(data.validation),
            test_examples=len(data.test),
            described=f"{data.described(task.data is None, standardised(data, task))}; {learnt}",
            data=data.about(),
            shards=shard_sizes(data.train, config.batch_size, comm.size),
            model=config.title if task.model else config.model,
            parameters=sum(v.shape.num_elements() or 0 for v in network.parameters),
            optimizer=config.optimizer if task.optimizer is None else trained.name,
            lr=config.lr if task.optimizer is None else trained.lr,
            batch_size=config.batch_size,
            iterations_per_epoch=iterations(data.train, config.batch_size),
            epochs=config.epochs,
            seed=config.seed,
            origin=origin,
            run_dir=str(run_dir),
            tensorboard=watched,
        )
        engine = Engine(
            comm,
            steps,
            source,
            config.epochs,
            at,
            report,
            test,
            pace,
            checkpoints,
            request,
            Survivors(session, at, config.min_ranks, checkpoints, report),
            f"dtrain train --resume {shlex.quote(str(run_dir))}",
            each,
            final if last else None,
            config.early_stop,
        )
        engine.run()
        if profiler is not None:
            report.profile(**profiler.finish())
        found = {f"{each}_{name}": value for name, value in at.tested.items()}
        if last and data.test:
            found |= {f"test_{name}": value for name, value in engine.found.items()}
        facts = {
            **found,
            **({"early": at.stale} if engine.early else {}),
            "seconds": time.perf_counter() - started,
            "run_dir": str(run_dir),
        }
        report.done(**facts)
    return facts


def evaluate_run(
    run_dir: Path, config: TrainConfig, comm: Communicator, best: bool = False, other: bool = False
) -> dict[str, Any]:
    """Loss and metrics of the parameters that a run saved last, or of those that validation found best.

    They are of the test examples; of a set without any, of all where it is `other` data than the run's own,
    and else of the validation examples.

    Raises:
        CheckpointError: there are none, they are damaged, or they are of another model.
        UsageError: there is nothing to test on, or no validation that says what is best.
    """
    backend, _ = make_devices(config, comm)
    task, data = prepared(config, comm, other)
    trained_on = data_of(run_dir, comm)
    with comm.together():
        data = data.like(trained_on, f"--dataset {config.dataset}" if other else str(run_dir))
    name = "test" if data.test or other else "validation"
    part = data.part(name)
    if not part and other:
        part = Part(data, range(len(next(data.arrays()))))
    if not part:
        comm.agree(UsageError(f"{run_dir}: its data has no examples to test on: give others by --dataset."))
    graph = dt.Graph()
    with graph.as_default(), comm.together():
        network = build(task.model or config.model, data, task)
    exact = dt.ConfigProto(bitwise=config.bitwise)
    session = dt.Session(graph=graph, config=exact, comm=comm, device=backend)
    at = restore(session, run_dir, network.parameters, best)
    tested = evaluate(session, network, part, comm)
    return {
        "run_dir": str(run_dir),
        "model": config.title if task.model else config.model,
        "epoch": at.epoch,
        "step": at.step,
        "dataset": data.name,
        "warning": " ".join([*filter(None, [data.warning]), *at.damaged]) or None,
        f"{name}_examples": len(part),
        **{f"{name}_{metric}": value for metric, value in tested.items()},
    }


def data_of(run_dir: Path, comm: Communicator) -> dict[str, Any]:
    """What a run's newest checkpoint says of the data that it was trained on: Dataset.about(). Collective.

    Raises, on every rank:
        CheckpointError: there is none, or it says nothing of the kind.
    """
    about: Any = None
    with comm.together():
        if comm.rank == 0:
            more = checkpoint.load(run_dir, lambda manifest, specs: []).manifest.get("more")
            about = more.get("data") if isinstance(more, dict) else None
            if not isinstance(about, dict) or not about.keys() >= ABOUT:
                raise CheckpointError(f"{run_dir}: its checkpoint does not say what data it was trained on.")
    return comm.broadcast_data(about)
