"""`dtrain run`: a program written for TensorFlow 1 or Keras, as it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dtrain.errors import UsageError
from dtrain.names.program import run_program


def add_parser(commands: Any) -> None:
    run_parser = commands.add_parser(
        "run",
        help="a program written for TensorFlow 1 or Keras, unchanged",
        description="Runs a Python program in which `import tensorflow` and `import keras` mean dtrain. "
        "`mpirun -n 4 dtrain run program.py` runs it on four ranks that share each batch.",
    )
    run_parser.add_argument("program", metavar="PROGRAM.py")
    run_parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="...", help="the program's own options"
    )
    run_parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if not Path(args.program).is_file():
        raise UsageError(f"dtrain run {args.program}: there is no such file.")


def start(args: argparse.Namespace) -> None:
    """Run the program; what it raises ends this process as that ends `python PROGRAM.py`."""
    run_program(args.program, args.words)
