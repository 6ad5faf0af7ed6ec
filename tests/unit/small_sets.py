"""A small set in each format that dtrain reads, and what has to be read from it."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

TRAIN, TEST = 60, 21


class Made(NamedTuple):
    """A set: what --dataset and --label are, its files, and what is in it, training examples first."""

    dataset: str
    label: str
    files: Sequence[Path]
    x: np.ndarray
    y: np.ndarray
    parts: dict[str, int]
    kind: str = "classes"
    classes: Sequence[str] = ()


def _labels(classes: int, count: int = TRAIN + TEST) -> np.ndarray:
    return (np.arange(count) * 7 % classes).astype(np.uint8)


def _pixels(*shape: int) -> np.ndarray:
    """Images that can be learned: a bright row says the class."""
    labels, rng = _labels(3), np.random.default_rng(0)
    x = rng.integers(0, 60, (TRAIN + TEST, *shape), np.uint8)
    for image, label in zip(x, labels, strict=True):
        image[2 * label : 2 * label + 2] += 150
    return x


def idx_bytes(array: np.ndarray) -> bytes:
    """An array as an IDX file."""
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, x: np.ndarray, y: np.ndarray, train: int = TRAIN, gz: bool = True) -> list[Path]:
    """Four files of MNIST's names, or two where there are no examples to test on."""
    folder.mkdir(exist_ok=True)
    words = {"u1": "ubyte", "i1": "byte", "i2": "short", "i4": "int", "f4": "float", "f8": "double"}
    files = []
    for stem, rows in (("train", slice(0, train)), ("t10k", slice(train, None))):
        for what, array in (("images", x[rows]), ("labels", y[rows])):
            if len(array):
                name = f"{stem}-{what}-idx{array.ndim}-{words[array.dtype.str[1:]]}"
                data = idx_bytes(array)
                files.append(folder / (name + ".gz" * gz))
                files[-1].write_bytes(gzip.compress(data, 1, mtime=0) if gz else data)
    return files


def idx(folder: Path, gz: bool = True) -> Made:
    x, y = _pixels(28, 28), _labels(3)
    files = write_idx(folder / f"idx{gz}", x, y, gz=gz)
    return Made(str(folder / f"idx{gz}"), "", files, x, y, {"train": TRAIN, "test": TEST}, classes="012")


def npz(folder: Path) -> Made:
    rng = np.random.default_rng(1)
    y = _labels(6)
    x = rng.normal(size=(TRAIN + TEST, 128, 9)) + y[:, None, None]
    path = folder / "series.npz"
    np.savez_compressed(path, x_train=x[:TRAIN], y_train=y[:TRAIN], x_test=x[TRAIN:], y_test=y[TRAIN:])
    return Made(str(path), "", [path], x, y, {"train": TRAIN, "test": TEST}, classes="012345")


def npy(folder: Path) -> Made:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(TRAIN, 5)).astype(np.float32)
    y = x @ np.arange(5, dtype=np.float32)
    files = [folder / "features.npy", folder / "goals.npy"]
    for file, array in zip(files, (x, y), strict=True):
        np.save(file, array)
    return Made(",".join(map(str, files)), "", files, x, y, {"train": TRAIN}, "numbers")


def csv(folder: Path) -> Made:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(TRAIN + TEST, 4)).astype(np.float32)
    y = (x @ np.array([1, -2, 3, 0.5]) + 1).astype(np.float32)
    place = folder / "houses"
    place.mkdir()
    files = []
    for name, rows in (("train", slice(0, TRAIN)), ("test", slice(TRAIN, None))):
        cells = np.insert(x[rows], 2, y[rows], axis=1)
        lines = [",".join(f"{cell:.9g}" for cell in row) for row in cells]
        files.append(place / f"{name}.csv")
        files[-1].write_text("\n".join(["area,rooms,price,age,floor", *lines, ""]))
    return Made(str(place), "price", files, x, y, {"train": TRAIN, "test": TEST}, "numbers")


def tags(folder: Path) -> Made:
    """Several labels to an example."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(TRAIN, 3)).astype(np.float32)
    y = (x > 0).astype(np.uint8)
    path = folder / "tags.csv"
    lines = [";".join(map(str, (*map(float, a), *b))) for a, b in zip(x, y, strict=True)]
    path.write_text("a;b;c;red;green;blue\n" + "\n".join(lines) + "\n")
    names = ("red", "green", "blue")
    return Made(str(path), "red,green,blue", [path], x, y, {"train": TRAIN}, "labels", names)


def parquet(folder: Path, suffix: str = "parquet") -> Made:
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    y = _labels(3, TRAIN)
    x = (np.random.default_rng(5).normal(size=(TRAIN, 4)) + 2 * y[:, None]).astype(np.float32)
    names = np.array(["setosa", "versicolor", "virginica"])
    table = pa.table({f"c{i}": x[:, i] for i in range(4)} | {"species": names[y]})
    path = folder / f"iris.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=25)
    else:
        pyarrow.feather.write_feather(table, path, chunksize=25)
    return Made(str(path), "species", [path], x, y, {"train": TRAIN}, classes=[*names])


def images(folder: Path) -> Made:
    from PIL import Image

    x, y, names = _pixels(8, 12, 3), _labels(3), ["bird", "cat", "dog"]
    place, files, order = folder / "pets", [], []
    for part, rows in (("train", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        for label, name in enumerate(names):
            (place / part / name).mkdir(parents=True)
            for row in (r for r in rows if y[r] == label):
                files.append(place / part / name / f"{row:03}.png")
                Image.fromarray(x[row]).save(files[-1])
                order.append(row)
    return Made(str(place), "", files, x[order], y[order], {"train": TRAIN, "test": TEST}, classes=names)


def cifar(folder: Path) -> Made:
    x, y = _pixels(32, 32, 3), _labels(3)
    place = folder / "cifar"
    place.mkdir()
    rows = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], 1).astype(np.uint8)
    files = [place / f"data_batch_{i}.bin" for i in range(1, 6)] + [place / "test_batch.bin"]
    for file, part in zip(files, [*np.split(rows[:TRAIN], 5), rows[TRAIN:]], strict=True):
        file.write_bytes(part.tobytes())
    (place / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n")
    names = ["airplane", "automobile", "bird"]
    return Made(str(place), "", files, x, y, {"train": TRAIN, "test": TEST}, classes=names)


#: Format -> what makes a set of it in a folder; and what has to be installed for it.
FORMATS: dict[str, Callable[[Path], Made]] = {
    "idx.gz": idx,
    "idx": lambda folder: idx(folder, gz=False),
    "npz": npz,
    "npy": npy,
    "csv": csv,
    "tags.csv": tags,
    "parquet": parquet,
    "arrow": lambda folder: parquet(folder, "arrow"),
    "images": images,
    "cifar": cifar,
}
NEEDS = {"parquet": "pyarrow", "arrow": "pyarrow", "images": "PIL"}


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    """A zip file, which may hold names that no good one has."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()
