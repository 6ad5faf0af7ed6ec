"""`dtrain data`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from dtrain.cli.parser import Parser
from dtrain.comm import launcher
from dtrain.errors import DataError

SET = "a name (mnist, fashion-mnist, kmnist, cifar10, cifar100), a file or a folder, as --dataset of train"
LABEL = "the target: COLUMN[,COLUMN ...] of a table; after a colon its kind: classes, numbers or labels"


def add_parser(commands: Any) -> None:
    data = commands.add_parser("data", help="data sets: download, import, show")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)

    fetch = actions.add_parser("fetch", help="download a set that has a name, and check it")
    fetch.add_argument("name", nargs="?", default="mnist", metavar="NAME", help="by default mnist")
    fetch.add_argument("--to", metavar="DIR", help="by default the cache where `train` looks for it")
    fetch.set_defaults(run=run_fetch)

    take = actions.add_parser("import", help="read a set once, and keep it as one that training maps")
    take.add_argument("source", metavar="SET", help=SET)
    take.add_argument("--to", metavar="DIR", required=True, help="a new folder, for --dataset DIR")
    take.add_argument("--label", default="", metavar="COLUMN", help=LABEL)
    take.add_argument(
        "--validation", default="", metavar="SHARE|N", help="set so many of the training examples aside"
    )
    take.set_defaults(run=run_import)

    show = actions.add_parser("show", help="what is in a set, and a few of its examples")
    show.add_argument("source", metavar="SET", help=f"{SET}; auto or synthetic")
    show.add_argument("--label", default="", metavar="COLUMN", help=LABEL)
    show.add_argument("--check", action="store_true", help="compare all of it with its checksums")
    show.set_defaults(run=run_show)


def run_fetch(args: argparse.Namespace) -> None:
    from dtrain.choices import check
    from dtrain.data import known, place_of
    from dtrain.data.fetch import fetch

    check(f"data fetch {args.name}", args.name, known.NAMES)
    if launcher.rank() == 0:
        folder = fetch(Path(args.to) if args.to else place_of(args.name), name=args.name)
        typed = shlex.quote(str(folder))
        variable = f" or DTRAIN_DATA={typed}" if args.name == "mnist" else ""
        hint = f"; use it with --dataset {typed}{variable}" if args.to else ""
        print(f"{known.of(args.name).title} is in {folder}{hint}")


def run_import(args: argparse.Namespace) -> None:
    if launcher.rank() != 0:
        return
    from dtrain.data.importing import import_set
    from dtrain.data.show import shown

    found = import_set(args.source, Path(args.to), args.label, args.validation)
    print("\n".join(shown(found, args.to)))
    print(f"\nuse it with --dataset {shlex.quote(args.to)}")


def run_show(args: argparse.Namespace) -> None:
    if launcher.rank() != 0:
        return
    from dtrain.comm.single import SingleCommunicator
    from dtrain.data import stored
    from dtrain.data.show import shown

    found, source, warning = stored(args.source, SingleCommunicator(), args.label)
    if args.check and (damage := found.damage()):
        raise DataError(damage)
    if warning:
        print(warning)
    print("\n".join(shown(found, source)))
    if args.check:
        print(f"\nchecked: {found.nbytes:,} bytes are as they were written")
