"""argparse as the commands use it: errors are raised, and a switch is the text on or off."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from dtrain import choices
from dtrain.choices import LOG_FORMATS
from dtrain.comm import launcher
from dtrain.errors import UsageError

#: The command of two words, which has options of its own.
SCALING = "bench scaling"


class Parser(argparse.ArgumentParser):
    """argparse, with usage errors raised instead of printed by every rank."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if words[:2] == SCALING.split():  # two words that are one subcommand
            words[:2] = [SCALING]
        return super().parse_known_args(words, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A word that is none of the subcommands, with the one that is meant."""
        if action.choices is None or value in action.choices:
            return
        if str(value).endswith(".py"):
            raise UsageError(
                f"`{self.prog} {value}`: a program of your own is started by `python {value}`, on several "
                f"ranks by `mpirun -n 2 python {value}` or `./launch/local -n 2 {value}`."
            )
        choices.check(f"`{self.prog} {value}` is no command", value, list(action.choices))

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `{self.prog} --help`.")

    def print_help(self, file: Any = None) -> None:
        if launcher.rank() == 0:
            super().print_help(file)


class Switch(argparse.BooleanOptionalAction):
    """--NAME and --no-NAME, as the text on or off."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, "off" if str(option_string).startswith("--no-") else "on")


def check_log_format(chosen: str) -> None:
    choices.check(f"--log-format {chosen}", chosen, LOG_FORMATS)
