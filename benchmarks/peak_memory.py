"""The most memory that each rank of a training of MNIST has, in one state of dtrain beside another, in turns.

    python benchmarks/peak_memory.py TREE [TREE ...] [--ranks 1,2] [--rounds 3] [--model mlp]

TREE: a folder with a checkout, whose dtrain is run. A run is `dtrain train --epochs 1` with a folder for its
cache that only this tree uses and that an untimed run has filled. Prints the median over the rounds of the
greatest resident set of a rank (ru_maxrss), in MB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RANK = """\
import os, resource, runpy, sys
from pathlib import Path
try:
    runpy.run_module("dtrain", run_name="__main__", alter_sys=True)
finally:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(os.environ["MOST"], str(os.getpid())).write_text(str(most))
"""


def most(tree: str, ranks: int, model: str, place: Path) -> float:
    """MB of the rank that had the most."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "--model", model, "--epochs", "1", "--run-dir", f"{folder}/run", "--no-tensorboard"]
        mpirun = [os.environ.get("DTRAIN_MPIRUN", "mpirun"), "-n", str(ranks)]
        found = Path(folder, "most")
        found.mkdir()
        environ = {**os.environ, "PYTHONPATH": tree, "XDG_CACHE_HOME": str(place), "MOST": str(found)}
        said = subprocess.run(
            [*mpirun, sys.executable, "-c", RANK, *words], env=environ, capture_output=True, text=True
        )
        assert said.returncode == 0, said.stderr
        sizes = [int(path.read_text()) for path in found.iterdir()]
        assert len(sizes) == ranks, said.stderr
        return max(sizes) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trees", nargs="+", metavar="TREE")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="mlp")
    args = parser.parse_args()
    trees = [str(Path(tree).resolve()) for tree in args.trees]
    with tempfile.TemporaryDirectory() as folder:
        places = {tree: Path(folder, str(i)) for i, tree in enumerate(trees)}
        for ranks in map(int, args.ranks.split(",")):
            found: dict[str, list[float]] = {tree: [] for tree in trees}
            for number in range(-1, args.rounds):
                for tree in trees:
                    size = most(tree, ranks, args.model, places[tree])
                    if number >= 0:
                        found[tree].append(size)
            for tree, sizes in found.items():
                said = ", ".join(f"{size:.1f}" for size in sizes)
                print(
                    f"{ranks} rank{'s' * (ranks > 1)}  {statistics.median(sizes):7.1f} MB  {tree}  ({said})"
                )


if __name__ == "__main__":
    main()
