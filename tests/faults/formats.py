"""Damaged files of every format that a data set may have: each is refused in a sentence, or read as it is.

    python tests/faults/formats.py [COUNT [FORMAT ...]]

mutates the files of a small set of each format COUNT times (1,000), or of those named, each format in a
process of its own, and prints a line a format. A set that is taken has to be what another reader (NumPy, csv,
pyarrow, Pillow) finds in the same files. It ends with 1 where a reader raised anything but dtrain's own
errors, gave other values, ended its process, took more than 5 s for one file, or the process more than 200 MB
more.
"""

from __future__ import annotations

import csv
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from conftest import mutate
from small_sets import FORMATS, Made

from dtrain.data.importing import import_set
from dtrain.data.readers import find, idx
from dtrain.data.readers.source import Label
from dtrain.data.store import MANIFEST, Store, gather
from dtrain.errors import DtrainError

SECONDS, BYTES = 5.0, 200 << 20
Arrays = tuple[np.ndarray, np.ndarray]


# -- what another reader finds -------------------------------------------------------------------------------
def of_idx(made: Made) -> Arrays:
    def array(stem: str) -> np.ndarray:
        import gzip

        path = idx.find(Path(made.dataset))[stem]
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        shape = np.frombuffer(data, ">u4", data[3], 4)
        return np.frombuffer(data, idx.TYPES[data[2]], offset=4 + 4 * data[3]).reshape(shape)

    parts = [stem for stem in ("train", "t10k") if f"{stem}-images" in idx.find(Path(made.dataset))]
    x, y = (np.concatenate([array(f"{stem}-{what}") for stem in parts]) for what in ("images", "labels"))
    return x, y


def of_npz(made: Made) -> Arrays:
    with np.load(made.dataset, allow_pickle=False) as arrays:
        parts = [part for part in ("train", "test") if f"x_{part}" in arrays]
        x, y = (np.concatenate([arrays[f"{word}_{part}"] for part in parts]) for word in "xy")
        return x, y


def of_npy(made: Made) -> Arrays:
    x, y = (np.load(file, allow_pickle=False) for file in made.files)
    return x.reshape(len(x), -1), y.squeeze()


def of_csv(made: Made) -> Arrays:
    xs, ys = [], []
    for file in made.files:
        text = file.read_text("utf-8-sig")
        between = "," if "," in text.splitlines()[0] else ";"
        for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=between):
            row = {name.strip(): cell for name, cell in row.items()}
            y = [float(row.pop(name)) for name in made.label.split(",")]
            xs.append([float(cell) for cell in row.values()])
            ys.append(y if len(y) > 1 else y[0])
    return np.array(xs), np.array(ys)


def of_columns(made: Made) -> Arrays:
    import pyarrow.feather
    import pyarrow.parquet

    if Path(made.dataset).suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(made.dataset) as file:
            table = file.read()
    else:
        table = pyarrow.feather.read_table(made.dataset, memory_map=False)
    names = [name for name in table.column_names if name != made.label]
    y = np.array(table.column(made.label).to_pylist())
    if y.dtype.kind == "U":
        y = np.unique(y, return_inverse=True)[1]
    return np.stack([table.column(name).to_numpy() for name in names], 1), y


def of_images(made: Made) -> Arrays:
    from PIL import Image

    folders = [Path(made.dataset) / part for part in ("train", "test")]
    paths = [path for folder in folders for path in sorted(folder.glob("*/*.png"))]
    names = sorted({path.parent.name for path in paths})
    x = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return np.stack(x), np.array([names.index(path.parent.name) for path in paths])


def of_cifar(made: Made) -> Arrays:
    rows = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in made.files])
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def of_store(made: Made) -> Arrays:
    return made.x, made.y


OTHERS: dict[str, Callable[[Made], Arrays]] = {
    "idx.gz": of_idx,
    "idx": of_idx,
    "npz": of_npz,
    "npy": of_npy,
    "csv": of_csv,
    "tags.csv": of_csv,
    "parquet": of_columns,
    "arrow": of_columns,
    "images": of_images,
    "cifar": of_cifar,
    "store": of_store,
}


def store(folder: Path) -> Made:
    """A store that `dtrain data import` wrote."""
    made = FORMATS["npz"](folder)
    to = folder / "store"
    import_set(made.dataset, to)
    return made._replace(dataset=str(to), files=[to / "x.bin", to / "y.bin", to / MANIFEST])


# -- one format ----------------------------------------------------------------------------------------------
def taken(made: Made) -> Arrays:
    """The set, if dtrain takes it."""
    if (Path(made.dataset) / MANIFEST).exists():
        found = Store.open(Path(made.dataset))
        if damage := found.damage():
            raise DtrainError(damage)
        return found.x, found.y
    source = find(made.dataset)
    source.look(Label.of(made.label))
    found = gather(source)
    return found.x, found.y


def same(made: Made, name: str, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether x and y are what was there before the damage, or what another reader finds now."""

    def alike(a: np.ndarray, b: np.ndarray) -> bool:
        return a.size == b.size and np.array_equal(a.reshape(b.shape).astype(b.dtype), b)

    if alike(made.x, x) and alike(made.y, y):
        return True
    with np.errstate(all="ignore"):
        a, b = OTHERS[name](made)
        one_hot = b.ndim == 2 and y.ndim == 1  # few rows are left, with one label each
        return alike(a, x) and alike(b.argmax(1) if one_hot else b, y)


def run(name: str, count: int) -> int:  # in the main thread, for the alarm
    """Mutate the files of a format in turn; returns 1 where that went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="dtrain-formats-"))
    told: Counter[str] = Counter()
    slowest, wrong = 0.0, 0
    try:
        made = store(folder) if name == "store" else FORMATS[name](folder)
        # in turn: of a folder of images some
        files = [*made.files[:: max(1, len(made.files) // 6)]]
        whole = {file: file.read_bytes() for file in files}
        each = -(-count // len(files))
        taken(made)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for file in files:
            for number, (kind, data) in enumerate(mutate(whole[file], each)):
                file.write_bytes(data)
                begun = time.monotonic()
                try:
                    signal.alarm(60)
                    x, y = taken(made)
                    slowest = max(slowest, time.monotonic() - begun)
                    if not same(made, name, x, y):
                        raise AssertionError("other values than another reader finds")
                    told["taken"] += 1
                except DtrainError as error:
                    slowest = max(slowest, time.monotonic() - begun)
                    told["refused"] += 1
                    if "\n" in str(error) or len(str(error)) > 1500:
                        told["no sentence"] += 1
                        wrong += 1
                        print(f"{name}: {error!r}")
                except Exception:
                    told["wrong"] += 1
                    wrong += 1
                    print(f"{name}: {file.name} number {number}, {kind}:\n{traceback.format_exc()[-1500:]}")
            file.write_bytes(whole[file])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    finally:
        signal.alarm(0)
        shutil.rmtree(folder, ignore_errors=True)
    said = ", ".join(f"{n} {what}" for what, n in sorted(told.items()))
    more = f"slowest {slowest:.2f} s, {grown / 1e6:.0f} MB more"
    print(f"{name:10}{sum(told.values()):6} files: {said}; {more}")
    return int(wrong > 0 or slowest > SECONDS or grown > BYTES)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    names = sys.argv[2:] or [*OTHERS]
    if os.environ.get("DTRAIN_FORMATS_CHILD"):
        warnings.simplefilter("ignore")
        return run(names[0], count)
    bad = 0
    for name in names:
        child = [sys.executable, __file__, str(count), name]
        done = subprocess.run(child, env=os.environ | {"DTRAIN_FORMATS_CHILD": "1"}, check=False)
        if done.returncode not in (0, 1):
            print(f"{name}: its process ended with {done.returncode}")
        bad += done.returncode != 0
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
