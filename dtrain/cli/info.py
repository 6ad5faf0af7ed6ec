"""`dtrain info`."""

from __future__ import annotations

import argparse
from typing import Any

from dtrain.comm import launcher


def add_parser(commands: Any) -> None:
    info = commands.add_parser("info", help="versions, MPI, BLAS, devices: what a bug report needs")
    info.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain.info import lines

    if launcher.rank() == 0:
        print("\n".join(lines()))
