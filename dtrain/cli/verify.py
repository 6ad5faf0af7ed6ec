"""`dtrain verify`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from dtrain.cli.train import add_options, given
from dtrain.comm import launcher
from dtrain.config import resolve
from dtrain.errors import UsageError

#: The options of train that say what is trained and how it is summed; the others change no value.
OPTIONS = (
    *(
        "task",
        "model",
        "model_digest",
        "dataset",
        "label",
        "validation",
        "augment",
        "batch_size",
        "optimizer",
    ),
    *("lr", "seed", "kernels", "average", "overlap", "check_numerics", "bitwise"),
)


def add_parser(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="whether a training has the same bits on several numbers of ranks, and where not",
        description="Train the same steps on each number of ranks, in fresh processes, and compare digests "
        "of parameters, state, losses, and of each operation's value, to the bit. At the first difference "
        "it says step, operation, variable and entry. Without --bitwise it says how far the parameters "
        "drift apart. Ends with 0 where all is equal, else with 9.",
        allow_abbrev=False,
    )
    add_options(verify, OPTIONS)
    verify.add_argument(
        "--ranks", metavar="N,N,...", default="1,2,4", help="numbers of ranks (default 1,2,4)"
    )
    verify.add_argument("--steps", metavar="N", help="steps of each (default 50, or as --against has them)")
    verify.add_argument("--to", metavar="FILE", default="verify.json", help="gets all (default verify.json)")
    verify.add_argument("--against", metavar="FILE", help="compare with what verify wrote on another machine")
    verify.add_argument(
        "--control",
        action="store_true",
        help="let the last number of ranks add up one sum from its end, which has to be found",
    )
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain.bench.scaling import parse_ranks
    from dtrain.verify.run import verify

    if launcher.size() > 1:
        raise UsageError("`dtrain verify` starts its ranks by itself: call it without mpirun.")
    config = resolve(given(args), os.environ, args.config)
    steps = args.steps or "0"
    if not steps.isdecimal() or (args.steps and int(steps) < 1):
        raise UsageError(f"--steps {steps}: give an integer >= 1.")
    ranks = parse_ranks(args.ranks)
    if args.control and len(ranks) < 2:
        raise UsageError(f"--control takes several numbers of ranks; --ranks {args.ranks} is one.")
    against = Path(args.against) if args.against else None
    verify(config, ranks, int(steps), Path(args.to), against, args.control)
