"""`dtrain data import`: a set is read once and kept as a store, which training maps from then on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dtrain.data import source_of, store
from dtrain.data.dataset import Split
from dtrain.data.readers.source import Source
from dtrain.data.store import Store
from dtrain.errors import DataError, UsageError


def import_set(said: str, to: Path, label: str = "", validation: str = "") -> Store:
    """Read a set and write its store to a folder, which must not be there, or be empty.

    said, label: what --dataset and --label are. validation: a share or a number of the training examples that
    are set aside, or ''.
    Raises:
        UsageError, DataError: nothing was written.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"--to {to}: is there already: give a new folder.")
    if not to.absolute().parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {to.absolute().parent}.")
    source = source_of(said, label)
    examples = HeldBack(source, _count(validation, source)) if validation else source
    try:
        store.write(to, examples)
    except OSError as error:
        raise DataError(store.sentence(error, to)) from None
    return Store.open(to)


def _count(validation: str, source: Source) -> int:
    whole, count = source.parts["train"], 0
    try:
        number = float(validation)
        count = int(number) if validation.isdecimal() else round(number * whole) if 0 < number < 1 else 0
    except (ValueError, OverflowError):
        pass
    if "validation" in source.parts:
        raise UsageError(
            f"--validation {validation}: {source.path} has {source.parts['validation']:,} validation "
            "examples; leave it out."
        )
    if not 0 < count < whole:
        raise UsageError(
            f"--validation {validation}: give a share between 0 and 1, or a number of examples from 1 to "
            f"{whole - 1:,}."
        )
    return count


class HeldBack:
    """The examples of a source where so many to train on are set aside: those that --validation takes."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.columns, self.about = source, source.columns, source.about
        whole = source.parts["train"]
        self.parts = {"train": whole - count, "validation": count}
        self.parts |= {part: n for part, n in source.parts.items() if part != "train"}
        self._held = Split(whole, count).rows(np.arange(whole - count, whole))

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """x and y in pieces: the source is read twice, since what is set aside lies after the rest."""
        whole = self.source.parts["train"]
        for held in (False, True):
            at = 0
            for x, y in self.source.rows():
                if at < whole:
                    mine = np.isin(np.arange(at, at + len(x)), self._held, assume_unique=True) == held
                    if mine.any():
                        yield x[mine], y[mine]
                elif held:
                    yield x, y
                else:
                    break
                at += len(x)
