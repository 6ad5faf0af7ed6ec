"""Names of TensorFlow 1: where those are that load on first use, and a sentence for those that are not there.

What old programs alone need lives in dtrain/tf1, which is laid out as TensorFlow 1 is: `tf.layers` is
dtrain/tf1/layers.py, `tf.contrib.rnn` dtrain/tf1/contrib/rnn.py. `import dtrain` loads none of it.

`python -m dtrain.names` prints docs/tensorflow1.md, the table of what there is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from opcode import opmap
from types import FrameType
from typing import Any

from dtrain.errors import NotSupportedError
from dtrain.hints import nearest
from dtrain.names.finder import ROOM, exists, install

__all__ = ["late_names", "module_getattr"]

install()


def module_getattr(module: str) -> Callable[[str], Any]:
    """A module's __getattr__: names that load on first use, a sentence for TensorFlow 1's others.

    module: its name in TensorFlow, such as 'tf.nn'.
    """

    here = sys._getframe(1).f_globals

    def __getattr__(name: str) -> Any:
        text = f"module 'dtrain{module[2:]}' has no attribute '{name}'"
        if name.startswith("_"):
            raise AttributeError(text, name=name)
        found, value = _load(module, name)
        if found:
            here[name] = value
            return value
        from dtrain.names.table import refusal

        kind: type[AttributeError] = AttributeError
        if why := refusal(module, name):
            text, kind = why, NotSupportedError
        elif near := nearest(name, [*here.get("__all__", ()), *late_names(module)]):
            text += f"; did you mean {near}?"
        if _imports(sys._getframe(1)):  # where Python says of an AttributeError no more than the name
            raise ImportError(text, name=str(here["__name__"]))
        raise kind(text, name=name)

    return __getattr__


def late_names(module: str) -> list[str]:
    """The names of a module, such as 'tf.nn', that load on first use; without its submodules."""
    from dtrain.names.late import LATE

    return [name for names in LATE.get(module, {}).values() for name in names.split()]


def _load(module: str, name: str) -> tuple[bool, Any]:
    """Whether a name loads on first use, and what it is."""
    from dtrain.names.late import LATE

    for where, names in LATE.get(module, {}).items():
        if name in names.split():
            return True, getattr(importlib.import_module(where), name)
    from dtrain.names.table import known

    room = f"{ROOM}{module[2:]}.{name}"
    if known(module, name) and exists(room):
        return True, importlib.import_module(room)
    return False, None


def _imports(frame: FrameType | None) -> bool:
    """Whether a frame stands at `from module import name`; a module's own __getattr__ may lie between."""
    while frame is not None and frame.f_code.co_name == "__getattr__":
        frame = frame.f_back
    return frame is not None and frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]
