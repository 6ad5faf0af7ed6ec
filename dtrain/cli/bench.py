"""`dtrain bench`."""

from __future__ import annotations

import argparse
from typing import Any

from dtrain import comm as communicators
from dtrain.choices import LOG_FORMATS
from dtrain.cli.parser import check_log_format


def add_parser(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="what this machine can do, and where a step's time goes; under mpirun on all ranks",
        description="Measure this machine in some seconds: the matrix products of a step against the core's "
        "peak, a training step by kind of operation, sums over the ranks by size, and epochs by batch. "
        "`mpirun -n 2 dtrain bench` measures two ranks.",
    )
    bench.add_argument(
        "parts", nargs="*", metavar="PART", help="matmul, step, allreduce, epoch (default all)"
    )
    bench.add_argument("--log-format", metavar="|".join(LOG_FORMATS), default="text", help="(default text)")
    bench.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain import bench

    parts = bench.check(args.parts)
    check_log_format(args.log_format)
    bench.run(parts, args.log_format, communicators.world())
