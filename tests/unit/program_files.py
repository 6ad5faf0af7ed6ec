"""Where the programs are that tests run: those of tests/programs, and those of examples/ that people read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "programs"


def file_of(program: str) -> Path:
    """The file of a program of this name."""
    (found,) = (
        path
        for folder in (PROGRAMS, ROOT / "examples", ROOT / "examples" / "lecture")
        if (path := folder / f"{program}.py").exists()
    )
    return found
