"""The pages of docs/: their code runs, their links lead somewhere, what is made from the code is up to date.

`PAGES=whole pytest tests/unit/test_pages.py` types every command as it is, on as many ranks as it says
and with the real data; otherwise training is short, on a small set, and `mpirun -n N dtrain` is one rank.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import dtrain as dt
from dtrain.cli import main
from dtrain.data import store
from dtrain.export import file as export_file
from dtrain.train import checkpoint

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WHOLE = os.environ.get("PAGES") == "whole"
#: Pages whose code runs in a test of their own, or cannot run here.
ELSEWHERE = {
    "data.md": "tests/unit/test_data_page.py",
    "predict.md": "tests/unit/test_predict_page.py",
    "tasks.md": "tests/unit/test_tasks_page.py",
    "tensorflow1.md": "it has no code",
    **{f"cluster/{name}.md": "a scheduler" for name in ("flux", "kubernetes", "lsf", "pbs", "slurm", "ssh")},
}
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
LINKED = [
    *(DOCS / page for page in PAGES),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "cluster", "examples")),
    ROOT / "dtrain" / "DESIGN.md",
]
#: Commands that take longer than a test of pages may, and what else runs them.
LONG = {"dtrain bench scaling": "tests/unit/test_typed.py"}
#: A line of programs that read MNIST, and what takes less of it.
MNIST = "x_train, x_test = x_train / 255.0, x_test / 255.0\n"
LITTLE = f"x_train, y_train, x_test, y_test = x_train[:999], y_train[:999], x_test[:99], y_test[:99]\n{MNIST}"
#: What a command needs besides dtrain.
NEEDS = {"dtrain report": "matplotlib", "python four.py": "cloudpickle"}


class Block(NamedTuple):
    """A block of code: its language, its text, its line, and why it is not run, if so."""

    language: str
    text: str
    line: int
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    fence, text, start, before, reason = "", "", 0, "", ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if fence and line == "```":
            yield Block(fence, text, start, reason)
            fence = text = line = ""
        elif fence:
            text += line + "\n"
        elif line.startswith("```"):
            fence, start = line.removeprefix("```") or "none", number
            found = re.fullmatch(r"<!-- not run: (.{8,}) -->", before)
            reason = found[1] if found else ""
        before = line
    assert not fence, f"{page}:{start}: the block has no end"


# -- code ------------------------------------------------------------------------------------------------
def test_all_pages_are_known() -> None:
    assert set(ELSEWHERE) <= set(PAGES) and len(PAGES) >= 35
    run = [block for page in PAGES for block in blocks(DOCS / page) if block.language in ("sh", "python")]
    assert len(run) >= 50 and sum(not block.reason for block in run) >= 42


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_a_language(page: str) -> None:
    for block in blocks(DOCS / page):
        plain = page in ELSEWHERE and block.language == "none"
        assert plain or block.language in ("python", "sh", "text"), f"{page}:{block.line}"


def short(words: list[str], small_set: Path) -> list[str]:
    """A command of dtrain's, of three epochs at most, on a small set in place of MNIST."""
    words = ["--validation=100" if w == "--validation" else w for w in words]
    if "--validation=100" in words and "--label" not in words:
        del words[words.index("--validation=100") + 1]
    words = ["--validation" if w == "--validation=100" and "--label" in words else w for w in words]
    for at, word in enumerate(words):
        if word == "--epochs":
            words[at + 1] = str(min(3, int(words[at + 1])))
        elif word == "--dataset" and words[at + 1] in ("mnist", "synthetic"):
            words[at + 1] = str(small_set)
    return words


def typed(line: str, small_set: Path) -> None:
    """Run a line of a page, in this process where that can be."""
    for command, module in NEEDS.items():
        if line.startswith(command) and importlib.util.find_spec(module) is None:
            return
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if WHOLE:
        for name in ("DTRAIN_DATASET", "DTRAIN_EPOCHS"):
            environment.pop(name)
        subprocess.run(["bash", "-c", line], env=environment, check=True, stdin=subprocess.DEVNULL)
        return
    words = shlex.split(re.sub(r"^mpirun -n \d+ dtrain", "dtrain", line))
    if words[0] == "dtrain":
        if not any(line.startswith(command) for command in LONG):
            assert main(short(words[1:], small_set)) == 0, line
        return
    if words[0] == "python":
        words[0] = sys.executable
    elif words[:2] == ["mpirun", "-n"]:
        words = [str(Path(sys.executable).with_name("mpirun")), *words[1:3], sys.executable, *words[4:]]
        if not Path(words[0]).exists():
            return
    done = subprocess.run(words, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
@pytest.mark.timeout(600 if WHOLE else 60)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_set: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"DATASET": str(small_set), "EPOCHS": "3", "TENSORBOARD": "off"}.items():
        monkeypatch.setenv(f"DTRAIN_{name}", value)
    text = (DOCS / page).read_text()
    if "datasets.mnist" in text and "DTRAIN_DATA" not in os.environ:
        pytest.skip("MNIST is not here: DTRAIN_DATA")
    names: dict[str, object] = {"__name__": "__main__"}
    dt.reset_default_graph()
    for block in blocks(DOCS / page):
        if block.reason or block.language not in ("python", "sh"):
            continue
        if include := re.fullmatch(r"# (examples/\S+)\n", block.text):
            assert (ROOT / include[1]).exists()  # tests/unit/test_examples.py runs it
        elif block.language == "sh":
            for line in block.text.splitlines():
                typed(line, small_set)
        elif name := re.match(r"# (\w+\.py)", block.text):
            Path(name[1]).write_text(block.text if WHOLE else block.text.replace(MNIST, LITTLE))
        else:
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
    dt.reset_default_graph()


# -- links, pictures, menu -------------------------------------------------------------------------------
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_pictures_are_small_and_used() -> None:
    pictures = {path for path in (DOCS / "pictures").iterdir() if path.suffix in (".svg", ".png")}
    text = "".join(page.read_text() for page in LINKED)
    for picture in pictures:
        assert picture.stat().st_size < 60_000 and f"pictures/{picture.name}" in text, picture.name
    # an SVG on the site loads nothing and runs nothing
    for picture in pictures:
        if picture.suffix == ".svg":
            assert not re.search(r"<script|<image|href|url\(h", picture.read_text())


def test_the_menu_has_every_page() -> None:
    menu = re.findall(r"- (?:[^:\n]+: )?([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    made = {page for page in menu if page.startswith("reference/api/")}
    outside = {page for page in menu if page.startswith("files/")}
    assert sorted(set(menu) - made - outside) == PAGES and len(set(menu)) == len(menu)
    assert made == set(reference().pages())
    assert all((ROOT / page.removeprefix("files/")).is_file() for page in outside)


# -- what is made from the code --------------------------------------------------------------------------
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "make" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["command-line", "environment", "exit-codes"])
def test_a_page_that_is_made_is_up_to_date(name: str) -> None:
    made = reference().KEPT[f"reference/{name}.md"]()
    assert (DOCS / f"reference/{name}.md").read_text() == made, "type: python docs/make/reference.py"


def test_the_api_has_every_public_name() -> None:
    pages = reference().pages()
    page = pages["reference/api/dtrain.md"]
    names = [n for n in dt.__all__ if not isinstance(getattr(dt, n), ModuleType)]
    titles = {title.replace("\\", "") for title in re.findall(r"^### (.+)$", page, re.M)}
    assert {*names, "launch"} == titles
    assert "- `strides, padding, data_format, dilations`: " in pages["reference/api/dtrain.nn.md"]
    assert "object at 0x" not in "".join(pages.values())


def test_every_extra_is_on_the_page_of_installing() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    part = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.MULTILINE | re.DOTALL)
    extras = re.findall(r"^(\w+) = \[", part[1], re.MULTILINE) if part else []
    rows = re.findall(r"^\| (`.+?`) \|", (DOCS / "how-to" / "install.md").read_text(), re.MULTILINE)
    assert sorted(extras) == sorted(re.findall(r"`(\w+)`", " ".join(rows))) and len(extras) >= 10


def test_formats_have_their_numbers() -> None:
    page = (DOCS / "reference" / "formats.md").read_text()
    for file, number in (("step-N.json", checkpoint.FORMAT), ("SET/manifest.json", store.FORMAT)):
        (row,) = (line for line in page.splitlines() if file in line)
        assert row.endswith(f"| `format`: {number} |")
    assert f"opset {export_file.OPSET} |" in page


def test_measured_figures_are_those_of_the_results() -> None:
    """Each row of a table beside others is a row of benchmarks/results."""
    results = (ROOT / "benchmarks" / "results" / "2026-11-25-peers.md").read_text()
    small, large = results.split("| global batch 1,000 |")
    names = {
        "dtrain, 1 rank": "dtrain-1",
        "dtrain, 2 ranks": "dtrain-2",
        "JAX 0.10, scan, 1 core": "jax-scan-1",
        "JAX 0.10, scan, 2 cores": "jax-scan-2",
        "PyTorch 2.13, eager, 1 thread": "torch-eager-1",
        "PyTorch 2.13, fused, 2 threads": "torch-fused-2",
        "PyTorch 2.13, DDP, 2 ranks": "torch-ddp-2",
        "TensorFlow 2.21, session, 2 threads": "tf-session-2",
        "Keras fit, 2 threads": "keras-fit-2",
    }
    for page in (DOCS / "explanation" / "beside.md", ROOT / "README.md"):
        rows = re.findall(r"^\| ([^|]+) \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", page.read_text(), re.M)
        assert len(rows) >= 5, page
        for name, first, second in rows:
            assert f"| {names[name]} | {first} |" in small, f"{page.name}: {name}"
            assert f"| {names[name]} | {second} |" in large, f"{page.name}: {name}"


# -- the site --------------------------------------------------------------------------------------------
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {page.replace(".md", ".html") for page in PAGES} <= set(pages)
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"([^\"]+)|<link[^>]+href=\"([^\"]+)", text)
        assert not [a or b for a, b in loaded if re.match(r"(?:https?:)?//", a or b)], name
    programs = [path.name for path in (tmp_path / "files" / "examples").iterdir()]
    assert "own_loop.py.txt" in programs
