"""Random small networks on 1 to 5 ranks, in C and NumPy, several steps a call, against one process with NumPy.

A case is a program that follows from its number (programs.py), so is its setting: ranks, kernels, steps a call, the
check for bad numbers. Each runs alone, with NumPy kernels and one step a call, and as its setting says; losses,
metrics, predictions, weights and slots have to be the same but for rounding (compare.py), on every rank to the bit.
Cases of one number of ranks run one after another in one job; where one fails, dies or stands still, it is told and
a new job goes on behind it.

    python tests/campaign/campaign.py --cases 5000
    python tests/campaign/campaign.py --case 1234 [--ranks 3] [--kernels c] [--steps 1] [--check on]

Ends with 1 where a case fails. RESULTS.md says what it found.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from compare import NUDGES, differences, digest, named, verdict
from programs import Setting, form, program, setting

#: Cases that one job runs at most: what a job keeps of each goes when it ends.
MOST = 120


# -- in a job --------------------------------------------------------------------------------------------
def run(number: int, how: Setting, comm: Any) -> dict[str, np.ndarray]:
    """What a case gives on a communicator; None for this process alone."""
    os.environ["DTRAIN_KERNELS"] = how.kernels
    space: dict[str, Any] = {"__name__": "case"}
    exec(compile(program(number, how), f"case {number}", "exec"), space)
    return named(space["case"](comm))


def work(role: str, tasks: Path, folder: Path) -> None:
    """Run the tasks of a file, each [number, setting], and write a line for each."""
    warnings.simplefilter("ignore")
    if role == "exact":
        import wide

        wide.install()
    import dtrain as dt

    comm = dt.comm.world() if role == "ranks" else None
    speaks = comm is None or comm.rank == 0
    for number, options in json.loads(tasks.read_text()):
        how = Setting(**options)
        begun = time.perf_counter()
        said: dict[str, Any] = {"case": number, "outcome": "same"}
        if speaks:
            print(json.dumps({"case": number, "outcome": "begun"}), flush=True)
        try:
            found = run(number, how, comm)
        except Exception as error:
            trace = traceback.extract_tb(error.__traceback__)
            at = next((f for f in reversed(trace) if f.filename.startswith("case ")), trace[-1])
            text = f"{type(error).__name__}: {error} [line {at.lineno}: {at.line}]"
            time.sleep(0.2 * (comm.rank if comm is not None else 0))  # a line at a time
            print(json.dumps(said | {"outcome": "error", "what": text}), flush=True)
            os._exit(1)  # what state the ranks are in nobody knows
        if comm is not None and comm.size > 1 and len(set(comm.gather_text(digest(found)))) > 1:
            said |= {"outcome": "ranks differ", "what": "the results of the ranks are not the same bits"}
        elif comm is not None and speaks:
            with np.load(folder / f"alone-{number}.npz") as alone:
                wrong = differences(found, alone)
            if wrong:
                name, text = next(iter(wrong.items()))
                said |= {"outcome": "unlike", "what": f"{name}: {text}, and {len(wrong) - 1} more"}
        if speaks:
            if comm is None or said["outcome"] == "unlike":
                name = "found" if comm is not None else "alone" if role == "alone" else f"exact{how.nudge}"
                np.savez(folder / f"{name}-{number}.npz", **found)
            print(json.dumps(said | {"seconds": round(time.perf_counter() - begun, 4)}), flush=True)
        del found
        dt.reset_default_graph()
        gc.collect()
    if comm is not None:
        comm.barrier()


# -- around the jobs -------------------------------------------------------------------------------------
class Campaign:
    """Runs tasks in jobs.

    outcomes: of each case the line that its job said last. seconds: a job that says nothing for so long is ended.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.done = 0
        self._lock = threading.Lock()

    def jobs(self, role: str, ranks: int, tasks: Sequence[tuple[int, Setting]]) -> dict[int, dict[str, Any]]:
        """Run tasks, in as many jobs as it takes; what was said of each."""
        left, said = list(tasks), {}
        while left:
            found = self._job(role, ranks, left[:MOST])
            said |= found
            with self._lock:
                self.done += len(found)
            left = [task for task in left if task[0] not in said]
        return said

    def _job(self, role: str, ranks: int, tasks: Sequence[tuple[int, Setting]]) -> dict[int, dict[str, Any]]:
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".json", delete=False) as file:
            json.dump([(number, vars(how)) for number, how in tasks], file)
        command = [
            sys.executable,
            __file__,
            "--work",
            role,
            "--tasks",
            file.name,
            "--folder",
            str(self.folder),
        ]
        if ranks > 1:
            command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks), *command]
        process = subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        said: dict[int, dict[str, Any]] = {}
        errors: list[str] = []
        latest = [time.monotonic()]

        def listen() -> None:
            for line in process.stdout:
                latest[0] = time.monotonic()
                if line.startswith("{"):
                    fact = json.loads(line)
                    old = said.get(fact["case"], {"outcome": "begun"})
                    if old["outcome"] in ("begun", "same"):  # the first rank that fails
                        said[fact["case"]] = fact

        threads = [
            threading.Thread(target=listen),
            threading.Thread(target=lambda: errors.extend(process.stderr)),
        ]
        for thread in threads:
            thread.start()
        while process.poll() is None:
            time.sleep(0.02)
            if time.monotonic() > latest[0] + self.seconds:
                for fact in said.values():
                    if fact["outcome"] == "begun":
                        fact |= {"outcome": "stands still", "what": f"nothing for {self.seconds:g} s"}
                process.kill()
        for thread in threads:
            thread.join()
        Path(file.name).unlink()
        if not said:
            raise RuntimeError(f"{' '.join(command)}: {''.join(errors)}")
        for fact in said.values():
            if fact["outcome"] == "begun":
                fact |= {
                    "outcome": "died",
                    "what": f"exit code {process.returncode}: {''.join(errors)[-600:]}",
                }
        return said

    def judge(self, number: int, how: Setting) -> tuple[dict[str, str], float]:
        """The second look at a case."""
        alone = Setting()
        self.jobs("exact", 1, [(number, alone)])
        runs = []
        for nudge in range(1, NUDGES + 1):
            runs.append(run(number, replace(alone, nudge=nudge), None))
        with np.load(self.folder / f"found-{number}.npz") as found:
            with np.load(self.folder / f"exact0-{number}.npz") as exact:
                return verdict(dict(found), dict(exact), runs)


def repeat(number: int, how: Setting) -> str:
    """The command that runs a case again."""
    check = "on" if how.check else "off"
    return (
        f"python tests/campaign/campaign.py --case {number} --ranks {how.ranks} --kernels {how.kernels} "
        f"--steps {how.steps} --check {check}"
    )


def campaign(cases: Sequence[tuple[int, Setting]], seconds: float) -> int:
    """Run cases and print what fails and a table; returns how many failed."""
    begun = time.monotonic()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="campaign-") as name, ThreadPoolExecutor(2) as pool:
        os.environ["TMPDIR"] = name
        tempfile.tempdir = None
        work = Campaign(Path(name), seconds)
        numbers = sorted({number for number, _ in cases})
        halves = [[(n, Setting()) for n in numbers[i::2]] for i in range(2)]
        said: dict[int, dict[str, Any]] = {}
        for part in pool.map(lambda tasks: work.jobs("alone", 1, tasks), halves):
            said |= part
        print(f"{len(numbers)} cases alone in {time.monotonic() - begun:.0f} s", flush=True)
        bad = {n: s for n, s in said.items() if s["outcome"] != "same"}
        for number, fact in bad.items():
            print(f"ALONE {fact['outcome']}: {fact['what']}\n  {repeat(number, Setting())}", flush=True)
        failed += len(bad)
        table: collections.Counter[tuple[Any, ...]] = collections.Counter()
        judged, loosest = 0, []
        for ranks in sorted({how.ranks for _, how in cases}):
            started = time.monotonic()
            tasks = [(n, how) for n, how in cases if how.ranks == ranks and n not in bad]
            parts = [tasks[i::2] for i in range(2)] if ranks == 1 else [tasks]
            said = {}
            for part in pool.map(lambda some, ranks=ranks: work.jobs("ranks", ranks, some), parts):
                said |= part
            for number, how in tasks:
                fact = said[number]
                if fact["outcome"] == "unlike":
                    judged += 1
                    wrong, loose = work.judge(number, how)
                    loosest.append((loose, number))
                    fact["outcome"] = "differs" if wrong else "same"
                    if wrong:
                        fact["what"] = "; ".join(f"{k}: {v}" for k, v in list(wrong.items())[:3])
                table[form(number), ranks, how.kernels, fact["outcome"]] += 1
                if fact["outcome"] != "same":
                    failed += 1
                    print(
                        f"{fact['outcome'].upper()} {form(number)}: {fact['what']}\n  {repeat(number, how)}",
                        flush=True,
                    )
            print(f"{len(tasks)} cases on {ranks} ranks in {time.monotonic() - started:.0f} s", flush=True)
    print("\nform   ranks kernels  cases  outcome")
    for (kind, ranks, kernels, outcome), count in sorted(table.items()):
        print(f"{kind:6} {ranks:5} {kernels:8} {count:5}  {outcome}")
    print(f"{sum(table.values())} cases, {failed} failed; {judged} had the second look", end="")
    print(f", which allowed at most (share of the size, case) {sorted(loosest)[-3:]}" if loosest else "")
    print(f"{time.monotonic() - begun:.0f} s")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--kernels", choices=("c", "numpy"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--check", choices=("on", "off"))
    parser.add_argument("--seconds", type=float, default=90, help="until a job that says nothing is ended")
    parser.add_argument("--cache", help="where compiled kernels are kept, by default in a temporary folder")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.tasks, given.folder)
        return 0
    numbers = [given.case] if given.case is not None else range(given.first, given.first + given.cases)
    fixed = {k: v for k in ("ranks", "kernels", "steps") if (v := getattr(given, k)) is not None}
    if given.check:
        fixed["check"] = given.check == "on"
    with tempfile.TemporaryDirectory(prefix="campaign-cache-") as cache:
        os.environ["XDG_CACHE_HOME"] = given.cache or cache
        return int(campaign([(n, replace(setting(n), **fixed)) for n in numbers], given.seconds) > 0)


if __name__ == "__main__":
    sys.exit(main())
