"""Trainings that `--bitwise` makes the same on every number of ranks: three epochs, compared to the bit.

    python tests/faults/ranks.py [--ranks 1,2,3,4,5,7,8] [NAME ...]

Parameters, optimizer state, and every loss and metric that a run tells are compared with those of one rank.
RESULTS.md has the last run. Ranks share cores where there are more than those; "nodes" are MPICH's cliques
(MPIR_CVAR_NUM_CLIQUES), between which it sends messages as between hosts.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.comm import start
from dtrain.verify.compare import bits_differ

FIT = """\
import sys
import numpy as np
import dtrain as dt
from dtrain.keras import layers

rng = np.random.default_rng(1)
x = rng.standard_normal((2030, 12, 12, 2)).astype(np.float32)
y = x[:, :4, 0, 0].argmax(1)
dt.set_random_seed(3)
model = dt.keras.Sequential([
    layers.Conv2D(8, 3, activation="relu", input_shape=(12, 12, 2)),
    layers.BatchNormalization(),
    layers.MaxPooling2D(),
    layers.Flatten(),
    layers.Dropout(0.25),
    layers.Dense(30, activation="relu", kernel_regularizer="l2"),
    layers.BatchNormalization(),
    layers.Dense(4, activation="softmax"),
])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, batch_size=100, epochs=3, validation_split=0.1, verbose=0, run_dir=sys.argv[1], bitwise=True)
"""

TASK = """\
import numpy as np
import dtrain as dt


def decayed(loss):
    weights = dt.trainable_variables()
    loss = loss + 1e-4 * dt.add_n([dt.nn.l2_loss(w) for w in weights if len(w.shape) > 1])
    optimizer = dt.train.MomentumOptimizer(0.05, 0.9)
    pairs = optimizer.compute_gradients(loss)
    clipped, _ = dt.clip_by_global_norm([g for g, _ in pairs], 0.5)
    return optimizer.apply_gradients(zip(clipped, weights))


def task():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2030, 50)).astype(np.float32)
    y = (x @ rng.standard_normal((50, 7))).argmax(1).astype(np.int32)
    dense = dt.keras.layers.Dense
    model = dt.keras.Sequential([dense(70, activation="tanh", input_shape=(50,)), dense(7)])
    loss = dt.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return dt.Task(data=(x, y), model=model, loss=loss, metrics=["accuracy"], optimizer=decayed)
"""

#: By name: options of train, or what else is run. DATA: 2,030 images, so that the last batch is short.
CASES: dict[str, list[str]] = {
    "logistic sgd": ["train", "--model", "logistic", "--optimizer", "sgd", "--lr", "0.1", "DATA"],
    "mlp adam": ["train", "DATA"],
    "mlp sgd": ["train", "--optimizer", "sgd", "--lr", "0.1", "DATA"],
    "mlp adam, batch 1000": ["train", "--batch-size", "1000", "DATA"],
    "mlp adam, batch 5": ["train", "--batch-size", "5", "--epochs", "1", "DATA"],
    "mlp momentum, shift and flip": ["train", "--optimizer", "momentum", "--augment", "shift:2,flip", "DATA"],
    "mlp adam, validation": ["train", "--validation", "0.1", "DATA"],
    "mlp adam, no check of numbers": ["train", "--no-check-numerics", "DATA"],
    "cnn adam": ["train", "--model", "cnn", "DATA"],
    "cnn sgd": ["train", "--model", "cnn", "--optimizer", "sgd", "--lr", "0.05", "DATA"],
    "momentum, decay, clipped by norm": ["train", "TASK"],
    "Sequential, batch norm, dropout": ["FIT"],
    "mlp adam, --average mpi": ["train", "--average", "mpi", "DATA"],
    "cnn adam, --average mpi": ["train", "--model", "cnn", "--average", "mpi", "DATA"],
    "Sequential, --average mpi": ["FIT", "MPI"],
    "mlp adam, two nodes": ["train", "NODES", "DATA"],
    "mlp adam, two nodes, --overlap": ["train", "--overlap", "NODES", "DATA"],
    "cnn adam, two nodes": ["train", "--model", "cnn", "NODES", "DATA"],
    "mlp adam, killed and resumed on others": ["train", "KILLED", "DATA"],
}
#: What a run tells that may differ.
TIMES = ("seconds", "images_per_second", "communication_fraction", "time")


def images(folder: Path) -> None:
    rng = np.random.default_rng(2)
    for name, count in (("train", 2030), ("test", 500)):
        y = rng.integers(0, 10, count)
        x = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        x[np.arange(count), y * 2, 3:25] = 255
        np.savez(folder / f"{name}.npz", x=x, y=y)
    with np.load(folder / "train.npz") as train, np.load(folder / "test.npz") as test:
        np.savez(
            folder / "set.npz", x_train=train["x"], y_train=train["y"], x_test=test["x"], y_test=test["y"]
        )


def outcome(folder: Path) -> tuple[list[Any], dict[str, np.ndarray]]:
    """What a run told, without times, and the last checkpoint's values."""
    from safetensors.numpy import load_file

    told = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row.get("event") in ("epoch", "done"):
            told.append({k: v for k, v in row.items() if k not in (*TIMES, "run_dir", "hosts")})
    last = max((folder / "checkpoints").glob("*.safetensors"), key=lambda p: int(p.stem.split("-")[1]))
    return told, load_file(last)


def run(words: list[str], ranks: int, data: Path, to: Path) -> None:
    """Train one case on so many ranks."""
    environment = start.environment(1)
    killed = "KILLED" in words
    if "NODES" in words and ranks > 1:
        environment["MPIR_CVAR_NUM_CLIQUES"] = "2"
    if "MPI" in words:
        environment["DTRAIN_AVERAGE"] = "mpi"
    if words[0] == "FIT":
        program = [str(data / "fit.py"), str(to)]
    else:
        plain = [w for w in words if w not in ("NODES", "DATA", "TASK", "KILLED")]
        program = ["-m", "dtrain", *plain, "--bitwise", "--no-tensorboard", "--run-dir", str(to)]
        program += (
            ["--task", str(data / "own.py")] if "TASK" in words else ["--dataset", str(data / "set.npz")]
        )
        program += [] if "--epochs" in words else ["--epochs", "3"]
        program += ["--resume", "auto", "--checkpoint-every", "3"] if killed else []

    def started(n: int) -> subprocess.Popen[str]:
        command = [start.mpirun("this"), "-n", str(n), sys.executable, *program]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    if killed and ranks > 1:
        for n, step in ((4, 9), (2, 30)):  # killed behind these steps, and then on `ranks`
            job = started(n)
            while not list(to.glob(f"checkpoints/step-{step}.json")) and job.poll() is None:
                time.sleep(0.02)
            job.send_signal(signal.SIGKILL)
            job.wait()
            subprocess.run(["sleep", "1"], check=True)
    job = started(ranks)
    said, _ = job.communicate()
    if job.returncode:
        raise SystemExit(f"{' '.join(job.args)} ended with {job.returncode}:\n{said[-3000:]}")  # type: ignore[arg-type]


def main(words: list[str]) -> None:
    ranks = [1, 2, 3, 4, 5, 7, 8]
    if words[:1] == ["--ranks"]:
        ranks, words = [int(n) for n in words[1].split(",")], words[2:]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        images(data)
        (data / "fit.py").write_text(FIT)
        (data / "own.py").write_text(TASK)
        for name in words or CASES:
            first: Any = None
            found = []
            began = time.perf_counter()
            for n in ranks:
                to = data / f"{name}-{n}".replace(" ", "-").replace(",", "")
                run(CASES[name], n, data, to)
                told, values = outcome(to)
                if first is None:
                    first = told, values
                    continue
                differ = sum(bits_differ(values[k], first[1][k]) for k in first[1])
                numbers = len(told) != len(first[0]) or any(
                    a != b for a, b in zip(told, first[0], strict=False)
                )
                wrong += bool(differ or numbers)
                found.append(
                    f"{n}: {'same' if not (differ or numbers) else f'{differ} arrays, told {numbers}'}"
                )
            size = sum(v.size for v in first[1].values())
            print(
                f"{name:<42} {size:>10,} numbers  {'  '.join(found)}  ({time.perf_counter() - began:.0f} s)",
                flush=True,
            )
    print("all the same" if not wrong else f"{wrong} differ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(sys.argv[1:])
