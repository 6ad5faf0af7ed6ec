"""Where programs for Keras 1 and 2 import from: modules that are others here, by what has their names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

#: A module's path in Keras -> the one of dtrain.keras that has what is imported from it.
PATHS = {
    "backend.tensorflow_backend": "backend",
    "engine": "layers",
    "engine.base_layer": "layers",
    "engine.input_layer": "layers",
    "engine.topology": "layers",
    "engine.training": "models",
    "layers.local": "layers",
    "legacy.interfaces": "layers",
    "legacy.layers": "layers",
    "objectives": "losses",
    "engine.network": "models",
    "layers.cudnn_recurrent": "layers",
    "utils.conv_utils": "utils",
    "utils.data_utils": "utils",
    "utils.generic_utils": "utils",
    "utils.layer_utils": "utils",
    "utils.multi_gpu_utils": "utils",
    "utils.np_utils": "utils",
    "utils.vis_utils": "utils",
    "utils.visualize_util": "utils",
}
#: What a module there has under another name than here.
NAMES = {"plot": "plot_model"}

#: What there is not, and why.
REFUSED = {
    "applications": "networks whose weights others trained are no part of it: build the layers, and "
    "load_weights",
    "datasets.imdb": "its file holds Python pickles, which run code: give the arrays",
    "datasets.reuters": "its file holds Python pickles, which run code: give the arrays",
}

_PACKAGE = "dtrain.keras."


class _Alias(ModuleType):
    """A module that has the names of another."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__dict__["_means"]), NAMES.get(name, name))


class _Finder:
    """Finds and loads them; no subclass of importlib.abc's, whose import takes longer than all of this."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(_PACKAGE):
            return None
        for path, why in REFUSED.items():
            if f"{name}.".startswith(f"{_PACKAGE}{path}."):
                raise ImportError(f"dtrain has no keras.{path}: {why}.", name=name)
        means = PATHS.get(name.removeprefix(_PACKAGE))
        return None if means is None else ModuleSpec(name, cast(Any, self), is_package=name.count(".") == 2)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Alias(spec.name)
        module.__dict__["_means"] = _PACKAGE + PATHS[spec.name.removeprefix(_PACKAGE)]
        return module

    def exec_module(self, module: ModuleType) -> None: ...


def install() -> None:
    """Let these paths be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
