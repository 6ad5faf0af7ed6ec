"""`dtrain bench scaling`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dtrain import comm as communicators
from dtrain.cli.parser import SCALING
from dtrain.comm import launcher
from dtrain.config import flag
from dtrain.errors import UsageError

FLAGS = {
    "to": "the study's folder (default scaling)",
    "mode": "strong: one global batch; weak: one batch a rank (default strong)",
    "model": "as of train (default mlp)",
    "batch_size": "of all ranks, with --mode weak of each (default 100)",
    "epochs": "of each run (default 5)",
    "repeats": "runs of each number of ranks, in turn (default 3)",
    "threads": "BLAS threads a rank (default 1)",
    "task": "a file with a task of your own, as of train",
}


def add_parser(commands: Any) -> None:
    scaling = commands.add_parser(
        SCALING,
        help="how a training scales with the number of ranks: runs, tables and a page",
        description="Train on several numbers of ranks in turn, here under mpirun or as a job each, and "
        "write what comes out into a folder: study.html, .json, .csv and .mllog. Under a launcher, without "
        "--ranks, it measures the ranks that there are.",
        epilog="Other options of the training are DTRAIN_* variables, such as DTRAIN_OPTIMIZER=sgd.",
        allow_abbrev=False,
    )
    scaling.add_argument(
        "program",
        nargs="?",
        default="",
        metavar="PROGRAM.py",
        help="a program of your own, whose first fit is studied instead of a training of `dtrain train`",
    )
    scaling.add_argument("--ranks", metavar="N,N,...", help="numbers of ranks, such as 1,2,4")
    for name, text in FLAGS.items():
        scaling.add_argument(flag(name), default=argparse.SUPPRESS, metavar=name.upper(), help=text)
    scaling.add_argument(
        "--through",
        metavar="'KIND OPTION ...'",
        default="",
        help="submit a job for each number of ranks by `dtrain cluster`, such as 'slurm --ranks-per-node 4'",
    )
    scaling.add_argument(
        "--collect", action="store_true", help="only collect the runs of --to, such as of jobs"
    )
    scaling.add_argument(
        "--compare", metavar="DIR", nargs="+", help="only write scaling.html, studies side by side"
    )
    scaling.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain.bench import scaling

    options = scaling.from_flags({name: getattr(args, name) for name in (*FLAGS, "program") if name in args})
    if args.compare or args.collect or args.ranks:
        if launcher.size() > 1:
            raise UsageError("`dtrain bench scaling` with --ranks, --collect or --compare starts by itself.")
        if args.compare:
            print(scaling.compare(args.compare, Path("scaling.html")))
        elif args.collect:
            print(scaling.finish(Path(options.to)))
        else:
            print(scaling.run(options, scaling.parse_ranks(args.ranks), args.through))
    elif launcher.detect() is None:
        raise UsageError("`dtrain bench scaling` needs numbers of ranks, such as --ranks 1,2,4.")
    else:
        scaling.measure(options, communicators.world())
