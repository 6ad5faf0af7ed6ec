"""Readers: a file of each is one format. find() says whose a path is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dtrain.data.readers import idx
from dtrain.data.readers.source import COLUMNS, Source, names_in, parts_in
from dtrain.errors import DataError

#: What --dataset takes besides names.
TAKEN = (
    "a folder of IDX files, of CIFAR's binary files, of images in a folder for each class, or one that "
    "`dtrain data import` wrote; an .npz, .csv, .parquet, .arrow or .feather file, a folder that holds "
    "train.csv (.parquet, ...) and test.csv, or x.npy,y.npy"
)


def find(said: str) -> Source:
    """The reader of a file, a folder or two files with a comma between. Nothing has been read yet.

    Raises:
        DataError: there is no such thing, or nothing that dtrain reads.
    """
    path = Path(said)
    if not os.path.lexists(path) and said.count(",") == 1:
        pair = [Path(part.strip()) for part in said.split(",")]
        if all(part.suffix.lower() == ".npy" for part in pair):
            for part in pair:
                if not part.is_file():
                    raise DataError(f"--dataset {said!r}: there is no file {part}.")
            return _npy(*pair)
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise DataError(
            f"--dataset {said!r}: there is no such file or folder. Pass auto, mnist, fashion-mnist, kmnist, "
            "cifar10, cifar100, synthetic, or a file or folder of data."
        )
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _npy(path)
    if suffix in (".csv", ".tsv"):
        return _csv(path)
    if suffix in COLUMNS:
        return _arrow(path)
    if suffix == ".npy":
        raise DataError(f"--dataset {said!r}: give the targets as well: --dataset {said},y.npy")
    if idx.NAME.fullmatch(path.name) or suffix in (".bin", ".png", ".jpg"):
        raise DataError(f"--dataset {said!r} is one file of a set: name its folder.")
    raise DataError(
        f"--dataset {said!r} is a file of no kind that dtrain reads. It takes {TAKEN}. Other data is for "
        "fit of dt.keras, or a task of your own."
    )


def _of_folder(path: Path) -> Source:
    from dtrain.data.readers import cifar, images

    found: dict[str, Callable[[Path], Source]] = {}
    if idx.find(path):
        found["IDX files"] = idx.Idx
    if cifar.layout(path):
        found["CIFAR's files"] = cifar.Cifar
    if parts_in(path, "{}.csv"):
        found["tables as text"] = _csv
    if any(parts_in(path, f"{{}}{suffix}") for suffix in COLUMNS):
        found["tables in columns"] = _arrow
    if any(name.endswith(".npy") for name in names_in(path)):
        found[".npy files"] = _npy
    if not found and images.parts_of(path):
        found["images"] = images.Images
    if len(found) > 1:
        raise DataError(f"{path}: holds {' and '.join(found)}: put one set into a folder.")
    for reader in found.values():
        return reader(path)
    if cifar.pickled(path):
        raise DataError(
            f"{path}: holds CIFAR's version for Python, which is pickled; nothing is unpickled. Get the "
            "binary version, or type --dataset cifar10 or cifar100 on a machine with a network."
        )
    suffixes = (".npz", ".csv", ".tsv", *COLUMNS)
    if file := next((name for name in names_in(path) if name.lower().endswith(suffixes)), ""):
        raise DataError(f"{path}: is no set by itself; name a file in it, such as --dataset {path / file}")
    raise DataError(f"{path}: holds no data that dtrain reads. It takes {TAKEN}.")


# a start imports no more than the reader that it needs
def _npy(*paths: Path) -> Source:
    from dtrain.data.readers.npy import Npy

    return Npy(*paths)


def _csv(path: Path) -> Source:
    from dtrain.data.readers.csv import Csv

    return Csv(path)


def _arrow(path: Path) -> Source:
    from dtrain.data.readers.arrow import Arrow

    return Arrow(path)
