"""What a run is made of between two steps, and how another continues from it, or takes its parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dtrain.config import label
from dtrain.errors import CheckpointError, UsageError
from dtrain.files import open_regular
from dtrain.graph.shape import as_static
from dtrain.ops.state import Variable
from dtrain.runtime.session import Session
from dtrain.train import checkpoint

if TYPE_CHECKING:
    from dtrain.train.run_dir import Options

#: Bytes of a line of metrics.jsonl, at most.
MOST_LINE = 1 << 20


@dataclass
class Progress:
    """How far a run has come.

    step: steps done. epoch: the one in work, from 1. iteration, examples: steps done and examples used
    in it; loss_sum, sums: over those examples, of the loss and of what the metrics follow from. tested: the
    loss and metrics of the last test. best_step, best: where the validation was best, and its accuracy or,
    where there is none, minus its loss; 0 where nothing is chosen by a test. least, stale: the least loss of
    a validation, and how many epochs there were since.
    """

    step: int = 0
    epoch: int = 1
    iteration: int = 0
    examples: int = 0
    loss_sum: float = 0.0
    sums: list[Any] = field(default_factory=list)
    tested: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best: float = -math.inf
    least: float = math.inf
    stale: int = 0

    def add(self, loss: float, sums: Sequence[Any], examples: int) -> None:
        """Count a step, by its mean loss and its metrics' sums."""
        self.step += 1
        self.iteration += 1
        self.examples += examples
        self.loss_sum += loss * examples
        if self.sums:
            for i, value in enumerate(sums):
                self.sums[i] = self.sums[i] + value
        else:
            self.sums = list(sums)

    def finish_epoch(self, tested: dict[str, float], chooses: bool = False) -> None:
        """Continue with the next epoch; tested: {} for no test; chooses: whether it says what is best."""
        self.epoch += 1
        self.iteration = self.examples = 0
        self.loss_sum, self.sums = 0.0, []
        if tested:
            self.tested = tested
        if tested and chooses:
            self.stale = 0 if tested["loss"] < self.least else self.stale + 1
            self.least = min(self.least, tested["loss"])
            score = tested["accuracy"] if "accuracy" in tested else -tested["loss"]
            if score > self.best:
                self.best_step, self.best = self.step, score

    def to_json(self) -> dict[str, Any]:
        """It as plain data; JSON has no infinity."""
        sums = [np.asarray(s, np.float64).tolist() for s in self.sums]
        limits = {n: v if math.isfinite(v := getattr(self, n)) else None for n in ("best", "least")}
        return {**vars(self), "sums": sums, **limits}

    @staticmethod
    def of(manifest: Mapping[str, Any]) -> Progress:
        """What a manifest says; raises CheckpointError where that can be none."""
        said = manifest.get("progress")
        try:
            assert isinstance(said, dict) and said.keys() == {f.name for f in fields(Progress)}
            counts = {n: said[n] for n in ("step", "epoch", "iteration", "examples", "best_step", "stale")}
            assert all(type(n) is int and n >= 0 for n in counts.values())
            return Progress(
                **counts,
                loss_sum=float(said["loss_sum"]),
                sums=[np.array(s, np.float64)[()] for s in said["sums"]],
                tested={str(name): float(value) for name, value in said["tested"].items()},
                best=-math.inf if said["best"] is None else float(said["best"]),
                least=math.inf if said["least"] is None else float(said["least"]),
            )
        except (AssertionError, TypeError, ValueError, AttributeError):
            raise CheckpointError(
                f"the manifest of step {manifest.get('step')} does not say how far it came."
            ) from None


def manifest_of(
    session: Session,
    at: Progress,
    config: Options,
    data_digest: str,
    fingerprint: str,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a checkpoint holds besides the values; more: plain data of whoever trains."""
    return {
        "progress": at.to_json(),
        "random": session.random_state,
        "config": asdict(config),  # type: ignore[call-overload]  # it is a dataclass
        "data": data_digest,
        "fingerprint": fingerprint,
        "ranks": session.comm.size,
        "more": dict(more),
    }


class Resumed(NamedTuple):
    """Where a run is resumed; more: what else its manifest says; damaged: what is wrong with newer ones."""

    at: Progress
    more: dict[str, Any]
    damaged: list[str]


def resume(
    session: Session,
    variables: Sequence[Variable],
    run_dir: Path,
    config: Options,
    data_digest: str,
    fingerprint: str,
) -> Resumed:
    """Bring a session to a run's newest good checkpoint. Collective.

    Raises:
        CheckpointError: there is none, or it is of other options, data or graph: the first difference.
    """
    instead = f"To take its parameters into a new run, give that {config.said('init_from', run_dir)}."

    def fits(manifest: dict[str, Any], specs: Mapping[str, str]) -> list[str]:
        there, here = manifest.get("config"), asdict(config)  # type: ignore[call-overload]  # it is a dataclass
        for name in config.fixed:
            other = there.get(name, "") if isinstance(there, dict) else None  # '': of an option that is new
            # an own model's file may lie elsewhere by now: the fingerprint says whether it is the same
            if name in ("task", "model") and label(str(other)) == label(here[name]):
                continue
            if other != here[name]:
                raise CheckpointError(
                    f"{run_dir} was trained with {config.said(name, other)}, not {here[name]}: a run "
                    f"continues as it began. {instead}"
                )
        if manifest.get("data") != data_digest:
            raise CheckpointError(
                f"{run_dir} was trained on other data, or with other --validation: give its own. {instead}"
            )
        wanted = _specs(variables)
        if ("current_loss_scale" in specs) != ("current_loss_scale" in wanted):
            began, goes_on = ("with", "without")[:: 1 if "current_loss_scale" in specs else -1]
            raise CheckpointError(
                f"{run_dir} was trained {began} a loss scale and would continue {goes_on} one; --precision "
                f"float16 has it, on a GPU. {instead}"
            )
        refuse_difference(run_dir, wanted, specs)
        if manifest.get("fingerprint") != fingerprint:
            raise CheckpointError(
                f"{run_dir} was trained with another step: dtrain's version, or the model's code, is not "
                f"the same. Resume it with that one. {instead}"
            )
        return list(wanted)

    found = checkpoint.Checkpoint(0, {}, {})
    with session.comm.together():
        if session.comm.rank == 0:
            found = checkpoint.load(run_dir, fits)
            at = Progress.of(found.manifest)
            _check_random(found.manifest)
            if not isinstance(found.manifest.get("more"), dict):
                raise CheckpointError(f"the manifest of step {found.step} lacks a part.")
            cut_metrics(run_dir / "metrics.jsonl", at)
    words = [found.manifest.get(name) for name in ("progress", "random", "more")]
    progress, session.random_state, more, damaged = session.comm.broadcast_data([*words, found.damaged])
    give_values(session, {v.op.name: v for v in variables}, found.values)
    return Resumed(Progress.of({"progress": progress}), more, damaged)


class Restored(NamedTuple):
    """A checkpoint whose parameters were taken; data: the digest of what it was trained on."""

    step: int
    epoch: int
    data: str
    damaged: list[str]


def restore(session: Session, run_dir: Path, parameters: Sequence[Variable], best: bool = False) -> Restored:
    """Give variables the values of a run's newest good checkpoint, or of the best one. Collective.

    Raises, on every rank:
        CheckpointError: there is none, it is damaged, or it is another model's.
        UsageError: there was no validation that says what is best.
    """
    comm, said = session.comm, list[Any]()
    wanted = _specs(parameters)

    def chosen(manifest: dict[str, Any], specs: Mapping[str, str]) -> list[str]:
        refuse_difference(run_dir, wanted, {name: specs[name] for name in wanted if name in specs})
        return list(wanted)

    found = checkpoint.Checkpoint(0, {}, {})
    with comm.together():
        if comm.rank == 0:
            found = checkpoint.load(run_dir, chosen)
            at = Progress.of(found.manifest)
            if best and not at.best_step:
                raise UsageError(
                    f"--best: {run_dir} has no validation examples, and what is best is not chosen by the "
                    "test set: train with --validation 0.1, say."
                )
            if best and at.best_step != found.step:
                found = checkpoint.load(run_dir, chosen, at.best_step)
                at = Progress.of(found.manifest)
            said = [found.step, at.epoch - 1, str(found.manifest.get("data")), found.damaged]
    give_values(session, {v.op.name: v for v in parameters}, found.values)
    return Restored(*comm.broadcast_data(said))


def init_from(session: Session, parameters: list[Variable], run_dir: Path) -> str:
    """Give parameters the values of another run's newest checkpoint where they fit; says which. Collective.

    Raises:
        CheckpointError: there is none, or nothing in it fits.
    """
    wanted = _specs(parameters)
    not_fitting: list[str] = []

    def fitting(manifest: dict[str, Any], specs: Mapping[str, str]) -> list[str]:
        not_fitting.extend(
            f"{name} ({specs.get(name, 'nothing')} there, {spec} here)"
            for name, spec in wanted.items()
            if specs.get(name) != spec
        )
        if len(not_fitting) == len(wanted):
            raise CheckpointError(f"nothing in {run_dir} fits this model: {', '.join(not_fitting)}.")
        return [name for name, spec in wanted.items() if specs.get(name) == spec]

    found = checkpoint.Checkpoint(0, {}, {})
    with session.comm.together():
        if session.comm.rank == 0:
            found = checkpoint.load(run_dir, fitting)
    taken = session.comm.broadcast_data(list(found.values))
    give_values(session, {v.op.name: v for v in parameters if v.op.name in taken}, found.values)
    text = f"{len(taken)} of {len(wanted)} parameters from {run_dir}, step {found.step}"
    return f"{text}; not {', '.join(not_fitting)}" if not_fitting else text


def give_values(
    session: Session, variables: Mapping[str, Variable], values: Mapping[str, np.ndarray]
) -> None:
    """Set variables to values, by name, which only rank 0 needs to have. Collective."""
    with session.lock:
        for name, variable in variables.items():
            dims = as_static(variable.shape.dims)
            value = values[name] if session.comm.rank == 0 else np.empty(dims, variable.dtype.numpy)
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # MPI knows bytes, not every dtype
            session.comm.broadcast(flat)
            session.set_value(variable, flat.view(value.dtype).reshape(dims))


def _specs(variables: Sequence[Variable]) -> dict[str, str]:
    """'float32(784, 256)' by name: what a checkpoint's values have to be."""
    return {v.op.name: f"{v.dtype.name}{v.shape}" for v in variables}


def refuse_difference(run_dir: Path, wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise CheckpointError at the first variable that is not the same."""
    for name in [*wanted, *found]:
        here, there = wanted.get(name, "nothing"), found.get(name, "nothing")
        if here != there:
            raise CheckpointError(
                f"{run_dir} holds another model's parameters: {name} should be {here} and is {there}."
            )


def _check_random(manifest: Mapping[str, Any]) -> None:
    random = manifest.get("random")
    counts = random.get("draws") if isinstance(random, dict) else None
    seeds = [random.get("seed")] if isinstance(random, dict) else []
    if not isinstance(counts, dict) or any(
        type(n) is not int or not 0 <= n < 1 << 62 for n in [*counts.values(), *seeds]
    ):
        raise CheckpointError(
            f"the manifest of step {manifest.get('step')} holds no state of random numbers."
        )


def cut_metrics(path: Path, at: Progress) -> None:
    """Drop from a run's metrics what came after a checkpoint, so that each epoch is in them once."""
    try:
        with open_regular(path, "r+b") as file:
            end = 0
            while (line := file.readline(MOST_LINE)).endswith(b"\n") and not _comes_after(line, at):
                end = file.tell()
            file.truncate(end)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CheckpointError(f"{path} cannot be continued: {error.strerror}.") from None


def _comes_after(line: bytes, at: Progress) -> bool:
    try:
        event = json.loads(line)
        if event["event"] == "epoch":
            return bool(event["epoch"] >= at.epoch)
        if event["event"] == "iteration":
            return bool((event["epoch"], event["iteration"]) > (at.epoch, at.iteration))
        return bool(event["event"] == "done")
    except (ValueError, TypeError, KeyError, RecursionError):  # half a line, of a crash
        return True
