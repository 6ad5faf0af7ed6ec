"""Tables in columns: .parquet, .arrow and .feather files, or a folder with train.parquet and so on.

Columns of numbers are the example, or one column of lists of numbers, all of one length. The extra `data` of
dtrain installs pyarrow, which is imported when such a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dtrain.data.readers.source import COLUMNS, Column, Label, Source, parts_in, per_piece, regular
from dtrain.data.readers.table import choose
from dtrain.errors import DataError, EnvironmentProblem


class Arrow(Source):
    """A file, or a folder of such."""

    table = True

    def __init__(self, path: Path) -> None:
        super().__init__(path, path.stem if path.suffix else "")
        self.paths = {"train": path}
        if path.is_dir():
            found = [parts_in(path, f"{{}}{suffix}") for suffix in COLUMNS]
            self.paths = {part: path / name for names in found for part, name in names.items()}
        self.files = [*self.paths.values()]
        self._tables: dict[str, _Table] = {}
        self._x: list[str] = []
        self._y: list[str] = []

    def look(self, label: Label) -> None:
        for part, path in self.paths.items():
            regular(path)
            table = _Table(path)
            first = next(iter(self._tables.values()), table)
            if table.names != first.names:
                raise DataError(
                    f"{path}: has the columns {', '.join(table.names)}, but {first.path.name} has "
                    f"{', '.join(first.names)}."
                )
            self._tables[part] = table
            self.parts[part] = table.rows
        if "train" not in self._tables:
            raise DataError(f"{self.path}: holds no training examples.")
        first = self._tables["train"]
        x, y = choose(first.path, first.names, label)
        self._x, self._y = [first.names[i] for i in x], [first.names[i] for i in y]
        for table in self._tables.values():
            for name in (*self._x, *self._y):
                table.check(name, name in self._y and len(self._y) == 1, len(self._x) == 1)
        self.x = Column("float32", (len(self._x),))
        if first.is_list(self._x[0]):
            piece = next(first.pieces(self._x, 1), None)
            if piece is None:
                raise DataError(f"{first.path}: holds no rows.")
            x_first = first.numbers(piece, self._x, 0)
            pixels = first.is_bytes(self._x[0])
            self.x = Column("uint8" if pixels else "float32", x_first.shape[1:])
        self.settle(label)

    def pieces(self, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        table, done = self._tables[part], 0
        for piece in table.pieces([*self._x, *self._y], per_piece(max(self.x.nbytes, 64))):
            x = table.numbers(piece, self._x, done)
            if x.shape[1:] != self.x.shape:
                raise DataError(
                    f"{table.path}: rows from {done} on, column {self._x[0]!r}: lists of {x.shape[1]} "
                    f"numbers, but of {self.x.shape[0]} in the first."
                )
            yield x, self._targets(table, piece, done)
            done += len(x)

    def only_targets(self, part: str) -> Iterator[np.ndarray]:
        table, done = self._tables[part], 0
        for piece in table.pieces(self._y, 1 << 16):
            raw = self._targets(table, piece, done)
            yield raw
            done += len(raw)

    def target_names(self) -> Sequence[str]:
        return self._y if len(self._y) > 1 else ()

    def place(self, part: str, row: int, cell: int = 0) -> str:
        name = self._x[cell] if len(self._x) > 1 else self._x[0]
        return f"{self._tables[part].path}: row {row}, counted from 0, column {name!r}"

    def place_of_target(self, part: str, row: int) -> str:
        names = ", ".join(map(repr, self._y))
        return f"{self._tables[part].path}: row {row}, counted from 0, column {names}"

    def _targets(self, table: _Table, piece: Any, done: int) -> np.ndarray:
        if len(self._y) == 1 and not table.is_number(self._y[0]) and not table.is_list(self._y[0]):
            return table.words(piece, self._y[0], done)
        y = table.numbers(piece, self._y, done)
        return y if len(self._y) > 1 or table.is_list(self._y[0]) else y[:, 0]


class _Table:
    """A file: the names and types of its columns, its rows in pieces."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.compute
            import pyarrow.ipc
            import pyarrow.parquet
        except ImportError:
            raise EnvironmentProblem(
                f"{path}: reading {path.suffix} needs pyarrow, which is not installed: pip install "
                "'dtrain[data]'."
            ) from None
        self.path, self._pa = path, pyarrow
        with self._guard():
            if path.suffix.lower() == ".parquet":
                with self._parquet() as file:
                    self.schema, self.rows = file.schema_arrow, file.metadata.num_rows
            else:
                with self._ipc() as file:
                    self.schema = file.schema
                    self.rows = sum(file.get_batch(i).num_rows for i in range(file.num_record_batches))
            self.names = [*self.schema.names]
        if len({*self.names}) < len(self.names):
            raise DataError(f"{path}: has two columns of one name.")

    # -- types -----------------------------------------------------------------------------------------
    def is_number(self, name: str) -> bool:
        return self._numeric(self.schema.field(name).type)

    def is_list(self, name: str) -> bool:
        kind, types = self.schema.field(name).type, self._pa.types
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return lists and self._numeric(kind.value_type)

    def is_bytes(self, name: str) -> bool:
        return self.is_list(name) and self._pa.types.is_uint8(self.schema.field(name).type.value_type)

    def check(self, name: str, words: bool, alone: bool) -> None:
        """Raise DataError where a column cannot be read; words, alone: what it may be besides numbers."""
        kind, types = self.schema.field(name).type, self._pa.types
        plain = kind.value_type if types.is_dictionary(kind) else kind
        text = types.is_string(plain) or types.is_large_string(plain)
        if self.is_number(name) or (words and text) or ((alone or words) and self.is_list(name)):
            return
        raise DataError(
            f"{self.path}: column {name!r} holds {kind}: give numbers, one list of numbers to each row, or "
            "words in the column of the target."
        )

    def _numeric(self, kind: Any) -> bool:
        types = self._pa.types
        return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)

    # -- rows ------------------------------------------------------------------------------------------
    def pieces(self, names: Sequence[str], rows: int) -> Iterator[Any]:
        """Record batches of some columns, of so many rows at most."""
        with self._guard():
            if self.path.suffix.lower() == ".parquet":
                with self._parquet() as file:
                    for piece in file.iter_batches(
                        rows, columns=list(dict.fromkeys(names)), use_threads=False
                    ):
                        piece.validate(full=True)
                        yield piece
                return
            with self._ipc() as file:
                for index in range(file.num_record_batches):
                    whole = file.get_batch(index).select(list(dict.fromkeys(names)))
                    whole.validate(full=True)
                    for at in range(0, whole.num_rows, rows):
                        yield whole.slice(at, rows)

    def numbers(self, piece: Any, names: Sequence[str], done: int) -> np.ndarray:
        """Columns of numbers, [rows, columns]; one of lists is [rows, their length]."""
        with self._guard():
            for name in names:
                self._refuse_nulls(piece.column(name), name, done)
            if self.is_list(names[0]):
                return self._lists(piece.column(names[0]), names[0], done)
            arrays = [piece.column(name).to_numpy(zero_copy_only=False) for name in names]
            common = np.result_type(*arrays)
            return np.stack([a.astype(common, copy=False) for a in arrays], axis=1)

    def _lists(self, column: Any, name: str, done: int) -> np.ndarray:
        pa = self._pa
        if not len(column):
            return np.empty((0, 1))
        lengths = pa.compute.list_value_length(column).to_numpy(zero_copy_only=False)
        if (lengths != lengths[0]).any():
            row = int(np.argmax(lengths != lengths[0]))
            raise DataError(
                f"{self.path}: row {done + row}, counted from 0, column {name!r}: holds {lengths[row]} "
                f"numbers, but {lengths[0]} in row {done}."
            )
        flat = column.flatten()
        self._refuse_nulls(flat, name, done, int(lengths[0]))
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), int(lengths[0]))

    def words(self, piece: Any, name: str, done: int) -> np.ndarray:
        """A column of words, [rows] (dtype object)."""
        with self._guard():
            self._refuse_nulls(piece.column(name), name, done)
            return np.array([*piece.column(name).to_pylist(), None], object)[:-1]

    def _refuse_nulls(self, column: Any, name: str, done: int, each: int = 1) -> None:
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))) // max(1, each)
            raise DataError(
                f"{self.path}: row {done + row}, counted from 0, column {name!r}: holds no value (null)."
            )

    # -- files -----------------------------------------------------------------------------------------
    @contextmanager
    def _parquet(self) -> Iterator[Any]:
        with self._pa.parquet.ParquetFile(self.path, buffer_size=1 << 16, pre_buffer=False) as file:
            yield file

    @contextmanager
    def _ipc(self) -> Iterator[Any]:
        with open(self.path, "rb") as start:
            if start.read(6) != b"ARROW1":
                raise ValueError("it does not begin as one")
        with self._pa.OSFile(str(self.path)) as data, self._pa.ipc.open_file(data) as file:
            yield file

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """What pyarrow makes of a damaged file becomes a DataError."""
        try:
            yield
        except DataError:
            raise
        except (self._pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(
                f"{self.path}: is damaged, cut short, or no {self.path.suffix} file ({said})."
            ) from None
