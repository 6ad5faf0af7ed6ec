"""One rank of four is killed, raises, or calls sys.exit(0), in each of five phases: how the job ends.

For each case: seconds from the fault until mpirun and all processes of the run were gone; whether one message
named the right rank and pid, and what it did; the exit code; whether a file in /dev/shm was left. Prints a
line each.

    python tests/faults/die_together.py [--ranks 4] [--kinds kill exception exit] [--phases ...] [--kernels c]
        [--python VENV/bin/python ...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from faulty import PHASES
from preempt import environment

WORKER = Path(__file__).with_name("faulty.py")
#: Exit codes that are right: dtrain's own, and where the launcher sees the killed rank, its.
CODES = {"kill": {7, 9, 137}, "exception": {1}, "exit": {7}, "stop": {8}}


def processes(mark: str) -> list[int]:
    """The processes with this variable in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [int(entry.name)] if state not in "ZX" else []
            except OSError:
                continue
    return found


def in_use() -> set[str]:
    """Files in /dev/shm that a process has mapped: those of other jobs on this machine."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            found |= {
                Path(line.split()[5]).name for line in maps.read_text().splitlines() if "/dev/shm/" in line
            }
        except OSError:
            continue
    return found


def case(python: Path, kind: str, rank: int, phase: str, ranks: int, options: list[str]) -> tuple[bool, str]:
    """Whether it went as it should, and a line that says how."""
    shared = set(os.listdir("/dev/shm"))
    mark = f"FAULT_CASE={kind}-{rank}-{phase}-{os.getpid()}"
    name, _, value = mark.partition("=")
    command = [python.with_name("mpirun"), "-n", ranks, python, WORKER, kind, rank, phase]
    command += ["--dataset", "synthetic", "--model", "mlp", "--epochs", 2, "--no-tensorboard"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*map(str, [*command, *options])],
            cwd=folder,
            env=environment() | {name: value},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            said, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[0]
        ended = time.time()
        while processes(mark) and time.time() < ended + 10:
            time.sleep(0.05)
        left = processes(mark)
        gone = time.time()
    said = said.replace("\0", "")  # Open MPI's mpirun puts one before some lines
    at = re.search(r"fault at ([\d.]+) in pid (\d+)", said)
    seconds = gone - float(at[1]) if at else float("inf")
    messages = re.findall(r"^ *dtrain: (?!WARNING|.*goes on).*$", said, re.M)
    named = (
        bool(at)
        and len(messages) == 1
        and f"rank {rank} of {ranks} on" in messages[0]
        and at[2] in messages[0]
    )
    while (files := set(os.listdir("/dev/shm")) - shared - in_use()) and time.time() < gone + 5:
        time.sleep(0.1)
    code = process.returncode
    good = (
        seconds < (5 if kind != "stop" else 80) and named and code in CODES[kind] and not left and not files
    )
    line = f"{kind:9} rank {rank} {phase:10} {seconds:5.2f} s, mpirun ended with {code:3}, "
    line += (
        f"{'named' if named else 'NOT NAMED'}{', PROCESSES LEFT' * bool(left)}{', FILES LEFT' * bool(files)}"
    )
    return good, line + "" if good else f"{line}\n{said}\n{files or ''}{left or ''}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=["kill", "exception", "exit"])
    parser.add_argument("--phases", nargs="+", default=PHASES)
    parser.add_argument("--kernels", default="c")
    parser.add_argument("--python", type=Path, nargs="+", default=[Path(sys.executable)])
    options = parser.parse_args()
    good = total = 0
    for python in options.python:
        for kind in options.kinds:
            for phase in options.phases:
                for rank in range(options.ranks):
                    fine, line = case(
                        python, kind, rank, phase, options.ranks, ["--kernels", options.kernels]
                    )
                    print(line, flush=True)
                    good, total = good + fine, total + 1
    print(f"{good} of {total} cases")
    return int(good < total)


if __name__ == "__main__":
    sys.exit(main())
