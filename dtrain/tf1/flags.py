"""tf.flags: options of a program, defined where they are used and read from its command line.

    tf.flags.DEFINE_integer("batch_size", 100, "examples of a step")
    FLAGS = tf.flags.FLAGS
    print(FLAGS.batch_size)         # the first look at one reads the command line

Written --batch_size=50 or --batch_size 50, with one dash or two; a boolean --shuffle or --noshuffle. --help
lists them.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dtrain.errors import UsageError
from dtrain.names import module_getattr

__all__ = [
    "FLAGS",
    "DEFINE_bool",
    "DEFINE_boolean",
    "DEFINE_enum",
    "DEFINE_float",
    "DEFINE_integer",
    "DEFINE_list",
    "DEFINE_multi_float",
    "DEFINE_multi_integer",
    "DEFINE_multi_string",
    "DEFINE_string",
    "Flag",
    "FlagValues",
    "mark_flag_as_required",
    "mark_flags_as_required",
]

__getattr__ = module_getattr("tf.flags")


class Flag:
    """One option: its name, value, default, help, and the function that reads text."""

    def __init__(
        self, name: str, default: Any, help: str | None, parse: Callable[[str], Any], file: str
    ) -> None:
        self.name, self.default, self.help, self.file = name, default, help or "", file
        self.parse, self.value = parse, default
        self.boolean = parse is _boolean
        self.several = self.present = self.required = False


class FlagValues:
    """All flags: each is an attribute, read from the command line at the first look at any of them."""

    def __init__(self) -> None:
        self.__dict__.update(_known={}, _parsed=False)

    def __call__(self, argv: Sequence[str], known_only: bool = False) -> list[str]:
        """Read a command line whose first word is the program; what is no flag comes back.

        Raises:
            UsageError: a value that does not fit, a flag that is required and missing; one that is not known,
                unless known_only.
        """
        self._parsed = True
        left, words = list(argv[:1]), list(argv[1:])
        for flag in self._known.values():
            flag.present = False
        while words:
            word = words.pop(0)
            if word == "--":
                left += words
                break
            name, given, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            if not word.startswith("-") or not name or name[0].isdigit():
                left.append(word)
            elif name in ("help", "helpfull", "helpshort", "h") and name not in self._known:
                print(self.main_module_help(argv[0] if argv else ""))
                sys.exit(1)
            elif not self._set(name, value if given else None, words):
                if not known_only:
                    raise UsageError(
                        f"unknown flag {word}: the program has {', '.join(sorted(self)) or 'none'}."
                    )
                left.append(word)
        if missing := [f"--{f.name}" for f in self._known.values() if f.required and f.value is None]:
            raise UsageError(f"flags that have to be given: {', '.join(missing)}.")
        return left

    def _set(self, name: str, value: str | None, words: list[str]) -> bool:
        """Set the flag of this name, whose value may be the next word; False where there is none."""
        if name not in self._known and name[:2] == "no" and name[2:] in self._known:
            if not self._known[name[2:]].boolean:
                return False
            name, value = name[2:], "false"
        flag = self._known.get(name)
        if flag is None:
            return False
        if value is None and flag.boolean:
            value = "true"
        if value is None and not words:
            raise UsageError(f"--{name} needs a value: --{name}=VALUE.")
        try:
            read = flag.parse(words.pop(0) if value is None else value)
        except ValueError as error:
            raise UsageError(f"--{name}: {error}.") from None
        flag.value = [*(flag.value if flag.present else ()), *read] if flag.several else read
        flag.present = True
        return True

    def add(self, flag: Flag) -> None:
        """Define a flag. Raises UsageError where another file defines one of the name."""
        other = self._known.get(flag.name)
        if other is not None and other.file != flag.file:
            raise UsageError(f"the flag {flag.name!r} of {flag.file} is defined in {other.file} already.")
        self._known[flag.name] = flag
        self.__dict__["_parsed"] = False

    def __getattr__(self, name: str) -> Any:
        if name == "__flags":  # as versions before 1.5 had it
            return self.flag_values_dict()
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._known:
            raise AttributeError(
                f"there is no flag {name!r}: the program has {', '.join(sorted(self)) or 'none'}."
            )
        self._parse_flags()
        return self._known[name].value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self.__dict__[name] = value
        elif name in self._known:
            self._parse_flags()
            self._known[name].value = value
        else:
            raise AttributeError(
                f"there is no flag {name!r}: tf.flags.DEFINE_string({name!r}, ...) makes one."
            )

    def __getitem__(self, name: str) -> Flag:
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __dir__(self) -> list[str]:
        return sorted(self._known)

    def _parse_flags(self, args: Sequence[str] | None = None) -> None:
        """Read the command line, if that was not done."""
        if not self._parsed:
            self(sys.argv if args is None else ["", *args], known_only=True)

    def is_parsed(self) -> bool:
        """Whether the command line was read."""
        return self._parsed

    def mark_as_parsed(self) -> None:
        """Leave the flags at their defaults."""
        self._parsed = True

    def flag_values_dict(self) -> dict[str, Any]:
        """Values by name."""
        self._parse_flags()
        return {name: flag.value for name, flag in self._known.items()}

    def main_module_help(self, program: str = "") -> str:
        """What --help prints."""
        lines = [f"usage: {os.path.basename(program or sys.argv[0])} [flags]", "", "flags:"]
        for name, flag in sorted(self._known.items()):
            lines.append(f"  --{'[no]' if flag.boolean else ''}{name}: {flag.help}")
            lines.append(f"    (default: {flag.default!r})")
        return "\n".join(lines)


FLAGS = FlagValues()


def DEFINE_string(name: str, default: str | None, help: str | None = None, flag_values: Any = FLAGS) -> None:
    """Define a flag of text."""
    _define(name, default, help, str, flag_values)


def DEFINE_integer(
    name: str,
    default: int | None,
    help: str | None = None,
    lower_bound: int | None = None,
    upper_bound: int | None = None,
    flag_values: Any = FLAGS,
) -> None:
    """Define a flag that is a whole number, also written 0x1f."""
    _define(name, default, help, _within(lambda text: int(text, 0), lower_bound, upper_bound), flag_values)


def DEFINE_float(
    name: str,
    default: float | None,
    help: str | None = None,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    flag_values: Any = FLAGS,
) -> None:
    """Define a flag that is a number."""
    default = None if default is None else float(default)
    _define(name, default, help, _within(float, lower_bound, upper_bound), flag_values)


def DEFINE_boolean(name: str, default: Any, help: str | None = None, flag_values: Any = FLAGS) -> None:
    """Define a flag that is on or off: --name, --noname, --name=true."""
    value = _boolean(default) if isinstance(default, str) else None if default is None else bool(default)
    _define(name, value, help, _boolean, flag_values)


DEFINE_bool = DEFINE_boolean


def DEFINE_enum(
    name: str,
    default: str | None,
    enum_values: Sequence[str],
    help: str | None = None,
    flag_values: Any = FLAGS,
) -> None:
    """Define a flag that is one of some words."""

    def parse(text: str) -> str:
        if text not in enum_values:
            raise ValueError(f"{text!r} is none of {', '.join(enum_values)}")
        return text

    _define(name, default, help, parse, flag_values)


def DEFINE_list(name: str, default: Any, help: str | None = None, flag_values: Any = FLAGS) -> None:
    """Define a flag that is a list, written with commas."""
    _define(name, _list(default) if isinstance(default, str) else default, help, _list, flag_values)


def DEFINE_multi_string(name: str, default: Any, help: str | None = None, flag_values: Any = FLAGS) -> None:
    """Define a flag that may be given several times: the list of what was given."""
    _define_several(name, default, help, str, flag_values)


def DEFINE_multi_integer(name: str, default: Any, help: str | None = None, flag_values: Any = FLAGS) -> None:
    """DEFINE_multi_string of whole numbers."""
    _define_several(name, default, help, lambda text: int(text, 0), flag_values)


def DEFINE_multi_float(name: str, default: Any, help: str | None = None, flag_values: Any = FLAGS) -> None:
    """DEFINE_multi_string of numbers."""
    _define_several(name, default, help, float, flag_values)


def mark_flag_as_required(flag_name: str, flag_values: Any = FLAGS) -> None:
    """A program without this flag on its command line ends with an error."""
    flag_values[flag_name].required = True


def mark_flags_as_required(flag_names: Iterable[str], flag_values: Any = FLAGS) -> None:
    """mark_flag_as_required of several."""
    for name in flag_names:
        mark_flag_as_required(name, flag_values)


def _define(name: str, default: Any, help: str | None, parse: Callable[[str], Any], values: Any) -> Flag:
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    flag = Flag(name, default, help, parse, frame.f_code.co_filename)
    values.add(flag)
    return flag


def _define_several(
    name: str, default: Any, help: str | None, parse: Callable[[str], Any], values: Any
) -> None:
    default = default if default is None or isinstance(default, list) else [default]
    _define(name, default, help, lambda text: [parse(text)], values).several = True


def _within(parse: Callable[[str], Any], low: Any, high: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        number = parse(text)
        if (low is not None and number < low) or (high is not None and number > high):
            raise ValueError(f"{number} is not between {low} and {high}")
        return number

    return read


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "t", "1", "yes", "y"):
        return True
    if text.lower() in ("false", "f", "0", "no", "n"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _list(text: str) -> list[str]:
    return [part.strip() for part in next(csv.reader([text]), [])]
