"""What README, docs/ and cluster/ say of the command line is what the command line takes."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtrain import cli
from dtrain.bench import scaling
from dtrain.cli import cluster
from dtrain.cli.parser import SCALING
from dtrain.cli.scaling import FLAGS
from dtrain.config import resolve
from dtrain.errors import UsageError

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "cluster").glob("*.md")),
    ROOT / "dtrain" / "DESIGN.md",
]
#: What stands in the pages and is not dtrain's: options of launchers, schedulers, pip, pytest, TensorBoard.
FOREIGN = {
    *("--with-ft", "--logdir", "--mpi", "--kill-on-bad-exit", "--wait", "--cpu-bind", "--signal", "--me"),
    *("--no-binary", "--rm", "--parent", "--build-arg", "--depth", "--requeue", "--batch"),
    *("--gpu-bind", "--gpus-per-task", "--no-index", "--find-links"),
}


def code_of(page: Path) -> Iterator[tuple[int, str]]:
    """The code of a page, by its lines: indented or fenced blocks but Python's, and spans."""
    fence = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence != "```python" and (fence or line.startswith("    ")):
            yield number, line
        elif not fence:
            yield from ((number, span) for span in re.findall(r"`([^`]+)`", line))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a command of dtrain stands, and the words behind `dtrain`."""
    files = [(page, code_of(page)) for page in PAGES]
    for job in sorted((ROOT / "cluster").glob("*.sh")):
        lines = enumerate(job.read_text().splitlines(), 1)
        files.append((job, ((number, line) for number, line in lines if line.startswith("program=("))))
    for file, lines in files:
        for number, text in lines:
            for found in re.finditer(r"(?:^|[\s/(`])(dtrain|launch/local|launch/hosts) ([a-z-].*)", text):
                rest = re.split(r"`| && |\)|\s#|\s{2,}|\s\.\.\.", found[2])[0]
                words = shlex.split(rest.replace("[", "").replace("]", ""))
                if found[1] != "dtrain":
                    words = of_launch(words)
                # not the module `dtrain as tf`, nor the image of `docker run dtrain mpirun`, nor a program
                if words and words[0] not in ("as", "mpirun", "example.py"):
                    yield f"{file.relative_to(ROOT)}:{number}: {found[0].strip()}", words


def of_launch(words: list[str]) -> list[str]:
    """The words of dtrain behind those of launch/local and launch/hosts."""
    while words and words[0].startswith("-"):
        words = words[1 if words[0] in ("--elastic", "--print", "-h") else 2 :]
    return words


COMMANDS = list(commands())


def test_the_pages_are_read() -> None:
    """A pattern that finds nothing would prove nothing."""
    assert len(COMMANDS) >= 50
    kinds = {words[0] for _, words in COMMANDS}
    assert kinds >= {"train", "eval", "report", "info", "doctor", "bench", "cluster", "data"}
    assert {where.partition(":")[0] for where, _ in COMMANDS} >= {
        *("README.md", "cluster/README.md", "cluster/slurm.sh", "cluster/flux.sh"),
        *("docs/cluster/slurm.md", "docs/cluster/kubernetes.md"),
    }


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_every_command_is_taken(
    where: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").touch()  # README's program
    commands = next(
        a for a in cli.make_parser()._actions if isinstance(a, argparse._SubParsersAction)
    ).choices
    nested = {f"data {action}" for action in ("fetch", "import", "show")}
    if " ".join(words) in {*commands, *nested}:  # its name alone
        return
    try:
        args = cli.parse(words)
    except SystemExit as end:
        assert end.code == 0 and "--help" in words
        return
    given = vars(args)
    if args.command == "train":
        own = {"command", "run", "config", "file"}
        options = {name: value for name, value in given.items() if name not in own}
        if options.get("resume", "auto") != "auto":
            options["run_dir"] = options.pop("resume")  # a folder that is not here
        resolve(options, {})
    elif args.command == "cluster":
        cluster.program_of(args, "name")
    elif args.command == SCALING:
        scaling.from_flags({name: given[name] for name in FLAGS if name in given})
        if args.ranks:
            numbers = scaling.parse_ranks(args.ranks)
            if args.through:
                cli.parse(scaling.job(scaling.Options(), numbers[0], args.through)[3:])


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_is_one(page: Path) -> None:
    ours = {word for parser in parsers(cli.make_parser()) for word in parser._option_string_actions}
    launch = {
        word
        for name in ("local", "hosts")
        for word in re.findall(r"--[a-z-]+", (ROOT / "launch" / name).read_text())
    }
    for number, text in code_of(page):
        for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            assert word in ours | launch | FOREIGN, f"{page.name}:{number}: {word}"


@pytest.mark.parametrize("words", [["--check-numerics", "off"], ["--overlap", "on"], ["--elastic", "auto"]])
def test_a_switch_with_a_value_is_told_its_two_forms(words: list[str]) -> None:
    name = words[0].removeprefix("--")
    with pytest.raises(UsageError, match=f"--{name} {words[1]}: it takes no value; .*--no-{name} is off"):
        cli.parse(["train", *words])
