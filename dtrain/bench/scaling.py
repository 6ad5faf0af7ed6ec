"""`dtrain bench scaling`: one training on several numbers of ranks, and a page of how it scales.

Under a launcher `measure` trains on the ranks that there are and leaves what report/study.py collects.
Without one `run` starts that under mpirun for each number of ranks in turn, or submits it as a job of each.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dtrain import bench
from dtrain.bench import allreduce
from dtrain.comm import launcher, start
from dtrain.comm.base import Communicator
from dtrain.comm.threads import VARIABLES, usable_cores
from dtrain.config import TrainConfig, resolve
from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.files import make_new, write_atomically
from dtrain.report import scaling as page
from dtrain.report.figures import matplotlib_module
from dtrain.report.study import MACHINE, STUDY, TARGET, Study, collect, load, to_csv, to_json, to_mllog

MODES = ("strong", "weak")
#: Steps that are recorded kernel by kernel; the epoch that holds them does not set the speed, a median does.
PROFILE = "10:30"


@dataclass(frozen=True)
class Options:
    """What a study is of.

    program: whose first fit is studied; '' for `dtrain train`. task: a file with a custom task.
    batch_size: of all ranks (strong), or of each (weak). threads: of each rank's BLAS.
    """

    to: str = "scaling"
    mode: str = "strong"
    model: str = "mlp"
    batch_size: int = 100
    epochs: int = 5
    repeats: int = 3
    threads: int = 1
    task: str = ""
    program: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(
                f"--mode {self.mode}: choose strong (one global batch) or weak (one batch a rank)."
            )
        if self.program and self.mode == "weak":
            raise UsageError(f"--mode weak: {self.program} says its batch size itself: leave out --mode.")
        if self.program and not Path(self.program).is_file():
            raise UsageError(f"dtrain bench scaling {self.program}: there is no such file.")
        for name in ("repeats", "threads"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} {getattr(self, name)}: give an integer >= 1.")

    def train_config(self, ranks: int, run_dir: Path) -> TrainConfig:
        """The training on so many ranks; whatever else a DTRAIN_* variable says holds as well."""
        batch_size = self.batch_size * (ranks if self.mode == "weak" else 1)
        flags = {"batch_size": batch_size, "epochs": self.epochs, "profile": PROFILE}
        flags |= {"task": self.task} if self.task else {"model": self.model}
        return resolve(
            {k: str(v) for k, v in flags.items()} | {"run_dir": str(run_dir), "tensorboard": "off"}
        )

    def words(self) -> list[str]:
        """The command line of one number of ranks."""
        named = {"--to": self.to, "--repeats": self.repeats, "--threads": self.threads}
        if not self.program:
            named |= {"--mode": self.mode, "--batch-size": self.batch_size, "--epochs": self.epochs}
            named |= {"--task": self.task} if self.task else {"--model": self.model}
        own = [self.program] if self.program else []
        return ["bench", "scaling", *own, *(str(word) for pair in named.items() for word in pair)]


def parse_ranks(text: str) -> list[int]:
    """'1,2,4' as numbers, in order; raises UsageError for what is none."""
    words = text.split(",")
    if not all(word.isdecimal() and 0 < int(word) < 1 << 20 for word in words):
        raise UsageError(f"--ranks {text}: give numbers of ranks with commas between them, such as 1,2,4.")
    return sorted({int(word) for word in words})


# -- one number of ranks ---------------------------------------------------------------------------------
def measure(options: Options, comm: Communicator) -> None:
    """Train on the ranks of comm, `repeats` times, and leave each run in the study's folder. Collective."""
    for _ in range(options.repeats):
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # of the minute before
        run_dir = _next_run(Path(options.to), comm)
        try:
            _train(options, comm, run_dir)
        except BaseException:
            with suppress(OSError):  # what a run that did not begin has left: empty folders alone
                run_dir.rmdir()
                run_dir.parent.rmdir()
            raise
        facts = {
            "mode": options.mode,
            **({} if options.program else {"batch_size": options.batch_size}),
            "load": load,
            **machine_facts(comm),
            **allreduce.measure(comm),
        }
        with comm.together():
            if comm.rank == 0:
                try:
                    write_atomically(run_dir / MACHINE, json.dumps(facts, indent=1).encode())
                except OSError as error:
                    raise EnvironmentProblem(f"{run_dir / MACHINE} cannot be written: {error}.") from None


def _train(options: Options, comm: Communicator, run_dir: Path) -> None:
    """One run, into its folder.

    Raises:
        UsageError: the program has no fit.
    """
    if not options.program:
        from dtrain.task.trainer import train

        train(options.train_config(comm.size, run_dir), comm)
        return
    from dtrain.keras import run
    from dtrain.program import run_program

    run.for_study[:] = [(str(run_dir), PROFILE)]
    run_program(options.program)
    if run.for_study:
        comm.agree(UsageError(f"{options.program} calls no fit of a Keras model: a study is of its first."))


def _next_run(folder: Path, comm: Communicator) -> Path:
    """The first run-N of this number of ranks that was not there, made. Collective.

    Raises:
        EnvironmentProblem: it cannot be made.
    """
    text = ""
    with comm.together():
        if comm.rank == 0:
            try:
                of = folder / f"ranks-{comm.size}"
                of.mkdir(parents=True, exist_ok=True)
                text = next(str(run) for n in count(1) if make_new(run := of / f"run-{n}"))
            except OSError as error:
                raise EnvironmentProblem(f"no run can be kept in {folder}: {error.strerror}.") from None
    return Path(comm.broadcast_text(text))


def machine_facts(comm: Communicator) -> dict[str, Any]:
    """What the run had: commit, hardware, MPI, binding and threads. Collective."""
    from dtrain import machine

    threads = max((library["num_threads"] for library in machine.blas()), default=1)
    mine = f"{comm.hosts[comm.rank]} {' '.join(map(str, sorted(usable_cores())))}"
    places = comm.gather_text(mine)
    cores = {(host, core) for host, *each in map(str.split, places) for core in each}
    bound = {tuple(each) for _, *each in map(str.split, places)}
    processors = dict.fromkeys(comm.gather_text(machine.processor()))
    header = bench.header(comm)
    started = launcher.detect()
    environment = {
        "commit": header["commit"] or f"dtrain {header['dtrain']}",
        "date": header["date"],
        "processor": "; ".join(processors),
        "nodes": str(header["nodes"]),
        "cores of all ranks": str(len(cores)),
        "binding": f"none, each rank may use {len(usable_cores())} cores of its node"
        if len(bound) == 1
        else "; ".join(f"rank {r}: {' '.join(p.split()[1:])}" for r, p in enumerate(places[:16])),
        "BLAS": header["blas"],
        "BLAS threads a rank": ", ".join(dict.fromkeys(comm.gather_text(str(threads)))),
        "held back by": header["warning"] or "nothing",
        "launcher": started.name if started else "none",
        "MPI": header["mpi"] or "none",
        "averaging": header["average"],
        "Python, NumPy": f"{header['python']}, {header['numpy']}",
        "platform": header["platform"],
    }
    return {"cores": len(cores), "environment": environment}


# -- all of them -----------------------------------------------------------------------------------------
def run(options: Options, ranks: Sequence[int], through: str) -> str:
    """Measure each number of ranks, here or as a job each; returns what to print.

    through: '' for mpirun here, or the words of `dtrain cluster` for one job of each number of ranks.

    Raises:
        UsageError: the folder holds a study already.
        EnvironmentProblem: there is no mpirun or matplotlib, or a run failed.
    """
    to = Path(options.to)
    if any(to.glob("ranks-*")):
        raise _in_use(to)
    if through:
        return _submit(options, ranks, through)
    matplotlib_module()  # before hours of runs that it draws
    if not options.program:
        options.train_config(ranks[0], to)  # a mistake is reported before anything starts
    mpirun = start.mpirun("`dtrain bench scaling`", ", or pass --through to submit a job of each size")
    try:
        to.mkdir(parents=True, exist_ok=True)
        if not make_new(to / f"ranks-{ranks[0]}"):  # by another study that began just now
            raise _in_use(to)
    except OSError as error:
        raise EnvironmentProblem(f"no study can be kept in {to}: {error.strerror}.") from None
    one = Options(**{**options.__dict__, "repeats": 1})
    for number in range(1, options.repeats + 1):
        for n in ranks:  # the sizes in turn, so that a slow minute of the machine is shared by all
            command = [mpirun, "-n", str(n), sys.executable, "-m", "dtrain", *one.words()]
            done = subprocess.run(
                command,
                env=start.environment(options.threads),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            epochs = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
            if done.returncode:
                raise EnvironmentProblem(
                    f"the run on {n} ranks ended with {done.returncode}: {shlex.join(command)} said\n"
                    f"{(done.stdout + done.stderr).strip()[-3000:]}\nTry it by itself, and `dtrain doctor`."
                )
            last = epochs[-1].split("  ", 1)[1] if epochs else "done" if options.program else "it had ended"
            print(
                f"{n} {'rank' if n == 1 else 'ranks'}, run {number} of {options.repeats}: {last}", flush=True
            )
    return finish(to)


def _in_use(to: Path) -> UsageError:
    return UsageError(
        f"--to {to} holds runs of a study already: choose another folder, or delete it first. (`dtrain bench "
        f"scaling --collect --to {to}` makes its page again.)"
    )


def job(options: Options, ranks: int, through: str) -> list[str]:
    """The command that submits one number of ranks: `dtrain cluster KIND ... --submit -- bench scaling ...`.

    through: KIND and its options, --ranks-per-node K among them (1 where it is not), --nodes not.
    """
    words = shlex.split(through)
    if "--ranks-per-node" in words:
        at = words.index("--ranks-per-node")
        given = words[at + 1] if at + 1 < len(words) else ""
        del words[at : at + 2]
    else:
        given = "1"
    named = bool(words) and not words[0].startswith("-") and "--nodes" not in words
    if not named or not given.isdecimal() or int(given) < 1:
        raise UsageError(
            f"--through '{through}': give the kind of `dtrain cluster` and its options without --nodes, such "
            "as --through 'slurm --ranks-per-node 4 --time 30:00'."
        )
    each = min(int(given), ranks)
    if ranks % each:
        raise UsageError(
            f"--ranks {ranks}: not a multiple of --ranks-per-node {each}, so nodes would differ."
        )
    words[1:1] = ["--nodes", str(ranks // each), "--ranks-per-node", str(each)]
    if "--name" not in words:
        words += ["--name", f"scaling-{ranks}"]  # of its job file, too
    return [sys.executable, "-m", "dtrain", "cluster", *words, "--submit", "--", *options.words()]


def _submit(options: Options, ranks: Sequence[int], through: str) -> str:
    commands = [job(options, n, through) for n in ranks]
    if not options.program:
        options.train_config(ranks[0], Path(options.to))
    env = dict(os.environ) | dict.fromkeys(VARIABLES, str(options.threads))
    for n, command in zip(ranks, commands, strict=True):
        print(f"+ {shlex.join(command)}", flush=True)
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise EnvironmentProblem(f"the job of {n} ranks was not submitted; its words are above.")
    return (
        f"{len(ranks)} jobs submitted. When they have ended: dtrain bench scaling --collect --to {options.to}"
    )


def finish(to: Path) -> str:
    """Collect a study from its runs into its folder; returns its table and where it is.

    Raises:
        UsageError: there are no runs. EnvironmentProblem: it cannot be written, or drawn.
    """
    study = collect(to)
    try:
        write_atomically(to / STUDY, to_json(study).encode())
        write_atomically(to / "study.csv", to_csv(study).encode())
        write_atomically(to / "study.mllog", to_mllog(to).encode())
    except OSError as error:
        raise EnvironmentProblem(f"the study cannot be written into {to}: {error}.") from None
    page.write([study], to / "study.html")
    return "\n".join(
        [
            *table(study),
            *filter(None, [study.busy()]),
            f"{to / 'study.html'}: open it in any browser; beside it {STUDY}, .csv, .mllog",
        ]
    )


def compare(folders: Sequence[str], to: Path) -> str:
    """Write the page of several studies side by side; returns what to print."""
    studies = [load(Path(folder)) for folder in folders]
    names = [study.name for study in studies]
    for study, folder in zip(studies, folders, strict=True):
        if names.count(study.name) > 1:
            study.name = folder
    page.write(studies, to)
    return f"{to}: {len(studies)} studies; open it in any browser"


def table(study: Study) -> list[str]:
    """The result for a terminal."""
    rows = []
    for size in study.sizes:
        parts = [f"{ms:.3f}" for ms in size.parts_ms.values()] or [""] * 4
        target = f"{size.to_target:.2f}" if size.to_target is not None else "not reached"
        rows.append(
            [
                f"{size.ranks}" + (f" on {size.cores} cores" if size.oversubscribed else ""),
                f"{size.speed:,.0f}",
                f"{study.efficiency(size):.0%}",
                f"{size.step_ms:.3f}",
                *parts,
                target,
            ]
        )
    head = [
        "ranks",
        "images/s",
        "efficiency",
        "ms a step",
        "computing",
        "moving",
        "waiting",
        "other",
        f"s to {TARGET:.1%}",
    ]
    return [f"{study.mode} scaling of {study.model}", *bench.table(head, rows)]


def from_flags(values: Mapping[str, str]) -> Options:
    """Options of text; raises UsageError for what is not a number."""
    converted: dict[str, Any] = {}
    for name, text in values.items():
        kind: Callable[[str], Any] = type(getattr(Options, name))
        try:
            converted[name] = kind(text)
        except ValueError:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} {text}: give an integer.") from None
    return Options(**converted)
