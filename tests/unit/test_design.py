"""DESIGN.md and the pages of docs/explanation name files, options and symbols that exist, and stay short."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "dtrain" / "DESIGN.md", *sorted((ROOT / "docs" / "explanation").glob("*.md"))]
#: Where a path in a page may begin.
FROM = (ROOT, ROOT / "dtrain")
#: What is written or found by a user, a system or another package.
ELSEWHERE = {"PYTHONDONTWRITEBYTECODE", "tests/faults/..."}
SUFFIXES = "py|c|h|cu|cuh|md|sh|toml|txt|json|css|svg"
#: Pages that list, or are a whole introduction.
LONG = {"how-it-works.md": 2300, "measurements.md": 2600}


def spans(page: Path) -> set[str]:
    """What is between backticks outside of blocks of code; of a command, its words."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    return {word for span in re.findall(r"`([^`]+)`", text) for word in span.split()}


def is_path(span: str) -> bool:
    whole = re.fullmatch(rf"[\w-][\w.-]*(?:/[\w.-]+)*(?:/|\.(?:{SUFFIXES}))|[\w-]+(?:/[\w.-]+)+", span)
    return whole is not None and "step-N" not in span


def is_symbol(span: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*(\(\))?", span) is not None


@cache
def words() -> set[str]:
    """Every word of the package's sources."""
    files = [f for f in (ROOT / "dtrain").rglob("*") if f.suffix in (".py", ".c", ".h", ".cu", ".cuh")]
    return {word for f in files for word in re.findall(r"\w+", f.read_text())}


def missing(span: str) -> bool:
    if span in ELSEWHERE:
        return False
    if is_path(span):
        return not any((top / span).exists() for top in FROM)
    return is_symbol(span) and any(part not in words() for part in span.removesuffix("()").split("."))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    assert not sorted(span for span in spans(page) if missing(span))


def test_names_are_found() -> None:
    """A pattern that finds nothing would prove nothing."""
    named = {span for page in PAGES for span in spans(page)}
    assert sum(map(is_path, named)) >= 80 and sum(map(is_symbol, named)) >= 80
    for span in ("passes/gone.py", "gone/", "docs/gone.md", "launch/gone", "Plan.no_such_thing", "NoSuchOp"):
        assert missing(span), span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short(page: Path) -> None:
    most = 3000 if page.name == "DESIGN.md" else LONG.get(page.name, 1200)
    assert len(page.read_text().split()) <= most, (
        "a figure goes to measurements.md, another subject to its own page"
    )
