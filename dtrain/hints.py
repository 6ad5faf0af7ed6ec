"""What messages ask a user to type: whole, so that a shell takes it as it is, and spelled right."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable


def pip_install(what: str) -> str:
    """The command that installs a package for the Python that runs: the `pip` of a shell may be another's."""
    return f"{shlex.quote(sys.executable)} -m pip install '{what}'"


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of the known names that is meant by a misspelled one; '' where none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), "")
