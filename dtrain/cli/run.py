"""`dtrain run`: a program written for TensorFlow 1 or Keras, as it is."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dtrain.comm import launcher
from dtrain.errors import UsageError
from dtrain.program import run_program


def add_parser(commands: Any) -> None:
    run_parser = commands.add_parser(
        "run",
        help="a program written for TensorFlow 1 or Keras, unchanged",
        description="Runs a Python program in which `import tensorflow` and `import keras` mean dtrain. "
        "`mpirun -n 4 dtrain run program.py` runs it on four ranks that share each batch; rank 0 prints.",
    )
    run_parser.add_argument("--print-all", action="store_true", help="let every rank print, not only rank 0")
    run_parser.add_argument("program", metavar="PROGRAM.py")
    run_parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="...", help="the program's own options"
    )
    run_parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if not Path(args.program).is_file():
        raise UsageError(f"dtrain run {args.program}: there is no such file.")
    if "PYTHONHASHSEED" not in os.environ:
        # the same on all ranks and in every job: programs number words by `list(set(text))`
        sys.stdout.flush()  # MPI is not up yet
        os.execve(sys.executable, sys.orig_argv, os.environ | {"PYTHONHASHSEED": "0"})


def start(args: argparse.Namespace) -> None:
    """Run the program; what it raises ends this process as that ends `python PROGRAM.py`."""
    if launcher.rank() and not args.print_all:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the process
    if launcher.size() > 1:
        os.mkdir = _make_folder(os.mkdir, _job_began())
    run_program(args.program, args.words)


def _job_began() -> float:
    """The time before which no rank of this job ran: when what started this rank was started.

    A minute before now where that is not known, or on several nodes, whose clocks differ.
    """
    if launcher.local_size() == launcher.size():
        with suppress(OSError, ValueError):
            ticks = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19])
            up = float(Path("/proc/uptime").read_text().split()[0])
            return time.time() - up + ticks / os.sysconf("SC_CLK_TCK") - 1  # up to a clock's tick
    return time.time() - 60


def _make_folder(mkdir: Callable[..., None], since: float) -> Callable[..., None]:
    """os.mkdir for ranks that all make the same folder, as in `if not exists(path): makedirs(path)`.

    A folder that another rank has made, which is one of after `since`, is there. It is FileExistsError, as on
    one rank, where the folder was there before the job, or this rank made it or was given this error before.
    """
    mine: dict[tuple[int, int], float] = {}

    def make(path: Any, *args: Any, **named: Any) -> None:
        exists = None
        try:
            mkdir(path, *args, **named)
        except FileExistsError as error:
            exists = error
        try:
            at = os.stat(path, dir_fd=named.get("dir_fd"))
        except OSError:  # another rank has removed it meanwhile
            if exists is not None:
                raise exists from None
            return
        folder = at.st_dev, at.st_ino
        if exists is not None:
            if not stat.S_ISDIR(at.st_mode) or at.st_ctime < since:
                raise exists
            # numbers come again: an empty one that has changed may have been made anew by another rank
            if folder in mine and (at.st_ctime == mine[folder] or os.listdir(path)):
                raise exists
        mine[folder] = at.st_ctime

    return make
