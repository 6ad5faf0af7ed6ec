"""CIFAR-10 and CIFAR-100, binary version: a byte or two of labels, then 32 x 32 pixels by channels.

The fine label of CIFAR-100 is used. Images are [32, 32, 3].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dtrain.data.readers.source import Column, Label, Source, names_in, per_piece, regular
from dtrain.errors import DataError

SIDE, CHANNELS = 32, 3
PIXELS = SIDE * SIDE * CHANNELS
TEN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
#: What the files of the two sets are called: to train on, to test on, names of classes; and bytes of labels.
LAYOUTS = {
    "cifar10": (TEN, "test_batch.bin", "batches.meta.txt", 1, 10),
    "cifar100": (("train.bin",), "test.bin", "fine_label_names.txt", 2, 100),
}


def layout(folder: Path) -> str:
    """Which of the two a folder looks like; '' where none."""
    names = {*names_in(folder)}
    return next((name for name, (train, *_) in LAYOUTS.items() if {*train} & names), "")


def pickled(folder: Path) -> bool:
    """Whether a folder holds the version for Python, which is a pickle."""
    names = {*names_in(folder)}
    return "data_batch_1" in names or {"train", "test", "meta"} <= {
        n for n in names if (folder / n).is_file()
    }


class Cifar(Source):
    """The files of a folder."""

    def __init__(self, folder: Path, name: str = "") -> None:
        super().__init__(folder, name)
        self.kind = layout(folder)
        train, test, meta, self._labels, self._count = LAYOUTS[self.kind]
        names = names_in(folder)
        if missing := [name for name in train if name not in names]:  # a test batch there need not be
            raise DataError(f"{folder}: {', '.join(missing)} of {self.kind} missing.")
        self._paths = {
            "train": [folder / name for name in train],
            "test": [folder / name for name in (test,) if name in names],
        }
        self._meta = folder / meta if meta in names else None
        self.files = [*self._paths["train"], *self._paths["test"], *([self._meta] if self._meta else [])]
        self.x = Column("uint8", (SIDE, SIDE, CHANNELS))

    def look(self, label: Label) -> None:
        row = self._labels + PIXELS
        for part, paths in self._paths.items():
            for path in paths:
                count, left = divmod(regular(path).st_size, row)
                if left or not count:
                    raise DataError(
                        f"{path}: is {path.stat().st_size:,} bytes long, which is not a multiple of the "
                        f"{row:,} of an example of {self.kind}: it is cut short, or none of its files."
                    )
                self.parts[part] = self.parts.get(part, 0) + count
        self.settle(label)

    def pieces(self, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in self._rows(part):
            pixels = rows[:, self._labels :].reshape(-1, CHANNELS, SIDE, SIDE)
            yield pixels.transpose(0, 2, 3, 1), rows[:, self._labels - 1]

    def only_targets(self, part: str) -> Iterator[np.ndarray]:
        done = 0
        for rows in self._rows(part):
            labels = rows[:, self._labels - 1]
            if (labels >= self._count).any():
                row = done + int(np.argmax(labels >= self._count))
                raise DataError(
                    f"{self.place(part, row)}: the label is {labels.max()}, expected 0 to {self._count - 1}."
                )
            yield labels
            done += len(rows)

    def target_names(self) -> Sequence[str]:
        if self._meta is None:
            return ()
        try:
            with open(self._meta, encoding="utf-8") as file:
                return file.read(1 << 16).split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self._meta}: cannot be read ({error}).") from None

    def place(self, part: str, row: int, cell: int = 0) -> str:
        for path in self._paths[part]:
            count = path.stat().st_size // (self._labels + PIXELS)
            if row < count:
                return f"{path}: example {row}, counted from 0"
            row -= count
        raise AssertionError(row)

    def _rows(self, part: str) -> Iterator[np.ndarray]:
        """Rows of bytes, labels first."""
        row = self._labels + PIXELS
        for path in self._paths[part]:
            left = path.stat().st_size // row
            try:
                with open(path, "rb") as file:
                    while left:
                        rows = np.empty((min(per_piece(row), left), row), np.uint8)
                        if file.readinto(rows.data.cast("B")) < rows.size:
                            raise DataError(f"{path}: was changed while it was read.")
                        left -= len(rows)
                        yield rows
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
