"""`dtrain eval`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dtrain import comm as communicators
from dtrain.choices import LOG_FORMATS
from dtrain.cli.parser import check_log_format
from dtrain.cli.predict import add_instead, given, scale
from dtrain.comm.base import Communicator
from dtrain.errors import UsageError


def add_parser(commands: Any) -> None:
    evaluate = commands.add_parser(
        "eval",
        help="test the parameters that a run saved",
        description="Test the parameters that a run of `dtrain train` or of fit(run_dir=...) saved.",
    )
    evaluate.add_argument("run_dir", metavar="RUN_DIR", help="what `dtrain train` printed")
    add_instead(evaluate)
    evaluate.add_argument(
        "--log-format", metavar="|".join(LOG_FORMATS), default="text", help="(default text)"
    )
    evaluate.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from dtrain.task.saved import announce, config_of, evaluate_keras, is_fit, open_saved

    check_log_format(args.log_format)
    options, factor = given(args), scale(args)
    if is_fit(Path(args.run_dir)):
        comm = communicators.world()
        saved = open_saved(args.run_dir, comm, options, args.best, factor)
        tell(evaluate_keras(saved, args.run_dir), args.log_format, comm)
        return
    if factor is not None:
        raise UsageError("--scale is for runs of fit: this run's network has its preprocessing inside.")
    config = config_of(args.run_dir, options | {"log_format": args.log_format})
    from dtrain.runtime.backend import take_gpu

    take_gpu(config.device, config.share_gpu)
    comm = communicators.world()
    from dtrain.task import own_model
    from dtrain.task.trainer import evaluate_run

    with comm.together():
        config = own_model.check(config)
    if args.model is None:
        announce(args.run_dir, config, comm)
    facts = evaluate_run(Path(args.run_dir), config, comm, args.best, args.dataset is not None)
    tell(facts, config.log_format, comm)


def tell(facts: dict[str, Any], log_format: str, comm: Communicator) -> None:
    """Print what was found, on rank 0."""
    if comm.rank == 0:
        if facts["warning"]:
            print(f"dtrain: WARNING: {facts['warning']}", file=sys.stderr)
        if log_format == "json":
            from dtrain.train.report import json_line

            print(json_line({"event": "eval", **facts}))
        else:
            of = "test" if "test_loss" in facts else "validation"
            names = [n for n in facts if n.startswith(f"{of}_") and n not in (f"{of}_loss", f"{of}_examples")]
            found = "".join(f", {n.replace('_', ' ')} {facts[n]:.4f}" for n in names)
            print(
                f"{facts['model']} after epoch {facts['epoch']}: loss {facts[f'{of}_loss']:.4f}{found} on "
                f"{facts[f'{of}_examples']:,} examples of {facts['dataset']}"
            )
