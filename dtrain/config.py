"""The options of a training run: said once here, for flags, DTRAIN_* variables and TOML files alike.

flag > variable > file > default.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dtrain.errors import UsageError

MODELS = ("logistic", "mlp", "cnn")
OPTIMIZERS = ("sgd", "momentum", "adam")
DEVICES = ("auto", "cpu", "gpu")
LOG_FORMATS = ("text", "json")

#: Variables that are not options: read by the data search, launch/ and the report.
OTHER_VARIABLES = ("DTRAIN_DATA", "DTRAIN_MPIRUN", "DTRAIN_TERMINAL", "DTRAIN_VENV")


def option(default: Any, help: str, choices: tuple[str, ...] = (), metavar: str = "") -> Any:
    """A field of TrainConfig with what its flag needs."""
    return field(default=default, metadata={"help": help, "choices": choices, "metavar": metavar})


@dataclass(frozen=True)
class TrainConfig:
    """All options of `dtrain train`, checked; the run directory keeps them as config.toml.

    Raises:
        UsageError: a value that cannot be meant, naming the option.
    """

    model: str = option(
        "mlp",
        "logistic is 784-10, mlp 784-256-256-10 with ReLU, cnn two convolutions and 1024-10; or your own",
        MODELS,
        metavar="logistic|mlp|cnn|FILE.py:FUNCTION",
    )
    dataset: str = option(
        "auto",
        "auto (MNIST, or generated digits where there is none), mnist, synthetic, or a folder of IDX files",
        metavar="NAME|DIR",
    )
    epochs: int = option(5, "passes over the training examples")
    batch_size: int = option(100, "examples of one step over all ranks together")
    optimizer: str = option("adam", "how a step is taken", OPTIMIZERS)
    lr: float = option(0.001, "learning rate; never scaled by the number of ranks")
    seed: int = option(0, "makes initial parameters and the order of examples reproducible")
    device: str = option("auto", "auto takes a GPU where each rank of the node has one", DEVICES)
    run_dir: str = option("", "where the run is recorded; by default runs/DATE-MODEL", metavar="DIR")
    log_format: str = option("text", "json prints one object a line", LOG_FORMATS)
    log_every: int = option(100, "iterations between two lines where there is no progress bar")

    def __post_init__(self) -> None:
        for f in fields(self):
            choices, value = f.metadata["choices"], getattr(self, f.name)
            if f.name == "model" and ".py:" in value:
                continue
            if choices and value not in choices:
                near = difflib.get_close_matches(str(value), choices, 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                own = ", or FILE.py:function" if f.name == "model" else ""
                raise UsageError(f"{flag(f.name)} {value}: choose one of {', '.join(choices)}{own}{hint}.")
        for name in ("epochs", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} {getattr(self, name)}: give a whole number from 1 up.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"--lr {self.lr}: give a number above 0, such as 0.001.")
        if not 0 <= self.seed < 2**62:
            raise UsageError(f"--seed {self.seed}: give a whole number from 0 to 2**62 - 1.")

    def to_toml(self) -> str:
        """The options as a file that --config takes."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items())


def flag(name: str) -> str:
    """The command-line flag of an option."""
    return "--" + name.replace("_", "-")


def resolve(
    flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, file: str | None = None
) -> TrainConfig:
    """The options that flags, variables and a TOML file add up to.

    Args:
        flags: option name -> text, of the flags that were given.
        environ: where DTRAIN_* variables are looked up.
        file: path of a TOML file, or None.

    Raises:
        UsageError: an unknown name or a value that cannot be meant, with where it came from.
    """
    known = {f.name: f for f in fields(TrainConfig)}
    chosen: dict[str, tuple[Any, str]] = {}
    for name, value in read_toml(file).items() if file else ():
        if name not in known:
            raise UsageError(f"{file}: {_unknown(name, list(known))}")
        chosen[name] = (value, f"{file}: {name}")
    for variable, text in environ.items():
        if not variable.startswith("DTRAIN_") or variable in OTHER_VARIABLES:
            continue
        name = variable[len("DTRAIN_") :].lower()
        if name not in known:
            raise UsageError(
                _unknown(variable, ["DTRAIN_" + n.upper() for n in known] + list(OTHER_VARIABLES))
            )
        chosen[name] = (text, variable)
    for name, text in flags.items():
        chosen[name] = (text, flag(name))
    values = {name: _convert(known[name].default, value, where) for name, (value, where) in chosen.items()}
    try:
        return TrainConfig(**values)
    except UsageError as error:
        named = [where for name, (_, where) in chosen.items() if str(error).startswith(flag(name) + " ")]
        if not named or named[0].startswith("--"):
            raise
        raise UsageError(f"{error} (It comes from {named[0]}.)") from None


def _convert(default: Any, value: Any, where: str) -> Any:
    """A value as the type of the option's default."""
    kind = type(default)
    if kind is str and isinstance(value, str):
        return value
    try:
        if isinstance(value, bool) or kind is str:
            raise ValueError
        if kind is int and isinstance(value, float):
            raise ValueError
        return kind(value)
    except ValueError:
        wanted = {int: "a whole number", float: "a number", str: "text in quotes"}[kind]
        raise UsageError(f"{where} {value!r}: give {wanted}, such as {default!r}.") from None


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
    return f"{name} is not an option of dtrain; {hint}"


def read_toml(path: str) -> dict[str, Any]:
    """The content of a TOML file; raises UsageError, naming it, where it cannot be read."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}.") from None
