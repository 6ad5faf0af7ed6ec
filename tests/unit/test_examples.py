"""The programs of examples/: listed in its README, and the same on one rank and on two."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from program_files import PROGRAMS, ROOT

EXAMPLES = ROOT / "examples"
FILES = sorted(
    str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".ipynb")
)
#: Examples that start ranks themselves, so they run as one process.
LAUNCH = ["launch_function.py", "notebook.ipynb"]
#: Tested by test_programs.py, on two ranks, too.
OTHER_TESTS = ["characters.py", "datasets.py", "estimator_cnn.py"]
HERE = ["convolution.py", "keras_gan.py", "own_data.py", "own_loop.py", "several_gpus.py"]

#: What each prints on one rank: numbers by a pattern, and what they have to be.
GOOD = {
    "convolution.py": lambda _, accuracy: accuracy > 0.85,
    "keras_gan.py": lambda x, y, *_: 0 < x < 3,
    "own_data.py": lambda error, worst: error < 0.15 and worst < 0.5,
    "own_loop.py": lambda *epochs: epochs[-1] > 0.95 and epochs[1] > epochs[-2],
    "several_gpus.py": lambda first, last: last < first / 4,
}


def numbers(text: str) -> list[float]:
    return [float(x.replace(",", "")) for x in re.findall(r"\d[\d,]*\.\d+|\d+,\d+", text)]


def test_the_readme_lists_each_with_a_line() -> None:
    rows = re.findall(
        r"^\| \[([\w/.]+)\]\(([\w/.]+)\) \| (.{8,}) \|$", (EXAMPLES / "README.md").read_text(), re.M
    )
    assert all(name == link for name, link, _ in rows)
    assert sorted(name for name, _, _ in rows) == FILES and len(FILES) >= 24


def test_every_example_is_run() -> None:
    alone = [name for name in FILES if "/" not in name]
    assert sorted([*HERE, *OTHER_TESTS, *LAUNCH]) == alone


@pytest.mark.parametrize("name", FILES)
def test_an_example_begins_with_what_it_shows(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    if name.endswith(".ipynb"):
        book = json.loads(text)
        assert all(cell.get("outputs", []) == [] for cell in book["cells"]) and len(text) < 10_000
    else:
        assert re.match(r'"""[A-Z].{20,}[.:]', text), "a docstring that says what it shows"


def outputs(ranks: int, names: list[str], mpirun: Any, folder: Path) -> list[dict[str, str]]:
    """What each program printed, on each rank."""
    folder.mkdir()
    files = [EXAMPLES / name for name in names]
    run = mpirun(ranks, [folder, *files], module="all_of_them", cwd=PROGRAMS, deadline=50)
    assert run.rc == 0, run.stderr
    return [
        {name: (folder / f"{Path(name).stem}-{rank}").read_text() for name in names} for rank in range(ranks)
    ]


def test_examples_are_the_same_on_one_rank_and_two(mpirun: Any, tmp_path: Path) -> None:
    """Those that divide the rows themselves also on three, where these are not equal."""
    (alone,) = outputs(1, HERE, mpirun, tmp_path / "1")
    first, _ = outputs(2, HERE, mpirun, tmp_path / "2")
    for name, printed in outputs(3, ["own_loop.py", "several_gpus.py"], mpirun, tmp_path / "3")[0].items():
        assert numbers(printed) == pytest.approx(numbers(alone[name]), rel=0.01)
    for name in HERE:
        assert GOOD[name](*numbers(alone[name])), alone[name]
        assert re.sub(r"\d", "", first[name]) == re.sub(r"\d", "", alone[name])
        # 80 images decide on the accuracy of the convolution: two may change sides by rounding
        assert numbers(first[name]) == pytest.approx(numbers(alone[name]), rel=0.01, abs=0.03)


def test_examples_that_start_ranks(mpirun: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("cloudpickle") is None:
        pytest.skip("cloudpickle is not installed: the extra notebook")
    (said,) = outputs(1, LAUNCH, mpirun, tmp_path / "1")
    assert said["launch_function.py"] == "slope 3.00, offset -1.00\n"
    alone, together = numbers(said["notebook.ipynb"])
    assert together == pytest.approx(alone, rel=1e-4) and alone < 0.4
