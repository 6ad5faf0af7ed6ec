"""`dtrain run`: a program written for TensorFlow 1 or Keras, as it is."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
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
        os.mkdir = _make_folder(os.mkdir, time.time())
    run_program(args.program, args.words)


def _make_folder(mkdir: Callable[..., None], since: float) -> Callable[..., None]:
    """os.mkdir for ranks that all make the same folder: one that another rank has made since is there."""

    def make(path: Any, *args: Any, **named: Any) -> None:
        try:
            mkdir(path, *args, **named)
        except FileExistsError:
            # `if not exists(path): makedirs(path)` on two ranks at once; a minute for clocks of file servers
            if not os.path.isdir(path) or os.stat(path).st_ctime < since - 60:
                raise

    return make
