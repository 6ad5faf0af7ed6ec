"""A scaling study: the same training on several numbers of ranks, read from its run directories.

Each number of ranks N has a folder `ranks-N` with runs `run-1`, `run-2`, ...; beside what a run writes, each
holds `machine.json`: what it ran on, and how long its ranks took to sum arrays. What is collected goes into
study.json.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from dtrain.errors import UsageError
from dtrain.files import read_regular
from dtrain.report.runs import Run, number, read

MACHINE, STUDY = "machine.json", "study.json"
#: Bytes of one of these files, at most; they have some thousand.
MOST_BYTES = 1 << 20
#: The test accuracy that a run is timed to.
TARGET = 0.975
#: Parts of a step, in the order they are listed, and the words of a profile's parts that they hold.
COMPUTING, MOVING, WAITING, OTHER = "computing", "moving", "waiting", "Python, feeding and fetching"
PARTS = (COMPUTING, MOVING, WAITING, OTHER)


@dataclass
class Size:
    """What one number of ranks did; numbers are medians over its runs, parts of a step means.

    cores: how many there are for all ranks. batch_size: global. speeds: images a second of each run, each the
    median over its epochs. seconds_to_target: of each run, training alone, None where it was not reached.
    parts_ms: of the steps that were profiled. sums: as `dtrain bench allreduce` has them, of the last run.
    load: of rank 0's node in the minute before a run, the most. environment: name -> text.

    Raises:
        ValueError: a value that cannot be one of these, since they come from files.
    """

    ranks: int
    nodes: int
    cores: int
    batch_size: int
    speeds: list[float]
    steps_an_epoch: int
    seconds_to_target: list[float | None]
    accuracy: list[float]
    parts_ms: dict[str, float] = field(default_factory=dict)
    sums: list[dict[str, Any]] = field(default_factory=list)
    between: str = ""
    load: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ranks", "nodes", "cores", "batch_size", "steps_an_epoch"):
            value, least = getattr(self, name), 1 if name in ("ranks", "nodes", "cores") else 0
            _check(name, value, type(value) is int and _is_number(value, least))
        _check("speeds", self.speeds, all(_is_number(speed, 1e-9) for speed in self.speeds))
        for name in ("speeds", "seconds_to_target", "accuracy"):
            values = getattr(self, name)
            whole = isinstance(values, list) and len(values) == len(self.speeds) > 0
            missing = [None] if name == "seconds_to_target" else []
            _check(name, values, whole and all(value in missing or _is_number(value) for value in values))
        parts = self.parts_ms
        _check("parts_ms", parts, isinstance(parts, dict) and set(parts) in (set(), set(PARTS)))
        times = list(parts.values())
        _check("parts_ms", parts, all(map(_is_number, times)) and (not times or sum(times) > 0))
        for of in self.sums:
            figures = [of.get("bucket", 1.0), of.get("mpi"), of.get("exchange"), of.get("bytes")]
            _check("sums", of, all(_is_number(figure, 1e-12) for figure in figures))
        _check("between", self.between, isinstance(self.between, str))
        _check("load", self.load, _is_number(self.load))
        texts = self.environment
        _check("environment", texts, isinstance(texts, dict) and {*map(type, texts.values())} <= {str})

    @property
    def speed(self) -> float:
        """Images a second."""
        return median(self.speeds)

    @property
    def step_ms(self) -> float:
        """A step, by the epochs' times."""
        return 1e3 * self.batch_size / self.speed

    @property
    def to_target(self) -> float | None:
        """Seconds, where more than half of the runs got there."""
        found = sorted(s for s in self.seconds_to_target if s is not None)
        middle = len(self.seconds_to_target) // 2
        return found[middle] if middle < len(found) else None

    @property
    def oversubscribed(self) -> bool:
        return self.ranks > self.cores


@dataclass
class Study:
    """All sizes of one study, from the fewest ranks to the most.

    mode: strong (one global batch) or weak (one batch a rank). settings: the options that all runs share.

    Raises:
        ValueError: as of a Size.
    """

    name: str
    mode: str
    model: str
    settings: dict[str, Any]
    sizes: list[Size]

    def __post_init__(self) -> None:
        texts = [self.name, self.mode, self.model]
        _check("name, mode or model", texts, all(isinstance(text, str) for text in texts))
        _check("settings", self.settings, isinstance(self.settings, dict))

    def efficiency(self, size: Size) -> float:
        """Images a second for each rank, as a share of what one has on the fewest ranks."""
        base = self.sizes[0]
        return size.speed / base.speed * base.ranks / size.ranks

    def lost(self, size: Size) -> dict[str, float]:
        """By which share of the step each of its parts is longer than it would be without any loss.

        With the efficiency of the profiled steps these add up to 1: a part that does not shrink with more
        ranks (strong), or grows with them (weak), is as much a loss as waiting.
        """
        base, ideal = self.sizes[0], self.ideal(size)
        step = sum(size.parts_ms.values())
        if not step or not base.parts_ms:
            return {}
        return {part: (size.parts_ms[part] - ideal * base.parts_ms[part]) / step for part in PARTS}

    def ideal(self, size: Size) -> float:
        """The step's length where nothing is lost, as a share of that of the fewest ranks."""
        return self.sizes[0].ranks / size.ranks if self.mode == "strong" else 1.0

    def busy(self) -> str:
        """A sentence where a node had so much other work that the numbers say little, else ''.

        The load before a run is also that of the study's own run before it, which two a core allow for.
        """
        size = max(self.sizes, key=lambda size: size.load * size.nodes / max(1, size.cores))
        cores = size.cores / size.nodes
        if size.load <= 2 * cores:
            return ""
        return (
            f"The machine was busy with other work (load {size.load:.0f} on {cores:g} cores before a run on "
            f"{size.ranks} ranks), so its numbers say little: take them again when it is quiet."
        )

    def environment(self) -> dict[str, str]:
        """What the runs had; where sizes differ, each with its number of ranks."""
        names = list(dict.fromkeys(name for size in self.sizes for name in size.environment))
        result = {}
        for name in names:
            values = {size.ranks: size.environment.get(name, "") for size in self.sizes}
            if len(set(values.values())) == 1:
                result[name] = next(iter(values.values()))
            else:
                result[name] = "; ".join(f"{ranks}: {value}" for ranks, value in values.items())
        return result


def _is_number(value: Any, least: float = 0.0) -> bool:
    """Whether it is one that a page can draw."""
    return least <= (-1.0 if (found := number(value)) is None else found) < 1e15


def _check(name: str, value: Any, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name}: {str(value)[:80]}")


# -- reading ---------------------------------------------------------------------------------------------
#: What a damaged file makes of the classes above.
DAMAGED = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def collect(folder: Path) -> Study:
    """The study whose runs lie in a folder.

    Raises:
        UsageError: there are none that ended, or they are not of one study.
    """
    found: dict[int, list[tuple[Run, dict[str, Any]]]] = {}
    for path in sorted(folder.glob(f"ranks-*/run-*/{MACHINE}"), key=_by_number):
        run = read(path.parent)
        try:
            machine = json.loads(read_regular(path, MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        if run.done and run.speed and isinstance(machine, dict):
            found.setdefault(run.ranks, []).append((run, machine))
    if not found:
        raise UsageError(
            f"{folder} holds no run of a scaling study that has ended: give the folder of --to, once its "
            "jobs are done, or start one with `dtrain bench scaling --ranks 1,2,4 --to DIR`."
        )
    settings = {name: _shared(folder, name, found) for name in ("mode", "model", "optimizer", "lr", "epochs")}
    each = {str(machine.get("batch_size")) for of in found.values() for _, machine in of}
    settings["batch size" + (" a rank" if settings["mode"] == "weak" else "")] = ", ".join(sorted(each))
    if len(each) > 1:
        raise UsageError(
            f"{folder}: its runs have batch sizes {', '.join(sorted(each))}. Keep one study a folder."
        )
    sizes = []
    for ranks, of in sorted(found.items()):
        try:
            sizes.append(_size(ranks, of))
        except DAMAGED as error:
            raise UsageError(
                f"{folder}: what its runs on {ranks} ranks say is damaged ({error}): delete them, and "
                "measure them again."
            ) from None
    mode, model = str(settings.pop("mode")), str(settings["model"])
    return Study(folder.resolve().name, mode, model, settings, sizes)


def _by_number(path: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", "/".join(path.parts[-3:-1]))]


def _shared(folder: Path, name: str, found: dict[int, list[tuple[Run, dict[str, Any]]]]) -> Any:
    """What all runs say; those of another study in the same folder are refused."""
    values = [run.header.get(name, machine.get(name)) for of in found.values() for run, machine in of]
    for value in values:
        if value != values[0]:
            raise UsageError(
                f"{folder}: its runs have {name} {values[0]} and {value}. Keep one study a folder."
            )
    return values[0]


def _size(ranks: int, of: Sequence[tuple[Run, dict[str, Any]]]) -> Size:
    first, machine = of[0][0], of[-1][1]
    profiles = [parts for run, _ in of if (parts := _parts(run))]
    return Size(
        ranks=ranks,
        nodes=int(number(first.header.get("nodes")) or 1),
        cores=int(number(machine.get("cores")) or 0),
        batch_size=int(number(first.header.get("batch_size")) or 0),
        speeds=[run.speed or 0.0 for run, _ in of],
        steps_an_epoch=int(number(first.header.get("iterations_per_epoch")) or 0),
        seconds_to_target=[to_target(run) for run, _ in of],
        accuracy=[run.last("test_accuracy") or 0.0 for run, _ in of],
        parts_ms={part: sum(p[part] for p in profiles) / len(profiles) for part in PARTS} if profiles else {},
        sums=machine.get("sums", []),
        between=str(machine.get("between", "")),
        load=max(number(machine.get("load")) or 0.0 for _, machine in of),
        environment={str(k): str(v) for k, v in machine.get("environment", {}).items()},
    )


def _parts(run: Run) -> dict[str, float]:
    """A profiled step in PARTS, ms, the mean over the ranks; they add up to it."""
    result = dict.fromkeys(PARTS, 0.0)
    if not run.profile:
        return {}
    for name, each in run.profile["parts_ms"].items():
        words = {"communication: moving": MOVING, "communication: waiting": WAITING}
        words |= dict.fromkeys(("feeding and fetching", "Python and other"), OTHER)
        result[words.get(name, COMPUTING)] += sum(each) / len(each)
    return result


def to_target(run: Run) -> float | None:
    """Seconds of training to the end of the first epoch whose test accuracy is TARGET; tests do not count."""
    for seconds, accuracy in zip(run.times(), run.column("test_accuracy"), strict=True):
        if accuracy is not None and accuracy >= TARGET:
            return seconds
    return None


def load(folder: Path) -> Study:
    """A study by its study.json, or by its runs where it has none.

    Raises:
        UsageError: the folder holds neither, or the file is not what collect() wrote.
    """
    path = folder / STUDY
    if not path.exists():
        return collect(folder)
    try:
        facts = json.loads(read_regular(path, MOST_BYTES))
        study = Study(**(facts | {"sizes": [Size(**size) for size in facts["sizes"]]}))
    except DAMAGED as error:
        raise UsageError(f"{path} is not a study that `dtrain bench scaling` wrote ({error}).") from None
    if not study.sizes:
        raise UsageError(f"{path} holds no number of ranks.")
    return study


COLUMNS: tuple[str, ...] = ("ranks", "nodes", "cores", "run", "batch_size", "images_per_second", "efficiency")
COLUMNS += ("seconds_to_target", "test_accuracy", "computing_ms", "moving_ms", "waiting_ms", "other_ms")


# -- writing ---------------------------------------------------------------------------------------------
def to_json(study: Study) -> str:
    return json.dumps(asdict(study), indent=1) + "\n"


def to_csv(study: Study) -> str:
    """A row for each run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for size in study.sizes:
        efficiency = f"{study.efficiency(size):.4f}"
        parts_ms = [f"{size.parts_ms[part]:.4f}" if size.parts_ms else "" for part in PARTS]
        for i, speed in enumerate(size.speeds):
            reached = size.seconds_to_target[i]
            writer.writerow(
                [
                    *(size.ranks, size.nodes, size.cores, i + 1, size.batch_size, f"{speed:.1f}", efficiency),
                    *("" if reached is None else f"{reached:.3f}", f"{size.accuracy[i]:.4f}", *parts_ms),
                ]
            )
    return out.getvalue()


def to_mllog(folder: Path) -> str:
    """The runs in a folder as MLPerf's log lines (mlcommons/logging, mllog): one run after the other."""
    lines = []
    for path in sorted(folder.glob(f"ranks-*/run-*/{MACHINE}"), key=_by_number):
        run = read(path.parent)
        if run.done:
            lines += _mllog(run, "/".join(path.parts[-3:-1]))
    return "".join(f":::MLLOG {json.dumps(line)}\n" for line in lines)


def _mllog(run: Run, namespace: str) -> list[dict[str, Any]]:
    head = run.header
    lines: list[dict[str, Any]] = []

    def log(kind: str, key: str, value: Any, time: float | None, **metadata: Any) -> None:
        lines.append(
            {
                "namespace": namespace,
                "time_ms": round(1e3 * (time or 0.0)),
                "event_type": kind,
                "key": key,
                "value": value,
                "metadata": metadata,
            }
        )

    start = number(head.get("time"))
    point, begin, end = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
    for key, value in {
        "submission_benchmark": f"mnist-{head.get('model')}",
        "submission_platform": f"{head.get('ranks')} ranks on {head.get('nodes')} nodes",
        "seed": head.get("seed"),
        "global_batch_size": head.get("batch_size"),
        "opt_name": head.get("optimizer"),
        "opt_base_learning_rate": head.get("lr"),
        "train_samples": head.get("examples"),
        "eval_samples": head.get("test_examples"),
    }.items():
        log(point, key, value, start)
    log(begin, "run_start", None, start)
    before, reached = start, False
    for epoch in run.epochs:
        at = {"epoch_num": epoch["epoch"]}
        done = number(epoch.get("time"))
        log(begin, "epoch_start", None, before, **at)
        log(end, "epoch_stop", None, done, **at)
        log(point, "eval_accuracy", epoch.get("test_accuracy"), done, **at)
        log(point, "tracked_stats", {"throughput": epoch.get("images_per_second")}, done, step=epoch["epoch"])
        before = done
        if (number(epoch.get("test_accuracy")) or 0.0) >= TARGET:
            reached = True
            break
    log(end, "run_stop", None, before, status="success" if reached else "aborted")
    return lines
