"""`dtrain predict`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dtrain import choices
from dtrain import comm as communicators
from dtrain.choices import DEVICES
from dtrain.errors import UsageError

PARTS = ("test", "train", "validation", "all")


def add_parser(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="what a trained network says of examples, as a table",
        description="Ask a trained network about examples: what a run saved, or a file that a Keras model's "
        "save() wrote. `mpirun -n 4 dtrain predict` shares the examples among four ranks. Without --to the "
        "first rows and a summary are shown.",
        allow_abbrev=False,
    )
    add_saved(predict)
    predict.add_argument("--part", metavar="|".join(PARTS), help="of the data set (default test, or all)")
    predict.add_argument("--to", metavar="FILE", help="a name that ends in .csv, .npy or .parquet")
    predict.add_argument(
        "--probabilities", action="store_true", help="also those of each class or label; alone in .npy"
    )
    predict.set_defaults(run=run)


def add_saved(parser: argparse.ArgumentParser) -> None:
    """What says which network, and on which data: of predict and export."""
    parser.add_argument(
        "path", metavar="RUN_DIR|FILE.safetensors", help="what a run or a model's save() left"
    )
    add_instead(parser)


def add_instead(parser: argparse.ArgumentParser) -> None:
    """What is taken instead of what the run says: of predict, export and eval."""
    parser.add_argument(
        "--best", action="store_true", help="the checkpoint that validation found best, not the last"
    )
    parser.add_argument("--model", metavar="FILE.py:FUNCTION", help="instead of the run's own")
    parser.add_argument(
        "--dataset", metavar="NAME|PATH", help="instead of the run's own; a Keras model has none"
    )
    parser.add_argument("--label", metavar="COLUMN", help="the column of a table that holds the targets")
    parser.add_argument("--device", metavar="|".join(DEVICES), help="instead of the run's own")
    parser.add_argument(
        "--scale",
        metavar="X",
        help="what a Keras model's examples are multiplied by (default 1/255 of pixels, unless it begins "
        "with Rescaling or Normalization)",
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The options that are given instead of the run's own."""
    if args.device is not None:
        choices.check(f"--device {args.device}", args.device, DEVICES)
    found = {name: getattr(args, name, None) for name in ("model", "dataset", "label", "device")}
    return {name: value for name, value in found.items() if value is not None}


def scale(args: argparse.Namespace) -> float | None:
    """--scale as a number, also 1/255."""
    if args.scale is None:
        return None
    try:
        above, _, below = args.scale.partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--scale {args.scale}: give a number, such as 1/255.") from None


def run(args: argparse.Namespace) -> None:
    factor = scale(args)
    if args.part is not None:
        choices.check(f"--part {args.part}", args.part, PARTS)
    if args.to is not None:
        from dtrain.task import written

        written.check(args.to)
    options = given(args)
    comm = communicators.world()
    from dtrain.data.dataset import NUMBERS
    from dtrain.task import predict
    from dtrain.task.saved import open_saved

    saved = open_saved(args.path, comm, options, args.best, factor)
    with comm.together():
        if saved.data is None:
            raise UsageError(f"{args.path} does not say on which data: give it by --dataset.")
        parts = predict.parts_of(saved.data, args.part or "")
        if args.probabilities and all(result.kind == NUMBERS for result in saved.results):
            raise UsageError("--probabilities: this network gives numbers, not classes or labels.")
    if args.to is None:
        summary = predict.show(saved, parts, comm, args.probabilities)
    else:
        summary = predict.write(saved, parts, comm, args.to, args.probabilities)
    if comm.rank == 0:
        for warning in saved.warnings:
            print(f"dtrain: WARNING: {warning}", file=sys.stderr)
        if args.to is None:
            print("\n".join(summary.table()))
        else:
            print(f"{args.to}: {summary.rows:,} rows")
        of = f"{saved.told['model']} on {summary.rows:,} examples of {saved.data.name}"
        print(f"{of}, preprocessing: {saved.told['preprocessing']}")
        print("\n".join(f"  {line}" for line in summary.lines()))
