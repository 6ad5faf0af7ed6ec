"""What `dtrain verify` does: fresh processes for each number of ranks, and what their records say."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm import start
from dtrain.config import TrainConfig
from dtrain.errors import ChecksFailed, EnvironmentProblem, UsageError
from dtrain.files import read_regular, write_atomically
from dtrain.verify.compare import Difference, arrays, bits_differ, drift, entry, first_difference
from dtrain.verify.record import Asked

#: Steps, where nothing says how many.
STEPS = 50
#: What is started on each rank.
PROGRAM = ("-m", "dtrain.verify.record")
#: Bytes of a record, at most.
MOST_BYTES = 1 << 28


class Runs:
    """Starts trainings on numbers of ranks, and keeps what they leave in a temporary folder."""

    def __init__(
        self, config: TrainConfig, steps: int, folder: Path, program: Sequence[str] = PROGRAM
    ) -> None:
        self.config, self.steps, self.folder, self._program = (
            config.with_whole_paths(),
            steps,
            folder,
            program,
        )
        self._mpirun = start.mpirun("`dtrain verify`")
        self._started = 0

    def __call__(self, ranks: int, seed: int | None = None, **more: Any) -> tuple[dict[str, Any], Path]:
        """The record of one training, and the beginning of the names of what it kept.

        Raises:
            EnvironmentProblem: it did not come to its end.
        """
        self._started += 1
        to = self.folder / f"{self._started}.json"
        options = self.folder / f"{self._started}.toml"
        config = self.config if seed is None else replace(self.config, seed=seed)
        options.write_text(config.to_toml())
        given: dict[str, Any] = {"to": str(to), "steps": self.steps} | more
        asked = asdict(Asked(**given))
        command = [
            self._mpirun,
            "-n",
            str(ranks),
            sys.executable,
            *self._program,
            str(options),
            json.dumps(asked),
        ]
        done = subprocess.run(
            command, env=start.environment(1), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode or not to.exists():
            raise EnvironmentProblem(
                f"the training on {_ranks(ranks)} ended with {done.returncode}: {shlex.join(command)} said\n"
                f"{(done.stdout + done.stderr).strip()[-3000:]}"
            )
        return json.loads(read_regular(to, MOST_BYTES)), to


def verify(
    config: TrainConfig,
    ranks: Sequence[int],
    steps: int,
    to: Path,
    against: Path | None = None,
    control: bool = False,
    program: Sequence[str] = PROGRAM,
) -> None:
    """Train on each number of ranks, compare, print what was found and write it to a file.

    against: a file that another such call wrote: this machine's records are compared with its first one.
    control: the last number of ranks adds up one sum from its end.
    steps: 0 for as many as `against` has, or 50.
    program: what is started on each rank, for tests.

    Raises:
        ChecksFailed: something differs.
        EnvironmentProblem: a training did not come to its end.
    """
    given = _read(against, config) if against else None
    if given is not None:
        there = len(given["steps"])
        if steps not in (0, there):
            raise UsageError(f"--steps {steps}: {against} has {there}; leave --steps out.")
        steps = there
    steps = steps or STEPS
    with tempfile.TemporaryDirectory(prefix="dtrain-verify-") as folder:
        runs = Runs(config, steps, Path(folder), program)
        keep = [] if config.bitwise else _spaced(steps)
        records, files = [], []
        for number, n in enumerate(ranks, 1):
            turned = control and number == len(ranks)
            record, file = runs(n, keep=keep, turned=turned)
            records.append(record)
            files.append(file)
            if number == 1:
                _head(config, record, given)
            _line(record, given or records[0], first=given is None and number == 1)
        found: list[dict[str, Any]] = []
        for record in records:
            reference = given or records[0]
            difference = first_difference(reference, record)
            if difference is None and not record["replicas"]:
                continue
            if difference is not None and given is None:
                turned = control and record is records[-1]
                told = _located(runs, difference, records[0], record, turned)
            else:
                told = _told(difference, record)
            found.append(
                {"ranks": record["ranks"], **(asdict(difference) if difference else {}), "told": told}
            )
            print(f"{_ranks(record['ranks'])}: {told}", flush=True)
        drifts = _drifts(records, files, keep) if found and keep and given is None else []
        spread = _spread(runs, records) if found and not config.bitwise and given is None else {}
    facts = {
        "bitwise": config.bitwise,
        "options": config.as_written(),
        "steps": steps,
        "records": records,
        "differences": found,
        "drift": drifts,
        **spread,
    }
    try:
        write_atomically(to, json.dumps(facts, indent=1).encode())
    except OSError as error:
        raise EnvironmentProblem(f"{to} cannot be written: {error.strerror}.") from None
    numbers = ", ".join(str(r["ranks"]) for r in records)
    if not found:
        with_whom = f" and to {against}" if against else ""
        print(f"equal: {steps} steps on {numbers} ranks are the same to the bit{with_whom}; see {to}")
        return
    hint = "" if config.bitwise else " --bitwise makes them the same."
    raise ChecksFailed(f"{len(found)} of {len(records)} trainings differ; {to} has all digests.{hint}")


def _ranks(n: int) -> str:
    return f"{n} rank{'s' * (n > 1)}"


def _spaced(steps: int) -> list[int]:
    """Some ten steps, close together at first."""
    return sorted({round(step) for step in np.geomspace(1, steps, 10)})


def _read(file: Path, config: TrainConfig) -> dict[str, Any]:
    """The first record of a file that verify wrote of the same training."""
    try:
        facts = json.loads(read_regular(file, MOST_BYTES))
        options, record = facts["options"], facts["records"][0]
        assert len(record["steps"]) > 0
        for name in (*config.fixed, "bitwise"):
            if name not in ("task", "model") and options[name] != config.as_written()[name]:
                raise UsageError(f"--against {file}: it is of {config.said(name, options[name])}.")
        return record
    except UsageError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise UsageError(f"--against {file}: it is no verify.json ({error}).") from None


def _head(config: TrainConfig, record: Mapping[str, Any], given: Mapping[str, Any] | None) -> None:
    has = record["environment"]
    print(
        f"{config.title}, {config.optimizer}, batch {config.batch_size}, {len(record['steps'])} steps, "
        f"{'bitwise' if config.bitwise else 'not bitwise'}; kernels {has['kernels']}, {has['vectors']}; "
        f"numpy {has['numpy']}"
    )
    for name, value in (given or {}).get("environment", {}).items():
        if has.get(name) != value and name not in ("averaging", "nodes", "mpi"):
            print(f"  {name}: here {has.get(name)}, there {value}")
    print(f"{'ranks':>6}  {'parameters and state':<22}{'losses':<12}{'test':<12}averaging")


def _line(record: Mapping[str, Any], reference: Mapping[str, Any], first: bool) -> None:
    cells = []
    for part in (_states(record), _losses(record), json.dumps(record["tested"])):
        cells.append(_short(part))
    for i, part in enumerate((_states(reference), _losses(reference), json.dumps(reference["tested"]))):
        if not first:
            cells[i] = "same" if cells[i] == _short(part) else f"{cells[i]} !"
    how = record["environment"]["averaging"]
    print(f"{record['ranks']:>6}  {cells[0]:<22}{cells[1]:<12}{cells[2]:<12}{how}", flush=True)


def _states(record: Mapping[str, Any]) -> str:
    return json.dumps([step["variables"] for step in record["steps"]])


def _losses(record: Mapping[str, Any]) -> str:
    return json.dumps([[step["loss"], step["sums"]] for step in record["steps"]])


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _told(difference: Difference | None, record: Mapping[str, Any]) -> str:
    parts = []
    if difference is not None:
        at = f"step {difference.step}" if difference.step else "the end"
        parts.append(f"differs first at {at}: {difference.what} {difference.name}")
    if record["replicas"]:
        parts.append(
            "after step {step} rank {rank} holds other values than rank 0".format(**record["replicas"])
        )
    return "; ".join(parts)


def _located(
    runs: Runs, difference: Difference, one: Mapping[str, Any], other: Mapping[str, Any], turned: bool
) -> str:
    """What two trainings differ in first: step, variable and operation, with both values of an entry."""
    step = difference.step
    if not step:
        return _told(difference, other)
    (_, a), (again, b) = (
        runs(r["ranks"], steps=step, dump=step, test=False, turned=moved)
        for r, moved in ((one, False), (other, turned))
    )
    parts = [_told(difference, other)]
    repeats = [s["variables"] for s in again["steps"]] == [s["variables"] for s in other["steps"][:step]]
    ours, theirs = (arrays(Path(f"{file}.variables.npz")) for file in (a, b))
    changed = next((name for name in ours if bits_differ(ours[name], theirs[name])), None)
    if changed:
        parts.append(f"variable {changed}, {entry(ours[changed], theirs[changed])}")
    ours, theirs = (arrays(Path(f"{file}.ops.npz")) for file in (a, b))
    made = next((name for name in ours if bits_differ(ours[name], theirs[name])), None)
    if made:
        kind = next(kind for name, kind, _ in again["ops"] if name == made)
        how = f", {again['sums'][made]}" if made in again["sums"] else ""
        parts.append(f"made by {kind} {made}{how}: {entry(ours[made], theirs[made])}")
    else:
        parts.append(
            "each operation by itself gives the same, so it is made in the step as a whole: by what is "
            "gathered or summed among the ranks, or by the update"
        )
    if not repeats:
        parts.append(
            "a second training on as many ranks gives other bits again: something draws unseeded, "
            "or reads what another rank still writes"
        )
    return "; ".join(parts)


def _drifts(
    records: Sequence[Mapping[str, Any]], files: Sequence[Path], keep: Sequence[int]
) -> list[dict[str, Any]]:
    """How far the parameters of each number of ranks are from the first's, by step."""
    found = []
    print(f"{'ranks':>6}  drift from {_ranks(records[0]['ranks'])}: step, most ULP, relative")
    for record, file in zip(records[1:], files[1:], strict=True):
        for step in keep:
            pair = (arrays(Path(f"{f}.step-{step}.npz")) for f in (files[0], file))
            most, relative = drift(*pair)
            found.append({"ranks": record["ranks"], "step": step, "ulp": most, "relative": relative})
            print(f"{record['ranks']:>6}  {step:>6}  {most:>14,}  {relative:.2e}")
    return found


def _spread(runs: Runs, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last test of each number of ranks, and of as many seeds on the first number."""
    first = records[0]["tested"]
    name = next((n for n in first if n != "loss"), "loss" if first else "")
    if not name or len(records) < 2:
        return {}
    seeds = [runs(records[0]["ranks"], seed=runs.config.seed + k)[0] for k in range(1, len(records))]
    over = {
        f"{name} over ranks": [float.fromhex(r["tested"][name]) for r in records],
        f"{name} over seeds": [float.fromhex(r["tested"][name]) for r in (records[0], *seeds)],
    }
    for what, values in over.items():
        print(f"{what}: {' '.join(f'{v:.4f}' for v in values)} (from {min(values):.4f} to {max(values):.4f})")
    return {"spread": over}
