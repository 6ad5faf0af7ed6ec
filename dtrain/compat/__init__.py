"""What dtrain says when a program asks for a name of TensorFlow 1 that it has not.

`python -m dtrain.compat` prints docs/tensorflow1.md, the table of what it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtrain.errors import NotSupportedError

__all__ = ["module_getattr"]


def module_getattr(module: str) -> Callable[[str], Any]:
    """A module's __getattr__: a sentence for TensorFlow 1's names, Python's words for all others.

    module: its name in TensorFlow, such as 'tf.nn'.
    """

    def __getattr__(name: str) -> Any:
        if not name.startswith("_"):
            from dtrain.compat.names import NAMES, REASONS

            if name in NAMES.get(module, "").split():
                full = f"{module}.{name}"
                why = REASONS.get(full, "it is not written")
                raise NotSupportedError(
                    f"dtrain has no {full}: {why}. docs/tensorflow1.md lists what there is.", name=name
                )
        raise AttributeError(f"module 'dtrain{module[2:]}' has no attribute '{name}'", name=name)

    return __getattr__
