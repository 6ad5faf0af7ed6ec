"""`dtrain doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from dtrain.choices import LOG_FORMATS
from dtrain.cli.parser import check_log_format


def add_parser(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="whether this machine or job is ready to train, and how to mend it; under mpirun on all ranks",
        description="Check what a run depends on: a line each, PASS, WARN (it runs, but slower or less "
        "safely) or FAIL (it would stop or be wrong), with its fix. `mpirun -n 4 dtrain doctor` checks four "
        "ranks, and in a job its nodes. Ends with 0 where nothing failed, else with 9.",
        allow_abbrev=False,
    )
    doctor.add_argument("--run-dir", metavar="DIR", default="runs", help="where runs will be (default runs)")
    doctor.add_argument("--dataset", metavar="auto|DIR", default="auto", help="as of train (default auto)")
    doctor.add_argument("--log-format", metavar="|".join(LOG_FORMATS), default="text", help="(default text)")
    doctor.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain import doctor

    check_log_format(args.log_format)
    doctor.run(args.run_dir, args.dataset, args.log_format)
