"""`dtrain export`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dtrain import comm as communicators
from dtrain.cli.predict import add_saved, given, scale
from dtrain.comm import launcher
from dtrain.errors import UsageError


def add_parser(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="a trained network as an ONNX file, for other programs",
        description="Write a trained network, as it is in a test, with its parameters and preprocessing, as "
        "an ONNX file for any number of examples. Needs the extra onnx.",
        allow_abbrev=False,
    )
    add_saved(export)
    export.add_argument("--to", metavar="FILE.onnx", default="model.onnx", help="(default model.onnx)")
    export.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if launcher.size() > 1:
        raise UsageError("`dtrain export` is for one rank: start it without mpirun.")
    factor, options = scale(args), given(args)
    from dtrain.task.exported import check, export
    from dtrain.task.saved import open_saved

    check(args.to)
    saved = open_saved(args.path, communicators.world(), options, args.best, factor, rows=False)
    for warning in saved.warnings:
        print(f"dtrain: WARNING: {warning}", file=sys.stderr)
    print(export(saved, args.to))
