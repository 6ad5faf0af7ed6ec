"""A run's folder is one run's: of several that want it one gets it, and one that was killed blocks nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dtrain.bench import scaling
from dtrain.comm import Communicator
from dtrain.comm.board import Board
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.errors import CheckpointError, EnvironmentProblem, UsageError
from dtrain.task import trainer
from dtrain.train import run_dir
from dtrain.train.report import Report
from dtrain.train.run_dir import Owner, hold

NOBODY = Owner("another's", "n7", 4711, "another machine", "1")
#: What a process has left that had this one's number before it.
DEAD = json.dumps(vars(Owner.here("x")) | {"started": "1"})


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 0.02, "SILENCE": 0.4, "PATIENCE": 0.3, "PAUSE": 0.01}.items():
        monkeypatch.setattr(run_dir, name, seconds)


@pytest.fixture
def same_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 11, 30, 12, 0, 0)

    monkeypatch.setattr(run_dir, "datetime", Stopped)
    monkeypatch.chdir(tmp_path)


def at_once(count: int, body: Callable[[int], Any]) -> list[Any]:
    """What body(0), body(1), ... return, or the errors that they raise, begun together in threads."""
    start, results = threading.Barrier(count), [None] * count

    def one(number: int) -> None:
        start.wait()
        try:
            results[number] = body(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def owners(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".owner-*"))


def refused(config: TrainConfig, who: str) -> None:
    with (
        pytest.raises(UsageError, match=rf"the run directory .* is in use: {who}"),
        hold(config, SingleCommunicator()),
    ):
        pass


def leave(folder: Path, text: str, number: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f".owner-{number}"
    file.write_text(text)
    return file


@contextmanager
def beating(file: Path) -> Iterator[None]:
    """While it lasts somebody touches a file as a run on another machine does."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(0.02):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    end.set()
    thread.join()


# -- who gets it -----------------------------------------------------------------------------------------
def test_runs_of_one_second_have_folders_of_their_own(same_second: None) -> None:
    def one(number: int) -> Path:
        with hold(TrainConfig(seed=number), SingleCommunicator()) as held:
            assert f"seed = {number}\n" in (held.path / "config.toml").read_text()
            return held.path

    paths = at_once(8, one)
    name = "20261130-120000-mlp"
    assert sorted(map(str, paths)) == sorted(
        f"runs/{name}{end}" for end in ["", *(f"-{n}" for n in range(2, 9))]
    )
    for number, path in enumerate(paths):
        assert f"seed = {number}\n" in (path / "config.toml").read_text()


def test_all_ranks_have_rank_0s_folder(same_second: None, on_threads: Any) -> None:
    def rank(comm: Communicator) -> tuple[Path, int]:
        with hold(TrainConfig(), comm) as held:
            return held.path, held.number

    assert on_threads(3, rank) == [(Path("runs/20261130-120000-mlp"), 1)] * 3
    assert on_threads(3, rank) == [(Path("runs/20261130-120000-mlp-2"), 1)] * 3


@pytest.mark.parametrize("resume", ["", "auto", "run"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_of_several_starts_in_one_folder_one_trains(
    resume: str, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_threads: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    leave(Path("run"), DEAD, 3)
    config = TrainConfig(run_dir="run", resume=resume)
    told = threading.Semaphore(0)

    def start(_: int) -> int:
        def rank(comm: Communicator) -> int:
            with hold(config, comm) as held:
                for _ in range(3 if comm.rank == 0 else 0):
                    assert told.acquire(timeout=20)
                return held.number

        try:
            return on_threads(ranks, rank)[0]
        except UsageError:
            told.release()
            raise

    results = at_once(4, start)
    assert [r for r in results if not isinstance(r, UsageError)] == [4]
    for error in results:
        if isinstance(error, UsageError):
            assert f"the run directory run is in use: process {os.getpid()} on " in str(error)
    assert owners(Path("run")) == []
    with hold(TrainConfig(run_dir="run", resume="run"), SingleCommunicator()):  # when all have ended
        assert owners(Path("run")) == [".owner-1"]


def test_a_run_that_ends_or_fails_leaves_its_folder(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), hold(config, SingleCommunicator()):
            assert owners(tmp_path / "run") == [".owner-1"]
            raise ZeroDivisionError
        assert not (tmp_path / "run").exists(), "it came to nothing"
    (tmp_path / "run").mkdir()
    with pytest.raises(ZeroDivisionError), hold(config, SingleCommunicator()):
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"], (
        "a folder of the user's stays"
    )
    with pytest.raises(ZeroDivisionError), hold(config, SingleCommunicator()):
        (tmp_path / "run" / "metrics.jsonl").touch()
        raise ZeroDivisionError
    with pytest.raises(UsageError, match="holds a run already"), hold(config, SingleCommunicator()):
        pass


def test_a_resume_waits_for_a_run_that_is_about_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_dir, "PATIENCE", 20)
    config = TrainConfig(run_dir=str(tmp_path), resume="auto")
    inside, said = threading.Event(), []

    def first() -> None:
        with hold(config, SingleCommunicator()):
            inside.set()
            time.sleep(0.2)
            said.append("first ends")

    def second() -> None:
        inside.wait()
        with hold(config, SingleCommunicator()):
            said.append("second begins")

    assert at_once(2, lambda n: (first, second)[n]()) == [None, None]
    assert said == ["first ends", "second begins"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = TrainConfig(run_dir=str(tmp_path / "file" / "run"))
    with (
        pytest.raises(EnvironmentProblem, match=r"file/run cannot be made.*--run-dir"),
        hold(config, SingleCommunicator()),
    ):
        pass


# -- who is dead -----------------------------------------------------------------------------------------
HOLDER = """
import sys, time
from dtrain.comm.single import SingleCommunicator
from dtrain.config import TrainConfig
from dtrain.train.run_dir import hold
with hold(TrainConfig(run_dir=sys.argv[1]), SingleCommunicator()):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_a_run_that_was_killed_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_dir, "SILENCE", 1e9)  # here the process is asked for
    config = TrainConfig(run_dir=str(tmp_path), resume="auto")
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"inside\n"
        for stop in (False, True):  # a run that stands is there still
            if stop:
                process.send_signal(signal.SIGSTOP)
            with (
                pytest.raises(UsageError, match=f"process {process.pid} on"),
                hold(config, SingleCommunicator()),
            ):
                pass
        process.kill()
        while Path(f"/proc/{process.pid}/stat").read_text().split(")")[1].split()[0] != "Z":
            time.sleep(0.01)
        with hold(config, SingleCommunicator()):  # a zombie, which nobody has waited for
            assert owners(tmp_path) == [".owner-2"]
        process.wait()
    with hold(config, SingleCommunicator()):
        assert owners(tmp_path) == [".owner-1"]


def test_a_process_with_the_number_of_a_dead_one_is_not_it(tmp_path: Path) -> None:
    leave(tmp_path, DEAD)
    with hold(TrainConfig(run_dir=str(tmp_path)), SingleCommunicator()):
        assert owners(tmp_path) == [".owner-2"]


def test_one_that_found_the_holder_dead_too_late_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its file another run has come and gone, and a third is in the folder now."""
    leave(tmp_path, DEAD, 3)
    late = run_dir.RunDir(tmp_path, "late")
    found = late._files()
    (tmp_path / ".owner-3").unlink()
    with hold(TrainConfig(run_dir=str(tmp_path)), SingleCommunicator()) as held:
        assert owners(tmp_path) == [".owner-1"]
        assert not late._make(found, askable=True)
        assert owners(tmp_path) == [".owner-1"]
        held.check()
    assert late._make(found, askable=True) and owners(tmp_path) == [".owner-4"]


def test_what_a_crash_in_taking_over_has_left_is_cleared(tmp_path: Path) -> None:
    for number in (2, 3):
        leave(tmp_path, DEAD, number)
    with hold(TrainConfig(run_dir=str(tmp_path)), SingleCommunicator()):
        assert owners(tmp_path) == [".owner-4"]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(vars(NOBODY)),
        "",  # of a crash, or a full disk
        '{"token": 1}',
        json.dumps(vars(NOBODY) | {"pid": 10**30}),
        "[" * 4000,
        "x" * 10_000,
    ],
)
def test_whom_this_machine_cannot_ask_is_watched(text: str, tmp_path: Path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"))
    file = leave(tmp_path / "run", text)
    with beating(file):
        refused(config, r"(process 4711 on n7|another process) trains in it\.")
    begun = time.monotonic()
    with hold(config, SingleCommunicator()) as held:
        assert held.number == 2 and time.monotonic() - begun > run_dir.SILENCE


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(DEAD)
    (tmp_path / "run").mkdir()
    for number in (1, 2):
        (tmp_path / "run" / f".owner-{number}").symlink_to(tmp_path / "elsewhere")
    with hold(TrainConfig(run_dir=str(tmp_path / "run")), SingleCommunicator()) as held:
        assert held.number == 3
    assert (tmp_path / "elsewhere").read_text() == DEAD


def test_an_elastic_run_lives_as_long_as_any_rank(tmp_path: Path, on_threads: Any) -> None:
    config, late = TrainConfig(run_dir=str(tmp_path)), TrainConfig(run_dir=str(tmp_path), resume="auto")
    rank_0_is_gone, told = threading.Event(), threading.Event()

    def rank(comm: Communicator) -> None:
        comm.elastic = True  # type: ignore[misc]
        with hold(config, comm) as held:
            if comm.rank == 0:
                held._end.set()  # as if it were killed: nothing is touched, nothing said
                rank_0_is_gone.set()
            assert told.wait(20)
            held.check()  # before the new rank 0 writes

    def other() -> None:
        rank_0_is_gone.wait()
        refused(late, f"process {os.getpid()} on")
        told.set()

    results = at_once(2, lambda n: other() if n else on_threads(2, rank))
    assert not [r for r in results if isinstance(r, Exception)], results
    with hold(late, SingleCommunicator()):
        pass


# -- the run that was thought dead -----------------------------------------------------------------------
def test_a_run_whose_folder_was_taken_saves_nothing_more(tmp_path: Path, noise: Path) -> None:
    """It stood still for so long, on a machine that the other could not ask, that the other went on."""
    run = tmp_path / "run"

    class Taken(trainer.Observer):
        def header(self, **facts: Any) -> None:
            (run / ".owner-1").unlink()
            leave(run, json.dumps(vars(NOBODY)), 2)

    config = TrainConfig(dataset=str(noise), model="logistic", epochs=2, run_dir=str(run), tensorboard="off")
    with pytest.raises(CheckpointError, match="was taken over by process 4711 on n7"):
        trainer.train(config, SingleCommunicator(), Taken())
    assert not (run / "checkpoints").exists()
    assert json.loads((run / ".owner-2").read_text()) == vars(NOBODY), "it does not end what is not its own"


def test_a_folder_that_is_gone_is_told_and_one_that_was_emptied_is_not_anothers(
    tmp_path: Path,
) -> None:
    with hold(TrainConfig(run_dir=str(tmp_path / "run")), SingleCommunicator()) as held:
        for path in held.path.iterdir():
            path.unlink()
        held.check()
        held.path.rename(tmp_path / "other")
        with pytest.raises(CheckpointError, match="run was renamed or deleted"):
            held.check()


def test_a_full_disk_under_the_metrics_is_told(tmp_path: Path) -> None:
    report = Report(SingleCommunicator(), tmp_path, "json", 1)
    report.close()
    report._metrics = open("/dev/full", "a")  # noqa: SIM115 - closed by the report
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written: No space left"):
        report.done(seconds=1.0, test_accuracy=0.5, run_dir="r")
    report.close()


def test_a_message_about_a_folder_does_not_say_to_resume_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-1.json").touch()
    board = Board()
    board.run_dir(str(tmp_path))
    assert "--resume" in board.how_to_resume("the loss is NaN")
    assert board.how_to_resume(f"{tmp_path / 'metrics.jsonl'} cannot be written") == ""


# -- other folders of runs -------------------------------------------------------------------------------
def test_studies_that_meet_in_a_folder_do_not_share_a_run(tmp_path: Path) -> None:
    paths = at_once(6, lambda n: scaling._next_run(tmp_path, SingleCommunicator()))
    assert sorted(paths) == [tmp_path / "ranks-1" / f"run-{n}" for n in range(1, 7)]


@pytest.mark.job
@pytest.mark.parametrize("ranks", [1, 2])
def test_two_jobs_in_one_folder(ranks: int, mpirun: Any, small_set: Path, tmp_path: Path) -> None:
    """Whole commands: one trains, the other ends with 2 and says why, in either order."""
    train = ["train", "--dataset", small_set, "--model", "logistic", "--epochs", 3, "--no-tensorboard"]
    done = at_once(2, lambda n: mpirun(ranks, [*train, "--seed", n, "--run-dir", "run"]))
    assert sorted(run.rc for run in done) == [0, 2], done
    winner = [run.rc for run in done].index(0)
    loser = done[1 - winner]
    assert "the run directory run is in use: " in loser.stderr or "holds a run already" in loser.stderr
    assert f"seed = {winner}\n" in (tmp_path / "run/config.toml").read_text()
    events = [json.loads(line)["event"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert events.count("header") == events.count("done") == 1
