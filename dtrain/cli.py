"""The `dtrain` command: parse, build, train, report, and end all ranks when one fails."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from dtrain.comm import failure, launcher
from dtrain.config import DEVICES, LOG_FORMATS, TrainConfig, flag, read_toml, resolve
from dtrain.errors import CheckpointError, UsageError

#: Variables by which a user says how many threads the BLAS takes.
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class _Parser(argparse.ArgumentParser):
    """argparse, with usage errors raised instead of printed by every rank."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `{self.prog} --help`.")

    def print_help(self, file: Any = None) -> None:
        if launcher.rank() == 0:
            super().print_help(file)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands. Values stay text: config.py checks them, wherever they come from."""
    from dtrain import __version__

    parser = _Parser(
        prog="dtrain", description="Train a neural network data-parallel over MPI.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dtrain {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    train = commands.add_parser(
        "train",
        help="train a model; under mpirun on all ranks",
        description="Train a model on MNIST. `mpirun -n 4 dtrain train` shares the same "
        "training among four ranks.",
        epilog="Each option can also be a DTRAIN_* variable (DTRAIN_BATCH_SIZE=200) or stand in the file of "
        "--config. A flag wins over a variable, a variable over the file.",
        allow_abbrev=False,
    )
    train.add_argument(
        "--config", metavar="FILE", help="a TOML file of options, such as a run's own config.toml"
    )
    for f in fields(TrainConfig):
        choices = f.metadata["choices"]
        metavar = f.metadata["metavar"] or "|".join(choices) or type(f.default).__name__.upper()
        default = "" if f.default == "" else f" (default {f.default})"
        train.add_argument(
            flag(f.name), default=argparse.SUPPRESS, metavar=metavar, help=f.metadata["help"] + default
        )
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser(
        "eval",
        help="test the parameters that a run saved",
        description="Test the parameters that a run saved.",
    )
    evaluate.add_argument("run_dir", metavar="RUN_DIR", help="what `dtrain train` printed")
    evaluate.add_argument("--dataset", metavar="NAME|DIR", help="instead of the run's own")
    evaluate.add_argument("--device", metavar="|".join(DEVICES), help="instead of the run's own")
    evaluate.add_argument(
        "--log-format", metavar="|".join(LOG_FORMATS), default="text", help="(default text)"
    )
    evaluate.set_defaults(run=run_eval)

    info = commands.add_parser("info", help="versions, MPI, BLAS, devices: what a bug report needs")
    info.set_defaults(run=run_info)

    data = commands.add_parser("data", help="the data set on this machine")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    fetch = actions.add_parser("fetch", help="download MNIST and check it")
    fetch.add_argument("--to", metavar="DIR", help="by default the cache where `train` looks for it")
    fetch.set_defaults(run=run_fetch)
    return parser


def run_train(args: argparse.Namespace) -> None:
    names = {f.name for f in fields(TrainConfig)}
    flags = {name: value for name, value in vars(args).items() if name in names}
    config = resolve(flags, os.environ, args.config)
    comm = _start()
    from dtrain.train.trainer import train

    train(config, comm)


def run_eval(args: argparse.Namespace) -> None:
    path = Path(args.run_dir)
    if not (path / "config.toml").is_file():
        raise CheckpointError(f"{path} is not a run directory: give the one that `dtrain train` printed.")
    known = {f.name for f in fields(TrainConfig)}
    values = {k: str(v) for k, v in read_toml(str(path / "config.toml")).items() if k in known}
    for name in ("dataset", "device", "log_format"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    config = resolve(values, {})
    comm = _start()
    from dtrain.train.trainer import evaluate_run

    facts = evaluate_run(path, config, comm)
    if comm.rank == 0:
        if facts["warning"]:
            print(f"dtrain: WARNING: {facts['warning']}", file=sys.stderr)
        if config.log_format == "json":
            import json

            print(json.dumps({"event": "eval", **facts}))
        else:
            print(
                f"{facts['model']} after epoch {facts['epoch']}: loss {facts['test_loss']:.4f}, "
                f"test accuracy {facts['test_accuracy']:.4f} on {facts['test_examples']:,} examples "
                f"of {facts['dataset']}"
            )


def run_info(args: argparse.Namespace) -> None:
    from dtrain.info import lines

    if launcher.rank() == 0:
        print("\n".join(lines()))


def run_fetch(args: argparse.Namespace) -> None:
    from dtrain.train.data import cache_folder
    from dtrain.train.data.fetch import fetch

    if launcher.rank() == 0:
        folder = fetch(Path(args.to) if args.to else cache_folder())
        hint = f"; use it with --dataset {folder} or DTRAIN_DATA={folder}" if args.to else ""
        print(f"MNIST is in {folder}{hint}")


def _start() -> Any:
    """Join the other ranks, and divide the cores of this node among those on it."""
    from dtrain import comm

    world = comm.world()
    limit_threads(world.local_size)
    return world


def limit_threads(local_size: int) -> None:
    """Keep this rank's BLAS to its share of the cores; a user's own *_NUM_THREADS wins.

    OpenBLAS starts a thread a core in every rank: two ranks on two cores then ran 33 times too slow.
    """
    if local_size == 1 or any(name in os.environ for name in THREAD_VARIABLES):
        return
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threadpool_limits(max(1, cores // local_size))


def _not_taken(command: str, word: str) -> str:
    flags = [flag(f.name) for f in fields(TrainConfig)] if command == "train" else []
    near = difflib.get_close_matches(word.partition("=")[0], flags, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"`dtrain {command}` does not take {word}{hint} See `dtrain {command} --help`."


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `dtrain` command; returns its exit code."""
    from dtrain import comm

    try:
        args, rest = make_parser().parse_known_args(argv)
        if rest:
            raise UsageError(_not_taken(args.command, rest[0]))
        run: Callable[[argparse.Namespace], None] = args.run
        run(args)
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    except BrokenPipeError:  # `dtrain info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:
        world = comm.joined()
        if world is not None:
            return failure.end(world, error)
        # before the ranks have met, all fail alike: the first speaks for them
        if launcher.rank() == 0:
            return failure.report(error)
        failure.let_rank_0_speak()
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
