"""`dtrain train`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from dtrain import choices
from dtrain import comm as communicators
from dtrain.choices import SWITCH
from dtrain.cli.parser import Switch
from dtrain.config import TrainConfig, flag, resolve


def add_parser(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a model; under mpirun on all ranks",
        description="Train a model. `mpirun -n 4 dtrain train` shares the same training among four ranks.",
        epilog="Each option can also be a DTRAIN_* variable (DTRAIN_BATCH_SIZE=200) or be in the file of "
        "--config. A flag wins over a variable, a variable over the file.",
        allow_abbrev=False,
    )
    add_options(train, [f.name for f in fields(TrainConfig)])
    train.set_defaults(run=run)


def add_options(parser: Any, names: Collection[str]) -> None:
    """Add those options of a training that are named, the file that says what is trained, and --config."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE.py[:FUNCTION]",
        help="what to train, as --task says; by default an image classifier",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="a TOML file of options, such as a run's own config.toml"
    )
    for f in fields(TrainConfig):
        if f.name not in names:
            continue
        words = f.metadata["choices"]
        metavar = f.metadata["metavar"] or "|".join(words) or type(f.default).__name__.upper()
        default = "" if f.default == "" else f" (default {choices.word(f.default)})"
        switch = words == SWITCH or isinstance(f.default, bool)
        keywords: dict[str, Any] = {"action": Switch} if switch else {"metavar": metavar}
        if f.metadata["bare"]:
            keywords |= {"nargs": "?", "const": f.metadata["bare"]}
        parser.add_argument(
            flag(f.name), default=argparse.SUPPRESS, help=f.metadata["help"] + default, **keywords
        )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The options that the command line gives, as text."""
    names = {f.name for f in fields(TrainConfig)}
    flags = {name: value for name, value in vars(args).items() if name in names}
    if args.file is not None:
        flags["task"] = args.file
    return flags


def run(args: argparse.Namespace) -> None:
    config = resolve(given(args), os.environ, args.config)
    from dtrain.runtime.backend import take_gpu

    take_gpu(config.device, config.share_gpu)
    comm = communicators.world(config.average, config.elastic, config.overlap)
    from dtrain.task.trainer import train
    from dtrain.train.rank_log import RankLog

    with RankLog(comm, config.log_dir) as log:
        train(config, comm, log)
