"""The values of options that are words, for flags, DTRAIN_* variables and arguments."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from typing import Any

from dtrain.errors import UsageError

MODELS = ("logistic", "mlp", "cnn")
OPTIMIZERS = ("sgd", "momentum", "adam")
DEVICES = ("auto", "cpu", "gpu")
LOG_FORMATS = ("text", "json")
#: How kernels on the host are made.
KERNELS = ("auto", "c", "numpy")
#: What the operands of float32 products are rounded to on a GPU. Sums are float32 in each.
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
#: How gradients are summed.
AVERAGES = ("auto", "shared", "mpi")
#: The values of an option whose flags are --NAME (on) and --no-NAME (off).
SWITCH = ("auto", "on", "off")
#: The words of an option that is a boolean, in files, variables and messages; its flags are the same.
ON_OFF = {"on": True, "off": False}


def check(said: str, value: str, choices: Collection[str], also: str = "") -> None:
    """Return where a value is one of the choices.

    said: the value and where it stands, for the message. also: what else there is, for the message.

    Raises:
        UsageError: it is none of them.
    """
    if value not in choices:
        near = difflib.get_close_matches(value, choices, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"{said}: choose one of {', '.join(choices)}{also}{hint}.")


def boolean(said: str, word: str) -> bool:
    """What on or off means; see check."""
    check(said, word, ON_OFF)
    return ON_OFF[word]


def word(value: Any) -> Any:
    """A boolean as its user writes it, on or off; any other value as it is."""
    return ("on" if value else "off") if isinstance(value, bool) else value


def of_environment(option: str, choices: Collection[str], default: str) -> str:
    """What DTRAIN_OPTION says in a program that no command line has configured, or the default.

    Raises:
        UsageError: it is none of the choices.
    """
    variable = f"DTRAIN_{option.upper()}"
    value = os.environ.get(variable, default)
    check(f"{variable}={value}", value, choices)
    return value


def boolean_of_environment(option: str) -> bool:
    """The same of a boolean, which is off by default."""
    return ON_OFF[of_environment(option, ON_OFF, "off")]
