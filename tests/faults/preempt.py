"""Preemption under real launchers: a signal to a rank or to mpirun, then the same command again.

For each case a run is started, one process of it gets the signal at a step drawn at random, and the same
command is started until it ends with 0. Every rank writes down which examples its steps used: each example of
each epoch has to be there once, so the run was saved at the very step that it ended with. Prints a line for
each case: what mpirun ended with, and how long after the signal.

    python tests/faults/preempt.py [--ranks 2] [--repeats 1] [--python VENV/bin/python ...]

--python: environments to take mpirun and mpi4py from, by default this one.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLES, EPOCHS, BATCH = 2000, 2, 20
DEADLINE = 60.0


# -- a rank ----------------------------------------------------------------------------------------------
def worker(arguments: list[str]) -> int:
    """`dtrain train` that notes the examples of each step, on 2,000 generated ones, with steps of 5 ms."""
    from dtrain import data
    from dtrain.cli import main
    from dtrain.comm import launcher
    from dtrain.task import trainer

    data.SYNTHETIC_TRAIN, data.SYNTHETIC_TEST = EXAMPLES, 1000
    order, windows, epoch = trainer.order_of, trainer.windows, 0
    ledger = os.open(f"ledger-{launcher.rank()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def order_of(seed: int, number: int, part: Any) -> Any:
        nonlocal epoch
        epoch = number
        return order(seed, number, part)

    def noted(*args: Any) -> Iterator[Any]:
        for window in windows(*args):
            done = 1  # a call that is asked to stop ends behind its first step
            try:
                yield window
                done = len(window)
            finally:
                rows = window.rows[:done].reshape(-1)
                os.write(ledger, "".join(f"{epoch} {example}\n" for example in rows).encode())
                time.sleep(0.005 * done)

    trainer.order_of, trainer.windows = order_of, noted
    return main(arguments)


# -- the campaign ----------------------------------------------------------------------------------------
def environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "PRTE_", "DTRAIN_"))}
    root = str(Path(__file__).parents[2])
    env |= {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": root,
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return env


def start(python: Path, ranks: int, folder: Path) -> subprocess.Popen[str]:
    command = [python.with_name("mpirun"), "-n", str(ranks), python, __file__, "worker", "train"]
    command += [
        "--dataset",
        "synthetic",
        "--model",
        "logistic",
        "--epochs",
        str(EPOCHS),
        "--batch-size",
        str(BATCH),
    ]
    command += ["--run-dir", "run", "--resume", "auto"]
    return subprocess.Popen(
        [*map(str, command)],
        cwd=folder,
        env=environment(),
        text=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def rank_process(parent: int, rank: int) -> int:
    """The process of a rank, below mpirun."""
    wanted = {f"PMI_RANK={rank}".encode(), f"OMPI_COMM_WORLD_RANK={rank}".encode()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = set((entry / "environ").read_bytes().split(b"\0"))
                worker = b"preempt.py" in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if worker and variables & wanted and parent in ancestors(int(entry.name)):
                return int(entry.name)
    raise LookupError(f"no process of rank {rank}")


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return


def used(folder: Path) -> list[tuple[int, int]]:
    lines = [line.split() for path in folder.glob("ledger-*") for line in path.read_text().splitlines()]
    return [(int(epoch), int(example)) for epoch, example in lines]


def case(python: Path, ranks: int, number: signal.Signals, target: str, seed: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        at = int(np.random.default_rng(seed).integers(2, EPOCHS * EXAMPLES // BATCH - 20)) * BATCH // ranks
        process = start(python, ranks, folder)
        begun = time.monotonic()
        while not (folder / "ledger-0").exists() or (folder / "ledger-0").read_text().count("\n") < at:
            if process.poll() is not None or time.monotonic() - begun > DEADLINE:
                process.kill()
                print(process.communicate()[0])
                return False
            time.sleep(0.01)
        pid = process.pid if target == "mpirun" else rank_process(process.pid, int(target.split()[1]))
        os.kill(pid, number)
        sent = time.monotonic()
        said, _ = process.communicate(timeout=DEADLINE)
        seconds, code = time.monotonic() - sent, process.returncode
        stopped = "dtrain: stopped: by " in said
        starts, again = 1, code
        while again != 0 and starts < 5:
            process = start(python, ranks, folder)
            later, _ = process.communicate(timeout=DEADLINE)
            again, starts = process.returncode, starts + 1
        count = Counter(used(folder))
        exact = count == {(e, x): 1 for e in range(1, EPOCHS + 1) for x in range(EXAMPLES)}
        # Open MPI's mpirun passes on no output once it got a signal itself, and ends with 1
        good = exact and again == 0 and (stopped or (target, code) == ("mpirun", 1))
        print(
            f"{number.name:8} to {target:7} mpirun ended with {code:4} after {seconds:4.1f} s; "
            f"{'it said so' if stopped else 'it was silent'}; {starts} starts; "
            f"{'each example once' if exact else f'LEDGER WRONG: {len(count)} of {EPOCHS * EXAMPLES}'}",
            flush=True,
        )
        if not good:
            print(said, later if code else "", sep="\n")
        return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--python", type=Path, nargs="+", default=[Path(sys.executable)])
    options = parser.parse_args()
    good = total = 0
    for python in options.python:
        version = subprocess.run(
            [python.with_name("mpirun"), "--version"], capture_output=True, text=True, check=False
        )
        lines = version.stdout.split("\n")
        print(
            next((line.strip() for line in lines if "Version" in line or "Open MPI" in line), python),
            flush=True,
        )
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            for target in ("rank 0", f"rank {options.ranks - 1}", "mpirun"):
                for _ in range(options.repeats):
                    good += case(python, options.ranks, number, target, total)
                    total += 1
    print(f"{good} of {total} cases")
    return int(good < total)


if __name__ == "__main__":
    sys.exit(worker(sys.argv[2:]) if sys.argv[1:2] == ["worker"] else main())
