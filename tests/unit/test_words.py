"""The words that dtrain does not use (docs/reference/words.md), looked for where people read."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = ROOT / "docs" / "reference" / "words.md"
#: Where they are looked for: in Markdown outside of code and output, in docstrings and comments of Python.
#: Names of arguments, functions and files are no prose.
PLACES = [
    "*.md",
    "benchmarks/*.md",
    "docs/**/*.md",
    "dtrain/DESIGN.md",
    "cluster/*.md",
    "examples/*.md",
    "examples/*.py",
    "examples/tasks/*.py",
    "dtrain/**/*.py",
]
#: Made from the code, whose texts have not been gone through yet.
LEFT_OUT = {"docs/reference/words.md", "docs/tensorflow1.md"}


def words() -> list[str]:
    rows = re.findall(r"^\| (?!not \|)(\w.*?) \| .+ \|$", LIST.read_text(), re.M)
    return [word.strip() for row in rows for word in row.split(",")]


PATTERN = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(words(), key=len)[::-1]), re.I)


def files() -> list[Path]:
    found = {path for place in PLACES for path in ROOT.glob(place)}
    return sorted(path for path in found if str(path.relative_to(ROOT)) not in LEFT_OUT)


NAMES = re.compile(r"`[^`]*`|^\s*(?:#: )?\w+(?:, \w+)*:|[.;] \w+(?:, \w+)*:|\w+\(|\w+\.\w")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are sentences, without code."""
    if path.suffix == ".py":
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT or (
                    token.type == tokenize.STRING and '"""' in token.string[:5]
                ):
                    for number, line in enumerate(token.string.splitlines(), token.start[0]):
                        yield number, NAMES.sub(" ", line)
        return
    inside = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside and not line.startswith("    "):
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", " ", line)


def found(path: Path) -> list[str]:
    """Each use of one of the words, with its line; also where it is broken over two."""
    text, starts = "", []
    for number, line in prose(path):
        starts.append((len(text), number))
        text += re.sub(r"\s+", " ", line).strip() + " "
    uses = PATTERN.finditer(text)
    return [f"{max(n for at, n in starts if at <= use.start())}: {use[0]}" for use in uses]


def test_the_list_is_read() -> None:
    assert len(words()) >= 25 and "gone on" in words() and len(files()) >= 50


def test_the_words_are_found(tmp_path: Path) -> None:
    """A pattern that finds nothing would prove nothing."""
    page, program = tmp_path / "page.md", tmp_path / "program.py"
    page.write_text("A run is gone\non with, `told`.\n\n```text\ntold\n```\nIt was Told.\n")
    program.write_text('"""What was\ntold."""\ntold = 1  # told\n# lent\n')
    assert found(page) == ["1: gone on", "7: Told"]
    assert found(program) == ["2: told", "3: told", "4: lent"]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_none_of_the_words_is_used(path: Path) -> None:
    assert not found(path), f"see {LIST.relative_to(ROOT)}"
