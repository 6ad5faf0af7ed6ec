"""A program written for TensorFlow 1 or Keras, run in this process as Python runs it."""

from __future__ import annotations

import importlib
import math
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dtrain.names.finder import exists, install

#: What the program's imports find from now on.
ROOTS = {"keras": "dtrain.keras"}
#: Names that NumPy had when such programs were written, and what it says to write instead.
NUMPY = {
    **{"int": int, "float": float, "bool": bool, "object": object, "str": str, "complex": complex},
    **{"float_": np.float64, "complex_": np.complex128, "string_": np.bytes_, "unicode_": np.str_},
    **{"Inf": np.inf, "infty": np.inf, "Infinity": np.inf, "NaN": np.nan, "PINF": np.inf, "NINF": -np.inf},
    **{"product": np.prod, "cumproduct": np.cumprod, "alltrue": np.all, "sometrue": np.any},
    **{"asscalar": lambda array: array.item(), "round_": np.round, "in1d": np.isin},
    **{"math": math, "trapz": getattr(np, "trapezoid", None)},
}
#: What TensorFlow's version is: programs compare it with those that they know.
VERSION = "1.12.0"
#: And what they find where it is not installed: TensorFlow 1 brought six along.
MISSING = {"six": "dtrain.tf1.six"}


class TensorFlow(ModuleType):
    """`import tensorflow`: dtrain's names, under TensorFlow's version; dtrain's own stays as it is."""

    def __init__(self) -> None:
        dtrain = importlib.import_module("dtrain")
        super().__init__("dtrain")  # what is in it is found by its name
        vars(self).update(vars(dtrain) | {"__version__": VERSION})
        vars(self).pop("__getattr__")  # this class's

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules["dtrain"], name)


def run_program(program: str, words: Sequence[str] = ()) -> None:
    """Run a file, with these words as its own; what it raises is raised."""
    install(ROOTS | {name: real for name, real in MISSING.items() if not exists(name)})
    from dtrain.data.addresses import answer

    answer()  # imports urllib.request, as TensorFlow does: programs take it from urllib
    sys.modules["tensorflow"] = TensorFlow()
    for name, kind in NUMPY.items():
        if name not in vars(np):
            setattr(np, name, kind)
    # TensorBoard's own word for doing without TensorFlow, for which it would take dtrain
    sys.modules["tensorboard.compat.notf"] = ModuleType("tensorboard.compat.notf")
    sys.argv = [program, *words]
    sys.path[0] = str(Path(program).parent)  # as Python does for a program that it is given
    runpy.run_path(program, run_name="__main__")
