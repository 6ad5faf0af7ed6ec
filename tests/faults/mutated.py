"""Damaged files of every kind that dtrain reads: each is read, or refused in a sentence, soon.

    python tests/faults/mutated.py [COUNT]

mutates each kind of file COUNT times (1,000) and prints a line a kind; it ends with 1 where a reader raised
anything but dtrain's own errors, took more than 5 s for one file, or the process more than 500 MB for a kind.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from conftest import make_set, mutate

from dtrain.cli import main
from dtrain.config import read_run, read_toml
from dtrain.errors import DtrainError
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential, load_model
from dtrain.report import page
from dtrain.train import checkpoint

SECONDS, BYTES = 5.0, 500 << 20
Reader = Callable[[], object]


def kinds(folder: Path) -> dict[str, tuple[Path, Reader]]:
    """A file of each kind, as dtrain writes it, and what reads it."""
    run, model = folder / "run", folder / "model.safetensors"
    data = make_set(folder / "blocks", 1003, 101)
    words = ["train", "--dataset", str(data), "--model", "logistic", "--epochs", "1", "--run-dir", str(run)]
    if main(words) != 0:
        raise SystemExit("the run to damage did not end well")
    net = Sequential([Dense(3, "relu", input_shape=(4,)), Dense(2, "softmax")])
    net.compile("adam", "mse")
    net.save(model)
    (values,) = (run / "checkpoints").glob("*.safetensors")
    config = run / "config.toml"

    def report() -> None:
        page.write([str(run)], folder / "report.html")

    return {
        "config.toml of a run": (config, lambda: read_run(str(run))),
        "config.toml by --config": (config, lambda: read_toml(str(config))),
        "a checkpoint's manifest": (values.with_suffix(".json"), lambda: checkpoint.load(run)),
        "a checkpoint's values": (values, lambda: checkpoint.load(run)),
        "a model of dt.keras": (model, lambda: load_model(model)),
        "metrics.jsonl": (run / "metrics.jsonl", report),
        "mistakes.json": (run / "mistakes.json", report),
    }


def campaign(folder: Path, count: int) -> list[str]:
    """Mutate each kind `count` times; returns what went wrong. Prints a line a kind."""
    wrong: list[str] = []
    for kind, (file, read) in kinds(folder).items():
        whole, seen, longest = file.read_bytes(), Counter[str](), 0.0
        for name, data in mutate(whole, count):
            file.write_bytes(data)
            begun = time.perf_counter()
            try:
                read()
                seen["read"] += 1
            except DtrainError as error:
                seen[type(error).__name__] += 1
            except BaseException:
                seen["traceback"] += 1
                wrong.append(f"{kind}, {name}: {traceback.format_exc(limit=-3)}")
            longest = max(longest, time.perf_counter() - begun)
        file.write_bytes(whole)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if longest > SECONDS or most > BYTES:
            wrong.append(f"{kind}: {longest:.1f} s for one file, {most / 1e6:.0f} MB")
        said = ", ".join(f"{number} {what}" for what, number in sorted(seen.items()))
        print(f"{kind:26} {count} files: {said}; at most {longest:.2f} s, {most / 1e6:.0f} MB", flush=True)
    return wrong


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as path:
        found = campaign(Path(path), int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    print("\n".join(found[:10]) or "no traceback, nothing slow, nothing large")
    sys.exit(1 if found else 0)
