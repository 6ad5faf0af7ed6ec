"""Random small networks, each on 1 to 5 ranks as its setting says and on one process with NumPy kernels.

A case is a program that follows from its number (programs.py), and so is its setting: ranks, kernels in C or
NumPy, steps a call, the check for bad numbers, how ranks sum, poisoned memory. Losses, metrics, predictions,
weights and slots have to be those of one process with NumPy kernels and one step a call but for rounding
(compare.py), and on every rank the same bits. Cases of like settings run one after another in one job; where
one fails, dies or stands still, that is told, and a new job goes on behind it.

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
from compare import NUDGES, differences, digest, named, not_finite, verdict
from programs import SUMS, Setting, form, program, setting

#: Cases that one job runs at most: what it keeps of each (windows of shared memory, libraries) goes with it.
MOST = 120

Arrays = dict[str, np.ndarray]
Task = tuple[int, Setting]
Said = dict[str, Any]


# -- in a job --------------------------------------------------------------------------------------------
def run(number: int, how: Setting, comm: Any) -> Arrays:
    """What a case gives on a communicator; None is this process alone."""
    from dtrain.train.batches import Pace  # not before wide.install()

    before, environment = Pace.__call__, dict(os.environ)
    space: dict[str, Any] = {"__name__": "case"}
    try:
        exec(compile(program(number, how), f"case {number}", "exec"), space)
        return named(space["case"](comm))
    finally:
        Pace.__call__ = before  # type: ignore[method-assign]
        os.environ.clear()
        os.environ.update(environment)


def work(role: str, tasks: Path, folder: Path) -> None:
    """Run the tasks of a file; tell of each that it has begun, and what came of it.

    role: alone, which writes what a case gives for others to compare with; exact, the same in float64;
    nudged, the same from inputs that have moved, NUDGES times; noisy, these with noise (noise.py); ranks,
    which compares with what is written.
    """
    warnings.simplefilter("ignore")
    if role == "exact":
        import wide

        wide.install()
    import dtrain as dt

    if role == "noisy":
        import noise

        noise.install(1)
    comm = dt.comm.world() if role == "ranks" else None
    rank = 0 if comm is None else comm.rank

    def say(number: int, outcome: str, what: str = "") -> None:
        print(json.dumps({"case": number, "outcome": outcome, "what": what}), flush=True)

    for number, options in json.loads(tasks.read_text()):
        if rank == 0:
            say(number, "begun")
        if role == "exact":
            wide.drawn_single = 'placeholder("float64"' not in program(number, Setting(**options))
        try:
            found = run(number, Setting(**options), comm)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            at = next((f for f in reversed(frames) if f.filename.startswith("case ")), frames[-1])
            time.sleep(0.2 * rank)  # one line at a time
            say(number, "error", f"{type(error).__name__}: {error} [line {at.lineno}, {frames[-1].name}]")
            os._exit(1)  # what state the ranks are in nobody knows
        outcome, what = "same", ""
        if comm is None:
            np.savez(folder / f"{role}-{number}.npz", **found)
            for nudge in range(1, NUDGES if role in ("nudged", "noisy") else 1):
                again = run(number, Setting(nudge=1 + nudge), None)
                np.savez(folder / f"{role}{nudge}-{number}.npz", **again)
            if bad := not_finite(found):
                outcome, what = "not finite", bad
        else:
            with np.load(folder / f"alone-{number}.npz") as alone:
                wrong = differences(found, alone)
            if wrong and rank == 0:
                np.savez(folder / f"ranks-{number}.npz", **found)
            if wrong:
                name, text = next(iter(wrong.items()))
                outcome, what = "unlike", f"{name}: {text}, and {len(wrong) - 1} more"
            if len(set(comm.gather_text(digest(found)))) > 1:
                outcome, what = "ranks differ", "the ranks' results are not the same bits"
        if rank == 0:
            say(number, outcome, what)
        del found
        dt.reset_default_graph()
        gc.collect()
        gc.freeze()  # what stays is not looked at again
    if comm is not None:
        comm.barrier()


# -- around the jobs -------------------------------------------------------------------------------------
class Jobs:
    """Runs tasks in processes of their own.

    folder: where they leave what cases give. seconds: a job that says nothing for so long is ended.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def run(self, role: str, tasks: Sequence[Task]) -> dict[int, Said]:
        """Run tasks of like settings, in as many jobs as it takes; what was said last of each."""
        left, said = list(tasks), {}
        while left:
            said |= self._job(role, left[:MOST])
            left = [task for task in left if task[0] not in said]
        return said

    def _job(self, role: str, tasks: Sequence[Task]) -> dict[int, Said]:
        how = tasks[0][1]
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
        if how.ranks > 1:
            command = [str(Path(sys.executable).with_name("mpirun")), "-n", str(how.ranks), *command]
        process = subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "DTRAIN_STALL_ABORT": "30"} | how.environment,
        )
        assert process.stdout is not None and process.stderr is not None
        said: dict[int, Said] = {}
        errors: list[str] = []
        heard = [time.monotonic()]

        def listen() -> None:
            for line in process.stdout:
                heard[0] = time.monotonic()
                if line.startswith("{"):
                    fact = json.loads(line)
                    if said.get(fact["case"], fact)["outcome"] in ("begun", fact["outcome"]):
                        said[fact["case"]] = fact

        threads = [
            threading.Thread(target=listen),
            threading.Thread(target=lambda: errors.extend(process.stderr)),
        ]
        for thread in threads:
            thread.start()
        ending = "died"
        while process.poll() is None:
            time.sleep(0.01)
            if time.monotonic() > heard[0] + self.seconds:
                ending = "stands still"
                process.kill()
                process.wait()
        for thread in threads:
            thread.join()
        process.stdout.close()
        process.stderr.close()
        Path(file.name).unlink()
        text = f"exit code {process.returncode}, {' '.join(''.join(errors)[-800:].split())}"
        if not said:
            raise RuntimeError(f"{' '.join(command)}: {text}")
        for fact in said.values():
            if fact["outcome"] == "begun":
                fact |= {"outcome": ending, "what": text}
        return said

    def both(self, role: str, tasks: Sequence[Task]) -> dict[int, Said]:
        """Tasks of one process, in two processes at a time."""
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda k: self.run(role, tasks[k::2]), range(2))
            return {number: said for part in found for number, said in part.items()}

    def judge(self, numbers: Sequence[int]) -> dict[int, tuple[dict[str, str], float, str]]:
        """The second look at what cases gave on ranks, which is in the folder, and the third: see compare.py.

        Of each what is wrong, the largest share of a result that was allowed, and what allowed it.
        """
        said = self.both("exact", [(number, Setting()) for number in numbers])
        found: dict[int, tuple[dict[str, str], float, str]] = {}
        left = list(numbers)
        for role in ("nudged", "noisy"):
            said |= self.both(role, [(number, Setting(nudge=1)) for number in left])
            names = ("ranks", "exact", role, *(f"{role}{nudge}" for nudge in range(1, NUDGES)))
            for number in left:
                files = [self.folder / f"{name}-{number}.npz" for name in names]
                if all(file.exists() for file in files):
                    on_ranks, exact, *moved = (_load(file) for file in files)
                    found[number] = *verdict(on_ranks, exact, moved), role
                else:
                    found[number] = {role: said[number]["what"]}, 0.0, role
            left = [number for number in left if found[number][0]]
        return found


def _load(file: Path) -> Arrays:
    with np.load(file) as arrays:
        return dict(arrays)


def again(number: int, how: Setting) -> str:
    """The command that runs a case again."""
    check = "on" if how.check else "off"
    return (
        f"python tests/campaign/campaign.py --case {number} --ranks {how.ranks} --kernels {how.kernels} "
        f"--steps {how.steps} --check {check} --sums {how.sums}{' --poison' * how.poison}"
    )


def campaign(tasks: Sequence[Task], jobs: Jobs) -> int:
    """Run cases, print those that fail and a table; returns how many failed."""
    begun = time.monotonic()
    failed = 0

    def tell(number: int, how: Setting, said: Said) -> None:
        nonlocal failed
        failed += 1
        print(
            f"{said['outcome'].upper()}, {form(number)}: {said['what']}\n  {again(number, how)}", flush=True
        )

    alone = jobs.both("alone", [(number, Setting()) for number, _ in tasks])
    print(f"{len(tasks)} cases alone in {time.monotonic() - begun:.0f} s", flush=True)
    diverged = [(number, Setting()) for number, said in alone.items() if said["outcome"] == "not finite"]
    for number, said in jobs.both("exact", diverged).items() if diverged else ():
        if said["outcome"] == "not finite":  # the program does so by itself
            alone[number] = said | {"outcome": "left out"}
            print(
                f"left out, {form(number)} {number}: not finite in float64 either, {said['what']}", flush=True
            )
    for number, said in alone.items():
        if said["outcome"] not in ("same", "left out"):
            tell(number, Setting(), said)
    settings = {number: how for number, how in tasks if alone[number]["outcome"] == "same"}
    groups: dict[tuple[Any, ...], list[Task]] = {}
    for number, how in settings.items():
        groups.setdefault((how.ranks, *sorted(how.environment.items())), []).append((number, how))

    def job(key: tuple[Any, ...]) -> dict[int, Said]:
        started = time.monotonic()
        found = jobs.run("ranks", groups[key])
        for number, said in found.items():
            if said["outcome"] not in ("same", "unlike"):
                tell(number, settings[number], said)
        options = " ".join("=".join(pair) for pair in key[1:])
        seconds = time.monotonic() - started
        print(f"{len(found)} cases on {key[0]} ranks in {seconds:.0f} s {options}", flush=True)
        return found

    outcomes: dict[int, Said] = {}
    with ThreadPoolExecutor(2) as pool:  # while one job compiles, which one rank does, another computes
        for found in pool.map(job, sorted(groups, reverse=True)):
            outcomes |= found
    unlike = [number for number, said in outcomes.items() if said["outcome"] == "unlike"]
    judged = jobs.judge(unlike) if unlike else {}
    for number, (wrong, *_) in judged.items():
        outcomes[number]["outcome"] = "differs" if wrong else "same"
        if wrong:
            outcomes[number]["what"] = "; ".join(f"{k}: {v}" for k, v in list(wrong.items())[:3])
            tell(number, settings[number], outcomes[number])
    table = collections.Counter(
        (form(n), settings[n].ranks, settings[n].kernels, said["outcome"]) for n, said in outcomes.items()
    )
    print("\nform   ranks kernels  cases  outcome")
    for (kind, ranks, kernels, outcome), count in sorted(table.items()):
        print(f"{kind:6} {ranks:5} {kernels:8} {count:5}  {outcome}")
    print(f"{len(outcomes)} cases, {failed} failed, in {time.monotonic() - begun:.0f} s")
    if judged:
        for role, look in (("nudged", "second"), ("noisy", "third")):
            shares = sorted((share, number) for number, (_, share, by) in judged.items() if by == role)
            text = ", ".join(f"{share:.1e} in case {number}" for share, number in shares[-3:])
            print(f"{len(shares)} decided by the {look} look; the largest shares allowed: {text or 'none'}")
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
    parser.add_argument("--sums", choices=tuple(SUMS))
    parser.add_argument("--poison", action="store_true", default=None)
    parser.add_argument("--seconds", type=float, default=90, help="until a job that says nothing is ended")
    parser.add_argument("--cache", help="where compiled kernels are kept, by default in a temporary folder")
    for name in ("--work", "--tasks", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, Path(given.tasks), Path(given.folder))
        return 0
    numbers = [given.case] if given.case is not None else range(given.first, given.first + given.cases)
    fixed = {
        k: v for k in ("ranks", "kernels", "steps", "sums", "poison") if (v := getattr(given, k)) is not None
    }
    if given.check:
        fixed["check"] = given.check == "on"
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        os.environ["TMPDIR"] = tempfile.tempdir = name
        os.environ["XDG_CACHE_HOME"] = given.cache or f"{name}/cache"
        tasks = [(number, replace(setting(number), **fixed)) for number in numbers]
        return int(campaign(tasks, Jobs(Path(name), given.seconds)) > 0)


if __name__ == "__main__":
    sys.exit(main())
