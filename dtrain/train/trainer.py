"""The training run, top to bottom: data, graph, session, then epochs of steps, each followed by a test."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import dtrain as dt
from dtrain.comm.base import Communicator
from dtrain.config import TrainConfig
from dtrain.errors import CheckpointError, EnvironmentProblem, UsageError
from dtrain.graph.shape import shape_text
from dtrain.ops.placement import shard_bounds
from dtrain.runtime.backend import make_backend
from dtrain.train import checkpoint, own_model
from dtrain.train.batches import batches, epoch_order, iterations
from dtrain.train.data import Dataset, load
from dtrain.train.optimizers import AdamOptimizer, GradientDescentOptimizer, MomentumOptimizer, Optimizer
from dtrain.train.report import Report

#: Examples of one evaluation step over all ranks: large enough for full speed, small enough for any memory.
EVAL_BATCH = 1_000
#: What the placeholder `training` is fed.
TRAINING, TESTING = np.float32(1), np.float32(0)


@dataclass
class Network:
    """A model's graph over a data set: feed `indices` into it and `training`, 1 or 0; fetch the rest."""

    indices: dt.Tensor
    training: dt.Tensor
    loss: dt.Tensor
    accuracy: dt.Tensor
    parameters: list[dt.Variable]


def build(model: str, data: Dataset) -> Network:
    """Build the graph from example numbers to loss and accuracy, both means over the global batch."""
    indices = dt.placeholder("int32", [None], name="indices")
    training = dt.placeholder("float32", [], name="training")
    with dt.name_scope("input"):
        pixels = dt.gather(dt.constant(data.images, name="images"), indices)
        flat = dt.reshape(pixels, [-1, data.images[0].size])
        x = dt.cast(flat, "float32") * (1 / 255)
        labels = dt.cast(dt.gather(dt.constant(data.labels, name="labels"), indices), "int32")
    logits = own_model.logits(model, x, training, data.classes)
    with dt.name_scope("loss"):
        each = dt.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = dt.add_n([dt.reduce_mean(each), *dt.losses.get_regularization_losses()])
    with dt.name_scope("accuracy"):
        correct = dt.equal(dt.cast(dt.argmax(logits, 1), "int32"), labels)
        accuracy = dt.reduce_mean(dt.cast(correct, "float32"))
    return Network(indices, training, loss, accuracy, dt.global_variables())


def make_optimizer(name: str, lr: float) -> Optimizer:
    """The optimizer of --optimizer; momentum is 0.9."""
    if name == "sgd":
        return GradientDescentOptimizer(lr)
    return MomentumOptimizer(lr, 0.9) if name == "momentum" else AdamOptimizer(lr)


def train(config: TrainConfig, comm: Communicator) -> dict[str, Any]:
    """Train as the configuration says, on all ranks together; returns the facts of the footer.

    Raises:
        DtrainError: of any kind, on every rank, as far as it happened before the first step.
    """
    started = time.perf_counter()
    with comm.together():
        backend = make_backend(config.device, comm.local_rank)
    data = load(config.dataset, comm)
    if len(data.train) < comm.size:
        error = UsageError(
            f"{comm.size} ranks share {len(data.train)} training examples, so some have none: start at most "
            f"{len(data.train)} ranks, or use a larger data set."
        )
        comm.agree(error)
    run_dir = make_run_dir(config, comm)

    graph = dt.Graph()
    graph.seed = config.seed
    with graph.as_default():
        with comm.together():
            network = build(config.model, data)
        updates = dt.get_collection(dt.GraphKeys.UPDATE_OPS)
        minimize = dt.group(make_optimizer(config.optimizer, config.lr).minimize(network.loss), updates)
        initialize = dt.global_variables_initializer()
    session = dt.Session(graph=graph, comm=comm, device=backend)
    session.run(initialize)
    feeds = [network.indices, network.training]
    step = session.make_callable([network.loss, network.accuracy, minimize], feeds)

    with Report(comm, run_dir, config.log_format, config.log_every) as report:
        report.header(
            version=dt.__version__,
            mpi=comm.library,
            averaging=comm.averaging,
            ranks=comm.size,
            nodes=len(set(comm.hosts)),
            devices=comm.gather_text(backend.name),
            dataset=data.name,
            source=data.source,
            data_digest=data.digest,
            warning=data.warning,
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
            run_dir=str(run_dir),
        )
        for epoch in range(1, config.epochs + 1):
            order = epoch_order(config.seed, epoch, data.train)
            loss_sum, correct = 0.0, 0
            begun, waited = time.perf_counter(), comm.seconds
            for iteration, shard in enumerate(batches(order, config.batch_size, comm), 1):
                loss, accuracy, _ = step(shard, TRAINING)
                loss_sum += float(loss) * shard.total
                correct += round(float(accuracy) * shard.total)  # a count, freed of float32's rounding
                report.iteration(epoch, iteration, float(loss), float(accuracy))
            seconds = time.perf_counter() - begun
            fraction = mean_over_ranks((comm.seconds - waited) / seconds, comm)
            test_loss, test_accuracy = evaluate(session, network, data.test, comm)
            report.epoch(
                epoch=epoch,
                loss=loss_sum / len(data.train),
                accuracy=correct / len(data.train),
                test_loss=test_loss,
                test_accuracy=test_accuracy,
                seconds=seconds,
                images_per_second=len(data.train) / seconds,
                communication_fraction=fraction,
            )
            save(session, network, run_dir, config, epoch, test_accuracy)
        facts = {
            "test_accuracy": test_accuracy,
            "test_loss": test_loss,
            "seconds": time.perf_counter() - started,
            "run_dir": str(run_dir),
        }
        report.done(**facts)
    return facts


def evaluate(
    session: dt.Session, network: Network, examples: range, comm: Communicator
) -> tuple[float, float]:
    """Mean loss and accuracy over examples, each counted once; the same on every rank."""
    feeds = [network.indices, network.training]
    run = session.make_callable([network.loss, network.accuracy], feeds)
    order = np.arange(examples.start, examples.stop, dtype=np.int32)
    loss_sum, correct = 0.0, 0
    for shard in batches(order, EVAL_BATCH, comm):
        loss, accuracy = run(shard, TESTING)
        loss_sum += float(loss) * shard.total
        correct += round(float(accuracy) * shard.total)
    return loss_sum / len(order), correct / len(order)


def evaluate_run(run_dir: Path, config: TrainConfig, comm: Communicator) -> dict[str, Any]:
    """Test accuracy of the parameters that a run saved.

    Raises:
        CheckpointError: there are none, they are damaged, or they are of another model.
    """
    with comm.together():
        backend = make_backend(config.device, comm.local_rank)
        values, manifest = checkpoint.load(run_dir)
    data = load(config.dataset, comm)
    graph = dt.Graph()
    with graph.as_default(), comm.together():
        network = build(config.model, data)
    session = dt.Session(graph=graph, comm=comm, device=backend)
    with comm.together():
        restore(session, network.parameters, values, run_dir)
    loss, accuracy = evaluate(session, network, data.test, comm)
    return {
        "run_dir": str(run_dir),
        "model": config.model,
        "epoch": manifest.get("epoch"),
        "dataset": data.name,
        "warning": data.warning,
        "test_examples": len(data.test),
        "test_loss": loss,
        "test_accuracy": accuracy,
    }


def restore(
    session: dt.Session, variables: list[dt.Variable], values: dict[str, np.ndarray], run_dir: Path
) -> None:
    """Give variables their saved values; raises CheckpointError at the first that does not fit."""
    for variable in variables:
        name = variable.op.name
        value = values.get(name)
        wanted = f"{variable.dtype.name}{variable.shape}"
        found = "nothing" if value is None else f"{value.dtype}{shape_text(value.shape)}"
        if value is None or found != wanted:
            raise CheckpointError(
                f"{run_dir} holds another model's parameters: {name} should be {wanted} and is {found}."
            )
        session.set_value(variable, value)


def save(
    session: dt.Session,
    network: Network,
    run_dir: Path,
    config: TrainConfig,
    epoch: int,
    test_accuracy: float,
) -> None:
    """Keep the parameters of the last finished epoch."""
    values = session.get_values(network.parameters)
    with session.comm.together():
        if session.comm.rank == 0:
            about = {"model": config.model, "epoch": epoch, "test_accuracy": test_accuracy}
            checkpoint.save(run_dir, values, about)


def make_run_dir(config: TrainConfig, comm: Communicator) -> Path:
    """Make the run directory and write config.toml into it, on rank 0; every rank gets its path.

    Raises:
        UsageError: it holds a run already. EnvironmentProblem: it cannot be made.
    """
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(comm.broadcast_text(config.run_dir or f"runs/{now}-{own_model.label(config.model)}"))
    with comm.together():
        if comm.rank == 0:
            if (path / "metrics.jsonl").exists():
                raise UsageError(f"--run-dir {path} holds a run already: choose another, or delete it first.")
            try:
                path.mkdir(parents=True, exist_ok=True)
                checkpoint.write_atomically(path / "config.toml", config.to_toml().encode())
            except OSError as error:
                raise EnvironmentProblem(
                    f"the run directory {path} cannot be made: {error.strerror or error}. Choose "
                    "another with --run-dir."
                ) from None
    return path


def shard_sizes(examples: range, batch_size: int, ranks: int) -> list[int]:
    """How many examples each rank works on in an epoch."""
    sizes = np.zeros(ranks, np.int64)
    for total, count in (
        (batch_size, len(examples) // batch_size),
        (len(examples) % batch_size, 1),
    ):
        for rank in range(ranks):
            low, high = shard_bounds(total, rank, ranks)
            sizes[rank] += (high - low) * count
    return [int(s) for s in sizes]


def mean_over_ranks(value: float, comm: Communicator) -> float:
    """The average of one number over the ranks."""
    return float(comm.allreduce(np.array([value]))[0] / comm.size)
