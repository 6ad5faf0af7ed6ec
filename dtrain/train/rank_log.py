"""What ranks say besides the report: warnings, printed once with the ranks that have them; a log file a rank.

Python's warnings and the records of `logging` are held back on every rank and gathered where the ranks meet
anyway: before the first step and after each epoch. So a warning that all ranks have is one line and not N.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import shlex
import sys
import time
import traceback
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from dtrain.comm.base import Communicator
from dtrain.errors import DtrainError, EnvironmentProblem, RanksLost
from dtrain.train.observer import Observer

#: Different warnings of a rank between two barriers; of more than that only the number is printed.
MOST = 20


class RankLog(Observer):
    """Listens while its `with` lasts, which is longer than the run: an error before it is in the file too.

    Args:
        comm: the ranks that are heard; rank 0 says their warnings, on stderr.
        folder: where rank-0.log, rank-1.log, ... are made or, where there are some, continued: what each rank
            printed, its warnings and log records, where it was at each epoch, and the error that ended it.
            '' for none.

    Raises:
        EnvironmentProblem: on every rank; a file cannot be written.
    """

    def __init__(self, comm: Communicator, folder: str = "") -> None:
        self._comm, self._folder = comm, folder
        self._file: TextIO | None = None
        self._installed = ExitStack()
        self._new: dict[str, None] = {}  # in the order they came
        self._told: set[str] = set()
        self._more = 0

    # -- events ----------------------------------------------------------------------------------------
    def header(self, **facts: Any) -> None:
        self._facts = facts
        self._since, self._waited = time.perf_counter(), self._comm.seconds
        self._meet()

    def epoch(self, **facts: Any) -> None:
        now, waited = time.perf_counter(), self._comm.seconds
        self._write(
            f"after epoch {facts['epoch']}/{self._facts['epochs']}, "
            f"step {facts['epoch'] * self._facts['iterations_per_epoch']:,}: {now - self._since:.2f} s since "
            f"the last such line, of these {waited - self._waited:.2f} s in communication"
        )
        self._since, self._waited = now, waited
        self._meet()

    def lost(self, **facts: Any) -> None:
        self._write(f"lost {', '.join(facts['lost'])}; from here on this is {self._comm.describe()}")

    def __enter__(self) -> RankLog:
        try:
            with self._comm.together():
                if self._folder:
                    self._open()
        except DtrainError:
            self._installed.close()
            raise
        if self._file:
            self._installed.enter_context(redirect_stdout(_Tee(sys.stdout, self._write)))
            self._installed.enter_context(redirect_stderr(_Tee(sys.stderr, self._write)))
        handler = _Handler(self)
        root = logging.getLogger()
        root.addHandler(handler)
        self._installed.callback(root.removeHandler, handler)
        logging.captureWarnings(True)
        self._installed.callback(logging.captureWarnings, False)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or getattr(error, "agreed", False):
            with suppress(RanksLost):  # the run is done
                self._meet()
        else:  # the other ranks are elsewhere
            self._say([(text, [self._comm.rank]) for text in self._take()])
        if self._file:
            if isinstance(error, DtrainError):
                self._write(f"ended by an error: {error}")
            elif error is not None:
                self._write("ended by an error:\n" + "".join(traceback.format_exception(error)))
            else:
                self._write("ended well")
        self._installed.close()

    # -- warnings --------------------------------------------------------------------------------------
    def hear(self, text: str, warns: bool) -> None:
        """A log record or warning of this rank, as one line."""
        self._write(text)
        if warns and text not in self._told and text not in self._new:
            if len(self._new) < MOST:
                self._new[text] = None
            else:
                self._more += 1

    def _take(self) -> list[str]:
        """What was not printed yet."""
        texts = list(self._new)
        self._told.update(texts)
        if self._more:
            where = ", which are in its log file" if self._file else ""
            texts.append(f"{self._more:,} more warnings{where}")
        self._new, self._more = {}, 0
        return texts

    def _meet(self) -> None:
        """Gather what the ranks have to say, and say it. Collective."""
        ranks: dict[str, list[int]] = {}
        for rank, texts in enumerate(self._comm.gather_text(json.dumps(self._take()))):
            for text in json.loads(texts):
                ranks.setdefault(text, []).append(rank)
        if self._comm.rank == 0:
            self._say(list(ranks.items()))

    def _say(self, texts: list[tuple[str, list[int]]]) -> None:
        for text, ranks in texts:
            print(f"dtrain: WARNING{_who(ranks, self._comm.size)}: {text}", file=sys.stderr, flush=True)

    # -- the file --------------------------------------------------------------------------------------
    def _open(self) -> None:
        path = Path(self._folder) / f"rank-{self._comm.rank}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise EnvironmentProblem(
                f"the log file {path} cannot be written: {error.strerror or error}. Choose another folder "
                "with --log-dir."
            ) from None
        self._file = self._installed.enter_context(file)
        where = self._comm.describe()
        self._write(f"{datetime.now().date()} {where}: {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")

    def _write(self, text: str) -> None:
        if self._file:
            now = datetime.now().strftime("%H:%M:%S.%f")[:-3]
            self._file.writelines(f"{now}  {line}\n" for line in text.splitlines())


class _Handler(logging.Handler):
    """Passes records on, each as one line."""

    def __init__(self, log: RankLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if record.name == "py.warnings":  # file:line: category: text, and then the line of code
            text = text.partition("\n")[0]
        else:
            origin = "" if record.name == "dtrain" else f"{record.name}: "
            text = origin + text.replace("\n", " ")
        self._log.hear(text, record.levelno >= logging.WARNING)


class _Tee(io.TextIOBase):
    """A stream whose whole lines are also passed on, but for those that a progress bar writes over."""

    def __init__(self, stream: TextIO, line: Any) -> None:
        self._stream, self._line, self._begun = stream, line, ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of the stream; nobody sets it
        return self._stream.encoding

    def write(self, text: str) -> int:
        if "\r" not in text:
            *lines, self._begun = (self._begun + text).split("\n")
            for line in lines:
                self._line(line)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def _who(ranks: list[int], size: int) -> str:
    """' on ranks 1-3 and 7': those that say something; '' where there is one rank."""
    if size == 1:
        return ""
    if len(ranks) == size:
        return f" on all {size} ranks"
    runs = []
    for _, group in itertools.groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        run = [rank for _, rank in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return f" on rank{'s' if len(ranks) > 1 else ''} {', '.join(runs)}"
