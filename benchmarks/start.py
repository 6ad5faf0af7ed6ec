"""Start to the end of the first step by number of ranks, beside an MPI program that does nothing.

    python benchmarks/start.py [--ranks 1,2,4,8,16] [--rounds 5]

Prints a table: seconds, and the processor's seconds a rank; medians of rounds in which all take turns. A
start is warm: one of each goes before. Ranks beyond the cores wait for one, so of those the processor's
seconds tell how the work of a start grows; a rank that waits in MPI polls, which counts as work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BESIDE = Path(sys.executable).with_name("mpirun")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", default="1,2,4,8,16")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    counts = [int(n) for n in arguments.ranks.split(",")]
    mpirun = str(BESIDE) if BESIDE.exists() else shutil.which("mpirun")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    seen: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for i in range(arguments.rounds + 1):
        for n in counts:
            for name in ("dtrain", "nothing"):
                measured = start(name, n, mpirun, environment)
                if i:
                    seen.setdefault((name, n), []).append(measured)
    print("ranks | first step, s | nothing, s | difference | processor's s a rank | of nothing")
    for n in counts:
        (wall, work), (idle, least) = (
            [statistics.median(column) for column in zip(*seen[name, n], strict=True)]
            for name in ("dtrain", "nothing")
        )
        row = (wall, idle, wall - idle, work / n, least / n)
        print(f"{n:5} | " + " | ".join(f"{value:.2f}" for value in row))


def start(name: str, ranks: int, mpirun: str | None, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first step, or to the end of nothing; and the processor's until then, of all ranks."""
    launch = [str(mpirun), "-n", str(ranks)] if ranks > 1 else []
    if name == "nothing":
        before, begun = os.times(), time.time()
        program = "from mpi4py import MPI" if ranks > 1 else "pass"
        subprocess.run([*launch, sys.executable, "-c", program], env=environment, check=True)
        after, ended = os.times(), time.time()
        work = after.children_user + after.children_system - before.children_user - before.children_system
        return ended - begun, work
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        program = ["-m", "dtrain", "train", "--epochs", "1", "--run-dir", f"{folder}/run"]
        command = [*launch, sys.executable, *program, "--log-format", "json", "--log-every", "1"]
        begun = time.time()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout
        events = (json.loads(line) for line in process.stdout if line.startswith("{"))
        first = next(event["time"] for event in events if event["event"] == "iteration")
        work = spent(process.pid)
        process.terminate()
        process.communicate()
    return first - begun, work


def spent(root: int) -> float:
    """Processor's seconds of a process and of all below it that live, as Linux counts them."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        ticks[int(path.parent.name)] = sum(map(int, fields[11:15]))
    below = {root}
    for _ in range(4):  # mpirun, its proxy, a rank
        below |= {pid for pid, parent in parents.items() if parent in below}
    return sum(ticks.get(pid, 0) for pid in below) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
