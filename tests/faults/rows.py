"""Twenty stops of one run, each resumed on another number of ranks: every example of an epoch once?

    python tests/faults/rows.py [--stops 20] [--seed 0]

A column store of 60,000 rows, whose order is made to be by blocks as that of a set larger than memory, trains
for three epochs with a checkpoint every 100 steps. At a moment drawn at random one rank, in turns, is killed
with -9 or asked by SIGTERM to stop; then the same command resumes on 1 to 4 ranks, until nothing is left to
do. Each rank writes down the rows of each step; what was done behind the checkpoint that a resume took counts
no more. Prints a line a stop, and how many rows were lost or there twice; ends with 1 where any was.
"""

from __future__ import annotations

import argparse
import os
import random
import re
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

sys.path.insert(0, str(Path(__file__).parent))

from preempt import ancestors, environment

ROWS, WIDTH, EPOCHS, BATCH = 60_000, 8, 3, 100
STEPS = EPOCHS * ROWS // BATCH
DEADLINE = 120.0


def worker(arguments: list[str]) -> int:
    """`dtrain train` that notes the rows of each step, from a set that counts as larger than memory."""
    from dtrain.cli import main
    from dtrain.comm import launcher
    from dtrain.data import order
    from dtrain.task import trainer

    order.WHOLE_ROWS, order.BLOCK_ROWS, order.WINDOW_BYTES = 1000, 64, 1 << 16
    windows, order_of, epoch = trainer.windows, trainer.order_of, 0
    name = f"ledger-{os.environ['START']}-{launcher.rank()}"
    ledger = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def known(seed: int, number: int, part: Any) -> Any:
        nonlocal epoch
        epoch = number
        found = order_of(seed, number, part)
        assert isinstance(found, order.Blocks)
        return found

    def noted(rows: Any, batch: int, comm: Any, steps: Any, begin: int) -> Iterator[Any]:
        """As windows, of an epoch whose first `begin` rows are used; noted before they are, for a kill."""
        done = begin // batch
        for window in windows(rows, batch, comm, steps, begin):
            lines = (f"{epoch} {done + i} {' '.join(map(str, some))}\n" for i, some in enumerate(window.rows))
            os.write(ledger, "".join(lines).encode())
            yield window
            time.sleep(0.002 * len(window))
            done += len(window)

    trainer.windows, trainer.order_of = noted, known
    return main(arguments)


def start(folder: Path, number: int, ranks: int) -> subprocess.Popen[str]:
    command = [
        Path(sys.executable).with_name("mpirun"),
        "-n",
        ranks,
        sys.executable,
        __file__,
        "worker",
        "train",
    ]
    command += ["--dataset", "store", "--epochs", EPOCHS, "--batch-size", BATCH, "--checkpoint-every", 100]
    command += ["--run-dir", "run", "--resume", "auto"]
    return subprocess.Popen(
        [*map(str, command)],
        cwd=folder,
        env=environment() | {"START": str(number)},
        text=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def rank_processes(parent: int) -> dict[int, int]:
    """The processes of the ranks below mpirun, by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
                worker = b"rows.py" in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            rank = re.search(rb"(?:^|\0)PMI_RANK=(\d+)", environ)
            if worker and rank and parent in ancestors(int(entry.name)):
                found[int(rank[1])] = int(entry.name)
    return found


def used(folder: Path, starts: int) -> dict[tuple[int, int], list[int]]:
    """The rows of each (epoch, step) that the run's last state follows from."""
    steps: dict[tuple[int, int], list[int]] = {}
    for number in range(starts):
        new: dict[tuple[int, int], list[int]] = {}
        for path in folder.glob(f"ledger-{number}-*"):
            for line in path.read_text().splitlines():
                epoch, step, *rows = map(int, line.split())
                new.setdefault((epoch, step), []).extend(rows)
        if new:
            steps = {at: rows for at, rows in steps.items() if at < min(new)} | new
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
        np.savez(folder / "set.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
        imports = [sys.executable, "-m", "dtrain", "data", "import", "set.npz", "--to", "store"]
        subprocess.run(imports, cwd=folder, env=environment(), check=True, capture_output=True)
        starts = stops = 0
        while True:
            ranks = generator.randint(1, 4)
            process = start(folder, starts, ranks)
            starts += 1
            seen = len(used(folder, starts))
            # as many further steps as bring the run to its end in about as many stops as are asked for
            until = seen + generator.randint(10, STEPS // (options.stops + 10))
            begun = time.monotonic()
            while stops < options.stops and process.poll() is None and len(used(folder, starts)) < until:
                if time.monotonic() - begun > DEADLINE:
                    process.kill()
                    print(process.communicate()[0])
                    return 1
                time.sleep(0.05)
            what = "it ended by itself"
            if process.poll() is None and stops < options.stops:
                found = rank_processes(process.pid)
                rank = generator.choice(sorted(found))
                number = signal.SIGKILL if stops % 2 == 0 else signal.SIGTERM
                os.kill(found[rank], number)
                stops += 1
                what = f"{number.name} to rank {rank}"
            said, _ = process.communicate(timeout=DEADLINE)
            at = max(used(folder, starts), default=(0, 0))
            print(f"start {starts}: {ranks} ranks, epoch {at[0]}, step {at[1] + 1}: {what}", flush=True)
            if process.returncode == 0:
                break
            if what == "it ended by itself":
                print(said)
                return 1
        steps = used(folder, starts)
    count = Counter((epoch, row) for (epoch, _), rows in steps.items() for row in rows)
    lost = EPOCHS * ROWS - len(count)
    twice = sum(n > 1 for n in count.values())
    print(f"{stops} stops, {len(steps)} steps: {lost} rows lost, {twice} there twice")
    return int(bool(lost or twice or stops < options.stops))


if __name__ == "__main__":
    sys.exit(worker(sys.argv[2:]) if sys.argv[1:2] == ["worker"] else main())
