"""tf.app: run() reads the command line and calls main."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from dtrain.names import module_getattr
from dtrain.tf1 import flags

__all__ = ["flags", "run"]

__getattr__ = module_getattr("tf.app")


def run(main: Callable[[list[str]], Any] | None = None, argv: Sequence[str] | None = None) -> None:
    """Set FLAGS from the command line, call main(what is left of it), and end with what it returns.

    main: by default the one of the program that was started. Words that are no flag stay in the list.
    """
    left = flags.FLAGS(list(sys.argv if argv is None else argv), known_only=True)
    sys.exit((main or sys.modules["__main__"].main)(left))
