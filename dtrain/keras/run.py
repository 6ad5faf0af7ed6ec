"""fit(run_dir=...): a fit that is recorded, saved and resumed as `dtrain train` is."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from dtrain.data.ahead import sampled
from dtrain.errors import CheckpointError, UsageError
from dtrain.graph.collections import GraphKeys
from dtrain.graph.fingerprint import fingerprint
from dtrain.keras.kept import keep as keep_model
from dtrain.train.checkpoint import digest_of, digest_of_all
from dtrain.train.elastic import Survivors
from dtrain.train.engine import about_ranks
from dtrain.train.observer import Observer, Observers
from dtrain.train.preempt import StopRequest
from dtrain.train.report import Report
from dtrain.train.run_dir import hold, write_options
from dtrain.train.saving import Checkpoints
from dtrain.train.state import Progress, Resumed, manifest_of, resume

if TYPE_CHECKING:
    from dtrain.keras.callbacks import Callback
    from dtrain.keras.data import Examples
    from dtrain.keras.model import Model

#: Steps between two lines of a run's metrics.
LOG_EVERY = 100


#: Where a scaling study has the next fit recorded, and which of its steps are profiled; empty for none.
for_study: list[tuple[str, str]] = []


@dataclass(frozen=True)
class FitOptions:
    """What a fit's folder says of it; see run_dir.Options."""

    run_dir: str
    resume: str
    program: str
    model: str
    optimizer: str
    loss: str
    batch_size: int
    steps_per_epoch: int
    epochs: int
    fixed: ClassVar[tuple[str, ...]] = ("optimizer", "loss", "batch_size", "steps_per_epoch")

    @property
    def title(self) -> str:
        return Path(self.program).stem or self.model

    @property
    def command(self) -> str:
        """What resumes it, in words."""
        return f"`python {shlex.quote(self.program)}` with fit(run_dir={self.run_dir!r}, resume=True)"

    def kept(self) -> str:
        values = {**asdict(self), "resume": ""}
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())

    @staticmethod
    def said(name: str, value: Any) -> str:
        if name == "init_from":
            return f"to load_weights, or fit with another run_dir than {str(value)!r}"
        if name == "resume":
            return "resume=True"
        return f"{name}={value if isinstance(value, int) else repr(str(value))}"


def options_of(
    model: Model,
    run_dir: str | os.PathLike[str],
    resume: Any,
    batch_size: int,
    steps_per_epoch: int | None,
    epochs: int,
) -> FitOptions:
    """The options of a fit; raises UsageError for a resume that is none."""
    if resume not in (True, False, "auto"):
        raise UsageError(f"fit: resume={resume!r}: give True, False, or 'auto', True where there is a run.")
    folder = os.fspath(run_dir)
    optimizer, loss = type(model.optimizer).__name__, model.compiled.loss_name
    how = {True: folder, False: ""}.get(resume, "auto")
    program, steps = os.path.abspath(sys.argv[0]), steps_per_epoch or 0
    return FitOptions(folder, how, program, model.name, optimizer, str(loss), batch_size, steps, epochs)


class Recorded(NamedTuple):
    """What is around a recorded fit. found: where it is resumed; parts: arguments of its engine."""

    found: Resumed | None
    report: Observer
    parts: dict[str, Any]


@contextmanager
def recorded(
    model: Model,
    options: FitOptions,
    given: Examples,
    callbacks: Sequence[Callback],
    facts: Mapping[str, Any],
    at: Progress,
    checkpoint_every: int,
    keep: int,
) -> Iterator[Recorded]:
    """The run of a fit in its folder, from where it is resumed. Collective.

    facts: of the header, which only fit knows.

    Raises:
        UsageError: the folder holds a run already, or one that still runs.
        CheckpointError: it is to be resumed, and holds no checkpoint that fits.
    """
    session, comm = model.session, model.comm
    with hold(options, comm) as folder:
        comm.board.run_dir(str(folder.path), options.command)
        state = session.graph.get_collection(GraphKeys.GLOBAL_VARIABLES)
        data_digest = digest_of_all({name: _digest(name, a) for name, a in given.arrays.items()})
        same = data_digest[:16], fingerprint(session.graph.operations)
        found, origin = None, ""
        if folder.resuming:
            found = resume(session, state, folder.path, options, *same)
            write_options(folder.path, options, comm)
            at = found.at
            origin = f"step {at.step:,}, in epoch {at.epoch}"
        keep_model(model, folder.path)

        def about(at: Progress) -> dict[str, Any]:
            folder.check()
            return manifest_of(session, at, options, *same, _told(model, callbacks))

        devices = comm.gather_text(session.backend.name)
        with (
            Observers(Report(comm, folder.path, "", LOG_EVERY)) as report,
            Checkpoints(session, state, folder.path, checkpoint_every, keep, about) as checkpoints,
            StopRequest(comm) as request,
        ):
            report.header(
                **about_ranks(session, devices),
                **facts,
                data_digest=same[0],
                origin=origin,
                run_dir=str(folder.path),
                warning=None,
                tensorboard=False,
            )
            yield Recorded(
                found,
                report,
                {
                    "checkpoints": checkpoints,
                    "request": request,
                    "survivors": Survivors(session, at, 1, checkpoints, report),
                    "resume": options.command,
                },
            )
        comm.board.run_dir("")


def _digest(name: str, array: np.ndarray) -> str:
    """Of an array, and of a large one of some rows and how many there are."""
    seen = sampled(array)
    return digest_of(name if seen is array else f"{name} of {len(array)}", seen)


def _told(model: Model, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """What a fit resumes from besides variables: its rate, its orders, and its callbacks' plain numbers."""
    return {
        "iterations": int(model.optimizer.iterations),
        "learning_rate": float(model.optimizer.learning_rate),
        "passes": model._passes,
        "stop_training": bool(model.stop_training),
        "order_seed": model._order_seed,
        "callbacks": [[type(c).__name__, c.get_state()] for c in callbacks],
    }


def take(model: Model, callbacks: Sequence[Callback], found: Resumed) -> None:
    """Give the model and its callbacks what _told said."""
    more = found.more
    try:
        model.optimizer.iterations = int(more["iterations"])
        model.optimizer.learning_rate = float(more["learning_rate"])
        model._passes, model.stop_training = int(more["passes"]), bool(more["stop_training"])
        model._order_seed = None if more["order_seed"] is None else int(more["order_seed"])
        states = [(str(name), dict(state)) for name, state in more["callbacks"]]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            "the manifest does not say what a fit resumes from: it is of another run."
        ).on_every_rank() from None
    for callback in callbacks:
        kind = type(callback).__name__
        at = next((i for i, (name, _) in enumerate(states) if name == kind), None)
        if at is not None:
            callback.set_state(states.pop(at)[1])
