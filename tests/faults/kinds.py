"""Sets of every kind, each trained by one command on 1, 2 and 3 ranks, killed, resumed, reported and asked.

    python tests/faults/kinds.py [KIND ...]

How far the numbers of 1, 2 and 3 ranks are apart, relative, after the first epoch and the last. Ranks add in
another order, so they differ by roundings, which ReLU may blow up: a sum within 1e-7 of zero is on its other
side there, and a unit learns or does not. Two controls tell that from a defect: one rank whose first weights
are 1 ulp greater, and ranks whose network has tanh, which has no such corner. Resumed: a run on 2 ranks, one
of which is killed with -9, ends on 2 ranks with the very numbers of one left alone. RESULTS.md has the last
run.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RANDOM = np.random.default_rng(0)
FIT = """\
import os
import sys
import numpy as np
import dtrain as dt
from dtrain.keras.layers import Dense
from dtrain.keras.models import Sequential

rng = np.random.default_rng(1)
x = rng.normal(size=(6000, 20)).astype("float32")
y = (x @ rng.normal(size=(20, 3))).argmax(1)
np.savez(sys.argv[1] + ".npz", x=x, y=y)
dt.set_random_seed(3)
model = Sequential([Dense(64, os.environ.get("ACTIVATION", "relu"), input_shape=(20,)), Dense(3, "softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
kernel, *others = model.get_weights()
model.set_weights([kernel * np.float32(os.environ.get("FACTOR", 1)), *others])
model.fit(x, y, batch_size=10, epochs=5, validation_split=0.2, verbose=0, run_dir=sys.argv[1], resume="auto",
          checkpoint_every=50)
"""
#: The mlp of `dtrain train` with another activation, its first weights times a factor.
NETWORK = """\
import os
import numpy as np
import dtrain as dt
from dtrain.keras.layers import Dense


def weights(shape, dtype="float32"):
    return dt.truncated_normal(shape, stddev=(2 / shape[0]) ** 0.5, dtype=dtype)


def first(shape, dtype="float32"):
    return weights(shape, dtype) * np.float32(os.environ["FACTOR"])


def model(x, training):
    x = Dense(256, os.environ["ACTIVATION"], kernel_initializer=first)(x)
    x = Dense(256, os.environ["ACTIVATION"], kernel_initializer=weights)(x)
    return Dense({outputs}, kernel_initializer=weights)(x)
"""
ULP = str(1 + 2**-23)
#: How many numbers a network gives for an example, by the kind.
OUTPUTS = dict(fashion=10, cifar=10, regression=1, parquet=3, pictures=2, series=2, labels=3)


def _idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def _images(count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    y = RANDOM.integers(0, 10, count).astype(np.uint8)
    x = RANDOM.integers(0, 60, (count, *shape)).astype(np.uint8)
    x.reshape(count, -1)[np.arange(count), y * 3] = 255
    return x, y


def fashion(folder: Path) -> list[str]:
    for stem, count in (("train", 5000), ("t10k", 500)):
        x, y = _images(count, 28, 28)
        _idx(folder / f"{stem}-images-idx3-ubyte", x)
        _idx(folder / f"{stem}-labels-idx1-ubyte", y)
    return ["--dataset", str(folder)]


def cifar(folder: Path) -> list[str]:
    files = [(f"data_batch_{i}.bin", 600) for i in range(1, 6)]
    for name, count in (*files, ("test_batch.bin", 300)):
        x, y = _images(count, 3072)
        (folder / name).write_bytes(np.concatenate([y[:, None], x], 1).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n")
    return ["--dataset", str(folder)]


def regression(folder: Path) -> list[str]:
    x = RANDOM.normal(size=(6000, 5))
    price = x @ RANDOM.normal(size=(5, 1)) + RANDOM.normal(size=(6000, 1))
    rows = np.concatenate([x, price], 1)
    np.savetxt(folder / "houses.csv", rows, delimiter=",", header="a,b,c,d,e,price", comments="")
    return ["--dataset", str(folder / "houses.csv"), "--label", "price", "--validation", "0.2"]


def parquet(folder: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = RANDOM.normal(size=(6000, 4)).astype(np.float32)
    names = np.array(["setosa", "versicolor", "virginica"])[x[:, :3].argmax(1)]
    table = {f"x{i}": x[:, i] for i in range(4)} | {"species": names}
    pq.write_table(pa.table(table), folder / "iris.parquet")
    return ["--dataset", str(folder / "iris.parquet"), "--label", "species", "--validation", "0.2"]


def pictures(folder: Path) -> list[str]:
    from PIL import Image

    for part, count in (("train", 3000), ("test", 200)):
        for i in range(count):
            kind = ("cat", "dog")[i % 2]
            place = folder / part / kind
            place.mkdir(parents=True, exist_ok=True)
            pixels = RANDOM.normal(90 + 20 * (i % 2), 20) + RANDOM.normal(
                0, 20, (8, 8)
            )  # a third is doubtful
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{i}.png")
    return ["--dataset", str(folder)]


def series(folder: Path) -> list[str]:
    x = RANDOM.normal(size=(3000, 128, 9)).astype(np.float32)
    y = (x.mean((1, 2)) > 0).astype(np.int64)
    parts = {"x_train": x[:2500], "y_train": y[:2500], "x_test": x[2500:], "y_test": y[2500:]}
    np.savez(folder / "s.npz", **parts)
    return ["--dataset", str(folder / "s.npz")]


def labels(folder: Path) -> list[str]:
    x = RANDOM.normal(size=(6000, 6))
    rows = np.concatenate([x, x[:, :3] > 0], 1)
    np.savetxt(folder / "tags.csv", rows, delimiter=",", header="a,b,c,d,e,f,red,green,blue", comments="")
    return ["--dataset", str(folder / "tags.csv"), "--label", "red,green,blue", "--validation", "0.2"]


def fit(folder: Path) -> list[str]:
    (folder / "mine.py").write_text(FIT)
    return [str(folder / "mine.py")]


KINDS = (fashion, cifar, regression, parquet, pictures, series, labels, fit)


def command(words: list[str], run: Path, ranks: int, resume: bool = False) -> list[str]:
    mpirun = [os.environ.get("DTRAIN_MPIRUN", "mpirun"), "-n", str(ranks)]
    if words[0].endswith(".py"):
        return [*mpirun, sys.executable, *words, str(run)]
    more = (
        ["--resume", str(run)] if resume else ["--run-dir", str(run), "--epochs", "5", "--batch-size", "10"]
    )
    more += [] if resume else ["--checkpoint-every", "50", "--no-tensorboard"]
    return [*mpirun, sys.executable, "-m", "dtrain", "train", *([] if resume else words), *more]


def numbers(run: Path) -> list[dict[str, Any]]:
    """The epochs' losses and metrics, one for each epoch, as metrics.jsonl has them."""
    found = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event.get("event") == "epoch":
            wanted = {k: v for k, v in event.items() if "loss" in k or "acc" in k or "mae" in k}
            found[event["epoch"]] = wanted
    return [found[epoch] for epoch in sorted(found)]


def ranks_of(process: subprocess.Popen[bytes], run: Path) -> list[int]:
    """Ranks under an mpirun, by their command."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 1) for line in listed.splitlines()[1:]]
    return [int(pid) for pid, args in lines if str(run) in args and args.startswith(sys.executable)]


def killed(words: list[str], run: Path) -> int:
    """Start on 2 ranks, kill one behind the first epoch, and resume; how often that was."""
    process = subprocess.Popen(command(words, run, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if (run / "metrics.jsonl").exists() and numbers(run):
            time.sleep(0.2)
            for pid in ranks_of(process, run)[-1:]:
                os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    done = subprocess.run(command(words, run, 2, resume=True), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return int(process.returncode != 0)


def apart(found: list[dict[str, Any]]) -> float:
    """The largest relative difference of a number from the first run's."""
    right = found[0]
    return max(abs(other[k] - right[k]) / max(abs(right[k]), 1e-9) for other in found for k in other)


def trained(words: list[str], run: Path, ranks: int, **environ: str) -> Path:
    """The run, trained."""
    done = subprocess.run(
        command(words, run, ranks), capture_output=True, text=True, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return run


def tried(kind: Any, folder: Path) -> str:
    words = kind(folder)
    runs = {n: trained(words, folder.with_name(f"{folder.name}-{n}"), n) for n in (1, 2, 3)}
    begun, ended = (apart([numbers(run)[at] for run in runs.values()]) for at in (0, -1))
    network = folder.with_name(f"{folder.name}_network.py")
    network.write_text(NETWORK.format(outputs=OUTPUTS.get(kind.__name__)))
    own = words if words[0].endswith(".py") else [*words, "--model", f"{network}:model"]
    others = {
        (ranks, activation, factor): trained(
            own,
            folder.with_name(f"{folder.name}-{ranks}-{activation}-{factor}"),
            ranks,
            ACTIVATION=activation,
            FACTOR=factor,
        )
        for ranks, activation, factor in (
            *((1, "relu", factor) for factor in ("1", ULP)),
            *((ranks, "tanh", "1") for ranks in (1, 2, 3)),
        )
    }
    rounded, smooth = (
        apart([numbers(run)[-1] for (_, a, _), run in others.items() if a == activation])
        for activation in ("relu", "tanh")
    )
    resumed = folder.with_name(f"{folder.name}-killed")
    was = killed(words, resumed)
    same = numbers(resumed) == numbers(runs[2])
    shown = [sys.executable, "-m", "dtrain", "report", str(runs[2])]
    page = subprocess.run(shown, cwd=folder, capture_output=True, text=True)
    asked = folder / "answers.csv"
    data = ["--dataset", f"{runs[2]}.npz"] if words[0].endswith(".py") else []
    ask = [sys.executable, "-m", "dtrain", "predict", str(runs[2]), *data, "--to", str(asked)]
    ask += [] if data else ["--part", "train"]
    answers = subprocess.run(ask, capture_output=True, text=True)
    rows = len(asked.read_text().splitlines()) - 1 if asked.exists() else 0
    said = "yes" if page.returncode == 0 else page.stderr[-200:]
    how = f"{'killed' if was else 'ended before'}, {'the same' if same else 'NOT THE SAME'}"
    answered = rows or answers.stderr.strip()[-160:]
    spans = " | ".join(f"{span:.1e}" for span in (begun, ended, rounded, smooth))
    return f"| {kind.__name__} | {spans} | {how} | {said} | {answered} |"


def main() -> None:
    chosen = [kind for kind in KINDS if not sys.argv[1:] or kind.__name__ in sys.argv[1:]]
    print(
        "| set | ranks apart after epoch 1 | after epoch 5 | 1 rank, 1 ulp off: after epoch 5 "
        "| ranks, tanh: after epoch 5 | resumed after kill -9 | report | predicted |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for kind in chosen:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, kind.__name__)
            folder.mkdir()
            print(tried(kind, folder), flush=True)


if __name__ == "__main__":
    main()
