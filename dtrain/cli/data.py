"""`dtrain data`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from dtrain.cli.parser import Parser
from dtrain.comm import launcher


def add_parser(commands: Any) -> None:
    data = commands.add_parser("data", help="the data set on this machine")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    fetch = actions.add_parser("fetch", help="download MNIST and check it")
    fetch.add_argument("--to", metavar="DIR", help="by default the cache where `train` looks for it")
    fetch.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain.data import cache_folder
    from dtrain.data.fetch import fetch

    if launcher.rank() == 0:
        folder = fetch(Path(args.to) if args.to else cache_folder())
        typed = shlex.quote(str(folder))
        hint = f"; use it with --dataset {typed} or DTRAIN_DATA={typed}" if args.to else ""
        print(f"MNIST is in {folder}{hint}")
