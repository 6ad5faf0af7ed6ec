"""The architecture as a test: imports point one way, and what is heavy is imported only when used."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dtrain
from dtrain.names import late_names
from dtrain.names.late import LATE
from dtrain.names.table import known

PACKAGE = Path(dtrain.__file__).parent

#: Each part of dtrain may import the parts named, and itself; `dtrain` is the package's own __init__.
ALLOWED = {
    "errors": "",
    "hints": "",
    "files": "",
    "poison": "",
    "machine": "",
    "choices": "errors",
    "config": "choices errors files",
    "names": "errors hints",
    "graph": "errors",
    "comm": "choices errors hints poison",
    "native": "errors files graph hints poison",
    "cuda": "errors hints native",
    "ops": "errors graph hints native",
    "autodiff": "errors graph ops",
    "passes": "comm errors graph native ops",
    "runtime": "choices comm cuda errors graph native ops passes poison",
    "nn": "names ops",
    "losses": "errors graph names ops",
    "initializers": "names ops",
    "summary": "comm errors graph names ops",
    "info": "__version__ comm cuda errors files hints machine native",
    "data": "comm errors files names",
    "train": "autodiff comm config data errors files graph info machine names ops runtime summary",
    "task": "comm config data dtrain errors export files graph hints info keras machine ops runtime train",
    "keras": "autodiff comm config data errors files graph hints names ops runtime summary train",
    "tf1": "comm data errors files graph keras losses names ops passes runtime summary train",
    "report": "__version__ config errors files hints",
    "jobs": "__version__ errors info",
    "bench": "comm config data dtrain errors files info keras machine ops program report runtime task train",
    "doctor": "bench comm data dtrain errors files hints info machine native runtime",
    "cli": "__version__ bench choices comm config data doctor errors "
    "info jobs program report runtime task train verify",
    "__main__": "cli",
    "dtrain": "autodiff comm data errors graph initializers keras losses names nn ops runtime summary train",
    "export": "errors graph hints ops passes",
    "program": "data names",
    "verify": "comm config data dtrain errors files graph info native ops passes runtime task train",
}
ALLOWED = {part: {*names.split()} for part, names in ALLOWED.items()}


def imported(file: Path) -> set[str]:
    """Modules that a file imports anywhere in it, but for what only annotations need."""
    names: set[str] = set()
    tree = ast.parse(file.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} uses a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def files_of(part: str) -> list[Path]:
    module = PACKAGE / ("__init__.py" if part == "dtrain" else f"{part}.py")
    return [module] if module.exists() else sorted((PACKAGE / part).rglob("*.py"))


def imports_of(part: str) -> dict[str, Path]:
    """The other parts that a part imports, each with a file that does."""
    found = {}
    for file in files_of(part):
        for name in imported(file):
            package, _, rest = name.partition(".")
            if package == "dtrain":
                found[rest.partition(".")[0] or "dtrain"] = file
    found.pop(part, None)
    return found


def test_every_part_is_known() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert parts - {"__init__"} | {"dtrain"} == set(ALLOWED)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part: str) -> None:
    found = imports_of(part)
    assert not (more := {name: file for name, file in found.items() if name not in ALLOWED[part]}), more
    assert not (less := ALLOWED[part] - set(found)), f"no longer imported, so no longer allowed: {less}"


def test_no_circle() -> None:
    """A circle is two parts that are one: neither can be read, tested or moved without the other."""
    left = {part: others - {"__version__"} for part, others in ALLOWED.items()}
    while left:
        leaves = {part for part, others in left.items() if not others & set(left)}
        assert leaves, f"in a circle, or above one: {sorted(left)}"
        left = {part: others for part, others in left.items() if part not in leaves}


def test_one_place_of_keras_knows_ranks() -> None:
    """What only rank 0 does sits in RankZero: no other file of keras asks which rank it is."""
    for file in (PACKAGE / "keras").rglob("*.py"):
        words = {
            node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)
        }
        assert file.name == "rank_zero.py" or not words & {"rank", "local_rank"}, file


def test_only_their_own_places_know_mpi_and_cuda() -> None:
    for file in PACKAGE.rglob("*.py"):
        heavy = {name.split(".")[0] for name in imported(file)} & {"mpi4py", "cupy", "cupy_backends"}
        place = file.relative_to(PACKAGE).as_posix()
        known = ("comm/mpi.py", "comm/nccl.py", "cuda/gpus.py", "cuda/nvrtc.py", "info.py")
        assert not heavy or place in known, f"{place}: {heavy}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dtrain.cli import main; main(['train', '--help']); "
        "heavy = {'mpi4py', 'cupy', 'tqdm', 'safetensors', 'platformdirs', 'threadpoolctl', 'tensorboard', "
        "'matplotlib', 'dtrain.keras.models', 'dtrain.keras.layers'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--batch-size" in done.stdout


#: What programs import: every module whose names are kept from version to version.
PUBLIC = (
    *("dtrain", "dtrain.nn", "dtrain.train", "dtrain.losses", "dtrain.initializers", "dtrain.summary"),
    *("dtrain.errors", "dtrain.comm", "dtrain.train.experimental"),
)
#: Those of Keras: its files that say what is public in them.
KERAS = tuple(
    ".".join(("dtrain", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted((PACKAGE / "keras").rglob("*.py"))
    if re.search("^__all__ = ", path.read_text(), re.M)
)
#: Those that only programs of TensorFlow 1 need, by the paths by which they import them. Other files of tf1/
#: are theirs.
ROOM = tuple(
    name.removesuffix(".__init__")
    for path in sorted((PACKAGE / "tf1").rglob("*.py"))
    for name in [".".join(("dtrain", *path.relative_to(PACKAGE / "tf1").with_suffix("").parts))]
    for module, _, last in [name.removesuffix(".__init__").replace("dtrain", "tf", 1).rpartition(".")]
    if known(module, last) or name.startswith(("dtrain.examples.", "dtrain.python."))
)


def public_names() -> list[str]:
    """Every public name: those of __all__ or, where there is none, what the module itself defines."""
    names = []
    for name in (*PUBLIC, *KERAS, *ROOM):
        module = find(name)
        own = (n for n, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
        listed = getattr(module, "__all__", None) or [n for n in own if not n.startswith("_")]
        assert len(set(listed)) == len(listed), f"{name}.__all__ has a name twice"
        assert all(hasattr(module, n) for n in listed), f"{name}.__all__ has a name that is not there"
        names += [f"{name}.{n}" for n in listed]
    for name in LATE:
        module = find(f"dtrain{name[2:]}")
        names += [f"dtrain{name[2:]}.{n}" for n in late_names(name) if hasattr(module, n)]
    return sorted({*names})


def find(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:  # no file of its own
        parent, _, last = name.rpartition(".")
        return getattr(importlib.import_module(parent), last)


def test_the_public_names_are_these() -> None:
    """A name that appears or goes is a decision: change public_names.txt with it."""
    written = Path(__file__).with_name("public_names.txt").read_text().splitlines()
    now = public_names()
    assert not (new := sorted(set(now) - set(written))), f"new: {new}"
    assert not (gone := sorted(set(written) - set(now))), f"gone: {gone}"
    assert written == now, "the list is sorted, each name once"


def test_public_functions_have_names_and_docstrings_of_their_own() -> None:
    """`help(dt.subtract)` is of subtract. An alias, such as dt.sub, may have the name of the other."""
    words = {name.rpartition(".")[2] for name in public_names()}
    for name in public_names():
        module, _, last = name.rpartition(".")
        value = getattr(find(module), last)
        if inspect.isfunction(value):
            assert value.__name__.rstrip("_") in words, f"{name} is called {value.__name__}"
            assert value.__doc__ and not re.search(r"[a-z]\.[,.;] ", value.__doc__), (
                f"{name}: {value.__doc__}"
            )


def test_every_module_of_names_is_frozen() -> None:
    """What has an __all__, and no file that begins with an underscore, is for programs, or is listed here."""
    own = {"dtrain.passes", "dtrain.names", "dtrain.data", "dtrain.train.loss_scale"}
    found = set()
    for file in PACKAGE.rglob("*.py"):
        if PACKAGE / "tf1" in file.parents:
            continue  # ROOM has those that programs know
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        targets = (
            t for n in ast.parse(file.read_text()).body if isinstance(n, ast.Assign) for t in n.targets
        )
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            found.add(name)
    listed = {*own, *PUBLIC, *KERAS}
    assert found <= listed, found - listed
