"""Examples in batches under TensorFlow 1's names: what a program's own training loop takes them from."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dtrain import comm as communicators
from dtrain.comm.base import Communicator
from dtrain.data import load
from dtrain.data.addresses import FOLDERS
from dtrain.data.dataset import Dataset
from dtrain.data.order import epoch_order
from dtrain.data.readers import idx
from dtrain.errors import UsageError
from dtrain.graph.dtypes import as_dtype
from dtrain.graph.graph import get_default_graph
from dtrain.runtime.batch import Batch


class DataSet:
    """Images and labels, and the batches of one epoch after another.

    The order of an epoch is a function of (seed, epoch) alone: the k-th batch holds the same examples on any
    number of ranks. Images are kept as uint8 and converted when they are handed out.

    Args:
        pixels: uint8 [n, height, width]; labels: uint8 [n], below classes.
        one_hot: labels as rows of float64 with a single 1.
        dtype: float32 for images from 0 to 1, uint8 for 0 to 255.
        reshape: images as [n, height * width] instead of [n, height, width, 1].
        seed: not negative.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        *,
        one_hot: bool,
        dtype: str,
        reshape: bool,
        seed: int,
        classes: int = 10,
    ) -> None:
        n, height, width = pixels.shape
        self._pixels = pixels.reshape((n, height * width) if reshape else (n, height, width, 1))
        self._classes = labels
        self._rows = np.eye(classes) if one_hot else None
        self._dtype = dtype
        self._seed = seed
        self._images: Batch | None = None
        self._order = np.empty(0, np.int32)
        self._position = 0
        self._epochs_completed = 0
        self._lock = threading.RLock()  # each batch goes to one thread

    @property
    def num_examples(self) -> int:
        return len(self._classes)

    @property
    def epochs_completed(self) -> int:
        """Epochs before the one of the last example that next_batch handed out."""
        return self._epochs_completed

    @property
    def images(self) -> Batch:
        """All images, in the order of the files."""
        if self._images is None:  # made when asked for: four times the memory of the pixels
            self._images = self._scaled(self._pixels)
        return self._images

    @property
    def labels(self) -> Batch:
        """All labels, in the order of the files."""
        return self._encoded(self._classes)

    def next_batch(
        self, batch_size: int, fake_data: bool = False, shuffle: bool = True
    ) -> tuple[Batch, Batch]:
        """(images, labels) of the next batch_size examples; a batch may end in the epoch after its first.

        shuffle: whether an epoch that this call begins is shuffled, or in the order of the files.

        Raises:
            UsageError: batch_size is not positive, fake_data is asked for, or there are no examples.
        """
        if fake_data:
            raise UsageError("next_batch: dtrain has no fake_data; dt.zeros or numpy make some.")
        if batch_size < 1 or not self.num_examples:
            raise UsageError(f"next_batch: cannot take {batch_size} of {self.num_examples} examples.")
        parts, wanted = [], batch_size
        with self._lock:
            while wanted:
                if self._position == len(self._order):
                    self._begin_epoch(shuffle)
                part = self._order[self._position : self._position + wanted]
                self._position += len(part)
                wanted -= len(part)
                parts.append(part)
        chosen = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return self._scaled(self._pixels[chosen]), self._encoded(self._classes[chosen])

    def _begin_epoch(self, shuffle: bool) -> None:
        self._epochs_completed += len(self._order) > 0
        examples = range(self.num_examples)
        # epochs count from 1, as the trainer's do: the same seed gives the same batches
        order = epoch_order(self._seed, self._epochs_completed + 1, examples)
        self._order = order if shuffle else np.arange(self.num_examples, dtype=np.int32)
        self._position = 0

    def _scaled(self, pixels: np.ndarray) -> Batch:
        if self._dtype == "uint8":
            return pixels.view(Batch)
        images = pixels.astype(np.float32)
        images *= np.float32(1 / 255)
        return images.view(Batch)

    def _encoded(self, classes: np.ndarray) -> Batch:
        return (classes if self._rows is None else self._rows[classes]).view(Batch)


class DataSets(NamedTuple):
    """The three parts of a data set."""

    train: DataSet
    validation: DataSet
    test: DataSet

    def __getattr__(self, name: str) -> Any:
        hint = f": take that of a part, such as data.train.{name}" if hasattr(DataSet, name) else ""
        raise AttributeError(f"'DataSets' has no {name}{hint}.", name=name)


def read_data_sets(
    train_dir: str,
    fake_data: bool = False,
    one_hot: bool = False,
    dtype: Any = "float32",
    reshape: bool = True,
    validation_size: int = 5000,
    seed: int | None = None,
    source_url: str | None = None,
    *,
    comm: Communicator | None = None,
) -> DataSets:
    """MNIST from train_dir where its four files are there, else as --dataset mnist finds it. Collective.

    Args:
        one_hot: labels as rows of 10 instead of numbers from 0 to 9.
        dtype: float32 (images from 0 to 1) or uint8 (0 to 255).
        reshape: images as rows of 784 pixels instead of [28, 28, 1].
        validation_size: training examples set aside, the first ones.
        seed: of the shuffling; by default the graph's (set_random_seed), or one drawn for all ranks.
        source_url: one of MNIST's own addresses, whose files are found as without it.
        comm: the ranks, by default all.

    Raises:
        DataError: the files are damaged, or MNIST is not there and cannot be downloaded.
        UsageError: an argument has a value that dtrain does not know.
    """
    comm = comm or communicators.world()
    kind = as_dtype(dtype).name
    if fake_data:
        raise UsageError("read_data_sets: dtrain has no fake_data; leave it out.")
    if source_url and not any(folder in source_url for folder in FOLDERS):
        raise UsageError(
            f"read_data_sets: dtrain does not load {source_url}: put its four files into {train_dir} and "
            "leave source_url out."
        )
    if kind not in ("float32", "uint8"):
        raise UsageError(f"read_data_sets: dtype is {kind}; it has to be float32 or uint8.")
    data = _load(train_dir, comm)
    if not 0 <= validation_size <= len(data.train):
        raise UsageError(
            f"read_data_sets: validation_size is {validation_size}; it has to be 0 to {len(data.train)}."
        )
    shuffling = _seed(seed, comm)

    def part(start: int, stop: int) -> DataSet:
        return DataSet(
            data.x[start:stop],
            data.y[start:stop],
            one_hot=one_hot,
            dtype=kind,
            reshape=reshape,
            seed=shuffling,
            classes=len(data.classes),
        )

    held_out = data.train.start + validation_size
    return DataSets(
        train=part(held_out, data.train.stop),
        validation=part(data.train.start, held_out),
        test=part(data.test.start, data.test.stop),
    )


def _load(folder: str, comm: Communicator) -> Dataset:
    """From the folder where every rank finds all four files in it; from where MNIST usually is otherwise."""
    path = Path(folder)
    complete = path.is_dir() and len(idx.find(path)) == len(idx.FILES)
    everywhere = comm.allreduce(np.array([complete], np.int64), "min")[0]
    return load(folder if everywhere else "mnist", comm)


def _seed(seed: int | None, comm: Communicator) -> int:
    if seed is None:
        seed = get_default_graph().seed
    if seed is None:
        seed = int(comm.broadcast(np.array([secrets.randbits(62)], np.int64))[0])
    if seed < 0:
        raise UsageError(f"read_data_sets: seed is {seed}; it must not be negative.")
    return seed
