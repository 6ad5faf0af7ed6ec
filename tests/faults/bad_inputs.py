"""Data that cannot be trained on, given to `dtrain train` on 1 and on 3 ranks, and to `dtrain data import`.

    python tests/faults/bad_inputs.py [CASE ...]

Each has to end within 5 s with exit code 4 and one sentence, said once, that names the file and the row or
column; and nothing may be written: no run, no store, no file in the cache or for a time. Several nodes are
played by MPICH (MPIR_CVAR_NOLOCAL), whose ranks run in folders of their own. RESULTS.md has the last run; it
ends with 1 where a case did not do so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from small_sets import FORMATS, npy_bytes, zip_bytes

SECONDS = 5.0
PYTHON = [sys.executable, "-m", "dtrain"]


class Case(NamedTuple):
    """Options that name the data, in words what the sentence has to hold, and on how many ranks it is bad.

    elsewhere: the folder in which the last rank, on another node, finds its data. kept: whether the set is
    good by itself and so may lie in the cache.
    """

    options: Sequence[str]
    words: Sequence[str]
    ranks: Sequence[int] = (1, 3)
    elsewhere: Path | None = None
    kept: bool = False


def _csv(folder: Path, name: str, rows: Sequence[str]) -> list[str]:
    (folder / name).write_text("\n".join(["area,rooms,price", *rows, ""]))
    return ["--dataset", name, "--label", "price"]


GOOD = [f"{i}.5,{i % 4},{i}.25" for i in range(40)]


def nan_in_a_cell(folder: Path) -> Case:
    options = _csv(folder, "houses.csv", [*GOOD[:17], "nan,2,3", *GOOD])
    return Case(options, ["houses.csv", "line 19", "area"])


def row_too_short(folder: Path) -> Case:
    options = _csv(folder, "houses.csv", [*GOOD[:17], "1,2", *GOOD])
    return Case(options, ["houses.csv", "line 19", "2"])


def unknown_label(folder: Path) -> Case:
    (folder / "pets").mkdir()
    for name, kind in (("train", "cat"), ("test", "lion")):
        rows = [f"{i},{i % 3},{kind if i == 7 else 'dog' if i % 2 else 'cat'}" for i in range(30)]
        _csv(folder, f"pets/{name}.csv", rows)
    return Case(["--dataset", "pets", "--label", "price"], ["test.csv", "line 9", "lion"])


def truncated_parquet(folder: Path) -> Case:
    made = FORMATS["parquet"](folder)
    file = folder / made.dataset
    file.write_bytes(file.read_bytes()[:-200])
    return Case(["--dataset", file.name, "--label", "species"], ["iris.parquet"])


def no_png(folder: Path) -> Case:
    made = FORMATS["images"](folder)
    made.files[5].write_bytes(b"GIF87a or whatever" * 9)
    return Case(["--dataset", "pets"], [made.files[5].name])


def pickled(folder: Path) -> Case:
    np.save(folder / "x.npy", np.array([[1, "a"], [2, "b"]], object), allow_pickle=True)
    np.save(folder / "y.npy", np.zeros(2))
    return Case(["--dataset", "x.npy,y.npy"], ["x.npy", "pickle"])


def other_sizes(folder: Path) -> Case:
    from PIL import Image

    made = FORMATS["images"](folder)
    Image.new("RGB", (9, 9)).save(made.files[-1])
    return Case(["--dataset", "pets"], [made.files[-1].name, "9"])


def other_classes_on_a_node(folder: Path) -> Case:
    FORMATS["images"](folder)
    other = folder.with_name(f"{folder.name}-node")
    shutil.copytree(folder, other)
    for part in ("train", "test"):
        (other / "pets" / part / "dog").rename(other / "pets" / part / "wolf")
    return Case(["--dataset", "pets"], ["pets: rank 2", "other data"], (3,), other, kept=True)


def link_out_of_the_folder(folder: Path) -> Case:
    made = FORMATS["images"](folder)
    outside = folder.with_name(f"{folder.name}-outside.png")
    made.files[0].rename(outside)
    made.files[0].symlink_to(outside)
    return Case(["--dataset", "pets"], [made.files[0].name, "leads out of"])


def member_out_of_the_folder(folder: Path) -> Case:
    member = {"x.npy": npy_bytes(np.zeros((9, 2))), "../y.npy": npy_bytes(np.arange(9) % 2)}
    (folder / "some.npz").write_bytes(zip_bytes(member))
    return Case(["--dataset", "some.npz"], ["some.npz"])


def no_examples(folder: Path) -> Case:
    return Case(_csv(folder, "houses.csv", []), ["houses.csv", "no "])


def no_examples_in_arrays(folder: Path) -> Case:
    np.savez(folder / "some.npz", x=np.zeros((0, 3)), y=np.zeros(0))
    return Case(["--dataset", "some.npz"], ["some.npz", "no "])


def fewer_than_ranks(folder: Path) -> Case:
    return Case(
        _csv(folder, "houses.csv", GOOD[:2]),
        ["houses.csv", "3 ranks share 2 training examples"],
        (3,),
        kept=True,
    )


def zip_bomb(folder: Path) -> Case:
    header = npy_bytes(np.zeros((1, 1 << 20), np.uint8))[:128]
    header = header.replace(b"(1, ", b"(1200, ").replace(b"    ", b" ", 1)
    with zipfile.ZipFile(folder / "some.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w") as file:
            file.write(header)
            for _ in range(1200):
                file.write(bytes(1 << 20))
        archive.writestr("y.npy", npy_bytes(np.arange(1200) % 3))
    return Case(["--dataset", "some.npz"], ["some.npz", "bomb"])


CASES: Sequence[Callable[[Path], Case]] = (
    nan_in_a_cell,
    row_too_short,
    unknown_label,
    truncated_parquet,
    no_png,
    pickled,
    other_sizes,
    other_classes_on_a_node,
    link_out_of_the_folder,
    member_out_of_the_folder,
    no_examples,
    no_examples_in_arrays,
    fewer_than_ranks,
    zip_bomb,
)


def command(case: Case, ranks: int, folder: Path) -> list[str]:
    """dtrain train on so many ranks; 0: dtrain data import."""
    if not ranks:
        return [*PYTHON, "data", "import", case.options[1], *case.options[2:], "--to", "imported"]
    words = [*PYTHON, "train", *case.options, "--run-dir", "run", "--epochs", "1"]
    mpirun = os.environ.get("DTRAIN_MPIRUN", "mpirun")
    if case.elsewhere is None:
        return [mpirun, "-n", str(ranks), *words]
    places = [folder] * (ranks - 1) + [case.elsewhere]
    each = [["-n", "1", "-wdir", str(place), *words] for place in places]
    return [mpirun, *each[0], *(word for one in each[1:] for word in (":", *one))]


def tried(make: Callable[[Path], Case], ranks: int, place: Path) -> tuple[str, list[str]]:
    """The line of a case on so many ranks, and what is wrong with it."""
    folder = place / "data"
    folder.mkdir()
    case = make(folder)
    if ranks not in (0, *case.ranks) or (not ranks and case.kept):
        return "", []
    own = {name: place / name for name in ("home", "cache", "temporary")}
    for path in own.values():
        path.mkdir()
    before = {path for path in place.rglob("*") if own["cache"] not in path.parents}
    environ = {**os.environ, "HOME": str(own["home"]), "XDG_CACHE_HOME": str(own["cache"])}
    environ |= {"TMPDIR": str(own["temporary"])} | ({"MPIR_CVAR_NOLOCAL": "1"} if case.elsewhere else {})
    started = time.monotonic()
    words = command(case, ranks, folder)
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True)
    seconds = time.monotonic() - started
    said = [line for line in (done.stdout + done.stderr).splitlines() if "error: " in line]
    wrong = [f"it took {seconds:.1f} s"] * (seconds > SECONDS)
    wrong += [f"it ended with {done.returncode}: {done.stderr[-500:]}"] * (done.returncode != 4)
    wrong += [f"it said {len(said)} sentences: {done.stderr[-500:]}"] * (len(said) != 1)
    wrong += [f"it does not say {word!r}: {said}" for word in case.words if said and word not in said[0]]
    written = {path for path in place.rglob("*") if own["cache"] not in path.parents} - before
    kept = [path for path in own["cache"].rglob("*") if path.is_file() and "pools" in path.parts]
    wrong += [f"it wrote {sorted(map(str, written))}"] * bool(written)
    wrong += [f"it left {sorted(map(str, kept))}"] * (bool(kept) and not case.kept)
    wrong += [f"it left {path}" for path in kept if ".part" in str(path)]
    where = f"{ranks} rank{'s' * (ranks > 1)}" if ranks else "import"
    sentence = said[0].partition("error: ")[2].replace(str(place), "") if said else ""
    return f"| {make.__name__.replace('_', ' ')} | {where} | {seconds:.1f} s | {sentence} |", wrong


def main() -> int:
    failed = 0
    print("| case | on | took | said |\n|---|---|---|---|", flush=True)
    for make in CASES:
        if sys.argv[1:] and make.__name__ not in sys.argv[1:]:
            continue
        for ranks in (0, 1, 3):
            with tempfile.TemporaryDirectory() as place:
                line, wrong = tried(make, ranks, Path(place))
            if line:
                print(line, flush=True)
            for what in wrong:
                print(f"  WRONG: {what}", flush=True)
            failed += bool(wrong)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
