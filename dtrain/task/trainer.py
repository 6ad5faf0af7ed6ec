"""The training run, top to bottom: data, graph, session, then epochs of steps, each followed by a test."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dtrain as dt
from dtrain import machine
from dtrain.comm.base import Communicator
from dtrain.config import TrainConfig, flag
from dtrain.errors import UsageError
from dtrain.graph.fingerprint import fingerprint
from dtrain.ops.base import apply
from dtrain.ops.lend import LentRows, Table
from dtrain.runtime.backend import Backend, backend_on, bus_id, choose_gpu
from dtrain.runtime.loop import Loop, Window
from dtrain.runtime.session import Shard
from dtrain.task import own_model
from dtrain.train import checkpoint, tensorboard
from dtrain.train.batches import Pace, batches, epoch_order, iterations, shard_sizes
from dtrain.train.data import Dataset, load
from dtrain.train.elastic import Survivors
from dtrain.train.engine import Engine, about_ranks
from dtrain.train.loss_scale import MixedPrecisionLossScaleOptimizer
from dtrain.train.mistakes import Mistakes
from dtrain.train.observer import Observer, Observers
from dtrain.train.optimizers import AdamOptimizer, GradientDescentOptimizer, MomentumOptimizer, Optimizer
from dtrain.train.preempt import StopRequest
from dtrain.train.report import Report
from dtrain.train.run_dir import RunDir, hold, write_options
from dtrain.train.saving import Checkpoints
from dtrain.train.state import Progress, give_values, init_from, manifest_of, refuse_difference, resume

#: Examples of one evaluation step over all ranks: large enough for full speed, small enough for any memory.
EVAL_BATCH = 1_000
#: What the placeholder `training` is fed.
TRAINING, TESTING = np.float32(1), np.float32(0)


@dataclass
class Network:
    """A model's graph over a data set: feed `indices` into it and `training`, 1 or 0; fetch the rest.

    stop, stopping: one number a rank, whether it was asked to stop, and their sum.
    parameters: all of the model's variables, statistics that are not trained included.
    examples: the images and the labels, each with the table that the graph reads them from.
    """

    indices: dt.Tensor
    training: dt.Tensor
    stop: dt.Tensor
    stopping: dt.Tensor
    loss: dt.Tensor
    accuracy: dt.Tensor
    predicted: dt.Tensor
    parameters: list[dt.Variable]
    examples: list[tuple[Table, np.ndarray]]
    losses: dt.Tensor  # of each example

    def lend(self, session: dt.Session) -> None:
        """Let the session's runs read the examples, which are no part of the graph."""
        for table, rows in self.examples:
            table.rows = session.backend.from_host(rows)


def build(model: str, data: Dataset) -> Network:
    """Build the graph from example numbers to loss and accuracy, both means over the global batch."""
    indices = dt.placeholder("int32", [None], name="indices")
    training = dt.placeholder("float32", [], name="training")
    stop = dt.placeholder("float32", [None], name="stop")
    stopping = dt.reduce_sum(stop)  # of all ranks, in the message of the gradients
    with dt.name_scope("input"):
        examples = []
        for name, rows in (("images", data.images), ("labels", data.labels)):
            rows = np.ascontiguousarray(rows)
            examples.append((Table(name, rows.shape[1:], dt.as_dtype(rows.dtype)), rows))
        pixels, classes = (apply(LentRows(table), indices, name=table.name) for table, _ in examples)
        flat = dt.reshape(pixels, [-1, data.images[0].size])
        x = dt.cast(flat, "float32") * (1 / 255)
        labels = dt.cast(classes, "int32")
    logits = own_model.logits(model, x, training, data.classes)
    with dt.name_scope("loss"):
        each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = dt.add_n([dt.reduce_mean(each), *dt.losses.get_regularization_losses()])
    with dt.name_scope("accuracy"):
        predicted = dt.cast(dt.argmax(logits, 1), "int32")
        accuracy = dt.reduce_mean(dt.cast(dt.equal(predicted, labels), "float32"))
    return Network(
        indices,
        training,
        stop,
        stopping,
        loss,
        accuracy,
        predicted,
        dt.global_variables(),
        examples,
        losses=each,
    )


class Steps:
    """The network as an engine trains it: takes steps by a Loop, which fetches loss, accuracy and stop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def step(self, window: Window, vote: Shard | None) -> list[tuple[float, Sequence[int], bool]]:
        return [
            # a count, freed of float32's rounding
            (float(loss), [round(float(accuracy) * window.total)], bool(stop))
            for loss, accuracy, stop, _ in self._loop(window, TRAINING, vote)
        ]

    def results(self, loss: float, sums: Sequence[int], examples: int) -> dict[str, float]:
        return {"loss": loss / examples, "accuracy": sums[0] / examples}


def make_optimizer(name: str, lr: float) -> Optimizer:
    """The optimizer of --optimizer; momentum is 0.9."""
    if name == "sgd":
        return GradientDescentOptimizer(lr)
    return MomentumOptimizer(lr, 0.9) if name == "momentum" else AdamOptimizer(lr)


def make_devices(config: TrainConfig, comm: Communicator) -> tuple[Backend, list[str]]:
    """This rank's device, and the names of all ranks' devices; how GPUs sum is settled then. Collective.

    auto takes GPUs for all ranks, each its own, or for none: replicas of two kinds drift apart.
    """
    share = config.share_gpu == "on"
    with comm.together():
        gpu = choose_gpu(config.device, comm.local_rank, share)
    if comm.size > 1 and config.device == "auto":
        places = comm.gather_text("cpu" if gpu is None else f"{comm.node[0]} {bus_id(gpu)}")
        if "cpu" in places or (len(set(places)) < comm.size and not share):
            gpu = None
    with comm.together():
        backend = backend_on(gpu, config.kernels, config.precision, share)
    devices = comm.gather_text(backend.name)
    if not backend.on_host:
        from dtrain.comm import nccl  # a start on CPUs has no use for it

        nccl.join(comm, backend)
    return backend, devices


def train(config: TrainConfig, comm: Communicator, *observers: Observer) -> dict[str, Any]:
    """Train as the configuration says, on all ranks together; returns the facts of the footer.

    observers: told of the run after those that the configuration asks for.

    Raises:
        DtrainError: of any kind, on every rank, as far as it happened before the first step.
    """
    started = time.perf_counter()
    comm.board.limits(config.stall_warn, config.stall_abort)
    comm.board.doing("preparation")
    # where the data lies may differ from node to node; what it is is compared when it is there
    comm.agree_on_items("the option", {flag(k): v for k, v in asdict(config).items() if k != "dataset"})
    with comm.together():
        config = own_model.check(config)
    backend, devices = make_devices(config, comm)
    data = load(config.dataset, comm)
    if len(data.train) < comm.size:
        error = UsageError(
            f"{comm.size} ranks share {len(data.train)} training examples, so some have none: start at most "
            f"{len(data.train)} ranks, or use a larger data set."
        )
        comm.agree(error)
    if config.elastic == "on" and comm.size < config.min_ranks:
        ranks = "1 rank" if comm.size == 1 else f"{comm.size} ranks"
        comm.agree(UsageError(f"--min-ranks {config.min_ranks}: the job has {ranks} from the start."))
    steps = config.epochs * iterations(data.train, config.batch_size)
    if config.profile and config.profile_window()[0] >= steps:
        comm.agree(
            UsageError(f"--profile {config.profile}: this run has {steps} steps, the last is {steps - 1}.")
        )
    with hold(config, comm) as folder:
        comm.board.run_dir(str(folder.path))
        return _train_in(folder, config, comm, backend, devices, data, observers, started)


def _train_in(
    folder: RunDir,
    config: TrainConfig,
    comm: Communicator,
    backend: Backend,
    devices: list[str],
    data: Dataset,
    observers: tuple[Observer, ...],
    started: float,
) -> dict[str, Any]:
    """The run in its folder, from the graph to the footer; see train()."""
    run_dir = folder.path
    watched = tensorboard.wanted(config.tensorboard, comm)
    graph = dt.Graph()
    graph.seed = config.seed
    with graph.as_default():
        with comm.together():
            network = build(config.model, data)
        updates = dt.get_collection(dt.GraphKeys.UPDATE_OPS)
        optimizer = make_optimizer(config.optimizer, config.lr)
        if config.precision == "float16" and not backend.on_host:
            optimizer = MixedPrecisionLossScaleOptimizer(optimizer, "dynamic")
        minimize = dt.group(optimizer.minimize(network.loss), updates)
        initialize = dt.global_variables_initializer()
        state = dt.global_variables()
    checks = dt.ConfigProto(
        check_numerics=config.check_numerics == "on", check_replicas_every=config.check_every
    )
    session = dt.Session(graph=graph, config=checks, comm=comm, device=backend)
    network.lend(session)
    same = data.digest, fingerprint(graph.operations)
    at, notes, origin = Progress(), [], ""
    if folder.resuming:
        at, _, notes = resume(session, state, run_dir, config, *same)
        write_options(run_dir, config, comm)  # now that they are known to fit
        origin = f"step {at.step:,}, in epoch {at.epoch}" if at.epoch <= config.epochs else "its end"
    else:
        session.run(initialize)
        if config.init_from:
            origin = init_from(session, network.parameters, Path(config.init_from))
    feeds = [network.indices, network.training, network.stop]
    fetches = [network.loss, network.accuracy, network.stopping, minimize]
    # a step in which ranks die has to be the only one of its call: those before it are done
    profiler, pace = None, Pace(comm, most=1 if comm.elastic else Pace.MOST)
    if config.profile:
        from dtrain.train.profile import StepProfiler

        profiler = StepProfiler(
            session, session.make_callable(fetches, feeds), config.profile_window(), run_dir
        )
        pace = Pace(comm, most=1)
    steps = Steps(Loop(session, fetches, feeds, network.stopping, profiler))

    def about(at: Progress) -> dict[str, Any]:
        folder.check()
        return manifest_of(session, at, config, *same)

    def test() -> dict[str, float]:
        mistakes = Mistakes(data) if at.epoch == config.epochs else None
        loss, accuracy = evaluate(session, network, data.test, comm, mistakes)
        if mistakes:
            mistakes.save(run_dir, at.epoch, comm)
        if config.check_every:
            session.check_replicas()
        return {"loss": loss, "accuracy": accuracy}

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
            warning=" ".join([*filter(None, [data.warning]), *notes, *machine.held_back()]) or None,
            examples=len(data.train),
            test_examples=len(data.test),
            shards=shard_sizes(data.train, config.batch_size, comm.size),
            model=config.model,
            parameters=sum(v.shape.num_elements() or 0 for v in network.parameters),
            optimizer=config.optimizer,
            lr=config.lr,
            batch_size=config.batch_size,
            iterations_per_epoch=iterations(data.train, config.batch_size),
            epochs=config.epochs,
            seed=config.seed,
            origin=origin,
            run_dir=str(run_dir),
            tensorboard=watched,
        )
        Engine(
            comm,
            steps,
            lambda epoch: epoch_order(config.seed, epoch, data.train),
            config.batch_size,
            config.epochs,
            at,
            report,
            test,
            pace,
            checkpoints,
            request,
            Survivors(session, at, config.min_ranks, checkpoints, report),
            f"dtrain train --resume {shlex.quote(str(run_dir))}",
        ).run()
        if profiler is not None:
            report.profile(**profiler.finish())
        facts = {
            **{f"test_{name}": value for name, value in at.tested.items()},
            "seconds": time.perf_counter() - started,
            "run_dir": str(run_dir),
        }
        report.done(**facts)
    return facts


def evaluate(
    session: dt.Session,
    network: Network,
    examples: range,
    comm: Communicator,
    mistakes: Mistakes | None = None,
) -> tuple[float, float]:
    """Mean loss and accuracy over examples, each counted once; the same on every rank.

    mistakes: gets the outcome of each example.
    """
    feeds = [network.indices, network.training]
    each = [network.losses, network.predicted] if mistakes else []
    run = session.make_callable([network.loss, network.accuracy, *each], feeds)
    order = np.arange(examples.start, examples.stop, dtype=np.int32)
    loss_sum, correct = 0.0, 0
    for shard in batches(order, EVAL_BATCH, comm):
        loss, accuracy, *outcomes = run(shard, TESTING)
        if mistakes:
            mistakes.add(*outcomes)
        loss_sum += float(loss) * shard.total
        correct += round(float(accuracy) * shard.total)
    return loss_sum / len(order), correct / len(order)


def evaluate_run(
    run_dir: Path, config: TrainConfig, comm: Communicator, best: bool = False
) -> dict[str, Any]:
    """Test accuracy of the parameters that a run saved last, or of those that did best.

    Raises:
        CheckpointError: there are none, they are damaged, or they are of another model.
    """
    backend, _ = make_devices(config, comm)
    data = load(config.dataset, comm)
    graph = dt.Graph()
    with graph.as_default(), comm.together():
        network = build(config.model, data)
    session = dt.Session(graph=graph, comm=comm, device=backend)
    network.lend(session)
    wanted = {v.op.name: f"{v.dtype.name}{v.shape}" for v in network.parameters}

    def parameters(manifest: dict[str, Any], specs: Mapping[str, str]) -> list[str]:
        refuse_difference(run_dir, wanted, {name: specs[name] for name in wanted if name in specs})
        return list(wanted)

    found = checkpoint.Checkpoint(0, {}, {})
    with comm.together():
        if comm.rank == 0:
            found = checkpoint.load(run_dir, parameters)
            at = Progress.of(found.manifest)
            if best and at.best_step not in (0, found.step):
                found = checkpoint.load(run_dir, parameters, at.best_step)
                at = Progress.of(found.manifest)
            said = json.dumps([found.step, at.epoch - 1, found.damaged])
    step, epoch, damaged = json.loads(comm.broadcast_text(said if comm.rank == 0 else ""))
    give_values(session, {v.op.name: v for v in network.parameters}, found.values)
    loss, accuracy = evaluate(session, network, data.test, comm)
    return {
        "run_dir": str(run_dir),
        "model": config.model,
        "epoch": epoch,
        "step": step,
        "dataset": data.name,
        "warning": " ".join([*filter(None, [data.warning]), *damaged]) or None,
        "test_examples": len(data.test),
        "test_loss": loss,
        "test_accuracy": accuracy,
    }
