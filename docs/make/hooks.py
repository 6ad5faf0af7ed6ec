"""What mkdocs does besides showing docs/: pages of the API, programs in pages, links outside.

A block of code that is the comment `# examples/NAME.py` alone becomes that program. A page links to a file
outside of docs/ by its relative path, as a forge shows it (../examples/README.md). On the site such a file is
below files/; one in Markdown is a page there, whose own links are followed in the same way.
"""

from __future__ import annotations

import html
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROGRAM = re.compile(r"^```python\n# (examples/\S+)\n```", re.MULTILINE)
#: Code with a bar in a cell of a table, where a forge wants a backslash and Python-Markdown shows it.
BAR = re.compile(r"`([^`\n]*\\\|[^`\n]*)`")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")


def path_of(uri: str) -> Path:
    """The file of the repository behind a page of the site."""
    return ROOT / uri.removeprefix("files/") if uri.startswith("files/") else DOCS / uri


def uri_of(path: Path) -> str:
    """Where a file of the repository is on the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    # a program is text there: a browser would offer some for download
    shown = "" if path.suffix in (".md", ".html") else ".txt"
    return f"files/{path.relative_to(ROOT).as_posix()}{shown}"


def menu(entries: Any) -> Iterator[str]:
    """The pages of the menu."""
    for entry in entries if isinstance(entries, list) else entries.values():
        if isinstance(entry, str):
            yield entry
        else:
            yield from menu(entry)


def linked(path: Path, text: str) -> set[Path]:
    """The files outside of docs/ that a page links to."""
    found = {Path(os.path.normpath(path.parent / link)) for link in LINK.findall(text)}
    return {p for p in found if p.is_file() and p.is_relative_to(ROOT) and not p.is_relative_to(DOCS)}


def on_files(files: Files, *, config: Any) -> Files:
    sys.path.insert(0, str(DOCS / "make"))
    import reference

    for uri, text in reference.pages().items():
        files.append(File.generated(config, uri, content=text))
    waiting = {path_of(f.src_uri) for f in files.documentation_pages() if path_of(f.src_uri).is_file()}
    waiting |= {path_of(uri) for uri in menu(config.nav) if uri.startswith("files/")}
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        if not path.is_relative_to(DOCS):
            files.append(File.generated(config, uri_of(path), abs_src_path=str(path)))
        if path.suffix == ".md":
            waiting |= linked(path, path.read_text()) - seen
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    here = page.file.src_uri
    source = path_of(here)

    def replaced(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[1]))
        if not target.is_file() or not target.is_relative_to(ROOT):
            return match[1]
        return os.path.relpath(uri_of(target), os.path.dirname(here) or ".")

    def bar(match: re.Match[str]) -> str:
        return f"<code>{html.escape(match[1]).replace(chr(92) + '|', '&#124;')}</code>"

    def program(match: re.Match[str]) -> str:
        return f"```python\n{(ROOT / match[1]).read_text()}```"

    return PROGRAM.sub(program, BAR.sub(bar, LINK.sub(replaced, markdown)))
