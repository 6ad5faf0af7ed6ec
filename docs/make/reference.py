"""The pages of the reference that are made from the code.

`python docs/make/reference.py` writes command-line.md, environment.md and exit-codes.md of docs/reference.
They are kept in the repository; a test compares them. The pages of the API are made with the site (hooks.py).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import dtrain
from dtrain import choices, cli
from dtrain.cli.parser import SCALING
from dtrain.config import OTHER_VARIABLES, TrainConfig, flag
from dtrain.errors import EXIT_CODES

DOCS = Path(__file__).parents[1]
MADE = "<!-- Made by `python docs/make/reference.py`; a test compares it with the code. -->\n"

#: The options of `dtrain train` by what they are about. One that is in no group stands under "Other".
GROUPS = {
    "What is trained": "task model model_digest dataset label validation early_stop augment init_from",
    "The step": "epochs batch_size optimizer lr seed",
    "The machine": "device precision share_gpu kernels average overlap bitwise",
    "The run": "run_dir checkpoint_every keep resume elastic min_ranks",
    "What is shown and recorded": "log_format log_every log_dir tensorboard profile",
    "What is checked": "check_numerics check_every stall_warn stall_abort",
}
#: Defaults that are not a value.
DEFAULTS = {"run_dir": "runs/DATE-MODEL", "profile": "off"}

#: The variables that are no options.
VARIABLES = {
    "DTRAIN_DATA": "a folder with MNIST's four files, or with folders of the sets that have a name",
    "DTRAIN_MPIRUN": "the mpirun of `launch/local`, `dt.launch` and `dtrain bench scaling`",
    "DTRAIN_VENV": "the Python environment that `launch/` makes and uses (default `.venv`)",
    "DTRAIN_TERMINAL": "1: progress bars, although standard output is a pipe; `launch/local` sets it",
    "DTRAIN_OWN_GPU": "set by `launch/bind` on ranks to which it gave a GPU",
    "DTRAIN_POISON": "1: memory that a step has not written yet holds NaN, to find errors in kernels",
    "DTRAIN_LAB": "set in the processes of the two-node test on one machine (tests/cluster)",
}


# -- the command line ------------------------------------------------------------------------------------
def cell(text: str) -> str:
    """Text as a cell of a table."""
    return text.replace("|", "\\|").replace("%%", "%")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by what is typed behind `dtrain`, in the order of `dtrain --help`."""
    found: dict[str, argparse.ArgumentParser] = {}

    def walk(parser: argparse.ArgumentParser, name: str) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word, below in action.choices.items():
                    found[f"{name} {word}".strip()] = below
                    walk(below, f"{name} {word}".strip())

    walk(cli.make_parser(), "")
    return found


def form(action: argparse.Action) -> str:
    """How an option or argument is typed."""
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if isinstance(value, tuple):
        value = " ".join(value)
    if isinstance(action, argparse.BooleanOptionalAction):
        value = ""
    if action.nargs in ("+", "*") and not value.endswith("..."):
        value += " ..."
    if action.nargs == "?" and action.option_strings:
        value = f"[{value}]"
    names = [name for name in action.option_strings if name != "-h"] or [""]
    return ", ".join(f"`{' '.join(filter(None, (name, value)))}`" for name in names)


def table(actions: list[argparse.Action]) -> Iterator[str]:
    yield "| | |\n|---|---|\n"
    for action in actions:
        yield f"| {cell(form(action))} | {cell(action.help or '')} |\n"
    yield "\n"


def train_tables(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of TrainConfig by group, with their defaults."""
    options = {f.name: f for f in fields(TrainConfig)}
    groups = {title: names.split() for title, names in GROUPS.items()}
    grouped = {name for names in groups.values() for name in names}
    groups["Other"] = [name for name in options if name not in grouped]
    for title, names in groups.items():
        if not names:
            continue
        yield f"### {title}\n\n| option | default | |\n|---|---|---|\n"
        for name in names:
            option = options[name]
            default = DEFAULTS.get(name, str(choices.word(option.default)).removesuffix(".0"))
            typed = form(parser._option_string_actions[flag(name)])
            if name == "task":
                typed += " or `dtrain train FILE.py`"
            yield f"| {cell(typed)} | {cell(default)} | {cell(option.metadata['help'])} |\n"
        yield "\n"


def command_line() -> str:
    """docs/reference/command-line.md"""
    text = [
        MADE,
        "# The command line\n\n",
        "Made from the code that parses it. `mpirun -n 4 dtrain COMMAND` runs a command on four ranks; "
        "[exit codes](exit-codes.md) are those of all commands.\n\n",
    ]
    for name, parser in parsers().items():
        text.append(f"## dtrain {name}\n\n")
        if parser.description:
            text.append(sentence(parser.description) + "\n\n")
        own = {f.name for f in fields(TrainConfig)} if name == "train" else set()
        rest = [
            action
            for action in parser._actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
            and action.dest not in own
            and action.help is not argparse.SUPPRESS
        ]
        if name == "train":
            text.append(
                "An option is given as a flag, as a variable (`DTRAIN_BATCH_SIZE=200`), or in a TOML file "
                "(`batch_size = 200`) that `--config` names. A flag wins over a variable, a variable over "
                "the file. The run's folder keeps all of them as `config.toml`.\n\n"
            )
        if rest:
            text.extend(table(rest))
        if own:
            text.extend(train_tables(parser))
        if name == SCALING and parser.epilog:
            text.append(sentence(parser.epilog) + "\n\n")
    return "".join(text).rstrip() + "\n"


def sentence(text: str) -> str:
    """Help as a paragraph of Markdown."""
    return escaped(" ".join(text.replace("%%", "%").split()))


def environment() -> str:
    """docs/reference/environment.md"""
    assert set(VARIABLES) == set(OTHER_VARIABLES), "docs/make/reference.py: VARIABLES"
    rows = [f"| `{name}` | {cell(said)} |\n" for name, said in sorted(VARIABLES.items())]
    options = " ".join(f"`DTRAIN_{f.name.upper()}`" for f in fields(TrainConfig))
    return (
        f"{MADE}# Environment variables\n\n"
        "Each option of `dtrain train` is a variable, too: `DTRAIN_` and its name in capitals, with `_` for "
        "`-`. An option that is on or off takes the words `on` and `off`.\n\n"
        f"{options}\n\n"
        "A program of your own, which has no command line of dtrain's, takes these: `DTRAIN_DEVICE`, "
        "`DTRAIN_KERNELS`, `DTRAIN_AVERAGE`, `DTRAIN_OVERLAP`, `DTRAIN_SHARE_GPU`, `DTRAIN_ELASTIC`, "
        "`DTRAIN_STALL_WARN` and `DTRAIN_STALL_ABORT`. A variable that begins with `DTRAIN_` and is none of "
        "these is refused by `dtrain train`.\n\n"
        "| variable | |\n|---|---|\n" + "".join(rows) + "\n"
        "Threads of the linear algebra library follow `OPENBLAS_NUM_THREADS`, `OMP_NUM_THREADS` and "
        "`MKL_NUM_THREADS`, where they are set.\n"
    )


def exit_codes() -> str:
    """docs/reference/exit-codes.md"""
    rows = [f"| {code} | {cell(said)} |\n" for code, said in EXIT_CODES.items()]
    return (
        f"{MADE}# Exit codes\n\n"
        "What `dtrain` ends with, on every rank, and so what mpirun and a job end with.\n\n"
        "| exit code | |\n|---|---|\n" + "".join(rows) + "\n"
        "A rank that a signal kills is seen first by its launcher, which has a code of its own for that: 9 "
        "of MPICH's mpirun after `kill -9`, 137 of Open MPI's.\n\n"
        "`./launch/local --restarts N` starts a run that failed again from its last checkpoint: not after 2 "
        "to 6 and 10, where the next start would end in the same way, nor after 75 and 130. The job files do "
        "the same, and queue the job again after 75.\n"
    )


KEPT = {
    "reference/command-line.md": command_line,
    "reference/environment.md": environment,
    "reference/exit-codes.md": exit_codes,
}

# -- the API ---------------------------------------------------------------------------------------------
#: The pages of the API: a module each, and what it is for.
MODULES = {
    "dtrain": "Graph, session, tensors and their operations: `import dtrain as dt`.",
    "dtrain.nn": "`dt.nn`: activations, convolution, pooling, cross entropies.",
    "dtrain.train": "`dt.train`: optimizers, checkpoints, monitored sessions, schedules.",
    "dtrain.losses": "`dt.losses`: TensorFlow 1's losses with weights and reductions.",
    "dtrain.initializers": "`dt.initializers`: initial values of variables.",
    "dtrain.summary": "`dt.summary`: what is written for TensorBoard.",
    "dtrain.keras.models": "`dt.keras.models`: Sequential and Model.",
    "dtrain.keras.layers": "`dt.keras.layers`.",
    "dtrain.keras.losses": "`dt.keras.losses`.",
    "dtrain.keras.metrics": "`dt.keras.metrics`.",
    "dtrain.keras.optimizers": "`dt.keras.optimizers`.",
    "dtrain.keras.callbacks": "`dt.keras.callbacks`.",
    "dtrain.errors": "`dt.errors`: every error that dtrain raises on purpose.",
}


def escaped(text: str) -> str:
    """Text in which Markdown has only the meaning of its backquotes."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<\[\]|#~])", r"\\\1", p) for p in parts)


_ITEM = re.compile(r"([\w.*]+(?:, [\w.*]+)*): ")


def paragraphs(doc: str) -> Iterator[str]:
    """A docstring as Markdown: text, arguments as a list, code, and a section such as Raises."""
    for block in re.split(r"\n\s*\n", doc.strip()):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines) and not _ITEM.match(lines[0].strip()):
            yield "```python\n" + "\n".join(line[4:] for line in lines) + "\n```"
            continue
        if re.fullmatch(
            r"(Raises|Args|Arguments|Returns|Yields|Example|Examples|Source|Attributes):", lines[0]
        ):
            yield f"**{lines[0][:-1]}**"
            lines = inspect.cleandoc("\n".join(lines[1:])).splitlines()
        if lines and lines[0].startswith(">>> "):
            yield "\n".join(["```pycon", *lines, "```"])
            continue
        text: list[str] = []
        items = False
        for line in inspect.cleandoc("\n".join(lines)).splitlines():
            if _ITEM.match(line):
                name, _, rest = line.partition(": ")
                text.append(f"\n- `{name}`: {escaped(rest)}" if items else f"\n\n- `{name}`: {escaped(rest)}")
                items = True
            elif line.startswith(" ") and items:
                text.append("    " + escaped(line.strip()))
            else:
                text.append(("\n\n" if items else "") + escaped(line.strip()))
                items = False
        if text:
            yield "\n".join(text).strip()


def signature(name: str, what: Any) -> str:
    """A call as it is written: the arguments with their defaults, without their types."""
    try:
        found = inspect.signature(what)
    except (TypeError, ValueError):
        return name
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "self"]
    text = str(found.replace(parameters=bare, return_annotation=found.empty))
    return name + re.sub(r"<[^<>]*>", "...", text)


def entry(name: str, what: Any) -> Iterator[str]:
    """The description of one name."""
    doc = inspect.getdoc(what) if callable(what) or inspect.isclass(what) else None
    yield f"### {name.replace('_', chr(92) + '_')}\n"
    if callable(what):
        yield f"```python\n{signature(name, what)}\n```\n"
    if doc:
        yield from (f"{part}\n" for part in paragraphs(doc))
    if inspect.isclass(what):
        methods = [
            (n, m)
            for n, m in vars(what).items()
            if not n.startswith("_") and inspect.isfunction(m) and m.__doc__
        ]
        for n, m in methods:
            first = escaped(" ".join(inspect.cleandoc(m.__doc__).split("\n\n")[0].split()))
            yield f"- `{signature(n, m)}`: {first}"
        if methods:
            yield ""


def public(module: ModuleType) -> list[str]:
    """The names that a module gives: of one without a list, the classes that it makes."""
    own = [n for n, x in vars(module).items() if inspect.isclass(x) and x.__module__ == module.__name__]
    late = ["launch"] if module is dtrain else []  # loaded on first use, so in no list
    return [*getattr(module, "__all__", own), *late]


def api(module: str) -> str:
    """The page of a module: every public name, with its signature and docstring."""
    found = importlib.import_module(module)
    names = sorted(n for n in public(found) if not inspect.ismodule(getattr(found, n)))
    short = module.replace("dtrain", "dt", 1)
    text = [f"# {short}\n", f"{MODULES[module]}\n"]
    for name in names:
        what = getattr(found, name)
        if callable(what):
            text += list(entry(name, what))
        else:
            text.append(f"### {name}\n\n`{what!r}`\n")
    return "\n".join(text)


def pages() -> dict[str, str]:
    """The pages that are made with the site: their names below docs/, and their text."""
    found = {f"reference/api/{module}.md": api(module) for module in MODULES}
    rows = [
        f"| [{module.replace('dtrain', 'dt', 1)}]({module}.md) | {said} |\n"
        for module, said in MODULES.items()
    ]
    head = (
        f"# API of dtrain {dtrain.__version__}\n\nMade from the docstrings. What only old programs need is "
        "in [TensorFlow 1's names in dtrain](../../tensorflow1.md).\n\n| module | |\n|---|---|\n"
    )
    return {"reference/api/index.md": head + "".join(rows)} | found


if __name__ == "__main__":
    for name, make in KEPT.items():
        (DOCS / name).write_text(make())
