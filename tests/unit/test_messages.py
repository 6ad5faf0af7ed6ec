"""Texts of messages, as they stand in the source: whole lines, not what an edit has cut them into."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import dtrain

PACKAGE = Path(dtrain.__file__).parent
#: The line length of pyproject.toml, and the width under which a piece is one that a reflow has left.
WIDTH, SHORT = 110, 36

Place = tuple[tuple[int, int], tuple[int, int]]


def literals(source: bytes) -> Iterator[list[Place]]:
    """Runs of string literals that Python joins: where each begins and ends."""
    run: list[Place] = []
    inside, begin = 0, (0, 0)
    for token in tokenize.tokenize(BytesIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":  # from Python 3.12 on; before, one token
            inside, begin = inside + 1, begin if inside else token.start
        elif kind == "FSTRING_END":
            inside -= 1
            if not inside:
                run.append((begin, token.end))
        elif inside or kind in ("NL", "COMMENT"):
            continue
        elif kind == "STRING":
            run.append((token.start, token.end))
        else:
            yield run
            run = []


def cut(source: str) -> Iterator[str]:
    """Pieces of a text that stand alone on a line, or beside others, though the next word had room there."""
    lines = source.splitlines()
    for run in literals(source.encode()):
        for (begin, end), (following, _) in pairwise(run):
            line = lines[end[0] - 1]
            if end[0] == following[0]:
                yield f"{end[0]}: two pieces on one line: {line.strip()}"
            word = re.match(r"[a-zA-Z]*[\"'][^ \"']* ?", lines[following[0] - 1][following[1] :])
            room = WIDTH - end[1] - (len(word[0]) if word else WIDTH)
            short = begin[0] == end[0] and end[1] - begin[1] < SHORT
            if short and room >= 0 and not line[: end[1]].endswith(('\\n"', "\\n'")):
                yield f"{end[0]}: there is room for the next word: {line.strip()}"


def test_what_is_cut_is_found() -> None:
    mangled = 'x = (\n    "a line that is as long as may be, and "\n    "call "\n    f"compile {x}."\n)'
    assert [text.partition(":")[0] for text in cut(mangled)] == ["3"]
    assert list(cut('x = "call " "compile"')) == [
        '1: two pieces on one line: x = "call " "compile"',
        '1: there is room for the next word: x = "call " "compile"',
    ]
    assert not list(cut('x = (\n    "a line\\n"\n    "another"\n)'))
    assert not list(cut(f'x = (\n    "{"word " * 20}"\n    "and the rest."\n)'))
    assert not list(cut('x = ["one", "two"]\ny = "three"\n'))


def test_no_text_is_cut_into_pieces() -> None:
    found = {file: list(cut(file.read_text())) for file in sorted(PACKAGE.rglob("*.py"))}
    assert not (bad := {str(file): texts for file, texts in found.items() if texts}), bad
