"""`dtrain report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dtrain.comm import launcher


def add_parser(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="runs side by side on one HTML page",
        description="Write one HTML page on one run or several, to compare them; it needs no network.",
    )
    report.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", help="what `dtrain train` printed")
    report.add_argument("--to", metavar="FILE", default="report.html", help="the page (default report.html)")
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if launcher.rank() == 0:
        from dtrain.report.page import write

        print(write(args.run_dirs, Path(args.to)))
