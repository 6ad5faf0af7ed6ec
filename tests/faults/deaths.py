"""Deaths of each kind at random times, on 2 to 4 ranks: each job has to end, not with 0, and name the rank.

A program trains for ever; one rank of it dies by itself: before the ranks meet, or at a random time after.
For each kind: how many there were, and of these how many hung, ended with 0, or did not name the rank. Where
a rank dies before any other has come to MPI_Init, nobody but the launcher may see it: what it alone names is
said, and counts as named.

    python tests/faults/deaths.py [--count 200] [--seed 0] [--jobs 2] [--kinds ...]
        [--python VENV/bin/python ...]
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from preempt import environment

KINDS = ("kill", "segfault", "exit0", "exit3", "abort", "exception", "sigterm")
#: Seconds behind a death in which the job has to end.
LIMIT = 15.0
#: How MPICH's and Open MPI's launchers name the rank that ended a job.
BY_LAUNCHER = r"RANK {0} PID|Process name: \[[^]]*,{0}\]|rank {0} with PID"
#: The share of deaths that come before the ranks meet.
EARLY = 0.3

BY_THE_LAUNCHER = "named by the launcher alone"

PROGRAM = """
import ctypes, os, signal, sys, threading, time
kind, who, early, after = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "early", float(sys.argv[4])
names = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")
rank = next(int(os.environ[name]) for name in names if name in os.environ)

def die():
    print(f"fault at {time.time():.3f} in pid {os.getpid()}", file=sys.stderr, flush=True)
    if kind == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segfault": ctypes.string_at(0)
    if kind == "exit0": os._exit(0)
    if kind == "exit3": os._exit(3)
    if kind == "abort": os.abort()
    if kind == "sigterm": os.kill(os.getpid(), signal.SIGTERM)
    if kind == "exception": raise RuntimeError("injected")

import numpy as np
import dtrain as dt
if early and rank == who:
    time.sleep(after)
    die()
x = dt.placeholder("float32", [None, 64])
w = dt.Variable(np.ones((64, 32), np.float32))
train = dt.train.GradientDescentOptimizer(1e-6).minimize(dt.reduce_sum(dt.matmul(x, w)))
session = dt.Session()
session.run(dt.global_variables_initializer())
rows, end = np.ones((64, 64), np.float32), time.time() + after
while True:
    session.run(train, {x: rows})
    if not early and rank == who and time.time() > end:
        die()
"""


def case(python: Path, kind: str, ranks: int, who: int, early: bool, after: float) -> tuple[list[str], str]:
    """What is to be said of it, all of it wrong but BY_THE_LAUNCHER, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program.py")
        program.write_text(PROGRAM)
        command = [python.with_name("mpirun"), "-n", ranks, python, program, kind, who]
        process = subprocess.Popen(
            [*map(str, [*command, "early" if early else "late", after])],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            said, _ = process.communicate(timeout=60 + after)
        except subprocess.TimeoutExpired:
            process.kill()
            return ["hung"], process.communicate()[0]
    ended, said = time.time(), said.replace("\0", "")
    at = re.search(r"fault at ([\d.]+) in pid (\d+)", said)
    messages = re.findall(r"dtrain: .*", said)
    wrong = []
    if at is None or ended - float(at[1]) > LIMIT:
        wrong.append("hung")
    if process.returncode == 0:
        wrong.append("ended with 0")
    if not any(f"rank {who} of {ranks} on" in message for message in messages):
        launcher = early and re.search(BY_LAUNCHER.format(who), said)
        wrong.append(BY_THE_LAUNCHER if launcher else "not named")
    others = {int(rank) for m in messages for rank in re.findall(r"rank (\d+) of \d+ on \S+, pid", m)} - {who}
    if others:
        wrong.append("another named")
    return wrong, said


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="of each kind, with each Python")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time")
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--python", type=Path, nargs="+", default=[Path(sys.executable)])
    options = parser.parse_args()
    bad = 0
    for python in options.python:
        for kind in options.kinds:
            draw, found, cases = random.Random(f"{options.seed} {kind}"), Counter[str](), []
            for _ in range(options.count):
                ranks = draw.randint(2, 4)
                who, early = draw.randrange(ranks), draw.random() < EARLY
                cases.append((ranks, who, early, 2 + 2 * draw.random() if early else draw.random()))
            with ThreadPoolExecutor(options.jobs) as pool:
                ends = pool.map(partial(case, python, kind), *zip(*cases, strict=True))
                for (ranks, who, early, after), (wrong, said) in zip(cases, ends, strict=True):
                    found.update(wrong)
                    if {*wrong} - {BY_THE_LAUNCHER}:
                        where = f"rank {who} of {ranks}, {'early' if early else 'late'}, after {after:.2f} s"
                        print(f"{kind}: {', '.join(wrong)}: {where}\n{said}", flush=True)
            told = ", ".join(f"{what} {count}" for what, count in found.items()) or "all well"
            print(f"{python.parent.parent.name}  {kind:10} {options.count}: {told}", flush=True)
            bad += found.total() - found[BY_THE_LAUNCHER]
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
