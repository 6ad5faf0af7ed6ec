"""Predictions in a file, a table by columns or an array: written in pieces, and there whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from dtrain.errors import EnvironmentProblem, UsageError
from dtrain.files import sync
from dtrain.hints import nearest, pip_install

#: The columns of a piece: by name, numbers or texts of the same length.
Columns = Mapping[str, Any]


class Writer:
    """Writes beside the file, and puts it in its place when all is there.

    Raises:
        EnvironmentProblem: it cannot be written.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        self._beside = path.with_name(f".{path.name}.tmp")
        with _told(path):
            self._beside.unlink(missing_ok=True)
            self.file: IO[bytes] = open(self._beside, "xb")  # noqa: SIM115 -- until close()

    def add(self, columns: Columns) -> None:
        """Write the next rows."""
        with _told(self.path):
            self._add(columns)

    def _add(self, columns: Columns) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        """What comes after the last row."""

    def close(self) -> None:
        """Put the file in its place."""
        with _told(self.path):
            self._end()
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self._beside, self.path)
            sync(self.path.resolve().parent)

    def drop(self) -> None:
        """Leave nothing."""
        with suppress(OSError):
            self._end()  # else a Parquet file ends itself when it goes, after the file it is in
        with suppress(OSError):
            self.file.close()
            self._beside.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong inside becomes an EnvironmentProblem that names the file."""
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"--to {path} cannot be written: {error.strerror or error}. Give another file."
        ) from None


class Csv(Writer):
    """A header, then a line a row; numbers as short as they are exact."""

    _begun = False

    def _add(self, columns: Columns) -> None:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        if not self._begun:
            lines.writerow(columns)
        self._begun = True
        lines.writerows(zip(*map(_texts, columns.values()), strict=True))
        self.file.write(text.getvalue().encode())


def _texts(column: Any) -> list[Any]:
    return [str(v) for v in column] if getattr(column, "dtype", None) == np.float32 else list(column)


class Npy(Writer):
    """One array: of one column [rows], of several of one dtype [rows, columns]."""

    _begun = False

    def _add(self, columns: Columns) -> None:
        numbers = [c for name, c in columns.items() if name != "row" and isinstance(c, np.ndarray)]
        array = np.stack(numbers, 1) if len(numbers) > 1 else numbers[0]
        if not self._begun:
            npy: Any = np.lib.format
            header = {
                "descr": npy.dtype_to_descr(array.dtype),
                "fortran_order": False,
                "shape": (self.rows, *array.shape[1:]),
            }
            npy.write_array_header_1_0(self.file, header)
        self._begun = True
        self.file.write(np.ascontiguousarray(array).data)


class Parquet(Writer):
    """Columns of numbers and texts, a group of rows a piece."""

    _table: Any = None

    def _add(self, columns: Columns) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
        if self._table is None:
            self._table = pyarrow.parquet.ParquetWriter(self.file, table.schema)
        self._table.write_table(table)

    def _end(self) -> None:
        if self._table is not None:
            self._table.close()


WRITERS: dict[str, type[Writer]] = {".csv": Csv, ".npy": Npy, ".parquet": Parquet}


def check(to: str) -> str:
    """The ending of a file's name; raises UsageError for one that is not written, or that cannot be here."""
    ending = Path(to).suffix.lower()
    if ending not in WRITERS:
        near = nearest(ending, WRITERS)
        hint = f"did you mean {near}?" if near else f"give a name that ends in {', '.join(WRITERS)}."
        raise UsageError(f"--to {to}: {hint}")
    if ending == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise EnvironmentProblem(
                f"--to {to}: a Parquet file needs the package pyarrow: {pip_install('pyarrow')}"
            ) from None
    if not Path(to).resolve().parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {Path(to).parent}: make it first.")
    return ending
