"""A run's folder, which is one run's: who holds it says so in a file there, and touches it while it lives.

Files `.owner-1`, `.owner-2`, ... of a folder are those who have held it, the highest now. Making a file that
must be new is atomic on any file system, so of several that want the next number one gets it. Locks of the
system are not used: on network file systems they are often missing, or hold on one node only. A run that ends
removes its file. The process of one that was killed is gone, which its own machine knows; where nobody can
know, as on another machine, its file is no longer touched. Clocks are not compared: the file's time changes,
or it does not.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from dtrain.comm.base import Communicator
from dtrain.errors import CheckpointError, EnvironmentProblem, UsageError
from dtrain.files import make_new, read_regular, write_atomically
from dtrain.train import checkpoint

#: Seconds between two touches of the file; without one for so long, a holder that cannot be asked is dead.
BEAT, SILENCE = 2.0, 12.0
#: Seconds that a resume waits for the run to end, which may be on its way to.
PATIENCE = 10.0
#: Seconds between two looks at a folder that is held.
PAUSE = 0.2

_NAME = re.compile(r"\.owner-(\d{1,9})")
_MOST_BYTES = 4096


class Options(Protocol):
    """A run's options, a dataclass, as its folder keeps them.

    run_dir: '' for a new one. resume: '', the run's folder, or auto. fixed: names of those that a run has
    from its first step to its last.
    """

    @property
    def run_dir(self) -> str: ...
    @property
    def resume(self) -> str: ...

    fixed: ClassVar[tuple[str, ...]]

    @property
    def title(self) -> str:
        """A word for the name of a new folder."""

    def kept(self) -> str:
        """The text of config.toml."""

    def said(self, name: str, value: Any) -> str:
        """An option with a value as its user writes it."""


@dataclass(frozen=True)
class Owner:
    """Who has written a file: the process, and what distinguishes its machine and its start from all others.

    token: the run's own. machine: '' where others cannot ask for the process.
    """

    token: str
    host: str
    pid: int
    machine: str
    started: str

    @staticmethod
    def here(token: str, askable: bool = True) -> Owner:
        """This process; askable: whether the run ends when it does."""
        pid = os.getpid()
        return Owner(token, socket.gethostname(), pid, _machine() if askable else "", _process(pid)[1])

    @staticmethod
    def of(text: bytes) -> Owner | None:
        """Whom a file names; None where it is not, or not yet, whole."""
        try:
            owner = Owner(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        words = (owner.token, owner.host, owner.machine, owner.started)
        whole = all(isinstance(word, str) for word in words) and isinstance(owner.pid, int)
        return owner if whole and 0 < owner.pid < 1 << 31 else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def lives(self) -> bool | None:
        """Whether the process is there; None where this one cannot know."""
        if not self.machine or self.machine != _machine() or os.name != "posix":
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            pass
        state, started = _process(self.pid)
        if not started:
            return None
        return started == self.started and state not in "ZX"  # a number is given again; a zombie is dead


def _machine() -> str:
    """What two processes share that know one another by their numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process(pid: int) -> tuple[str, str]:
    """One letter of a process's state, and when it started; '' where the system does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError):
        return "", ""


class RunDir:
    """A run's folder, `path`, and its hold on it. Every rank has one; rank 0 makes the file and touches it.

    With an elastic communicator all ranks touch it, since the run lives as long as any of them.

    new: on rank 0, whether this run made it. resuming: whether the run continues from a checkpoint in it.
    """

    def __init__(self, path: Path, token: str, new: bool = False) -> None:
        self.path, self.new, self.resuming = path, new, False
        self.number = 0  # of this run's file, once it has one
        self._token = token
        self._quiet: tuple[tuple[int, int], float] | None = None  # the holder's number and touch, since when
        self._end = threading.Event()

    def take(self, askable: bool) -> tuple[bool | None, str]:
        """Try to hold the folder: whether another run lives in it, None while that is not known, and who.

        With False it is this run's. askable: whether the run ends when this process does.

        Raises:
            OSError: the file cannot be made, or one of a dead run not be removed.
        """
        found = self._files()
        if not found:
            owner, lives = None, cast("bool | None", False)
        else:
            owner = Owner.of(found[max(found)])
            lives = owner.lives() if owner else None
            if lives is None:
                lives = self._beats(max(found))
        if lives is False and not self._make(found, askable):
            lives = None  # another was faster
        return lives, str(owner or "another process")

    def _files(self) -> dict[int, bytes]:
        """The files of this folder by their numbers: what is in each, nothing where it cannot be read."""
        found = {}
        for number in (int(match[1]) for match in map(_NAME.fullmatch, os.listdir(self.path)) if match):
            found[number] = b""
            with suppress(OSError):
                found[number] = read_regular(self._file(number), _MOST_BYTES)
        return found

    def _beats(self, number: int) -> bool | None:
        """Whether the holder touches its file; False where it has not for too long, None before."""
        seen, now = (number, 0), time.monotonic()
        with suppress(OSError):  # it was opened before: a network file system then asks its server
            seen = number, self._file(number).lstat().st_mtime_ns
        if self._quiet is None or self._quiet[0] != seen:
            again = self._quiet is not None and self._quiet[0][0] == number
            self._quiet = seen, now
            return True if again else None
        return False if now - self._quiet[1] > SILENCE else None

    def _make(self, dead: dict[int, bytes], askable: bool) -> bool:
        """Make this run's file and remove those of the dead; False where another was faster."""
        number = max(dead, default=0) + 1
        file = self._file(number)
        try:
            with open(file, "x") as out:
                json.dump(vars(Owner.here(self._token, askable)), out)
            now = self._files()
        except FileExistsError:
            return False
        except OSError:
            file.unlink(missing_ok=True)
            raise
        now.pop(number, None)
        if not now.items() <= dead.items():  # somebody has come since they were found dead
            file.unlink(missing_ok=True)
            return False
        for other in now:
            self._file(other).unlink(missing_ok=True)
        self.number = number
        return True

    def _file(self, number: int) -> Path:
        return self.path / f".owner-{number}"

    def keep(self) -> None:
        """Touch the file from now on, until release()."""

        def beat() -> None:
            while not self._end.wait(BEAT):
                with suppress(OSError):  # the folder was removed, or its file system does not answer
                    os.utime(self._file(self.number))

        threading.Thread(target=beat, name="hold on the run directory", daemon=True).start()

    def check(self) -> None:
        """Return where the folder is still this run's, before something is written.

        Raises:
            CheckpointError: another run has taken it, since this one stood still for too long; or it is gone.
        """
        try:
            found = self._files()
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.path} was renamed or deleted while the run was in it: nothing more can be saved "
                "there. Give it its name back and resume it, or start again."
            ) from None
        except OSError:  # what is written next will say it
            return
        owner = Owner.of(found[max(found)]) if found else None
        if owner and owner.token != self._token:
            raise CheckpointError(
                f"{self.path} was taken over by {owner}, since this run had not moved for a while. This run "
                "ends, and the other continues."
            )

    def release(self, removes: bool) -> None:
        """End the hold. removes: whether this rank removes the file."""
        self._end.set()
        if removes:
            with suppress(OSError, CheckpointError):
                self.check()
                self._file(self.number).unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the folder of a run that was refused: made by it, with nothing in it but the options."""
        with suppress(OSError):
            if self.new and set(os.listdir(self.path)) <= {"config.toml"}:
                (self.path / "config.toml").unlink(missing_ok=True)
                self.path.rmdir()


@contextmanager
def hold(config: Options, comm: Communicator) -> Iterator[RunDir]:
    """The run directory, made where there is none; it is this run's until the block ends. Collective.

    Raises:
        UsageError: it holds a run already, or one that still runs. EnvironmentProblem: it cannot be made.
    """
    held = _claim(config, comm)
    try:
        resuming = config.resume not in ("", "auto")
        with comm.together():
            if comm.rank == 0:
                if config.resume == "auto":
                    resuming = bool(checkpoint.steps(held.path))
                elif not resuming and (held.path / "metrics.jsonl").exists():
                    raise UsageError(
                        f"{config.said('run_dir', held.path)} holds a run already: choose another, delete it "
                        f"first, or resume it with {config.said('resume', held.path)}."
                    )
        held.resuming = bool(comm.broadcast(np.array([resuming], np.uint8))[0])
        if not held.resuming:
            write_options(held.path, config, comm)
            if comm.rank == 0:  # of a run that came to no checkpoint
                (held.path / "metrics.jsonl").unlink(missing_ok=True)
        if comm.rank == 0 or comm.elastic:
            held.keep()
        yield held
    except BaseException:
        held.release(comm.rank == 0)
        held.forget()
        raise
    held.release(comm.rank == 0)


def _claim(config: Options, comm: Communicator) -> RunDir:
    """Make the folder and hold it; all ranks wait while another run may still be in it."""
    begun, text, new = time.monotonic(), "", False
    with comm.together():
        if comm.rank == 0:
            try:
                path, new = _make_folder(config)
                text = str(path)
            except OSError as error:
                raise _cannot_be_made(config, config.run_dir or "runs", error) from None
    name, token = comm.broadcast_text(f"{text}\n{uuid.uuid4().hex}").rsplit("\n", 1)
    path = Path(name)
    claim = RunDir(path, token, new)
    while True:
        lives: bool | None = False
        with comm.together():
            if comm.rank == 0:
                try:
                    lives, holder = claim.take(askable=not comm.elastic)
                except OSError as error:
                    raise _cannot_be_made(config, path, error) from None
                if lives and (not config.resume or time.monotonic() - begun > PATIENCE):
                    raise UsageError(
                        f"the run directory {path} is in use: {holder} trains in it. Wait until that run "
                        f"has ended, or choose another by {config.said('run_dir', 'DIR')}."
                    )
        free, claim.number = comm.broadcast(np.array([lives is False, claim.number])).tolist()
        if free:
            return claim
        time.sleep(PAUSE)


def _make_folder(config: Options) -> tuple[Path, bool]:
    """The folder of --run-dir, or a new one with a name by date and model; and whether it is new."""
    if config.run_dir:
        path = Path(config.run_dir)
        new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        return path, new
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{config.title}"
    Path("runs").mkdir(exist_ok=True)
    names = (name, *(f"{name}-{number}" for number in range(2, 10_000)))  # of those begun in one second
    return next(path for path in map(Path("runs").joinpath, names) if make_new(path)), True


def write_options(path: Path, config: Options, comm: Communicator) -> None:
    """Write config.toml into a run directory on rank 0. Collective.

    Raises:
        EnvironmentProblem: it cannot be written.
    """
    with comm.together():
        if comm.rank == 0:
            try:
                write_atomically(path / "config.toml", config.kept().encode())
            except OSError as error:
                raise _cannot_be_made(config, path, error) from None


def _cannot_be_made(config: Options, path: Any, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the run directory {path} cannot be made: {error.strerror or error}. Choose another by "
        f"{config.said('run_dir', 'DIR')}."
    )
