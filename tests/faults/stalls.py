"""A rank that is stopped, sleeps, or is only slow: what is said, when, and how the job ends.

For each case a line: seconds from the fault to the warning that names the rank, and to the end of all. With
--warn 10 --abort 60, the defaults of dtrain, each stopped rank takes a minute. The last cases have to go
through in silence: a rank that takes 20 times as long over each step, and one that computes for longer than
the limit.

    python tests/faults/stalls.py [--warn 3] [--abort 8] [--ranks 3] [--python VENV/bin/python ...]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from die_together import WORKER, processes
from preempt import environment


def case(python: Path, kind: str, rank: int, phase: str, options: argparse.Namespace) -> bool:
    mark = f"FAULT_CASE={kind}-{rank}-{phase}-{time.time()}"
    name, _, value = mark.partition("=")
    command = [python.with_name("mpirun"), "-n", options.ranks, python, WORKER, kind, rank, phase]
    command += ["--dataset", "synthetic", "--epochs", 3]
    command += ["--stall-warn", options.warn, "--stall-abort", options.abort, "--no-tensorboard"]
    begun, warned, ended, at, pid = time.time(), 0.0, 0.0, 0.0, ""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=environment() | {name: value},
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line in process.stdout or ():
            lines.append(line)
            if found := re.search(r"fault at ([\d.]+) in pid (\d+)", line):
                at, pid = float(found[1]), found[2]
            if "dtrain: WARNING: rank" in line:
                warned = warned or time.time()
        code = process.wait()
        while processes(mark) and time.time() < begun + 300:
            time.sleep(0.05)
        ended = time.time()
    said = "".join(lines)
    alarms = re.findall(r"^dtrain: (?:WARNING|error): (rank.*)$", said, re.M)
    if kind == "stop":
        named = bool(alarms) and all(a.startswith(f"rank {rank} of {options.ranks} on") for a in alarms)
        named = named and f"pid {pid}" in alarms[0]
        good = (
            named
            and code == 8
            and 0 <= warned - at - options.warn < 2
            and 0 <= ended - at - options.abort < 5
        )
        print(
            f"stopped rank {rank} in {phase:10} {'named' if named else 'NOT NAMED'} "
            f"after {warned - at:5.1f} s, all ended after {ended - at:5.1f} s with {code}",
            flush=True,
        )
    else:
        good = code == 0 and not alarms
        print(
            f"{kind} rank {rank} ({phase}): {len(alarms)} alarms, {ended - begun:5.1f} s, ended with {code}",
            flush=True,
        )
    if not good:
        print(said)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--warn", type=float, default=3)
    parser.add_argument("--abort", type=float, default=8)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument(
        "--phases", nargs="+", default=["start", "forward", "allreduce", "evaluation", "saving"]
    )
    parser.add_argument(
        "--slow", type=float, nargs="*", default=[0.006], help="seconds that each kernel takes longer"
    )
    parser.add_argument(
        "--busy", type=float, nargs="*", default=[12], help="seconds of computing at one place"
    )
    parser.add_argument("--python", type=Path, nargs="+", default=[Path(sys.executable)])
    options = parser.parse_args()
    results = []
    for python in options.python:
        for i, phase in enumerate(options.phases):
            results.append(case(python, "stop", i % options.ranks, phase, options))
        results += [case(python, "slow", options.ranks - 1, str(s), options) for s in options.slow]
        results += [case(python, f"busy{s:g}", 1, "forward", options) for s in options.busy]
    print(f"{sum(results)} of {len(results)} cases")
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
