"""README's commands, typed one after the other into a shell, in a fresh clone with an empty HOME."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: A line of README that is a command, and not what one says.
COMMAND = re.compile(
    r"    (?:\$ )?((?:\./launch/|source |python [a-z]+\.py|mpirun |dtrain (?:[a-z]+ |doctor)|tensorboard ).*)"
)
#: Commands that need what a machine that tests does not have, by how they begin.
LEFT_OUT = {
    "./launch/test": "it runs this test",
    "./launch/local --elastic": "a second environment: tests/unit/test_elastic.py",
    "./launch/hosts": "machines n1 and n2",
    "./launch/setup gpu": "500 MB for a GPU",
    "dtrain train --device gpu": "a GPU",
    "mpirun -n 2 dtrain train --device gpu": "a GPU",
    "tensorboard": "it serves until it is stopped",
    "dtrain bench scaling --compare": "the study of the cluster before it",
}
#: Commands that hand a job to a scheduler, which is not here: their exit code.
NO_SCHEDULER = {"--submit": 3, "--through": 3, "--collect --to studies/big": 2}


def commands() -> list[str]:
    lines = (ROOT / "README.md").read_text().splitlines()
    found = [match[1] for line in lines if (match := COMMAND.match(line))]
    return [c.split("    ")[0] for c in found if not any(c.startswith(left) for left in LEFT_OUT)]


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_what_is_typed_is_found() -> None:
    assert len(commands()) >= 15 and len(programs()) == 4
    text = (ROOT / "README.md").read_text()
    assert all(f"    {left}" in text for left in LEFT_OUT)


class Shell:
    """A clone in a folder, and what a user's shell there knows."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.clone = folder / "dtrain"
        outside = re.compile(r"DTRAIN_|PYTHON|VIRTUAL_ENV|XDG_|.*_NUM_THREADS")
        self.env = {name: value for name, value in os.environ.items() if not outside.match(name)}
        self.env |= {"HOME": str(folder / "home"), "PATH": "/usr/bin:/bin", "DTRAIN_DATASET": str(dataset)}
        self.env["PYTHON"] = getattr(sys, "_base_executable", sys.executable)
        if "DTRAIN_DATA" in os.environ:  # MNIST, as somebody has it who has no network
            self.env["DTRAIN_DATA"] = os.environ["DTRAIN_DATA"]

    def __call__(self, text: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", text],
            cwd=cwd or self.clone,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, small_set: Path) -> Shell:
    """A fresh clone, set up; its programs are README's."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("there is no checkout to clone")
    shell = Shell(tmp_path_factory.mktemp("user"), small_set)
    (shell.clone.parent / "home").mkdir()
    list_files = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(list_files, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        (shell.clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, shell.clone / name, follow_symlinks=False)
    made = shell("./launch/setup")
    if "pip could not install" in made.stdout:
        pytest.skip("packages cannot be had here")
    assert made.returncode == 0 and made.stdout.endswith("type: source .venv/bin/activate\n"), made.stdout
    houses, first, task, keras = programs()
    files = {"houses.py": houses, "example.py": first, "../example.py": first}
    files |= {"price.py": task, "keras_example.py": keras}
    for file, text in files.items():
        (shell.clone / file).write_text(text)
    return shell


@pytest.mark.job
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(len(commands())), ids=commands())
def test_readme_typed(number: int, shell: Shell) -> None:
    """In README's order: a command may need what one before has left."""
    words = commands()
    entered = number >= words.index("source .venv/bin/activate")
    done = shell(f"{'source .venv/bin/activate' if entered else ''}\n{words[number]}")
    expected = next((code for word, code in NO_SCHEDULER.items() if word in words[number]), 0)
    assert done.returncode == expected, done.stdout


@pytest.mark.job
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("where", "command"),
    [
        (".", "source .venv/bin/activate; python example.py"),
        (".", "./launch/local -n 2 example.py"),
        ("..", "source dtrain/.venv/bin/activate; mpirun -n 2 python example.py"),
        ("..", "dtrain/launch/local example.py"),
    ],
)
def test_readmes_first_program_learns(where: str, command: str, shell: Shell) -> None:
    """Also in the folder that holds the clone, which Python could take for a package without files."""
    done = shell(command, shell.clone / where)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert done.returncode == 0 and len(losses) >= 4 and losses[-1] < losses[0] - 0.5, done.stdout


@pytest.mark.job
@pytest.mark.timeout(240)
def test_readmes_keras_program(shell: Shell) -> None:
    if "DTRAIN_DATA" not in shell.env:
        pytest.skip("MNIST is not here: DTRAIN_DATA")
    done = shell("./launch/local -n 2 keras_example.py")
    assert done.returncode == 0 and "val_accuracy" in done.stdout, done.stdout
