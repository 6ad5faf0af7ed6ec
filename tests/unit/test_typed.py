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


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def programs() -> dict[str, str]:
    """README's programs, by the names that their first lines give."""
    return {re.match(r"# (\w+\.py)", text)[1]: text for text in blocks("python")}  # type: ignore[index]


def test_what_is_typed_is_found() -> None:
    assert len(commands()) >= 10 and [*programs()] == ["digits.py", "example.py", "houses.py"]


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130 and max(map(len, lines)) <= 130


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
    files = programs()
    for file, text in (files | {"../example.py": files["example.py"]}).items():
        (shell.clone / file).write_text(text)
    return shell


@pytest.mark.job
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(len(commands())), ids=commands())
def test_readme_typed(number: int, shell: Shell) -> None:
    """In README's order: a command may need what one before has left."""
    words = commands()
    if "digits.py" in words[number] and "DTRAIN_DATA" not in shell.env:
        pytest.skip("MNIST is not here: DTRAIN_DATA")
    entered = number >= words.index("source .venv/bin/activate")
    done = shell(f"{'source .venv/bin/activate' if entered else ''}\n{words[number]}")
    assert done.returncode == 0, done.stdout


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
    assert done.returncode == 0 and len(losses) >= 3 and losses[-1] < losses[0] - 0.5, done.stdout
