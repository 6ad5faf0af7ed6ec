"""dtrain beside its peers: the seconds of an epoch of the MLP on MNIST, start to first step, and memory.

    python benchmarks/peers [--python torch=PYTHON] [--only NAME ...] [--batch 100] [--rounds 5] [--check]
                            [--model cnn | conv3]

W is the MLP 784-256-256-10 with ReLU, Adam at 0.001, float32, 60,000 images shuffled anew for each epoch, at
a global batch of 100 (600 steps), or others by --batch; evaluation is not counted. Every contender is a small
program in its framework's usual style (with_*.py beside this file); dtrain is `dtrain train`. They take
turns: in each round each is started, trains one epoch to warm up and then the epochs that count, alone on the
machine, and ends; the slowest do so in every second round. A contender named -1 is held to one core, others
to two; one BLAS thread a process, but two where one process has two cores.

--model takes another network: cnn is that of `dtrain train` (5 x 5, 32 and 64 channels, 1024), conv3 one of
3 x 3 convolutions in Keras's words (32 and 64 channels, VALID), at a batch of 64. PyTorch has channels last;
JAX compiles a step and no scan, in which its convolutions took ten times as long.

Run it where dtrain is installed with MPI; a peer that its Python does not have is left out. --python names
another Python for one of them. --check trains each for five epochs first and wants a test accuracy of 0.97.
The table is printed, and written with all single values to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE.parent / "results"

#: Variables by which an environment holds a BLAS below the processor, or spoils a measurement otherwise.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_PROC_BIND", "MKL_DEBUG_CPU_TYPE", "XLA_FLAGS")
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

#: Seconds of an epoch from which a contender takes part in every second round only.
SLOW = 2.5

#: Epochs and test accuracy of --check.
CHECK_EPOCHS, CHECK_ACCURACY = 5, 0.97

#: The packages of a framework that say its version; the first that is installed counts.
PACKAGES = {
    "dtrain": ("numpy",),
    "numpy": ("numpy",),
    "torch": ("torch",),
    "jax": ("jax",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
}


@dataclass(frozen=True)
class Contender:
    """One line of the table; threads: of linear algebra in each of its processes."""

    framework: str
    variant: str
    cores: int
    threads: int = 1
    ranks: int = 1


CONTENDERS = {
    "dtrain-1": Contender("dtrain", "", 1),
    "dtrain-2": Contender("dtrain", "", 2, ranks=2),
    "dtrain-4": Contender("dtrain", "", 2, ranks=4),
    "matmuls-1": Contender("numpy", "matmul", 1),
    "numpy-1": Contender("numpy", "step", 1),
    "torch-eager-1": Contender("torch", "eager", 1),
    "torch-fused-1": Contender("torch", "fused", 1),
    "torch-loader-1": Contender("torch", "loader", 1),
    "torch-eager-2": Contender("torch", "eager", 2, threads=2),
    "torch-fused-2": Contender("torch", "fused", 2, threads=2),
    "torch-loader-2": Contender("torch", "loader", 2, threads=2),
    "torch-ddp-2": Contender("torch", "ddp", 2, ranks=2),
    "torch-ddp-fused-2": Contender("torch", "ddp-fused", 2, ranks=2),
    "jax-jit-1": Contender("jax", "jit", 1),
    "jax-scan-1": Contender("jax", "scan", 1),
    "jax-jit-2": Contender("jax", "jit", 2, threads=2),
    "jax-scan-2": Contender("jax", "scan", 2, threads=2),
    "tf-session-1": Contender("tensorflow", "session", 1),
    "tf-session-2": Contender("tensorflow", "session", 2, threads=2),
    "keras-fit-1": Contender("tensorflow", "keras", 1),
    "keras-fit-2": Contender("tensorflow", "keras", 2, threads=2),
}

#: The contenders that have networks of convolutions, too, and the batch of each network.
OF_IMAGES = [
    *("dtrain-1", "dtrain-2", "dtrain-4", "torch-fused-1", "torch-fused-2", "torch-ddp-fused-2"),
    *("jax-jit-1", "jax-jit-2", "keras-fit-1", "keras-fit-2"),
]
MODELS = {"mlp": 100, "cnn": 100, "conv3": 64}
_RANKS = [
    ("2 ranks: times as fast as 1 rank", "dtrain-1", "dtrain-2", ">=", 1.7),
    ("4 ranks on 2 cores: epoch over that of 2 ranks", "dtrain-4", "dtrain-2", "<=", 1.3),
]
#: The bars of networks of convolutions.
BARS_OF_IMAGES = {
    "cnn": [
        ("2 ranks: times as fast as the best peer", "the best peer", "dtrain-2", ">=", 2.5),
        ("1 rank: times as fast as PyTorch fused, 1 thread", "torch-fused-1", "dtrain-1", ">=", 2.5),
        *_RANKS,
    ],
    "conv3": [("2 ranks: times as fast as the best peer", "the best peer", "dtrain-2", ">=", 2), *_RANKS],
}

#: The bars of W at each global batch: what, whose median epoch over whose, and where the bar lies.
BARS = {
    100: [
        ("1 rank: times as fast as PyTorch eager, 1 thread", "torch-eager-1", "dtrain-1", ">=", 3),
        ("1 rank: times as fast as JAX's scan, 1 core", "jax-scan-1", "dtrain-1", ">=", 1.15),
        ("1 rank: epoch over that of its matrix products", "dtrain-1", "matmuls-1", "<=", 1.4),
        ("2 ranks: times as fast as PyTorch DDP", "torch-ddp-2", "dtrain-2", ">=", 8),
        ("2 ranks: times as fast as PyTorch DDP, fused Adam", "torch-ddp-fused-2", "dtrain-2", "", 0),
        ("2 ranks: times as fast as PyTorch fused, 2 threads", "torch-fused-2", "dtrain-2", ">=", 2.3),
        ("2 ranks: times as fast as JAX's scan, 2 cores", "jax-scan-2", "dtrain-2", ">=", 1.1),
        ("2 ranks: times as fast as 1 rank", "dtrain-1", "dtrain-2", ">=", 1.6),
        ("4 ranks on 2 cores: epoch over that of 2 ranks", "dtrain-4", "dtrain-2", "<=", 1.3),
    ],
    1000: [
        ("2 ranks: times as fast as 1 rank", "dtrain-1", "dtrain-2", ">=", 1.8),
        ("2 ranks: times as fast as the best peer", "the best peer", "dtrain-2", ">=", 1),
    ],
}


@dataclass
class Measured:
    """What the runs of one contender at one batch gave."""

    seconds: list[float] = field(default_factory=list)  # of the epochs that count
    starts: list[float] = field(default_factory=list)  # from the start of the process to the end of a step
    memory: list[float] = field(default_factory=list)  # MB, of its largest process
    accuracy: float | None = None


class Failure(Exception):
    """A contender that did not come to its end."""


# -- one run ---------------------------------------------------------------------------------------------
@contextlib.contextmanager
def held_to(cores: int) -> Iterator[None]:
    """Children started inside run on the last `cores` cores that this process may use."""
    if not hasattr(os, "sched_setaffinity"):  # macOS: the number of threads is all that can be set
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Runner:
    """Starts contenders and reads what they print."""

    def __init__(self, pythons: dict[str, str], mpirun: str | None, folder: Path, model: str) -> None:
        self.pythons, self.mpirun, self.folder, self.model = pythons, mpirun, folder, model
        self.environment = {k: v for k, v in os.environ.items() if k not in (*UNSET, *THREADS)}
        # a warm start has Python's compiled modules
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        kept = ("DTRAIN_DATA", "DTRAIN_MPIRUN")
        self.environment = {
            k: v for k, v in self.environment.items() if not k.startswith("DTRAIN_") or k in kept
        }
        paths = [str(ROOT), *filter(None, [self.environment.get("PYTHONPATH")])]
        self.own_environment = self.environment | {"PYTHONPATH": os.pathsep.join(paths)}
        self._runs = 0

    def launch(self, ranks: int) -> list[str]:
        """What goes before a program of several ranks."""
        return [str(self.mpirun), "-n", str(ranks)] if ranks > 1 else []

    def command(self, c: Contender, batch: int, epochs: int, check: bool, log_every: int) -> list[str]:
        python = self.pythons[c.framework]
        if c.framework == "dtrain":
            self._runs += 1
            run_dir = self.folder / f"run{self._runs}"
            options = {"epochs": epochs, "batch-size": batch, "run-dir": run_dir, "log-every": log_every}
            options["model"] = f"{HERE / 'conv3.py'}:network" if self.model == "conv3" else self.model
            words = [f"--{name}={value}" for name, value in options.items()]
            return [*self.launch(c.ranks), python, "-m", "dtrain", "train", "--log-format=json", *words]
        words = [f"--data={self.folder}", f"--batch={batch}", f"--epochs={epochs}", f"--threads={c.threads}"]
        script = str(HERE / f"with_{c.framework}.py")
        words.append(f"--model={self.model}")
        return [python, script, c.variant, *words, *(["--check"] if check else [])]

    def run(
        self,
        c: Contender,
        batch: int,
        epochs: int,
        check: bool = False,
        log_every: int = 10**9,
        until: str = "",
    ) -> tuple[list[dict[str, Any]], float]:
        """The events that one run printed, each with when it came (`seen`, s from the start); and MB at most.

        until: an event after which the run is ended.

        Raises:
            Failure: with the last that it wrote.
        """
        environment = self.own_environment if c.framework == "dtrain" else self.environment
        environment = environment | dict.fromkeys(THREADS, str(c.threads))
        command = self.command(c, batch, epochs, check, log_every)
        events = []
        with tempfile.TemporaryFile("w+") as errors:
            with held_to(c.cores):
                started = time.time()
                process = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                    cwd=self.folder,
                )
            assert process.stdout
            for line in process.stdout:
                if line.startswith("{"):
                    events.append({**json.loads(line), "seen": time.time() - started})
                    if events[-1]["event"] == until:
                        process.terminate()
                        break
            # of the process and of all that it waited for: the largest, so under mpirun a rank's
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            process.stdout.close()
            if process.returncode and not until:
                errors.seek(0)
                last = errors.read().strip().splitlines()[-1:] or ["no message"]
                raise Failure(f"exit code {process.returncode}: {last[0]}")
        for event in events:
            if "time" in event:
                event["at"] = event["time"] - started
        return events, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)

    def measure(self, c: Contender, batch: int, epochs: int, into: Measured) -> None:
        """One round: an epoch to warm up, then those that count."""
        events, memory = self.run(c, batch, 1 + epochs)
        into.seconds += [e["seconds"] for e in events if e["event"] == "epoch"][1:]
        into.starts += [e["at"] for e in events if e["event"] == "first step"]
        into.memory.append(memory)

    def check(self, c: Contender, batch: int) -> tuple[float, float]:
        """Test accuracy after CHECK_EPOCHS; for dtrain also its epochs by this clock over what it reports."""
        events, _ = self.run(c, batch, CHECK_EPOCHS, check=True, log_every=100)
        clock = _by_this_clock(events) if c.framework == "dtrain" else 1.0
        accuracies = [e.get("accuracy") for e in events if e["event"] == "test"]
        accuracies += [e["test_accuracy"] for e in events if e["event"] == "epoch" and "test_accuracy" in e]
        return accuracies[-1], clock

    def start(self, c: Contender) -> float:
        """Seconds from the start of `dtrain train` to the end of its first step."""
        events, _ = self.run(c, 100, 1, log_every=1, until="iteration")
        return events[-1]["at"]

    def nothing(self, ranks: int) -> float:
        """Seconds that mpirun takes for a program that starts MPI and ends it."""
        command = [*self.launch(ranks), self.pythons["dtrain"], "-c", "from mpi4py import MPI"]
        begun = time.perf_counter()
        subprocess.run(command, check=True, env=self.own_environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun


def _by_this_clock(events: list[dict[str, Any]]) -> float:
    """Seconds of dtrain's epochs as seen from here over those it reports: from line to line of its log."""
    ratios = []
    for epoch in (e for e in events if e["event"] == "epoch"):
        lines = [e for e in events if e["event"] == "iteration" and e["epoch"] == epoch["epoch"]]
        if len(lines) > 1:
            share = (
                (lines[-1]["iteration"] - lines[0]["iteration"]) * epoch["seconds"] / lines[-1]["iteration"]
            )
            ratios.append((lines[-1]["seen"] - lines[0]["seen"]) / share)
    return statistics.median(ratios) if ratios else float("nan")


# -- what is there ---------------------------------------------------------------------------------------
def version(python: str, framework: str) -> str | None:
    """The version of a framework in a Python, None where it is not installed; nothing is imported."""
    code = (
        "from importlib.metadata import *\n"
        f"for name in {PACKAGES[framework]!r}:\n"
        "    try: print(version(name)); break\n"
        "    except PackageNotFoundError: pass"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def write_data(python: str, folder: Path, environment: dict[str, str]) -> str:
    """The data set as .npy files for the peers, read by dtrain; returns its name."""
    code = (
        "import sys, numpy as np\n"
        "from dtrain.comm import SingleCommunicator\n"
        "from dtrain.data import load\n"
        "data = load('auto', SingleCommunicator())\n"
        "for part, r in (('train', data.train), ('test', data.test)):\n"
        "    images = data.x[r.start:r.stop].reshape(len(r), -1)\n"
        "    np.save(f'{sys.argv[1]}/{part}_images.npy', images)\n"
        "    np.save(f'{sys.argv[1]}/{part}_labels.npy', data.y[r.start:r.stop].astype('int32'))\n"
        "print(data.name)"
    )
    command = [python, "-c", code, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dtrain cannot read its data set: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.split()[-1]


def facts(
    runner: Runner, versions: dict[str, str], data: str, arguments: argparse.Namespace
) -> dict[str, str]:
    """Hardware, versions and command: what makes the figures comparable with others."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    info = [runner.pythons["dtrain"], "-m", "dtrain", "info"]
    environment = runner.own_environment | dict.fromkeys(THREADS, "1")
    told = subprocess.run(info, capture_output=True, text=True, check=True, env=environment).stdout
    own = dict(line.split(maxsplit=1) for line in told.splitlines() if len(line.split(maxsplit=1)) == 2)
    words = [
        w.split("=")[0] + "=" + w.split("=")[1] + "=PYTHON" if w.startswith("--python=") else w
        for w in sys.argv[1:]
    ]
    for i, word in enumerate(words[:-1]):
        if word == "--python":
            words[i + 1] = words[i + 1].split("=")[0] + "=PYTHON"
        if word in ("--mpirun", "--out"):
            words[i + 1] = word[2:].upper()
    load = f"{os.getloadavg()[0]:.2f}"
    return {
        "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "commit": commit or "unknown",
        "command": " ".join(["python benchmarks/peers", *words]),
        "processor": f"{own.get('processor', '')}, {own.get('cores', '')} cores",
        "system": f"{platform.system()} {platform.release()}, load {load} at the start",
        "python": own.get("python", "").split()[0],
        "blas": own.get("blas", ""),
        "mpi": own.get("mpi4py", ""),
        "peers": ", ".join(f"{name} {v}" for name, v in versions.items() if name != "dtrain"),
        "data": data,
    }


# -- what is said ----------------------------------------------------------------------------------------
def table(measured: dict[str, Measured]) -> list[list[str]]:
    """Rows of the table of one batch, the fastest first; dtrain's own best is the measure of the ratio."""
    rows = [["contender", "s an epoch", "least", "most", "n", "first step, s", "peak MB", "test accuracy"]]
    for name, m in sorted(measured.items(), key=lambda item: statistics.median(item[1].seconds)):
        rows.append(
            [
                name,
                f"{statistics.median(m.seconds):.3f}",
                f"{min(m.seconds):.3f}",
                f"{max(m.seconds):.3f}",
                str(len(m.seconds)),
                f"{statistics.median(m.starts):.2f}" if m.starts else "",
                f"{max(m.memory):.0f}",
                f"{m.accuracy:.4f}" if m.accuracy is not None else "",
            ]
        )
    return rows


def bars(batch: int, measured: dict[str, Measured], model: str = "mlp") -> list[list[str]]:
    """The ratios that can be told from what was measured, each against its bar."""
    epochs = {name: statistics.median(m.seconds) for name, m in measured.items()}
    rows = [["at a global batch of " + f"{batch:,}", "ratio", "bar", ""]]
    peers = [
        seconds for name, seconds in epochs.items() if CONTENDERS[name].framework not in ("dtrain", "numpy")
    ]
    epochs["the best peer"] = min(peers, default=float("nan"))
    for what, over, under, sign, bar in BARS.get(batch, []) if model == "mlp" else BARS_OF_IMAGES[model]:
        if over in epochs and under in epochs:  # both took part
            rows.append(_verdict(what, epochs[over] / epochs[under], sign, bar, ""))
    if model == "mlp" and batch == 100 and "dtrain-2" in measured:
        rows.append(
            _verdict("2 ranks: peak memory a rank", max(measured["dtrain-2"].memory), "<=", 220, " MB")
        )
    return rows


def _verdict(what: str, value: float, sign: str, bar: float, unit: str) -> list[str]:
    met = value >= bar if sign == ">=" else value <= bar
    shown = f"{value:.0f}" if unit == " MB" else f"{value:.2f}"
    return [
        what,
        shown + unit,
        f"{sign} {bar:g}{unit}" if sign else "",
        ("met" if met else "MISSED") if sign else "",
    ]


def as_text(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def write_results(
    folder: Path, about: dict[str, str], tables: list[list[list[str]]], values: dict[str, Any]
) -> Path:
    """DATE-peers.md and .json, numbered where there are some of this day already."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.date.today()}-peers"
    number = 1
    while (folder / f"{stem}{f'-{number}' * (number > 1)}.md").exists():
        number += 1
    path = folder / f"{stem}{f'-{number}' * (number > 1)}.md"
    listed = "\n".join(f"- {name}: {value}" for name, value in about.items())
    parts = [f"# dtrain beside its peers, {datetime.date.today()}", listed, *map(as_markdown, tables)]
    path.write_text("\n\n".join(parts) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"about": about, **values}, indent=1) + "\n")
    return path


# -- the contest -----------------------------------------------------------------------------------------
def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--python", metavar="FRAMEWORK=PYTHON", action="append", default=[], help=", ".join(PACKAGES)
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="such as 'jax-*', or dtrain-2; may be repeated",
    )
    parser.add_argument("--model", choices=MODELS, default="mlp", help="the network (default mlp)")
    parser.add_argument(
        "--batch", type=int, action="append", help="global batch; may be repeated (default 100, conv3: 64)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="that count, in each round (default 1)")
    parser.add_argument("--check", action="store_true", help="want a test accuracy of 0.97 from each first")
    parser.add_argument("--mpirun", help="by default the one beside this Python, or on the path")
    parser.add_argument("--list", action="store_true", help="show the contenders and end")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)"
    )
    arguments = parser.parse_args()
    for word in arguments.python:
        if word.partition("=")[0] not in PACKAGES or not word.partition("=")[2]:
            parser.error(f"--python {word}: give one of {', '.join(PACKAGES)}, '=' and a Python.")
    for pattern in arguments.only:
        if not fnmatch.filter(CONTENDERS, pattern):
            parser.error(f"--only {pattern}: there is no such contender; --list shows all.")
    return arguments


def who_takes_part(arguments: argparse.Namespace, runner: Runner) -> tuple[list[str], dict[str, str]]:
    """Names of the contenders that this machine has, and versions; says which are left out, and why."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names, versions = [], {}
    for name, c in CONTENDERS.items():
        if arguments.only and not any(fnmatch.fnmatch(name, pattern) for pattern in arguments.only):
            continue
        if arguments.model != "mlp" and name not in OF_IMAGES:
            continue
        if c.framework not in versions:
            versions[c.framework] = version(runner.pythons[c.framework], c.framework) or ""
        if not versions[c.framework]:
            say(f"{name} is left out: {c.framework} is not installed (--python {c.framework}=PYTHON)")
        elif c.cores > cores:
            say(f"{name} is left out: it wants {c.cores} cores, and this process may use {cores}")
        elif c.framework == "dtrain" and c.ranks > 1 and runner.mpirun is None:
            say(f"{name} is left out: there is no mpirun (--mpirun)")
        else:
            names.append(name)
    return names, {k: v for k, v in versions.items() if v}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    arguments = parse()
    if arguments.list:
        print("\n".join(CONTENDERS))
        return
    pythons = {name: sys.executable for name in PACKAGES} | dict(w.split("=", 1) for w in arguments.python)
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = arguments.mpirun or (str(beside) if beside.exists() else shutil.which("mpirun"))
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        runner = Runner(pythons, mpirun, Path(temporary), arguments.model)
        names, versions = who_takes_part(arguments, runner)
        data = write_data(pythons["dtrain"], Path(temporary), runner.own_environment)
        about = facts(runner, versions, data, arguments)
        say("\n".join(f"{name:<10} {value}" for name, value in about.items()))
        contest(arguments, runner, names, about)


def contest(arguments: argparse.Namespace, runner: Runner, names: list[str], about: dict[str, str]) -> None:
    batches: list[int] = arguments.batch or [MODELS[arguments.model]]
    measured = {batch: {name: Measured() for name in names} for batch in batches}
    out: set[str] = set()

    def turn(name: str, batch: int, does: Callable[[Contender, Measured], str]) -> None:
        if name in out:
            return
        try:
            told = does(CONTENDERS[name], measured[batch][name])
        except (Failure, IndexError) as error:
            out.add(name)
            told = f"is left out: {error}"
        say(f"  {name:<18} {told}")

    def check(c: Contender, m: Measured) -> str:
        m.accuracy, clock = runner.check(c, batches[0])
        assert m.accuracy >= CHECK_ACCURACY, f"a test accuracy of {m.accuracy} is none"
        seen = (
            f"; by this clock its epochs take {clock:.3f} of what it says" if c.framework == "dtrain" else ""
        )
        return f"test accuracy {m.accuracy:.4f}{seen}"

    def start(c: Contender, m: Measured) -> str:
        m.starts.append(runner.start(c))
        return f"first step after {m.starts[-1]:.2f} s"

    if arguments.check:
        say(f"check: {CHECK_EPOCHS} epochs")
        for name in names:
            if CONTENDERS[name].variant != "matmul":
                turn(name, batches[0], check)
    nothing: list[float] = []
    for i in range(1, arguments.rounds + 1):
        for batch in batches:
            say(f"round {i} of {arguments.rounds}, global batch {batch:,}")

            def measure(c: Contender, m: Measured, batch: int = batch) -> str:
                runner.measure(c, batch, arguments.epochs, m)
                return f"{m.seconds[-1]:.3f} s"

            for name in names:
                seconds = measured[batch][name].seconds
                if i % 2 or statistics.median(seconds or [0]) < SLOW:
                    turn(name, batch, measure)
        for name in names:
            if CONTENDERS[name].framework == "dtrain":
                turn(name, batches[0], start)
        if "dtrain-2" in names:
            nothing.append(runner.nothing(2))

    tables = []
    for batch in batches:
        there = {name: m for name, m in measured[batch].items() if name not in out}
        tables.append(table(there))
        tables[-1][0][0] = f"global batch {batch:,}"
        tables.append(bars(batch, there, arguments.model))
    if arguments.model == "mlp":
        tables.append(start_bars(measured[batches[0]], nothing))
    tables = [t for t in tables if len(t) > 1]
    print("\n\n".join(map(as_text, tables)))
    values = {
        "measured": {
            str(batch): {name: vars(m) for name, m in of.items() if name not in out}
            for batch, of in measured.items()
        },
        "mpirun that does nothing": nothing,
    }
    say(f"written to {write_results(arguments.out, about, tables, values)}")


def start_bars(measured: dict[str, Measured], nothing: list[float]) -> list[list[str]]:
    """Start to the end of the first step."""
    rows = [["from the start to the end of the first step", "seconds", "bar", ""]]
    medians = {name: statistics.median(m.starts) for name, m in measured.items() if m.starts}
    if "dtrain-1" in medians:
        rows.append(_verdict("1 rank, without mpirun", medians["dtrain-1"], "<=", 0.6, " s"))
    if "dtrain-2" in medians and nothing:
        idle = statistics.median(nothing)
        rows.append(["2 ranks, under mpirun", f"{medians['dtrain-2']:.2f} s", "", ""])
        rows.append(["an MPI program that does nothing, as a whole", f"{idle:.2f} s", "", ""])
        rows.append(_verdict("the difference", medians["dtrain-2"] - idle, "<=", 0.5, " s"))
    return rows


if __name__ == "__main__":
    main()
