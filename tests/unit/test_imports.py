"""The architecture as a test: imports point one way, and what is heavy is imported only when used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dtrain

PACKAGE = Path(dtrain.__file__).parent

#: Each part of dtrain may import the parts named, and itself.
ALLOWED = {
    "errors": set(),
    "files": set(),
    "poison": set(),
    "graph": {"errors"},
    "comm": {"errors", "poison"},
    "native": {"errors", "files", "graph", "poison"},
    "cuda": {"errors", "native"},
    "ops": {"errors", "graph", "native"},
    "autodiff": {"errors", "graph", "ops"},
    "passes": {"errors", "graph", "ops", "native", "comm"},  # of comm what a Link is
    "runtime": {"errors", "graph", "ops", "passes", "comm", "native", "cuda", "poison"},
    "compat": {"errors"},
    "nn": {"ops", "compat"},
    "config": {"errors", "files"},
    "initializers": {"ops", "compat"},
    "contrib": {"errors", "graph", "ops", "compat"},
    "report": {"errors", "config", "__version__"},
    "python": {"errors", "runtime"},
    "summary": {"errors", "graph", "ops", "comm", "compat"},
}


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
    module = PACKAGE / f"{part}.py"
    return [module] if module.exists() else sorted((PACKAGE / part).rglob("*.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part: str) -> None:
    assert files_of(part)
    for file in files_of(part):
        for name in imported(file):
            words = name.split(".")
            if words[0] == "dtrain":
                other = words[1]
                assert other == part or other in ALLOWED[part], f"{file} imports {name}"


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
        assert not heavy or place in ("comm/mpi.py", "comm/nccl.py", "runtime/backend.py", "info.py"), (
            f"{place}: {heavy}"
        )


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


def test_the_public_names_are_these() -> None:
    """A name that appears or goes is a decision: change this list with it."""
    for name in dtrain.__all__:
        assert hasattr(dtrain, name)
    assert len(set(dtrain.__all__)) == len(dtrain.__all__)
    words = {"Graph", "Session", "Shard", "Variable", "constant", "placeholder", "gradients", "nn", "train"}
    assert words - {"nn", "train"} <= set(dtrain.__all__)
    assert {"AdamOptimizer", "GradientDescentOptimizer", "MomentumOptimizer"} <= set(dtrain.train.__all__)
