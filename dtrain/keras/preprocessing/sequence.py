"""Sequences of one length, pairs of words that stand near one another, and windows of time series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.keras import utils
from dtrain.names import module_getattr

__all__ = ["TimeseriesGenerator", "make_sampling_table", "pad_sequences", "skipgrams"]

__getattr__ = module_getattr("tf.keras.preprocessing.sequence")


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """Sequences as rows of one length, by default that of the longest.

    padding, truncating: whether `value` is put, and entries are cut off, before ('pre') or after ('post').

    Raises:
        UsageError: padding or truncating is neither.
    """
    for name, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise UsageError(f"pad_sequences: {name}={given!r}: give 'pre' or 'post'.")
    rows = [np.asarray(s) for s in sequences]
    length = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    inner = next((row.shape[1:] for row in rows if len(row)), ())
    found = np.full((len(rows), length, *inner), value, dtype)
    for at, row in enumerate(rows):
        row = row[-length:] if truncating == "pre" else row[:length]
        if length and len(row):
            found[at, length - len(row) :] = row if padding == "pre" else 0
            if padding == "post":
                found[at, length - len(row) :] = value
                found[at, : len(row)] = row
    return found


def make_sampling_table(size: int, sampling_factor: float = 1e-5) -> np.ndarray:
    """How probably skipgrams keeps the word of each rank: common ones seldom (Mikolov et al. 2013).

    Words are numbered from the most common on, and come as often as Zipf's law says.

    Args:
        size: how many words.
        sampling_factor: smaller keeps fewer.

    Returns:
        numpy.ndarray: float64 [size], each at most 1.
    """
    rank = np.arange(size, dtype=np.float64)
    rank[:1] = 1
    share = sampling_factor * (rank * (np.log(rank) + 0.577) + 0.5 - 1 / (12 * rank))  # over its frequency
    return np.minimum(1, np.sqrt(share))


def skipgrams(
    sequence: Sequence[int],
    vocabulary_size: int,
    window_size: int = 4,
    negative_samples: float = 1.0,
    shuffle: bool = True,
    categorical: bool = False,
    sampling_table: Any = None,
    seed: int | None = None,
) -> tuple[list[list[int]], list[Any]]:
    """Pairs of a word and one near it, labelled 1, and pairs of a word and one drawn at random, labelled 0.

    Args:
        sequence: numbers of words; 0 is none.
        vocabulary_size: numbers are below it.
        window_size: words on each side that are near.
        negative_samples: random pairs for each near one.
        shuffle: whether the order is random.
        categorical: whether labels are [0, 1] and [1, 0].
        sampling_table: how probably each word is taken, such as make_sampling_table gives.
        seed: of what is drawn; by default NumPy's global random numbers continue.

    Returns:
        tuple: the pairs, and their labels.
    """
    draw: Any = np.random if seed is None else np.random.RandomState(seed)
    pairs = []
    for at, word in enumerate(sequence):
        if not word or (sampling_table is not None and sampling_table[word] < draw.random_sample()):
            continue
        for other in range(max(0, at - window_size), min(len(sequence), at + window_size + 1)):
            if other != at and sequence[other]:
                pairs.append([word, sequence[other]])
    labels: list[Any] = [[0, 1] if categorical else 1] * len(pairs)
    count = int(len(pairs) * negative_samples)
    if count:
        words = draw.permutation([word for word, _ in pairs]).tolist()
        others = draw.randint(1, vocabulary_size, count).tolist()
        pairs += [[words[i % len(words)], other] for i, other in enumerate(others)]
        labels += [[1, 0] if categorical else 0] * count
    if shuffle:
        order = draw.permutation(len(pairs))
        pairs, labels = [pairs[i] for i in order], [labels[i] for i in order]
    return pairs, labels


class TimeseriesGenerator(utils.Sequence):
    """Batches of windows of a series, each with the target of the entry after it.

    Args:
        data: the series, [n, ...].
        targets: as many.
        length: entries under a window.
        sampling_rate: distance of the entries that are taken of a window.
        stride: distance of two windows.
        start_index, end_index: the entries that windows lie on.
        shuffle: whether windows are drawn at random, by NumPy's global random numbers.
        reverse: whether windows are given from their last entry on.
        batch_size: windows of a batch.

    Raises:
        UsageError: there are more or fewer targets, or no window fits.
    """

    def __init__(
        self,
        data: Any,
        targets: Any,
        length: int,
        sampling_rate: int = 1,
        stride: int = 1,
        start_index: int = 0,
        end_index: int | None = None,
        shuffle: bool = False,
        reverse: bool = False,
        batch_size: int = 128,
    ) -> None:
        if len(data) != len(targets):
            raise UsageError(
                f"TimeseriesGenerator: {len(data)} entries and {len(targets)} targets: one each."
            )
        self.data, self.targets, self.length = np.asarray(data), np.asarray(targets), length
        self.sampling_rate, self.stride, self.batch_size = sampling_rate, stride, batch_size
        self.start_index = start_index + length
        self.end_index = len(data) - 1 if end_index is None else end_index
        self.shuffle, self.reverse = shuffle, reverse
        if self.start_index > self.end_index:
            raise UsageError(
                f"TimeseriesGenerator: length={length} from {start_index} on leaves no window up to entry "
                f"{self.end_index}: give a shorter length."
            )

    def __len__(self) -> int:
        step = self.batch_size * self.stride
        return (self.end_index - self.start_index + step) // step

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self.shuffle:
            rows = np.random.randint(self.start_index, self.end_index + 1, self.batch_size)
        else:
            first = self.start_index + self.batch_size * self.stride * index
            rows = np.arange(
                first, min(first + self.batch_size * self.stride, self.end_index + 1), self.stride
            )
        x = np.array([self.data[row - self.length : row : self.sampling_rate] for row in rows])
        return x[:, ::-1] if self.reverse else x, self.targets[rows]
