"""Tables as text: a .csv with a header, or a folder with train.csv, and test.csv, validation.csv if any.

Numbers have a point and no other marks, whatever the locale; columns are separated by commas, semicolons or
tabs. The columns of --label are the target, all others the example, in the order of the header.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from dtrain.data.readers.source import Column, Label, Source, number, parts_in, per_piece, regular
from dtrain.data.readers.table import choose
from dtrain.errors import DataError

_T = TypeVar("_T")

MOST_LINE = 16 << 20  # characters


class Csv(Source):
    """A .csv, or a folder of such."""

    table = True

    def __init__(self, path: Path) -> None:
        super().__init__(path, path.stem if path.suffix else "")
        self.paths = (
            {part: path / name for part, name in parts_in(path, "{}.csv").items()}
            if path.is_dir()
            else {"train": path}
        )
        self.files = [*self.paths.values()]
        self._header: list[str] = []
        self._x: list[int] = []
        self._y: list[int] = []
        self._counts: dict[str, int] = {}

    def look(self, label: Label) -> None:
        for path in self.paths.values():
            regular(path)
            with _Rows(path) as rows:
                header = rows.header
                if not self._header:
                    self._header = header
                    self._x, self._y = choose(path, header, label)
                if header != self._header:
                    raise DataError(
                        f"{path}: has the columns {', '.join(header)}, but {self.files[0].name} has "
                        f"{', '.join(self._header)}."
                    )
        self.x = Column("float32", (len(self._x),))
        self.parts = dict.fromkeys(self.paths, 1)  # counted on the way
        self.settle(label)
        self.parts = {part: count for part, count in self._counts.items() if count}

    def pieces(self, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        many = per_piece(max(self.x.nbytes, 64))
        with _Rows(self.paths[part]) as rows:
            values, targets = array("d"), []
            for cells in rows.cells():
                try:
                    if any("_" in cells[i] for i in self._x):
                        raise ValueError
                    values.extend([float(cells[i]) for i in self._x])
                except ValueError:
                    self._refuse_cell(rows, cells)
                targets.append([cells[i] for i in self._y])
                if len(targets) == many:
                    yield self._piece(values, targets)
                    values, targets = array("d"), []
            if targets:
                yield self._piece(values, targets)

    def _piece(self, values: array[float], targets: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        x = np.frombuffer(values, np.float64).reshape(len(targets), len(self._x))
        return x, _objects(targets)

    def only_targets(self, part: str) -> Iterator[np.ndarray]:
        targets: list[list[str]] = []
        count = 0
        with _Rows(self.paths[part]) as rows:
            for cells in rows.cells():
                targets.append([cells[i] for i in self._y])
                count += 1
                if len(targets) == 1 << 16:
                    yield _objects(targets)
                    targets = []
        self._counts[part] = count
        if targets:
            yield _objects(targets)

    def target_names(self) -> Sequence[str]:
        return [self._header[i] for i in self._y] if len(self._y) > 1 else ()

    def place(self, part: str, row: int, cell: int = 0) -> str:
        return f"{self._row(part, row)}, column {self._header[self._x[cell]]!r}"

    def place_of_target(self, part: str, row: int) -> str:
        names = ", ".join(repr(self._header[i]) for i in self._y)
        return f"{self._row(part, row)}, column {names}"

    def _row(self, part: str, row: int) -> str:
        with _Rows(self.paths[part]) as rows:
            for index, _ in enumerate(rows.cells()):
                if index == row:
                    break
            return rows.here()

    def _refuse_cell(self, rows: _Rows, cells: list[str]) -> None:
        bad = next(i for i in self._x if number(cells[i]) != number(cells[i]))
        what = f"{cells[bad][:40]!r} is no number" if cells[bad].strip() else "is empty"
        hint = " (a decimal point, not a comma)" if "," in cells[bad] else ""
        raise DataError(f"{rows.here()}, column {self._header[bad]!r}: {what}{hint}.")


def _objects(targets: list[list[str]]) -> np.ndarray:
    whole = np.empty((len(targets), len(targets[0])), object)
    whole[:] = targets
    return whole[:, 0] if whole.shape[1] == 1 else whole


class _Rows:
    """The rows of a file, each checked to have as many cells as the header."""

    def __init__(self, path: Path) -> None:
        self.path, self._line = path, 0
        try:
            self._file = open(path, encoding="utf-8-sig", newline="")  # noqa: SIM115
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
        self._between = ","
        try:
            first = self._checked(lambda: next(self._lines(), ""))
            if "," not in first:
                self._between = ";" if ";" in first else "\t" if "\t" in first else ","
            self._file.seek(0)
            self._line = 0
            self._reader = csv.reader(self._lines(), delimiter=self._between, strict=True)
            self.header = [name.strip() for name in self._checked(lambda: next(self._reader, []))]
            self._check_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def here(self) -> str:
        return f"{self.path}: line {self._line}"

    def cells(self) -> Iterator[list[str]]:
        """The cells of each row; lines that are empty are passed over."""
        width = len(self.header)
        while (cells := self._checked(lambda: next(self._reader, None))) is not None:
            if len(cells) == width:
                yield cells
            elif cells:
                raise DataError(
                    f"{self.here()}: has {len(cells)} columns, expected the {width} of the header."
                )

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(MOST_LINE):
            self._line += 1
            if len(line) == MOST_LINE:
                raise DataError(f"{self.here()}: is longer than {MOST_LINE:,} characters.")
            yield line

    def _checked(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: after line {self._line} there is text that is no UTF-8.") from None
        except csv.Error as error:
            raise DataError(f"{self.here()}: is no row of a table ({error}).") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}).") from None

    def _check_header(self) -> None:
        if not self.header:
            raise DataError(f"{self.path}: is empty: its first line has to name the columns.")
        if all(number(name) == number(name) for name in self.header):
            raise DataError(
                f"{self.path}: begins with numbers ({', '.join(self.header[:4])}): its first line has to "
                "name the columns."
            )
        for index, name in enumerate(self.header):
            if not name:
                raise DataError(f"{self.path}: column {index + 1} has no name in the first line.")
            if name in self.header[:index]:
                raise DataError(f"{self.path}: has two columns called {name!r}.")
