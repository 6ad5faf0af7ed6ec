"""tf.contrib.learn.datasets.base: tables in CSV files."""

from __future__ import annotations

import csv
import os
from typing import Any, NamedTuple

import numpy as np

from dtrain.errors import DataError

__all__ = ["Dataset", "Datasets", "load_csv_with_header", "load_csv_without_header", "maybe_download"]


class Dataset(NamedTuple):
    """Features [n, columns] and what is to be found of each row."""

    data: np.ndarray
    target: np.ndarray


class Datasets(NamedTuple):
    """The three parts of a data set."""

    train: Any
    validation: Any
    test: Any


def load_csv_with_header(
    filename: str, target_dtype: Any, features_dtype: Any, target_column: int = -1
) -> Dataset:
    """A table whose first line says how many rows and columns it has. Raises DataError."""
    _, *rows = _rows(filename)
    return _split(filename, rows, target_dtype, features_dtype, target_column)


def load_csv_without_header(
    filename: str, target_dtype: Any, features_dtype: Any, target_column: int = -1
) -> Dataset:
    """A table of numbers. Raises DataError."""
    return _split(filename, _rows(filename), target_dtype, features_dtype, target_column)


def maybe_download(filename: str, work_directory: str, source_url: str) -> str:
    """The path of a file that is there. Raises DataError, which says what to download, where it is not."""
    path = os.path.join(work_directory, filename)
    if not os.path.exists(path):
        raise DataError(f"{path} is missing: download {source_url} to it first.")
    return path


def _rows(filename: str) -> list[list[str]]:
    try:
        with open(filename, newline="") as file:
            return [row for row in csv.reader(file) if row]
    except OSError as error:
        raise DataError(f"{filename}: {error.strerror}.") from None


def _split(filename: str, rows: list[list[str]], target_dtype: Any, dtype: Any, column: int) -> Dataset:
    try:
        target = np.array([row.pop(column) for row in rows]).astype(target_dtype)
        return Dataset(np.array(rows).astype(dtype), target)
    except ValueError as error:
        raise DataError(f"{filename}: {error}.") from None
