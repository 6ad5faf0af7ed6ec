"""The `dtrain` command: parse, run, and end all ranks when one fails. A module a command."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields

from dtrain import comm as communicators
from dtrain.choices import SWITCH
from dtrain.cli import (
    bench,
    cluster,
    data,
    doctor,
    evaluate,
    export,
    info,
    predict,
    report,
    run,
    scaling,
    train,
    verify,
)
from dtrain.cli.parser import SCALING, Parser
from dtrain.cli.run import start as run_program
from dtrain.comm import failure, launcher
from dtrain.config import TrainConfig, flag
from dtrain.errors import EnvironmentProblem, SavedAndStopped, UsageError

#: What a full disk, a quota or a file that is lost says.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
#: The commands in the order of --help: each has its options in add_parser(commands), its work in run(args).
COMMANDS = (
    train,
    run,
    evaluate,
    predict,
    export,
    report,
    info,
    doctor,
    bench,
    scaling,
    verify,
    cluster,
    data,
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands. Values stay text: config.py checks them, wherever they come from."""
    from dtrain import __version__

    parser = Parser(
        prog="dtrain", description="Train a neural network data-parallel over MPI.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"dtrain {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _not_taken(command: str, word: str, before: str) -> str:
    name = before.lstrip("-")
    if word in SWITCH and any(flag(f.name) == before for f in fields(TrainConfig)):
        return f"{before} {word}: it takes no value; {before} is on, --no-{name} is off."
    flags = [flag(f.name) for f in fields(TrainConfig)] if command in ("train", "verify") else []
    near = difflib.get_close_matches(word.partition("=")[0], flags, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"`dtrain {command}` does not take {word}{hint} See `dtrain {command} --help`."


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The subcommand and its options; raises UsageError for a word that it does not take."""
    words, program = list(words), []
    if words[:1] == ["cluster"] and "--" in words:  # what the job runs has options of its own
        words, program = words[: words.index("--")], words[words.index("--") + 1 :]
    if words[:2] == SCALING.split():
        words[:2] = [SCALING]
    args, rest = make_parser().parse_known_args(words)
    if args.command in ("train", "verify") and args.file is not None and ".py" not in args.file:
        rest = rest or [args.file]  # a value of a switch that takes none
    if rest:
        at = words.index(rest[0])
        raise UsageError(_not_taken(args.command, rest[0], words[at - 1]))
    if args.command == "cluster":
        args.program, args.parse = program, parse  # what the job runs is parsed as well
    return args


def make_streams_usable() -> None:
    """stdout and stderr that take any text: a closed one takes none, an ASCII one says \\xe9."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # started with >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the process
        elif hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Let what is still to be written go nowhere, so that Python's end does not fail on it again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `dtrain` command; returns its exit code."""
    make_streams_usable()
    try:
        try:
            args = parse(sys.argv[1:] if argv is None else argv)
        except SystemExit as end:  # --help and --version
            return int(end.code or 0)
        if (world := communicators.joined()) is not None:
            world.board.run_dir("")  # what ran before in this process is not what an error is about
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `dtrain info | head`
        drop_stdout()
        return 1
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            drop_stdout()
            error = EnvironmentProblem(f"stdout takes no more lines: {error.strerror}. Send it elsewhere.")
        if isinstance(error, SavedAndStopped):
            from dtrain.train.preempt import close_ears

            close_ears()
        world = communicators.joined()
        if world is not None:
            return failure.end(world, error)
        # before the ranks have met, all fail: the first speaks for them
        if launcher.rank() == 0:
            return failure.report(error)
        failure.let_rank_0_speak()
        return getattr(error, "exit_code", 1)
    if args.command == "run":
        run_program(args)
    return 0
