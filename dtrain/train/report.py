"""What a run says: rank 0 prints and writes, the others are silent. Each method is called on every rank."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from dtrain.comm import launcher
from dtrain.comm.base import Communicator
from dtrain.errors import CheckpointError
from dtrain.train.observer import Observer
from dtrain.train.state import Progress, cut_metrics


def on_terminal() -> bool:
    """Whether a person watches. Under a launcher stdout does not show it, so launch/local does."""
    if "DTRAIN_TERMINAL" in os.environ:
        return os.environ["DTRAIN_TERMINAL"] == "1"
    return launcher.detect() is None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def json_line(facts: Mapping[str, Any]) -> str:
    """Facts as JSON, which has no NaN or infinity: these are null, and `not_finite` says what each was."""
    try:
        return json.dumps(facts, allow_nan=False)
    except ValueError:
        odd = {k: str(v) for k, v in facts.items() if isinstance(v, float) and not math.isfinite(v)}
        return json.dumps({**facts, **dict.fromkeys(odd), "not_finite": odd}, allow_nan=False)


class Report(Observer):
    """Header, iterations, epochs and footer as text or JSON lines, and metrics.jsonl in the run directory.

    Args:
        comm: only its rank 0 has anything printed or written.
        run_dir: an existing folder.
        log_format: text or json; '' prints nothing.
        log_every: iterations between two lines where there is no progress bar.
    """

    def __init__(self, comm: Communicator, run_dir: Path, log_format: str, log_every: int) -> None:
        self._comm, self._run_dir = comm, run_dir
        self._json = log_format == "json"
        self._bar_wanted = log_format == "text" and on_terminal()
        self._every = log_every
        self._bar: Any = None
        self._first: tuple[int, float] | None = None  # step seen, and when
        self._epochs = 0
        self._iterations: Any = 0  # '?' where nobody knows
        self._metrics: TextIO | None = None
        self._mute = not log_format
        self._last: dict[str, Any] = {}  # the epoch that was reported last
        if self._speaks:
            self._open()

    @property
    def _speaks(self) -> bool:
        return self._comm.rank == 0

    def _open(self) -> None:
        self._metrics = open(self._run_dir / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def close(self) -> None:
        self._close_bar()
        if self._metrics:
            with suppress(OSError):  # what could not be written was reported, and is tried once more
                self._metrics.close()

    # -- events ----------------------------------------------------------------------------------------
    def header(self, **facts: Any) -> None:
        """The facts that make a report comparable with another."""
        self._epochs, self._iterations = facts["epochs"], facts["iterations_per_epoch"] or "?"
        self._emit("header", facts, _header_text(facts))
        if facts["warning"] and self._speaks:
            # on stderr as well as in the header, so that no redirection hides it
            print(f"dtrain: WARNING: {facts['warning']}", file=sys.stderr, flush=True)

    def iteration(self, epoch: int, iteration: int, loss: float, sums: Sequence[Any], examples: int) -> None:
        """Most calls only count."""
        if not self._speaks:
            return
        if self._bar_wanted:
            self._advance_bar(epoch, iteration, loss)
        elif iteration % self._every == 0:
            found = {**self.results(loss * examples, sums, examples), "loss": loss}
            text = (
                f"  epoch {epoch}/{self._epochs}  iteration {iteration:>{len(str(self._iterations))}}"
                f"/{self._iterations}{_numbers(found)}"
            )
            facts = {"epoch": epoch, "iteration": iteration, **found}
            self._emit("iteration", facts, text)

    def epoch(self, **facts: Any) -> None:
        self._close_bar()
        self._last = facts
        about = {"epoch", "seconds", "images_per_second", "communication_fraction"}
        for of in ("test", "validation"):
            if any(name.startswith(f"{of}_") and name != f"{of}_loss" for name in facts):
                about.add(f"{of}_loss")  # a metric says it better
        found = {name: value for name, value in facts.items() if name not in about}
        text = (
            f"epoch {facts['epoch']}/{self._epochs}{_numbers(found)}  "
            f"{facts['images_per_second']:,.0f} examples/s  {facts['seconds']:.2f} s"
        )
        if facts["communication_fraction"] is not None:
            text += f"  communication {facts['communication_fraction']:.1%}"
        self._emit("epoch", facts, text)

    def lost(self, **facts: Any) -> None:
        """Who died, and where the others continue; printed by the new rank 0 where the old one died."""
        self._close_bar()
        if self._speaks and self._metrics is None:
            self._take_over(Progress(epoch=facts["epoch"], iteration=facts["iteration"]))
        left = f"{_count(facts['ranks'], 'rank')} {'goes' if facts['ranks'] == 1 else 'go'} on"
        text = (
            f"  lost {', '.join(facts['lost'])}: {left} in epoch {facts['epoch']} after iteration "
            f"{facts['iteration']}"
        )
        self._emit("lost", facts, text)

    def _take_over(self, at: Progress) -> None:
        """Continue the metrics of a rank 0 that was killed: it may have written more than is known."""
        path = self._run_dir / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)  # of another node it may have been
        cut_metrics(path, at)
        self._open()
        events = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        if self._last and self._last["epoch"] not in {e["epoch"] for e in events if e["event"] == "epoch"}:
            self.epoch(**self._last)

    def profile(self, **facts: Any) -> None:
        """Where the time of the recorded steps went."""
        from dtrain.train.profile import summary_text

        self._emit("profile", facts, summary_text(facts))

    def done(self, **facts: Any) -> None:
        text = f"done in {facts['seconds']:.1f} s"
        if facts.get("early"):
            text += f", {facts['early']} epochs after the best validation loss"
        said = ("test_accuracy", "test_loss", "validation_accuracy", "validation_loss")
        if name := next((n for n in said if n in facts), ""):  # there was a test
            text += f": {name.replace('_', ' ')} {facts[name]:.4f}; again with "
            text += f"`dtrain eval {shlex.quote(facts['run_dir'])}`"
        self._emit("done", facts, text)

    def _emit(self, event: str, facts: dict[str, Any], text: str) -> None:
        if not self._speaks:
            return
        line = json_line({"event": event, **facts, "time": round(time.time(), 3)})
        self._print(line if self._json else text)
        if self._metrics:
            try:
                self._metrics.write(line + "\n")
                self._metrics.flush()
            except OSError as error:
                path = self._run_dir / "metrics.jsonl"
                raise CheckpointError(f"{path} cannot be written: {error.strerror or error}.") from None

    def _print(self, text: str) -> None:
        """A line on stdout. Where that takes no more, as of a full disk, the run and its metrics continue."""
        if self._mute:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._mute = True
            why = f"stdout takes no more lines ({error.strerror}); {self._run_dir / 'metrics.jsonl'} does"
            print(f"dtrain: WARNING: {why}", file=sys.stderr, flush=True)

    def _advance_bar(self, epoch: int, iteration: int, loss: float) -> None:
        from tqdm import tqdm

        step = (epoch - 1) * self._iterations + iteration
        if self._first is None:
            self._first = (step, time.perf_counter())
        if self._bar is None:
            self._bar = tqdm(
                total=self._iterations,
                initial=iteration - 1,
                desc=f"epoch {epoch}/{self._epochs}",
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}",
                leave=False,
                file=sys.stdout,
                ncols=min(shutil.get_terminal_size().columns, 100) - 1,  # a full line would wrap
            )
        if iteration % 10 == 0:
            text = f"loss {loss:.4f}"
            begun, since = self._first
            if self._epochs > 1 and step > begun:
                each = (time.perf_counter() - since) / (step - begun)  # tests and saving included
                left = each * (self._epochs * self._iterations - step)
                text = f"run {tqdm.format_interval(left)}, {text}"
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _numbers(values: Mapping[str, float]) -> str:
    return "".join(f"  {name.replace('_', ' ')} {value:.4f}" for name, value in values.items())


def _known(number: int | None) -> str:
    """A number that batches of a program's own may leave open."""
    return "?" if number is None else f"{number:,}"


def _header_text(facts: dict[str, Any]) -> str:
    ranks, shards = facts["ranks"], facts["shards"]
    low, high = (min(shards), max(shards)) if shards else (None, None)
    each = _known(low) if low == high else f"{low:,} to {high:,}"
    rows = f"{facts['batch_size'] // ranks:,}"
    if facts["batch_size"] % ranks:
        rows += f" or {facts['batch_size'] // ranks + 1:,}"
    each, rows = f"{each} a rank and epoch", f"{rows} a rank"
    if facts["batch_size"] < ranks:
        each = rows = "all on each rank"
    source = facts["source"] if facts["source"] == "generated" else f"from {facts['source']}"
    lines = [
        f"dtrain {facts['version']}  {facts['mpi'] or 'no MPI'}  {_count(ranks, 'rank')} on "
        f"{_count(facts['nodes'], 'node')}  {_runs(facts['devices'])}",
        f"  model    {facts['model']}, {facts['parameters']:,} parameters",
        f"  data     {facts['dataset']}, {source}: {_examples(facts)} examples, {each}",
        f"  step     {facts['optimizer']}, learning rate {facts['lr']:g}, global batch "
        f"{facts['batch_size']:,} ({rows}), seed {facts['seed']}",
        f"  length   {_known(facts['iterations_per_epoch'])} iterations per epoch, "
        f"{_count(facts['epochs'], 'epoch')}",
        f"  blas     {facts['blas']}{' a rank' if ranks > 1 else ''}",
        f"  kernels  {facts['kernels']}",
        f"  average  {facts['averaging']}",
        *(["  bits     the same on any number of ranks"] if facts["bitwise"] else []),
        f"  run      {facts['run_dir']}",
    ]
    if "described" in facts:
        lines.insert(3, f"  examples {facts['described']}")
    if facts["tensorboard"]:
        lines.append(f"  watch    tensorboard --logdir {shlex.quote(facts['run_dir'])}")
    if facts["origin"]:
        lines.insert(-1, f"  from     {facts['origin']}")
    if facts["warning"]:
        lines.insert(1, f"  WARNING  {facts['warning']}")
    return "\n".join(lines)


def _examples(facts: Mapping[str, Any]) -> str:
    """'54,000 training, 6,000 validation and 10,000 test': what there is of each."""
    counts = {"training": "examples", "validation": "validation_examples", "test": "test_examples"}
    parts = [f"{_known(facts[n])} {word}" for word, n in counts.items() if word == "training" or facts[n]]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _runs(devices: list[str]) -> str:
    """'cpu' or 'gpu 0 x 2, gpu 1 x 2': the devices of the ranks, equal neighbours counted."""
    parts: list[tuple[str, int]] = []
    for device in devices:
        if parts and parts[-1][0] == device:
            parts[-1] = (device, parts[-1][1] + 1)
        else:
            parts.append((device, 1))
    return ", ".join(name if count == 1 else f"{name} x {count}" for name, count in parts)
