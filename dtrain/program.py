"""A program written for TensorFlow 1 or Keras, run in this process as Python runs it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from dtrain.names.finder import exists, install

#: What the program's imports find from now on.
ROOTS = {"tensorflow": "dtrain", "keras": "dtrain.keras"}
#: Names that NumPy had when such programs were written, and what it says to write instead.
NUMPY = {"int": int, "float": float, "bool": bool, "object": object, "str": str, "complex": complex}
#: What TensorFlow's version is.
VERSION = "1.12.0"
#: And what they find where it is not installed: TensorFlow 1 brought six along.
MISSING = {"six": "dtrain.tf1.six"}


def run_program(program: str, words: Sequence[str] = ()) -> None:
    """Run a file, with these words as its own; what it raises is raised."""
    install(ROOTS | {name: real for name, real in MISSING.items() if not exists(name)})
    from dtrain.data.addresses import answer

    answer()  # imports urllib.request, as TensorFlow does: programs take it from urllib
    # programs compare it with the versions that they know
    vars(sys.modules["dtrain"])["__version__"] = VERSION
    for name, kind in NUMPY.items():
        if name not in vars(np):
            setattr(np, name, kind)
    # TensorBoard's own word for doing without TensorFlow, for which it would take dtrain
    sys.modules["tensorboard.compat.notf"] = ModuleType("tensorboard.compat.notf")
    sys.argv = [program, *words]
    sys.path[0] = str(Path(program).parent)  # as Python does for a program that it is given
    runpy.run_path(program, run_name="__main__")
