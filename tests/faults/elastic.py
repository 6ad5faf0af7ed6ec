"""kill -9 on ranks of an elastic run: every subset that leaves one, at moments drawn at random.

A case trains the MLP on MNIST on 4 ranks of Open MPI and kills up to 3 of them, all at once, one after the
other, or the second while the others are leaving out the first; in a step, or in the test after an epoch.
Each rank writes down the examples of each step that it begins, and each step that is done. The run has to end
with 0 and a test accuracy of 0.97 or more, each example of each epoch used in one step that is done, and
once, and metrics.jsonl has to tell each epoch once. Prints a line for each case.

    DTRAIN_DATA=... python tests/faults/elastic.py [--python VENV/bin/python] [--cases FIRST:LAST]

--python: an environment with Open MPI, by default this one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RANKS, EPOCHS, STEPS, EXAMPLES = 4, 2, 200, 60_000
OPTIONS = ["--batch-size", "300", "--lr", "0.002"]  # 0.9754 where nothing happens
LEAST_ACCURACY = 0.97
DEADLINE = 150.0


# -- a rank ----------------------------------------------------------------------------------------------
def worker(arguments: list[str]) -> int:
    """`dtrain train` that notes its steps: 'begun EPOCH STEP SIZE EXAMPLES', 'done EPOCH STEP SIZE TIME'."""
    from dtrain.cli import main
    from dtrain.comm import launcher
    from dtrain.task import trainer
    from dtrain.train.state import Progress

    ledger = os.open(f"ledger-{launcher.rank()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(ledger, f"pid {os.getpid()}\n".encode())
    order, windows, add = trainer.order_of, trainer.windows, Progress.add
    epoch = size = 0

    def order_of(seed: int, number: int, part: Any) -> Any:
        nonlocal epoch
        epoch = number
        return order(seed, number, part)

    def noted(examples: np.ndarray, batch: int, comm: Any, pace: Any, start: int) -> Iterator[Any]:
        nonlocal size
        size = comm.size
        done = start // batch
        for step, window in enumerate(windows(examples, batch, comm, pace, start), done + 1):
            (rows,) = window.rows
            os.write(ledger, f"begun {epoch} {step} {size} {' '.join(map(str, rows))}\n".encode())
            yield window

    def added(self: Progress, *facts: Any) -> None:
        add(self, *facts)
        os.write(ledger, f"done {self.epoch} {self.iteration} {size} {time.time()}\n".encode())

    trainer.order_of, trainer.windows = order_of, noted
    Progress.add = added  # type: ignore[method-assign]
    return main(arguments)


# -- a case ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Kill:
    """Ranks that die together: `delay` seconds after step `step` of `epoch`."""

    ranks: tuple[int, ...]
    epoch: int
    step: int
    delay: float


def cases() -> list[tuple[str, list[Kill]]]:
    """The 14 subsets at once; six of them in other ways."""
    every = [s for n in (1, 2, 3) for s in itertools.combinations(range(RANKS), n)]
    found = []
    for number, ranks in enumerate(every):
        random = np.random.default_rng(number)
        epoch, step, delay = int(random.integers(1, EPOCHS + 1)), random.integers(1, STEPS), random.random()
        found.append(("at once", [Kill(ranks, epoch, int(step), 0.02 * delay)]))
    for number, ranks in enumerate([(0,), (3, 0), (1, 0, 2)]):
        delay = 0.02 + 0.03 * number
        moments = [Kill((rank,), min(1 + i, EPOCHS), STEPS, delay) for i, rank in enumerate(ranks)]
        found.append(("in a test", moments))
    for ranks, pause in (((0, 1), 0.002), ((2, 0, 1), 0.005), ((0, 1, 2), 0.01)):
        moments = [Kill((rank,), 1, 100, i * pause) for i, rank in enumerate(ranks)]
        found.append((f"{1000 * pause:g} ms apart", moments))
    return found


def environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "PRTE_"))}
    env |= {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    }
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return env


class Ledgers:
    """What the ranks have written, as far as it was read."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"ledger-{rank}" for rank in range(RANKS)]
        self._read = [0] * RANKS
        self.pids: dict[int, int] = {}
        self.begun: dict[tuple[int, int, int], dict[int, list[int]]] = {}
        self.done: dict[tuple[int, int, int], dict[int, float]] = {}

    def update(self) -> None:
        for rank, path in enumerate(self._paths):
            if not path.exists():
                continue
            with open(path, "rb") as file:
                file.seek(self._read[rank])
                data = file.read()
            end = data.rfind(b"\n") + 1
            self._read[rank] += end
            for line in data[:end].decode().splitlines():
                kind, *words = line.split()
                if kind == "pid":
                    self.pids[rank] = int(words[0])
                elif kind == "begun":
                    epoch, step, size, *rows = map(int, words)
                    self.begun.setdefault((epoch, step, size), {})[rank] = rows
                else:
                    key = (int(words[0]), int(words[1]), int(words[2]))
                    self.done.setdefault(key, {})[rank] = float(words[3])

    def reached(self, epoch: int, step: int) -> bool:
        self.update()
        return any(key[:2] >= (epoch, step) for key in self.done)

    def wrong(self, killed: set[int]) -> str:
        """What is wrong with the steps that were done; '' where each example was used once in an epoch.

        What counts is what the survivors did: one that was killed may have ended a step that is done again.
        """
        done = [key for key, ranks in self.done.items() if not killed.issuperset(ranks)]
        steps = Counter((epoch, step) for epoch, step, _ in done)
        if steps != {(e, s): 1 for e in range(1, EPOCHS + 1) for s in range(1, STEPS + 1)}:
            return f"{len(steps)} different steps were done, {max(steps.values())} times at most"
        used = Counter()
        for epoch, step, size in done:
            parts = self.begun[epoch, step, size]
            if len(parts) != size:
                return f"step {step} of epoch {epoch} was done by {size} ranks and begun by {len(parts)}"
            used.update((epoch, example) for rows in parts.values() for example in rows)
        if used != {(e, x): 1 for e in range(1, EPOCHS + 1) for x in range(EXAMPLES)}:
            return f"{len(used)} examples were used, {max(used.values())} times at most"
        return ""


def case(number: int, python: Path, how: str, kills: list[Kill]) -> list[float] | None:
    """Seconds from each kill to the next step that those left did; None where something is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [python.with_name("mpirun"), "--with-ft", "ulfm", "-n", RANKS, python, __file__, "worker"]
        command += ["train", "--elastic", "--epochs", EPOCHS, "--run-dir", "run", "--dataset", "mnist"]
        command += OPTIONS
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=environment(),
            text=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=open(folder / "output", "w"),  # noqa: SIM115 - the child's
            stderr=subprocess.STDOUT,
        )
        ledgers, begun, killed = Ledgers(folder), time.monotonic(), []
        problem = ""
        try:
            for kill in kills:
                while not ledgers.reached(kill.epoch, kill.step):
                    if process.poll() is not None or time.monotonic() - begun > DEADLINE:
                        raise TimeoutError(f"step {kill.step} of epoch {kill.epoch} was not reached")
                    time.sleep(0.002)
                time.sleep(kill.delay)
                killed.append(time.time())
                for rank in kill.ranks:
                    os.kill(ledgers.pids[rank], signal.SIGKILL)
            process.wait(timeout=DEADLINE)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said = (folder / "output").read_text()
        waits: list[float] = []
        if not problem:
            ledgers.update()
            dead = 0
            for moment, kill in zip(killed, kills, strict=True):
                dead += len(kill.ranks)
                left = [ranks for key, ranks in ledgers.done.items() if key[2] <= RANKS - dead]
                times = [done for ranks in left for done in ranks.values()]
                waits += [min(times) - moment] if times else []  # else it was in the last test
            lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
            events = [json.loads(line) for line in lines]
            epochs = [event for event in events if event["event"] == "epoch"]
            accuracy = epochs[-1]["test_accuracy"] if epochs else 0.0
            problem = next(
                filter(
                    None,
                    [
                        f"exit code {process.returncode}" if process.returncode else "",
                        ledgers.wrong({rank for kill in kills for rank in kill.ranks}),
                        f"epochs {[e['epoch'] for e in epochs]}" if len(epochs) != EPOCHS else "",
                        f"test accuracy {accuracy}" if accuracy < LEAST_ACCURACY else "",
                        f"it ended with {events[-1]['event']}" if events[-1]["event"] != "done" else "",
                    ],
                ),
                "",
            )
        who = ", then ".join(" and ".join(map(str, kill.ranks)) for kill in kills)
        print(
            f"{number:2}  ranks {who:12} {how:12} epoch {kills[0].epoch} step {kills[0].step:3}:  "
            + (problem or f"next step after {max(waits, default=0):.2f} s, test accuracy {accuracy:.4f}"),
            flush=True,
        )
        if problem:
            print(said, flush=True)
            return None
        return waits


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--cases", default="0:")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a case ends what it has started
    first, _, last = options.cases.partition(":")
    chosen = list(enumerate(cases()))[int(first or 0) : int(last) if last else None]
    results = [case(number, options.python.absolute(), *each) for number, each in chosen]
    waits = sorted(wait for result in results if result for wait in result)
    print(f"{sum(result is not None for result in results)} of {len(results)} runs", end="")
    print(f"; kill to next step: median {np.median(waits):.2f} s, longest {waits[-1]:.2f} s" if waits else "")
    return int(None in results)


if __name__ == "__main__":
    sys.exit(worker(sys.argv[2:]) if sys.argv[1:2] == ["worker"] else main())
