"""What dtrain says when a program asks for a name of TensorFlow 1 that it has not.

`python -m dtrain.compat` prints docs/tensorflow1.md, the table of what it has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from opcode import opmap
from types import FrameType
from typing import Any

from dtrain.errors import NotSupportedError
from dtrain.hints import nearest

__all__ = ["module_getattr"]


def module_getattr(module: str) -> Callable[[str], Any]:
    """A module's __getattr__: a sentence for TensorFlow 1's names, and the name that a misspelled one means.

    module: its name in TensorFlow, such as 'tf.nn'.
    """

    here = sys._getframe(1).f_globals

    def __getattr__(name: str) -> Any:
        text = f"module 'dtrain{module[2:]}' has no attribute '{name}'"
        if name.startswith("_"):
            raise AttributeError(text, name=name)
        from dtrain.compat.names import NAMES, REASONS

        kind: type[AttributeError] = AttributeError
        if name in NAMES.get(module, "").split():
            why = REASONS.get(f"{module}.{name}", "it is not supported")
            text = f"dtrain has no {module}.{name}: {why}. docs/tensorflow1.md lists what there is."
            kind = NotSupportedError
        elif near := nearest(name, here.get("__all__", ())):
            text += f"; did you mean {near}?"
        if _imports(sys._getframe(1)):  # where Python says of an AttributeError no more than the name
            raise ImportError(text, name=str(here["__name__"]))
        raise kind(text, name=name)

    return __getattr__


def _imports(frame: FrameType | None) -> bool:
    """Whether a frame stands at `from module import name`; a module's own __getattr__ may lie between."""
    while frame is not None and frame.f_code.co_name == "__getattr__":
        frame = frame.f_back
    return frame is not None and frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]
