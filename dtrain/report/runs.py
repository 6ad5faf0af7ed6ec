"""Reading run directories. Nothing in them is trusted: they may be unfinished, old, damaged or edited."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from dtrain.config import read_own
from dtrain.errors import UsageError
from dtrain.files import read_regular

#: Bytes of these files, at most, and classes: more than any run writes.
MOST_METRICS, MOST_MISTAKES, MOST_CLASSES = 1 << 25, 1 << 20, 100
#: Letters of a class's name that are shown.
MOST_NAME = 40
METRICS, CONFIG, MISTAKES = "metrics.jsonl", "config.toml", "mistakes.json"


@dataclass
class Run:
    """What one run directory says.

    name: the folder's name, or its path where another run's folder has the same.
    header, done, profile: the facts of these events of metrics.jsonl, {} where there is none.
    epochs: one entry an epoch, in order. mistakes: the confusion matrix and the worst examples, or None.
    config: the options of config.toml. notes: what is missing, a sentence each.
    """

    path: Path
    name: str = ""
    header: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    done: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    mistakes: Mistakes | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ranks(self) -> int:
        return int(number(self.header.get("ranks")) or 1)

    @property
    def speed(self) -> float | None:
        """Images a second, the median of the epochs."""
        speeds = [s for s in self.column("images_per_second") if s is not None]
        return median(speeds) if speeds else None

    def column(self, name: str) -> list[float | None]:
        """One number of each epoch, None where it is missing."""
        return [number(epoch.get(name)) for epoch in self.epochs]

    def last(self, name: str) -> float | None:
        """The number after the last epoch or, of a test that comes once, at the run's end."""
        value = self.column(name)[-1] if self.epochs else None
        return number(self.done.get(name)) if value is None else value

    @property
    def tested(self) -> str:
        """What is tested after each epoch: validation examples, where there are some, or test examples."""
        return "validation" if any("validation_loss" in epoch for epoch in self.epochs) else "test"

    def times(self) -> list[float]:
        """Seconds of training up to the end of each epoch."""
        total, result = 0.0, []
        for seconds in self.column("seconds"):
            total += seconds or 0.0
            result.append(total)
        return result


@dataclass
class Mistakes:
    """Counts [label][predicted class], the classes' names, and the worst examples.

    shape: of their pixels (bytes), [height, width], where 255 is ink, or [height, width, 3]; () without any.
    """

    epoch: int
    confusion: list[list[int]]
    shape: tuple[int, ...]
    worst: list[dict[str, Any]]
    classes: list[str]
    part: str = "test"


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a file holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def read_all(paths: Sequence[str]) -> list[Run]:
    """The runs of these directories, with names that distinguish them.

    Raises:
        UsageError: one of them is no run directory.
    """
    runs = [read(Path(path)) for path in paths]
    names = [run.path.resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        run.name = name if names.count(name) == 1 else str(run.path)
    return runs


def read(path: Path) -> Run:
    """One run directory; raises UsageError where it has no metrics.jsonl that can be read."""
    run = Run(path)
    try:
        text = read_regular(path / METRICS, MOST_METRICS).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{path} is no run directory, since it holds no {METRICS}: give what `dtrain train` printed, "
            "such as runs/20260131-120000-mlp."
        ) from None
    except OSError as error:
        raise UsageError(f"{path / METRICS} cannot be read: {error.strerror or error}.") from None
    _read_events(run, text)
    try:
        run.config = read_own(path)
    except (UsageError, OSError):
        run.notes.append(f"{CONFIG} is missing or damaged, so its options are not listed.")
    try:
        run.mistakes = _mistakes(json.loads(read_regular(path / MISTAKES, MOST_MISTAKES)))
    except FileNotFoundError:
        run.notes.append(
            f"There is no confusion matrix: {MISTAKES} is missing."
            if run.done
            else "There is no confusion matrix: it is written with the last epoch."
        )
    except (OSError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        run.notes.append(f"There is no confusion matrix: {MISTAKES} is damaged.")
    if not run.profile:
        run.notes.append("Its steps were not recorded: `dtrain train --profile` shows where their time goes.")
    return run


def _read_events(run: Run, text: str) -> None:
    epochs: dict[int, dict[str, Any]] = {}
    damaged = 0
    for line in text.splitlines():
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += bool(line.strip())
            continue
        if kind == "header":
            run.header, run.done = event, {}  # a resumed run has several
        elif kind == "epoch" and number(event.get("epoch")) is not None:
            epochs[int(event["epoch"])] = event
        elif kind == "profile":
            run.profile = event if _is_profile(event) else {}
        elif kind == "done":
            run.done = event
    run.epochs = [epochs[n] for n in sorted(epochs)]
    if damaged:
        run.notes.append(f"{damaged} line{'s' * (damaged > 1)} of {METRICS} could not be read.")
    wanted = number(run.header.get("epochs"))
    if not run.header:
        run.notes.append(f"{METRICS} has no header, so little is known of this run.")
    if not run.done:
        of = f" of {wanted:.0f}" if wanted else ""
        run.notes.append(f"It has not ended: {len(run.epochs)}{of} epochs are there.")


def _is_profile(event: dict[str, Any]) -> bool:
    parts = event.get("parts_ms")
    return isinstance(parts, dict) and all(
        isinstance(each, list) and each and all(number(value) is not None for value in each)
        for each in parts.values()
    )


def _mistakes(facts: Any) -> Mistakes:
    """The file's content; raises ValueError, TypeError and the like where it is not what it should be."""
    classes = range(len(facts["confusion"]))
    confusion = [[int(n) for n in row] for row in facts["confusion"]]
    shape = tuple(int(n) for n in facts["shape"])
    if not 0 < len(confusion) <= MOST_CLASSES:
        raise ValueError
    if shape and not (len(shape) in (2, 3) and min(shape) > 0 and shape[2:] in ((), (3,))):
        raise ValueError
    names = [str(name)[:MOST_NAME] for name in facts.get("classes", classes)]
    if len(names) != len(confusion):
        raise ValueError
    if any(len(row) != len(confusion) or not 0 <= min(row) <= max(row) < 1 << 53 for row in confusion):
        raise ValueError
    worst = []
    for entry in facts["worst"]:
        pixels = base64.b64decode(entry["pixels"], validate=True)
        whole = {name: int(entry[name]) for name in ("example", "label", "predicted")}
        known = whole["label"] in classes and whole["predicted"] in classes
        if len(pixels) != (math.prod(shape) if shape else 0) or not known:
            raise ValueError
        worst.append({**whole, "loss": number(entry["loss"]), "pixels": pixels})
    return Mistakes(int(facts["epoch"]), confusion, shape, worst, names, _part(facts))


def _part(facts: Any) -> str:
    part = facts.get("part", "test")
    if part not in ("test", "validation"):
        raise ValueError
    return str(part)
