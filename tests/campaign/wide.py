"""A process in which every float32 is a float64: what a program would give without rounding."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from typing import Any

import numpy as np

SINGLE = np.dtype(np.float32)
#: Whether what is drawn was float32 before; a program in float64 draws as it does.
drawn_single = True


class _Finder(MetaPathFinder):
    """Changes two of dtrain's modules as they are imported: dtypes, and random numbers, whose draws stay."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        change = {"dtrain.graph.dtypes": _dtypes, "dtrain.ops.random": _draws}.get(name)
        if change is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def loaded(module: Any) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = loaded  # type: ignore[method-assign]
        return spec


def _dtypes(module: Any) -> None:
    module.float32 = module.float64
    module._BY_NAME |= {"float32": module.float64, "float": module.float64}


def _draws(module: Any) -> None:
    def single(draw: Any) -> Any:
        def drawn(self: Any, generator: Any, dtype: Any) -> Any:
            if not drawn_single:
                return draw(self, generator, dtype)
            np.float32 = SINGLE.type  # NumPy asks itself for it
            try:
                return draw(self, generator, SINGLE)
            finally:
                np.float32 = np.float64

        return drawn

    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, module._Random) and "draw" in vars(kind):
            kind.draw = single(kind.draw)


def install() -> None:
    """Before dtrain is imported."""
    assert "dtrain" not in sys.modules
    np.float32 = np.float64  # type: ignore[misc, assignment]
    sys.meta_path.insert(0, _Finder())
