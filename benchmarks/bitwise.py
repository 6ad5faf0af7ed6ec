"""What --bitwise costs: trainings with and without it in turn, processes of their own.

    python benchmarks/bitwise.py [--rounds 5] [NAME ...]

Prints, of the epochs of each case, the medians over the rounds, their ratio and that of the least; of one
rank also that of processor time, which others' work on the machine disturbs less. An epoch of each run that
compiles and fills caches is left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from dtrain.comm import start

#: By name: ranks, options. IMAGES: 2,000 generated images in place of MNIST's 60,000.
CASES = {
    "mlp, batch 100, 1 rank": (1, ["--epochs", "3"]),
    "mlp, batch 100, 2 ranks": (2, ["--epochs", "3"]),
    "mlp, batch 1000, 1 rank": (1, ["--epochs", "3", "--batch-size", "1000"]),
    "mlp, batch 1000, 2 ranks": (2, ["--epochs", "3", "--batch-size", "1000"]),
    "cnn, batch 100, 1 rank": (1, ["--model", "cnn", "--epochs", "3", "IMAGES"]),
    "cnn, batch 100, 2 ranks": (2, ["--model", "cnn", "--epochs", "3", "IMAGES"]),
}


def images(file: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 2200)
    x = rng.integers(0, 256, (2200, 28, 28)) * (rng.random((2200, 28, 28)) < 0.2)
    x[np.arange(2200), y * 2, 3:25] = 255
    x = x.astype(np.uint8)
    np.savez(file, x_train=x[:2000], y_train=y[:2000], x_test=x[2000:], y_test=y[2000:])


def epochs(ranks: int, words: list[str], folder: Path, bitwise: bool) -> tuple[list[float], float]:
    """Seconds of the epochs behind the first, and processor time of all ranks."""
    with tempfile.TemporaryDirectory(dir=folder) as run:
        options = [w for w in words if w != "IMAGES"] + ["--no-tensorboard", "--run-dir", f"{run}/run"]
        options += ["--dataset", str(folder / "set.npz")] if "IMAGES" in words else []
        options += ["--bitwise"] if bitwise else []
        command = [start.mpirun("this"), "-n", str(ranks), sys.executable, "-m", "dtrain", "train", *options]
        before = os.times()
        subprocess.run(command, env=start.environment(1), check=True, capture_output=True)
        after = os.times()
        rows = [json.loads(line) for line in Path(run, "run", "metrics.jsonl").read_text().splitlines()]
    spent = after.children_user - before.children_user
    return [row["seconds"] for row in rows if row.get("event") == "epoch"][1:], spent


def main(words: list[str]) -> None:
    rounds = 5
    if words[:1] == ["--rounds"]:
        rounds, words = int(words[1]), words[2:]
    with tempfile.TemporaryDirectory() as folder:
        images(Path(folder) / "set.npz")
        for name in words or CASES:
            ranks, options = CASES[name]
            seconds: dict[bool, list[float]] = {False: [], True: []}
            spent: dict[bool, list[float]] = {False: [], True: []}
            for number in range(rounds):
                for bitwise in (False, True) if number % 2 else (True, False):
                    found, used = epochs(ranks, options, Path(folder), bitwise)
                    seconds[bitwise].append(median(found))
                    spent[bitwise].append(used)
            plain, same = (median(seconds[k]) for k in (False, True))
            least = min(seconds[True]) / min(seconds[False])
            cpu = f", processor {median(spent[True]) / median(spent[False]):.3f}" if ranks == 1 else ""
            print(
                f"{name:<26} {plain:.3f} s -> {same:.3f} s: {same / plain:.3f} (least {least:.3f}{cpu})",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
