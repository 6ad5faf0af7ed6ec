"""Imports by TensorFlow's and Keras's paths: `import dtrain.contrib.rnn` finds dtrain/tf1/contrib/rnn.py.

A module that is found under another path is the same module, not a copy of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Where the modules are that only programs of TensorFlow 1 need.
ROOM = "dtrain.tf1"

#: Modules of TensorFlow's own folders, within `tensorflow.python`, and what holds their names here.
SAME = {
    f"{ROOM}.python.{folder}.{name}": real
    for real, modules in {
        "dtrain": {
            "framework": "constant_op dtypes ops random_seed tensor_shape",
            "ops": """
                array_ops check_ops clip_ops control_flow_ops gradients_impl init_ops linalg_ops logging_ops
                math_ops random_ops script_ops state_ops variable_scope variables
            """,
        },
        "dtrain.errors": {"framework": "errors errors_impl"},
        "dtrain.nn": {"ops": "candidate_sampling_ops embedding_ops nn nn_impl nn_ops rnn"},
        "dtrain.summary": {"summary": "summary"},
        "dtrain.tf1.averages": {"training": "moving_averages"},
        "dtrain.tf1.app": {"platform": "app"},
        "dtrain.tf1.flags": {"platform": "flags"},
        "dtrain.tf1.gfile": {"platform": "gfile"},
        "dtrain.tf1.layers": {"layers": "layers"},
        "dtrain.tf1.layers.base": {"layers": "base"},
        "dtrain.tf1.layers.convolutional": {"layers": "convolutional"},
        "dtrain.tf1.layers.core": {"layers": "core"},
        "dtrain.tf1.layers.normalization": {"layers": "normalization"},
        "dtrain.tf1.logging": {"platform": "tf_logging"},
        "dtrain.train": {
            "training": """
                adam basic_session_run_hooks gradient_descent learning_rate_decay momentum monitored_session
                optimizer saver session_run_hook training training_util
            """,
        },
    }.items()
    for folder, names in modules.items()
    for name in names.split()
} | {
    f"{ROOM}.six.moves.{name}": name for name in ("urllib", "urllib.error", "urllib.parse", "urllib.request")
}
SAME |= {
    f"{ROOM}.python.framework.graph_util": f"{ROOM}.graph_util",
    f"{ROOM}.python.saved_model": f"{ROOM}.saved_model",
}
SAME |= dict.fromkeys(
    (
        *(f"{ROOM}.contrib.keras", f"{ROOM}.python.keras"),
        *("dtrain.keras.api", "dtrain.keras.python", "dtrain.keras.keras"),  # folders in between
    ),
    "dtrain.keras",
)


class Alias(Loader):
    """Gives the module of another name."""

    def __init__(self, real: str) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import machinery has put the alias's there


class Aliases(MetaPathFinder):
    """First in line: finds what is in a module that has another name, and roots such as `tensorflow`."""

    def __init__(self, roots: Mapping[str, str]) -> None:
        self.roots = dict(roots)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, last = name.rpartition(".")
        if not parent:
            return _alias(name, self.roots[name]) if name in self.roots else None
        module = sys.modules.get(parent)
        if module is None or module.__name__ == parent or not module.__name__.startswith("dtrain"):
            return None
        return _alias(name, f"{module.__name__}.{last}")


class Room(MetaPathFinder):
    """Last in line: what is not found in dtrain is looked for among the modules of TensorFlow 1."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in SAME:
            return ModuleSpec(name, Alias(SAME[name]))
        if not name.startswith("dtrain.") or f"{name}.".startswith(f"{ROOM}."):
            return None
        return _alias(name, ROOM + name[len("dtrain") :])


def exists(name: str) -> bool:
    """Whether a module of this name can be imported; imports the packages that it is in."""
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package on the way is none, or is not there
        return False


def install(roots: Mapping[str, str] = {}) -> None:
    """Let imports find dtrain's modules by TensorFlow's paths.

    roots: packages that stand for others from now on, such as {"tensorflow": "dtrain"}.
    """
    for finder in sys.meta_path:
        if isinstance(finder, Aliases):
            finder.roots.update(roots)
            return
    sys.meta_path.insert(0, Aliases(roots))
    sys.meta_path.append(Room())


def _alias(name: str, real: str) -> ModuleSpec | None:
    """Where to find name under its real one; a sentence for a module of TensorFlow's that is not here."""
    if exists(real):
        return ModuleSpec(name, Alias(real), is_package=True)
    from dtrain.names.table import refusal

    module, _, last = f"{real}.".replace(f"{ROOM}.", "dtrain.", 1)[:-1].rpartition(".")
    if why := refusal("tf" + module[len("dtrain") :], last):
        raise ModuleNotFoundError(why, name=name)
    return None
